//! TLS, over rustls.

mod foreign;
mod material;
mod proven;
mod sentence;

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::ClientConfig;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use crate::observe::{Certificate, Log, TlsReport, Trouble};
use crate::types::Authority;

use super::aside::Aside;
use super::connect::Io;
use super::credentials::{CredentialsError, SecurityError};
use super::error::in_words;
use super::file::FileError;

use foreign::ForeignVerifier;
use material::{Anchors, Base, Identity, Material, Pem, Roots};
use proven::Judge;
pub(super) use proven::Proven;
pub(super) use sentence::of_io_error;

/// What TLS goes by: whom it trusts, who the server must prove to be, and who this client is.
///
/// TLS 1.3 and 1.2 are spoken; HTTP/2 must be agreed on (ALPN `h2`). Sessions are resumed between
/// the connections of a channel.
///
/// What comes from files is read when it is given, so that a mistake shows at once, and again for
/// each new connection: certificates can be rotated under a channel that runs. Connections that are
/// open stay as they are. Where the files are unreadable, or do not fit each other, at such a
/// moment, the last ones that did are used on, and a warning is logged. They must be regular files
/// of at most 16 MiB. One that does not answer within five seconds is unreadable, and is not asked
/// again before it has.
#[derive(Clone, Default)]
pub struct TlsConfig {
    trust: Trust,
    identity: Option<Identity>,
    /// What was read when it was given.
    first: Contents,
    server_name: Option<String>,
}

/// Who judges the certificates of servers.
#[derive(Clone)]
enum Trust {
    Roots(Anchors),
    Verifier(Arc<dyn ServerCertVerifier>),
    /// All is as the application has it.
    Own(Arc<ClientConfig>),
}

impl Default for Trust {
    fn default() -> Self {
        Self::Roots(Anchors { base: Base::Platform, extra: None })
    }
}

impl TlsConfig {
    /// Trusts the roots that the platform trusts, which are read when the first connection is
    /// made. Servers must prove to be the host of the channel's authority.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts the certificates in this PEM text, and no others. Other sections are passed over.
    ///
    /// Fails if there is none in it, or one that cannot be a root.
    pub fn roots_pem(self, pem: impl Into<Vec<u8>>) -> Result<Self, CredentialsError> {
        self.roots(Roots(Material::given(pem)))
    }

    /// As [`roots_pem`](Self::roots_pem), from a file.
    pub fn roots_file(self, path: impl AsRef<Path>) -> Result<Self, CredentialsError> {
        self.roots(Roots(Material::file(path)))
    }

    /// Trusts the roots of Mozilla that are compiled in, and no others: where the platform has none,
    /// as in a container without any files. They are as old as the program.
    #[cfg(feature = "webpki-roots")]
    pub fn webpki_roots(mut self) -> Self {
        self.trust = Trust::Roots(Anchors { base: Base::Mozilla, extra: None });
        self.first.roots = None;
        self.first.extra = None;
        self
    }

    /// Trusts the certificates in this PEM text in addition to the roots that are trusted so far: the
    /// platform's, unless others were given. Given twice, the last counts.
    ///
    /// Fails if there is none in it, one that cannot be a root, or where a verifier of your own
    /// judges servers, who knows of no roots.
    pub fn extra_roots_pem(self, pem: impl Into<Vec<u8>>) -> Result<Self, CredentialsError> {
        self.extra_roots(Roots(Material::given(pem)))
    }

    /// As [`extra_roots_pem`](Self::extra_roots_pem), from a file.
    pub fn extra_roots_file(self, path: impl AsRef<Path>) -> Result<Self, CredentialsError> {
        self.extra_roots(Roots(Material::file(path)))
    }

    /// Shows servers that ask for one this certificate: PEM texts of the certificate with those
    /// between it and the root, and of its private key (PKCS #8, PKCS #1 or SEC 1).
    ///
    /// Fails if either cannot be read, or they do not belong together.
    pub fn client_certificate_pem(
        self,
        chain: impl Into<Vec<u8>>,
        key: impl Into<Vec<u8>>,
    ) -> Result<Self, CredentialsError> {
        self.identity(Identity { chain: Material::given(chain), key: Material::given(key) })
    }

    /// As [`client_certificate_pem`](Self::client_certificate_pem), from files.
    pub fn client_certificate_files(
        self,
        chain: impl AsRef<Path>,
        key: impl AsRef<Path>,
    ) -> Result<Self, CredentialsError> {
        self.identity(Identity { chain: Material::file(chain), key: Material::file(key) })
    }

    /// The name, `host` or `host:port`, that servers are addressed by and that their certificates
    /// must be for, in place of the target's.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Lets a verifier of your own judge servers, in place of any roots. Dangerous: one that does
    /// less than it should lets anybody pose as the server. The trait is that of rustls 0.23.
    ///
    /// A call whose authority has another host than the channel's asks it once more, for that
    /// name, with the certificates of the connection that the call goes to and without an OCSP
    /// response. It is asked on the caller's task and must not block; its answer is remembered for
    /// the connection.
    pub fn dangerous_verifier(mut self, verifier: Arc<dyn ServerCertVerifier>) -> Self {
        self.trust = Trust::Verifier(ForeignVerifier::around(verifier));
        self
    }

    pub(super) fn name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    /// All is as this configuration of rustls has it, with HTTP/2 as the protocol where it names
    /// none.
    pub(super) fn own(config: Arc<ClientConfig>) -> Result<Self, CredentialsError> {
        let offered = &config.alpn_protocols;
        let config = if offered.is_empty() {
            let mut config = ClientConfig::clone(&config);
            config.alpn_protocols = vec![HTTP_2.to_vec()];
            Arc::new(config)
        } else if offered.iter().any(|protocol| protocol == HTTP_2) {
            config
        } else {
            let shown = offered.iter().map(|it| it.escape_ascii().to_string());
            return Err(CredentialsError::NoHttp2 { offered: shown.collect() });
        };
        Ok(Self { trust: Trust::Own(config), ..Self::default() })
    }

    fn roots(mut self, roots: Roots) -> Result<Self, CredentialsError> {
        let pem = roots.0.read_blocking()?;
        roots.parse(&pem)?;
        self.first.roots = Some(pem);
        self.first.extra = None;
        self.trust = Trust::Roots(Anchors { base: Base::Given(roots), extra: None });
        Ok(self)
    }

    fn extra_roots(mut self, roots: Roots) -> Result<Self, CredentialsError> {
        let Trust::Roots(anchors) = &mut self.trust else {
            return Err(CredentialsError::RootsBesideVerifier);
        };
        let pem = roots.0.read_blocking()?;
        roots.parse(&pem)?;
        anchors.extra = Some(roots);
        self.first.extra = Some(pem);
        Ok(self)
    }

    fn identity(mut self, identity: Identity) -> Result<Self, CredentialsError> {
        let (chain, key) = (identity.chain.read_blocking()?, identity.key.read_blocking()?);
        identity.parse(&chain, &key, &provider())?;
        self.first.identity = Some((chain, key));
        self.identity = Some(identity);
        Ok(self)
    }
}

impl fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let trust = self.trust.to_string();
        let identity = self.identity.as_ref().map(|identity| identity.chain.to_string());
        f.debug_struct("TlsConfig")
            .field("trust", &trust)
            .field("client_certificate", &identity)
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Roots(anchors) => anchors.fmt(f),
            Self::Verifier(_) => f.write_str("what a verifier of the application accepts"),
            Self::Own(_) => f.write_str("what a configuration of the application accepts"),
        }
    }
}

/// TLS to servers of one name.
pub(crate) struct Tls {
    sources: Arc<TlsConfig>,
    server_name: ServerName<'static>,
    /// Made for the first connection. Shared by all connections, so that they resume each other's
    /// sessions, until a file has changed.
    current: Mutex<Option<Current>>,
    /// Makes a configuration. The platform's roots are files too, which may hang.
    making: Aside<Result<Current, SecurityError>>,
    log: Arc<Log>,
}

/// What rustls goes by, and what that was made of.
#[derive(Clone)]
struct Current {
    contents: Contents,
    config: Arc<ClientConfig>,
}

/// The texts that a configuration is made of, as they were read.
#[derive(Clone, Default, PartialEq, Eq)]
struct Contents {
    roots: Option<Pem>,
    extra: Option<Pem>,
    identity: Option<(Pem, Pem)>,
}

impl Tls {
    pub(super) fn new(
        config: &TlsConfig,
        authority: &Authority,
        log: Arc<Log>,
    ) -> Result<Self, CredentialsError> {
        let host = authority.host();
        let server_name = ServerName::try_from(host.to_owned())
            .map_err(|_| CredentialsError::InvalidServerName { name: host.to_owned() })?;
        Ok(Self {
            sources: Arc::new(config.clone()),
            server_name,
            current: Mutex::default(),
            making: Aside::new(MAKING_TIMEOUT),
            log,
        })
    }

    pub(super) async fn handshake(&self, io: Io) -> Result<Io, SecurityError> {
        let connector = TlsConnector::from(self.config().await?);
        let connecting = connector.connect(self.server_name.clone(), io);
        let stream = connecting.await.map_err(|error| self.handshake_failed(error))?;
        match stream.get_ref().1.alpn_protocol() {
            Some(HTTP_2) => Ok(Io::from(stream)),
            other => Err(no_http_2(other)),
        }
    }

    /// What the server of `io` has proved, whose handshake is done.
    pub(super) fn proven(&self, io: &Io) -> Proven {
        let judge = match &self.sources.trust {
            Trust::Roots(_) | Trust::Own(_) => Judge::Certificate,
            Trust::Verifier(verifier) => Judge::Verifier(verifier.clone()),
        };
        Proven::new(self.server_name.clone(), io.certificates().to_vec(), judge)
    }

    /// Where the certificate is not accepted, also says what would be.
    fn handshake_failed(&self, error: io::Error) -> SecurityError {
        let text = match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                "the server closed the connection in the middle".to_owned()
            }
            _ => of_io_error(&error).unwrap_or_else(|| in_words(&error)),
        };
        let (name, trust) = (self.server_name.to_str(), &self.sources.trust);
        let wanted = if sentence::is_of_certificate(&error) {
            format!("; wanted is `{name}`, and trusted is {trust}")
        } else {
            String::new()
        };
        SecurityError::new(format!("TLS handshake: {text}{wanted}")).with_source(error)
    }

    /// The configuration for a new connection: a new one if a file has changed.
    async fn config(&self) -> Result<Arc<ClientConfig>, SecurityError> {
        let current = self.current();
        if let Some(current) = &current
            && !self.sources.has_files()
        {
            return Ok(current.config.clone());
        }
        let mut unread = None;
        let renewed = self.renewed(current.as_ref(), &mut unread).await;
        let origins = self.sources.origins();
        match (&renewed, &unread) {
            (Ok(_), None) => {
                self.log.recovers(Trouble::TlsFiles, &origins);
            }
            (Ok(_), Some(error)) => self.log.fails(Trouble::TlsFiles, &origins, error),
            (Err(error), _) => self.log.fails(Trouble::TlsFiles, &origins, error),
        }
        let made = match renewed {
            Err(error) => match self.last(current).await {
                Some(last) => Ok(last),
                None => Err(error),
            },
            made => made,
        };
        let next = made?;
        let config = next.config.clone();
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(next);
        Ok(config)
    }

    /// What is to be gone by now: `current` if nothing has changed.
    async fn renewed(
        &self,
        current: Option<&Current>,
        unread: &mut Option<FileError>,
    ) -> Result<Current, SecurityError> {
        let mut contents = self.read(unread).await?;
        for _ in 0..READINGS {
            if let Some(current) = current.filter(|current| current.contents == contents) {
                return Ok(current.clone());
            }
            let made = self.make(contents.clone()).await;
            let again = match &made {
                Ok(_) => return made,
                // Perhaps one of two files was read before both were replaced, the other after.
                Err(_) => self.read(unread).await?,
            };
            if again == contents {
                return made;
            }
            contents = again;
        }
        Err(SecurityError::new("TLS cannot be set up: the files change all the time"))
    }

    /// What the files hold. One that cannot be read is taken as it last was.
    async fn read(&self, unread: &mut Option<FileError>) -> Result<Contents, SecurityError> {
        let (contents, fault) = self.sources.read().await.map_err(cannot_be_set_up)?;
        *unread = fault;
        Ok(contents)
    }

    /// What was gone by last: before the first connection, what was read when the files were given.
    async fn last(&self, current: Option<Current>) -> Option<Current> {
        match current {
            Some(current) => Some(current),
            None if self.sources.has_files() => self.make(self.sources.first.clone()).await.ok(),
            None => None,
        }
    }

    async fn make(&self, contents: Contents) -> Result<Current, SecurityError> {
        let sources = self.sources.clone();
        let make = move || {
            let config = sources.make(&contents)?;
            Ok(Current { contents, config })
        };
        self.making.run(make).await.unwrap_or_else(|fault| {
            Err(SecurityError::new(format!("TLS cannot be set up: reading roots: {fault}")))
        })
    }

    fn current(&self) -> Option<Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What a session is protected with.
pub(super) fn report(session: &rustls::ClientConnection) -> Option<TlsReport> {
    let version = session.protocol_version()?.as_str()?.to_owned();
    let suite = session.negotiated_cipher_suite()?.suite();
    let suite = suite.as_str().map_or_else(|| format!("{suite:?}"), str::to_owned);
    // The engine's names of those of TLS 1.3 are its own.
    let cipher_suite = match suite.strip_prefix("TLS13_") {
        Some(suite) => format!("TLS_{suite}"),
        None => suite,
    };
    let certificate = session.peer_certificates().and_then(|chain| chain.first());
    let certificate = certificate.map(|it| Certificate::new(it.as_ref().into()));
    Some(TlsReport { version, cipher_suite, certificate })
}

impl TlsConfig {
    fn has_files(&self) -> bool {
        self.materials().any(Material::is_file)
    }

    /// All PEM texts that it is made of.
    fn materials(&self) -> impl Iterator<Item = &Material> {
        let roots = match &self.trust {
            Trust::Roots(anchors) => [anchors.base.given(), anchors.extra.as_ref()],
            Trust::Verifier(_) | Trust::Own(_) => [None, None],
        };
        let roots = roots.into_iter().flatten().map(|roots| &roots.0);
        roots.chain(self.identity.iter().flat_map(|it| [&it.chain, &it.key]))
    }

    /// Reads what there is to read; also why a file could not be read, which is taken as it last
    /// was.
    async fn read(&self) -> Result<(Contents, Option<FileError>), CredentialsError> {
        let (mut contents, mut unread) = (Contents::default(), None);
        if let Trust::Roots(Anchors { base, extra }) = &self.trust {
            for (roots, read) in
                [(base.given(), &mut contents.roots), (extra.as_ref(), &mut contents.extra)]
            {
                if let Some(roots) = roots {
                    let (pem, fault) = roots.0.read().await?;
                    *read = Some(pem);
                    unread = unread.or(fault);
                }
            }
        }
        if let Some(Identity { chain, key }) = &self.identity {
            let ((chain, no_chain), (key, no_key)) = tokio::try_join!(chain.read(), key.read())?;
            contents.identity = Some((chain, key));
            unread = unread.or(no_chain).or(no_key);
        }
        Ok((contents, unread))
    }

    /// The names of the files, for people.
    fn origins(&self) -> String {
        let files = self.materials().filter(|it| it.is_file());
        files.map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    fn make(&self, contents: &Contents) -> Result<Arc<ClientConfig>, SecurityError> {
        let provider = Arc::new(provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(cannot_be_set_up)?;
        let verifier = match &self.trust {
            Trust::Own(config) => return Ok(config.clone()),
            Trust::Verifier(verifier) => verifier.clone(),
            Trust::Roots(anchors) => {
                let Contents { roots, extra, .. } = contents;
                anchors.verifier(roots.as_ref(), extra.as_ref(), provider.clone())?
            }
        };
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let mut config = match (&self.identity, &contents.identity) {
            (Some(identity), Some((chain, key))) => {
                let certified = identity.parse(chain, key, &provider).map_err(cannot_be_set_up)?;
                builder.with_client_cert_resolver(Arc::new(certified))
            }
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![HTTP_2.to_vec()];
        Ok(Arc::new(config))
    }
}

fn cannot_be_set_up(error: impl std::error::Error + Send + Sync + 'static) -> SecurityError {
    SecurityError::new(format!("TLS cannot be set up: {error}")).with_source(error)
}

#[cfg(feature = "tls")]
fn provider() -> CryptoProvider {
    rustls::crypto::aws_lc_rs::default_provider()
}

#[cfg(not(feature = "tls"))]
fn provider() -> CryptoProvider {
    rustls::crypto::ring::default_provider()
}

fn no_http_2(agreed: Option<&[u8]>) -> SecurityError {
    let agreed = match agreed {
        Some(other) => format!("agreed to `{}`", other.escape_ascii()),
        None => "agreed to no protocol".to_owned(),
    };
    SecurityError::new(format!(
        "TLS handshake: the server does not offer HTTP/2 (ALPN `h2`): it {agreed}"
    ))
}

const HTTP_2: &[u8] = b"h2";

/// Longer than it takes to read the platform's roots, and less than a connection attempt may take.
const MAKING_TIMEOUT: Duration = Duration::from_secs(5);

/// How often files that do not fit each other are read while they change.
const READINGS: u32 = 3;
