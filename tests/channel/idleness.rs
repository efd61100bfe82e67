//! Channels that nobody uses, on a paused clock, over connections in memory.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use switchboard::ConnectivityState::{Connecting, Idle, Ready, TransientFailure};
use switchboard::memory::{MemoryListener, pipe};
use switchboard::{
    ActorKind, ActorReport, Address, BoxFuture, CallEvent, CallInfo, CallObserver, CallOptions,
    Channel, ChannelBuilder, Endpoint, Fault, ManualResolver, Observer, Resolution, Resolve,
    ResolveError, Target, TargetError,
};
use tokio::time::Instant;

use crate::support::greeter::{BIDI_HELLO, Greeter, SAY_HELLO, ask, hello, target_of};
use crate::support::mini::answer_all;
use crate::support::{Load, close_without_leaks, no_leaks, plaintext, reports, until, until_state};

/// A server at the other end of a pipe.
#[derive(Clone, Default)]
struct Server {
    open: Arc<AtomicUsize>,
    accepted: Arc<AtomicUsize>,
}

impl Server {
    /// Starts one, and a builder of channels to it.
    fn start() -> (Self, ChannelBuilder) {
        let (connector, listener) = pipe();
        let server = Self::default();
        tokio::spawn(server.clone().accept(listener));
        (server, plaintext("passthrough:server").connector(connector))
    }

    async fn accept(self, mut listener: MemoryListener) {
        while let Some(stream) = listener.accept().await {
            self.accepted.fetch_add(1, Ordering::SeqCst);
            self.open.fetch_add(1, Ordering::SeqCst);
            let open = self.open.clone();
            tokio::spawn(async move {
                // However the connection ends, it is over.
                let _ = answer_all(stream, |_| ()).await;
                open.fetch_sub(1, Ordering::SeqCst);
            });
        }
    }

    fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

async fn end(channel: Channel) {
    channel.close().await;
    drop(channel);
    no_leaks(&[]).await;
}

// spec: A62/idle-timeout
#[tokio::test(start_paused = true)]
async fn a_channel_lets_go_of_everything_half_an_hour_after_its_last_call() {
    let (server, builder) = Server::start();
    let channel = builder.build().unwrap();
    drop(builder);
    let minute = Duration::from_secs(60);
    for _ in 0..3 {
        channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
        tokio::time::sleep(29 * minute).await;
    }
    assert_eq!((channel.state(), server.accepted()), (Ready, 1));
    let last_call = Instant::now() - 29 * minute;
    until_idle(&channel).await;
    let after = last_call.elapsed();
    assert!((30 * minute..30 * minute + Duration::from_millis(5)).contains(&after), "{after:?}");
    // The connection closes, and of the subchannel nothing is left.
    while server.open() > 0 {
        tokio::task::yield_now().await;
    }
    let kinds: Vec<_> = reports(&channel).await.into_iter().map(|it| it.actor).collect();
    assert!(!kinds.contains(&ActorKind::AddrConn), "{kinds:?}");
    // The next call brings all of it back.
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    assert_eq!(server.accepted(), 2);
    end(channel).await;
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_was_connected_and_never_used_goes_idle() {
    let (server, builder) = Server::start();
    let channel = builder.idle_timeout(Duration::from_secs(10)).build().unwrap();
    let mut changes = channel.watch_state();
    let since = Instant::now();
    channel.connect();
    until_state(&channel, Ready).await;
    until_idle(&channel).await;
    assert_eq!(since.elapsed().as_secs(), 10);
    for state in [Idle, Connecting, Ready, Idle] {
        let change = changes.next().await;
        assert_eq!(change, Some(switchboard::StateChange::Changed(state)));
    }
    assert_eq!(server.accepted(), 1);
    end(channel).await;
}

#[tokio::test(start_paused = true)]
async fn an_open_stream_keeps_a_channel_up_until_it_ends() {
    let (server, builder) = Server::start();
    let channel = builder.idle_timeout(Duration::from_secs(10)).build().unwrap();
    let mut stream = channel.new_stream(&BIDI_HELLO, CallOptions::default()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    assert_eq!(channel.state(), Ready);
    stream.send(hello("Ada")).await.unwrap();
    stream.close_send();
    stream.recv().await.unwrap().unwrap();
    assert!(stream.recv().await.unwrap().is_none());
    let ended = Instant::now();
    // That the application still holds the stream does not matter.
    until_idle(&channel).await;
    assert_eq!(ended.elapsed().as_secs(), 10);
    drop(stream);
    assert_eq!(server.accepted(), 1);
    end(channel).await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_a_server_keeps_a_channel_up() {
    let resolver = ManualResolver::new();
    let builder = plaintext("manual:greeter").resolver("manual", resolver.clone());
    let channel = builder.idle_timeout(Duration::from_secs(10)).build().unwrap();
    let request = ask("Ada").timeout(Duration::from_secs(95)).wait_for_ready(true);
    channel.invoke(&SAY_HELLO, request).await.unwrap_err();
    assert_eq!(channel.state(), TransientFailure);
    assert!(resolver.lookups() > 1);
    until_idle(&channel).await;
    end(channel).await;
}

#[tokio::test(start_paused = true)]
async fn without_an_idle_timeout_a_channel_stays_up() {
    for never in [None, Some(Duration::ZERO)] {
        let (server, builder) = Server::start();
        let channel = builder.idle_timeout(never).build().unwrap();
        channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
        tokio::time::sleep(Duration::from_secs(30 * 24 * 3_600)).await;
        assert_eq!((channel.state(), server.open()), (Ready, 1));
        end(channel).await;
    }
}

#[tokio::test]
async fn a_channel_that_is_kept_connected_connects_again_without_a_call() {
    let mut greeter = [Greeter::start()];
    let channel = plaintext(target_of(&greeter))
        .keep_connected(true)
        .idle_timeout(Duration::from_millis(1))
        .build()
        .unwrap();
    channel.connect();
    for accepted in 1..=3 {
        until("connected", async || greeter[0].accepted() == accepted && channel.state() == Ready)
            .await;
        greeter[0].stop_gracefully().await;
        greeter[0].start_again();
    }
    assert_eq!(greeter[0].received(), 0);
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_channel_survives_the_crash_of_any_actor() {
    let (server, builder) = Server::start();
    let channel = builder.idle_timeout(Duration::from_secs(10)).allow_injection().build().unwrap();
    let actors =
        [ActorKind::ClientConn, ActorKind::Resolver, ActorKind::Balancer, ActorKind::Supervisor];
    for (round, actor) in actors.into_iter().enumerate() {
        channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
        until_idle(&channel).await;
        channel.inject(Fault::crash(actor)).await.unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(channel.state(), Idle, "after {actor}");
        assert_eq!((server.open(), server.accepted()), (0, round + 1), "after {actor}");
    }
    // And one that is awake goes idle all the same.
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    channel.inject(Fault::crash(ActorKind::ClientConn)).await.unwrap();
    until_idle(&channel).await;
    end(channel).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_found_for_a_channel_that_has_gone_idle_is_not_taken_when_it_wakes() {
    let (connector, listener) = pipe();
    let server = Server::default();
    tokio::spawn(server.clone().accept(listener));
    let names = ManualResolver::new();
    let channel = plaintext("names:///x")
        .resolver("names", names.clone())
        .connector(connector)
        .idle_timeout(Duration::from_secs(10))
        .allow_injection()
        .build()
        .unwrap();
    channel.connect();
    tokio::time::sleep(Duration::from_secs(9)).await;
    // So that the order to stop waits, and the answer to the look-up comes behind it.
    let stall = Fault::stall(ActorKind::Resolver, Duration::from_secs(5));
    channel.inject(stall).await.unwrap();
    until_idle(&channel).await;
    names.set([Address::Name("server".into()).into()]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    // It wakes, and the look-up that it wakes for takes its time.
    let hanging = channel.inject(Fault::resolution_hangs()).await.unwrap();
    channel.connect();
    let resolver = async || {
        let reports = reports(&channel).await;
        reports.into_iter().find(|it| it.actor == ActorKind::Resolver)
    };
    let is_looking = |it: &ActorReport| it.state == "looking up" && it.mailbox_depth == 0;
    until("it looks up again", async || resolver().await.as_ref().is_some_and(is_looking)).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(resolver().await.unwrap().counters.get("lookups"), None, "none was answered");
    assert_eq!((channel.state(), server.accepted()), (Connecting, 0));
    hanging.remove();
    until_state(&channel, Ready).await;
    end(channel).await;
}

/// A thousand channels, each with callers that call again and again just when it goes idle, in an
/// order that the round's number decides.
// spec: A62/idle-timeout
#[tokio::test(start_paused = true)]
async fn no_call_is_lost_to_a_channel_that_is_just_going_idle() {
    let timeout = Duration::from_secs(1);
    let mut redials = 0;
    for round in 0..1_000 {
        let mut chance = Chance(round);
        let (server, builder) = Server::start();
        let channel = builder.idle_timeout(timeout).seed(round).build().unwrap();
        let mut callers = tokio::task::JoinSet::new();
        for _ in 0..=chance.below(3) {
            let mut chance = Chance(chance.next());
            let channel = channel.clone();
            callers.spawn(async move {
                for _ in 0..4 {
                    // To the timer's millisecond, or one beside it.
                    tokio::time::sleep(Duration::from_millis(999 + chance.below(3))).await;
                    for _ in 0..chance.below(12) {
                        tokio::task::yield_now().await;
                    }
                    match chance.below(3) {
                        0 => {
                            let stream = channel.new_stream(&BIDI_HELLO, CallOptions::default());
                            let mut stream = stream.await.unwrap();
                            stream.send(hello("Ada")).await.unwrap();
                            stream.close_send();
                            assert!(stream.recv().await.unwrap().is_some());
                            assert!(stream.recv().await.unwrap().is_none());
                        }
                        1 => {
                            channel.connect();
                            channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
                        }
                        _ => {
                            channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
                        }
                    }
                }
            });
        }
        while let Some(caller) = callers.join_next().await {
            assert!(caller.is_ok(), "round {round}: {caller:?}");
        }
        until_idle(&channel).await;
        while server.open() > 0 {
            tokio::task::yield_now().await;
        }
        redials += server.accepted() - 1;
        channel.close().await;
    }
    // Otherwise nothing has raced.
    assert!(redials > 500, "{redials}");
    no_leaks(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_is_lost_where_idling_and_calls_race_on_threads() {
    let greeters = [Greeter::start()];
    let channel =
        plaintext(target_of(&greeters)).idle_timeout(Duration::from_micros(200)).build().unwrap();
    // Until it has come back from idleness often enough that calls have raced with that.
    until("it has often been idle", async || {
        let pause = Duration::from_micros(150 + 10 * (greeters[0].received() % 20));
        tokio::time::sleep(pause).await;
        let calls = (0..4).map(|_| {
            let channel = channel.clone();
            tokio::spawn(async move { channel.invoke(&SAY_HELLO, ask("Ada")).await })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.unwrap().unwrap();
        }
        greeters[0].accepted() > 20
    })
    .await;
    let load = Load::start(&channel, false);
    load.more_calls(2_000).await;
    assert_eq!(load.stop().await.len(), 0);
    close_without_leaks(channel, &greeters).await;
}

/// Notes how long calls waited for names.
#[derive(Clone, Default)]
struct Waits(Arc<Mutex<Vec<Duration>>>);

impl Observer for Waits {
    fn call_began(&self, _: &CallInfo<'_>) -> Option<Arc<dyn CallObserver>> {
        Some(Arc::new(self.clone()))
    }
}

impl CallObserver for Waits {
    fn event(&self, event: &CallEvent<'_>) {
        if let CallEvent::NamesResolved { waited, .. } = event {
            self.0.lock().unwrap().push(*waited);
        }
    }
}

/// Needs a second for each look-up.
struct SlowNames;

impl Resolve for SlowNames {
    fn resolve(&mut self) -> BoxFuture<'_, Result<Resolution, ResolveError>> {
        Box::pin(async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let address = SocketAddr::from(([10, 0, 0, 1], 1));
            Ok(Resolution::new([Endpoint::from(address)]))
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_wakes_an_idle_channel_says_that_it_waited_for_names() {
    let (connector, listener) = pipe();
    let server = Server::default();
    tokio::spawn(server.clone().accept(listener));
    let waits = Waits::default();
    let builder = plaintext("slow:///server").connector(connector).observer(waits.clone());
    let resolver =
        |_: &Target| -> Result<Box<dyn Resolve>, TargetError> { Ok(Box::new(SlowNames)) };
    let channel = builder.resolver("slow", resolver).build().unwrap();
    let seconds = || waits.0.lock().unwrap().iter().map(Duration::as_secs).collect::<Vec<_>>();
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    assert_eq!(seconds(), [1]);
    until_idle(&channel).await;
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    assert_eq!(seconds(), [1, 1]);
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    assert_eq!(seconds(), [1, 1], "names are known now");
    assert_eq!(server.accepted(), 2);
    end(channel).await;
}

async fn until_idle(channel: &Channel) {
    let mut now = channel.state();
    while now != Idle {
        now = channel.wait_for_state_change(now).await;
    }
}

/// Repeatable chance.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
