//! Servers behind a proxy.

use std::process::Command;
use std::time::Duration;

use switchboard::{
    Channel, ChannelBuilder, Code, ConnectivityState, Credentials, Dns, Proxy, Status, TlsConfig,
};

use crate::support::greeter::{Greeter, SAY_HELLO, ask};
use crate::support::proxy::{HttpProxy, Manner};
use crate::support::tls::{Certificate, Issuer, TlsServer, USUAL};
use crate::support::{ROUND_ROBIN, plaintext, until, until_state};

/// A channel to a name that nobody here knows, through `proxy`.
fn through(proxy: &HttpProxy) -> ChannelBuilder {
    let url = format!("http://{}", proxy.address());
    plaintext("greeter.invalid:50051").proxy(Proxy::http(&url).unwrap())
}

async fn failure(builder: &ChannelBuilder) -> Status {
    let channel = builder.build().unwrap();
    let status = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
    channel.close().await;
    status
}

// spec: A1/name-to-proxy
#[tokio::test]
async fn the_proxy_is_told_the_name_and_looks_it_up() {
    let greeter = Greeter::start();
    let address = greeter.address();
    for manner in [
        Manner::LeadsTo(address),
        Manner::LeadsAtOnceTo(address),
        Manner::LeadsAfterInterimAnswersTo(address),
    ] {
        let proxy = HttpProxy::start(manner).await;
        let channel = through(&proxy).user_agent("tester/1").build().unwrap();
        let reply = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
        assert_eq!(reply.peer().to_string(), "greeter.invalid:50051");
        let inspection = channel.inspect().await.to_string();
        assert!(inspection.contains("greeter.invalid:50051"), "{inspection}");
        channel.close().await;
        let requests = proxy.requests();
        assert_eq!(requests.len(), 1);
        let expected = "CONNECT greeter.invalid:50051 HTTP/1.1\r\nHost: greeter.invalid:50051\r\n\
                        User-Agent: tester/1 grpc-rust-switchboard/";
        assert!(requests[0].starts_with(expected), "{}", requests[0]);
    }
}

#[tokio::test]
async fn without_a_port_the_proxy_is_told_443() {
    let proxy = HttpProxy::start(Manner::Says("HTTP/1.1 502 Bad Gateway\r\n\r\n")).await;
    let url = format!("http://{}", proxy.address());
    for (target, expected) in [
        ("greeter.invalid", "greeter.invalid:443"),
        ("dns:///[2001:db8::1]", "[2001:db8::1]:443"),
        ("ipv4:192.0.2.1", "192.0.2.1:443"),
        ("passthrough:greeter.invalid:7", "greeter.invalid:7"),
    ] {
        let asked = proxy.requests().len();
        failure(&plaintext(target).proxy(Proxy::http(&url).unwrap())).await;
        let head = &proxy.requests()[asked];
        assert!(head.starts_with(&format!("CONNECT {expected} HTTP/1.1\r\n")), "{head}");
    }
}

#[tokio::test]
async fn names_that_are_looked_up_here_give_each_address_its_tunnel() {
    let greeter = Greeter::start();
    let proxy = HttpProxy::start(Manner::LeadsTo(greeter.address())).await;
    let hosts = std::env::temp_dir().join(format!("switchboard-proxy-{}", std::process::id()));
    let lines = ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(|ip| format!("{ip} greeter.invalid\n"));
    std::fs::write(&hosts, lines.concat()).unwrap();
    let builder = through(&proxy)
        .resolver(
            "dns",
            Dns::new().hosts_file(&hosts).name_servers(["127.0.0.1:1".parse().unwrap()]),
        )
        .default_service_config(ROUND_ROBIN);
    let channel = builder.clone().local_dns_resolution(true).build().unwrap();
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    until("each has its tunnel", async || proxy.requests().len() == 3).await;
    let mut asked: Vec<_> =
        proxy.requests().iter().map(|head| head.split(' ').nth(1).unwrap().to_owned()).collect();
    asked.sort();
    assert_eq!(asked, ["192.0.2.1:50051", "192.0.2.2:50051", "192.0.2.3:50051"]);
    channel.close().await;
    std::fs::remove_file(&hosts).unwrap();
    // Otherwise nobody looks, not even into the file, which is gone.
    let channel = builder.build().unwrap();
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    assert_eq!(proxy.requests().len(), 4);
    channel.close().await;
}

#[tokio::test]
async fn tls_goes_through_the_tunnel_and_is_for_the_target() {
    let (issuer, greeter) = (Issuer::new(), Greeter::start());
    let certificate = Certificate::of(&["greeter.invalid"]);
    let server = TlsServer::before(&issuer, certificate, USUAL, greeter.address()).await;
    let proxy = HttpProxy::start(Manner::LeadsTo(server.address())).await;
    let roots = TlsConfig::new().roots_pem(issuer.root_pem()).unwrap();
    let channel = through(&proxy).credentials(Credentials::tls_with(roots)).build().unwrap();
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    channel.close().await;
    assert_eq!(server.seen()[0].server_name.as_deref(), Some("greeter.invalid"));
}

#[tokio::test]
async fn a_proxy_on_this_machine_does_not_make_a_server_local() {
    let greeter = Greeter::start();
    let proxy = HttpProxy::start(Manner::LeadsTo(greeter.address())).await;
    let status = failure(&through(&proxy).credentials(Credentials::local())).await;
    assert!(status.message().contains("local credentials are for loopback"), "{status}");
}

#[tokio::test]
async fn a_proxy_that_wants_to_know_who_asks_is_told_and_nobody_else() {
    let greeter = Greeter::start();
    let proxy = HttpProxy::start(Manner::LeadsKnownOnesTo(greeter.address())).await;
    let with = |userinfo: &str| {
        let url = format!("http://{userinfo}{}", proxy.address());
        plaintext("greeter.invalid:1").proxy(Proxy::http(&url).unwrap())
    };
    let channel = with("user:p%3Aa%20ss@").build().unwrap();
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    let inspection = channel.inspect().await.to_string();
    assert!(!inspection.contains("dXNlcj"), "{inspection}");
    channel.close().await;
    for userinfo in ["", "user:wrong-one@"] {
        let status = failure(&with(userinfo)).await;
        assert_eq!(status.code(), Code::UNAVAILABLE);
        let expected = format!(
            "greeter.invalid:1: through the proxy {}: it answered `407 Proxy Authentication \
             Required`: give a user and a password in the proxy's URL",
            proxy.address()
        );
        assert!(status.message().contains(&expected), "{status}");
        assert!(!format!("{status:?}").contains("wrong-one"), "{status:?}");
    }
}

#[tokio::test]
async fn what_goes_wrong_at_the_proxy_is_said_in_a_sentence() {
    let long = Box::leak(format!("HTTP/1.1 200 OK\r\nA: {}", "x".repeat(9_000)).into_boxed_str());
    for (said, sentence) in [
        ("HTTP/1.1 403 Forbidden\r\n\r\n", "it answered `403 Forbidden`: it does not let"),
        ("HTTP/1.1 502 Bad Gateway\r\n\r\n", "it answered `502 Bad Gateway`"),
        ("SSH-2.0-OpenSSH_9\r\n", "it does not answer in HTTP, but begins with `S`"),
        ("HTTP/1.1 200 OK\r\n", "it closed the connection after 17 bytes of an answer"),
        ("", "it closed the connection without an answer"),
        (long, "its answer has more than 8192 bytes of headers"),
    ] {
        let proxy = HttpProxy::start(Manner::Says(said)).await;
        let status = failure(&through(&proxy)).await;
        assert_eq!(status.code(), Code::UNAVAILABLE);
        let expected =
            format!("greeter.invalid:50051: through the proxy {}: {sentence}", proxy.address());
        assert!(status.message().contains(&expected), "{status}");
    }
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let proxy = Proxy::http(&nobody.to_string()).unwrap();
    let status = failure(&plaintext("greeter.invalid").proxy(proxy)).await;
    let expected = format!("through the proxy {nobody}: connection refused");
    assert!(status.message().contains(&expected), "{status}");
}

#[tokio::test]
async fn a_proxy_that_says_nothing_is_given_up_at_the_connect_deadline() {
    let proxy = HttpProxy::start(Manner::IsSilent).await;
    let builder = through(&proxy).min_connect_timeout(Duration::from_millis(50));
    let status = failure(&builder).await;
    assert_eq!(status.code(), Code::UNAVAILABLE);
    let expected = "greeter.invalid:50051: the connect deadline passed while connecting";
    assert!(status.message().contains(expected), "{status}");
}

#[tokio::test]
async fn servers_on_the_list_are_reached_without_the_proxy() {
    let greeter = Greeter::start();
    let proxy = HttpProxy::start(Manner::Says("HTTP/1.1 502 Bad Gateway\r\n\r\n")).await;
    let port = greeter.address().port();
    for (target, list) in [
        (format!("127.0.0.1:{port}"), "127.0.0.0/8".to_owned()),
        (format!("localhost:{port}"), format!("localhost:{port}")),
        (format!("ipv4:127.0.0.1:{port}"), "127.0.0.1".to_owned()),
        (format!("passthrough:localhost:{port}"), "*".to_owned()),
    ] {
        let direct = Proxy::http(&proxy.address().to_string()).unwrap().bypass(&list).unwrap();
        let channel = plaintext(&target).proxy(direct).build().unwrap();
        channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
        channel.close().await;
    }
    assert_eq!(proxy.requests(), Vec::<String>::new());
}

#[tokio::test]
async fn a_connection_that_is_lost_comes_back_through_the_proxy() {
    let mut greeter = Greeter::start();
    let proxy = HttpProxy::start(Manner::LeadsTo(greeter.address())).await;
    let channel = through(&proxy).build().unwrap();
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    greeter.stop_gracefully().await;
    until_state(&channel, ConnectivityState::Idle).await;
    greeter.start_again();
    channel.invoke(&SAY_HELLO, ask("Ada").wait_for_ready(true)).await.unwrap();
    assert_eq!(proxy.requests().len(), 2);
    channel.close().await;
}

/// Where this is set, the next test is a child of itself.
const IN_CHILD: &str = "SWITCHBOARD_TEST_PROXY_IN_ENVIRONMENT";

#[tokio::test]
async fn the_environments_proxy_is_the_default() {
    let insecure = |target: &str| Channel::builder(target).credentials(Credentials::insecure());
    if let Ok(local) = std::env::var(IN_CHILD) {
        // What the environment says of proxies is no concern of a channel within the machine.
        let channel = insecure(&local).build().unwrap();
        channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
        channel.close().await;
        if std::env::var("HTTPS_PROXY").unwrap().starts_with("socks5") {
            let status = failure(&insecure("greeter.invalid:50051")).await;
            assert_eq!(status.code(), Code::UNAVAILABLE, "{status}");
            let text = status.to_string();
            assert!(text.contains("HTTPS_PROXY") && text.contains("`socks5://`"), "{text}");
            return;
        }
        let channel = insecure("greeter.invalid:50051").build().unwrap();
        channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
        channel.close().await;
        let direct = failure(&insecure("passthrough:nowhere").no_proxy()).await;
        assert!(direct.message().contains("no address that TCP can dial"), "{direct}");
        let (connector, _) = switchboard::memory::pipe();
        let own = failure(&insecure("passthrough:server:1").connector(connector)).await;
        assert!(own.message().contains("in memory"), "{own}");
        return;
    }
    let greeter = Greeter::start();
    let proxy = HttpProxy::start(Manner::LeadsTo(greeter.address())).await;
    let (passed, said) = child_with(&greeter, format!("http://{}", proxy.address())).await;
    assert!(passed && said.contains("1 passed"), "{said}");
    assert_eq!(proxy.requests().len(), 1);

    let (passed, said) = child_with(&greeter, "socks5://127.0.0.1:1".to_owned()).await;
    assert!(passed && said.contains("1 passed"), "{said}");
}

/// Whether the test above passes in a process with this `HTTPS_PROXY`, and what it says.
async fn child_with(greeter: &Greeter, proxy: String) -> (bool, String) {
    let local = greeter.address().to_string();
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "proxy::the_environments_proxy_is_the_default"]);
    child.envs([
        ("HTTPS_PROXY", &*proxy),
        ("NO_PROXY", "192.168.*,example.com"),
        (IN_CHILD, &*local),
    ]);
    let output = tokio::task::spawn_blocking(move || child.output()).await.unwrap().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}
