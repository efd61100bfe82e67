//! Addresses with more than one connection.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use switchboard::memory::{MemoryConnector, pipe};
use switchboard::{
    ActorKind, Address, BackoffConfig, BoxFuture, Channel, ChannelBuilder, Code, Connect,
    ConnectivityState, Endpoint, Fault, Io, ManualResolver, Resolution, Status,
};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::support::greeter::{Greeter, SAY_HELLO, ask, target_of};
use crate::support::mini::{Manner, answer_all_in};
use crate::support::{close_without_leaks, no_leaks, plaintext, report_of, reports, until};

/// A server in memory that takes `max_streams` on a connection and needs 20 ms for an answer, and a
/// channel to it; the connections that it has accepted.
fn slow_server(
    max_streams: u32,
    configure: impl FnOnce(ChannelBuilder) -> ChannelBuilder,
) -> (Channel, Arc<AtomicUsize>) {
    let (connector, mut listener) = pipe();
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = accepted.clone();
    tokio::spawn(async move {
        let manner = Manner {
            max_streams: Some(max_streams),
            service_time: Duration::from_millis(20),
            ..Manner::default()
        };
        while let Some(stream) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(answer_all_in(manner, stream, |_| ()));
        }
    });
    let builder = configure(plaintext("passthrough:server").connector(connector));
    (builder.build().unwrap(), accepted)
}

async fn end(channel: Channel) {
    channel.close().await;
    drop(channel);
    no_leaks(&[]).await;
}

/// How long `callers` need for ten calls each.
async fn load(channel: &Channel, callers: usize) -> Duration {
    let since = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..callers {
        let channel = channel.clone();
        tasks.spawn(async move {
            for _ in 0..10 {
                let request = ask("Ada").timeout(Duration::from_secs(60));
                channel.invoke(&SAY_HELLO, request).await.unwrap();
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    since.elapsed()
}

// spec: A105/throughput
#[tokio::test(start_paused = true)]
async fn four_connections_carry_four_times_what_the_stream_limit_of_one_allows() {
    let (channel, accepted) = slow_server(100, |builder| builder);
    let alone = load(&channel, 1_000).await;
    assert_eq!(accepted.load(Ordering::SeqCst), 1);
    end(channel).await;

    let config = r#"{"connectionScaling":{"maxConnectionsPerSubchannel":4}}"#;
    let (channel, accepted) = slow_server(100, |it| it.default_service_config(config));
    let scaled = load(&channel, 1_000).await;
    assert_eq!(accepted.load(Ordering::SeqCst), 4);
    assert!(alone > 3 * scaled, "{alone:?} and {scaled:?}");
    end(channel).await;
}

#[tokio::test(start_paused = true)]
async fn connections_that_are_kept_share_the_calls_evenly() {
    let (channel, accepted) = slow_server(1_000, |it| it.connections_per_address(4));
    channel.connect();
    while accepted.load(Ordering::SeqCst) < 4 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    load(&channel, 8).await;
    let report = reports(&channel).await.into_iter().find(|it| it.id.is_some()).unwrap();
    let streams: u64 = report.connections.iter().map(|it| it.streams).sum();
    assert_eq!((report.connections.len(), streams), (4, 80));
    end(channel).await;
}

// spec: A105/growth
#[tokio::test]
async fn the_oldest_connection_with_room_is_used_and_more_only_when_it_is_full() {
    let greeter = [Greeter::start_with_max_streams(2)];
    let channel = plaintext(target_of(&greeter)).max_connections_per_subchannel(3).build().unwrap();
    // One after the other, they fit on one connection.
    for _ in 0..10 {
        channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    }
    assert_eq!(greeter[0].accepted(), 1);
    greeter[0].hold();
    let mut calls: Vec<_> = (0..9)
        .map(|_| {
            let channel = channel.clone();
            tokio::spawn(async move { channel.invoke(&SAY_HELLO, ask("Ada")).await })
        })
        .collect();
    // Three connections of two streams; the others wait.
    until("six calls are there", async || greeter[0].open_calls() == 6).await;
    let report = report_of(&channel, &greeter[0]).await.unwrap();
    assert_eq!((report.connections.len(), report.counters["queued streams"]), (3, 3));
    greeter[0].release();
    for call in calls.drain(..) {
        call.await.unwrap().unwrap();
    }
    assert_eq!(greeter[0].accepted(), 3);
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn a_call_that_waits_survives_the_loss_of_every_connection() {
    let mut greeter = [Greeter::start_with_max_streams(1)];
    let channel = plaintext(target_of(&greeter)).max_connections_per_subchannel(2).build().unwrap();
    greeter[0].hold();
    let call = |wait_for_ready: bool| {
        let channel = channel.clone();
        let request = ask("Ada").wait_for_ready(wait_for_ready).timeout(Duration::from_secs(20));
        tokio::spawn(async move { channel.invoke(&SAY_HELLO, request).await })
    };
    let taken = [call(false), call(false)];
    until("two calls are there", async || greeter[0].open_calls() == 2).await;
    let waiting = [call(true), call(true), call(true)];
    until("three calls wait", async || {
        let report = report_of(&channel, &greeter[0]).await;
        report.is_some_and(|it| it.counters["queued streams"] == 3)
    })
    .await;
    greeter[0].kill();
    for call in taken {
        assert_eq!(call.await.unwrap().unwrap_err().code(), Code::UNAVAILABLE);
    }
    greeter[0].release();
    greeter[0].start_again();
    for call in waiting {
        call.await.unwrap().unwrap();
    }
    close_without_leaks(channel, &greeter).await;
}

/// Dials the first connection at once, and further ones when it is told to.
struct Held {
    inner: MemoryConnector,
    dials: Arc<AtomicUsize>,
    released: Arc<Semaphore>,
}

impl Connect for Held {
    fn connect<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, std::io::Result<Io>> {
        Box::pin(async move {
            if self.dials.fetch_add(1, Ordering::SeqCst) > 0 {
                let _released = self.released.acquire().await;
            }
            self.inner.connect(address).await
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_on_a_further_connection_does_not_depend_on_its_actor() {
    let (inner, mut listener) = pipe();
    tokio::spawn(async move {
        let service_time = Duration::from_secs(10);
        let manner = Manner { max_streams: Some(1), service_time, ..Manner::default() };
        while let Some(stream) = listener.accept().await {
            tokio::spawn(answer_all_in(manner, stream, |_| ()));
        }
    });
    let (dials, released) = (Arc::<AtomicUsize>::default(), Arc::new(Semaphore::new(0)));
    let held = Held { inner, dials: dials.clone(), released: released.clone() };
    let builder = plaintext("passthrough:server").connector(held);
    let channel = builder.max_connections_per_subchannel(2).allow_injection().build().unwrap();
    let first = channel.invoke(&SAY_HELLO, ask("Ada"));
    let second = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let began = Instant::now();
        let request = ask("Bo").timeout(Duration::from_secs(2));
        let status = channel.invoke(&SAY_HELLO, request).await.unwrap_err();
        (status, began.elapsed())
    };
    let stalling = async {
        until("a further dial", async || dials.load(Ordering::SeqCst) == 2).await;
        let stall = Fault::stall(ActorKind::AddrConn, Duration::from_secs(60));
        channel.inject(stall).await.unwrap();
        released.add_permits(1);
    };
    let (first, (status, took), ()) = tokio::join!(first, second, stalling);
    first.unwrap();
    assert_eq!(status.code(), Code::DEADLINE_EXCEEDED);
    assert_eq!(took.as_secs(), 2);
    end(channel).await;
}

// spec: A105/live-limit
#[tokio::test]
async fn a_limit_that_is_raised_serves_the_calls_that_wait() {
    let greeter = [Greeter::start_with_max_streams(1)];
    let resolver = ManualResolver::new();
    let resolve = |connections: usize| {
        let config =
            format!(r#"{{"connectionScaling":{{"maxConnectionsPerSubchannel":{connections}}}}}"#);
        let endpoints = [Endpoint::from(greeter[0].address())];
        resolver.set_resolution(Resolution::new(endpoints).with_service_config(config));
    };
    resolve(1);
    let channel =
        plaintext("manual:///greeter").resolver("manual", resolver.clone()).build().unwrap();
    greeter[0].hold();
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let channel = channel.clone();
        calls.spawn(async move { channel.invoke(&SAY_HELLO, ask("Ada")).await });
    }
    until("two calls wait", async || {
        let report = report_of(&channel, &greeter[0]).await;
        report.is_some_and(|it| it.counters.get("queued streams") == Some(&2))
    })
    .await;
    assert_eq!(greeter[0].accepted(), 1);
    // Nothing else happens that would make anybody look.
    resolve(3);
    until("every call has a stream", async || greeter[0].open_calls() == 3).await;
    greeter[0].release();
    for reply in calls.join_all().await {
        reply.unwrap();
    }
    close_without_leaks(channel, &greeter).await;
}

/// Connects the first dial to a server that takes one call and goes away when it is told to, and
/// does with further ones as it is told.
struct Growing {
    inner: MemoryConnector,
    dials: Arc<Mutex<Vec<Duration>>>,
    since: Instant,
    further: Further,
}

#[derive(Clone)]
enum Further {
    Refused,
    /// The first of them is refused, and the others are not.
    RefusedOnce,
    Held(Arc<Semaphore>),
}

impl Connect for Growing {
    fn connect<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, std::io::Result<Io>> {
        Box::pin(async move {
            let (is_first, is_second) = {
                let mut dials = self.dials.lock().unwrap();
                dials.push(self.since.elapsed());
                (dials.len() == 1, dials.len() == 2)
            };
            match &self.further {
                _ if is_first => {}
                Further::RefusedOnce if !is_second => {}
                Further::Refused | Further::RefusedOnce => {
                    return Err(std::io::ErrorKind::ConnectionRefused.into());
                }
                Further::Held(released) => released.acquire().await.unwrap().forget(),
            }
            self.inner.connect(address).await
        })
    }
}

/// A channel over [`Growing`] with one call under way and one that waits for a further connection,
/// when the first connection is lost. What is returned are the dials so far, and the call that
/// waits.
async fn lost_while_growing(
    further: Further,
) -> (Channel, Arc<Mutex<Vec<Duration>>>, tokio::task::JoinHandle<Result<(), Status>>) {
    let (inner, mut listener) = pipe();
    let (first_is_over, over) = tokio::sync::oneshot::channel::<()>();
    tokio::spawn(async move {
        let manner = |seconds| Manner {
            max_streams: Some(1),
            service_time: Duration::from_secs(seconds),
            ..Manner::default()
        };
        let first = listener.accept().await.unwrap();
        let serving = tokio::spawn(answer_all_in(manner(10), first, |_| ()));
        over.await.unwrap();
        serving.abort();
        while let Some(stream) = listener.accept().await {
            tokio::spawn(answer_all_in(manner(0), stream, |_| ()));
        }
    });
    let dials = Arc::<Mutex<Vec<Duration>>>::default();
    let dialler = Growing { inner, dials: dials.clone(), since: Instant::now(), further };
    let channel = plaintext("passthrough:server").connector(dialler).seed(3);
    let channel = channel.max_connections_per_subchannel(2).build().unwrap();
    let call = || {
        let channel = channel.clone();
        let request = ask("Ada").wait_for_ready(true);
        tokio::spawn(async move { channel.invoke(&SAY_HELLO, request).await.map(drop) })
    };
    let first = call();
    until("a call is under way", async || {
        let reports = reports(&channel).await;
        reports.iter().flat_map(|it| &it.connections).any(|it| it.open_streams == 1)
    })
    .await;
    let second = call();
    until("a further connection is dialled", async || dials.lock().unwrap().len() == 2).await;
    first_is_over.send(()).unwrap();
    assert_eq!(first.await.unwrap().unwrap_err().code(), Code::UNAVAILABLE);
    (channel, dials, second)
}

// spec: A105/lost-while-growing
#[tokio::test(start_paused = true)]
async fn a_channel_that_loses_its_last_connection_goes_on_with_the_dial_for_a_further_one() {
    let released = Arc::new(Semaphore::new(0));
    let (channel, dials, second) = lost_while_growing(Further::Held(released.clone())).await;
    until("the loss shows", async || channel.state() == ConnectivityState::Connecting).await;
    released.add_permits(1);
    second.await.unwrap().unwrap();
    assert_eq!(dials.lock().unwrap().len(), 2, "the dial was not repeated");
    assert_eq!(channel.state(), ConnectivityState::Ready);
    end(channel).await;
}

// spec: A105/lost-while-growing
#[tokio::test(start_paused = true)]
async fn a_channel_that_loses_its_last_connection_keeps_the_backoff_of_a_further_one() {
    let (channel, dials, second) = lost_while_growing(Further::Refused).await;
    let state = async || channel.state() == ConnectivityState::TransientFailure;
    until("the loss shows", state).await;
    let status = channel.invoke(&SAY_HELLO, ask("Bo")).await.unwrap_err();
    assert!(status.message().contains("refused"), "the cause is that of the dial: {status}");
    until("there is another dial", async || dials.lock().unwrap().len() == 3).await;
    let times = dials.lock().unwrap().clone();
    let pause = times[2].as_secs_f64() - times[1].as_secs_f64();
    assert!((0.8..=1.21).contains(&pause), "one backoff: {times:?}");
    second.abort();
    end(channel).await;
}

#[tokio::test(start_paused = true)]
async fn a_reset_of_backoffs_ends_that_of_a_further_connection_too() {
    let (inner, mut listener) = pipe();
    tokio::spawn(async move {
        let manner = Manner {
            max_streams: Some(1),
            service_time: Duration::from_secs(600),
            ..Manner::default()
        };
        while let Some(stream) = listener.accept().await {
            tokio::spawn(answer_all_in(manner, stream, |_| ()));
        }
    });
    let dials = Arc::<Mutex<Vec<Duration>>>::default();
    let further = Further::RefusedOnce;
    let dialler = Growing { inner, dials: dials.clone(), since: Instant::now(), further };
    let hour = Duration::from_secs(3_600);
    let backoff = BackoffConfig { base_delay: hour, max_delay: hour, ..BackoffConfig::default() };
    let channel = plaintext("passthrough:server").connector(dialler).backoff(backoff);
    let channel = channel.max_connections_per_subchannel(2).build().unwrap();
    let since = Instant::now();
    let calls: Vec<_> = (0..2)
        .map(|_| {
            let channel = channel.clone();
            tokio::spawn(async move { channel.invoke(&SAY_HELLO, ask("Ada")).await.map(drop) })
        })
        .collect();
    until("the dial for a further connection has failed", async || {
        let reports = reports(&channel).await;
        reports.iter().any(|it| it.counters.get("failed dials") == Some(&1))
    })
    .await;
    channel.reset_connect_backoff();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    // Both took ten minutes, side by side.
    assert!(since.elapsed() < Duration::from_secs(700), "{:?}", since.elapsed());
    assert_eq!(dials.lock().unwrap().len(), 3);
    end(channel).await;
}

#[test]
fn the_limit_in_a_service_config_is_checked() {
    for (json, part) in [
        (r#"{"connectionScaling":7}"#, "connectionScaling: must be an object"),
        (r#"{"connectionScaling":{"maxConnectionsPerSubchannel":0}}"#, "at least 1"),
        (r#"{"connectionScaling":{"maxConnectionsPerSubchannel":"4"}}"#, "at least 1"),
    ] {
        let error = plaintext("greeter:1").default_service_config(json).build().unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[tokio::test]
async fn word_of_calls_that_wait_is_not_lost_with_the_actor_that_it_was_for() {
    let greeter = [Greeter::start_with_max_streams(1)];
    let channel = plaintext(target_of(&greeter)).max_connections_per_subchannel(2);
    let channel = channel.allow_injection().build().unwrap();
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    greeter[0].hold();
    // It dies with that word in its mailbox.
    let stall = Fault::stall(ActorKind::AddrConn, Duration::from_millis(100));
    channel.inject(stall).await.unwrap();
    channel.inject(Fault::crash(ActorKind::AddrConn)).await.unwrap();
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let channel = channel.clone();
        calls.spawn(async move { channel.invoke(&SAY_HELLO, ask("Ada")).await });
    }
    until("there is a second connection", async || greeter[0].open_calls() == 2).await;
    greeter[0].release();
    for reply in calls.join_all().await {
        reply.unwrap();
    }
    close_without_leaks(channel, &greeter).await;
}
