//! What a status says, and how much of its time a call has left when it is sent.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use switchboard::memory::{self, MemoryConnector};
use switchboard::{
    Address, Answer, BoxFuture, CallContext, CallCredentials, CallOptions, Channel, ChannelBuilder,
    Code, Codec, CodecError, Connect, ConnectivityState, EncodedMessage, Endpoint, Interceptor, Io,
    ManualResolver, Metadata, Method, Next, OutgoingCall, Resolution, Response, SecurityLevel,
    Status,
};
use tokio::time::Instant;

use crate::support::greeter::{
    BIDI_HELLO, HelloReply, HelloRequest, LOTS_OF_REPLIES, SAY_HELLO, ask, hello,
};
use crate::support::{plaintext, until_state};

/// How a server answers an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Greets,
    IsSilent,
    /// With UNAVAILABLE, and word on another attempt after so many milliseconds.
    Fails(&'static str),
    /// The same, and goes away.
    FailsAndLeaves(&'static str),
    /// That it has not looked at it.
    Refuses,
    /// With headers, and then UNAVAILABLE.
    FailsLate,
    /// With headers, and then a reset.
    ResetsLate,
    /// With headers, a message that is none of the method's, and OK.
    Babbles,
    /// With headers and OK, and no message.
    SaysNothing,
    /// With UNAVAILABLE, and nothing else.
    FailsBare,
}

use Said::*;

/// When an attempt came, and how much time it was said to have.
type Seen = (Instant, Option<Duration>);

/// Answers attempts by a list, and the last way from then on; notes when each came, and how much
/// time it was said to have.
#[derive(Clone)]
struct Server {
    connector: MemoryConnector,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    fn start(said: &'static [Said], max_streams: u32) -> Self {
        let (connector, mut listener) = memory::pipe();
        let server = Self { connector, seen: Arc::default() };
        let seen = server.seen.clone();
        tokio::spawn(async move {
            while let Some(stream) = listener.accept().await {
                tokio::spawn(serve(stream, said, max_streams, seen.clone()));
            }
        });
        server
    }

    fn builder(&self, config: &str) -> ChannelBuilder {
        let builder = plaintext("passthrough:server").connector(self.connector.clone()).seed(1);
        builder.default_service_config(config)
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Sees that every attempt was told the time that was left of `TIMEOUT`, counted from `begun`.
    fn check(&self, begun: Instant, what: &str) {
        for (nth, (at, told)) in self.seen().into_iter().enumerate() {
            let left = TIMEOUT.saturating_sub(at - begun);
            let told = told.unwrap();
            // A millisecond for rounding up, and two for timers.
            let most = left + Duration::from_millis(3);
            assert!(told <= most, "{what}, attempt {nth}: {told:?} where {left:?} are left");
            assert!(told + Duration::from_millis(3) >= left, "{what}, attempt {nth}: {told:?}");
        }
    }
}

async fn serve(
    stream: tokio::io::DuplexStream,
    said: &'static [Said],
    max_streams: u32,
    seen: Arc<Mutex<Vec<Seen>>>,
) -> Option<()> {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(max_streams);
    let mut connection = builder.handshake(stream).await.ok()?;
    while let Some(Ok((request, respond))) = connection.accept().await {
        let nth = {
            let mut seen = seen.lock().unwrap();
            let timeout = request.headers().get("grpc-timeout");
            seen.push((Instant::now(), timeout.map(|it| duration(it.to_str().unwrap()))));
            seen.len() - 1
        };
        let said = *said.get(nth).or_else(|| said.last()).unwrap();
        let (done, is_done) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let answered = give(said, request.into_body(), respond).await;
            let _ = done.send(());
            answered
        });
        if let FailsAndLeaves(_) = said {
            let _ = is_done.await;
            connection.graceful_shutdown();
        }
    }
    Some(())
}

fn duration(text: &str) -> Duration {
    let (amount, unit) = text.split_at(text.len() - 1);
    let amount: u64 = amount.parse().unwrap();
    match unit {
        "n" => Duration::from_nanos(amount),
        "m" => Duration::from_millis(amount),
        "S" => Duration::from_secs(amount),
        unit => panic!("{unit}"),
    }
}

/// The client may be gone at any of these steps.
async fn give(
    said: Said,
    mut requests: h2::RecvStream,
    mut respond: h2::server::SendResponse<Bytes>,
) -> Option<()> {
    let status = |code: u32, message: &'static str, pushback: &'static str| {
        let mut fields = http::HeaderMap::new();
        fields.insert("grpc-status", code.into());
        for (name, text) in [("grpc-message", message), ("grpc-retry-pushback-ms", pushback)] {
            if !text.is_empty() {
                fields.insert(name, http::HeaderValue::from_static(text));
            }
        }
        fields
    };
    let mut response = http::Response::new(());
    let grpc = http::HeaderValue::from_static("application/grpc");
    response.headers_mut().insert("content-type", grpc);
    if let FailsLate | ResetsLate | Babbles | SaysNothing = said {
        response.headers_mut().insert("served-by", http::HeaderValue::from_static("the third"));
    }
    let message = |payload: &[u8]| {
        let mut framed = vec![0, 0, 0, 0, u8::try_from(payload.len()).unwrap()];
        framed.extend(payload);
        Bytes::from(framed)
    };
    match said {
        IsSilent => std::future::pending().await,
        Refuses => respond.send_reset(h2::Reason::REFUSED_STREAM),
        Fails(pushback) | FailsAndLeaves(pushback) => {
            response.headers_mut().extend(status(14, "busy", pushback));
            respond.send_response(response, true).ok()?;
        }
        FailsBare => {
            response.headers_mut().extend(status(14, "", ""));
            respond.send_response(response, true).ok()?;
        }
        FailsLate => {
            let mut body = respond.send_response(response, false).ok()?;
            body.send_trailers(status(14, "busy", "")).ok()?;
        }
        ResetsLate => {
            let mut body = respond.send_response(response, false).ok()?;
            // After the headers have been seen.
            tokio::time::sleep(Duration::from_millis(50)).await;
            body.send_reset(h2::Reason::INTERNAL_ERROR);
        }
        Babbles => {
            let mut body = respond.send_response(response, false).ok()?;
            body.send_data(message(&[0xff]), false).ok()?;
            let mut fields = status(0, "", "");
            fields.insert("k", http::HeaderValue::from_static("v"));
            body.send_trailers(fields).ok()?;
        }
        SaysNothing => {
            let mut body = respond.send_response(response, false).ok()?;
            body.send_trailers(status(0, "", "")).ok()?;
        }
        Greets => {
            let mut body = respond.send_response(response, false).ok()?;
            while let Some(Ok(data)) = requests.data().await {
                requests.flow_control().release_capacity(data.len()).ok()?;
            }
            let reply = HelloReply { message: "Hello".to_owned() };
            body.send_data(message(&prost::Message::encode_to_vec(&reply)), false).ok()?;
            body.send_trailers(status(0, "", "")).ok()?;
        }
    }
    Some(())
}

/// All the time that calls have.
const TIMEOUT: Duration = Duration::from_secs(10);

const ONCE: &str = "{}";
const RETRIES: &str = r#"{"methodConfig":[{"name":[{}],"retryPolicy":{"maxAttempts":4,
    "initialBackoff":"1s","maxBackoff":"1s","backoffMultiplier":1,
    "retryableStatusCodes":["UNAVAILABLE"]}}]}"#;
const HEDGES: &str = r#"{"methodConfig":[{"name":[{}],"hedgingPolicy":{"maxAttempts":3,
    "hedgingDelay":"0.7s","nonFatalStatusCodes":["UNAVAILABLE"]}}]}"#;

/// How a call is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Unary,
    Stream,
    Retry,
    RetriedStream,
    Hedge,
}

const KINDS: [Kind; 5] = [Kind::Unary, Kind::Stream, Kind::Retry, Kind::RetriedStream, Kind::Hedge];

impl Kind {
    fn config(self) -> &'static str {
        match self {
            Self::Unary | Self::Stream => ONCE,
            Self::Retry | Self::RetriedStream => RETRIES,
            Self::Hedge => HEDGES,
        }
    }

    fn said(self) -> &'static [Said] {
        match self {
            Self::Unary | Self::Stream => &[Greets],
            Self::Retry | Self::RetriedStream => &[Fails("700"), Refuses, Fails(""), Greets],
            Self::Hedge => &[IsSilent, IsSilent, Greets],
        }
    }

    fn attempts(self) -> usize {
        self.said().len()
    }

    async fn call(self, channel: &Channel, options: CallOptions) -> Result<(), Status> {
        if let Self::Stream | Self::RetriedStream = self {
            let mut stream = channel.new_stream(&LOTS_OF_REPLIES, options).await?;
            let _ = stream.send(hello("Ada")).await;
            while stream.recv().await?.is_some() {}
            return Ok(());
        }
        channel.invoke(&SAY_HELLO, ask("Ada").options(options)).await.map(drop)
    }
}

/// What takes time before a call is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Nothing,
    Interceptor,
    Credentials,
    Names,
    Connection,
    RoomForAStream,
}

/// Takes `.0` wherever it is asked.
#[derive(Clone)]
struct Slow(Duration);

impl Interceptor for Slow {
    fn unary<'a>(
        &'a self,
        call: OutgoingCall,
        message: EncodedMessage,
        next: Next<'a>,
    ) -> Answer<'a, Response<Bytes>> {
        Answer::later(async move {
            tokio::time::sleep(self.0).await;
            next.unary(call, message).await
        })
    }

    fn stream<'a>(
        &'a self,
        call: OutgoingCall,
        next: Next<'a>,
    ) -> Answer<'a, Arc<dyn switchboard::ClientStream>> {
        Answer::later(async move {
            tokio::time::sleep(self.0).await;
            next.stream(call).await
        })
    }
}

impl CallCredentials for Slow {
    fn metadata<'a>(&'a self, _: &'a CallContext<'_>) -> BoxFuture<'a, Result<Metadata, Status>> {
        Box::pin(async move {
            tokio::time::sleep(self.0).await;
            Ok(Metadata::new())
        })
    }

    fn min_security_level(&self) -> SecurityLevel {
        SecurityLevel::None
    }
}

/// Dials after a wait, the first `dials` times; then never.
struct SlowDialler {
    inner: MemoryConnector,
    wait: Duration,
    dials: AtomicUsize,
}

impl Connect for SlowDialler {
    fn connect<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, io::Result<Io>> {
        Box::pin(async move {
            tokio::time::sleep(self.wait).await;
            let less = |left: usize| left.checked_sub(1);
            if self.dials.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_err() {
                std::future::pending::<()>().await;
            }
            self.inner.connect(address).await
        })
    }
}

/// Calls once where `place` takes `delay`; gives when the call began, and how it ended.
async fn call_where(
    place: Place,
    delay: Duration,
    kind: Kind,
    server: &Server,
) -> (Instant, Result<(), Status>) {
    let mut builder = server.builder(kind.config());
    let mut options = CallOptions::new().timeout(TIMEOUT);
    let manual = ManualResolver::new();
    let mut is_warm = true;
    match place {
        Place::Nothing | Place::RoomForAStream => {}
        Place::Interceptor => builder = builder.interceptor(Slow(delay)),
        Place::Credentials => options = options.credentials(Slow(delay)),
        Place::Names => {
            is_warm = false;
            builder = plaintext("manual:///server")
                .resolver("manual", manual.clone())
                .connector(server.connector.clone())
                .default_service_config(kind.config())
                .seed(1);
        }
        Place::Connection => {
            is_warm = false;
            let inner = server.connector.clone();
            builder =
                builder.connector(SlowDialler { inner, wait: delay, dials: AtomicUsize::new(9) });
        }
    }
    let channel = builder.build().unwrap();
    if is_warm {
        channel.connect();
        until_state(&channel, ConnectivityState::Ready).await;
    }
    let mut other = None;
    if place == Place::RoomForAStream {
        // Has the only place, and gives it back when it is given up.
        let (channel, before) = (channel.clone(), server.seen().len());
        let task = tokio::spawn(async move {
            let holding = channel.new_stream(&BIDI_HELLO, CallOptions::new()).await;
            tokio::time::sleep(delay).await;
            drop(holding);
        });
        while server.seen().len() == before {
            tokio::task::yield_now().await;
        }
        server.seen.lock().unwrap().clear();
        other = Some(task);
    }
    let begun = Instant::now();
    let finding = async {
        if place == Place::Names {
            tokio::time::sleep(delay).await;
            manual
                .set_resolution(Resolution::new([Endpoint::from(Address::Name("server".into()))]));
        }
    };
    let (ended, ()) = tokio::join!(kind.call(&channel, options), finding);
    if let Some(other) = other {
        other.await.unwrap();
    }
    channel.close().await;
    (begun, ended)
}

const PLACES: [Place; 6] = [
    Place::Nothing,
    Place::Interceptor,
    Place::Credentials,
    Place::Names,
    Place::Connection,
    Place::RoomForAStream,
];

// spec: grpc/timeout
#[tokio::test(start_paused = true)]
async fn a_server_is_told_what_is_left_whatever_took_time_before() {
    for place in PLACES {
        for kind in KINDS {
            let what = format!("{place:?}, {kind:?}");
            // Hedges cannot all be under way where there is room for one.
            let has_room = place != Place::RoomForAStream || kind == Kind::Hedge;
            let max_streams = if has_room { 100 } else { 1 };
            let server = Server::start(kind.said(), max_streams);
            let delay = Duration::from_millis(1_500);
            let (begun, ended) = call_where(place, delay, kind, &server).await;
            ended.unwrap_or_else(|status| panic!("{what}: {status}"));
            assert_eq!(server.seen().len(), kind.attempts(), "{what}");
            server.check(begun, &what);
        }
    }
}

// spec: grpc/timeout
#[tokio::test(start_paused = true)]
async fn a_call_whose_deadline_has_passed_is_never_sent() {
    for place in PLACES.into_iter().filter(|place| *place != Place::Nothing) {
        for kind in KINDS {
            let what = format!("{place:?}, {kind:?}");
            let server = Server::start(&[IsSilent], 1);
            let delay = TIMEOUT + Duration::from_secs(1);
            let (begun, ended) = call_where(place, delay, kind, &server).await;
            let status = ended.unwrap_err();
            assert_eq!(status.code(), Code::DEADLINE_EXCEEDED, "{what}: {status}");
            assert!(status.message().contains("deadline passed"), "{what}: {status}");
            assert!(begun.elapsed() >= TIMEOUT, "{what}");
            assert_eq!(server.seen().len(), 0, "{what}: {status}");
        }
    }
}

/// Protobuf by hand, that takes its time.
struct SlowCodec;

const PAUSE: Duration = Duration::from_millis(60);

#[expect(clippy::disallowed_methods, reason = "what blocks is what this is about")]
fn block() {
    std::thread::sleep(PAUSE);
}

impl Codec for SlowCodec {
    type Encode = HelloRequest;
    type Decode = HelloReply;

    fn encode(message: &HelloRequest, buf: &mut BytesMut) -> Result<(), CodecError> {
        block();
        prost::Message::encode(message, buf).map_err(CodecError::new)
    }

    fn decode(bytes: Bytes) -> Result<HelloReply, CodecError> {
        prost::Message::decode(bytes).map_err(CodecError::new)
    }
}

/// Blocks in `before`.
struct Blocking;

impl Interceptor for Blocking {
    fn before(&self, _: &mut OutgoingCall) -> Result<(), Status> {
        block();
        Ok(())
    }
}

#[tokio::test]
async fn what_blocks_the_caller_takes_of_its_time_too() {
    const SLOWLY: Method<HelloRequest, HelloReply> =
        Method::with_codec::<SlowCodec>("/helloworld.Greeter/SayHello");
    for (what, pauses) in [("encoding", 1), ("an interceptor", 1), ("both", 2)] {
        let server = Server::start(&[Greets], 100);
        let mut builder = server.builder(ONCE);
        if what != "encoding" {
            builder = builder.interceptor(Blocking);
        }
        let channel = builder.build().unwrap();
        let request = ask("Ada").timeout(TIMEOUT);
        let reply = if what == "an interceptor" {
            channel.invoke(&SAY_HELLO, request).await
        } else {
            channel.invoke(&SLOWLY, request).await
        };
        reply.unwrap();
        let told = server.seen()[0].1.unwrap();
        assert!(told + PAUSE * pauses <= TIMEOUT, "{what}: {told:?}");
        channel.close().await;
    }
}

/// How the time of a call runs out after an attempt has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    WhileResting,
    InTheNextAttempt,
    InTheOneAfter,
    AfterATransparentRetry,
    WhileItWaitsForAConnection,
    WhileItWaitsForRoom,
    WhileItIsProved,
}

#[tokio::test(start_paused = true)]
async fn a_deadline_after_failed_attempts_names_the_last_failure() {
    use Way::*;
    let rows: [(Way, &'static [Said]); 7] = [
        (WhileResting, &[Fails("60000")]),
        (InTheNextAttempt, &[Fails("700"), IsSilent]),
        (InTheOneAfter, &[Fails("700"), Fails("700"), IsSilent]),
        (AfterATransparentRetry, &[Refuses, IsSilent]),
        (WhileItWaitsForAConnection, &[FailsAndLeaves("700"), IsSilent]),
        (WhileItWaitsForRoom, &[Fails("700"), IsSilent]),
        (WhileItIsProved, &[Fails("700"), IsSilent]),
    ];
    for (way, said) in rows {
        for kind in [Kind::Retry, Kind::RetriedStream, Kind::Hedge] {
            let what = format!("{way:?}, {kind:?}");
            let max_streams = if way == WhileItWaitsForRoom { 1 } else { 100 };
            let server = Server::start(said, max_streams);
            let inner = server.connector.clone();
            let dialler = SlowDialler { inner, wait: Duration::ZERO, dials: AtomicUsize::new(1) };
            let channel = server.builder(kind.config()).connector(dialler).build().unwrap();
            channel.connect();
            until_state(&channel, ConnectivityState::Ready).await;
            let mut options = CallOptions::new().timeout(TIMEOUT);
            if way == WhileItIsProved {
                options = options.credentials(HangsSecond(AtomicUsize::new(0)));
            }
            let crowding = async {
                if way == WhileItWaitsForRoom {
                    while server.seen().is_empty() {
                        tokio::task::yield_now().await;
                    }
                    let mut stream =
                        channel.new_stream(&BIDI_HELLO, CallOptions::new()).await.unwrap();
                    let _ = tokio::time::timeout(TIMEOUT * 2, stream.recv()).await;
                }
            };
            let (ended, ()) = tokio::join!(kind.call(&channel, options), crowding);
            let status = ended.unwrap_err();
            assert_eq!(status.code(), Code::DEADLINE_EXCEEDED, "{what}: {status}");
            let text = match way {
                AfterATransparentRetry => {
                    "the last attempt ended with UNAVAILABLE: server: the server refused"
                }
                _ => "the last attempt ended with UNAVAILABLE from server: busy",
            };
            assert!(status.message().contains(text), "{what}: {status}");
            assert_eq!(status.message().matches("the last attempt").count(), 1, "{what}: {status}");
            channel.close().await;
        }
    }
}

/// Credentials that are never made but for the first attempt.
struct HangsSecond(AtomicUsize);

impl CallCredentials for HangsSecond {
    fn metadata<'a>(&'a self, _: &'a CallContext<'_>) -> BoxFuture<'a, Result<Metadata, Status>> {
        let nth = self.0.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            if nth > 0 {
                std::future::pending::<()>().await;
            }
            Ok(Metadata::new())
        })
    }

    fn min_security_level(&self) -> SecurityLevel {
        SecurityLevel::None
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_fails_shows_the_headers_that_came_before() {
    for (said, code) in [
        (&[FailsLate][..], Code::UNAVAILABLE),
        (&[ResetsLate], Code::INTERNAL),
        (&[Babbles], Code::INTERNAL),
        (&[SaysNothing], Code::UNIMPLEMENTED),
    ] {
        for kind in [Kind::Unary, Kind::Retry, Kind::Hedge, Kind::Stream] {
            // A stream may have no message, and one that cannot be decoded is the stream's.
            if kind == Kind::Stream && matches!(said[0], Babbles | SaysNothing) {
                continue;
            }
            let server = Server::start(said, 100);
            let channel = server.builder(kind.config()).build().unwrap();
            let status = kind.call(&channel, CallOptions::new()).await.unwrap_err();
            let what = format!("{said:?}, {kind:?}: {status}");
            assert_eq!(status.code(), code, "{what}");
            assert_eq!(status.headers().get("served-by"), Some("the third"), "{what}");
            assert_eq!(status.metadata().get("k").is_some(), said[0] == Babbles, "{what}");
            channel.close().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_status_without_a_message_is_shown_with_its_server_and_method() {
    for kind in KINDS {
        let server = Server::start(&[FailsBare], 100);
        let channel = server.builder(kind.config()).build().unwrap();
        let status = kind.call(&channel, CallOptions::new()).await.unwrap_err();
        assert_eq!(status.code(), Code::UNAVAILABLE);
        let shown = status.to_string();
        assert!(shown.contains("server gave no message for /helloworld.Greeter/"), "{shown}");
        // What has exhausted its attempts has a text of this side's.
        let is_retried = matches!(kind, Kind::Retry | Kind::RetriedStream);
        assert_eq!(!status.message().is_empty(), is_retried, "{kind:?}: {status}");
        channel.close().await;
    }
}

// spec: grpc/cardinality
#[tokio::test(start_paused = true)]
async fn a_stream_that_takes_one_request_and_is_given_none_is_not_the_methods() {
    let server = Server::start(&[Greets], 100);
    let channel = server.builder(ONCE).build().unwrap();
    let mut stream = channel.new_stream(&LOTS_OF_REPLIES, CallOptions::new()).await.unwrap();
    stream.close_send();
    let status = stream.recv().await.unwrap_err();
    assert_eq!(status.code(), Code::UNIMPLEMENTED);
    assert!(status.message().contains("takes one request, and none was sent"), "{status}");
    drop(stream);
    channel.close().await;
}
