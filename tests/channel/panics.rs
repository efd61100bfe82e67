//! Parts of the application that panic: at once, in what they return, in their drop.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use switchboard::memory::{MemoryConnector, pipe};
use switchboard::{
    AccessToken, ActorKind, Address, Answer, BackoffConfig, BinaryLog, BinaryLogSink, BoxFuture,
    CallConfig, CallContext, CallCredentials, CallEvent, CallInfo, CallObserver, CallOptions,
    Channel, ChannelEvent, ChannelInfo, ClientStream, Code, Codec, CodecError, Connect,
    ConnectivityState, Credentials, EncodedMessage, Endpoint, EndpointShards, Interceptor, Io,
    LbContext, LbEvent, LbPolicy, LbPolicyBuilder, LbPolicyConfig, Metadata, Method, MethodConfig,
    Next, OAuth2, Observer, OutgoingCall, Pick, PickArgs, PickResult, Picker, PolicyReport,
    ReadyEndpoint, Request, Resolution, Resolve, ResolveError, Response, SecurityLevel, SelectArgs,
    ServiceConfigError, Spread, Status, StreamWrapper, SubchannelId, Target, TargetError,
    TokenSource, kind,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::support::greeter::{BIDI_HELLO, SAY_HELLO, ask, hello};
use crate::support::mini::answer_all;
use crate::support::{plaintext, reports, until, until_state};

/// Where the application panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    ResolverBuild,
    Resolve,
    Changed,
    Dial,
    Read,
    Write,
    Flush,
    Shutdown,
    Policy,
    PolicyInspect,
    Pick,
    PickerInspect,
    Before,
    Intercept,
    WrappedStream,
    Credential,
    Token,
    CallObserver,
    ChannelObserver,
    Selector,
    OnCommit,
    OnFinish,
    LogSink,
    Propagate,
    /// Whatever the channel was given.
    Value,
}

const PARTS: [Part; 25] = [
    Part::ResolverBuild,
    Part::Resolve,
    Part::Changed,
    Part::Dial,
    Part::Read,
    Part::Write,
    Part::Flush,
    Part::Shutdown,
    Part::Policy,
    Part::PolicyInspect,
    Part::Pick,
    Part::PickerInspect,
    Part::Before,
    Part::Intercept,
    Part::WrappedStream,
    Part::Credential,
    Part::Token,
    Part::CallObserver,
    Part::ChannelObserver,
    Part::Selector,
    Part::OnCommit,
    Part::OnFinish,
    Part::LogSink,
    Part::Propagate,
    Part::Value,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    AtOnce,
    Later,
    InDrop,
}

const WHENS: [When; 3] = [When::AtOnce, When::Later, When::InDrop];

/// Whether there is code of the application to panic there.
fn can_panic(part: Part, when: When, is_stream: bool) -> bool {
    match (part, when) {
        (Part::WrappedStream, _) => is_stream,
        (Part::Value, when) => when == When::InDrop,
        // A function that is called, and nothing that it gives.
        (
            Part::ResolverBuild
            | Part::PolicyInspect
            | Part::PickerInspect
            | Part::Before
            | Part::ChannelObserver
            | Part::LogSink
            | Part::Propagate,
            when,
        ) => when == When::AtOnce,
        // One that is dropped as well.
        (Part::Pick | Part::Selector | Part::OnCommit | Part::OnFinish, when) => {
            when != When::Later
        }
        (
            Part::Resolve
            | Part::Changed
            | Part::Dial
            | Part::Read
            | Part::Write
            | Part::Flush
            | Part::Shutdown
            | Part::Policy
            | Part::Intercept
            | Part::Credential
            | Part::Token
            | Part::CallObserver,
            When::AtOnce | When::Later | When::InDrop,
        ) => true,
    }
}

/// Panics where it is told to.
#[derive(Clone)]
struct Trouble {
    part: Part,
    when: When,
    is_armed: Arc<AtomicBool>,
    /// How often it has panicked.
    strikes: Arc<AtomicUsize>,
}

impl Trouble {
    fn new(part: Part, when: When) -> Self {
        Self { part, when, is_armed: Arc::default(), strikes: Arc::default() }
    }

    fn strike(&self, part: Part, when: When) {
        if (part, when) == (self.part, self.when) && self.is_armed.load(Ordering::SeqCst) {
            self.strikes.fetch_add(1, Ordering::SeqCst);
            panic!("{part:?} {when:?}");
        }
    }

    fn has_struck(&self) -> bool {
        self.strikes.load(Ordering::SeqCst) > 0
    }

    /// What a method of `part` returns that is done at once otherwise.
    fn later<'a, T: Send + 'a>(&self, part: Part, output: T) -> BoxFuture<'a, T> {
        self.strike(part, When::AtOnce);
        let bomb = Bomb(self.clone(), part);
        Box::pin(async move {
            tokio::task::yield_now().await;
            bomb.0.strike(part, When::Later);
            output
        })
    }
}

/// Panics in its drop.
struct Bomb(Trouble, Part);

impl Drop for Bomb {
    fn drop(&mut self) {
        self.0.strike(self.1, When::InDrop);
    }
}

/// Every part at once.
#[derive(Clone)]
struct Bad(Trouble);

impl Drop for Bad {
    fn drop(&mut self) {
        self.0.strike(Part::Value, When::InDrop);
    }
}

struct BadResolver(Bad, bool);

impl Resolve for BadResolver {
    fn resolve(&mut self) -> BoxFuture<'_, Result<Resolution, ResolveError>> {
        self.1 = true;
        let Bad(trouble) = &self.0;
        let selector = Selector(trouble.clone(), Bomb(trouble.clone(), Part::Selector));
        let endpoint = Endpoint::from(Address::Name("server".into()));
        let found = Resolution::new([endpoint]).with_config_selector(Arc::new(selector));
        trouble.later(Part::Resolve, Ok(found))
    }

    fn changed(&mut self) -> BoxFuture<'_, ()> {
        let trouble = self.0.0.clone();
        if !self.1 || trouble.part != Part::Changed {
            return Box::pin(std::future::pending());
        }
        trouble.strike(Part::Changed, When::AtOnce);
        Box::pin(async move {
            let _bomb = Bomb(trouble.clone(), Part::Changed);
            tokio::time::sleep(Duration::from_secs(1)).await;
            trouble.strike(Part::Changed, When::Later);
        })
    }
}

struct Selector(Trouble, #[expect(dead_code, reason = "it is dropped")] Bomb);

impl switchboard::ConfigSelector for Selector {
    fn select(&self, _: &SelectArgs<'_>) -> Result<CallConfig, Status> {
        let trouble = self.0.clone();
        trouble.strike(Part::Selector, When::AtOnce);
        let bomb = Bomb(trouble.clone(), Part::OnCommit);
        Ok(CallConfig::new(MethodConfig::new()).on_commit(move || {
            let bomb = bomb;
            bomb.0.strike(Part::OnCommit, When::AtOnce);
        }))
    }
}

struct BadDialler(Bad, MemoryConnector);

impl Connect for BadDialler {
    fn connect<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, io::Result<Io>> {
        let Bad(trouble) = &self.0;
        let ready = trouble.later(Part::Dial, ());
        Box::pin(async move {
            ready.await;
            let io = self.1.connect(address).await?;
            Ok(Io::new(BadBytes { io, trouble: trouble.clone(), read: 0, written: 0 }))
        })
    }
}

struct BadBytes {
    io: Io,
    trouble: Trouble,
    read: usize,
    written: usize,
}

impl BadBytes {
    /// At once is with the first bytes, later with those of a call.
    fn strike(&self, part: Part, count: usize) {
        self.trouble.strike(part, When::AtOnce);
        if count > 3 && !self.trouble.has_struck() {
            // Once: the next connection serves.
            self.trouble.strike(part, When::Later);
        }
    }
}

impl Drop for BadBytes {
    fn drop(&mut self) {
        for part in [Part::Read, Part::Write, Part::Flush, Part::Shutdown] {
            self.trouble.strike(part, When::InDrop);
        }
    }
}

impl AsyncRead for BadBytes {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.read += 1;
        self.strike(Part::Read, self.read);
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for BadBytes {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.written += 1;
        self.strike(Part::Write, self.written);
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.strike(Part::Flush, self.written);
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.strike(Part::Shutdown, usize::MAX);
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl LbPolicyBuilder for Bad {
    fn name(&self) -> &'static str {
        "bad"
    }

    fn parse_config(&self, _: &serde_json::Value) -> Result<LbPolicyConfig, ServiceConfigError> {
        Ok(LbPolicyConfig::new(()))
    }

    fn build(&self) -> Box<dyn LbPolicy> {
        let shards = EndpointShards::new(BadSpread(self.clone()));
        Box::new(BadPolicy(self.0.clone(), Box::new(shards), Bomb(self.0.clone(), Part::Policy)))
    }
}

struct BadPolicy(Trouble, Box<dyn LbPolicy>, #[expect(dead_code, reason = "it is dropped")] Bomb);

impl LbPolicy for BadPolicy {
    fn handle(&mut self, event: LbEvent, cx: &mut LbContext<'_>) {
        self.0.strike(Part::Policy, When::AtOnce);
        let is_flush = matches!(event, LbEvent::Flush);
        self.1.handle(event, cx);
        if is_flush {
            // It has published by then.
            self.0.strike(Part::Policy, When::Later);
        }
    }

    fn wake_at(&self) -> Option<std::time::Instant> {
        self.1.wake_at()
    }

    fn inspect(&self) -> PolicyReport {
        self.0.strike(Part::PolicyInspect, When::AtOnce);
        self.1.inspect()
    }
}

struct BadSpread(Bad);

impl Spread for BadSpread {
    fn name(&self) -> &'static str {
        "bad"
    }

    fn picker(&mut self, ready: &[ReadyEndpoint<'_>], _: &mut LbContext<'_>) -> Arc<dyn Picker> {
        let trouble = self.0.0.clone();
        Arc::new(BadPicker(ready[0].subchannel(), trouble.clone(), Bomb(trouble, Part::Pick)))
    }
}

struct BadPicker(SubchannelId, Trouble, #[expect(dead_code, reason = "it is dropped")] Bomb);

impl Picker for BadPicker {
    fn pick(&self, _: &PickArgs<'_>) -> PickResult {
        self.1.strike(Part::Pick, When::AtOnce);
        PickResult::Complete(Pick::new(self.0))
    }

    fn inspect(&self) -> String {
        self.1.strike(Part::PickerInspect, When::AtOnce);
        "bad".to_owned()
    }
}

impl Interceptor for Bad {
    fn before(&self, _: &mut OutgoingCall) -> Result<(), Status> {
        self.0.strike(Part::Before, When::AtOnce);
        Ok(())
    }

    fn unary<'a>(
        &'a self,
        call: OutgoingCall,
        message: EncodedMessage,
        next: Next<'a>,
    ) -> Answer<'a, Response<Bytes>> {
        let ready = self.0.later(Part::Intercept, ());
        Answer::later(async move {
            ready.await;
            next.unary(call, message).await
        })
    }

    fn stream<'a>(
        &'a self,
        call: OutgoingCall,
        next: Next<'a>,
    ) -> Answer<'a, Arc<dyn ClientStream>> {
        let ready = self.0.later(Part::Intercept, ());
        Answer::later(async move {
            ready.await;
            let stream = next.stream(call).await?;
            let bomb = Bomb(self.0.clone(), Part::WrappedStream);
            Ok(Arc::new(BadStream(stream, bomb)) as _)
        })
    }
}

struct BadStream(Arc<dyn ClientStream>, Bomb);

impl StreamWrapper for BadStream {
    fn inner(&self) -> &dyn ClientStream {
        &*self.0
    }

    fn send(&self, message: EncodedMessage) -> BoxFuture<'_, Result<(), Status>> {
        let ready = self.1.0.later(Part::WrappedStream, ());
        Box::pin(async move {
            ready.await;
            self.0.send(message).await
        })
    }
}

impl CallCredentials for Bad {
    fn metadata<'a>(&'a self, _: &'a CallContext<'_>) -> BoxFuture<'a, Result<Metadata, Status>> {
        self.0.later(Part::Credential, Ok(Metadata::new()))
    }

    fn min_security_level(&self) -> SecurityLevel {
        SecurityLevel::None
    }
}

impl TokenSource for Bad {
    fn fetch(&self) -> BoxFuture<'_, Result<AccessToken, Status>> {
        self.0.later(Part::Token, Ok(AccessToken::new("x")))
    }
}

/// `OAuth2` on a plaintext connection.
struct Anywhere(OAuth2);

impl CallCredentials for Anywhere {
    fn metadata<'a>(
        &'a self,
        call: &'a CallContext<'_>,
    ) -> BoxFuture<'a, Result<Metadata, Status>> {
        self.0.metadata(call)
    }

    fn min_security_level(&self) -> SecurityLevel {
        SecurityLevel::None
    }
}

impl Observer for Bad {
    fn call_began(&self, _: &CallInfo<'_>) -> Option<Arc<dyn CallObserver>> {
        let bomb = Bomb(self.0.clone(), Part::CallObserver);
        bomb.0.strike(Part::CallObserver, When::AtOnce);
        Some(Arc::new(BadEvents(bomb)))
    }

    fn channel_event(&self, _: &ChannelInfo<'_>, _: &ChannelEvent<'_>) {
        self.0.strike(Part::ChannelObserver, When::AtOnce);
    }
}

struct BadEvents(Bomb);

impl CallObserver for BadEvents {
    fn event(&self, _: &CallEvent<'_>) {
        self.0.0.strike(Part::CallObserver, When::Later);
    }

    fn propagate(&self, _: u32, _: &mut Metadata) {
        self.0.0.strike(Part::Propagate, When::AtOnce);
    }
}

impl BinaryLogSink for Bad {
    fn write(&self, _: Vec<u8>) {
        self.0.strike(Part::LogSink, When::AtOnce);
    }
}

fn channel(trouble: &Trouble) -> Channel {
    let (connector, mut listener) = pipe();
    tokio::spawn(async move {
        while let Some(stream) = listener.accept().await {
            tokio::spawn(answer_all(stream, |_| ()));
        }
    });
    let bad = Bad(trouble.clone());
    let resolver = {
        let bad = bad.clone();
        move |_: &Target| -> Result<Box<dyn Resolve>, TargetError> {
            // The builder checks the target with one, before anything is wrong.
            bad.0.strike(Part::ResolverBuild, When::AtOnce);
            Ok(Box::new(BadResolver(bad.clone(), false)))
        }
    };
    let credentials = Credentials::insecure()
        .with_call_credentials(bad.clone())
        .with_call_credentials(Anywhere(OAuth2::new(bad.clone())));
    trouble.is_armed.store(false, Ordering::SeqCst);
    let channel = plaintext("bad:server")
        .credentials(credentials)
        .resolver("bad", resolver)
        .connector(BadDialler(bad.clone(), connector))
        .lb_policy(bad.clone())
        .default_service_config(r#"{"loadBalancingConfig":[{"bad":{}}]}"#)
        .interceptor(bad.clone())
        .observer(BinaryLog::new("*", bad.clone()).unwrap())
        .observer(bad)
        .build()
        .unwrap();
    trouble.is_armed.store(true, Ordering::SeqCst);
    channel
}

fn options(trouble: &Trouble) -> CallOptions {
    let bomb = Bomb(trouble.clone(), Part::OnFinish);
    CallOptions::new().on_finish(move |_| bomb.0.strike(Part::OnFinish, When::AtOnce))
}

async fn unary(channel: &Channel, trouble: &Trouble) -> Result<(), Status> {
    let request = Request::new(hello("Ada")).options(options(trouble));
    channel.invoke(&SAY_HELLO, request).await.map(drop)
}

async fn stream(channel: &Channel, trouble: &Trouble) -> Result<(), Status> {
    let mut stream = channel.new_stream(&BIDI_HELLO, options(trouble)).await?;
    stream.send(hello("Ada")).await?;
    stream.close_send();
    while stream.recv().await?.is_some() {}
    Ok(())
}

/// A call without a deadline, which must not hang.
async fn call(channel: &Channel, trouble: &Trouble, is_stream: bool) -> Result<(), Status> {
    let calling = async {
        if is_stream { stream(channel, trouble).await } else { unary(channel, trouble).await }
    };
    let patience = Duration::from_secs(3_600);
    let row = (trouble.part, trouble.when, is_stream);
    tokio::time::timeout(patience, calling).await.unwrap_or_else(|_| panic!("{row:?}: hangs"))
}

#[tokio::test(start_paused = true)]
async fn a_part_that_panics_ends_calls_with_its_name_or_not_at_all() {
    for part in PARTS {
        for when in WHENS {
            for is_stream in [false, true] {
                let row = (part, when, is_stream);
                let trouble = Trouble::new(part, when);
                let channel = channel(&trouble);
                for _ in 0..3 {
                    if let Err(status) = call(&channel, &trouble, is_stream).await {
                        let text = status.message();
                        let is_named = text.contains("panicked") || text.contains("the channel's");
                        assert!(is_named, "{row:?}: {status}");
                        let codes = [Code::INTERNAL, Code::UNAVAILABLE];
                        assert!(codes.contains(&status.code()), "{row:?}: {status}");
                        // The second is of h2: with its unstable features, which tests have, it
                        // asserts that a connection which broke has no streams left.
                        let texts = [format!("{part:?} {when:?}"), "slab.is_empty()".to_owned()];
                        assert!(texts.iter().any(|it| text.contains(it)), "{row:?}: {status}");
                    }
                    // All actors answer, once they are there again.
                    until("all actors answer", async || {
                        let inspection = channel.inspect().await;
                        let is_there = |actor| {
                            inspection.actors.iter().any(|answer| match answer {
                                switchboard::ActorAnswer::Answered(report) => report.actor == actor,
                                switchboard::ActorAnswer::Silent { .. } => false,
                            })
                        };
                        [ActorKind::ClientConn, ActorKind::Resolver, ActorKind::Balancer]
                            .into_iter()
                            .all(|actor| {
                                // Its Balancer rests; a call may have ended before there was any.
                                let is_idle = inspection.actors.is_empty();
                                is_idle || part == Part::Policy || is_there(actor)
                            })
                    })
                    .await;
                }
                // For what comes by itself.
                tokio::time::sleep(Duration::from_secs(2)).await;
                trouble.is_armed.store(false, Ordering::SeqCst);
                let healed = async {
                    while call(&channel, &trouble, is_stream).await.is_err() {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                };
                let healed = tokio::time::timeout(Duration::from_secs(3_600), healed).await;
                assert!(healed.is_ok(), "{row:?}: it never works again");
                assert_eq!(channel.state(), ConnectivityState::Ready, "{row:?}");
                // Dropping and closing meet panics as well.
                trouble.is_armed.store(true, Ordering::SeqCst);
                channel.close().await;
                drop(channel);
                trouble.is_armed.store(false, Ordering::SeqCst);
                assert_eq!(trouble.has_struck(), can_panic(part, when, is_stream), "{row:?}");
            }
        }
    }
}

enum Odd<const DECODES: bool> {}

impl<const DECODES: bool> Codec for Odd<DECODES> {
    type Encode = Bytes;
    type Decode = Bytes;

    fn encode(message: &Bytes, buf: &mut BytesMut) -> Result<(), CodecError> {
        buf.extend_from_slice(message);
        assert!(DECODES, "cannot encode");
        Ok(())
    }

    fn decode(_: Bytes) -> Result<Bytes, CodecError> {
        panic!("cannot decode")
    }
}

#[tokio::test(start_paused = true)]
async fn a_codec_that_panics_ends_its_call_with_internal() {
    const PATH: &str = "/helloworld.Greeter/SayHello";
    const ENCODES: Method<Bytes, Bytes, kind::BidiStreaming> =
        Method::with_codec::<Odd<false>>(PATH);
    const DECODES: Method<Bytes, Bytes, kind::BidiStreaming> =
        Method::with_codec::<Odd<true>>(PATH);
    let trouble = Trouble::new(Part::Dial, When::Later);
    let channel = channel(&trouble);
    trouble.is_armed.store(false, Ordering::SeqCst);
    let mut stream = channel.new_stream(&ENCODES, CallOptions::new()).await.unwrap();
    let status = stream.send(Bytes::from_static(b"x")).await.unwrap_err();
    assert_eq!(status.code(), Code::INTERNAL);
    assert!(status.message().ends_with("the codec panicked: cannot encode"), "{status}");
    let mut stream = channel.new_stream(&DECODES, CallOptions::new()).await.unwrap();
    stream.send(Bytes::new()).await.unwrap();
    stream.close_send();
    let status = stream.recv().await.unwrap_err();
    assert_eq!(status.code(), Code::INTERNAL);
    assert!(status.message().ends_with("the codec panicked: cannot decode"), "{status}");
    channel.close().await;
}

/// Counts its lives.
struct PublishesAndPanics(Bad, Arc<AtomicUsize>);

impl LbPolicyBuilder for PublishesAndPanics {
    fn name(&self) -> &'static str {
        "bad"
    }

    fn parse_config(&self, json: &serde_json::Value) -> Result<LbPolicyConfig, ServiceConfigError> {
        self.0.parse_config(json)
    }

    fn build(&self) -> Box<dyn LbPolicy> {
        self.1.fetch_add(1, Ordering::SeqCst);
        LbPolicyBuilder::build(&self.0)
    }
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_publishes_and_then_panics_is_started_again_after_a_growing_wait() {
    let (connector, mut listener) = pipe();
    tokio::spawn(async move {
        while let Some(stream) = listener.accept().await {
            tokio::spawn(answer_all(stream, |_| ()));
        }
    });
    let lives = Arc::<AtomicUsize>::default();
    let trouble = Trouble::new(Part::Policy, When::Later);
    let is_armed = trouble.is_armed.clone();
    is_armed.store(true, Ordering::SeqCst);
    let channel = plaintext("passthrough:server")
        .connector(connector)
        .lb_policy(PublishesAndPanics(Bad(trouble), lives.clone()))
        .default_service_config(r#"{"loadBalancingConfig":[{"bad":{}}]}"#)
        .backoff(BackoffConfig::default())
        .build()
        .unwrap();
    channel.connect();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let lives = lives.load(Ordering::SeqCst);
    assert!((2..20).contains(&lives), "{lives} in a minute");
    // It serves all the while, once it is connected.
    is_armed.store(false, Ordering::SeqCst);
    until_state(&channel, ConnectivityState::Ready).await;
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    assert!(!reports(&channel).await.is_empty());
    channel.close().await;
}
