//! Code of the application that uses a channel, and the very call it is told of, from inside of its
//! callbacks. No lock of the channel is held then: a lock would never be free again.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use futures_util::FutureExt as _;
use switchboard::memory::pipe;
use switchboard::{
    Answer, BinaryLog, BinaryLogSink, BoxFuture, CallConfig, CallContext, CallCredentials,
    CallEvent, CallInfo, CallObserver, CallOptions, Channel, ChannelEvent, ChannelInfo,
    ClientStream, Credentials, EncodedMessage, Interceptor, Metadata, MethodConfig, Next, Observer,
    OutgoingCall, SecurityLevel, SelectArgs, Status,
};

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
            *self.0.stream.lock().unwrap() = Some(stream.clone());
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
    let resolver = switchboard::ManualResolver::new();
    let selecting = inside.clone();
    let selector = move |_: &SelectArgs<'_>| {
        selecting.called();
        let committed = selecting.clone();
        Ok(CallConfig::new(MethodConfig::new()).on_commit(move || committed.called()))
    };
    let endpoint = switchboard::Endpoint::from(switchboard::Address::Name("server".into()));
    let found = switchboard::Resolution::new([endpoint]);
    resolver.set_resolution(found.with_config_selector(Arc::new(selector)));
    let channel = plaintext("manual:server")
        .resolver("manual", resolver)
        .connector(connector)
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
    let request = ask("Ada").on_finish(move |_| finished.called());
    let _ = channel.invoke(&SAY_HELLO, request).await;
    let _ = stream(&channel).await;
    *inside.stream.lock().unwrap() = None;
    *inside.channel.lock().unwrap() = None;
    channel.close().await;
    watching.await.unwrap();
    inside.callbacks.load(Ordering::SeqCst)
}

async fn stream(channel: &Channel) -> Result<(), Status> {
    let mut stream = channel.new_stream(&BIDI_HELLO, CallOptions::new()).await?;
    stream.send(hello("Ada")).await?;
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
        let callbacks = runtime.block_on(async move {
            tokio::time::timeout(Duration::from_secs(20), run(inside)).await
        });
        let _ = done.send(callbacks.ok());
    });
    let outcome = outcome.recv_timeout(Duration::from_secs(30)).ok().flatten();
    outcome.unwrap_or_else(|| panic!("{act:?} in callback {at}: hangs"))
}

#[test]
fn a_channel_can_be_used_from_inside_of_every_callback() {
    let callbacks = bounded(Act::Ask, usize::MAX);
    assert!(callbacks > 40, "{callbacks}");
    for act in ACTS {
        for at in 0..callbacks {
            bounded(act, at);
        }
    }
}
