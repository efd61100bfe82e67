//! Channels over TLS, and how they say what is wrong with it.

use std::time::Duration;

use switchboard::{
    BuildError, CallOptions, Channel, ChannelBuilder, Code, Credentials, CredentialsError, Io,
    Status, TlsConfig,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::support::greeter::{Greeter, LOTS_OF_REPLIES, SAY_HELLO, ask, hello, target_of};
use crate::support::tls::{BOTH, Certificate, Issuer, Manner, ONLY_12, ONLY_13, TlsServer, USUAL};
use crate::support::{Load, plaintext};

fn trusting(issuer: &Issuer) -> TlsConfig {
    TlsConfig::new().roots_pem(issuer.root_pem()).unwrap()
}

fn secured(target: impl std::fmt::Display, config: TlsConfig) -> ChannelBuilder {
    Channel::builder(target.to_string()).credentials(Credentials::tls_with(config))
}

/// What a call on such a channel fails with.
async fn failure(builder: &ChannelBuilder) -> Status {
    let channel = builder.build().unwrap();
    let status = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
    channel.close().await;
    assert_eq!(status.code(), Code::UNAVAILABLE, "{status}");
    status
}

/// What a call to `server` fails with, whose certificate is by `issuer`.
async fn failure_at(server: &TlsServer, issuer: &Issuer) -> Status {
    failure(&secured(server.address(), trusting(issuer))).await
}

#[tokio::test]
async fn calls_and_streams_go_over_tls() {
    let (issuer, greeter) = (Issuer::new(), Greeter::start());
    let certificate = Certificate::of(&["localhost"]);
    let server = TlsServer::before(&issuer, certificate, USUAL, greeter.address()).await;
    let target = format!("localhost:{}", server.address().port());
    let channel = secured(target, trusting(&issuer)).build().unwrap();
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    let mut stream = channel.new_stream(&LOTS_OF_REPLIES, CallOptions::default()).await.unwrap();
    let names = vec!["Ada"; 5_000].join(" ");
    stream.send(hello(&names)).await.unwrap();
    let mut replies = 0;
    while stream.recv().await.unwrap().is_some() {
        replies += 1;
    }
    assert_eq!(replies, 5_000);
    let [seen] = server.seen().try_into().unwrap();
    assert_eq!(seen.server_name.as_deref(), Some("localhost"));
    channel.close().await;
}

#[tokio::test]
async fn a_server_is_addressed_by_the_name_that_it_must_prove() {
    let issuer = Issuer::new();
    for versions in [BOTH, ONLY_12, ONLY_13] {
        let certificate = Certificate::of(&["greeter.example", "127.0.0.1"]);
        let server = TlsServer::start(&issuer, certificate, Manner { versions, ..USUAL }).await;
        let address = server.address();
        let rows = [
            // The target's own, which is an address and as such no name to ask for.
            (secured(address, trusting(&issuer)), None, address.to_string()),
            // The credentials'.
            (
                secured(address, trusting(&issuer).server_name("greeter.example")),
                Some("greeter.example"),
                "greeter.example".to_owned(),
            ),
            // The builder's; and the same host in both.
            (
                secured(address, trusting(&issuer).server_name("greeter.example"))
                    .authority("greeter.example:80"),
                Some("greeter.example"),
                "greeter.example:80".to_owned(),
            ),
        ];
        for (builder, server_name, authority) in rows {
            let channel = builder.build().unwrap();
            channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
            let seen = server.seen().pop().unwrap();
            assert_eq!(seen.server_name.as_deref(), server_name);
            assert_eq!(seen.calls, [format!("https {authority}")]);
            channel.close().await;
        }
    }
}

#[tokio::test]
async fn connections_of_a_channel_resume_their_session() {
    let issuer = Issuer::new();
    let server = TlsServer::start(&issuer, Certificate::of(&["127.0.0.1"]), USUAL).await;
    let idle = Duration::from_millis(20);
    let builder = secured(server.address(), trusting(&issuer)).idle_timeout(idle);
    let channel = builder.build().unwrap();
    for _ in 0..2 {
        channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
        crate::support::until_state(&channel, switchboard::ConnectivityState::Idle).await;
    }
    let resumed: Vec<_> = server.seen().iter().map(|connection| connection.resumed).collect();
    assert_eq!(resumed, [false, true]);
    channel.close().await;
}

#[tokio::test]
async fn a_certificate_that_will_not_do_is_described() {
    let (issuer, stranger) = (Issuer::new(), Issuer::named("Strange Certificates"));
    let here = || Certificate::of(&["127.0.0.1"]);
    let other = Certificate::of(&["greeter.example", "*.greeter.example"]);
    let rows = [
        (
            TlsServer::start(&issuer, other, USUAL).await,
            "the server's certificate is for `greeter.example` and `*.greeter.example`, and not \
             for `127.0.0.1`",
        ),
        (
            TlsServer::start(&issuer, here().valid(2020, 2024), USUAL).await,
            "the server's certificate expired on 2024-01-01",
        ),
        (
            TlsServer::start(&issuer, here().valid(2980, 2981), USUAL).await,
            "the server's certificate is not valid before 2980-01-01",
        ),
        (
            TlsServer::start(&issuer, here().of_an_authority(), USUAL).await,
            "the server shows a certificate authority's certificate as its own",
        ),
        (
            TlsServer::start(&stranger, here(), USUAL).await,
            "the server's certificate comes from an issuer that is not among the trusted roots",
        ),
    ];
    for (server, sentence) in rows {
        let status = failure_at(&server, &issuer).await;
        let expected = format!("{}: TLS handshake: {sentence}", server.address());
        assert!(status.message().contains(&expected), "{status}");
        assert!(std::error::Error::source(&status).is_some());
        assert!(server.seen().is_empty());
    }
    // And by the platform's roots.
    let server = TlsServer::start(&stranger, here(), USUAL).await;
    let builder = Channel::builder(server.address().to_string()).credentials(Credentials::tls());
    let status = failure(&builder).await;
    assert!(status.message().contains(&server.address().to_string()), "{status}");
    assert!(status.message().contains("platform's"), "{status}");
}

#[tokio::test]
async fn a_certificate_with_thousands_of_names_makes_no_long_text() {
    let issuer = Issuer::new();
    let names: Vec<_> = (0..2_400).map(|nth| format!("{nth}.greeter.example")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let server = TlsServer::start(&issuer, Certificate::of(&names), USUAL).await;
    let status = failure_at(&server, &issuer).await;
    assert!(status.message().contains("and 2392 more names"), "{status}");
    assert!(status.to_string().len() < 1_024, "{status}");
    assert!(format!("{status:?}").len() < 16 * 1_024, "{status:?}");
}

#[tokio::test]
async fn a_server_without_http_2_is_refused() {
    let issuer = Issuer::new();
    let rows: [(&[&str], &str); 2] = [
        (&[], "the server does not offer HTTP/2 (ALPN `h2`): it agreed to no protocol"),
        (&["http/1.1"], "the server does not offer HTTP/2 (ALPN `h2`)"),
    ];
    for (protocols, sentence) in rows {
        let manner = Manner { protocols, ..USUAL };
        let server = TlsServer::start(&issuer, Certificate::of(&["127.0.0.1"]), manner).await;
        let status = failure_at(&server, &issuer).await;
        let expected = format!("{}: TLS handshake: {sentence}", server.address());
        assert!(status.message().contains(&expected), "{status}");
    }
}

#[tokio::test]
async fn a_server_that_wants_a_client_certificate_is_told_from_one_that_is_down() {
    let issuer = Issuer::new();
    for versions in [ONLY_12, ONLY_13] {
        let manner = Manner { versions, wants_client_certificate: true, ..USUAL };
        let server = TlsServer::start(&issuer, Certificate::of(&["127.0.0.1"]), manner).await;
        let status = failure_at(&server, &issuer).await;
        assert!(status.message().contains(&server.address().to_string()), "{status}");
        assert!(status.message().contains("wants a client certificate"), "{status}");
    }
}

#[tokio::test]
async fn a_client_certificate_opens_the_door_that_is_closed_without() {
    let issuer = Issuer::new();
    for versions in [ONLY_12, ONLY_13] {
        let manner = Manner { versions, wants_client_certificate: true, ..USUAL };
        let server = TlsServer::start(&issuer, Certificate::of(&["127.0.0.1"]), manner).await;
        let (chain, key) = issuer.issue(&Certificate::of(&["client.example"]));
        let config = trusting(&issuer).client_certificate_pem(chain, key).unwrap();
        let channel = secured(server.address(), config).build().unwrap();
        channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
        channel.close().await;

        let stranger = Issuer::named("Strange Certificates");
        let (chain, key) = stranger.issue(&Certificate::of(&["client.example"]));
        let config = trusting(&issuer).client_certificate_pem(chain, key).unwrap();
        let status = failure(&secured(server.address(), config)).await;
        assert!(status.message().contains("the server refuses"), "{status}");
    }
}

/// A folder for files of one test.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("switchboard-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    /// As rotation does it: never a file that is half of each.
    fn write(&self, name: &str, text: &str) -> std::path::PathBuf {
        let (path, fresh) = (self.0.join(name), self.0.join("fresh"));
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(fresh, &path).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn certificates_rotated_on_disk_cost_no_call_and_serve_new_connections() {
    let (old, new) = (Issuer::named("Old Certificates"), Issuer::named("New Certificates"));
    let greeter = Greeter::start();
    let certificate = || Certificate::of(&["greeter.example"]);
    let manner = || Manner { wants_client_certificate: true, ..USUAL };
    let before = TlsServer::before(&old, certificate(), manner(), greeter.address()).await;
    let after = TlsServer::before(&new, certificate(), manner(), greeter.address()).await;

    let folder = Folder::new("rotation");
    let write = |issuer: &Issuer| {
        let (chain, key) = issuer.issue(&Certificate::of(&["client.example"]));
        (
            folder.write("roots.pem", &issuer.root_pem()),
            folder.write("client.pem", &chain),
            folder.write("client.key", &key),
        )
    };
    let (roots, chain, key) = write(&old);
    let config = TlsConfig::new().roots_file(roots).unwrap();
    let config = config.client_certificate_files(chain, key).unwrap();
    let names = switchboard::ManualResolver::new();
    names.set([before.address().into()]);
    let channel = secured("manual:greeter", config.server_name("greeter.example"))
        .resolver("manual", names.clone())
        .default_service_config(crate::support::ROUND_ROBIN)
        .build()
        .unwrap();
    let load = Load::start(&channel, false);
    load.more_calls(500).await;
    write(&new);
    load.more_calls(500).await;
    assert!(after.seen().is_empty());
    names.set([after.address().into()]);
    crate::support::until("the new server is used", async || !after.seen().is_empty()).await;
    load.more_calls(500).await;
    let failures = load.stop().await;
    assert!(failures.is_empty(), "{}: {}", failures.len(), failures[0]);
    assert_eq!((before.seen().len(), after.seen().len()), (1, 1));
    channel.close().await;
}

#[tokio::test]
async fn files_that_have_become_unusable_do_not_stop_new_connections() {
    let issuer = Issuer::new();
    let server = TlsServer::start(&issuer, Certificate::of(&["127.0.0.1"]), USUAL).await;
    let folder = Folder::new("unusable");
    let roots = folder.write("roots.pem", &issuer.root_pem());
    let channel = secured(server.address(), TlsConfig::new().roots_file(&roots).unwrap())
        .idle_timeout(Duration::from_millis(20))
        .build()
        .unwrap();
    for damage in ["", "not PEM"] {
        channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
        crate::support::until_state(&channel, switchboard::ConnectivityState::Idle).await;
        folder.write("roots.pem", damage);
    }
    std::fs::remove_file(&roots).unwrap();
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    assert_eq!(server.seen().len(), 3);
    channel.close().await;
}

/// Puts a pipe in the place of a file. Nobody writes to it: whoever opens it waits for ever.
#[cfg(unix)]
fn make_pipe(path: &std::path::Path) {
    std::fs::remove_file(path).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[cfg(unix)]
#[tokio::test]
async fn files_that_have_become_pipes_hold_none_of_a_hundred_connections_up() {
    let issuer = Issuer::new();
    let server = TlsServer::start(&issuer, Certificate::of(&["127.0.0.1"]), USUAL).await;
    let folder = Folder::new("pipes");
    let roots = folder.write("roots.pem", &issuer.root_pem());
    let (chain, key) = issuer.issue(&Certificate::of(&["client.example"]));
    let (chain, key) = (folder.write("client.pem", &chain), folder.write("client.key", &key));
    let config = TlsConfig::new().roots_file(&roots).unwrap();
    let config = config.client_certificate_files(&chain, &key).unwrap();
    // Before the first connection.
    for path in [&roots, &chain, &key] {
        make_pipe(path);
    }
    let names = switchboard::ManualResolver::new();
    // One address a hundred times would be one endpoint.
    let relays = futures_util::future::join_all((0..100).map(|_| relay_to(server.address()))).await;
    names.set(relays.iter().map(|address| (*address).into()));
    let channel = secured("manual:greeter", config.server_name("127.0.0.1"))
        .resolver("manual", names)
        .default_service_config(crate::support::ROUND_ROBIN)
        .build()
        .unwrap();
    crate::support::until("all are connected", async || {
        channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
        server.seen().len() == 100
    })
    .await;
    channel.close().await;
}

/// Passes what comes on to `server`, at an address of its own.
#[cfg(unix)]
async fn relay_to(server: std::net::SocketAddr) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut server = tokio::net::TcpStream::connect(server).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    address
}

#[cfg(unix)]
#[tokio::test]
async fn files_that_are_pipes_are_refused_when_they_are_given() {
    let folder = Folder::new("pipe-given");
    let path = folder.write("roots.pem", "");
    make_pipe(&path);
    let refused = TlsConfig::new().roots_file(&path).unwrap_err();
    assert_eq!(
        refused.to_string(),
        format!("cannot read {}: it is a pipe: expected a regular file", path.display())
    );
}

#[tokio::test]
async fn a_verifier_of_ones_own_has_the_last_word() {
    use tokio_rustls::rustls;
    use tokio_rustls::rustls::client::danger::{
        HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
    };
    use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};

    /// Trusts whoever shows one certificate.
    #[derive(Debug)]
    struct Pinned(Vec<u8>);
    impl ServerCertVerifier for Pinned {
        fn verify_server_cert(
            &self,
            shown: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            if shown.as_ref() == self.0 {
                return Ok(ServerCertVerified::assertion());
            }
            Err(rustls::Error::General("it is not the pinned certificate".to_owned()))
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

    let issuer = Issuer::new();
    let server = TlsServer::start(&issuer, Certificate::of(&["elsewhere.example"]), USUAL).await;
    let pinned =
        |der: Vec<u8>| TlsConfig::new().dangerous_verifier(std::sync::Arc::new(Pinned(der)));
    let channel = secured(server.address(), pinned(server.certificate().to_vec())).build().unwrap();
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    channel.close().await;
    let status = failure(&secured(server.address(), pinned(Vec::new()))).await;
    assert!(status.message().contains("it is not the pinned certificate"), "{status}");
}

#[tokio::test]
async fn one_side_with_tls_and_the_other_without_are_told_so() {
    let (issuer, greeter) = (Issuer::new(), Greeter::start());
    let status = failure(&secured(greeter.address(), trusting(&issuer))).await;
    let expected =
        format!("{}: TLS handshake: what the server answered is no TLS", greeter.address());
    assert!(status.message().contains(&expected), "{status}");

    let server = TlsServer::start(&issuer, Certificate::of(&["127.0.0.1"]), USUAL).await;
    let status = failure(&plaintext(server.address().to_string())).await;
    let expected = format!(
        "{}: the server does not speak HTTP/2: it answered with a TLS alert",
        server.address()
    );
    assert!(status.message().contains(&expected), "{status}");
}

#[tokio::test]
async fn a_server_that_goes_silent_or_away_in_the_middle_is_given_up() {
    let issuer = Issuer::new();
    let rows = [
        (false, "TLS handshake: the server closed the connection in the middle"),
        (true, "the connect deadline passed while securing the connection"),
    ];
    for (stays, sentence) in rows {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            // The greeting of the client is read, so that closing is no reset.
            let mut greeting = [0; 4096];
            assert!(stream.read(&mut greeting).await.unwrap() > 0);
            let kept = stays.then_some(stream);
            std::future::pending::<()>().await;
            drop(kept);
        });
        let builder = secured(address, trusting(&issuer))
            .min_connect_timeout(Duration::from_millis(100))
            .backoff(switchboard::BackoffConfig {
                base_delay: Duration::from_millis(100),
                ..Default::default()
            });
        let status = failure(&builder).await;
        assert!(status.message().contains(&format!("{address}: {sentence}")), "{status}");
        server.abort();
    }
}

#[tokio::test]
async fn a_connection_that_breaks_under_tls_says_so_in_plain_words() {
    let (issuer, greeter) = (Issuer::new(), Greeter::start());
    greeter.hold();
    let certificate = Certificate::of(&["127.0.0.1"]);
    let server = TlsServer::before(&issuer, certificate, USUAL, greeter.address()).await;
    let channel = secured(server.address(), trusting(&issuer)).build().unwrap();
    let call = tokio::spawn({
        let channel = channel.clone();
        async move { channel.invoke(&SAY_HELLO, ask("Ada")).await }
    });
    crate::support::until("the call is held", async || greeter.open_calls() == 1).await;
    drop(greeter);
    let status = call.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::UNAVAILABLE);
    let expected = format!("{}: the server closed the connection", server.address());
    assert!(status.message().contains(&expected), "{status}");
    channel.close().await;
}

#[test]
fn roots_and_names_are_checked_where_they_are_given() {
    let issuer = Issuer::new();
    let broken = issuer.root_pem().replace('\n', "\n!");
    let not_der = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
    let rows = [
        ("", "there is no certificate in the PEM text: expected PEM"),
        ("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n", "there is no certificate"),
        (broken.as_str(), "certificate 1 in the PEM text cannot be used"),
        (not_der, "certificate 1 in the PEM text cannot be used"),
    ];
    for (pem, part) in rows {
        let error = TlsConfig::new().roots_pem(pem).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    let (chain, key) = issuer.issue(&Certificate::of(&["client.example"]));
    let (_, other_key) = issuer.issue(&Certificate::of(&["client.example"]));
    let rows = [
        ("", key.as_str(), "there is no certificate in the PEM text"),
        (chain.as_str(), "", "the private key in the PEM text cannot be used: there is none"),
        (chain.as_str(), other_key.as_str(), "it does not belong to the certificate in the PEM"),
    ];
    for (chain, key, part) in rows {
        let error = TlsConfig::new().client_certificate_pem(chain, key).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    let error = TlsConfig::new().roots_file("no/such/file.pem").unwrap_err().to_string();
    assert_eq!(error, "cannot read no/such/file.pem: no such file or directory (os error 2)");

    let named = |name: &str| Credentials::tls_with(TlsConfig::new().server_name(name));
    let builder = Channel::builder("greeter:1");
    let error = builder.clone().credentials(named("a b")).build().unwrap_err();
    assert!(matches!(error, BuildError::InvalidAuthority(_)), "{error}");
    let error = builder.clone().credentials(named("-.-")).build().unwrap_err();
    let expected = BuildError::InvalidCredentials(CredentialsError::InvalidServerName {
        name: "-.-".to_owned(),
    });
    assert_eq!(error, expected);
    let error = builder.authority("one:1").credentials(named("two:1")).build().unwrap_err();
    assert!(error.to_string().contains("`one:1` and the server name of the credentials `two:1`"));
}

/// Wherever this goes, it may not be here.
struct Elsewhere;
impl switchboard::Connect for Elsewhere {
    fn connect<'a>(
        &'a self,
        _: &'a switchboard::Address,
    ) -> switchboard::BoxFuture<'a, std::io::Result<Io>> {
        Box::pin(async {
            let (near, mut far) = tokio::io::duplex(64);
            tokio::spawn(async move { far.write_all(b"hi").await });
            Ok(Io::new(near))
        })
    }
}

#[tokio::test]
async fn local_credentials_do_not_leave_the_machine() {
    let greeter = [Greeter::start()];
    let local = |target: String| Channel::builder(target).credentials(Credentials::local());
    let channel = local(target_of(&greeter)).build().unwrap();
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    channel.close().await;

    let status = failure(&local("ipv4:10.0.0.7:80".to_owned()).connector(Elsewhere)).await;
    let expected = "10.0.0.7:80: local credentials are for loopback addresses and Unix sockets";
    assert!(status.message().contains(expected), "{status}");
}

#[tokio::test]
async fn roots_are_trusted_in_addition_to_others() {
    let (ours, theirs, nobodys) = (Issuer::new(), Issuer::named("Theirs"), Issuer::named("No"));
    let here = || Certificate::of(&["127.0.0.1"]);
    let servers = [
        TlsServer::start(&ours, here(), USUAL).await,
        TlsServer::start(&theirs, here(), USUAL).await,
    ];
    let stranger = TlsServer::start(&nobodys, here(), USUAL).await;
    let folder = Folder::new("extra");
    let file = folder.write("extra.pem", &theirs.root_pem());
    let given = trusting(&ours).extra_roots_pem(theirs.root_pem()).unwrap();
    let from_file = trusting(&ours).extra_roots_file(&file).unwrap();
    let beside_platform =
        TlsConfig::new().extra_roots_pem([ours.root_pem(), theirs.root_pem()].concat()).unwrap();
    let trusted = [
        (given, "the roots in the PEM text and those in the PEM text".to_owned()),
        (from_file, format!("the roots in the PEM text and those in {}", file.display())),
        (beside_platform, "the platform's roots and those in the PEM text".to_owned()),
    ];
    for (config, trusted) in trusted {
        for server in &servers {
            let channel = secured(server.address(), config.clone()).build().unwrap();
            channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
            channel.close().await;
        }
        let status = failure(&secured(stranger.address(), config)).await;
        let expected = format!(
            "comes from an issuer that is not among the trusted roots; wanted is `127.0.0.1`, and \
             trusted is {trusted}"
        );
        assert!(status.message().contains(&expected), "{status}");
    }
}

#[tokio::test]
async fn a_file_of_additional_roots_is_read_again_for_new_connections() {
    let (ours, theirs) = (Issuer::new(), Issuer::named("Theirs"));
    let server = TlsServer::start(&theirs, Certificate::of(&["127.0.0.1"]), USUAL).await;
    let folder = Folder::new("extra-again");
    let file = folder.write("extra.pem", &ours.root_pem());
    let config = trusting(&ours).extra_roots_file(&file).unwrap();
    let channel = secured(server.address(), config).build().unwrap();
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
    folder.write("extra.pem", &theirs.root_pem());
    channel.reset_connect_backoff();
    let request = ask("Ada").wait_for_ready(true).timeout(Duration::from_secs(20));
    channel.invoke(&SAY_HELLO, request).await.unwrap();
    channel.close().await;
}

#[test]
fn roots_that_cannot_be_added_are_refused() {
    use tokio_rustls::rustls::RootCertStore;
    use tokio_rustls::rustls::client::WebPkiServerVerifier;
    use tokio_rustls::rustls::crypto::aws_lc_rs;
    use tokio_rustls::rustls::pki_types::CertificateDer;
    use tokio_rustls::rustls::pki_types::pem::PemObject as _;

    let issuer = Issuer::new();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(issuer.root_pem().as_bytes()).unwrap()).unwrap();
    let provider = std::sync::Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider);
    let verifier = verifier.build().unwrap();
    let verifier = TlsConfig::new().dangerous_verifier(verifier);
    let error = verifier.extra_roots_pem(issuer.root_pem()).unwrap_err();
    assert_eq!(error, CredentialsError::RootsBesideVerifier);
    assert!(error.to_string().contains("where a verifier of the application judges"), "{error}");
    let error = TlsConfig::new().extra_roots_pem("no PEM").unwrap_err().to_string();
    assert!(error.contains("there is no certificate in the PEM text"), "{error}");
    let error = TlsConfig::new().extra_roots_file("no/such/file.pem").unwrap_err().to_string();
    assert!(error.contains("cannot read no/such/file.pem"), "{error}");
}

#[cfg(feature = "webpki-roots")]
#[tokio::test]
async fn mozillas_roots_are_compiled_in_and_may_have_others_beside_them() {
    let issuer = Issuer::new();
    let server = TlsServer::start(&issuer, Certificate::of(&["127.0.0.1"]), USUAL).await;
    let status = failure(&secured(server.address(), TlsConfig::new().webpki_roots())).await;
    assert!(status.message().contains("trusted is Mozilla's roots"), "{status}");
    let config = TlsConfig::new().webpki_roots().extra_roots_pem(issuer.root_pem()).unwrap();
    let channel = secured(server.address(), config).build().unwrap();
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    channel.close().await;
}

#[tokio::test]
async fn a_configuration_of_rustls_is_taken_as_it_is() {
    use tokio_rustls::rustls::crypto::aws_lc_rs;
    use tokio_rustls::rustls::pki_types::pem::PemObject as _;
    use tokio_rustls::rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer};

    let issuer = Issuer::new();
    let server = TlsServer::start(&issuer, Certificate::of(&["127.0.0.1"]), USUAL).await;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(issuer.root_pem().as_bytes()).unwrap()).unwrap();
    let config = |protocols: &[&str]| {
        let provider = std::sync::Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(roots.clone());
        let mut config = builder.with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|it| it.as_bytes().to_vec()).collect();
        config
    };
    for protocols in [&[][..], &["h2"], &["h2", "http/1.1"]] {
        let credentials = Credentials::rustls(config(protocols)).unwrap();
        let builder = Channel::builder(server.address().to_string()).credentials(credentials);
        let channel = builder.build().unwrap();
        channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
        // A certificate that is for another host proves nothing of this one.
        let elsewhere = ask("Ada").authority("elsewhere.example").unwrap();
        let status = channel.invoke(&SAY_HELLO, elsewhere).await.unwrap_err();
        assert_eq!(status.code(), Code::UNAVAILABLE, "{status}");
        channel.close().await;
    }
    let error = Credentials::rustls(config(&["http/1.1", "x\n"])).unwrap_err();
    let text = "the configuration of rustls offers http/1.1, x\\n and not h2";
    assert!(error.to_string().starts_with(text), "{error}");
    let stranger = Issuer::named("Other");
    let other = TlsServer::start(&stranger, Certificate::of(&["127.0.0.1"]), USUAL).await;
    let credentials = Credentials::rustls(config(&[])).unwrap();
    let target = other.address().to_string();
    let status = failure(&Channel::builder(target).credentials(credentials)).await;
    let text = "trusted is what a configuration of the application accepts";
    assert!(status.message().contains(text), "{status}");
}
