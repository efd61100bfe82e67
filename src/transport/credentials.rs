//! What secures a connection: the step between a dialled stream of bytes and HTTP/2.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use crate::observe::Log;
use crate::types::{Address, Authority, Foreign, SecurityLevel};

use super::call_credentials::{AllCallCredentials, CallCredentials};
use super::connect::Io;
use super::error::ConnectFault;
#[cfg(feature = "_tls")]
use super::tls::{Proven, Tls, TlsConfig};

/// How connections are secured, for all calls of a channel.
#[derive(Clone, Debug)]
pub struct Credentials {
    kind: Kind,
    calls: AllCallCredentials,
}

#[derive(Clone, Debug)]
enum Kind {
    Insecure,
    Local,
    #[cfg(feature = "_tls")]
    Tls(TlsConfig),
}

impl Credentials {
    /// TLS, with the roots that the platform trusts. Servers must prove to be the target's host.
    #[cfg(feature = "_tls")]
    pub fn tls() -> Self {
        Self::tls_with(TlsConfig::new())
    }

    /// TLS, with roots or a server name of your own.
    #[cfg(feature = "_tls")]
    pub fn tls_with(config: TlsConfig) -> Self {
        Self::of(Kind::Tls(config))
    }

    /// TLS as this configuration of rustls 0.23 has it: roots or verifier, client certificate, key
    /// log, resumption and versions are yours. Where it names no protocols (ALPN), `h2` is put in;
    /// one that names others without `h2` is an error.
    ///
    /// A call whose authority has another host than the channel's goes only to servers whose own
    /// certificate is for that host, whatever the configuration accepts.
    #[cfg(feature = "_tls")]
    pub fn rustls(config: impl Into<Arc<rustls::ClientConfig>>) -> Result<Self, CredentialsError> {
        TlsConfig::own(config.into()).map(Self::tls_with)
    }

    /// No security, on connections that do not leave the machine: to loopback addresses and Unix
    /// sockets. A connection to anywhere else fails.
    pub fn local() -> Self {
        Self::of(Kind::Local)
    }

    /// No security: whoever sits on the network reads and changes everything.
    pub fn insecure() -> Self {
        Self::of(Kind::Insecure)
    }

    /// The same, with credentials that every call is sent with, beside those that were added before
    /// and its own.
    pub fn with_call_credentials(mut self, credentials: impl CallCredentials) -> Self {
        self.calls = self.calls.with(Arc::new(credentials));
        self
    }

    fn of(kind: Kind) -> Self {
        Self { kind, calls: AllCallCredentials::default() }
    }

    /// What every call is sent with.
    pub(crate) fn call_credentials(&self) -> &AllCallCredentials {
        &self.calls
    }

    /// The authority that these credentials are for, where they say one.
    pub(crate) fn authority(&self) -> Option<&str> {
        match &self.kind {
            Kind::Insecure | Kind::Local => None,
            #[cfg(feature = "_tls")]
            Kind::Tls(config) => config.name(),
        }
    }

    /// Gets ready to secure connections to `authority`.
    #[cfg_attr(
        not(feature = "_tls"),
        expect(unused_variables, reason = "they matter to TLS alone")
    )]
    pub(crate) fn prepare(
        &self,
        authority: &Authority,
        log: &Arc<Log>,
    ) -> Result<Security, CredentialsError> {
        let wants_security = |credentials: &Foreign<Arc<dyn CallCredentials>>| {
            let level = credentials.call(|credentials| credentials.min_security_level());
            // Calls will meet the panic again, and say so.
            level.is_ok_and(|level| level > SecurityLevel::None)
        };
        if matches!(self.kind, Kind::Insecure) && self.calls.iter().any(wants_security) {
            return Err(CredentialsError::InsecureChannel);
        }
        Ok(match &self.kind {
            Kind::Insecure => Security::Insecure,
            Kind::Local => Security::Local,
            #[cfg(feature = "_tls")]
            Kind::Tls(config) => Security::Tls(Tls::new(config, authority, log.clone())?),
        })
    }
}

/// [`Credentials`] that are ready for use, once for all connections of a channel.
pub(crate) enum Security {
    Insecure,
    Local,
    #[cfg(feature = "_tls")]
    Tls(Tls),
}

impl Security {
    /// The `:scheme` of requests on such connections.
    pub(crate) fn scheme(&self) -> http::uri::Scheme {
        match self {
            Self::Insecure | Self::Local => http::uri::Scheme::HTTP,
            #[cfg(feature = "_tls")]
            Self::Tls(_) => http::uri::Scheme::HTTPS,
        }
    }

    /// How `io` is protected once it is secured.
    pub(crate) fn level(&self, io: &Io) -> SecurityLevel {
        match self {
            Self::Insecure => SecurityLevel::None,
            // Who can listen in on loopback is a matter of the machine's rights, as in grpc-go.
            Self::Local if io.is_unix() => SecurityLevel::PrivacyAndIntegrity,
            Self::Local => SecurityLevel::None,
            #[cfg(feature = "_tls")]
            Self::Tls(_) => SecurityLevel::PrivacyAndIntegrity,
        }
    }

    /// What the server of `io` has proved, once that is secured.
    #[cfg_attr(
        not(feature = "_tls"),
        expect(unused_variables, reason = "without TLS nothing is proved")
    )]
    pub(crate) fn proof(&self, io: &Io) -> Proof {
        match self {
            Self::Insecure | Self::Local => Proof::Nothing,
            #[cfg(feature = "_tls")]
            Self::Tls(tls) => Proof::Certificate(tls.proven(io)),
        }
    }

    /// Secures `io`, which was dialled to `address`.
    ///
    /// The caller bounds it by the connect deadline. Dropping the future gives it up.
    #[cfg_attr(
        not(feature = "_tls"),
        expect(clippy::unused_async, reason = "a handshake waits for the peer; these have none")
    )]
    pub(crate) async fn handshake(&self, io: Io, address: &Address) -> Result<Io, ConnectFault> {
        match self {
            Self::Insecure => Ok(io),
            Self::Local if io.is_local() => Ok(io),
            Self::Local => Err(ConnectFault::NotSecured(SecurityError::new(format!(
                "local credentials are for loopback addresses and Unix sockets, and {address} is \
                 neither"
            )))),
            #[cfg(feature = "_tls")]
            Self::Tls(tls) => tls.handshake(io).await.map_err(ConnectFault::NotSecured),
        }
    }
}

/// What the handshake of one connection has proved of the server's name.
pub(crate) enum Proof {
    /// Nothing: whoever answers is taken for the server, by any name.
    Nothing,
    /// What its certificate is for.
    #[cfg(feature = "_tls")]
    Certificate(Proven),
}

impl Proof {
    /// Says, in a sentence, why the server must not be addressed by `authority`, unless it may.
    #[cfg_attr(
        not(feature = "_tls"),
        expect(
            unused_variables,
            clippy::unnecessary_wraps,
            reason = "without TLS nothing is proved"
        )
    )]
    pub(crate) fn check(&self, authority: &Authority) -> Result<(), Arc<str>> {
        match self {
            Self::Nothing => Ok(()),
            #[cfg(feature = "_tls")]
            Self::Certificate(proven) => proven.check(authority),
        }
    }

    /// Whether there is any.
    pub(crate) fn is_some(&self) -> bool {
        !matches!(self, Self::Nothing)
    }
}

/// Why a connection could not be secured, as a sentence, and what that came from.
#[derive(Clone, Debug)]
pub(crate) struct SecurityError {
    sentence: String,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

impl SecurityError {
    pub(super) fn new(sentence: impl Into<String>) -> Self {
        Self { sentence: sentence.into(), source: None }
    }

    pub(super) fn with_source(mut self, source: impl Error + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }
}

impl fmt::Display for SecurityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl Error for SecurityError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// Credentials cannot be used: what is wrong with them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CredentialsError {
    /// A file cannot be read.
    Unreadable {
        /// Which.
        path: String,
        /// Why.
        reason: String,
    },
    /// Where a certificate was expected, there is none in PEM.
    NoCertificate {
        /// What was read: a file's name, or what stands for a text that was given.
        origin: String,
    },
    /// A certificate cannot be used.
    InvalidCertificate {
        /// What was read.
        origin: String,
        /// Which certificate in it, from 1.
        number: usize,
        /// Why.
        reason: String,
    },
    /// The private key of a client certificate cannot be used.
    InvalidKey {
        /// What was read.
        origin: String,
        /// Why.
        reason: String,
    },
    /// Roots are to be added to what a verifier of the application's own accepts.
    RootsBesideVerifier,
    /// A configuration of rustls names protocols, and HTTP/2 is none of them.
    NoHttp2 {
        /// Those that it names.
        offered: Vec<String>,
    },
    /// The host of the authority is no name that a certificate could be for.
    InvalidServerName {
        /// The host.
        name: String,
    },
    /// Every call is to be sent with credentials that want security, on plaintext connections.
    InsecureChannel,
    /// The builder's authority and the server name of the credentials have different hosts.
    AuthorityMismatch {
        /// What the builder says.
        authority: String,
        /// What the credentials say.
        server_name: String,
    },
}

impl fmt::Display for CredentialsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, reason } => write!(f, "cannot read {path}: {reason}"),
            Self::NoCertificate { origin } => write!(
                f,
                "there is no certificate in {origin}: expected PEM, -----BEGIN CERTIFICATE-----"
            ),
            Self::InvalidCertificate { origin, number, reason } => {
                write!(f, "certificate {number} in {origin} cannot be used: {reason}")
            }
            Self::InvalidKey { origin, reason } => {
                write!(f, "the private key in {origin} cannot be used: {reason}")
            }
            Self::RootsBesideVerifier => f.write_str(
                "roots cannot be added where a verifier of the application judges servers: let it \
                 know them, or leave it out",
            ),
            Self::NoHttp2 { offered } => write!(
                f,
                "the configuration of rustls offers {} and not h2: leave `alpn_protocols` empty, or \
                 put `h2` in",
                offered.join(", ")
            ),
            Self::InvalidServerName { name } => write!(
                f,
                "`{name}` is no name that a certificate could be for: expected a DNS name or an \
                 IP address; give the server's with TlsConfig::server_name"
            ),
            Self::InsecureChannel => f.write_str(
                "the channel's call credentials want security, and its connections have none: use \
                 Credentials::tls()",
            ),
            Self::AuthorityMismatch { authority, server_name } => write!(
                f,
                "the authority is `{authority}` and the server name of the credentials \
                 `{server_name}`: give one of them, or the same host in both"
            ),
        }
    }
}

impl Error for CredentialsError {}
