//! TLS, over rustls.

mod sentence;

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;

use crate::types::Authority;

use super::connect::Io;
use super::credentials::{CredentialsError, SecurityError};
use super::error::in_words;

pub(super) use sentence::of_io_error;

/// What TLS goes by: whom it trusts, and who the server must prove to be.
///
/// TLS 1.3 and 1.2 are spoken; HTTP/2 must be agreed on (ALPN `h2`). Sessions are resumed between
/// the connections of a channel.
#[derive(Clone, Default)]
pub struct TlsConfig {
    /// The platform's, where there are none.
    roots: Option<Arc<RootCertStore>>,
    server_name: Option<String>,
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
    pub fn roots_pem(self, pem: impl AsRef<[u8]>) -> Result<Self, CredentialsError> {
        self.roots_from(pem.as_ref(), "the PEM text")
    }

    /// As [`roots_pem`](Self::roots_pem), from a file, which is read now.
    pub fn roots_file(self, path: impl AsRef<Path>) -> Result<Self, CredentialsError> {
        let path = path.as_ref();
        let pem = std::fs::read(path).map_err(|error| CredentialsError::Unreadable {
            path: path.display().to_string(),
            reason: in_words(&error),
        })?;
        self.roots_from(&pem, &path.display().to_string())
    }

    /// The name, `host` or `host:port`, that servers are addressed by and that their certificates
    /// must be for, in place of the target's.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    pub(super) fn name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    fn roots_from(mut self, pem: &[u8], origin: &str) -> Result<Self, CredentialsError> {
        let mut roots = RootCertStore::empty();
        for (nth, certificate) in CertificateDer::pem_slice_iter(pem).enumerate() {
            let invalid = |reason| CredentialsError::InvalidCertificate {
                origin: origin.to_owned(),
                number: nth + 1,
                reason,
            };
            let certificate = certificate.map_err(|error| invalid(error.to_string()))?;
            roots.add(certificate).map_err(|error| invalid(sentence::of_error(&error)))?;
        }
        if roots.is_empty() {
            return Err(CredentialsError::NoCertificate { origin: origin.to_owned() });
        }
        self.roots = Some(Arc::new(roots));
        Ok(self)
    }
}

impl fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roots = match &self.roots {
            Some(roots) => format!("{} given", roots.len()),
            None => "the platform's".to_owned(),
        };
        f.debug_struct("TlsConfig")
            .field("roots", &roots)
            .field("server_name", &self.server_name)
            .finish()
    }
}

/// TLS to servers of one name.
pub(crate) struct Tls {
    roots: Option<Arc<RootCertStore>>,
    server_name: ServerName<'static>,
    /// Made for the first connection: the platform's roots are files. Shared by all connections,
    /// so that they resume each other's sessions.
    config: OnceCell<Arc<ClientConfig>>,
}

impl Tls {
    pub(super) fn new(config: &TlsConfig, authority: &Authority) -> Result<Self, CredentialsError> {
        let host = authority.host();
        let server_name = ServerName::try_from(host.to_owned())
            .map_err(|_| CredentialsError::InvalidServerName { name: host.to_owned() })?;
        Ok(Self { roots: config.roots.clone(), server_name, config: OnceCell::new() })
    }

    pub(super) async fn handshake(&self, io: Io) -> Result<Io, SecurityError> {
        let config = self.config.get_or_try_init(|| client_config(self.roots.clone())).await?;
        let connecting =
            TlsConnector::from(Arc::clone(config)).connect(self.server_name.clone(), io);
        let stream = connecting.await.map_err(handshake_failed)?;
        match stream.get_ref().1.alpn_protocol() {
            Some(HTTP_2) => Ok(Io::from(stream)),
            other => Err(no_http_2(other)),
        }
    }
}

async fn client_config(
    roots: Option<Arc<RootCertStore>>,
) -> Result<Arc<ClientConfig>, SecurityError> {
    let Some(roots) = roots else {
        let making = tokio::task::spawn_blocking(|| make_config(None));
        return making.await.map_err(|_| SecurityError::new("TLS setup was stopped"))?;
    };
    make_config(Some(roots))
}

fn make_config(roots: Option<Arc<RootCertStore>>) -> Result<Arc<ClientConfig>, SecurityError> {
    let failed = |error: rustls::Error| {
        SecurityError::new(format!("TLS cannot be set up: {error}")).with_source(error)
    };
    let provider = Arc::new(provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(failed)?;
    let builder = match roots {
        Some(roots) => {
            let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider)
                .build()
                .map_err(|error| failed(rustls::Error::General(error.to_string())))?;
            builder.with_webpki_verifier(verifier)
        }
        None => builder.with_platform_verifier().map_err(|error| {
            let text = format!("the platform's root certificates cannot be used: {error}");
            SecurityError::new(text).with_source(error)
        })?,
    };
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = vec![HTTP_2.to_vec()];
    Ok(Arc::new(config))
}

#[cfg(feature = "tls")]
fn provider() -> CryptoProvider {
    rustls::crypto::aws_lc_rs::default_provider()
}

#[cfg(not(feature = "tls"))]
fn provider() -> CryptoProvider {
    rustls::crypto::ring::default_provider()
}

fn handshake_failed(error: io::Error) -> SecurityError {
    let text = match error.kind() {
        io::ErrorKind::UnexpectedEof => "the server closed the connection in the middle".to_owned(),
        _ => of_io_error(&error).unwrap_or_else(|| in_words(&error)),
    };
    SecurityError::new(format!("TLS handshake: {text}")).with_source(error)
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
