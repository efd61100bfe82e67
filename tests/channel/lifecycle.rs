//! How channels begin, change their state and end.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use switchboard::{
    BoxFuture, CallOptions, Channel, Code, ConnectivityState, Credentials, Resolution, Resolve,
    ResolveError, StateChange, Target,
};
use tokio_stream::StreamExt as _;

use crate::support::greeter::{
    BIDI_HELLO, Greeter, LOTS_OF_REPLIES, SAY_HELLO, ask, hello, target_of,
};
use crate::support::{close_without_leaks, no_leaks, plaintext, until, until_state};

fn greeted() -> (Channel, [Greeter; 1]) {
    let greeter = [Greeter::start()];
    (plaintext(target_of(&greeter)).build().unwrap(), greeter)
}

#[tokio::test]
async fn a_channel_does_nothing_before_its_first_use() {
    let (channel, greeter) = greeted();
    assert_eq!(channel.state(), ConnectivityState::Idle);
    let inspection = channel.inspect().await;
    assert!(inspection.actors.is_empty(), "{inspection}");
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 0);
    close_without_leaks(channel, &greeter).await;
    assert_eq!(greeter[0].accepted(), 0);
}

#[tokio::test]
async fn connect_connects_without_a_call() {
    let (channel, greeter) = greeted();
    channel.connect();
    until_state(&channel, ConnectivityState::Ready).await;
    assert_eq!(greeter[0].received(), 0);
    assert_eq!(greeter[0].connections(), 1);
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn a_watcher_sees_every_state_in_order() {
    use ConnectivityState::{Connecting, Idle, Ready, Shutdown};
    let (channel, greeter) = greeted();
    let mut states = channel.watch_state();
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    close_without_leaks(channel, &greeter).await;
    for state in [Idle, Connecting, Ready, Shutdown] {
        assert_eq!(states.next().await, Some(StateChange::Changed(state)));
    }
    assert_eq!(states.next().await, None);
}

#[tokio::test]
async fn closing_ends_calls_that_wait_and_later_ones_with_cancelled() {
    let channel = plaintext("ipv4:127.0.0.1:1").build().unwrap();
    let waiting = tokio::spawn({
        let channel = channel.clone();
        let request = ask("Ada").wait_for_ready(true);
        async move { channel.invoke(&SAY_HELLO, request).await.map(drop).unwrap_err() }
    });
    until_state(&channel, ConnectivityState::TransientFailure).await;
    channel.close().await;
    assert_eq!(waiting.await.unwrap().code(), Code::CANCELLED);
    let late = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
    assert_eq!(late.code(), Code::CANCELLED);
    assert_eq!(late.message(), "the channel is closed");
    let late = channel.new_stream(&BIDI_HELLO, CallOptions::new()).await.unwrap_err();
    assert_eq!(late.code(), Code::CANCELLED);
    channel.connect();
    close_without_leaks(channel, &[]).await;
}

/// Finds nothing and never ends; notes that it is given up.
struct Endless(Arc<AtomicUsize>);

impl Resolve for Endless {
    fn resolve(&mut self) -> BoxFuture<'_, Result<Resolution, ResolveError>> {
        let guard = Counted(self.0.clone());
        Box::pin(async move {
            let _guard = guard;
            std::future::pending().await
        })
    }
}

struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn closing_while_names_are_looked_up_ends_the_lookup_and_the_calls_that_wait_for_it() {
    let given_up: Arc<AtomicUsize> = Arc::default();
    let count = given_up.clone();
    let endless = move |_: &Target| {
        let resolve: Box<dyn Resolve> = Box::new(Endless(count.clone()));
        Ok(resolve)
    };
    let channel = plaintext("endless:greeter").resolver("endless", endless).build().unwrap();
    let mut calls = tokio::task::JoinSet::new();
    for waits in [true, false] {
        let (unary, stream) = (channel.clone(), channel.clone());
        calls.spawn(async move {
            let request = ask("Ada").wait_for_ready(waits);
            unary.invoke(&SAY_HELLO, request).await.map(drop).unwrap_err()
        });
        calls.spawn(async move {
            let options = CallOptions::new().wait_for_ready(waits);
            stream.new_stream(&BIDI_HELLO, options).await.map(drop).unwrap_err()
        });
    }
    until_state(&channel, ConnectivityState::Connecting).await;
    assert_eq!(given_up.load(Ordering::SeqCst), 0);
    // They are not given any grace: there is nothing that they could still be answered by.
    channel.close_within(Duration::from_secs(3_600)).await;
    while let Some(status) = calls.join_next().await {
        assert_eq!(status.unwrap().code(), Code::CANCELLED);
    }
    assert_eq!(given_up.load(Ordering::SeqCst), 1);
    close_without_leaks(channel, &[]).await;
}

#[tokio::test]
async fn closing_gives_open_calls_their_grace() {
    let (channel, greeter) = greeted();
    greeter[0].hold();
    let calling = tokio::spawn({
        let channel = channel.clone();
        async move { channel.invoke(&SAY_HELLO, ask("Ada")).await.map(drop) }
    });
    until("the server is at it", async || greeter[0].open_calls() == 1).await;
    let closing = tokio::spawn({
        let channel = channel.clone();
        async move { channel.close_within(Duration::from_secs(3_600)).await }
    });
    until_state(&channel, ConnectivityState::Shutdown).await;
    assert!(!closing.is_finished());
    greeter[0].release();
    calling.await.unwrap().unwrap();
    closing.await.unwrap();
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn closing_resets_calls_that_outlast_their_grace() {
    let (channel, greeter) = greeted();
    greeter[0].hold();
    let calling = tokio::spawn({
        let channel = channel.clone();
        async move { channel.invoke(&SAY_HELLO, ask("Ada")).await.map(drop).unwrap_err() }
    });
    until("the server is at it", async || greeter[0].open_calls() == 1).await;
    channel.close_within(Duration::ZERO).await;
    let status = calling.await.unwrap();
    assert_eq!(status.code(), Code::CANCELLED, "{status}");
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn closing_twice_at_once_is_closing_once() {
    let (channel, greeter) = greeted();
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    tokio::join!(channel.close(), channel.close());
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn an_open_stream_outlives_the_last_handle() {
    let (channel, greeter) = greeted();
    let mut stream = channel.new_stream(&BIDI_HELLO, CallOptions::new()).await.unwrap();
    stream.send(hello("before")).await.unwrap();
    stream.recv().await.unwrap().unwrap();
    let mut states = channel.watch_state();
    drop(channel);
    while states.next().await.is_some() {}
    stream.send(hello("after")).await.unwrap();
    assert!(stream.recv().await.unwrap().unwrap().message.starts_with("Hello after"));
    stream.close_send();
    assert!(stream.next().await.is_none());
    no_leaks(&greeter).await;
}

#[tokio::test]
async fn a_channel_can_be_a_static() {
    static CHANNEL: LazyLock<Channel> = LazyLock::new(|| {
        Channel::builder("ipv4:127.0.0.1:1").credentials(Credentials::insecure()).build().unwrap()
    });
    let status = CHANNEL.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
    assert_eq!(status.code(), Code::UNAVAILABLE);
    CHANNEL.close().await;
}

#[test]
fn a_channel_with_a_runtime_of_its_own_serves_callers_on_none() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let greeter = [Greeter::start()];
    let channel = plaintext(target_of(&greeter)).runtime(runtime.handle().clone()).build().unwrap();
    // This block_on is another's, and knows nothing of tokio.
    let request = ask("Ada").timeout(Duration::from_secs(20));
    let reply = block_on(channel.invoke(&SAY_HELLO, request)).unwrap();
    assert!(reply.message().message.starts_with("Hello Ada"));
    block_on(channel.close());
    runtime.block_on(no_leaks(&greeter));
}

#[test]
fn a_runtime_that_dies_under_a_channel_ends_its_calls() {
    let greeter = [Greeter::start()];
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let channel = plaintext(target_of(&greeter)).runtime(runtime.handle().clone()).build().unwrap();
    block_on(channel.invoke(&SAY_HELLO, ask("Ada"))).unwrap();
    let mut stream = block_on(channel.new_stream(&LOTS_OF_REPLIES, CallOptions::new())).unwrap();
    runtime.shutdown_timeout(Duration::from_secs(20));
    let open = block_on(stream.recv()).unwrap_err();
    assert_eq!(open.code(), Code::UNAVAILABLE, "{open}");
    let late = block_on(channel.invoke(&SAY_HELLO, ask("Ada"))).unwrap_err();
    assert_eq!(late.code(), Code::UNAVAILABLE);
    assert!(late.message().contains("ChannelBuilder::runtime"), "{late}");
    block_on(channel.close());
}

/// What can be done with a channel whose runtime is of no use: all of it ends, calls with a
/// status that says `reason`.
fn nothing_hangs_on(channel: &Channel, reason: &str) {
    let says = |status: switchboard::Status| {
        assert_eq!(status.code(), Code::UNAVAILABLE, "{status}");
        assert!(status.message().contains(reason), "{status}");
    };
    for timeout in [None, Some(Duration::from_secs(600))] {
        let mut options = CallOptions::new();
        if let Some(timeout) = timeout {
            options = options.timeout(timeout);
        }
        for wait_for_ready in [false, true] {
            let options = options.clone().wait_for_ready(wait_for_ready);
            let request = ask("Ada").options(options.clone());
            says(block_on(channel.invoke(&SAY_HELLO, request)).unwrap_err());
            says(block_on(channel.new_stream(&BIDI_HELLO, options)).unwrap_err());
        }
    }
    channel.connect();
    block_on(channel.inspect());
    let mut states = channel.watch_state();
    assert!(block_on(states.next()).is_some());
    let crash = switchboard::Fault::crash(switchboard::ActorKind::Balancer);
    block_on(channel.inject(crash)).unwrap_err();
    block_on(channel.close());
    let late = block_on(channel.invoke(&SAY_HELLO, ask("Ada"))).unwrap_err();
    assert!([Code::UNAVAILABLE, Code::CANCELLED].contains(&late.code()), "{late}");
}

fn channel_on(runtime: &tokio::runtime::Runtime) -> Channel {
    let builder = plaintext("ipv4:127.0.0.1:1").runtime(runtime.handle().clone());
    builder.allow_injection().build().unwrap()
}

#[test]
fn a_runtime_that_is_gone_before_the_first_call_is_named() {
    for mut builder in runtimes() {
        let runtime = builder.enable_all().build().unwrap();
        let channel = channel_on(&runtime);
        drop(runtime);
        nothing_hangs_on(&channel, "ChannelBuilder::runtime");
    }
}

#[test]
fn a_runtime_without_timers_is_named() {
    for mut builder in runtimes() {
        let runtime = builder.enable_io().build().unwrap();
        nothing_hangs_on(&channel_on(&runtime), "has no timers");
    }
}

#[test]
fn no_runtime_at_all_is_named() {
    let channel = plaintext("ipv4:127.0.0.1:1").allow_injection().build().unwrap();
    nothing_hangs_on(&channel, "outside of a tokio runtime");
}

#[test]
fn a_runtime_without_sockets_is_named_by_what_needs_them() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build().unwrap();
    let channel = channel_on(&runtime);
    let status = block_on(channel.invoke(&SAY_HELLO, ask("Ada"))).unwrap_err();
    assert_eq!(status.code(), Code::UNAVAILABLE, "{status}");
    assert!(status.message().contains("cannot use sockets"), "{status}");
    block_on(channel.close());
}

#[test]
fn a_runtime_that_nobody_drives_fails_calls_until_somebody_does() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    nothing_hangs_on(&channel_on(&runtime), "nobody has driven");
    // Driven at last, it serves.
    let greeter = [Greeter::start()];
    let channel = plaintext(target_of(&greeter)).runtime(runtime.handle().clone()).build().unwrap();
    let status = block_on(channel.invoke(&SAY_HELLO, ask("Ada"))).unwrap_err();
    assert!(status.message().contains("nobody has driven"), "{status}");
    runtime.block_on(async {
        until("it serves", async || channel.invoke(&SAY_HELLO, ask("Ada")).await.is_ok()).await;
        close_without_leaks(channel, &greeter).await;
    });
}

fn runtimes() -> [tokio::runtime::Builder; 2] {
    let mut several = tokio::runtime::Builder::new_multi_thread();
    several.worker_threads(1);
    [tokio::runtime::Builder::new_current_thread(), several]
}

/// A little executor that is not tokio's.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut cx = std::task::Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut cx) {
            std::task::Poll::Ready(output) => return output,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}
