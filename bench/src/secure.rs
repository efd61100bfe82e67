//! Certificates for the cases over TLS, made for one run.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The name that the server's certificate is for.
pub(crate) const SERVER_NAME: &str = "localhost";

const ROOTS: &str = "roots.pem";
const CHAIN: &str = "chain.pem";
const KEY: &str = "key.pem";

/// A folder with what both sides need, which goes with this.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn make() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("switchboard-bench-{}", std::process::id()));
        let folder = Self(path);
        folder.fill().context("making certificates")?;
        Ok(folder)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    fn fill(&self) -> Result<()> {
        let mut params = CertificateParams::new([])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let key = KeyPair::generate()?;
        let certificate =
            CertificateParams::new([SERVER_NAME.to_owned()])?.signed_by(&key, &issuer)?;
        fs::create_dir_all(&self.0)?;
        fs::write(self.0.join(ROOTS), issuer.pem())?;
        fs::write(self.0.join(CHAIN), certificate.pem())?;
        fs::write(self.0.join(KEY), key.serialize_pem())?;
        Ok(())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left in the system's temporary folder does no harm.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The certificate that clients are to trust.
pub(crate) fn roots(folder: &Path) -> PathBuf {
    folder.join(ROOTS)
}

/// How the server secures its connections.
pub(crate) fn server_config(folder: &Path) -> Result<Arc<ServerConfig>> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(folder.join(CHAIN))?.collect();
    let key = PrivateKeyDer::from_pem_file(folder.join(KEY))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain?, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}
