//! A verifier of certificates that is the application's.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};

use crate::types::{Foreign, Panicked};

/// Asks it, and takes a panic for a refusal.
pub(super) struct ForeignVerifier(Foreign<Arc<dyn ServerCertVerifier>>);

impl ForeignVerifier {
    pub(super) fn around(verifier: Arc<dyn ServerCertVerifier>) -> Arc<dyn ServerCertVerifier> {
        Arc::new(Self(Foreign::new("the certificate verifier", verifier)))
    }
}

fn refused(panicked: &Panicked) -> rustls::Error {
    rustls::Error::General(panicked.to_string())
}

impl ServerCertVerifier for ForeignVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let ask = |verifier: &Arc<dyn ServerCertVerifier>| {
            verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        };
        self.0.call(ask).map_err(|panicked| refused(&panicked))?
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let answer = self.0.call(|it| it.verify_tls12_signature(message, cert, signature));
        answer.map_err(|panicked| refused(&panicked))?
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let answer = self.0.call(|it| it.verify_tls13_signature(message, cert, signature));
        answer.map_err(|panicked| refused(&panicked))?
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        // Without any, the handshake fails.
        self.0.call(|it| it.supported_verify_schemes()).unwrap_or_default()
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.0.call(|it| it.requires_raw_public_keys()).unwrap_or_default()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        self.0.call(|it| it.root_hint_subjects()).unwrap_or_default()
    }
}

impl fmt::Debug for ForeignVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Bad;

    impl Drop for Bad {
        fn drop(&mut self) {
            panic!("in its drop");
        }
    }

    impl ServerCertVerifier for Bad {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            panic!("bad certificate")
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            panic!("bad signature")
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            panic!("bad signature")
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            panic!("no schemes")
        }

        fn requires_raw_public_keys(&self) -> bool {
            panic!("no keys")
        }

        fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
            panic!("no hints")
        }
    }

    #[test]
    fn a_verifier_that_panics_refuses_the_server_and_its_drop_does_no_harm() {
        let verifier = ForeignVerifier::around(Arc::new(Bad));
        let (certificate, name) = (CertificateDer::from(vec![]), "server".try_into().unwrap());
        let refused = verifier
            .verify_server_cert(&certificate, &[], &name, &[], UnixTime::now())
            .unwrap_err();
        let expected = "the certificate verifier panicked: bad certificate".to_owned();
        assert_eq!(refused, rustls::Error::General(expected));
        assert_eq!(verifier.supported_verify_schemes(), []);
        assert!(!verifier.requires_raw_public_keys());
        assert!(verifier.root_hint_subjects().is_none());
        drop(verifier);
    }
}
