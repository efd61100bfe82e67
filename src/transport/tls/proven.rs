//! What the certificate of a connection proves beyond the name that the handshake was for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::client::danger::ServerCertVerifier;
use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;

use crate::types::Authority;

use super::sentence;

/// The names that the server of one connection has proved to be.
///
/// The handshake has judged the certificate, for one name. For another name only that name is
/// looked for in the same certificate: it may have expired since, and roots may have been replaced,
/// without an effect on connections that are open. A verifier of the application's own is asked
/// again, since only it knows what it takes as proof of a name.
pub(crate) struct Proven {
    /// The name that the handshake was for.
    name: ServerName<'static>,
    /// The server's certificate, and those between it and the root.
    chain: Vec<CertificateDer<'static>>,
    judge: Judge,
    /// What was found of other names.
    verdicts: Mutex<HashMap<ServerName<'static>, Verdict>>,
}

/// Who knows what names a certificate is for.
pub(super) enum Judge {
    /// The certificate itself.
    Certificate,
    Verifier(Arc<dyn ServerCertVerifier>),
}

/// Why a name is not proved, as a sentence.
type Verdict = Result<(), Arc<str>>;

impl Proven {
    pub(super) fn new(
        name: ServerName<'static>,
        chain: Vec<CertificateDer<'static>>,
        judge: Judge,
    ) -> Self {
        Self { name, chain, judge, verdicts: Mutex::default() }
    }

    /// Says why the server has not proved to be the host of `authority`, unless it has.
    pub(crate) fn check(&self, authority: &Authority) -> Verdict {
        let host = authority.host();
        let Ok(name) = ServerName::try_from(host.to_owned()) else {
            return Err(format!("`{host}` is not a name that a certificate could be for").into());
        };
        if name == self.name {
            return Ok(());
        }
        if let Some(known) = self.verdicts().get(&name) {
            return known.clone();
        }
        // Not under the lock: the verifier may be the application's.
        let verdict = self.judge(&name);
        let mut verdicts = self.verdicts();
        if verdicts.len() >= NAMES_MAX {
            verdicts.clear();
        }
        verdicts.insert(name, verdict.clone());
        verdict
    }

    fn judge(&self, name: &ServerName<'_>) -> Verdict {
        let judged = match (self.chain.split_first(), &self.judge) {
            (None, _) => Err(rustls::Error::NoCertificatesPresented),
            (Some((own, _)), Judge::Certificate) => ParsedCertificate::try_from(own)
                .and_then(|certificate| verify_server_name(&certificate, name)),
            (Some((own, intermediates)), Judge::Verifier(verifier)) => {
                let now = UnixTime::now();
                verifier.verify_server_cert(own, intermediates, name, &[], now).map(drop)
            }
        };
        judged.map_err(|error| sentence::of_error(&error).into())
    }

    fn verdicts(&self) -> MutexGuard<'_, HashMap<ServerName<'static>, Verdict>> {
        self.verdicts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// So many names are remembered for a connection; beyond that all are forgotten. Few programs call
/// one server by more than a handful.
const NAMES_MAX: usize = 64;
