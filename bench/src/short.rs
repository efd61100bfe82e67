//! Short messages, by switchboard and by tonic's own client: how fast they go to a server that reads, and how many may
//! be sent to one that does not until it ends the connection.
//!
//! A server that is built on h2 counts DATA frames below 256 bytes that nobody has read. A sender that makes a frame of
//! each message has it end the connection, with all other calls on that, after some thousands of them.

use std::convert::Infallible;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use switchboard::{CallOptions, Credentials, Method, kind};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Context, Poll, Service, http};
use tonic::server::{ClientStreamingService, Grpc, NamedService, UnaryService};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::proto::{Req, Resp, SERVICE, UNARY};

/// Many requests, one response.
const READ: &str = "/bench.Bench/Read";
/// The same, and no request is ever read.
const IGNORE: &str = "/bench.Bench/Ignore";

const UNARY_METHOD: Method<Req, Resp> = Method::unary(UNARY);
const READ_METHOD: Method<Req, Resp, kind::ClientStreaming> = Method::client_streaming(READ);
const IGNORE_METHOD: Method<Req, Resp, kind::ClientStreaming> = Method::client_streaming(IGNORE);

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Messages on one stream.
    pub(crate) messages: usize,
    /// The body of each.
    pub(crate) bytes: usize,
    /// The time between two, where nobody reads them.
    pub(crate) interval: Duration,
}

/// Compares the two, in turns.
pub(crate) async fn compare(load: Load, rounds: usize) -> Result<String> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let server = serve().await?;
        ours.push(rate(load, Switchboard::connect(server)?).await?);
        theirs.push(rate(load, Tonic::connect(server).await?).await?);
    }
    let (ours, theirs) = (median(ours), median(theirs));
    let (our_end, their_end) = tokio::join!(
        async { until_lost(load, Switchboard::connect(serve().await?)?).await },
        async { until_lost(load, Tonic::connect(serve().await?).await?).await },
    );
    Ok(format!(
        "{} messages of {} bytes to a server that reads: switchboard {ours:.0}/s, tonic {theirs:.0}/s\n\
         one every {:?} to a server that does not: switchboard {}; tonic {}",
        load.messages, load.bytes, load.interval, our_end?, their_end?,
    ))
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Messages per second.
async fn rate(load: Load, client: impl Client) -> Result<f64> {
    let began = Instant::now();
    client.send(READ, tokio_stream::iter(vec![request(load); load.messages])).await?;
    Ok(load.messages as f64 / began.elapsed().as_secs_f64())
}

/// Sends until a call beside fails, or all is sent.
async fn until_lost<C: Client>(load: Load, client: C) -> Result<String> {
    let (count, mut counted) = watch::channel(0);
    let (send, requests) = mpsc::channel(1024);
    let ticking = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(load.interval);
        for _ in 0..load.messages {
            ticks.tick().await;
            if send.send(request(load)).await.is_err() {
                return;
            }
        }
        // The requests go on, without another.
        send.closed().await;
    });
    let requests = ReceiverStream::new(requests).map(move |request| {
        count.send_modify(|count| *count += 1);
        request
    });
    let sending = client.clone();
    let stream = tokio::spawn(async move { sending.send(IGNORE, requests).await });
    let outcome = loop {
        // A stream that is over has dropped its requests, which count.
        let is_over = counted.changed().await.is_err();
        let count = *counted.borrow_and_update();
        if is_over || client.call().await.is_err() {
            break format!("has lost the connection after {count}");
        }
        if count == load.messages {
            break format!("has sent {count} and has its connection");
        }
    };
    stream.abort();
    ticking.abort();
    Ok(outcome)
}

fn request(load: Load) -> Req {
    Req { response_size: 0, body: Bytes::from(vec![7; load.bytes]) }
}

trait Client: Clone + Send + Sync + 'static {
    /// A unary call.
    fn call(&self) -> impl Future<Output = Result<()>> + Send;

    /// Sends a stream of requests to a method, and receives the response.
    fn send(
        &self,
        path: &'static str,
        requests: impl Stream<Item = Req> + Send + 'static,
    ) -> impl Future<Output = Result<()>> + Send;
}

#[derive(Clone)]
struct Switchboard(switchboard::Channel);

impl Switchboard {
    fn connect(server: SocketAddr) -> Result<Self> {
        let target = format!("ipv4:{server}");
        let builder = switchboard::Channel::builder(target).credentials(Credentials::insecure());
        Ok(Self(builder.build()?))
    }
}

impl Client for Switchboard {
    async fn call(&self) -> Result<()> {
        self.0.invoke(&UNARY_METHOD, switchboard::Request::new(Req::default())).await?;
        Ok(())
    }

    async fn send(
        &self,
        path: &'static str,
        requests: impl Stream<Item = Req> + Send + 'static,
    ) -> Result<()> {
        let method = if path == READ { &READ_METHOD } else { &IGNORE_METHOD };
        let mut stream = self.0.new_stream(method, CallOptions::new()).await?;
        stream.send_all(requests).await?;
        stream.recv().await?.context("no response")?;
        Ok(())
    }
}

#[derive(Clone)]
struct Tonic(tonic::client::Grpc<tonic::transport::Channel>);

impl Tonic {
    async fn connect(server: SocketAddr) -> Result<Self> {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{server}"))?;
        Ok(Self(tonic::client::Grpc::new(endpoint.tcp_nodelay(true).connect().await?)))
    }
}

impl Client for Tonic {
    async fn call(&self) -> Result<()> {
        let mut client = self.0.clone();
        client.ready().await?;
        let path = ::http::uri::PathAndQuery::from_static(UNARY);
        client.unary(Request::new(Req::default()), path, codec()).await?;
        Ok(())
    }

    async fn send(
        &self,
        path: &'static str,
        requests: impl Stream<Item = Req> + Send + 'static,
    ) -> Result<()> {
        let mut client = self.0.clone();
        client.ready().await?;
        let path = ::http::uri::PathAndQuery::from_static(path);
        client.client_streaming(Request::new(requests), path, codec()).await?;
        Ok(())
    }
}

fn codec() -> ProstCodec<Req, Resp> {
    ProstCodec::default()
}

/// A tonic server as it is where nobody sets anything.
async fn serve() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    tokio::spawn(
        tonic::transport::Server::builder().add_service(Reader).serve_with_incoming(incoming),
    );
    Ok(address)
}

#[derive(Clone, Copy)]
struct Reader;

/// The method that reads nothing.
struct Ignorer;

impl NamedService for Reader {
    const NAME: &'static str = SERVICE;
}

impl Service<http::Request<Body>> for Reader {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let mut grpc = Grpc::new(ProstCodec::<Resp, Req>::default());
        Box::pin(async move {
            Ok(match request.uri().path() {
                READ => grpc.client_streaming(Self, request).await,
                IGNORE => grpc.client_streaming(Ignorer, request).await,
                _ => grpc.unary(Self, request).await,
            })
        })
    }
}

impl UnaryService<Req> for Reader {
    type Response = Resp;
    type Future = BoxFuture<Response<Resp>, Status>;

    fn call(&mut self, _: Request<Req>) -> Self::Future {
        Box::pin(async { Ok(Response::new(Resp::default())) })
    }
}

impl ClientStreamingService<Req> for Reader {
    type Response = Resp;
    type Future = BoxFuture<Response<Resp>, Status>;

    fn call(&mut self, request: Request<Streaming<Req>>) -> Self::Future {
        Box::pin(async move {
            let mut requests = request.into_inner();
            while requests.message().await?.is_some() {}
            Ok(Response::new(Resp::default()))
        })
    }
}

impl ClientStreamingService<Req> for Ignorer {
    type Response = Resp;
    type Future = BoxFuture<Response<Resp>, Status>;

    fn call(&mut self, request: Request<Streaming<Req>>) -> Self::Future {
        Box::pin(async move {
            // Held, so that the stream is not reset.
            let _requests = request.into_inner();
            std::future::pending().await
        })
    }
}
