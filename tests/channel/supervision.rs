//! Actors that crash or stall, under load.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use switchboard::memory::{MemoryConnector, MemoryNetwork, pipe};
use switchboard::{
    ActorAnswer, ActorKind, Address, BackoffConfig, BoxFuture, CallOptions, Channel, Code, Connect,
    ConnectivityState, Endpoint, EndpointShards, Fault, InjectError, Io, LbContext, LbPolicy,
    LbPolicyBuilder, LbPolicyConfig, ManualResolver, Pick, PickArgs, PickResult, Picker,
    ReadyEndpoint, Resolution, ServiceConfigError, Spread, StateChange, SubchannelId,
};

use tokio::task::AbortHandle;

use crate::support::greeter::{BIDI_HELLO, Greeter, SAY_HELLO, ask, hello, target_of};
use crate::support::mini::answer_all;
use crate::support::{
    Load, ROUND_ROBIN, close_without_leaks, plaintext, reports, until, until_connected, until_state,
};

const ACTORS: [ActorKind; 5] = [
    ActorKind::ClientConn,
    ActorKind::Resolver,
    ActorKind::Balancer,
    ActorKind::AddrConn,
    ActorKind::Supervisor,
];

async fn connected(greeters: &[Greeter]) -> Channel {
    let channel = plaintext(target_of(greeters))
        .default_service_config(ROUND_ROBIN)
        .allow_injection()
        .build()
        .unwrap();
    channel.connect();
    until_connected(&channel, greeters).await;
    channel
}

async fn restarts(channel: &Channel, actor: ActorKind) -> u64 {
    reports(channel).await.iter().filter(|it| it.actor == actor).map(|it| it.restarts).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_actor_that_crashes_is_restarted_and_fails_no_call() {
    let greeters = [Greeter::start(), Greeter::start()];
    for actor in ACTORS {
        let channel = connected(&greeters).await;
        let load = Load::start(&channel, false);
        load.more_calls(500).await;
        channel.inject(Fault::crash(actor)).await.unwrap();
        until("the restart shows", async || restarts(&channel, actor).await > 0).await;
        load.more_calls(500).await;
        assert_eq!(load.stop().await.len(), 0, "{actor}");
        assert_eq!(channel.state(), ConnectivityState::Ready, "{actor}");
        until_connected(&channel, &greeters).await;
        close_without_leaks(channel, &greeters).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_keeps_the_connections_and_the_streams_on_them() {
    let greeters = [Greeter::start(), Greeter::start()];
    for actor in ACTORS {
        let channel = connected(&greeters).await;
        let accepted: u64 = greeters.iter().map(Greeter::accepted).sum();
        let mut stream = channel.new_stream(&BIDI_HELLO, CallOptions::new()).await.unwrap();
        stream.send(hello("before")).await.unwrap();
        stream.recv().await.unwrap().unwrap();
        channel.inject(Fault::crash(actor)).await.unwrap();
        until("the restart shows", async || restarts(&channel, actor).await > 0).await;
        stream.send(hello("after")).await.unwrap();
        assert!(stream.recv().await.unwrap().unwrap().message.starts_with("Hello after"));
        until_connected(&channel, &greeters).await;
        let now: u64 = greeters.iter().map(Greeter::accepted).sum();
        assert_eq!(now, accepted, "{actor}: no new dial");
        drop(stream);
        close_without_leaks(channel, &greeters).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_actor_that_stalls_stops_no_call_and_is_shown_as_silent() {
    let greeters = [Greeter::start(), Greeter::start()];
    for actor in ACTORS {
        let channel = connected(&greeters).await;
        let load = Load::start(&channel, false);
        channel.inject(Fault::stall(actor, Duration::from_secs(3_600))).await.unwrap();
        load.more_calls(500).await;
        let inspection = channel.inspect().await;
        let silent = inspection.actors.iter().any(
            |answer| matches!(answer, ActorAnswer::Silent { actor: silent, .. } if *silent == actor),
        );
        assert!(silent, "{actor}: {inspection}");
        assert!(inspection.to_string().contains("has not answered"), "{inspection}");
        assert_eq!(load.stop().await.len(), 0, "{actor}");
        close_without_leaks(channel, &greeters).await;
    }
}

#[tokio::test]
async fn a_balancer_that_is_restarted_keeps_dialling_what_was_down() {
    let mut greeters = [Greeter::start(), Greeter::start()];
    let channel = connected(&greeters).await;
    greeters[1].kill();
    until_state(&channel, ConnectivityState::Ready).await;
    channel.inject(Fault::crash(ActorKind::Balancer)).await.unwrap();
    until("the restart shows", async || restarts(&channel, ActorKind::Balancer).await > 0).await;
    greeters[1].start_again();
    channel.reset_connect_backoff();
    until_connected(&channel, &greeters).await;
    for _ in 0..10 {
        channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    }
    assert!(greeters[1].received() > 0);
    close_without_leaks(channel, &greeters).await;
}

/// A server over pipes, and the tasks of the connections that it has accepted.
fn serve() -> (MemoryConnector, Arc<Mutex<Vec<AbortHandle>>>) {
    let (connector, mut listener) = pipe();
    let accepted = Arc::<Mutex<Vec<_>>>::default();
    let serving = accepted.clone();
    tokio::spawn(async move {
        while let Some(stream) = listener.accept().await {
            let task = tokio::spawn(answer_all(stream, |_| ()));
            serving.lock().unwrap().push(task.abort_handle());
        }
    });
    (connector, accepted)
}

/// Returns while no actor is alive; the next Supervisor comes after a wait.
async fn kill_all_actors(channel: &Channel) {
    channel.inject(Fault::crash(ActorKind::Supervisor)).await.unwrap();
    while channel.inject(Fault::stall(ActorKind::AddrConn, Duration::ZERO)).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_subchannel_that_is_given_up_while_its_actor_is_dead_lets_its_connection_go() {
    let network = MemoryNetwork::new();
    let mut one = network.listen("one");
    // It takes connections and says nothing.
    let _two = network.listen("two");
    let serving = tokio::spawn(async move {
        let stream = one.accept().await.unwrap();
        answer_all(stream, |_| ()).await
    });
    let endpoint = |name: &str| Endpoint::from(Address::Name(name.into()));
    let resolver = ManualResolver::new();
    resolver.set([endpoint("one")]);
    let builder = plaintext("manual:greeter").resolver("manual", resolver.clone());
    let builder = builder.default_service_config(ROUND_ROBIN).connector(network.connector());
    let channel = builder.allow_injection().build().unwrap();
    channel.connect();
    until_state(&channel, ConnectivityState::Ready).await;
    // The first serves until the other policy is READY; the next Balancer begins with that one.
    let next = r#"{"loadBalancingConfig":[{"pick_first":{}}]}"#;
    resolver.set_resolution(Resolution::new([endpoint("two")]).with_service_config(next));
    until("the other is dialled", async || {
        reports(&channel)
            .await
            .iter()
            .any(|it| it.id.as_ref().is_some_and(|id| id.ends_with("two")))
    })
    .await;
    assert!(!serving.is_finished());
    kill_all_actors(&channel).await;
    until("the first is closed", async || serving.is_finished()).await;
    channel.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_lost_while_every_actor_is_dead_is_made_again_by_way_of_connecting() {
    let (connector, accepted) = serve();
    let builder = plaintext("passthrough:server").connector(connector).allow_injection();
    let channel = builder.build().unwrap();
    drop(builder);
    channel.connect();
    until_state(&channel, ConnectivityState::Ready).await;
    let mut changes = channel.watch_state();
    kill_all_actors(&channel).await;
    accepted.lock().unwrap()[0].abort();
    until("connected again", async || accepted.lock().unwrap().len() == 2).await;
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    channel.close().await;
    let mut states = Vec::new();
    while let Some(StateChange::Changed(state)) = changes.next().await {
        states.push(state);
    }
    let expected = [
        ConnectivityState::Ready,
        ConnectivityState::Connecting,
        ConnectivityState::Ready,
        ConnectivityState::Shutdown,
    ];
    assert_eq!(states, expected);
}

#[tokio::test]
async fn faults_need_a_channel_that_allows_them_and_an_actor_to_suffer_them() {
    let channel = plaintext("ipv4:127.0.0.1:1").build().unwrap();
    let crash = Fault::crash(ActorKind::Balancer);
    assert_eq!(channel.inject(crash.clone()).await.unwrap_err(), InjectError::NotAllowed);
    let channel = plaintext("ipv4:127.0.0.1:1").allow_injection().build().unwrap();
    let unused = channel.inject(crash).await;
    assert_eq!(unused.unwrap_err(), InjectError::NoSuchActor(ActorKind::Balancer));
}

/// Refuses every dial.
struct Refuses;

impl Connect for Refuses {
    fn connect<'a>(&'a self, _: &'a Address) -> BoxFuture<'a, io::Result<Io>> {
        Box::pin(async { Err(io::Error::new(io::ErrorKind::ConnectionRefused, "not today")) })
    }
}

#[tokio::test(start_paused = true)]
async fn the_cause_of_a_failure_outlives_every_balancer() {
    let channel = plaintext("passthrough:server")
        .connector(Refuses)
        .backoff(BackoffConfig { base_delay: Duration::from_secs(100), ..BackoffConfig::default() })
        .allow_injection()
        .build()
        .unwrap();
    channel.connect();
    until_state(&channel, ConnectivityState::TransientFailure).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    // Each new Balancer has the subchannel connect, which rests from its failure; with the
    // Supervisor all are new.
    for actor in [ActorKind::Balancer, ActorKind::Supervisor] {
        channel.inject(Fault::crash(actor)).await.unwrap();
        until("the restart shows", async || restarts(&channel, actor).await > 0).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let status = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
        assert!(status.message().contains("not today"), "after {actor}: {status}");
    }
    channel.close().await;
}

/// A policy that cannot be set up while `is_broken` says so.
struct Fragile {
    is_broken: Arc<AtomicBool>,
}

impl LbPolicyBuilder for Fragile {
    fn name(&self) -> &'static str {
        "fragile"
    }

    fn parse_config(&self, _: &serde_json::Value) -> Result<LbPolicyConfig, ServiceConfigError> {
        Ok(LbPolicyConfig::new(()))
    }

    fn build(&self) -> Box<dyn LbPolicy> {
        Box::new(EndpointShards::new(FragileSpread { is_broken: self.is_broken.clone() }))
    }
}

struct FragileSpread {
    is_broken: Arc<AtomicBool>,
}

impl Spread for FragileSpread {
    fn name(&self) -> &'static str {
        "fragile"
    }

    fn configure(&mut self, _: &LbPolicyConfig) {
        assert!(!self.is_broken.load(Ordering::SeqCst), "it is broken");
    }

    fn picker(&mut self, ready: &[ReadyEndpoint<'_>], _: &mut LbContext<'_>) -> Arc<dyn Picker> {
        Arc::new(First(ready[0].subchannel()))
    }
}

struct First(SubchannelId);

impl Picker for First {
    fn pick(&self, _: &PickArgs<'_>) -> PickResult {
        PickResult::Complete(Pick::new(self.0))
    }
}

#[tokio::test]
async fn a_part_that_fails_again_and_again_is_told_of_unless_a_connection_serves() {
    let greeter = [Greeter::start()];
    let is_broken = Arc::new(AtomicBool::new(true));
    let channel = plaintext(target_of(&greeter))
        .lb_policy(Fragile { is_broken: is_broken.clone() })
        .default_service_config(r#"{"loadBalancingConfig":[{"fragile":{}}]}"#)
        .backoff(BackoffConfig {
            base_delay: Duration::from_millis(5),
            max_delay: Duration::from_millis(20),
            ..BackoffConfig::default()
        })
        .allow_injection()
        .build()
        .unwrap();
    // Nothing serves: calls learn why.
    let status = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
    assert_eq!(status.code(), Code::UNAVAILABLE);
    assert!(status.message().contains("the channel's Balancer fails"), "{status}");
    assert_eq!(channel.state(), ConnectivityState::TransientFailure);
    // It is never given up.
    is_broken.store(false, Ordering::SeqCst);
    until("it works again", async || channel.invoke(&SAY_HELLO, ask("Ada")).await.is_ok()).await;
    assert_eq!(channel.state(), ConnectivityState::Ready);
    // With a connection the last snapshot serves on.
    is_broken.store(true, Ordering::SeqCst);
    let before = restarts(&channel, ActorKind::Balancer).await;
    channel.inject(Fault::crash(ActorKind::Balancer)).await.unwrap();
    let failures = async || {
        let all = reports(&channel).await;
        let supervisor = all.iter().find(|it| it.actor == ActorKind::Supervisor).unwrap();
        supervisor.counters["restarts of others"]
    };
    until("it fails again and again", async || failures().await > before + 10).await;
    for _ in 0..20 {
        channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    }
    assert_eq!(channel.state(), ConnectivityState::Ready);
    is_broken.store(false, Ordering::SeqCst);
    until("it is there again", async || restarts(&channel, ActorKind::Balancer).await > 0).await;
    close_without_leaks(channel, &greeter).await;
}
