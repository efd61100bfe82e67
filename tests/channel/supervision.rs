//! Actors that crash or stall, under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use switchboard::{
    ActorAnswer, ActorKind, BackoffConfig, CallOptions, Channel, Code, ConnectivityState,
    EndpointShards, Fault, InjectError, LbContext, LbPolicy, LbPolicyBuilder, LbPolicyConfig, Pick,
    PickArgs, PickResult, Picker, ReadyEndpoint, ServiceConfigError, Spread, SubchannelId,
};

use crate::support::greeter::{BIDI_HELLO, Greeter, SAY_HELLO, ask, hello, target_of};
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

#[tokio::test]
async fn faults_need_a_channel_that_allows_them_and_an_actor_to_suffer_them() {
    let channel = plaintext("ipv4:127.0.0.1:1").build().unwrap();
    let crash = Fault::crash(ActorKind::Balancer);
    assert_eq!(channel.inject(crash.clone()).await.unwrap_err(), InjectError::NotAllowed);
    let channel = plaintext("ipv4:127.0.0.1:1").allow_injection().build().unwrap();
    let unused = channel.inject(crash).await;
    assert_eq!(unused.unwrap_err(), InjectError::NoSuchActor(ActorKind::Balancer));
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
