//! Who calls, and how a server is told.

use std::future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use switchboard::{
    BearerToken, BoxFuture, BuildError, CallContext, CallCredentials, CallOptions, Channel,
    ChannelBuilder, Code, Credentials, CredentialsError, Metadata, SecurityLevel, Status,
    TlsConfig,
};

use crate::support::greeter::{BIDI_HELLO, Greeter, SAY_HELLO, ask, hello, target_of};
use crate::support::plaintext;
use crate::support::tls::{Certificate, Issuer, TlsServer, USUAL};

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
    let inspection = channel.inspect().await.to_string();
    assert!(inspection.contains("security privacy and integrity"), "{inspection}");
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

/// On a connection in memory, of which nothing is known.
struct Anywhere(BearerToken);
impl CallCredentials for Anywhere {
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

#[tokio::test]
async fn a_bearer_token_is_sent() {
    let (connector, mut listener) = switchboard::memory::pipe();
    let (told, mut tokens) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let stream = listener.accept().await.unwrap();
        let seen = move |head: &http::request::Parts| {
            told.send(head.headers["authorization"].to_str().unwrap().to_owned()).unwrap();
        };
        crate::support::mini::answer_all(stream, seen).await
    });
    let token = Anywhere(BearerToken::new("a.b.c").unwrap());
    let channel = plaintext("passthrough:server").connector(connector).build().unwrap();
    channel.invoke(&SAY_HELLO, ask("Ada").credentials(token)).await.unwrap();
    assert_eq!(tokens.recv().await.unwrap(), "Bearer a.b.c");
    channel.close().await;
}
