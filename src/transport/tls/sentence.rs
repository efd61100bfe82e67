//! What went wrong with TLS, as people say it.

use std::io;

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};

use crate::types::harmless;

/// What `error` says of TLS, if it comes from there.
pub(crate) fn of_io_error(error: &io::Error) -> Option<String> {
    if error.kind() == io::ErrorKind::UnexpectedEof
        && error.get_ref().is_some_and(|inner| inner.to_string().contains("close_notify"))
    {
        return Some("the server closed the connection".to_owned());
    }
    error.get_ref()?.downcast_ref().map(of_error)
}

/// Whether `error` is about a certificate that is not accepted.
pub(super) fn is_of_certificate(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    matches!(inner, Some(Error::InvalidCertificate(_)))
}

pub(super) fn of_error(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(error) => of_certificate(error),
        Error::AlertReceived(alert) => of_alert(*alert),
        Error::InvalidMessage(
            InvalidMessage::InvalidContentType
            | InvalidMessage::UnknownProtocolVersion
            | InvalidMessage::MessageTooLarge,
        ) => "what the server answered is no TLS: it may expect plaintext".to_owned(),
        Error::DecryptError => {
            "what arrived over TLS cannot be decrypted: it was changed on its way".to_owned()
        }
        Error::NoCertificatesPresented => "the server showed no certificate".to_owned(),
        Error::PeerIncompatible(reason) => of_incompatibility(reason),
        Error::NoApplicationProtocol => NO_HTTP_2.to_owned(),
        Error::General(text) => harmless(text).to_string(),
        other => harmless(&other.to_string()).to_string(),
    }
}

fn of_certificate(error: &CertificateError) -> String {
    match error {
        CertificateError::Expired => "the server's certificate has expired".to_owned(),
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("the server's certificate expired on {}", date(*not_after))
        }
        CertificateError::NotValidYet => "the server's certificate is not valid yet".to_owned(),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("the server's certificate is not valid before {}", date(*not_before))
        }
        CertificateError::NotValidForName => {
            "the server's certificate is for another name".to_owned()
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            let expected = expected.to_str();
            match presented.as_slice() {
                [] => format!("the server's certificate is for no name, and not for `{expected}`"),
                names => format!(
                    "the server's certificate is for {}, and not for `{expected}`",
                    listed(names)
                ),
            }
        }
        CertificateError::UnknownIssuer => {
            "the server's certificate comes from an issuer that is not among the trusted roots"
                .to_owned()
        }
        CertificateError::Revoked => "the server's certificate has been revoked".to_owned(),
        CertificateError::BadEncoding => "the server's certificate cannot be read".to_owned(),
        CertificateError::BadSignature => {
            "the server's certificate has a signature that is not its issuer's".to_owned()
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "the server's certificate is not for servers".to_owned()
        }
        CertificateError::Other(reason) => {
            let text = reason.to_string();
            if text.contains("CaUsedAsEndEntity") {
                return "the server shows a certificate authority's certificate as its own; it \
                        needs one that such an authority has issued"
                    .to_owned();
            }
            let text = if text.trim().is_empty() { NO_REASON } else { &text };
            format!("the server's certificate is not valid: {}", harmless(text))
        }
        other => format!("the server's certificate is not valid: {}", harmless(&other.to_string())),
    }
}

/// What a verifier of the application says that says nothing.
const NO_REASON: &str = "the certificate verifier gave no reason";

/// The first of the names of a certificate, which may have thousands.
fn listed(names: &[String]) -> String {
    let mut listed: Vec<_> = names.iter().take(NAMES_SHOWN).map(|name| quoted(name)).collect();
    match names.len().saturating_sub(NAMES_SHOWN) {
        0 => {}
        left => listed.push(format!("{left} more names")),
    }
    listed.join(" and ")
}

/// The names of a certificate without what webpki writes around them: `DnsName("greeter.example")`
/// and `IpAddress(10.0.0.7)`.
fn quoted(name: &str) -> String {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    format!("`{}`", harmless(inner.unwrap_or(name).trim_matches('"')).up_to(NAME_BYTES_MAX))
}

fn of_alert(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::CertificateRequired => {
            "the server wants a client certificate, and this client has none".to_owned()
        }
        AlertDescription::BadCertificate => {
            "the server refuses the client's certificate, or wants one where there is none (alert \
             bad_certificate)"
                .to_owned()
        }
        AlertDescription::HandshakeFailure => {
            "the server refuses: it shares no cipher suite, or wants a client certificate (alert \
             handshake_failure)"
                .to_owned()
        }
        AlertDescription::ProtocolVersion => {
            "the server speaks neither TLS 1.3 nor TLS 1.2".to_owned()
        }
        AlertDescription::UnrecognisedName => {
            "the server does not know the name that it was called by (alert unrecognized_name)"
                .to_owned()
        }
        AlertDescription::NoApplicationProtocol => NO_HTTP_2.to_owned(),
        other => format!("the server refuses, by the alert {other:?}"),
    }
}

fn of_incompatibility(reason: &PeerIncompatible) -> String {
    match reason {
        PeerIncompatible::ServerDoesNotSupportTls12Or13
        | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig => {
            "the server speaks neither TLS 1.3 nor TLS 1.2".to_owned()
        }
        PeerIncompatible::NoCipherSuitesInCommon => {
            "the server and this client have no cipher suite in common".to_owned()
        }
        other => format!("the server and this client have too little in common: {other:?}"),
    }
}

/// A day of the Gregorian calendar, in UTC.
fn date(time: UnixTime) -> String {
    // Counted in years that begin with March, so that the leap day comes last, and from the
    // year 0 of an era of 400 years, which all have the same number of days.
    let days = time.as_secs() / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02}")
}

/// So many names of a certificate are shown.
const NAMES_SHOWN: usize = 8;

/// And so much of each: names in DNS have 253 bytes at most.
const NAME_BYTES_MAX: usize = 256;

const NO_HTTP_2: &str = "the server does not offer HTTP/2 (ALPN `h2`)";

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::sync::Arc;
    use std::time::Duration;

    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    /// Of texts alone rustls says that an end was not announced: this fails once it has others.
    #[test]
    fn an_end_that_was_not_announced_is_told_by_the_words_of_rustls() {
        let config = ClientConfig::builder_with_provider(Arc::new(super::super::provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let name = ServerName::try_from("greeter.example").unwrap();
        let mut session = ClientConnection::new(Arc::new(config), name).unwrap();
        session.read_tls(&mut io::empty()).unwrap();
        let error = session.reader().read(&mut [0]).unwrap_err();
        assert_eq!(of_io_error(&error).unwrap(), "the server closed the connection", "{error}");
        // What the words are looked for in is no other error of this kind.
        let other = io::Error::new(io::ErrorKind::UnexpectedEof, "something else");
        assert_eq!(of_io_error(&other), None);
    }

    #[test]
    fn names_of_a_certificate_stand_alone() {
        let rows = [
            ("DnsName(\"*.greeter.example\")", "`*.greeter.example`"),
            ("IpAddress(10.0.0.7)", "`10.0.0.7`"),
            ("IpAddress(fe80::1)", "`fe80::1`"),
            ("DirectoryName", "`DirectoryName`"),
        ];
        for (name, expected) in rows {
            assert_eq!(quoted(name), expected);
        }
    }

    #[test]
    fn a_certificate_with_many_names_is_shown_by_the_first_of_them() {
        let names = |count| (0..count).map(|nth| format!("DnsName(\"{nth}\")")).collect::<Vec<_>>();
        assert_eq!(listed(&names(2)), "`0` and `1`");
        assert!(listed(&names(8)).ends_with("`6` and `7`"));
        assert!(listed(&names(5_000)).ends_with("`7` and 4992 more names"));
    }

    #[test]
    fn a_moment_falls_on_its_day() {
        let rows = [
            (0, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (951_868_800, "2000-03-01"),
            (1_793_577_600, "2026-11-02"),
            (1_798_761_599, "2026-12-31"),
            (4_107_542_400, "2100-03-01"),
        ];
        for (seconds, expected) in rows {
            assert_eq!(date(UnixTime::since_unix_epoch(Duration::from_secs(seconds))), expected);
        }
    }
}
