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
