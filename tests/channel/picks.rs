//! Calls that wait for a connection, and what wakes them.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::task::{Context, Poll};
use std::time::Duration;

use switchboard::memory::{MemoryConnector, MemoryListener, pipe};
use switchboard::{
    ActorAnswer, ActorKind, Address, BoxFuture, CallInfo, CallObserver, Channel, ChannelEvent,
    ChannelInfo, Code, Connect, ConnectivityState, Endpoint, Fault, Io, LbContext, LbEvent,
    LbPolicy, LbPolicyBuilder, LbPolicyConfig, ManualResolver, Observer, Pick, PickArgs,
    PickResult, Picker, PolicyReport, Resolution, ServiceConfigError, SubchannelId,
};
use tokio::sync::{Semaphore, mpsc as async_mpsc};

use crate::support::greeter::{SAY_HELLO, ask};
use crate::support::mini::{Manner, answer_all_in};
use crate::support::{no_leaks, plaintext, reports, until};

/// Serves what `listener` accepts; tells how many connections that were so far.
fn serve(manner: Manner, mut listener: MemoryListener) -> Arc<AtomicUsize> {
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = accepted.clone();
    tokio::spawn(async move {
        while let Some(stream) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(answer_all_in(manner, stream, |_| ()));
        }
    });
    accepted
}

async fn end(channel: Channel) {
    channel.close().await;
    drop(channel);
    no_leaks(&[]).await;
}

/// Takes its time over the first disconnection.
struct Slow {
    entered: mpsc::Sender<()>,
    released: Mutex<Option<mpsc::Receiver<()>>>,
}

impl Observer for Slow {
    fn call_began(&self, _: &CallInfo<'_>) -> Option<Arc<dyn CallObserver>> {
        None
    }

    fn channel_event(&self, _: &ChannelInfo<'_>, event: &ChannelEvent<'_>) {
        if matches!(event, ChannelEvent::Disconnected { .. }) {
            let released = self.released.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(released) = released {
                self.entered.send(()).expect("the test waits for this");
                // An error is how it is released.
                let _ = released.recv();
            }
        }
    }
}

/// A channel with two connections, of which one has said goodbye and its observer is told; the call
/// that comes then must get the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_call_that_comes_while_an_observer_hears_of_a_goaway_takes_the_sibling() {
    let (connector, listener) = pipe();
    let accepted = serve(Manner { goodbye_after: Some(1), ..Manner::default() }, listener);
    let (entered, has_entered) = mpsc::channel();
    let (release, released) = mpsc::channel();
    let channel = plaintext("passthrough:server")
        .connector(connector)
        .connections_per_address(2)
        .observer(Slow { entered, released: Mutex::new(Some(released)) })
        .build()
        .unwrap();
    channel.connect();
    until("two connections", async || {
        let reports = reports(&channel).await;
        reports.iter().any(|report| report.connections.len() == 2)
    })
    .await;
    // Its answer comes behind the goodbye, whose observer its connection waits for.
    let first = tokio::spawn({
        let channel = channel.clone();
        async move { channel.invoke(&SAY_HELLO, ask("Ada")).await }
    });
    let entered = tokio::task::spawn_blocking(move || has_entered.recv());
    entered.await.unwrap().unwrap();
    // Without a deadline: what nobody wakes would wait for ever.
    let call = channel.invoke(&SAY_HELLO, ask("Bo"));
    let called = tokio::time::timeout(Duration::from_secs(20), call).await;
    drop(release);
    called.expect("the sibling is there").unwrap();
    first.await.unwrap().unwrap();
    assert!(accepted.load(Ordering::SeqCst) >= 2);
    end(channel).await;
}

/// Publishes one picker, and never another, whatever happens to the connection.
struct OnceBuilder;

impl LbPolicyBuilder for OnceBuilder {
    fn name(&self) -> &'static str {
        "once"
    }

    fn parse_config(&self, _: &serde_json::Value) -> Result<LbPolicyConfig, ServiceConfigError> {
        Ok(LbPolicyConfig::new(()))
    }

    fn build(&self) -> Box<dyn LbPolicy> {
        Box::new(Once { subchannel: None })
    }
}

struct Once {
    subchannel: Option<SubchannelId>,
}

impl LbPolicy for Once {
    fn handle(&mut self, event: LbEvent, cx: &mut LbContext<'_>) {
        match event {
            LbEvent::Update(update) if self.subchannel.is_none() => {
                let id = cx.create_subchannel(&update.endpoints[0].addresses()[0]);
                self.subchannel = Some(id);
                cx.connect(id);
                cx.publish(ConnectivityState::Ready, Arc::new(Always(id)));
            }
            LbEvent::SubchannelChanged { id, state }
                if state.connectivity == ConnectivityState::Idle =>
            {
                cx.connect(id);
            }
            _ => {}
        }
    }

    fn inspect(&self) -> PolicyReport {
        PolicyReport {
            policy: "once".to_owned(),
            connectivity: ConnectivityState::Ready,
            subchannels: Vec::new(),
            note: None,
            children: Vec::new(),
        }
    }
}

struct Always(SubchannelId);

impl Picker for Always {
    fn pick(&self, _: &PickArgs<'_>) -> PickResult {
        PickResult::Complete(Pick::new(self.0))
    }
}

/// Dials when it is told to.
struct Held {
    inner: MemoryConnector,
    dials: Arc<Semaphore>,
}

impl Connect for Held {
    fn connect<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, std::io::Result<Io>> {
        Box::pin(async move {
            self.dials.acquire().await.map_err(std::io::Error::other)?.forget();
            self.inner.connect(address).await
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_in_an_empty_slot_wakes_calls_without_a_newer_snapshot() {
    let (inner, listener) = pipe();
    serve(Manner { goodbye_after: Some(1), ..Manner::default() }, listener);
    let dials = Arc::new(Semaphore::new(0));
    let channel = plaintext("passthrough:server")
        .connector(Held { inner, dials: dials.clone() })
        .lb_policy(OnceBuilder)
        .default_service_config(r#"{"loadBalancingConfig":[{"once":{}}]}"#)
        .build()
        .unwrap();
    for _ in 0..3 {
        let call = channel.invoke(&SAY_HELLO, ask("Ada"));
        let dial = async {
            // The call has found the slot empty by then.
            tokio::time::sleep(Duration::from_secs(1)).await;
            dials.add_permits(1);
        };
        let waiting = async { tokio::join!(call, dial).0 };
        let called = tokio::time::timeout(Duration::from_secs(60), waiting).await;
        called.expect("the call is woken").unwrap();
    }
    end(channel).await;
}

/// Calls without a pause while connections are replaced; each call has to end, and to succeed if
/// its server has seen it.
async fn churn(deadline: Option<Duration>) {
    const CALLERS: usize = 32;
    const CALLS: usize = 150;
    let (connector, listener) = pipe();
    let accepted = serve(Manner { goodbye_after: Some(20), ..Manner::default() }, listener);
    let channel = plaintext("passthrough:server")
        .connector(connector)
        .connections_per_address(3)
        .build()
        .unwrap();
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..CALLERS {
        let channel = channel.clone();
        callers.spawn(async move {
            for _ in 0..CALLS {
                let mut request = ask("Ada");
                if let Some(deadline) = deadline {
                    request = request.timeout(deadline);
                }
                if let Err(status) = channel.invoke(&SAY_HELLO, request).await {
                    // Twice in a row a server has disowned it; it is sent again once (A6).
                    assert!(status.message().contains("has not processed"), "{status}");
                }
            }
        });
    }
    let all = async {
        while let Some(caller) = callers.join_next().await {
            caller.unwrap();
        }
    };
    // Far beyond what it takes: a call that hangs, hangs for ever.
    tokio::time::timeout(Duration::from_secs(100), all).await.expect("no call hangs");
    // Otherwise nothing has been replaced.
    assert!(accepted.load(Ordering::SeqCst) > CALLERS * CALLS / 20 / 2);
    end(channel).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_call_hangs_while_connections_are_replaced_under_load() {
    churn(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_call_with_a_deadline_hangs_while_connections_are_replaced_under_load() {
    churn(Some(Duration::from_secs(60))).await;
}

/// Counts how often the calls of a crowd are polled.
struct Counted<F> {
    call: Pin<Box<F>>,
    polls: Arc<AtomicUsize>,
}

impl<F: Future> Future for Counted<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.polls.fetch_add(1, Ordering::SeqCst);
        self.call.as_mut().poll(cx)
    }
}

/// A crowd of calls waits, and names change without a pause; actors are asked in the middle.
#[tokio::test]
async fn an_actor_answers_after_a_bounded_number_of_waiting_calls_were_woken() {
    const CROWD: usize = 10_000;
    let manual = ManualResolver::new();
    // Nobody ever accepts there.
    let (inner, _listener) = pipe();
    let held = Held { inner, dials: Arc::new(Semaphore::new(0)) };
    let channel = plaintext("manual:///server")
        .resolver("manual", manual.clone())
        .connector(held)
        .max_queued_calls(CROWD)
        .build()
        .unwrap();
    let polls = Arc::new(AtomicUsize::new(0));
    let mut crowd = tokio::task::JoinSet::new();
    for _ in 0..CROWD {
        let channel = channel.clone();
        let call = async move { channel.invoke(&SAY_HELLO, ask("Ada")).await.is_ok() };
        crowd.spawn(Counted { call: Box::pin(call), polls: polls.clone() });
    }
    until("all wait", async || polls.load(Ordering::SeqCst) >= CROWD).await;
    let (flip, mut flips) = async_mpsc::channel(1);
    let flapping = tokio::spawn(async move {
        let mut nth = 0_u64;
        while flip.send(()).await.is_ok() {
            nth += 1;
            let address = Address::Name(format!("server-{nth}").into());
            // A config of its own each, so that every call has to look at it.
            let resolution = Resolution::new([Endpoint::from(address)]);
            let config =
                format!(r#"{{"methodConfig":[{{"name":[{{}}],"timeout":"{}s"}}]}}"#, 1_000 + nth);
            manual.set_resolution(resolution.with_service_config(config));
        }
    });
    let mut worst = 0;
    for _ in 0..100 {
        for _ in 0..4 {
            flips.recv().await;
            tokio::task::yield_now().await;
        }
        let before = polls.load(Ordering::SeqCst);
        let inspection = channel.inspect().await;
        worst = worst.max(polls.load(Ordering::SeqCst) - before);
        for actor in &inspection.actors {
            // An AddrConn may have been given up meanwhile.
            let is_silent =
                matches!(actor, ActorAnswer::Silent { actor, .. } if *actor != ActorKind::AddrConn);
            assert!(!is_silent, "{inspection}");
        }
    }
    drop(flips);
    flapping.await.unwrap();
    let polls = polls.load(Ordering::SeqCst);
    assert!(polls > 2 * CROWD, "too few were woken: {polls}");
    // A slice is 64, and an inspection takes a few turns, in each of which one slice is polled.
    assert!(worst <= 64 * 10, "{worst} polls until all actors had answered");
    channel.close().await;
    while let Some(called) = crowd.join_next().await {
        assert!(!called.unwrap());
    }
    drop(channel);
    no_leaks(&[]).await;
}

/// The config says that a call takes no longer than a second, and the Balancer has not heard of it:
/// what it published before goes with what it had heard of then.
#[tokio::test(start_paused = true)]
async fn a_picker_is_never_shown_with_a_config_that_it_was_not_made_of() {
    let manual = ManualResolver::new();
    let server = || [Endpoint::from(Address::Name("server".into()))];
    let config = |timeout: &str| {
        let json = format!(r#"{{"methodConfig":[{{"name":[{{}}],"timeout":"{timeout}"}}]}}"#);
        Resolution::new(server()).with_service_config(json)
    };
    manual.set_resolution(config("100s"));
    let (connector, listener) = pipe();
    serve(Manner { service_time: Duration::from_secs(5), ..Manner::default() }, listener);
    let channel = plaintext("manual:///server")
        .resolver("manual", manual.clone())
        .connector(connector)
        .allow_injection()
        .build()
        .unwrap();
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    let stall = Duration::from_secs(600);
    channel.inject(Fault::stall(ActorKind::Balancer, stall)).await.unwrap();
    manual.set_resolution(config("1s"));
    let counted = async |kind: ActorKind, what: &str| {
        let reports = reports(&channel).await;
        let report = reports.into_iter().find(|report| report.actor == kind);
        report.and_then(|report| report.counters.get(what).copied()).unwrap_or_default()
    };
    until("the new config is in force", async || {
        counted(ActorKind::ClientConn, "resolutions").await == 2
    })
    .await;
    // Its next life shows again what was published last.
    channel.inject(Fault::crash(ActorKind::ClientConn)).await.unwrap();
    until("the restart shows", async || {
        let reports = reports(&channel).await;
        reports.iter().any(|it| it.actor == ActorKind::ClientConn && it.restarts == 1)
    })
    .await;
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    // Once the Balancer goes on, calls go by the new one.
    tokio::time::sleep(stall).await;
    let status = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
    assert_eq!(status.code(), Code::DEADLINE_EXCEEDED);
    end(channel).await;
}
