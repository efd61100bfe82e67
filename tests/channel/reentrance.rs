//! Code of the application that uses a channel, and the very call it is told of, from inside of its
//! callbacks. No lock of the channel is held then: a lock would never be free again.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use switchboard::memory::{MemoryConnector, pipe};
use switchboard::{
    Address, Answer, BinaryLog, BinaryLogSink, BoxFuture, CallConfig, CallContext, CallCredentials,
    CallEvent, CallInfo, CallObserver, CallOptions, Channel, ChannelEvent, ChannelInfo,
    ClientStream, Codec, CodecError, ConfigSelector, Connect, Credentials, EncodedMessage,
    Endpoint, EndpointShards, Interceptor, Io, LbContext, LbPolicy, LbPolicyBuilder,
    LbPolicyConfig, Metadata, Method, MethodConfig, Next, Observer, OutgoingCall, Pick, PickArgs,
    PickResult, Picker, ReadyEndpoint, Request, Resolution, Resolve, ResolveError, SecurityLevel,
    SelectArgs, ServiceConfigError, Spread, Status, SubchannelId, Target, TargetError, kind,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::support::greeter::{BIDI_HELLO, SAY_HELLO, ask, hello};
use crate::support::mini::answer_all;
use crate::support::plaintext;

/// What is done from inside of a callback.
#[derive(Clone, Copy, Debug)]
enum Act {
    Cancel,
    CloseSend,
    Send,
    Receive,
    Ask,
    DropStream,
    AskChannel,
    Inspect,
    Call,
    OpenStream,
    Close,
}

const ACTS: [Act; 11] = [
    Act::Cancel,
    Act::CloseSend,
    Act::Send,
    Act::Receive,
    Act::Ask,
    Act::DropStream,
    Act::AskChannel,
    Act::Inspect,
    Act::Call,
    Act::OpenStream,
    Act::Close,
];

/// Does it once, in the callback of this number.
struct Inside {
    act: Act,
    at: usize,
    callbacks: AtomicUsize,
    stream: Mutex<Option<Arc<dyn ClientStream>>>,
    channel: Mutex<Option<Channel>>,
}

impl Inside {
    fn called(&self) {
        if self.callbacks.fetch_add(1, Ordering::SeqCst) == self.at {
            self.act();
        }
    }

    fn act(&self) {
        // Not under the locks of the test.
        let stream = self.stream.lock().unwrap().clone();
        let channel = self.channel.lock().unwrap().clone();
        match (self.act, stream, channel) {
            (Act::Cancel, Some(stream), _) => stream.cancel(),
            (Act::CloseSend, Some(stream), _) => stream.close_send(),
            (Act::Send, Some(stream), _) => {
                let _ = stream.send(EncodedMessage::of(&hello("Ada"))).now_or_never();
            }
            (Act::Receive, Some(stream), _) => {
                let _ = stream.recv().now_or_never();
                let _ = stream.header().now_or_never();
            }
            (Act::Ask, Some(stream), _) => {
                let _ = (stream.trailer(), stream.peer(), stream.security_level());
            }
            (Act::DropStream, stream, _) => {
                let taken = self.stream.lock().unwrap().take();
                drop((stream, taken));
            }
            (Act::AskChannel, _, Some(channel)) => {
                channel.state();
                channel.connect();
                channel.reset_connect_backoff();
                let _ = channel.watch_state().next().now_or_never();
                channel.actors();
            }
            (Act::Inspect, _, Some(channel)) => {
                let _ = channel.inspect().now_or_never();
            }
            (Act::Call, _, Some(channel)) => {
                let _ = channel.invoke(&SAY_HELLO, ask("Ada")).now_or_never();
            }
            (Act::OpenStream, _, Some(channel)) => {
                let _ = channel.new_stream(&BIDI_HELLO, CallOptions::new()).now_or_never();
            }
            (Act::Close, _, Some(channel)) => {
                let _ = channel.close().now_or_never();
            }
            // Before there is any.
            (_, None, _) | (_, _, None) => {}
        }
    }
}

#[derive(Clone)]
struct Everywhere(Arc<Inside>);

impl Observer for Everywhere {
    fn call_began(&self, _: &CallInfo<'_>) -> Option<Arc<dyn CallObserver>> {
        self.0.called();
        Some(Arc::new(self.clone()))
    }

    fn channel_event(&self, _: &ChannelInfo<'_>, _: &ChannelEvent<'_>) {
        self.0.called();
    }
}

impl CallObserver for Everywhere {
    fn event(&self, _: &CallEvent<'_>) {
        self.0.called();
    }

    fn propagate(&self, _: u32, _: &mut Metadata) {
        self.0.called();
    }
}

/// Whatever the channel is given calls back as it is dropped as well.
impl Drop for Everywhere {
    fn drop(&mut self) {
        self.0.called();
    }
}

impl Resolve for Everywhere {
    fn resolve(&mut self) -> BoxFuture<'_, Result<Resolution, ResolveError>> {
        self.0.called();
        let selector = Arc::new(self.clone());
        Box::pin(async move {
            selector.0.called();
            let endpoint = Endpoint::from(Address::Name("server".into()));
            Ok(Resolution::new([endpoint]).with_config_selector(selector))
        })
    }
}

impl ConfigSelector for Everywhere {
    fn select(&self, _: &SelectArgs<'_>) -> Result<CallConfig, Status> {
        self.0.called();
        let committed = self.clone();
        let config = CallConfig::new(MethodConfig::new()).with_attribute(Arc::new(self.clone()));
        Ok(config.on_commit(move || committed.0.called()))
    }
}

impl LbPolicyBuilder for Everywhere {
    fn name(&self) -> &'static str {
        "everywhere"
    }

    fn parse_config(&self, _: &serde_json::Value) -> Result<LbPolicyConfig, ServiceConfigError> {
        self.0.called();
        Ok(LbPolicyConfig::new(self.clone()))
    }

    fn build(&self) -> Box<dyn LbPolicy> {
        self.0.called();
        Box::new(EndpointShards::new(self.clone()))
    }
}

impl Spread for Everywhere {
    fn name(&self) -> &'static str {
        "everywhere"
    }

    fn picker(&mut self, ready: &[ReadyEndpoint<'_>], _: &mut LbContext<'_>) -> Arc<dyn Picker> {
        self.0.called();
        Arc::new(Picks(ready[0].subchannel(), self.clone()))
    }
}

struct Picks(SubchannelId, Everywhere);

impl Picker for Picks {
    fn pick(&self, _: &PickArgs<'_>) -> PickResult {
        self.1.0.called();
        PickResult::Complete(Pick::new(self.0))
    }

    fn inspect(&self) -> String {
        self.1.0.called();
        String::new()
    }
}

/// Dials, and gives bytes that call back as they are dropped.
struct Dials(MemoryConnector, Everywhere);

impl Connect for Dials {
    fn connect<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, io::Result<Io>> {
        self.1.0.called();
        Box::pin(async move {
            self.1.0.called();
            let io = self.0.connect(address).await?;
            Ok(Io::new(Carries(io, self.1.clone())))
        })
    }
}

struct Carries(Io, #[expect(dead_code, reason = "it is dropped")] Everywhere);

impl AsyncRead for Carries {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Carries {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

thread_local! {
    /// For code that is given nothing of the test. Each run has a thread of its own.
    static HERE: RefCell<Option<Everywhere>> = const { RefCell::new(None) };
}

fn called_here() {
    let here = HERE.with(|here| here.borrow().clone());
    if let Some(here) = here {
        here.0.called();
    }
}

/// A message whose codec and drop call back.
struct Says(Bytes);

impl Drop for Says {
    fn drop(&mut self) {
        called_here();
    }
}

enum Called {}

impl Codec for Called {
    type Encode = Says;
    type Decode = Says;

    fn encode(message: &Says, buf: &mut BytesMut) -> Result<(), CodecError> {
        called_here();
        buf.extend_from_slice(&message.0);
        Ok(())
    }

    fn decode(message: Bytes) -> Result<Says, CodecError> {
        called_here();
        Ok(Says(message))
    }
}

const SAY: Method<Says, Says> = Method::with_codec::<Called>("/helloworld.Greeter/SayHello");

const SAY_ON: Method<Says, Says, kind::BidiStreaming> =
    Method::with_codec::<Called>("/helloworld.Greeter/SayHello");

/// Calls back at each line of the log.
struct Logs;

impl tracing::Subscriber for Logs {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "switchboard"
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {
        called_here();
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

impl BinaryLogSink for Everywhere {
    fn write(&self, _: Vec<u8>) {
        self.0.called();
    }
}

impl CallCredentials for Everywhere {
    fn metadata<'a>(&'a self, _: &'a CallContext<'_>) -> BoxFuture<'a, Result<Metadata, Status>> {
        self.0.called();
        Box::pin(async {
            self.0.called();
            Ok(Metadata::new())
        })
    }

    fn min_security_level(&self) -> SecurityLevel {
        self.0.called();
        SecurityLevel::None
    }
}

impl Interceptor for Everywhere {
    fn before(&self, _: &mut OutgoingCall) -> Result<(), Status> {
        self.0.called();
        Ok(())
    }

    fn stream<'a>(
        &'a self,
        call: OutgoingCall,
        next: Next<'a>,
    ) -> Answer<'a, Arc<dyn ClientStream>> {
        Answer::later(async move {
            let stream = next.stream(call).await?;
            let before = self.0.stream.lock().unwrap().replace(stream.clone());
            drop(before);
            self.0.called();
            Ok(stream)
        })
    }
}

/// Wakes the task, and is a callback first.
struct CallsBack(Arc<Inside>, Waker);

impl Wake for CallsBack {
    fn wake(self: Arc<Self>) {
        self.0.called();
        self.1.wake_by_ref();
    }
}

/// Runs one call and one stream; gives how many callbacks there were.
async fn run(inside: Arc<Inside>) -> usize {
    let (connector, mut listener) = pipe();
    tokio::spawn(async move {
        while let Some(stream) = listener.accept().await {
            tokio::spawn(answer_all(stream, |_| ()));
        }
    });
    let everywhere = Everywhere(inside.clone());
    HERE.with(|here| *here.borrow_mut() = Some(everywhere.clone()));
    let resolving = everywhere.clone();
    let resolver = move |_: &Target| -> Result<Box<dyn Resolve>, TargetError> {
        resolving.0.called();
        Ok(Box::new(resolving.clone()))
    };
    let channel = plaintext("own:server")
        .resolver("own", resolver)
        .connector(Dials(connector, everywhere.clone()))
        .lb_policy(everywhere.clone())
        .default_service_config(r#"{"loadBalancingConfig":[{"everywhere":{}}]}"#)
        .credentials(Credentials::insecure().with_call_credentials(everywhere.clone()))
        .observer(everywhere.clone())
        .observer(BinaryLog::new("*", everywhere.clone()).unwrap())
        .interceptor(everywhere)
        .build()
        .unwrap();
    *inside.channel.lock().unwrap() = Some(channel.clone());
    let mut states = channel.watch_state();
    let watching = tokio::spawn({
        let inside = inside.clone();
        async move {
            loop {
                let mut next = std::pin::pin!(states.next());
                let change = std::future::poll_fn(|cx: &mut Context<'_>| {
                    let waker = Arc::new(CallsBack(inside.clone(), cx.waker().clone())).into();
                    next.as_mut().poll(&mut Context::from_waker(&waker))
                });
                if change.await.is_none() {
                    return;
                }
            }
        }
    });
    let finished = inside.clone();
    let request = Request::new(Says(Bytes::new())).on_finish(move |_| finished.called());
    let _ = channel.invoke(&SAY, request).await;
    let _ = stream(&channel).await;
    let _ = channel.inspect().await;
    // Not dropped under the locks of the test.
    let kept = (inside.stream.lock().unwrap().take(), inside.channel.lock().unwrap().take());
    drop(kept);
    channel.close().await;
    watching.await.unwrap();
    drop(channel);
    let here = HERE.with(|here| here.borrow_mut().take());
    drop(here);
    inside.callbacks.load(Ordering::SeqCst)
}

async fn stream(channel: &Channel) -> Result<(), Status> {
    let mut stream = channel.new_stream(&SAY_ON, CallOptions::new()).await?;
    stream.send(Says(Bytes::new())).await?;
    stream.close_send();
    stream.header().await?;
    while stream.recv().await?.is_some() {}
    Ok(())
}

/// Runs it on a thread of its own, so that a lock that is never free again fails the test.
fn bounded(act: Act, at: usize) -> usize {
    let (done, outcome) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let callbacks = AtomicUsize::new(0);
        let (stream, channel) = (Mutex::default(), Mutex::default());
        let inside = Arc::new(Inside { act, at, callbacks, stream, channel });
        let running =
            async move { tokio::time::timeout(Duration::from_secs(20), run(inside)).await };
        let callbacks = tracing::subscriber::with_default(Logs, || runtime.block_on(running));
        let _ = done.send(callbacks.ok());
    });
    let outcome = outcome.recv_timeout(Duration::from_secs(30)).ok().flatten();
    outcome.unwrap_or_else(|| panic!("{act:?} in callback {at}: hangs"))
}

#[test]
fn a_channel_can_be_used_from_inside_of_every_callback() {
    let callbacks = bounded(Act::Ask, usize::MAX);
    assert!(callbacks > 100, "{callbacks}");
    for act in ACTS {
        for at in 0..callbacks {
            bounded(act, at);
        }
    }
}
