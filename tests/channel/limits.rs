//! What a channel holds and does at a time, and what happens beyond that.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use switchboard::{
    ActorKind, ActorReport, Address, BoxFuture, CallOptions, Channel, ChannelBuilder, Code,
    Connect, ConnectivityState, Io, Resolution, Resolve, ResolveError, Streaming, Target,
    TargetError,
};
use tokio::time::Instant;

use crate::support::greeter::{
    BIDI_HELLO, HelloReply, HelloRequest, LOTS_OF_REPLIES, SAY_HELLO, ask, hello,
};
use crate::support::{ROUND_ROBIN, mini, plaintext, reports, until, until_state};

/// Answers unary calls with a greeting, and all others with messages of 8 KiB without end, as fast
/// as windows let it.
async fn flood(stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let is_unary = request.uri().path().ends_with("/SayHello");
        tokio::spawn(async move {
            let response = http::Response::builder().header("content-type", "application/grpc");
            let mut body = respond.send_response(response.body(()).unwrap(), false).unwrap();
            if is_unary {
                body.send_data(Bytes::from_static(&[0; 5]), false).unwrap();
                let mut trailers = http::HeaderMap::new();
                trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
                return body.send_trailers(trailers).unwrap();
            }
            let reply = HelloReply { message: "x".repeat(MESSAGE) };
            let encoded = prost::Message::encode_to_vec(&reply);
            let mut framed = vec![0];
            framed.extend(u32::try_from(encoded.len()).unwrap().to_be_bytes());
            framed.extend(encoded);
            let framed = Bytes::from(framed);
            loop {
                body.reserve_capacity(framed.len());
                while body.capacity() < framed.len() {
                    // `None` and an error: the client has had enough.
                    match std::future::poll_fn(|cx| body.poll_capacity(cx)).await {
                        Some(Ok(_)) => {}
                        Some(Err(_)) | None => return,
                    }
                }
                if body.send_data(framed.clone(), false).is_err() {
                    return;
                }
            }
        });
    }
}

const MESSAGE: usize = 8 * 1024;
/// More than a few of them, frames and all.
const MESSAGES: u32 = 32 * 1024;

/// A channel to such a server, over a pipe, with these limits.
fn flooded(limit: impl FnOnce(ChannelBuilder) -> ChannelBuilder) -> Channel {
    let (connector, mut listener) = switchboard::memory::pipe();
    tokio::spawn(async move {
        while let Some(stream) = listener.accept().await {
            tokio::spawn(flood(stream));
        }
    });
    limit(plaintext("passthrough:server").connector(connector)).build().unwrap()
}

async fn begin(channel: &Channel) -> Streaming<HelloRequest, HelloReply> {
    let mut stream = channel.new_stream(&LOTS_OF_REPLIES, CallOptions::new()).await.unwrap();
    stream.send(hello("Ada")).await.unwrap();
    stream.recv().await.unwrap().unwrap();
    stream
}

/// Waits until so many bytes have come in on the channel's only connection.
async fn until_received(channel: &Channel, bytes: u32) {
    until("the server has filled the windows", async || {
        let reports = reports(channel).await;
        reports.iter().flat_map(|it| &it.connections).any(|it| it.bytes_received >= bytes.into())
    })
    .await;
}

#[tokio::test]
async fn streams_that_nobody_reads_do_not_hold_up_the_others() {
    // Eight streams are ten times what the window of their connection is.
    let stream_window = 512 * 1024;
    let channel = flooded(|it| it.receive_windows(stream_window, 400 * 1024));
    let mut unread = Vec::new();
    for _ in 0..8 {
        unread.push(begin(&channel).await);
    }
    until_received(&channel, 8 * (stream_window - MESSAGES)).await;
    for _ in 0..100 {
        channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    }
    // Each goes on where it was.
    for stream in &mut unread {
        for _ in 0..100 {
            let reply = stream.recv().await.unwrap().unwrap();
            assert_eq!(reply.message.len(), MESSAGE);
        }
    }
    drop(unread);
    channel.close().await;
}

#[tokio::test]
async fn beyond_its_buffer_a_channel_ends_the_stream_that_has_most_unread() {
    let mib = 1024 * 1024;
    let channel = flooded(|it| it.receive_windows(2 * mib, mib).max_receive_buffer_bytes(3 << 20));
    let mut first = begin(&channel).await;
    until_received(&channel, 2 * mib - MESSAGES).await;
    // One more is too many by the time it has half of its window.
    let mut second = begin(&channel).await;
    until_received(&channel, 4 * mib - MESSAGES).await;
    let status = first.recv().await.unwrap_err();
    assert_eq!(status.code(), Code::RESOURCE_EXHAUSTED);
    let expected = "server: the channel holds more than 3145728 bytes that nobody has read, and \
                    this stream most of them: read faster, or raise max_receive_buffer_bytes";
    assert!(status.message().contains(expected), "{status}");
    // The other goes on, and so does the connection.
    for _ in 0..1_000 {
        second.recv().await.unwrap().unwrap();
    }
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    drop((first, second));
    channel.close().await;
}

/// Resolves nothing.
struct Never;

impl Resolve for Never {
    fn resolve(&mut self) -> BoxFuture<'_, Result<Resolution, ResolveError>> {
        Box::pin(std::future::pending())
    }
}

#[tokio::test(start_paused = true)]
async fn so_many_calls_wait_and_no_more() {
    let resolver = |_: &Target| -> Result<Box<dyn Resolve>, TargetError> { Ok(Box::new(Never)) };
    let channel = plaintext("never:x").resolver("never", resolver).max_queued_calls(2);
    let channel = channel.build().unwrap();
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let channel = channel.clone();
            tokio::spawn(async move {
                channel.invoke(&SAY_HELLO, ask("Ada").timeout(Duration::from_secs(1))).await
            })
        })
        .collect();
    tokio::task::yield_now().await;
    for _ in 0..2 {
        let status = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
        assert_eq!(status.code(), Code::RESOURCE_EXHAUSTED);
        let expected =
            "2 calls of this channel wait already for a connection; raise max_queued_calls";
        assert!(status.message().contains(expected), "{status}");
    }
    for call in waiting {
        assert_eq!(call.await.unwrap().unwrap_err().code(), Code::DEADLINE_EXCEEDED);
    }
    // Their places are free again.
    let late = channel.invoke(&SAY_HELLO, ask("Ada").timeout(Duration::from_secs(1))).await;
    assert_eq!(late.unwrap_err().code(), Code::DEADLINE_EXCEEDED);
    channel.close().await;
}

/// Takes a second to connect, or never does, and counts.
#[derive(Clone)]
struct Slow {
    hangs: bool,
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    all: Arc<AtomicUsize>,
}

impl Connect for Slow {
    fn connect<'a>(&'a self, _: &'a Address) -> BoxFuture<'a, io::Result<Io>> {
        struct Under(Arc<AtomicUsize>);
        impl Drop for Under {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        self.all.fetch_add(1, Ordering::SeqCst);
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        let under = Under(self.now.clone());
        Box::pin(async move {
            let _under = under;
            if self.hangs {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            let (near, far) = tokio::io::duplex(1 << 16);
            tokio::spawn(mini::answer_all(far, |_| ()));
            Ok(Io::new(near))
        })
    }
}

fn ten_addresses(hangs: bool) -> (Slow, ChannelBuilder) {
    let counts = || Arc::new(AtomicUsize::new(0));
    let slow = Slow { hangs, now: counts(), most: counts(), all: counts() };
    let addresses: Vec<_> = (1..=10).map(|host| format!("10.0.0.{host}:1")).collect();
    let builder = plaintext(format!("ipv4:{}", addresses.join(",")))
        .connector(slow.clone())
        .default_service_config(ROUND_ROBIN)
        .max_concurrent_dials(3);
    (slow, builder)
}

#[tokio::test(start_paused = true)]
async fn so_many_dials_are_under_way_and_the_others_have_their_turn() {
    let (slow, builder) = ten_addresses(false);
    let channel = builder.build().unwrap();
    let began = Instant::now();
    channel.connect();
    until("all are connected", async || {
        let reports = reports(&channel).await;
        let connected = |it: &&ActorReport| it.actor == ActorKind::AddrConn && it.state == "READY";
        reports.iter().filter(connected).count() == 10
    })
    .await;
    assert_eq!(slow.most.load(Ordering::SeqCst), 3);
    let took = began.elapsed();
    assert!((4.0..4.1).contains(&took.as_secs_f64()), "{took:?}");
    channel.close().await;
}

#[tokio::test(start_paused = true)]
async fn the_time_until_its_turn_is_not_counted_against_a_dial() {
    let (slow, builder) = ten_addresses(true);
    let channel = builder.min_connect_timeout(Duration::from_secs(5)).build().unwrap();
    channel.connect();
    // Each has its five seconds, three at a time.
    let start = Instant::now();
    let mut seen = Vec::new();
    for second in [4, 6, 11] {
        tokio::time::sleep_until(start + Duration::from_secs(second)).await;
        seen.push(slow.all.load(Ordering::SeqCst));
    }
    assert_eq!(seen, [3, 6, 9]);
    assert_eq!(slow.most.load(Ordering::SeqCst), 3);
    until_state(&channel, ConnectivityState::TransientFailure).await;
    channel.close().await;
}

/// Counts the requests that get to it, and their bytes of metadata.
fn counting(limit: impl FnOnce(ChannelBuilder) -> ChannelBuilder) -> (Channel, Arc<AtomicUsize>) {
    let (connector, mut listener) = switchboard::memory::pipe();
    let seen = Arc::new(AtomicUsize::new(0));
    let bytes = seen.clone();
    tokio::spawn(async move {
        while let Some(stream) = listener.accept().await {
            let bytes = bytes.clone();
            tokio::spawn(mini::answer_all(stream, move |head| {
                let len = head.headers.get("key").map_or(0, http::HeaderValue::len);
                bytes.fetch_add(len, Ordering::SeqCst);
            }));
        }
    });
    let builder = plaintext("passthrough:server").connector(connector);
    (limit(builder).build().unwrap(), seen)
}

/// The ends of a unary call and of a stream with so many bytes of metadata.
async fn with_metadata(channel: &Channel, bytes: usize) -> [Result<(), switchboard::Status>; 2] {
    let mut options = CallOptions::new().timeout(Duration::from_secs(20)).wait_for_ready(true);
    options.metadata_mut().insert("key", "v".repeat(bytes)).unwrap();
    let request = ask("Ada").options(options.clone());
    let unary = channel.invoke(&SAY_HELLO, request).await.map(drop);
    let stream = async {
        let mut stream = channel.new_stream(&BIDI_HELLO, options).await?;
        stream.close_send();
        stream.recv().await.map(drop)
    };
    [unary, stream.await]
}

#[tokio::test]
async fn a_request_with_more_header_fields_than_may_be_sent_is_not_sent() {
    const KIB: usize = 1024;
    let cases: [(Option<usize>, usize, bool); 8] = [
        (None, 100 * KIB, true),
        (None, 1_000 * KIB, true),
        (None, 1_024 * KIB, false),
        (None, 10 * KIB * KIB, false),
        (Some(8 * KIB), 7 * KIB, true),
        (Some(8 * KIB), 8 * KIB, false),
        (Some(4 * KIB * KIB), 2 * KIB * KIB, true),
        (Some(0), 0, false),
    ];
    for (limit, bytes, fits) in cases {
        let (channel, seen) = counting(|builder| match limit {
            Some(limit) => builder.max_request_header_list_bytes(limit),
            None => builder,
        });
        // Before there is a connection, and with one.
        for _ in 0..2 {
            for ended in with_metadata(&channel, bytes).await {
                let what = format!("{limit:?} {bytes}");
                match ended {
                    Ok(()) => assert!(fits, "{what}"),
                    Err(status) => {
                        assert_eq!(status.code(), Code::RESOURCE_EXHAUSTED, "{what}: {status}");
                        assert!(!fits, "{what}: {status}");
                        let named = status.message().contains("max_request_header_list_bytes");
                        assert!(named, "{what}: {status}");
                    }
                }
            }
            assert_eq!(seen.load(Ordering::SeqCst) > 0, fits && bytes > 0);
            if bytes > 1_000 {
                channel.ready(Duration::from_secs(20)).await.unwrap();
            }
        }
        channel.close().await;
    }
}

#[tokio::test]
async fn too_much_metadata_fails_at_once_where_the_call_would_wait_for_a_connection() {
    let channel = plaintext("ipv4:127.0.0.1:1").build().unwrap();
    for ended in with_metadata(&channel, 2 * 1024 * 1024).await {
        assert_eq!(ended.unwrap_err().code(), Code::RESOURCE_EXHAUSTED);
    }
    channel.close().await;
}
