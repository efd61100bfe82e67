//! Targets, and resolvers of all kinds.

use std::sync::Arc;

use switchboard::{
    Address, BoxFuture, Code, ConnectivityState, Endpoint, ManualResolver, Refresh, Resolution,
    Resolve, ResolveError, Target,
};

use crate::support::greeter::{Greeter, SAY_HELLO, ask};
use crate::support::mini::answer_all;
use crate::support::{ROUND_ROBIN, close_without_leaks, plaintext, until, until_state};

#[tokio::test]
async fn every_built_in_scheme_reaches_the_server() {
    let greeter = [Greeter::start()];
    let port = greeter[0].address().port();
    let targets = [
        format!("ipv4:127.0.0.1:{port}"),
        format!("passthrough:///127.0.0.1:{port}"),
        format!("passthrough:localhost:{port}"),
        format!("dns:///127.0.0.1:{port}"),
        format!("dns:localhost:{port}"),
        format!("localhost:{port}"),
        format!("127.0.0.1:{port}"),
    ];
    for target in targets {
        let channel = plaintext(&target).build().unwrap();
        let reply = channel.invoke(&SAY_HELLO, ask("Ada")).await;
        assert!(reply.is_ok(), "{target}: {reply:?}");
        close_without_leaks(channel, &greeter).await;
    }
}

// spec: grpc/unix-names
#[cfg(unix)]
#[tokio::test]
async fn a_unix_socket_is_reached_and_its_authority_is_localhost() {
    for name in ["plain", "with blanks ", "ünï çødé \u{3000}", "100%", "50%20off"] {
        let id = std::process::id();
        let folder = std::env::temp_dir().join(format!("switchboard-{id}-{name}"));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("greeter.sock");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let (told, mut authorities) = tokio::sync::mpsc::unbounded_channel();
        let server = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let told = told.clone();
                let seen = move |head: &http::request::Parts| {
                    told.send(head.uri.authority().unwrap().to_string()).unwrap();
                };
                tokio::spawn(answer_all(stream, seen));
            }
        });
        // A `%` is always escaped; other characters may be.
        let path = path.to_str().unwrap();
        let written = path.replace('%', "%25");
        let escaped: String = path
            .bytes()
            .map(|byte| match byte {
                b'/' => "/".to_owned(),
                _ => format!("%{byte:02x}"),
            })
            .collect();
        for target in [
            format!("unix:{written}"),
            format!("unix://{written}"),
            format!("unix:{escaped}"),
            format!("unix://{escaped}"),
            format!("passthrough:///unix:{written}"),
        ] {
            let channel = plaintext(&target).build().unwrap();
            let reply = channel.invoke(&SAY_HELLO, ask("Ada")).await;
            assert!(reply.is_ok(), "{target}: {reply:?}");
            let authority = authorities.recv().await.unwrap();
            assert!(authority == "localhost" || target.starts_with("passthrough"), "{authority}");
            channel.close().await;
        }
        server.abort();
        std::fs::remove_dir_all(&folder).unwrap();
        let gone = plaintext(format!("unix:{written}")).build().unwrap();
        let status = gone.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
        assert_eq!(status.code(), Code::UNAVAILABLE);
        assert!(status.message().contains(": no such file or directory"), "{status}");
        close_without_leaks(gone, &[]).await;
    }
}

/// On this machine's own interface, which takes a zone for its address too.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_address_with_a_zone_is_reached_and_the_zone_is_told_to_nobody() {
    let Ok(listener) = tokio::net::TcpListener::bind("[::1]:0").await else {
        return; // This machine has no IPv6.
    };
    let port = listener.local_addr().unwrap().port();
    let (told, mut authorities) = tokio::sync::mpsc::unbounded_channel();
    let server = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let told = told.clone();
            let seen = move |head: &http::request::Parts| {
                told.send(head.uri.authority().unwrap().to_string()).unwrap();
            };
            tokio::spawn(answer_all(stream, seen));
        }
    });
    for target in [
        format!("ipv6:[::1%25lo]:{port}"),
        format!("ipv6:[::1%lo]:{port}"),
        format!("passthrough:///[::1%25lo]:{port}"),
        format!("dns:///[::1%25lo]:{port}"),
        format!("[::1%lo]:{port}"),
    ] {
        let channel = plaintext(&target).build().unwrap();
        let reply = channel.invoke(&SAY_HELLO, ask("Ada")).await;
        assert!(reply.is_ok(), "{target}: {reply:?}");
        let authority = authorities.recv().await.unwrap();
        assert!(!authority.contains('%'), "{target}: {authority}");
        channel.close().await;
    }
    server.abort();
    for target in ["ipv6:[fe80::1%25nosuch]:1", "dns:///[fe80::1%25nosuch]:1", "[fe80::1%nosuch]:1"]
    {
        let error = plaintext(target).build().unwrap_err().to_string();
        assert!(error.contains("this machine has no interface `nosuch`"), "{target}: {error}");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_abstract_unix_socket_is_reached() {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixListener};

    let name = format!("switchboard {} ü", std::process::id());
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap());
    let listener = listener.unwrap();
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::UnixListener::from_std(listener).unwrap();
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        answer_all(stream, |_| ()).await
    });
    let channel = plaintext(format!("unix-abstract:{name}")).build().unwrap();
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    channel.close().await;
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_resolver_of_ones_own_serves_its_scheme() {
    struct Registry(Endpoint);
    impl Resolve for Registry {
        fn resolve(&mut self) -> BoxFuture<'_, Result<Resolution, ResolveError>> {
            let endpoint = self.0.clone();
            Box::pin(async move { Ok(Resolution::new([endpoint])) })
        }
        fn refresh(&self) -> Refresh {
            Refresh::Never
        }
    }
    let greeter = [Greeter::start()];
    let address = greeter[0].address();
    let resolver = move |target: &Target| -> Result<Box<dyn Resolve>, _> {
        match target.endpoint() {
            "greeter" => Ok(Box::new(Registry(address.into())) as Box<dyn Resolve>),
            other => Err(target.invalid(format!("there is no service `{other}`"))),
        }
    };
    let builder = plaintext("registry:///greeter").resolver("registry", resolver);
    let channel = builder.build().unwrap();
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    close_without_leaks(channel, &greeter).await;
    let unknown = plaintext("registry:///other").resolver("registry", resolver).build();
    assert!(unknown.unwrap_err().to_string().contains("there is no service `other`"));
}

#[tokio::test]
async fn calls_follow_the_list_of_endpoints() {
    let greeters = [Greeter::start(), Greeter::start()];
    let manual = ManualResolver::new();
    manual.set([Endpoint::from(greeters[0].address())]);
    let channel = plaintext("manual:///greeter")
        .resolver("manual", manual.clone())
        .default_service_config(ROUND_ROBIN)
        .build()
        .unwrap();
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    manual.set([Endpoint::from(greeters[1].address())]);
    until("the second is used", async || {
        channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
        greeters[1].received() > 0
    })
    .await;
    until("the first is left", async || greeters[0].connections() == 0).await;
    close_without_leaks(channel, &greeters).await;
}

#[tokio::test]
async fn pick_first_takes_the_next_address_when_the_first_refuses() {
    let greeter = [Greeter::start()];
    let target = format!("ipv4:127.0.0.1:1,{}", greeter[0].address());
    let channel = plaintext(target).build().unwrap();
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn a_resolution_that_fails_fails_calls_until_one_succeeds() {
    let greeter = [Greeter::start()];
    let manual = ManualResolver::new();
    manual.fail(ResolveError::new("the registry is on fire"));
    let channel =
        plaintext("manual:///greeter").resolver("manual", manual.clone()).build().unwrap();
    let status = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
    assert_eq!(status.code(), Code::UNAVAILABLE);
    assert!(status.message().contains("the registry is on fire"), "{status}");
    let waiting = tokio::spawn({
        let channel = channel.clone();
        let request = ask("Ada").wait_for_ready(true);
        async move { channel.invoke(&SAY_HELLO, request).await.map(drop) }
    });
    manual.set([Endpoint::from(greeter[0].address())]);
    waiting.await.unwrap().unwrap();
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn no_endpoints_are_a_failure_that_says_so() {
    let manual = ManualResolver::new();
    manual.set([]);
    let channel = plaintext("manual:///greeter")
        .resolver("manual", manual.clone())
        .default_service_config(ROUND_ROBIN)
        .build()
        .unwrap();
    let status = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
    assert!(status.message().contains("no children to pick from"), "{status}");
    close_without_leaks(channel, &[]).await;
}

#[tokio::test]
async fn a_service_config_of_the_resolver_chooses_the_policy_and_a_bad_one_is_refused() {
    let greeters = [Greeter::start(), Greeter::start()];
    let endpoints = || greeters.iter().map(|it| Endpoint::from(it.address()));
    let manual = ManualResolver::new();
    manual.set_resolution(Resolution::new(endpoints()).with_service_config("{not json"));
    let channel =
        plaintext("manual:///greeter").resolver("manual", manual.clone()).build().unwrap();
    let status = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
    assert!(status.message().contains("service config"), "{status}");
    manual.set_resolution(Resolution::new(endpoints()).with_service_config(ROUND_ROBIN));
    until_state(&channel, ConnectivityState::Ready).await;
    until("both are used", async || {
        channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
        greeters.iter().all(|it| it.received() > 0)
    })
    .await;
    assert_eq!(channel.inspect().await.configured_policy, "round_robin");
    close_without_leaks(channel, &greeters).await;
}

#[tokio::test]
async fn a_resolver_that_panics_is_built_again() {
    struct Once(Arc<std::sync::atomic::AtomicU32>, Address);
    impl Resolve for Once {
        fn resolve(&mut self) -> BoxFuture<'_, Result<Resolution, ResolveError>> {
            let first = self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0;
            let endpoint = Endpoint::from(self.1.clone());
            Box::pin(async move {
                assert!(!first, "a fault of the resolver's own");
                Ok(Resolution::new([endpoint]))
            })
        }
    }
    let greeter = [Greeter::start()];
    let address = Address::from(greeter[0].address());
    let looked = Arc::default();
    let resolver = move |_: &Target| {
        let resolve: Box<dyn Resolve> = Box::new(Once(Arc::clone(&looked), address.clone()));
        Ok(resolve)
    };
    let channel = plaintext("own:///x").resolver("own", resolver).build().unwrap();
    let status = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
    assert!(status.message().contains("panicked"), "{status}");
    channel.reset_connect_backoff();
    let request = ask("Ada").wait_for_ready(true);
    channel.invoke(&SAY_HELLO, request).await.unwrap();
    close_without_leaks(channel, &greeter).await;
}
