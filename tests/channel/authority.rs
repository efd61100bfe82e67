//! Calls that are addressed to another name than the channel's.

use std::future;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use switchboard::{
    Address, BoxFuture, CallContext, CallCredentials, CallOptions, Channel, ChannelBuilder, Code,
    Connect, Credentials, Interceptor, Io, Metadata, OutgoingCall, SecurityLevel, SocketConnector,
    Status, TlsConfig,
};
use tokio_rustls::rustls;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};

use crate::support::greeter::{BIDI_HELLO, Greeter, SAY_HELLO, ask};
use crate::support::mini::answer_all;
use crate::support::tls::{BOTH, Certificate, Issuer, Manner, ONLY_12, TlsServer, USUAL};
use crate::support::{ROUND_ROBIN, reports, until, until_state};

/// The name that channels here are for.
const NAME: &str = "greeter.example";

fn secured(target: impl std::fmt::Display, config: TlsConfig) -> ChannelBuilder {
    let credentials = Credentials::tls_with(config.server_name(NAME));
    Channel::builder(target.to_string()).credentials(credentials)
}

fn trusting(issuer: &Issuer) -> TlsConfig {
    TlsConfig::new().roots_pem(issuer.root_pem()).unwrap()
}

/// How a unary call and a stream end that are addressed to `authority`.
async fn called(channel: &Channel, authority: &str) -> [Result<(), Status>; 2] {
    let timeout = Duration::from_secs(20);
    let request = ask("Ada").authority(authority).unwrap().timeout(timeout);
    let unary = channel.invoke(&SAY_HELLO, request).await.map(drop);
    let options = CallOptions::new().authority(authority).unwrap().timeout(timeout);
    let stream = async {
        let mut stream = channel.new_stream(&BIDI_HELLO, options).await?;
        stream.close_send();
        stream.recv().await.map(drop)
    };
    [unary, stream.await]
}

/// What the calls were addressed to that got to `server`.
fn addressed(server: &TlsServer) -> Vec<String> {
    server.seen().into_iter().flat_map(|connection| connection.calls).collect()
}

// spec: A81/authority-is-proved
#[tokio::test]
async fn a_call_is_addressed_only_to_a_name_that_the_server_has_proved() {
    let issuer = Issuer::new();
    for versions in [BOTH, ONLY_12] {
        let certificate = Certificate::of(&[NAME, "*.other.example", "10.0.0.7"]);
        let server = TlsServer::start(&issuer, certificate, Manner { versions, ..USUAL }).await;
        let channel = secured(server.address(), trusting(&issuer)).build().unwrap();
        let proved = [
            "greeter.example:99",
            "GREETER.example",
            "a.other.example",
            "a.other.example:1",
            "10.0.0.7",
        ];
        for authority in proved {
            for ended in called(&channel, authority).await {
                ended.unwrap();
            }
        }
        let expected: Vec<_> = proved
            .iter()
            .flat_map(|authority| [format!("https {authority}"), format!("https {authority}")])
            .collect();
        assert_eq!(addressed(&server), expected);
        for authority in
            ["evil.example", "other.example", "a.b.other.example", "10.0.0.8:1", "[::1]:1", "a$b"]
        {
            // Twice, as the verdict is remembered.
            for ended in
                [called(&channel, authority).await, called(&channel, authority).await].concat()
            {
                let status = ended.unwrap_err();
                assert_eq!(status.code(), Code::UNAVAILABLE, "{status}");
                let peer = format!("{}: ", server.address());
                for part in [&peer, NAME, &format!("`{authority}`")] {
                    assert!(status.message().contains(part), "{status}");
                }
            }
        }
        // More names than are remembered.
        for nth in 0..200 {
            called(&channel, &format!("{nth}.example")).await[0].as_ref().unwrap_err();
        }
        called(&channel, "a.other.example").await[0].as_ref().unwrap();
        assert_eq!(addressed(&server).len(), expected.len() + 2);
        // No connection was lost to it.
        assert_eq!(server.seen().len(), 1);
        channel.close().await;
    }
}

// spec: A81/authority-is-proved
#[tokio::test]
async fn the_name_that_an_interceptor_sets_has_to_be_proved_and_waiting_for_ready_is_of_no_use() {
    struct To(&'static str);
    impl Interceptor for To {
        fn before(&self, call: &mut OutgoingCall) -> Result<(), Status> {
            let options = call.options().clone();
            *call.options_mut() = options.authority(self.0).unwrap();
            Ok(())
        }
    }
    let issuer = Issuer::new();
    let certificate = Certificate::of(&[NAME, "other.example"]);
    let server = TlsServer::start(&issuer, certificate, USUAL).await;
    for (authority, expected) in
        [("other.example", None), ("evil.example", Some(Code::UNAVAILABLE))]
    {
        let builder = secured(server.address(), trusting(&issuer)).interceptor(To(authority));
        let channel = builder.wait_for_ready(true).build().unwrap();
        let request = ask("Ada").timeout(Duration::from_secs(20));
        let unary = channel.invoke(&SAY_HELLO, request).await.map(drop);
        assert_eq!(unary.err().map(|status| status.code()), expected);
        let stream = channel.new_stream(&BIDI_HELLO, CallOptions::new()).await.map(drop);
        assert_eq!(stream.err().map(|status| status.code()), expected);
        channel.close().await;
    }
    assert!(!addressed(&server).contains(&"https evil.example".to_owned()));
}

/// Notes what it is asked for, which it gives.
#[derive(Clone, Default)]
struct Asked(Arc<Mutex<Vec<String>>>);

impl Asked {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl CallCredentials for Asked {
    fn metadata<'a>(
        &'a self,
        call: &'a CallContext<'_>,
    ) -> BoxFuture<'a, Result<Metadata, Status>> {
        self.0.lock().unwrap().push(call.authority().to_string());
        Box::pin(future::ready(Ok(Metadata::new())))
    }

    fn min_security_level(&self) -> SecurityLevel {
        SecurityLevel::None
    }
}

// spec: A81/credentials
#[tokio::test]
async fn call_credentials_are_asked_only_for_a_name_that_the_server_has_proved() {
    let issuer = Issuer::new();
    let certificate = Certificate::of(&[NAME, "other.example"]);
    let server = TlsServer::start(&issuer, certificate, USUAL).await;
    let asked = Asked::default();
    let credentials = Credentials::tls_with(trusting(&issuer).server_name(NAME))
        .with_call_credentials(asked.clone());
    let builder = Channel::builder(server.address().to_string()).credentials(credentials);
    let channel = builder.build().unwrap();
    for ended in called(&channel, "evil.example").await {
        assert_eq!(ended.unwrap_err().code(), Code::UNAVAILABLE);
    }
    assert!(asked.take().is_empty());
    for ended in called(&channel, "other.example:7").await {
        ended.unwrap();
    }
    assert_eq!(asked.take(), ["other.example:7"; 2]);
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    assert_eq!(asked.take(), [NAME]);
    channel.close().await;
}

// spec: A81/credentials
#[tokio::test]
async fn where_connections_prove_nothing_any_name_goes_and_credentials_are_for_the_channels() {
    for credentials in [Credentials::insecure(), Credentials::local()] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let names = seen.clone();
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let note = |head: &http::request::Parts| {
                names.lock().unwrap().push(head.uri.authority().unwrap().to_string());
            };
            let _ = answer_all(stream, note).await;
        });
        let asked = Asked::default();
        let credentials = credentials.with_call_credentials(asked.clone());
        let builder = Channel::builder(address.to_string()).credentials(credentials).no_proxy();
        let channel = builder.build().unwrap();
        for ended in called(&channel, "other.example").await {
            ended.unwrap();
        }
        assert_eq!(*seen.lock().unwrap(), ["other.example"; 2]);
        assert_eq!(asked.take(), vec![address.to_string(); 2]);
        channel.close().await;
        server.await.unwrap();
    }
}

// spec: A81/credentials
#[cfg(unix)]
#[tokio::test]
async fn over_a_unix_socket_credentials_are_for_the_channels_name_whatever_the_call_is_addressed_to()
 {
    let folder = std::env::temp_dir().join(format!("switchboard-names-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("greeter.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let names = seen.clone();
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let note = |head: &http::request::Parts| {
            names.lock().unwrap().push(head.uri.authority().unwrap().to_string());
        };
        let _ = answer_all(stream, note).await;
    });
    let asked = Asked::default();
    let credentials = Credentials::local().with_call_credentials(asked.clone());
    let builder = Channel::builder(format!("unix:{}", path.display())).credentials(credentials);
    let channel = builder.build().unwrap();
    for ended in called(&channel, "other.example").await {
        ended.unwrap();
    }
    assert_eq!(*seen.lock().unwrap(), ["other.example"; 2]);
    assert_eq!(asked.take(), ["localhost"; 2]);
    channel.close().await;
    server.await.unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
}

/// Leads to these servers in turn, whatever it is to dial.
struct InTurn {
    servers: Vec<SocketAddr>,
    dials: AtomicUsize,
}

impl Connect for InTurn {
    fn connect<'a>(&'a self, _: &'a Address) -> BoxFuture<'a, io::Result<Io>> {
        let nth = self.dials.fetch_add(1, Ordering::SeqCst);
        let server = Address::Socket(self.servers[nth % self.servers.len()]);
        Box::pin(async move { SocketConnector.connect(&server).await })
    }
}

/// A channel with two connections to one address, which `servers` answer in turn.
async fn with_two_connections(issuer: &Issuer, servers: Vec<SocketAddr>) -> Channel {
    let channel = secured("10.0.0.1:1", trusting(issuer))
        .connector(InTurn { servers, dials: AtomicUsize::new(0) })
        .connections_per_address(2)
        .build()
        .unwrap();
    channel.connect();
    until("there are two", async || {
        reports(&channel).await.iter().any(|it| it.connections.len() == 2)
    })
    .await;
    channel
}

// spec: A81/authority-is-proved
#[tokio::test]
async fn of_several_connections_to_an_address_one_is_used_that_has_proved_the_name() {
    let issuer = Issuer::new();
    let without = TlsServer::start(&issuer, Certificate::of(&[NAME]), USUAL).await;
    let with = TlsServer::start(&issuer, Certificate::of(&[NAME, "new.example"]), USUAL).await;
    let servers = vec![without.address(), with.address()];
    let channel = with_two_connections(&issuer, servers).await;
    for _ in 0..20 {
        for ended in called(&channel, "new.example").await {
            ended.unwrap();
        }
        for ended in called(&channel, "evil.example").await {
            assert_eq!(ended.unwrap_err().code(), Code::UNAVAILABLE);
        }
    }
    assert_eq!(addressed(&without), [""; 0]);
    assert_eq!(addressed(&with), ["https new.example"; 40]);
    channel.close().await;
}

// spec: A81/authority-is-proved
#[tokio::test]
async fn a_call_that_waits_for_room_waits_for_a_connection_that_has_proved_its_name() {
    let issuer = Issuer::new();
    let mut greeters = [Greeter::start_with_max_streams(1), Greeter::start_with_max_streams(1)];
    let [without, with] = [&[NAME][..], &[NAME, "new.example"]].map(Certificate::of);
    let without = TlsServer::before(&issuer, without, USUAL, greeters[0].address()).await;
    let with = TlsServer::before(&issuer, with, USUAL, greeters[1].address()).await;
    let servers = vec![without.address(), with.address()];
    let channel = with_two_connections(&issuer, servers).await;
    let call = |authority: &str| {
        let request = ask("Ada").authority(authority).unwrap().timeout(Duration::from_secs(30));
        let channel = channel.clone();
        tokio::spawn(async move { channel.invoke(&SAY_HELLO, request).await.map(drop) })
    };
    let until_queued = async |count: u64| {
        until("so many wait", async || {
            let reports = reports(&channel).await;
            reports.iter().any(|it| it.counters.get("queued streams") == Some(&count))
        })
        .await;
    };
    let until_open = async |greeter: &Greeter, count: usize| {
        until("so many are open", async || greeter.open_calls() == count).await;
    };
    greeters.iter().for_each(Greeter::hold);
    let held = [call(NAME), call(NAME)];
    for greeter in &greeters {
        until_open(greeter, 1).await;
    }
    let chooses = call("new.example");
    until_queued(1).await;
    let takes_any = call(NAME);
    until_queued(2).await;
    // A place that is of no use to the first that waits goes to the second.
    greeters[0].release();
    takes_any.await.unwrap().unwrap();
    assert!(!chooses.is_finished());
    until_queued(1).await;
    greeters[1].release();
    chooses.await.unwrap().unwrap();
    for call in held {
        call.await.unwrap().unwrap();
    }

    // Where the last that has proved it goes away, nothing is waited for.
    greeters.iter().for_each(Greeter::hold);
    let held = [call(NAME), call(NAME)];
    for greeter in &greeters {
        until_open(greeter, 1).await;
    }
    let stranded = call("new.example");
    until_queued(1).await;
    greeters[1].kill();
    let status = stranded.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::UNAVAILABLE, "{status}");
    assert!(status.message().contains("`new.example`"), "{status}");
    greeters[0].release();
    let ends = [held].into_iter().flatten().map(async |call| call.await.unwrap().is_ok());
    let mut served = 0;
    for end in ends {
        served += usize::from(end.await);
    }
    assert_eq!(served, 1);
    channel.close().await;
}

// spec: A81/authority-is-proved
#[tokio::test]
async fn a_call_that_waits_for_room_takes_that_of_a_new_connection_that_has_proved_its_name() {
    let issuer = Issuer::new();
    let greeters = [Greeter::start_with_max_streams(1), Greeter::start_with_max_streams(1)];
    let both = || Certificate::of(&[NAME, "new.example"]);
    let first = TlsServer::before(&issuer, both(), USUAL, greeters[0].address()).await;
    let second = TlsServer::before(&issuer, both(), USUAL, greeters[1].address()).await;
    let servers = vec![first.address(), second.address()];
    // A second connection is made where calls wait.
    let channel = secured("10.0.0.1:1", trusting(&issuer))
        .connector(InTurn { servers, dials: AtomicUsize::new(0) })
        .default_service_config(r#"{"connectionScaling":{"maxConnectionsPerSubchannel":2}}"#)
        .build()
        .unwrap();
    greeters[0].hold();
    let call = |authority: &str| {
        let request = ask("Ada").authority(authority).unwrap().timeout(Duration::from_secs(30));
        let channel = channel.clone();
        tokio::spawn(async move { channel.invoke(&SAY_HELLO, request).await.map(drop) })
    };
    let held = call(NAME);
    until("it is there", async || greeters[0].open_calls() == 1).await;
    call("new.example").await.unwrap().unwrap();
    assert_eq!((greeters[0].open_calls(), greeters[1].received()), (1, 1));
    greeters[0].release();
    held.await.unwrap().unwrap();
    channel.close().await;
}

// spec: A81/authority-is-proved
#[tokio::test]
async fn each_attempt_has_to_go_to_a_server_that_has_proved_the_name() {
    let issuer = Issuer::new();
    let without = TlsServer::start(&issuer, Certificate::of(&[NAME]), USUAL).await;
    let with = TlsServer::start(&issuer, Certificate::of(&[NAME, "new.example"]), USUAL).await;
    let target = format!("ipv4:{},{}", without.address(), with.address());
    let attempts = [
        r#""retryPolicy":{"maxAttempts":2,"initialBackoff":"0.001s","maxBackoff":"0.001s",
            "backoffMultiplier":1,"retryableStatusCodes":["UNAVAILABLE"]}"#,
        r#""hedgingPolicy":{"maxAttempts":2,"hedgingDelay":"600s",
            "nonFatalStatusCodes":["UNAVAILABLE"]}"#,
    ];
    for attempts in attempts {
        let config = format!(
            r#"{{"loadBalancingConfig":[{{"round_robin":{{}}}}],"methodConfig":[{{"name":[{{}}],{attempts}}}]}}"#
        );
        let builder = secured(&target, trusting(&issuer)).default_service_config(config);
        let channel = builder.build().unwrap();
        channel.connect();
        until("both are connected", async || {
            reports(&channel).await.iter().filter(|it| !it.connections.is_empty()).count() == 2
        })
        .await;
        for _ in 0..4 {
            let request = ask("Ada").authority("new.example").unwrap();
            channel.invoke(&SAY_HELLO, request).await.unwrap();
            let request = ask("Ada").authority("evil.example").unwrap();
            let status = channel.invoke(&SAY_HELLO, request).await.unwrap_err();
            assert_eq!(status.code(), Code::UNAVAILABLE);
        }
        channel.close().await;
    }
    assert_eq!(addressed(&without), [""; 0]);
    assert_eq!(addressed(&with), ["https new.example"; 8]);
    // Without a policy one call in two fails, and not all of them.
    let channel =
        secured(&target, trusting(&issuer)).default_service_config(ROUND_ROBIN).build().unwrap();
    channel.connect();
    until("both are connected", async || {
        reports(&channel).await.iter().filter(|it| !it.connections.is_empty()).count() == 2
    })
    .await;
    let mut failed = 0;
    for _ in 0..4 {
        let request = ask("Ada").authority("new.example").unwrap();
        failed += usize::from(channel.invoke(&SAY_HELLO, request).await.is_err());
    }
    assert_eq!(failed, 2);
    channel.close().await;
}

// spec: A81/authority-is-proved
#[tokio::test]
async fn a_connection_that_resumes_a_session_or_outlives_its_roots_has_proved_what_it_had() {
    let issuer = Issuer::new();
    let path = std::env::temp_dir().join(format!("switchboard-authority-{}", std::process::id()));
    std::fs::write(&path, issuer.root_pem()).unwrap();
    for versions in [BOTH, ONLY_12] {
        let certificate = Certificate::of(&[NAME, "other.example"]);
        let server = TlsServer::start(&issuer, certificate, Manner { versions, ..USUAL }).await;
        let config = TlsConfig::new().roots_file(&path).unwrap();
        let builder = secured(server.address(), config).idle_timeout(Duration::from_millis(20));
        let channel = builder.build().unwrap();
        for _ in 0..2 {
            for ended in called(&channel, "other.example").await {
                ended.unwrap();
            }
            called(&channel, "evil.example").await[0].as_ref().unwrap_err();
            until_state(&channel, switchboard::ConnectivityState::Idle).await;
        }
        let resumed: Vec<_> = server.seen().iter().map(|connection| connection.resumed).collect();
        assert_eq!(resumed, [false, true]);
        channel.close().await;
        // From now on nobody would be trusted.
        let config = TlsConfig::new().roots_file(&path).unwrap();
        let channel = secured(server.address(), config).build().unwrap();
        channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
        std::fs::write(&path, Issuer::named("Strange Certificates").root_pem()).unwrap();
        called(&channel, "other.example").await[0].as_ref().unwrap();
        called(&channel, "evil.example").await[0].as_ref().unwrap_err();
        channel.close().await;
        std::fs::write(&path, issuer.root_pem()).unwrap();
    }
    std::fs::remove_file(&path).unwrap();
}

/// Trusts anybody to be any of these; notes for which names it was asked.
#[derive(Debug, Default)]
struct Lists {
    names: Vec<&'static str>,
    asked: Mutex<Vec<String>>,
}

impl ServerCertVerifier for Lists {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let name = name.to_str().into_owned();
        self.asked.lock().unwrap().push(name.clone());
        assert_ne!(name, "panics.example", "planted");
        if self.names.contains(&name.as_str()) {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::General(format!("{name} is not on the list")))
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.signature_verification_algorithms.supported_schemes()
    }
}

// spec: A81/authority-is-proved
#[tokio::test]
async fn a_verifier_of_ones_own_is_asked_for_each_name_once_on_a_connection() {
    let issuer = Issuer::new();
    // The certificate says nothing of what the verifier goes by.
    let certificate = Certificate::of(&["elsewhere.example"]);
    let server = TlsServer::start(&issuer, certificate, USUAL).await;
    let verifier = Arc::new(Lists { names: vec![NAME, "other.example"], ..Lists::default() });
    let config = TlsConfig::new().dangerous_verifier(verifier.clone());
    let channel = secured(server.address(), config).build().unwrap();
    for _ in 0..3 {
        for ended in called(&channel, "other.example:7").await {
            ended.unwrap();
        }
        for ended in called(&channel, "elsewhere.example").await {
            let status = ended.unwrap_err();
            assert_eq!(status.code(), Code::UNAVAILABLE);
            assert!(status.message().contains("elsewhere.example is not on the list"), "{status}");
        }
    }
    // A panic is a refusal of the name, and not the caller's.
    for ended in called(&channel, "panics.example").await {
        let status = ended.unwrap_err();
        assert_eq!(status.code(), Code::UNAVAILABLE);
        assert!(status.message().contains("the certificate verifier panicked"), "{status}");
    }
    let asked = verifier.asked.lock().unwrap().clone();
    assert_eq!(asked, [NAME, "other.example", "elsewhere.example", "panics.example"]);
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    channel.close().await;
}
