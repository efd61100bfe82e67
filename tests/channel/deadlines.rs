//! A deadline holds whatever the server does, or does not do.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use switchboard::{CallOptions, Channel, Code, Request, Status};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::greeter::{BIDI_HELLO, Greeter, SAY_HELLO, ask, hello, target_of};
use crate::support::{close_without_leaks, plaintext, until};

const TIMEOUT: Duration = Duration::from_millis(200);

/// Sees that a call ends at its deadline: no sooner, and not much later.
async fn ends_in_time<T: std::fmt::Debug>(call: impl Future<Output = Result<T, Status>>) -> Status {
    let begun = Instant::now();
    let ended = tokio::time::timeout(Duration::from_secs(20), call).await;
    let status = ended.expect("the call ends").unwrap_err();
    assert_eq!(status.code(), Code::DEADLINE_EXCEEDED, "{status}");
    assert!(begun.elapsed() >= TIMEOUT, "{:?}", begun.elapsed());
    status
}

fn request(name: &str) -> Request<crate::support::greeter::HelloRequest> {
    ask(name).timeout(TIMEOUT)
}

/// A server of h2 by hand, whose connections go through `serve`.
struct Scripted {
    address: SocketAddr,
    tasks: JoinSet<()>,
}

impl Scripted {
    async fn start<F: Future<Output = ()> + Send + 'static>(
        serve: impl Fn(tokio::net::TcpStream) -> F + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                connections.spawn(serve(socket));
            }
        });
        Self { address, tasks }
    }

    fn channel(&self) -> Channel {
        plaintext(format!("ipv4:{}", self.address)).build().unwrap()
    }

    async fn end(mut self, channel: Channel) {
        self.tasks.shutdown().await;
        close_without_leaks(channel, &[]).await;
    }
}

#[tokio::test]
async fn when_the_server_accepts_and_never_speaks() {
    let silent = Scripted::start(|mut socket| async move {
        let mut buf = [0; 1024];
        while socket.read(&mut buf).await.is_ok_and(|read| read > 0) {}
    })
    .await;
    let channel = silent.channel();
    let status = ends_in_time(channel.invoke(&SAY_HELLO, request("Ada"))).await;
    assert!(status.message().contains("waited for a connection"), "{status}");
    silent.end(channel).await;
}

#[tokio::test]
async fn when_nothing_can_be_reached_it_says_why() {
    let channel = plaintext("ipv4:127.0.0.1:1").build().unwrap();
    let waiting = request("Ada").wait_for_ready(true);
    let status = ends_in_time(channel.invoke(&SAY_HELLO, waiting)).await;
    assert!(status.message().contains("127.0.0.1:1: connection refused"), "{status}");
    close_without_leaks(channel, &[]).await;
}

#[tokio::test]
async fn when_the_server_sends_headers_and_stops() {
    let stopping = Scripted::start(|socket| async move {
        let mut connection = h2::server::handshake(socket).await.unwrap();
        let mut open = Vec::new();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let head = http::Response::builder().header("content-type", "application/grpc");
            open.push(respond.send_response(head.body(()).unwrap(), false));
        }
    })
    .await;
    let channel = stopping.channel();
    let status = ends_in_time(channel.invoke(&SAY_HELLO, request("Ada"))).await;
    assert!(status.message().contains(&stopping.address.to_string()), "{status}");
    stopping.end(channel).await;
}

#[tokio::test]
async fn when_the_server_never_reads() {
    let deaf = Scripted::start(|socket| async move {
        // Takes requests, and gives no room for what they send.
        let mut connection = h2::server::Builder::new()
            .initial_window_size(0)
            .handshake::<_, bytes::Bytes>(socket)
            .await
            .unwrap();
        let mut open = Vec::new();
        while let Some(Ok(request)) = connection.accept().await {
            open.push(request);
        }
    })
    .await;
    let channel = deaf.channel();
    ends_in_time(channel.invoke(&SAY_HELLO, request(&"x".repeat(1_000_000)))).await;
    let options = CallOptions::new().timeout(TIMEOUT);
    ends_in_time(async {
        let mut stream = channel.new_stream(&BIDI_HELLO, options).await?;
        loop {
            stream.send(hello(&"x".repeat(100_000))).await?;
        }
        #[expect(unreachable_code, reason = "says what the loop would return")]
        Ok(())
    })
    .await;
    deaf.end(channel).await;
}

#[tokio::test]
async fn when_nobody_polls_the_stream() {
    let greeter = [Greeter::start()];
    greeter[0].hold();
    let channel = plaintext(target_of(&greeter)).build().unwrap();
    let options = CallOptions::new().timeout(TIMEOUT);
    let mut stream = channel.new_stream(&BIDI_HELLO, options).await.unwrap();
    until("the server has it", async || greeter[0].received() == 1).await;
    until("the server is told", async || greeter[0].open_calls() == 0).await;
    let status = stream.recv().await.unwrap_err();
    assert_eq!(status.code(), Code::DEADLINE_EXCEEDED, "{status}");
    drop(stream);
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn when_the_call_waits_for_its_turn() {
    let greeter = [Greeter::start_with_max_streams(1)];
    greeter[0].hold();
    let channel = plaintext(target_of(&greeter)).build().unwrap();
    let first = tokio::spawn({
        let channel = channel.clone();
        async move { channel.invoke(&SAY_HELLO, ask("first")).await.map(drop) }
    });
    until("the server has the first", async || greeter[0].received() == 1).await;
    ends_in_time(channel.invoke(&SAY_HELLO, request("second"))).await;
    greeter[0].release();
    first.await.unwrap().unwrap();
    assert_eq!(greeter[0].received(), 1);
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn when_it_has_passed_already_nothing_is_sent() {
    let greeter = [Greeter::start()];
    let channel = plaintext(target_of(&greeter)).build().unwrap();
    let late = ask("Ada").timeout(Duration::ZERO);
    let status = channel.invoke(&SAY_HELLO, late).await.unwrap_err();
    assert_eq!(status.code(), Code::DEADLINE_EXCEEDED);
    assert_eq!(greeter[0].received(), 0);
    close_without_leaks(channel, &greeter).await;
}

/// Timeouts that anybody may give: none at all, one that has passed before anything can happen, a
/// long one, and the longest that there is.
const TIMEOUTS: [Duration; 4] =
    [Duration::ZERO, Duration::from_nanos(1), Duration::from_secs(1 << 40), Duration::MAX];

/// The ends of a unary call and of a stream.
async fn both(channel: &Channel, options: &CallOptions) -> [Result<(), Status>; 2] {
    let unary = channel.invoke(&SAY_HELLO, ask("Ada").options(options.clone())).await.map(drop);
    let stream = async {
        let mut stream = channel.new_stream(&BIDI_HELLO, options.clone()).await?;
        stream.close_send();
        stream.recv().await.map(drop)
    };
    [unary, stream.await]
}

#[tokio::test]
async fn every_timeout_that_can_be_given_is_a_timeout() {
    let greeter = [Greeter::start()];
    // The defaults would end every call at once: a timeout of the call's own replaces them.
    let channel = plaintext(target_of(&greeter))
        .default_timeout(Duration::from_nanos(1))
        .default_stream_timeout(Duration::from_nanos(1))
        .build()
        .unwrap();
    channel.ready(Duration::MAX).await.unwrap();
    for timeout in TIMEOUTS {
        let is_long = timeout > Duration::from_secs(1);
        for ended in both(&channel, &CallOptions::new().timeout(timeout)).await {
            let code = ended.as_ref().err().map(Status::code);
            let expected = (!is_long).then_some(Code::DEADLINE_EXCEEDED);
            assert_eq!(code, expected, "{timeout:?}: {ended:?}");
        }
    }
    for ended in both(&channel, &CallOptions::new()).await {
        assert_eq!(ended.unwrap_err().code(), Code::DEADLINE_EXCEEDED);
    }
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn every_duration_that_a_channel_takes_may_be_nothing_or_without_end() {
    use switchboard::{BackoffConfig, KeepaliveConfig, MethodConfig, Resolution};
    type Given =
        (&'static str, fn(switchboard::ChannelBuilder, Duration) -> switchboard::ChannelBuilder);
    let given: [Given; 8] = [
        ("default_timeout", |it, time| it.default_timeout(time)),
        ("default_stream_timeout", |it, time| it.default_stream_timeout(time)),
        ("idle_timeout", |it, time| it.idle_timeout(time)),
        ("min_connect_timeout", |it, time| it.min_connect_timeout(time)),
        ("backoff", |it, time| {
            it.backoff(BackoffConfig {
                base_delay: time,
                max_delay: time,
                ..BackoffConfig::default()
            })
        }),
        ("keepalive time", |it, time| it.keepalive(KeepaliveConfig::after(time))),
        ("keepalive timeout", |it, timeout| {
            let after = KeepaliveConfig::after(Duration::from_secs(10));
            it.keepalive(KeepaliveConfig { timeout, permit_without_stream: true, ..after })
        }),
        ("method config", |it, time| {
            let manual = switchboard::ManualResolver::new();
            let select = move |_: &switchboard::SelectArgs<'_>| {
                Ok(switchboard::CallConfig::new(MethodConfig::new().timeout(time)))
            };
            let found = Resolution::new([switchboard::Endpoint::from(switchboard::Address::Name(
                "server".into(),
            ))]);
            manual.set_resolution(
                found.with_ttl(time).with_config_selector(std::sync::Arc::new(select)),
            );
            it.resolver("passthrough", manual)
        }),
    ];
    for (name, give) in given {
        for time in TIMEOUTS {
            let (connector, mut listener) = switchboard::memory::pipe();
            let server = tokio::spawn(async move {
                let mut connections = JoinSet::new();
                while let Some(stream) = listener.accept().await {
                    connections.spawn(crate::support::mini::answer_all(stream, |_| ()));
                }
            });
            let builder = plaintext("passthrough:server").connector(connector);
            let channel = give(builder, time).build().unwrap();
            let may_end = name.contains("default") || name == "method config";
            let is_long = time > Duration::from_secs(1);
            for ended in both(&channel, &CallOptions::new().wait_for_ready(true)).await {
                match ended {
                    Ok(()) => {}
                    Err(status) => {
                        assert!(may_end && !is_long, "{name} {time:?}: {status}");
                        assert_eq!(status.code(), Code::DEADLINE_EXCEEDED, "{name} {time:?}");
                    }
                }
            }
            channel.close_within(time).await;
            server.abort();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn durations_without_end_wait_and_break_nothing() {
    use switchboard::{BackoffConfig, ConnectivityState};
    // The first attempt fails, and there is no second.
    let backoff = BackoffConfig {
        base_delay: Duration::MAX,
        max_delay: Duration::MAX,
        ..BackoffConfig::default()
    };
    let channel = plaintext("ipv4:127.0.0.1:1").backoff(backoff).build().unwrap();
    let timeout = Duration::from_secs(86_400);
    let status = channel.ready(timeout).await.unwrap_err();
    assert_eq!(status.code(), Code::DEADLINE_EXCEEDED);
    assert!(status.message().contains("connection refused"), "{status}");
    assert_eq!(channel.state(), ConnectivityState::TransientFailure);
    channel.close().await;
}
