//! The handle of a channel.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;
use tokio::time::Instant;

use super::builder::ChannelBuilder;
use super::client_stream::{ChannelStream, OneResponse};
use super::codec::{EncodedMessage, Vtable};
use super::intercept::{AN_INTERCEPTOR, Interceptor, Next, OutgoingCall};
use super::kind;
use super::method::{Cardinality, IntoMethod, IntoMethodOf, PreparedMethod};
use super::request::{CallOptions, Request, Response};
use super::streaming::{Exchange, Receiver, Streaming};
use crate::actors::Core;
use crate::call::{self, CallHead, Events, NotReady, Reply, StateChanges, StreamCall};
use crate::transport::{BoxFuture, Message};
use crate::types::{Compression, ConnectivityState, Deadline, Foreign, Status};

/// A virtual connection to a service: it finds the servers, keeps connections to them and sends
/// each call to one.
///
/// A handle is cheap to clone, and all clones are the same channel. Dropping the last one ends it:
/// streams that are open go on to their ends, calls that wait get CANCELLED.
///
/// Everything starts with the first use (a call or [`connect`](Self::connect)), on the runtime of
/// the caller unless the builder was given one.
///
/// ```no_run
/// # #[derive(Clone, PartialEq, prost::Message)] struct HelloRequest {}
/// # #[derive(Clone, PartialEq, prost::Message)] struct HelloReply {}
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use switchboard::{Channel, Credentials, Method, Request};
///
/// const SAY_HELLO: Method<HelloRequest, HelloReply> =
///     Method::unary("/helloworld.Greeter/SayHello");
///
/// let channel = Channel::builder("dns:///greeter.example:50051")
///     .credentials(Credentials::insecure())
///     .default_service_config(r#"{"loadBalancingConfig":[{"round_robin":{}}]}"#)
///     .build()?;
/// let reply = channel.invoke(&SAY_HELLO, Request::new(HelloRequest::default())).await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Channel {
    handle: Arc<Handle>,
}

/// What all clones of a handle share; its end is the channel's.
struct Handle {
    core: Arc<Core>,
    defaults: Defaults,
    interceptors: Vec<Foreign<Arc<dyn Interceptor>>>,
}

/// What calls go by of which nothing is said.
#[derive(Clone, Copy, Debug)]
pub(super) struct Defaults {
    pub(super) wait_for_ready: bool,
    pub(super) receive_bytes_max: usize,
    pub(super) send_bytes_max: usize,
    /// How messages are compressed.
    pub(super) compression: Option<Compression>,
    /// How long a unary call may take.
    pub(super) timeout: Option<Duration>,
    /// How long a stream may take.
    pub(super) stream_timeout: Option<Duration>,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            wait_for_ready: false,
            receive_bytes_max: RECEIVE_BYTES_MAX,
            send_bytes_max: usize::MAX,
            compression: None,
            timeout: None,
            stream_timeout: None,
        }
    }
}

impl Channel {
    /// A builder for a channel to `target`: `dns:///greeter.example:50051`,
    /// `ipv4:10.0.0.7:50051,10.0.0.8:50051`, `passthrough:///name`, a scheme of your own, or a bare
    /// `host:port`, which is a `dns` target.
    pub fn builder(target: impl Into<String>) -> ChannelBuilder {
        ChannelBuilder::new(target)
    }

    pub(super) fn new(
        core: Arc<Core>,
        defaults: Defaults,
        interceptors: Vec<Arc<dyn Interceptor>>,
    ) -> Self {
        let foreign = |interceptor| Foreign::new(AN_INTERCEPTOR, interceptor);
        let interceptors = interceptors.into_iter().map(foreign).collect();
        Self { handle: Arc::new(Handle { core, defaults, interceptors }) }
    }

    /// Calls a unary method: a [`Method`](crate::Method), or a path for protobuf messages.
    ///
    /// Fails with the status of the server, or with one of the channel's own: UNAVAILABLE when no
    /// server can be reached (unless the call waits for ready), `DEADLINE_EXCEEDED`, CANCELLED once
    /// the channel is closed, `RESOURCE_EXHAUSTED` for a message over its limit, INTERNAL for what
    /// breaks the protocol. Its message names the address and the cause, and the response headers
    /// that came before the failure are in [`Status::headers`].
    ///
    /// Dropping the future cancels the call.
    #[doc(alias("unary", "call"))]
    pub async fn invoke<Req, Resp>(
        &self,
        method: impl IntoMethodOf<Req, Resp, kind::Unary>,
        request: Request<Req>,
    ) -> Result<Response<Resp>, Status> {
        let (message, mut options) = request.into_parts();
        let finish = options.take_finish();
        // Used where it lies: what is moved out of it would make room for both in this future.
        let mut begun = self.begin_unary(method, &message, options);
        let result = match &mut begun {
            Ok(Begun { call: Unary::Passed(head, message), vtable }) => {
                let reply = call::unary(&self.handle.core.shared, head, message).await;
                answered(head, reply).and_then(|it| decoded(it, vtable))
            }
            Ok(Begun { call: Unary::Intercepted(answer), vtable }) => {
                answer.await.and_then(|it| decoded(it, vtable))
            }
            Err(status) => Err(status.clone()),
        };
        finish.run(result.as_ref().map(drop));
        result
    }

    /// Calls a method with one request and many responses, which the receiver gives: as a
    /// [`Stream`], or by [`Receiver::recv`].
    ///
    /// Returns once the request is on its way. Fails as [`invoke`](Self::invoke) does; how the call
    /// ends is told behind the last response. Dropping the future, or later the receiver, cancels
    /// the call.
    pub async fn server_streaming<Req, Resp>(
        &self,
        method: impl IntoMethodOf<Req, Resp, kind::ServerStreaming>,
        request: Request<Req>,
    ) -> Result<Receiver<Req, Resp>, Status> {
        let (message, options) = request.into_parts();
        let stream = self.open(method, Cardinality::ServerStreaming, options).await?;
        let (mut sender, receiver) = stream.split();
        match sender.send(message).await {
            Ok(()) => sender.close_send(),
            Err(status) => {
                // Over because of that, or without its request.
                sender.cancel();
                return Err(status);
            }
        }
        Ok(receiver)
    }

    /// Calls a method with many requests and one response: sends all of the request's stream, and
    /// gives the response once the server has ended the call with OK.
    ///
    /// Where the server ends the call before it has all requests, that is how the call ends, and
    /// the rest is not taken from the stream. Fails as [`invoke`](Self::invoke) does, and where a
    /// request is over its limit. Dropping the future cancels the call.
    ///
    /// ```no_run
    /// # #[derive(Clone, PartialEq, prost::Message)] struct Point {}
    /// # #[derive(Clone, PartialEq, prost::Message)] struct Summary {}
    /// # async fn run(channel: switchboard::Channel) -> Result<(), switchboard::Status> {
    /// use switchboard::{Method, Request, kind};
    ///
    /// const RECORD: Method<Point, Summary, kind::ClientStreaming> =
    ///     Method::client_streaming("/routeguide.RouteGuide/RecordRoute");
    ///
    /// let points = tokio_stream::iter(vec![Point {}; 1_000]);
    /// let summary = channel.client_streaming(RECORD, Request::new(points)).await?;
    /// # Ok(()) }
    /// ```
    pub async fn client_streaming<Req, Resp>(
        &self,
        method: impl IntoMethodOf<Req, Resp, kind::ClientStreaming>,
        requests: Request<impl Stream<Item = Req> + Send>,
    ) -> Result<Response<Resp>, Status>
    where
        Req: Send,
    {
        let (requests, options) = requests.into_parts();
        let stream = self.open(method, Cardinality::ClientStreaming, options).await?;
        let mut call = stream.exchange(requests);
        let message = call.recv().await?;
        let message = message.ok_or_else(|| Status::internal(NO_RESPONSE))?;
        call.into_response(message).await
    }

    /// Calls a method with many requests and many responses: sends all of the request's stream
    /// while the responses are received. It does both when it is polled, and nothing otherwise.
    ///
    /// Returns once the call is on its way to a server. Fails as [`invoke`](Self::invoke) does; how
    /// the call ends is told behind the last response. Dropping the future, or later what it gives,
    /// cancels the call.
    ///
    /// ```no_run
    /// # #[derive(Clone, PartialEq, prost::Message)] struct Note {}
    /// # async fn run(channel: switchboard::Channel) -> Result<(), switchboard::Status> {
    /// use switchboard::{Method, Request, kind};
    ///
    /// const CHAT: Method<Note, Note, kind::BidiStreaming> = Method::bidi_streaming("/chat.Room/Chat");
    ///
    /// let notes = tokio_stream::iter(vec![Note {}; 1_000_000]);
    /// let mut replies = channel.bidi_streaming(CHAT, Request::new(notes)).await?;
    /// while let Some(reply) = replies.recv().await? {
    ///     // …
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn bidi_streaming<'a, Req, Resp>(
        &self,
        method: impl IntoMethodOf<Req, Resp, kind::BidiStreaming>,
        requests: Request<impl Stream<Item = Req> + Send + 'a>,
    ) -> Result<Exchange<'a, Req, Resp>, Status>
    where
        Req: Send + 'a,
        Resp: 'a,
    {
        let (requests, options) = requests.into_parts();
        Ok(self.new_stream(method, options).await?.exchange(requests))
    }

    /// Opens a stream to a method of any kind, whose requests are sent one by one. A method that is given as a path counts as one with
    /// many requests and many responses.
    ///
    /// Returns once the call is on its way to a server; whether that takes it shows at the first
    /// answer. Fails as [`invoke`](Self::invoke) does. Dropping the future, or later the stream,
    /// cancels the call.
    pub async fn new_stream<Req, Resp>(
        &self,
        method: impl IntoMethod<Req, Resp>,
        options: CallOptions,
    ) -> Result<Streaming<Req, Resp>, Status> {
        self.open(method, Cardinality::BidiStreaming, options).await
    }

    /// Opens a stream; a method that is given as a path counts as one of the kind that it is called
    /// as.
    async fn open<Req, Resp>(
        &self,
        method: impl IntoMethod<Req, Resp>,
        as_kind: Cardinality,
        mut options: CallOptions,
    ) -> Result<Streaming<Req, Resp>, Status> {
        let finish = options.take_finish();
        let PreparedMethod { path, cardinality, vtable } = match method.prepare() {
            Ok(method) => method,
            Err(status) => {
                finish.run(Err(&status));
                return Err(status);
            }
        };
        let begun = Instant::now();
        let call = OutgoingCall::new(path, cardinality, as_kind, &vtable, options, begun);
        let has_many_responses = call.cardinality.has_many_responses();
        let answer = self.interceptors().stream(call).and_finish(finish);
        Ok(match answer.into_passed() {
            Ok(call) => Streaming::of_channel(self.make_stream(call).await?, vtable),
            Err(answer) if has_many_responses => Streaming::wrapped(answer.await?, vtable),
            Err(answer) => Streaming::wrapped(OneResponse::of(answer.await?), vtable),
        })
    }

    /// The channel's state.
    pub fn state(&self) -> ConnectivityState {
        self.handle.core.shared.states.get()
    }

    /// Waits until the state is another than `from` and returns it. What happened in between may
    /// go unseen; [`watch_state`](Self::watch_state) shows it all. Cancel-safe.
    pub async fn wait_for_state_change(&self, from: ConnectivityState) -> ConnectivityState {
        self.handle.core.shared.states.other_than(from).await
    }

    /// Watches the state: the current one, then every change, in order.
    pub fn watch_state(&self) -> StateChanges {
        self.handle.core.shared.states.watch()
    }

    /// Starts connecting, if the channel is idle. Does not wait.
    ///
    /// Outside of any runtime, on a channel that was not built with one, nothing can start; that
    /// is logged, and the next call says so.
    pub fn connect(&self) {
        if self.handle.core.is_ending() {
            return;
        }
        if let Err(error) = self.handle.core.demand() {
            let channel = &self.handle.core.settings.target;
            tracing::error!(target: "switchboard", %channel, %error, "cannot connect");
        }
    }

    /// Connects the channel, if it is idle, and waits until it is READY: that is, until a call would
    /// be sent at once. Attempts that fail are followed by others until `timeout` has passed.
    ///
    /// Fails with `DEADLINE_EXCEEDED` once it has, and with the cause of the last failure, where
    /// there was one; with CANCELLED where the channel is or becomes closed; with UNAVAILABLE where
    /// there is no runtime to connect on, or where that has shut down.
    ///
    /// Calls need not wait for this; for the start of a program it tells early that a server cannot
    /// be reached. Cancel-safe: the channel goes on connecting.
    ///
    /// ```no_run
    /// # async fn run(channel: switchboard::Channel) -> Result<(), switchboard::Status> {
    /// channel.ready(std::time::Duration::from_secs(5)).await?;
    /// # Ok(()) }
    /// ```
    pub async fn ready(&self, timeout: Duration) -> Result<(), Status> {
        self.until_ready(timeout).await.map_err(|why| match why {
            NotReady::Ended(status) => status,
            NotReady::TooLate(last_error) => {
                let text = format!("{} was not READY within {timeout:?}", self.target());
                if let Some(error) = last_error {
                    let text = format!("{text}; last error: {}", error.text());
                    Status::deadline_exceeded(text).with_source(error)
                } else {
                    let text = format!("{text}: it is {}", self.state());
                    Status::deadline_exceeded(text)
                }
            }
        })
    }

    /// Ends every wait between attempts to connect, as when the network has come back.
    pub fn reset_connect_backoff(&self) {
        self.handle.core.reset_connect_backoff();
    }

    /// Closes the channel as [`close_within`](Self::close_within) does, with a grace of 5 s.
    pub async fn close(&self) {
        self.close_within(CLOSE_GRACE).await;
    }

    /// Closes the channel: calls that wait end with CANCELLED at once, open ones are given
    /// `grace` and are then reset. Returns when nothing of the channel is left. A second call
    /// waits for the same end. Cancel-safe: the channel closes all the same.
    pub async fn close_within(&self, grace: Duration) {
        self.handle.core.close(grace).await;
    }

    pub(super) fn core(&self) -> &Arc<Core> {
        &self.handle.core
    }

    /// Waits until the channel is READY for no longer than `timeout`, or says why it is not.
    pub(super) async fn until_ready(&self, timeout: Duration) -> Result<(), NotReady> {
        let deadline = Deadline::after(Instant::now().into_std(), timeout).instant();
        call::until_ready(&self.handle.core.shared, Instant::from_std(deadline)).await
    }

    /// The target, in its whole form.
    pub fn target(&self) -> String {
        self.handle.core.settings.target.to_string()
    }

    /// All of a unary call that takes no time.
    fn begin_unary<Req, Resp>(
        &self,
        method: impl IntoMethodOf<Req, Resp, kind::Unary>,
        message: &Req,
        options: CallOptions,
    ) -> Result<Begun<'_, Req, Resp>, Status> {
        // Before the message is encoded, which takes of the call's time too.
        let begun = Instant::now();
        let PreparedMethod { path, cardinality, vtable } = method.prepare()?;
        let message = EncodedMessage::encode(message, &vtable)?;
        let call =
            OutgoingCall::new(path, cardinality, Cardinality::Unary, &vtable, options, begun);
        let (call, message) = if self.handle.interceptors.is_empty() {
            (call, message)
        } else {
            match self.interceptors().unary(call, message).into_passed() {
                Ok(passed) => passed,
                Err(answer) => return Ok(Begun { call: Unary::Intercepted(answer), vtable }),
            }
        };
        let (head, message) = self.unary_head(call, message);
        Ok(Begun { call: Unary::Passed(head, message), vtable })
    }

    /// Makes a unary call that has passed all interceptors.
    pub(super) async fn make_unary(
        &self,
        call: OutgoingCall,
        message: EncodedMessage,
    ) -> Result<Response<Bytes>, Status> {
        let (head, message) = self.unary_head(call, message);
        let reply = call::unary(&self.handle.core.shared, &head, &message).await;
        answered(&head, reply)
    }

    /// Opens a stream that has passed all interceptors.
    pub(super) async fn make_stream(&self, call: OutgoingCall) -> Result<ChannelStream, Status> {
        let cardinality = call.cardinality;
        let head = self.call_head(call, self.handle.defaults.stream_timeout);
        let shared = self.handle.core.shared.clone();
        StreamCall::open(shared, head, cardinality).await.map(ChannelStream)
    }

    fn unary_head(&self, call: OutgoingCall, message: EncodedMessage) -> (CallHead, Message) {
        let (message, _) = message.into_parts();
        (self.call_head(call, self.handle.defaults.timeout), message)
    }

    #[inline]
    fn call_head(&self, call: OutgoingCall, timeout: Option<Duration>) -> CallHead {
        let Defaults { wait_for_ready, receive_bytes_max, send_bytes_max, .. } =
            self.handle.defaults;
        let deadline = call.deadline().map(Instant::from_std);
        let events = self.events(&call);
        let OutgoingCall { method: path, options, content_type, begun, .. } = call;
        CallHead {
            path,
            content_type,
            begun,
            deadline,
            wait_for_ready: options.wait_for_ready,
            receive_bytes_max: options.receive_bytes_max,
            send_bytes_max: options.send_bytes_max,
            defaults: call::Defaults { timeout, wait_for_ready, receive_bytes_max, send_bytes_max },
            metadata: options.metadata,
            compression: options.compression.or(self.handle.defaults.compression),
            extras: options.extras,
            authority: options.authority,
            credentials: options.credentials,
            events,
        }
    }

    /// Asks the observers which of them want to see this call.
    fn events(&self, call: &OutgoingCall) -> Events {
        let observers = &self.handle.core.settings.observers;
        Events::to(observers.call_began(&call.method, call.is_known))
    }

    fn interceptors(&self) -> Next<'_> {
        Next::new(&self.handle.interceptors, self)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.core.abandon();
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("target", &self.target())
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

/// A unary call, so far.
struct Begun<'a, Req, Resp> {
    call: Unary<'a>,
    vtable: Vtable<Req, Resp>,
}

#[expect(clippy::large_enum_variant, reason = "calls that nobody intercepts do not allocate")]
enum Unary<'a> {
    /// It has passed all interceptors.
    Passed(CallHead, Message),
    Intercepted(BoxFuture<'a, Result<Response<Bytes>, Status>>),
}

/// The message of `response` decoded. What came with one that cannot be goes with the status.
fn decoded<Req, Resp>(
    response: Response<Bytes>,
    vtable: &Vtable<Req, Resp>,
) -> Result<Response<Resp>, Status> {
    match vtable.decode(response.message()) {
        Ok(message) => response.try_map(|_| Ok(message)),
        Err(status) => {
            let (headers, trailers) = (response.metadata(), response.trailers());
            Err(status.with_headers(headers.clone()).with_metadata(trailers.clone()))
        }
    }
}

/// The end of the call of `head`.
fn answered(head: &CallHead, reply: Result<Reply, Status>) -> Result<Response<Bytes>, Status> {
    head.events.ended(reply.as_ref().map(drop));
    reply.map(Response::from)
}

/// How a call with one response ends that has ended with OK, and without it.
const NO_RESPONSE: &str = "the call ended with OK and without its response";

/// As in grpc-go.
const RECEIVE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Long enough for most calls to end, short enough for a service that shuts down.
const CLOSE_GRACE: Duration = Duration::from_secs(5);
