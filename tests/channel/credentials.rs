//! Who calls, and how a server is told.

use std::future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use switchboard::{
    AccessToken, BearerToken, BoxFuture, BuildError, CallContext, CallCredentials, CallOptions,
    Channel, ChannelBuilder, Code, ConnectivityState, Credentials, CredentialsError, JwtFile,
    Metadata, OAuth2, SecurityLevel, Status, TlsConfig, TokenSource,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;

use crate::support::greeter::{BIDI_HELLO, Greeter, SAY_HELLO, ask, hello, target_of};
use crate::support::mini;
use crate::support::tls::{Certificate, Issuer, TlsServer, USUAL};
use crate::support::{plaintext, reports, until_state};

/// Sends what the greeter sends back, and counts how often it was asked.
#[derive(Clone)]
struct Echoed {
    text: &'static str,
    wants: SecurityLevel,
    asked: Arc<AtomicUsize>,
}

impl Echoed {
    fn new(text: &'static str) -> Self {
        Self { text, wants: SecurityLevel::PrivacyAndIntegrity, asked: Arc::default() }
    }
}

impl CallCredentials for Echoed {
    fn metadata<'a>(
        &'a self,
        call: &'a CallContext<'_>,
    ) -> BoxFuture<'a, Result<Metadata, Status>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mut metadata = Metadata::new();
        metadata.insert("echo", format!("{} for {}", self.text, call.audience())).unwrap();
        Box::pin(future::ready(Ok(metadata)))
    }

    fn min_security_level(&self) -> SecurityLevel {
        self.wants
    }
}

/// Fails, or never answers.
struct Fails(Option<Code>);

impl CallCredentials for Fails {
    fn metadata<'a>(&'a self, _: &'a CallContext<'_>) -> BoxFuture<'a, Result<Metadata, Status>> {
        match self.0 {
            Some(code) => Box::pin(future::ready(Err(Status::new(code, "no token for you")))),
            None => Box::pin(future::pending()),
        }
    }
}

/// A greeter behind TLS, and a builder of channels to it with these credentials added.
async fn secured(
    add: impl FnOnce(Credentials) -> Credentials,
) -> (Greeter, TlsServer, ChannelBuilder) {
    let (issuer, greeter) = (Issuer::new(), Greeter::start());
    let certificate = Certificate::of(&["greeter.example"]);
    let server = TlsServer::before(&issuer, certificate, USUAL, greeter.address()).await;
    let config = TlsConfig::new().roots_pem(issuer.root_pem()).unwrap();
    let credentials = add(Credentials::tls_with(config.server_name("greeter.example")));
    let builder = Channel::builder(server.address().to_string()).credentials(credentials);
    (greeter, server, builder)
}

#[tokio::test]
async fn the_channels_credentials_come_first_then_the_calls_then_the_applications_metadata() {
    let (_greeter, _server, builder) =
        secured(|tls| tls.with_call_credentials(Echoed::new("channel"))).await;
    let channel = builder.build().unwrap();
    let mut request = ask("Ada").credentials(Echoed::new("call"));
    request.metadata_mut().insert("echo", "application").unwrap();
    let reply = channel.invoke(&SAY_HELLO, request).await.unwrap();
    let echoed: Vec<_> = reply.metadata().get_all("echo").collect();
    let audience = "https://greeter.example/helloworld.Greeter";
    let expected = [format!("channel for {audience}"), format!("call for {audience}")];
    assert_eq!(echoed, [&expected[0], &expected[1], "application"]);
    assert_eq!(reply.security_level(), SecurityLevel::PrivacyAndIntegrity);
    let report = reports(&channel).await.into_iter().find(|it| !it.connections.is_empty()).unwrap();
    assert_eq!(report.connections[0].security, SecurityLevel::PrivacyAndIntegrity);
    let tls = report.connections[0].tls.as_ref().unwrap();
    assert!(tls.to_string().starts_with("TLSv1_3 TLS_AES_"), "{tls}");
    channel.close().await;
}

#[tokio::test]
async fn every_call_and_stream_is_proved_anew() {
    let credentials = Echoed::new("channel");
    let asked = credentials.asked.clone();
    let (_greeter, _server, builder) = secured(|tls| tls.with_call_credentials(credentials)).await;
    let channel = builder.build().unwrap();
    for calls in 1..=3 {
        channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), calls);
    }
    let mut stream = channel.new_stream(&BIDI_HELLO, CallOptions::new()).await.unwrap();
    stream.send(hello("Ada")).await.unwrap();
    stream.recv().await.unwrap().unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 4);
    assert_eq!(stream.security_level(), Some(SecurityLevel::PrivacyAndIntegrity));
    drop(stream);
    channel.close().await;
}

// spec: L62/security-levels
#[tokio::test]
async fn credentials_do_not_travel_on_a_connection_that_protects_too_little() {
    let greeter = Greeter::start();
    let target = target_of([&greeter]);
    // Refused where the whole channel would have to do without.
    let insecure = Credentials::insecure().with_call_credentials(Echoed::new("channel"));
    let error = Channel::builder(&target).credentials(insecure).build().unwrap_err();
    assert_eq!(error, BuildError::InvalidCredentials(CredentialsError::InsecureChannel));
    // Refused for the call; loopback is no better.
    let local = Credentials::local().with_call_credentials(Echoed::new("channel"));
    let local = Channel::builder(&target).credentials(local).build().unwrap();
    let plain = plaintext(&target).build().unwrap();
    for (channel, request) in
        [(local, ask("Ada")), (plain, ask("Ada").credentials(Echoed::new("call")))]
    {
        let status = channel.invoke(&SAY_HELLO, request).await.unwrap_err();
        assert_eq!(status.code(), Code::UNAUTHENTICATED);
        let expected = format!(
            "{}: the call's credentials want privacy and integrity, and the connection has no \
             security: use TLS",
            greeter.address()
        );
        assert!(status.message().contains(&expected), "{status}");
        channel.close().await;
    }
    assert_eq!(greeter.received(), 0);
    // Those that want nothing travel on anything.
    let humble = Echoed { wants: SecurityLevel::None, ..Echoed::new("call") };
    let insecure = Credentials::insecure().with_call_credentials(humble);
    let channel = Channel::builder(&target).credentials(insecure).build().unwrap();
    let reply = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    assert!(reply.metadata().get("echo").unwrap().starts_with("call for https://127.0.0.1:"));
    assert_eq!(reply.security_level(), SecurityLevel::None);
    channel.close().await;
}

// spec: A54/call-credentials
// spec: A54/restricted-codes
#[tokio::test]
async fn credentials_that_fail_do_not_blame_the_application() {
    let (greeter, _server, builder) = secured(|tls| tls).await;
    let channel = builder.build().unwrap();
    for (code, expected) in [
        (Code::UNAUTHENTICATED, Code::UNAUTHENTICATED),
        (Code::UNAVAILABLE, Code::UNAVAILABLE),
        (Code::INVALID_ARGUMENT, Code::INTERNAL),
        (Code::NOT_FOUND, Code::INTERNAL),
    ] {
        let request = ask("Ada").credentials(Fails(Some(code)));
        let status = channel.invoke(&SAY_HELLO, request).await.unwrap_err();
        assert_eq!(status.code(), expected);
        assert!(status.message().contains("no token for you"), "{status}");
        let options = CallOptions::new().credentials(Fails(Some(code)));
        let status = channel.new_stream(&BIDI_HELLO, options).await.unwrap_err();
        assert_eq!(status.code(), expected);
    }
    let request = ask("Ada").credentials(Fails(None)).timeout(Duration::from_millis(50));
    let status = channel.invoke(&SAY_HELLO, request).await.unwrap_err();
    assert_eq!(status.code(), Code::DEADLINE_EXCEEDED);
    assert!(status.message().contains("credentials"), "{status}");
    assert_eq!(greeter.received(), 0);
    channel.close().await;
}

/// Fails with one code after the other, then gives nothing to send.
struct FailsFirst {
    codes: Mutex<Vec<Code>>,
    asked: Arc<AtomicUsize>,
}

impl FailsFirst {
    fn new(codes: &[Code]) -> (Self, Arc<AtomicUsize>) {
        let asked: Arc<AtomicUsize> = Arc::default();
        let codes = Mutex::new(codes.iter().rev().copied().collect());
        (Self { codes, asked: asked.clone() }, asked)
    }
}

impl CallCredentials for FailsFirst {
    fn metadata<'a>(&'a self, _: &'a CallContext<'_>) -> BoxFuture<'a, Result<Metadata, Status>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let failed = self.codes.lock().unwrap().pop();
        // What only a server may say of another attempt is not heard from them.
        let mut metadata = Metadata::new();
        metadata.insert("grpc-retry-pushback-ms", "-1").unwrap();
        let fail = |code| Err(Status::new(code, "no token for you").with_metadata(metadata));
        Box::pin(future::ready(failed.map_or_else(|| Ok(Metadata::new()), fail)))
    }
}

/// How a unary call and a stream end whose credentials fail so, and how often those were asked.
async fn asked_under(config: &str, codes: &[Code]) -> [(Result<(), Status>, usize); 2] {
    let (_greeter, _server, builder) = secured(|tls| tls).await;
    let channel = builder.default_service_config(config).build().unwrap();
    let timeout = Duration::from_secs(20);
    let (credentials, unary_asked) = FailsFirst::new(codes);
    let request = ask("Ada").credentials(credentials).timeout(timeout);
    let unary = channel.invoke(&SAY_HELLO, request).await.map(drop);
    let (credentials, stream_asked) = FailsFirst::new(codes);
    let options = CallOptions::new().credentials(credentials).timeout(timeout);
    let stream = channel.new_stream(&BIDI_HELLO, options).await.map(drop);
    assert_eq!(unary.is_ok(), stream.is_ok());
    channel.close().await;
    let asked = |count: Arc<AtomicUsize>| count.load(Ordering::SeqCst);
    [(unary, asked(unary_asked)), (stream, asked(stream_asked))]
}

/// A service config that makes calls again after these codes.
fn retried(codes: &str) -> String {
    format!(
        r#"{{"methodConfig":[{{"name":[{{}}],"retryPolicy":{{"maxAttempts":3,
        "initialBackoff":"0.001s","maxBackoff":"0.001s","backoffMultiplier":1,
        "retryableStatusCodes":[{codes}]}}}}]}}"#
    )
}

// spec: A6/call-credentials
#[tokio::test]
async fn credentials_that_fail_with_a_retryable_code_are_asked_again_by_the_policy() {
    const AGAIN: Code = Code::UNAVAILABLE;
    let unavailable = retried(r#""UNAVAILABLE""#);
    let rows: [(&str, &[Code], Option<Code>, usize); 8] = [
        (&unavailable, &[AGAIN], None, 2),
        (&unavailable, &[AGAIN, AGAIN], None, 3),
        (&unavailable, &[AGAIN, AGAIN, AGAIN], Some(AGAIN), 3),
        (&unavailable, &[Code::UNAUTHENTICATED], Some(Code::UNAUTHENTICATED), 1),
        (&unavailable, &[AGAIN, Code::UNAUTHENTICATED], Some(Code::UNAUTHENTICATED), 2),
        // Without a policy nothing is.
        ("{}", &[AGAIN], Some(AGAIN), 1),
        // The policy is asked for the code that is left of one that only a server may use (A54).
        (&retried(r#""ABORTED""#), &[Code::ABORTED], Some(Code::INTERNAL), 1),
        (&retried(r#""INTERNAL""#), &[Code::ABORTED], None, 2),
    ];
    for (config, codes, expected, times) in rows {
        for (ended, asked) in asked_under(config, codes).await {
            assert_eq!(asked, times, "{codes:?}");
            assert_eq!(ended.as_ref().err().map(Status::code), expected, "{codes:?}");
            let Err(status) = ended else { continue };
            assert!(status.message().contains("the call's credentials: "), "{status}");
            assert!(status.message().contains("no token for you"), "{status}");
            let is_exhausted =
                status.message().starts_with("max retries exhausted: failed after 3");
            assert_eq!(is_exhausted, codes.len() == 3, "{status}");
        }
    }
}

// spec: A6/call-credentials
#[tokio::test]
async fn a_hedged_call_goes_on_without_the_attempt_whose_credentials_fail() {
    let hedged = r#"{"methodConfig":[{"name":[{}],"hedgingPolicy":{"maxAttempts":3,
        "hedgingDelay":"600s","nonFatalStatusCodes":["UNAVAILABLE"]}}]}"#;
    let rows: [(&[Code], Option<Code>, usize); 4] = [
        (&[Code::UNAVAILABLE], None, 2),
        (&[Code::UNAVAILABLE; 2], None, 3),
        (&[Code::UNAVAILABLE; 3], Some(Code::UNAVAILABLE), 3),
        (&[Code::UNAUTHENTICATED], Some(Code::UNAUTHENTICATED), 1),
    ];
    for (codes, expected, times) in rows {
        let (_greeter, _server, builder) = secured(|tls| tls).await;
        let channel = builder.default_service_config(hedged).build().unwrap();
        let (credentials, asked) = FailsFirst::new(codes);
        let request = ask("Ada").credentials(credentials).timeout(Duration::from_secs(20));
        let ended = channel.invoke(&SAY_HELLO, request).await;
        assert_eq!(ended.as_ref().err().map(Status::code), expected, "{codes:?}");
        assert_eq!(asked.load(Ordering::SeqCst), times, "{codes:?}");
        if let Err(status) = ended {
            assert!(status.message().contains("the call's credentials: "), "{status}");
        }
        channel.close().await;
    }
}

// spec: A6/call-credentials
#[tokio::test]
async fn the_deadline_ends_a_call_whose_credentials_are_to_be_asked_again() {
    let (greeter, _server, builder) = secured(|tls| tls).await;
    let patient = r#"{"methodConfig":[{"name":[{}],"retryPolicy":{"maxAttempts":3,
        "initialBackoff":"600s","maxBackoff":"600s","backoffMultiplier":1,
        "retryableStatusCodes":["UNAVAILABLE"]}}]}"#;
    let channel = builder.default_service_config(patient).build().unwrap();
    // The handshake takes its time, which is not that of the calls.
    channel.connect();
    until_state(&channel, ConnectivityState::Ready).await;
    let fails = || Fails(Some(Code::UNAVAILABLE));
    let timeout = Duration::from_millis(500);
    let request = ask("Ada").credentials(fails()).timeout(timeout);
    let unary = channel.invoke(&SAY_HELLO, request).await.unwrap_err();
    let options = CallOptions::new().credentials(fails()).timeout(timeout);
    let stream = channel.new_stream(&BIDI_HELLO, options).await.unwrap_err();
    for status in [unary, stream] {
        assert_eq!(status.code(), Code::DEADLINE_EXCEEDED);
        assert!(status.message().contains("the call's credentials: "), "{status}");
    }
    assert_eq!(greeter.received(), 0);
    channel.close().await;
}

/// Sends what it wraps on any connection: those in memory are known to protect nothing.
struct Anywhere<C>(C);

impl<C: CallCredentials> CallCredentials for Anywhere<C> {
    fn metadata<'a>(
        &'a self,
        call: &'a CallContext<'_>,
    ) -> BoxFuture<'a, Result<Metadata, Status>> {
        self.0.metadata(call)
    }

    fn min_security_level(&self) -> SecurityLevel {
        SecurityLevel::None
    }
}

/// A channel that sends these credentials, over a pipe to a server that shows what it is sent.
struct Shown {
    channel: Channel,
    authorizations: UnboundedReceiver<String>,
}

impl Shown {
    fn new(credentials: impl CallCredentials) -> Self {
        let (connector, mut listener) = switchboard::memory::pipe();
        let (told, authorizations) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(stream) = listener.accept().await {
                let told = told.clone();
                let seen = move |head: &http::request::Parts| {
                    told.send(head.headers["authorization"].to_str().unwrap().to_owned()).unwrap();
                };
                tokio::spawn(async move { mini::answer_all(stream, seen).await });
            }
        });
        let credentials = Credentials::insecure().with_call_credentials(Anywhere(credentials));
        let builder = Channel::builder("passthrough:server").credentials(credentials);
        Self { channel: builder.connector(connector).build().unwrap(), authorizations }
    }

    /// What a call now is sent with, or how it ends.
    async fn call(&mut self) -> Result<String, Status> {
        self.channel.invoke(&SAY_HELLO, ask("Ada").timeout(Duration::from_secs(600))).await?;
        Ok(self.authorizations.recv().await.unwrap())
    }
}

#[tokio::test]
async fn a_bearer_token_is_sent() {
    let mut shown = Shown::new(BearerToken::new("a.b.c").unwrap());
    assert_eq!(shown.call().await.unwrap(), "Bearer a.b.c");
    shown.channel.close().await;
}

/// A JSON Web Token that expires so long from now.
#[expect(clippy::disallowed_methods, reason = "the end of a token is a time of day")]
fn jwt(subject: &str, life: Duration) -> String {
    let end = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + life;
    let claims = format!(r#"{{"sub":"{subject}","exp":{}}}"#, end.as_secs());
    format!("eyJhbGciOiJub25lIn0.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))
}

const HOUR: Duration = Duration::from_secs(3_600);

#[cfg(unix)]
#[tokio::test(start_paused = true)]
async fn a_token_in_what_is_no_file_fails_calls_with_the_reason() {
    let path = std::env::temp_dir().join(format!("switchboard-pipe-{}", std::process::id()));
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    for path in [&*path, std::path::Path::new("/dev/zero"), std::path::Path::new("/")] {
        let mut shown = Shown::new(JwtFile::new(path));
        let failed = shown.call().await.unwrap_err();
        assert_eq!(failed.code(), Code::UNAVAILABLE);
        let told = failed.message();
        assert!(told.contains(path.to_str().unwrap()) && told.contains("regular file"), "{told}");
        shown.channel.close().await;
    }
    std::fs::remove_file(&path).unwrap();
}

// spec: A97/jwt-file
#[tokio::test(start_paused = true)]
async fn a_token_in_a_file_is_read_again_before_it_expires() {
    let path = std::env::temp_dir().join(format!("switchboard-token-{}", std::process::id()));
    let mut shown = Shown::new(JwtFile::new(&path));

    let missing = shown.call().await.unwrap_err();
    assert_eq!(missing.code(), Code::UNAVAILABLE);
    assert!(missing.message().contains(path.to_str().unwrap()), "{missing}");
    // It rests before it looks again.
    let first = jwt("first", HOUR);
    std::fs::write(&path, format!("{first}\n")).unwrap();
    assert_eq!(shown.call().await.unwrap_err().code(), Code::UNAVAILABLE);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(shown.call().await.unwrap(), format!("Bearer {first}"));

    let second = jwt("second", HOUR);
    std::fs::write(&path, &second).unwrap();
    tokio::time::sleep(HOUR.saturating_sub(Duration::from_secs(95))).await;
    assert_eq!(shown.call().await.unwrap(), format!("Bearer {first}"));
    // From 90 s before its end on a call has the next one read, and does not wait for it.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let mut sent = shown.call().await.unwrap();
    assert_eq!(sent, format!("Bearer {first}"));
    while sent != format!("Bearer {second}") {
        tokio::task::yield_now().await;
        sent = shown.call().await.unwrap();
    }

    // What cannot be used does not replace what can, until that has expired.
    std::fs::write(&path, "no token").unwrap();
    tokio::time::sleep(HOUR.saturating_sub(Duration::from_secs(60))).await;
    assert_eq!(shown.call().await.unwrap(), format!("Bearer {second}"));
    tokio::time::sleep(Duration::from_secs(40)).await;
    let useless = shown.call().await.unwrap_err();
    assert_eq!(useless.code(), Code::UNAUTHENTICATED);
    let told = useless.message();
    assert!(told.contains(path.to_str().unwrap()) && told.contains("three parts"), "{told}");
    std::fs::remove_file(&path).unwrap();
    shown.channel.close().await;
}

/// Gives numbered tokens of this life, each after a second.
struct Numbered {
    life: Duration,
    fetches: Arc<AtomicUsize>,
}

impl TokenSource for Numbered {
    fn fetch(&self) -> BoxFuture<'_, Result<AccessToken, Status>> {
        Box::pin(async move {
            let number = self.fetches.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok(AccessToken::new(format!("token-{number}")).expires_in(self.life))
        })
    }
}

#[tokio::test(start_paused = true)]
async fn calls_share_one_fetch_and_none_takes_it_along_when_it_is_dropped() {
    let fetches = Arc::new(AtomicUsize::new(0));
    let source = Numbered { life: HOUR, fetches: fetches.clone() };
    let mut shown = Shown::new(OAuth2::new(source));
    // The call that has the fetch begun is dropped before it ends.
    let impatient = ask("Ada").timeout(Duration::from_millis(500));
    let status = shown.channel.invoke(&SAY_HELLO, impatient).await.unwrap_err();
    assert_eq!(status.code(), Code::DEADLINE_EXCEEDED);
    let calls: JoinSet<_> = (0..100)
        .map(|_| {
            let channel = shown.channel.clone();
            async move { channel.invoke(&SAY_HELLO, ask("Ada")).await.map(drop) }
        })
        .collect();
    let before = tokio::time::Instant::now();
    for ended in calls.join_all().await {
        ended.unwrap();
    }
    assert_eq!(before.elapsed().as_millis(), 500);
    assert_eq!(fetches.load(Ordering::SeqCst), 1);
    // 30 s before its end it is not sent any more.
    tokio::time::sleep(HOUR.saturating_sub(Duration::from_secs(31))).await;
    while let Ok(sent) = shown.authorizations.try_recv() {
        assert_eq!(sent, "Bearer token-0");
    }
    assert_eq!(shown.call().await.unwrap(), "Bearer token-1");
    shown.channel.close().await;
}

/// Does not give a token.
enum Broken {
    Panics,
    Hangs,
    Says(AccessToken),
}

impl TokenSource for Broken {
    fn fetch(&self) -> BoxFuture<'_, Result<AccessToken, Status>> {
        match self {
            Self::Panics => Box::pin(async { panic!("planted") }),
            Self::Hangs => Box::pin(future::pending()),
            Self::Says(token) => Box::pin(future::ready(Ok(token.clone()))),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_gives_no_token_fails_calls_and_hangs_none() {
    let expired = AccessToken::new("secret").expires_in(Duration::ZERO);
    for (source, code, reason) in [
        (Broken::Panics, Code::UNAVAILABLE, "panicked"),
        (Broken::Hangs, Code::UNAVAILABLE, "within 60 s"),
        (Broken::Says(AccessToken::new("sécret")), Code::UNAUTHENTICATED, "cannot carry"),
        (Broken::Says(expired), Code::UNAUTHENTICATED, "has expired"),
    ] {
        let mut shown = Shown::new(OAuth2::new(source));
        let status = shown.call().await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(reason), "{status}");
        assert!(!status.message().contains("cret"), "{status}");
        shown.channel.close().await;
    }
}

#[tokio::test]
async fn tokens_go_without_tls_where_it_is_said_that_they_may() {
    struct Fixed;
    impl TokenSource for Fixed {
        fn fetch(&self) -> BoxFuture<'_, Result<AccessToken, Status>> {
            Box::pin(future::ready(Ok(AccessToken::new("fetched"))))
        }
    }
    let file = std::env::temp_dir().join(format!("switchboard-mesh-{}", std::process::id()));
    let claims = URL_SAFE_NO_PAD.encode("{\"exp\":4000000000}");
    std::fs::write(&file, format!("e30.{claims}.c2ln")).unwrap();
    let greeter = Greeter::start();
    let free = SecurityLevel::None;
    let bearer = || BearerToken::new("fixed").unwrap();
    let add: [&dyn Fn(Credentials) -> Credentials; 3] = [
        &|all| all.with_call_credentials(bearer().min_security_level(free)),
        &|all| all.with_call_credentials(OAuth2::new(Fixed).min_security_level(free)),
        &|all| all.with_call_credentials(JwtFile::new(&file).min_security_level(free)),
    ];
    for add in add {
        for credentials in [Credentials::insecure(), Credentials::local()] {
            let builder = Channel::builder(target_of([&greeter])).credentials(add(credentials));
            let channel = builder.build().unwrap();
            channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
            channel.close().await;
        }
    }
    // And not where it is not.
    let builder = Channel::builder(target_of([&greeter]));
    let refused = builder.credentials(Credentials::local().with_call_credentials(bearer()));
    let channel = refused.build().unwrap();
    let status = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
    assert_eq!(status.code(), Code::UNAUTHENTICATED, "{status}");
    assert!(status.message().contains("min_security_level"), "{status}");
    channel.close().await;
    std::fs::remove_file(&file).unwrap();
}

#[tokio::test]
async fn header_compression_does_not_remember_what_is_marked() {
    let greeter = Greeter::start();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let sent = Arc::new(AtomicUsize::new(0));
    let (server, count) = (greeter.address(), sent.clone());
    let relay = tokio::spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        let (mut from, mut to) = client.into_split();
        let (mut answers, mut on) = TcpStream::connect(server).await.unwrap().into_split();
        tokio::spawn(async move { tokio::io::copy(&mut answers, &mut to).await });
        let mut piece = [0; 4_096];
        while let Ok(bytes @ 1..) = from.read(&mut piece).await {
            count.fetch_add(bytes, Ordering::SeqCst);
            on.write_all(&piece[..bytes]).await.unwrap();
        }
    });
    let channel = plaintext(address.to_string()).build().unwrap();
    let bytes_of = async |key: &str, is_marked: bool| {
        let mut request = ask("Ada");
        request.metadata_mut().insert(key, "x".repeat(400)).unwrap();
        assert!(!is_marked || request.metadata_mut().mark_sensitive(key));
        let before = sent.load(Ordering::SeqCst);
        channel.invoke(&SAY_HELLO, request).await.unwrap();
        sent.load(Ordering::SeqCst) - before
    };
    bytes_of("plain", false).await;
    let (remembered, first) = (bytes_of("plain", false).await, bytes_of("tenant", true).await);
    let again = bytes_of("tenant", true).await;
    // 400 times `x` are 350 bytes on the wire. Beside requests there are a few PINGs and the like.
    assert!(remembered < 200 && first > 350 && again > 350, "{remembered} {first} {again}");
    channel.close().await;
    relay.abort();
}
