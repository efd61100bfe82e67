//! Certificates made on the spot, and servers that show them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{HandshakeKind, RootCertStore, ServerConfig, SupportedProtocolVersion};

use super::mini::answer_all;

/// Issues certificates.
pub(crate) struct Issuer(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key.
pub(crate) struct Certificate {
    params: CertificateParams,
}

impl Issuer {
    pub(crate) fn new() -> Self {
        Self::named("Sound Certificates")
    }

    /// Whoever trusts one issuer trusts no other of another name.
    pub(crate) fn named(name: &str) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// What those need who trust it.
    pub(crate) fn root_pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate and its key, as PEM texts.
    pub(crate) fn issue(&self, certificate: &Certificate) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let chain = certificate.params.signed_by(&key, &self.0).unwrap();
        (chain.pem(), key.serialize_pem())
    }
}

impl Certificate {
    /// For these names, and valid for long.
    pub(crate) fn of(names: &[&str]) -> Self {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        Self { params: CertificateParams::new(names).unwrap() }
    }

    /// One that may issue others, as no server's may.
    pub(crate) fn of_an_authority(mut self) -> Self {
        self.params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        self
    }

    /// Valid from the first day of one year to the first day of another.
    pub(crate) fn valid(mut self, from: i32, until: i32) -> Self {
        self.params.not_before = rcgen::date_time_ymd(from, 1, 1);
        self.params.not_after = rcgen::date_time_ymd(until, 1, 1);
        self
    }
}

/// How a server does TLS.
pub(crate) struct Manner {
    pub(crate) versions: &'static [&'static SupportedProtocolVersion],
    /// What it offers by ALPN; with nothing here it does not take part.
    pub(crate) protocols: &'static [&'static str],
    pub(crate) wants_client_certificate: bool,
}

pub(crate) const USUAL: Manner =
    Manner { versions: BOTH, protocols: &["h2"], wants_client_certificate: false };
pub(crate) const BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
pub(crate) const ONLY_12: &[&SupportedProtocolVersion] = &[&TLS12];
pub(crate) const ONLY_13: &[&SupportedProtocolVersion] = &[&TLS13];

/// A server of TLS, which answers every call itself or passes what it decrypts on.
pub(crate) struct TlsServer {
    address: SocketAddr,
    certificate: CertificateDer<'static>,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: AbortHandle,
}

/// What a server saw of one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) server_name: Option<String>,
    pub(crate) resumed: bool,
    /// `:scheme` and `:authority` of the calls that it answered itself.
    pub(crate) calls: Vec<String>,
}

impl TlsServer {
    pub(crate) async fn start(issuer: &Issuer, certificate: Certificate, manner: Manner) -> Self {
        Self::run(issuer, certificate, manner, None).await
    }

    /// Passes what it decrypts on to a server of plaintext.
    pub(crate) async fn before(
        issuer: &Issuer,
        certificate: Certificate,
        manner: Manner,
        server: SocketAddr,
    ) -> Self {
        Self::run(issuer, certificate, manner, Some(server)).await
    }

    async fn run(
        issuer: &Issuer,
        certificate: Certificate,
        manner: Manner,
        behind: Option<SocketAddr>,
    ) -> Self {
        let (certificate, config) = config(issuer, &certificate, &manner);
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let task = tokio::spawn({
            let seen = seen.clone();
            async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    tokio::spawn(serve(acceptor.clone(), stream, behind, seen.clone()));
                }
            }
        });
        Self { address, certificate, seen, task: task.abort_handle() }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificate that it shows.
    pub(crate) fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// The connections so far whose handshake was done.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    behind: Option<SocketAddr>,
    seen: Arc<Mutex<Vec<Seen>>>,
) {
    // The client may not like what it is shown.
    let Ok(mut stream) = acceptor.accept(stream).await else { return };
    let (_, session) = stream.get_ref();
    let nth = {
        let mut seen = seen.lock().unwrap();
        seen.push(Seen {
            server_name: session.server_name().map(str::to_owned),
            resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
            calls: Vec::new(),
        });
        seen.len() - 1
    };
    // How a connection ends is up to the client.
    if let Some(server) = behind {
        let mut plain = TcpStream::connect(server).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut plain).await;
        let _ = stream.shutdown().await;
    } else {
        let call = |head: &http::request::Parts| {
            let scheme = head.uri.scheme_str().unwrap_or_default();
            let call = format!("{scheme} {}", head.uri.authority().unwrap());
            seen.lock().unwrap()[nth].calls.push(call);
        };
        let _ = answer_all(stream, call).await;
    }
}

fn config(
    issuer: &Issuer,
    certificate: &Certificate,
    manner: &Manner,
) -> (CertificateDer<'static>, ServerConfig) {
    let key = KeyPair::generate().unwrap();
    let certificate = certificate.params.signed_by(&key, &issuer.0).unwrap().der().clone();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(manner.versions)
        .unwrap();
    let builder = if manner.wants_client_certificate {
        let mut roots = RootCertStore::empty();
        roots.add(issuer.0.der().clone()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
        builder.with_client_cert_verifier(verifier.build().unwrap())
    } else {
        builder.with_no_client_auth()
    };
    let mut config = builder.with_single_cert(vec![certificate.clone()], key).unwrap();
    config.alpn_protocols = manner.protocols.iter().map(|it| it.as_bytes().to_vec()).collect();
    (certificate, config)
}
