//! A greeter on tonic, for examples and tests: it can be stopped gracefully, killed, held up and
//! started again on its port, and it counts.

#[path = "health_service.rs"]
pub(crate) mod health_service;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use switchboard::{Method, kind};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{oneshot, watch};
use tokio_stream::{Stream, StreamExt as _};
use tonic::server::{ClientStreamingService, Grpc, ServerStreamingService, StreamingService};
use tonic::{Request, Response, Status, Streaming};

use health_service::{Health, Serving};

/// Who is to be greeted.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct HelloRequest {
    /// The name.
    #[prost(string, tag = "1")]
    pub(crate) name: String,
}

/// A greeting.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct HelloReply {
    /// The text.
    #[prost(string, tag = "1")]
    pub(crate) message: String,
}

/// The service.
pub(crate) const GREETER: &str = "helloworld.Greeter";

/// One greeting.
pub(crate) const SAY_HELLO: Method<HelloRequest, HelloReply> =
    Method::unary("/helloworld.Greeter/SayHello");
/// A greeting for each word of the name.
pub(crate) const LOTS_OF_REPLIES: Method<HelloRequest, HelloReply, kind::ServerStreaming> =
    Method::server_streaming("/helloworld.Greeter/LotsOfReplies");
/// One greeting for all.
pub(crate) const LOTS_OF_GREETINGS: Method<HelloRequest, HelloReply, kind::ClientStreaming> =
    Method::client_streaming("/helloworld.Greeter/LotsOfGreetings");
/// A greeting for each.
pub(crate) const BIDI_HELLO: Method<HelloRequest, HelloReply, kind::BidiStreaming> =
    Method::bidi_streaming("/helloworld.Greeter/BidiHello");

/// The request for `name`.
pub(crate) fn hello(name: &str) -> HelloRequest {
    HelloRequest { name: name.to_owned() }
}

/// The request for `name`, for a unary call.
pub(crate) fn ask(name: &str) -> switchboard::Request<HelloRequest> {
    switchboard::Request::new(hello(name))
}

/// A greeter that runs, on a runtime of its own.
pub(crate) struct Greeter {
    address: SocketAddr,
    counts: Arc<Counts>,
    hold: watch::Sender<bool>,
    /// How many streams it takes on a connection; 0 for no limit.
    max_streams: u32,
    /// How long it keeps a connection, if not forever.
    max_age: Option<Duration>,
    health: Option<Health>,
    running: Option<Running>,
}

struct Running {
    runtime: Runtime,
    stop: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

/// What a greeter has counted, over all its lives.
#[derive(Default)]
pub(crate) struct Counts {
    received: AtomicU64,
    answered: AtomicU64,
    open_calls: AtomicUsize,
    connections: AtomicUsize,
    accepted: AtomicU64,
    name: AtomicU32,
}

impl Greeter {
    /// Starts one on a free port of 127.0.0.1.
    pub(crate) fn start() -> Self {
        Self::start_with_max_streams(0)
    }

    /// Starts one that takes so many streams on a connection at a time.
    pub(crate) fn start_with_max_streams(max_streams: u32) -> Self {
        let mut greeter = Self::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), max_streams);
        greeter.start_again();
        greeter
    }

    /// Starts one with a health service, which says that the greeter and the server as a whole
    /// serve.
    pub(crate) fn start_with_health() -> Self {
        let mut greeter = Self::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), 0);
        let health = Health::default();
        health.say(GREETER, Serving::Yes);
        health.say("", Serving::Yes);
        greeter.health = Some(health);
        greeter.start_again();
        greeter
    }

    /// Starts one that says goodbye to each connection after `max_age`.
    pub(crate) fn start_with_max_age(max_age: Duration) -> Self {
        let mut greeter = Self::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), 0);
        greeter.max_age = Some(max_age);
        greeter.start_again();
        greeter
    }

    /// Starts one at `address`, unless that is taken.
    pub(crate) fn start_at(address: SocketAddr) -> Option<Self> {
        let mut greeter = Self::new(address, 0);
        greeter.try_start().ok().map(|()| greeter)
    }

    fn new(address: SocketAddr, max_streams: u32) -> Self {
        Self {
            address,
            counts: Arc::default(),
            hold: watch::Sender::new(false),
            max_streams,
            max_age: None,
            health: None,
            running: None,
        }
    }

    /// Starts it again, on its port.
    pub(crate) fn start_again(&mut self) {
        self.try_start().expect("the port is free");
    }

    fn try_start(&mut self) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime can be made");
        let listener = match runtime.block_on_here(TcpListener::bind(self.address)) {
            Ok(listener) => listener,
            Err(error) => {
                end(runtime);
                return Err(error);
            }
        };
        self.address = listener.local_addr().expect("a listener has an address");
        self.counts.name.store(u32::from(self.address.port()), Ordering::Relaxed);
        let service = Service { counts: self.counts.clone(), hold: self.hold.subscribe() };
        let sockets = sockets(listener, self.counts.clone());
        let (stop, stopped) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let health = self.health.clone();
        let max_streams = Some(self.max_streams).filter(|streams| *streams > 0);
        let max_age = self.max_age;
        runtime.spawn(async move {
            let until = async {
                // A sender that is gone stops it as well.
                let _ = stopped.await;
            };
            let mut builder = tonic::transport::Server::builder();
            if let Some(max_age) = max_age {
                builder = builder.max_connection_age(max_age);
            }
            let server = builder
                .max_concurrent_streams(max_streams)
                .add_service(service)
                .add_optional_service(health)
                .serve_with_incoming_shutdown(sockets, until);
            server.await.expect("the server runs to its end");
            let _ = end.send(());
        });
        self.running = Some(Running { runtime, stop, ended });
        Ok(())
    }

    /// Lets open calls end, takes no new ones, and closes all connections.
    pub(crate) async fn stop_gracefully(&mut self) {
        if let Some(Running { runtime, stop, ended }) = self.running.take() {
            let _ = stop.send(());
            let _ = ended.await;
            end(runtime);
        }
    }

    /// Ends everything at once, as if the process had died.
    pub(crate) fn kill(&mut self) {
        if let Some(Running { runtime, .. }) = self.running.take() {
            end(runtime);
        }
    }

    /// From now on calls are taken and not answered, until [`Greeter::release`].
    pub(crate) fn hold(&self) {
        self.hold.send_replace(true);
    }

    /// Answers the calls that are held.
    pub(crate) fn release(&self) {
        self.hold.send_replace(false);
    }

    /// Its health service, if it was started with one.
    pub(crate) fn health(&self) -> &Health {
        self.health.as_ref().expect("it was started with a health service")
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Calls that it has taken.
    pub(crate) fn received(&self) -> u64 {
        self.counts.received.load(Ordering::Acquire)
    }

    /// Calls that it has answered.
    pub(crate) fn answered(&self) -> u64 {
        self.counts.answered.load(Ordering::Acquire)
    }

    /// Calls that it is at.
    pub(crate) fn open_calls(&self) -> usize {
        self.counts.open_calls.load(Ordering::Acquire)
    }

    /// Connections that are open.
    pub(crate) fn connections(&self) -> usize {
        self.counts.connections.load(Ordering::Acquire)
    }

    /// Connections that have ever been accepted.
    pub(crate) fn accepted(&self) -> u64 {
        self.counts.accepted.load(Ordering::Acquire)
    }
}

impl Drop for Greeter {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Drops all that runs on a runtime, its sockets included, before it returns.
fn end(runtime: Runtime) {
    // A thread of its own: whoever calls may be on a runtime, which must not wait for another.
    std::thread::scope(|scope| {
        scope.spawn(|| runtime.shutdown_timeout(Duration::from_secs(10)));
    });
}

/// The target of a channel to all of `greeters`.
pub(crate) fn target_of<'a>(greeters: impl IntoIterator<Item = &'a Greeter>) -> String {
    let addresses: Vec<_> = greeters.into_iter().map(|it| it.address().to_string()).collect();
    format!("ipv4:{}", addresses.join(","))
}

trait BlockOnHere {
    fn block_on_here<T: Send>(&self, work: impl Future<Output = T> + Send) -> T;
}

impl BlockOnHere for Runtime {
    /// Runs a short piece of work on a runtime from whatever thread this is, one of another
    /// runtime included.
    fn block_on_here<T: Send>(&self, work: impl Future<Output = T> + Send) -> T {
        std::thread::scope(|scope| {
            scope.spawn(|| self.block_on(work)).join().expect("the work does not panic")
        })
    }
}

fn sockets(listener: TcpListener, counts: Arc<Counts>) -> impl Stream<Item = io::Result<Socket>> {
    tokio_stream::wrappers::TcpListenerStream::new(listener).map(move |accepted| {
        let stream = accepted?;
        stream.set_nodelay(true)?;
        counts.connections.fetch_add(1, Ordering::AcqRel);
        counts.accepted.fetch_add(1, Ordering::AcqRel);
        Ok(Socket { stream, counts: counts.clone() })
    })
}

/// A connection that is counted while it is open.
struct Socket {
    stream: TcpStream,
    counts: Arc<Counts>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.counts.connections.fetch_sub(1, Ordering::AcqRel);
    }
}

impl tonic::transport::server::Connected for Socket {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The service, as generated code would have it.
#[derive(Clone)]
struct Service {
    counts: Arc<Counts>,
    hold: watch::Receiver<bool>,
}

impl tonic::server::NamedService for Service {
    const NAME: &'static str = GREETER;
}

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Replies = Pin<Box<dyn Stream<Item = Result<HelloReply, Status>> + Send>>;

impl tower_service::Service<http::Request<tonic::body::Body>> for Service {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let call = Call::begin(self);
        Box::pin(async move {
            let codec = tonic_prost::ProstCodec::<HelloReply, HelloRequest>::default();
            let mut grpc = Grpc::new(codec);
            let path = request.uri().path().to_owned();
            Ok(match path.as_str() {
                "/helloworld.Greeter/SayHello" => grpc.unary(call, request).await,
                "/helloworld.Greeter/LotsOfReplies" => grpc.server_streaming(call, request).await,
                "/helloworld.Greeter/LotsOfGreetings" => grpc.client_streaming(call, request).await,
                "/helloworld.Greeter/BidiHello" => grpc.streaming(call, request).await,
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

/// One call, counted while it lasts.
struct Call {
    service: Service,
}

impl Call {
    fn begin(service: &Service) -> Self {
        service.counts.received.fetch_add(1, Ordering::AcqRel);
        service.counts.open_calls.fetch_add(1, Ordering::AcqRel);
        Self { service: service.clone() }
    }

    /// Waits while calls are held, then makes this call's own copy of what it answers with.
    fn answer(&mut self) -> Answer {
        Answer { service: self.service.clone() }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.service.counts.open_calls.fetch_sub(1, Ordering::AcqRel);
    }
}

struct Answer {
    service: Service,
}

impl Answer {
    async fn released(&mut self) {
        // The greeter that holds the sender outlives its service.
        let _ = self.service.hold.wait_for(|held| !held).await;
    }

    fn greet(&self, name: &str) -> HelloReply {
        let port = self.service.counts.name.load(Ordering::Relaxed);
        HelloReply { message: format!("Hello {name}, from {port}") }
    }

    fn done(&self) {
        self.service.counts.answered.fetch_add(1, Ordering::AcqRel);
    }
}

/// With this as a name the greeter fails the first attempt of each unary call.
pub(crate) const FLAKY: &str = "flaky";

/// `fail:CODE:MESSAGE` as a name makes the greeter fail so.
fn refusal(name: &str) -> Option<Status> {
    let (code, message) = name.strip_prefix("fail:")?.split_once(':')?;
    let code: i32 = code.parse().ok()?;
    let mut status = Status::new(tonic::Code::from_i32(code), message);
    status.metadata_mut().insert("reason", "asked-for".parse().ok()?);
    Some(status)
}

impl tonic::server::UnaryService<HelloRequest> for Call {
    type Response = HelloReply;
    type Future = BoxFuture<Result<Response<HelloReply>, Status>>;

    fn call(&mut self, request: Request<HelloRequest>) -> Self::Future {
        let mut answer = self.answer();
        Box::pin(async move {
            answer.released().await;
            if let Some(refusal) = refusal(&request.get_ref().name) {
                return Err(refusal);
            }
            let is_first = request.metadata().get("grpc-previous-rpc-attempts").is_none();
            if is_first && request.get_ref().name == FLAKY {
                return Err(Status::unavailable("not at the first attempt"));
            }
            let mut response = Response::new(answer.greet(&request.get_ref().name));
            for key in ["echo", "echo-bin", "traceparent", "grpc-trace-bin"] {
                for value in request.metadata().get_all(key) {
                    response.metadata_mut().append(key, value.clone());
                }
                for value in request.metadata().get_all_bin(key) {
                    response.metadata_mut().append_bin(key, value.clone());
                }
            }
            answer.done();
            Ok(response)
        })
    }
}

impl ServerStreamingService<HelloRequest> for Call {
    type Response = HelloReply;
    type ResponseStream = Replies;
    type Future = BoxFuture<Result<Response<Replies>, Status>>;

    fn call(&mut self, request: Request<HelloRequest>) -> Self::Future {
        let mut answer = self.answer();
        Box::pin(async move {
            answer.released().await;
            let words: Vec<_> =
                request.get_ref().name.split(' ').map(|name| Ok(answer.greet(name))).collect();
            answer.done();
            let replies: Replies = Box::pin(tokio_stream::iter(words));
            Ok(Response::new(replies))
        })
    }
}

impl ClientStreamingService<HelloRequest> for Call {
    type Response = HelloReply;
    type Future = BoxFuture<Result<Response<HelloReply>, Status>>;

    fn call(&mut self, request: Request<Streaming<HelloRequest>>) -> Self::Future {
        let mut answer = self.answer();
        Box::pin(async move {
            answer.released().await;
            let mut names = Vec::new();
            let mut requests = request.into_inner();
            while let Some(request) = requests.message().await? {
                names.push(request.name);
            }
            answer.done();
            Ok(Response::new(answer.greet(&names.join(" and "))))
        })
    }
}

impl StreamingService<HelloRequest> for Call {
    type Response = HelloReply;
    type ResponseStream = Replies;
    type Future = BoxFuture<Result<Response<Replies>, Status>>;

    fn call(&mut self, request: Request<Streaming<HelloRequest>>) -> Self::Future {
        let mut answer = self.answer();
        Box::pin(async move {
            answer.released().await;
            answer.done();
            let replies: Replies =
                Box::pin(request.into_inner().map(move |it| Ok(answer.greet(&it?.name))));
            Ok(Response::new(replies))
        })
    }
}
