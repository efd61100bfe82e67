//! Certificates and keys: where they come from, and what is wrong with them.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_platform_verifier::Verifier;

use super::super::credentials::{CredentialsError, SecurityError};
use super::super::file::{FileError, Unread, WatchedFile};
use super::{cannot_be_set_up, sentence};

/// A PEM text.
#[derive(Clone)]
pub(super) enum Material {
    Given(Pem),
    File(WatchedFile<Vec<u8>>),
}

/// What a PEM text is.
pub(super) type Pem = Arc<Vec<u8>>;

impl Material {
    pub(super) fn given(pem: impl Into<Vec<u8>>) -> Self {
        Self::Given(Arc::new(pem.into()))
    }

    pub(super) fn file(path: impl AsRef<Path>) -> Self {
        Self::File(WatchedFile::new(path.as_ref(), PEM_BYTES_MAX, Ok))
    }

    pub(super) fn is_file(&self) -> bool {
        matches!(self, Self::File(_))
    }

    /// Blocks, for five seconds at most.
    pub(super) fn read_blocking(&self) -> Result<Pem, CredentialsError> {
        match self {
            Self::Given(pem) => Ok(pem.clone()),
            Self::File(file) => file.get_blocking().map_err(|it| unreadable(file, &it.error)),
        }
    }

    /// The text as it is now. Where it cannot be read, the last that was, and why.
    pub(super) async fn read(&self) -> Result<(Pem, Option<FileError>), CredentialsError> {
        match self {
            Self::Given(pem) => Ok((pem.clone(), None)),
            Self::File(file) => match file.get().await {
                Ok(pem) => Ok((pem, None)),
                Err(Unread { error, last_good: Some(pem) }) => Ok((pem, Some(error))),
                Err(Unread { error, last_good: None }) => Err(unreadable(file, &error)),
            },
        }
    }
}

fn unreadable(file: &WatchedFile<Vec<u8>>, error: &FileError) -> CredentialsError {
    CredentialsError::Unreadable { path: file.path().display().to_string(), reason: error.reason() }
}

impl fmt::Display for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(_) => f.write_str("the PEM text"),
            Self::File(file) => file.path().display().fmt(f),
        }
    }
}

/// Certificates of those who may issue servers' certificates.
#[derive(Clone)]
pub(super) struct Roots(pub(super) Material);

impl Roots {
    pub(super) fn parse(&self, pem: &[u8]) -> Result<RootCertStore, CredentialsError> {
        let mut roots = RootCertStore::empty();
        for (nth, certificate) in certificates(pem, &self.0)?.into_iter().enumerate() {
            roots.add(certificate).map_err(|error| CredentialsError::InvalidCertificate {
                origin: self.0.to_string(),
                number: nth + 1,
                reason: sentence::of_error(&error),
            })?;
        }
        Ok(roots)
    }
}

/// Whose signatures count.
#[derive(Clone)]
pub(super) struct Anchors {
    pub(super) base: Base,
    /// These as well.
    pub(super) extra: Option<Roots>,
}

/// The roots that others may be added to.
#[derive(Clone)]
pub(super) enum Base {
    Platform,
    #[cfg(feature = "webpki-roots")]
    Mozilla,
    Given(Roots),
}

impl Base {
    pub(super) fn given(&self) -> Option<&Roots> {
        match self {
            Self::Given(roots) => Some(roots),
            Self::Platform => None,
            #[cfg(feature = "webpki-roots")]
            Self::Mozilla => None,
        }
    }
}

impl Anchors {
    /// Judges by these roots, of which `base` and `extra` are the PEM texts as they are now. Reads
    /// the platform's, which are files on most systems.
    pub(super) fn verifier(
        &self,
        base: Option<&Pem>,
        extra: Option<&Pem>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Arc<dyn ServerCertVerifier>, SecurityError> {
        let mut roots = RootCertStore::empty();
        if let (Base::Given(given), Some(pem)) = (&self.base, base) {
            roots.extend(given.parse(pem).map_err(cannot_be_set_up)?.roots);
        }
        #[cfg(feature = "webpki-roots")]
        if let Base::Mozilla = self.base {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        if let Base::Platform = self.base {
            let extra = match (&self.extra, extra) {
                (Some(extra), Some(pem)) => {
                    certificates(pem, &extra.0).map_err(cannot_be_set_up)?
                }
                _ => Vec::new(),
            };
            let verifier = Verifier::new_with_extra_roots(extra, provider).map_err(|error| {
                let text = format!("the platform's root certificates cannot be used: {error}");
                SecurityError::new(text).with_source(error)
            })?;
            return Ok(Arc::new(verifier));
        }
        if let (Some(extra), Some(pem)) = (&self.extra, extra) {
            roots.extend(extra.parse(pem).map_err(cannot_be_set_up)?.roots);
        }
        let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider);
        Ok(verifier.build().map_err(cannot_be_set_up)?)
    }
}

impl fmt::Display for Anchors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.base {
            Base::Platform => f.write_str("the platform's roots")?,
            #[cfg(feature = "webpki-roots")]
            Base::Mozilla => f.write_str("Mozilla's roots")?,
            Base::Given(roots) => write!(f, "the roots in {}", roots.0)?,
        }
        match &self.extra {
            Some(extra) => write!(f, " and those in {}", extra.0),
            None => Ok(()),
        }
    }
}

/// What a client shows of itself.
#[derive(Clone)]
pub(super) struct Identity {
    pub(super) chain: Material,
    pub(super) key: Material,
}

impl Identity {
    pub(super) fn parse(
        &self,
        chain: &[u8],
        key: &[u8],
        provider: &CryptoProvider,
    ) -> Result<SingleCertAndKey, CredentialsError> {
        let chain = certificates(chain, &self.chain)?;
        let invalid_key =
            |reason: String| CredentialsError::InvalidKey { origin: self.key.to_string(), reason };
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| match error {
            pem::Error::NoItemsFound => {
                invalid_key("there is none in it: expected PEM, -----BEGIN PRIVATE KEY-----".into())
            }
            other => invalid_key(other.to_string()),
        })?;
        let certified = CertifiedKey::from_der(chain, key, provider);
        let certified = certified.map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                invalid_key(format!("it does not belong to the certificate in {}", self.chain))
            }
            other => invalid_key(sentence::of_error(&other)),
        })?;
        Ok(SingleCertAndKey::from(certified))
    }
}

/// The certificates in a PEM text, of which there must be one at least.
fn certificates(
    pem: &[u8],
    origin: &Material,
) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    let mut found = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        found.push(certificate.map_err(|error| CredentialsError::InvalidCertificate {
            origin: origin.to_string(),
            number: found.len() + 1,
            reason: error.to_string(),
        })?);
    }
    if found.is_empty() {
        return Err(CredentialsError::NoCertificate { origin: origin.to_string() });
    }
    Ok(found)
}

/// 16 MiB: many times what all the roots of a platform come to.
const PEM_BYTES_MAX: u64 = 16 * 1024 * 1024;
