//! Watches, tickers and logs whose consumer pauses: small messages pile up, and other calls on the
//! same connection go on.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use switchboard::{CallOptions, Channel, ChannelBuilder, Credentials, Streaming, TlsConfig};
use tokio_stream::{Stream, wrappers::TcpListenerStream};
use tonic::server::{Grpc, ServerStreamingService, UnaryService};

use crate::support::greeter::{HelloReply, HelloRequest, LOTS_OF_REPLIES, SAY_HELLO, ask, hello};
use crate::support::plaintext;
use crate::support::tls::{Certificate, Issuer, TlsServer, USUAL};

#[tokio::test]
async fn calls_succeed_beside_streams_that_nobody_reads_and_these_lose_nothing() {
    let server = ticker().await;
    for window in [None, Some(65_535)] {
        for (streams, len) in [(1, 0), (1, 100), (5, 20), (5, 300), (40, 0), (40, 20), (40, 300)] {
            let builder = plaintext(server.to_string());
            pause(with_window(builder, window), streams, len).await;
        }
    }
}

#[tokio::test]
async fn calls_succeed_beside_streams_that_nobody_reads_over_tls() {
    let issuer = Issuer::new();
    let certificate = Certificate::of(&["127.0.0.1"]);
    let server = TlsServer::before(&issuer, certificate, USUAL, ticker().await).await;
    let config = TlsConfig::new().roots_pem(issuer.root_pem()).unwrap();
    let builder = Channel::builder(server.address().to_string())
        .credentials(Credentials::tls_with(config))
        .no_proxy();
    pause(with_window(builder, Some(65_535)), 40, 100).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn consumers_that_pause_and_go_on_at_any_time_lose_nothing() {
    let server = ticker().await;
    let channel = with_window(plaintext(server.to_string()), Some(65_535)).build().unwrap();
    let mut consumers = tokio::task::JoinSet::new();
    for nth in 0..40 {
        let channel = channel.clone();
        consumers.spawn(async move {
            let len = [0, 20, 100, 300][nth % 4];
            let mut stream = begin(&channel, len).await;
            for message in 0..MESSAGES {
                // Each pauses at other places, for as long as a call takes.
                if (message + nth * 37) % 140 == 0 {
                    channel.invoke(&SAY_HELLO, ask("Ada").timeout(PATIENCE)).await.unwrap();
                }
                expect(&mut stream, message, len).await;
            }
            assert!(stream.recv().await.unwrap().is_none());
        });
    }
    while let Some(consumer) = consumers.join_next().await {
        consumer.unwrap();
    }
    channel.close().await;
}

/// Leaves `streams` streams unread while unary calls are made, then reads them to their end.
async fn pause(builder: ChannelBuilder, streams: usize, len: usize) {
    let what = format!("{streams} streams of {len} bytes");
    let channel = builder.build().unwrap();
    let mut unread = Vec::new();
    for _ in 0..streams {
        let mut stream = begin(&channel, len).await;
        expect(&mut stream, 0, len).await;
        unread.push(stream);
    }
    for nth in 0..CALLS {
        let outcome = channel.invoke(&SAY_HELLO, ask("Ada").timeout(PATIENCE)).await;
        assert!(outcome.is_ok(), "{what}, call {nth}: {outcome:?}");
    }
    for stream in &mut unread {
        for nth in 1..MESSAGES {
            expect(stream, nth, len).await;
        }
        assert!(stream.recv().await.unwrap().is_none(), "{what}");
    }
    channel.close().await;
}

fn with_window(builder: ChannelBuilder, window: Option<u32>) -> ChannelBuilder {
    match window {
        Some(window) => builder.receive_windows(window, window),
        None => builder,
    }
}

/// Begins a stream of messages of `len` bytes.
async fn begin(channel: &Channel, len: usize) -> Streaming<HelloRequest, HelloReply> {
    let mut stream = channel.new_stream(&LOTS_OF_REPLIES, CallOptions::new()).await.unwrap();
    stream.send(hello(&len.to_string())).await.unwrap();
    stream.close_send();
    stream
}

async fn expect(stream: &mut Streaming<HelloRequest, HelloReply>, nth: usize, len: usize) {
    let reply = stream.recv().await.unwrap();
    assert_eq!(reply.map(|reply| reply.message), Some(text(nth, len)), "message {nth}");
}

/// What the message of this number says: nothing, or its number in so many bytes.
fn text(nth: usize, len: usize) -> String {
    if len == 0 { String::new() } else { format!("{nth:0len$}") }
}

/// A server on tonic that sends as fast as it may, each message by itself.
async fn ticker() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tonic::transport::Server::builder().add_service(Ticker);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

#[derive(Clone)]
struct Ticker;

impl tonic::server::NamedService for Ticker {
    const NAME: &'static str = crate::support::greeter::GREETER;
}

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl tower_service::Service<http::Request<tonic::body::Body>> for Ticker {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(async move {
            let codec = tonic_prost::ProstCodec::<HelloReply, HelloRequest>::default();
            let mut grpc = Grpc::new(codec);
            Ok(match request.uri().path() {
                "/helloworld.Greeter/SayHello" => grpc.unary(Self, request).await,
                _ => grpc.server_streaming(Self, request).await,
            })
        })
    }
}

impl UnaryService<HelloRequest> for Ticker {
    type Response = HelloReply;
    type Future = BoxFuture<Result<tonic::Response<HelloReply>, tonic::Status>>;

    fn call(&mut self, _: tonic::Request<HelloRequest>) -> Self::Future {
        Box::pin(async { Ok(tonic::Response::new(HelloReply::default())) })
    }
}

impl ServerStreamingService<HelloRequest> for Ticker {
    type Response = HelloReply;
    type ResponseStream = Ticks;
    type Future = BoxFuture<Result<tonic::Response<Ticks>, tonic::Status>>;

    fn call(&mut self, request: tonic::Request<HelloRequest>) -> Self::Future {
        Box::pin(async move {
            let len = request.get_ref().name.parse().unwrap();
            Ok(tonic::Response::new(Ticks { next: 0, len, is_due: false }))
        })
    }
}

/// Messages that are never ready together, so that each is sent as a frame.
struct Ticks {
    next: usize,
    len: usize,
    is_due: bool,
}

impl Stream for Ticks {
    type Item = Result<HelloReply, tonic::Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.is_due = !self.is_due;
        if self.next == MESSAGES {
            return Poll::Ready(None);
        }
        if self.is_due {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let message = text(self.next, self.len);
        self.next += 1;
        Poll::Ready(Some(Ok(HelloReply { message })))
    }
}

/// Of each stream: those of 20 bytes are on five streams more than the small window has room for.
const MESSAGES: usize = 700;

/// Unary calls beside the streams.
const CALLS: usize = 20;

const PATIENCE: Duration = Duration::from_secs(20);
