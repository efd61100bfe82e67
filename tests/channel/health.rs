//! Servers that are asked whether they serve (A17).

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use switchboard::memory::pipe;
use switchboard::{
    ActorKind, BoxFuture, CallContext, CallCredentials, CallOptions, Channel, ChannelBuilder,
    Channelz, ChannelzSeverity, Code, ConnectivityState, Credentials, Endpoint, Fault, LbContext,
    LbEvent, LbPolicy, LbPolicyBuilder, LbPolicyConfig, ManualResolver, Metadata, Pick, PickArgs,
    PickResult, Picker, PolicyReport, Resolution, SecurityLevel, ServiceConfigError, StateChange,
    Status, SubchannelId, SubchannelState,
};
use tokio::time::Instant;

use crate::support::greeter::health_service::Serving;
use crate::support::greeter::{BIDI_HELLO, GREETER, Greeter, SAY_HELLO, ask, hello, target_of};
use crate::support::mini::{self, Manner, answer_all_in};
use crate::support::{
    Load, ROUND_ROBIN, close_without_leaks, no_leaks, plaintext, report_of, reports, until,
    until_connected, until_state,
};

const CHECKED: &str = r#"{"loadBalancingConfig":[{"round_robin":{}}],
    "healthCheckConfig":{"serviceName":"helloworld.Greeter"}}"#;

fn builder(greeters: &[Greeter], config: &str) -> ChannelBuilder {
    plaintext(target_of(greeters)).default_service_config(config)
}

/// A channel of `builder` that has a connection to each of `greeters`.
async fn connected(greeters: &[Greeter], builder: ChannelBuilder) -> Channel {
    let channel = builder.build().unwrap();
    channel.connect();
    until_connected(&channel, greeters).await;
    channel
}

/// Waits until the `AddrConn` to `greeter` tells this of its health.
async fn until_health(channel: &Channel, greeter: &Greeter, health: &str) {
    until(health, async || {
        let report = report_of(channel, greeter).await;
        report.is_some_and(|it| it.facts["health"].starts_with(health))
    })
    .await;
}

/// Who answers a dozen calls.
async fn peers(channel: &Channel) -> BTreeSet<String> {
    let mut peers = BTreeSet::new();
    for _ in 0..12 {
        let reply = channel.invoke(&SAY_HELLO, ask("Ada").wait_for_ready(true)).await.unwrap();
        peers.insert(reply.peer().to_string());
    }
    peers
}

fn names(greeters: &[Greeter]) -> BTreeSet<String> {
    greeters.iter().map(|greeter| greeter.address().to_string()).collect()
}

/// Waits until calls go to all of `greeters` and to no other.
async fn until_calls_go_to(channel: &Channel, greeters: &[Greeter]) {
    until("calls go where they should", async || peers(channel).await == names(greeters)).await;
}

fn two() -> [Greeter; 2] {
    [Greeter::start_with_health(), Greeter::start_with_health()]
}

fn open_watches(greeters: &[Greeter]) -> usize {
    greeters.iter().map(|greeter| greeter.health().open_watches()).sum()
}

// spec: A17/not-serving
#[tokio::test]
async fn calls_leave_a_server_that_does_not_serve_and_come_back_when_it_does() {
    let greeters = two();
    let channel = connected(&greeters, builder(&greeters, CHECKED)).await;
    until_calls_go_to(&channel, &greeters).await;

    greeters[0].health().say(GREETER, Serving::No);
    until_calls_go_to(&channel, &greeters[1..]).await;
    let before = greeters[0].received();
    assert_eq!(peers(&channel).await, names(&greeters[1..]));
    assert_eq!(greeters[0].received(), before);

    greeters[0].health().say(GREETER, Serving::Yes);
    until_calls_go_to(&channel, &greeters).await;
    assert_eq!(greeters[0].accepted(), 1, "the connection stays");
    assert_eq!(greeters[0].health().watches(), 1, "and so does the watch");
    close_without_leaks(channel, &greeters).await;
    until("the watches end", async || open_watches(&greeters) == 0).await;
}

#[tokio::test]
async fn calls_in_flight_go_on_where_new_ones_do_not_go() {
    let greeters = [Greeter::start_with_health()];
    let channel = connected(&greeters, builder(&greeters, CHECKED)).await;
    let mut stream = channel.new_stream(&BIDI_HELLO, CallOptions::new()).await.unwrap();
    stream.send(hello("Ada")).await.unwrap();
    stream.recv().await.unwrap().unwrap();
    greeters[0].health().say(GREETER, Serving::No);
    until_state(&channel, ConnectivityState::TransientFailure).await;
    stream.send(hello("Grace")).await.unwrap();
    assert!(stream.recv().await.unwrap().unwrap().message.contains("Grace"));
    drop(stream);
    close_without_leaks(channel, &greeters).await;
}

// spec: A17/all-unhealthy
#[tokio::test]
async fn where_no_server_serves_calls_are_told_who_said_what_of_which_service() {
    let greeters = [Greeter::start_with_health()];
    let config = r#"{"loadBalancingConfig":[{"round_robin":{}}],
        "healthCheckConfig":{"serviceName":"some.Service"}}"#;
    for (service, config, say, said) in [
        (GREETER, CHECKED, Serving::No, "service `helloworld.Greeter` says NOT_SERVING"),
        ("some.Service", config, Serving::Unknown, "service `some.Service` says SERVICE_UNKNOWN"),
    ] {
        greeters[0].health().say(service, say);
        let channel = connected(&greeters, builder(&greeters, config)).await;
        until_state(&channel, ConnectivityState::TransientFailure).await;
        let status = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
        assert_eq!(status.code(), Code::UNAVAILABLE);
        for part in [said, &greeters[0].address().to_string()] {
            assert!(status.message().contains(part), "{status}");
        }
        let report = report_of(&channel, &greeters[0]).await.unwrap();
        assert!(report.facts["health"].contains(said), "{report}");
        assert!(channel.inspect().await.to_string().contains(said));

        // Whoever can wait does.
        let waiting = tokio::spawn({
            let channel = channel.clone();
            async move { channel.invoke(&SAY_HELLO, ask("Ada").wait_for_ready(true)).await }
        });
        greeters[0].health().say(service, Serving::Yes);
        waiting.await.unwrap().unwrap();
        until_health(&channel, &greeters[0], "serving").await;
        close_without_leaks(channel, &greeters).await;
    }
}

#[tokio::test]
async fn an_empty_name_asks_for_the_server_as_a_whole() {
    let greeters = [Greeter::start_with_health()];
    greeters[0].health().say("", Serving::No);
    let config =
        r#"{"loadBalancingConfig":[{"round_robin":{}}],"healthCheckConfig":{"serviceName":""}}"#;
    let channel = connected(&greeters, builder(&greeters, config)).await;
    until_state(&channel, ConnectivityState::TransientFailure).await;
    let status = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
    assert!(status.message().contains("the server as a whole says NOT_SERVING"), "{status}");
    close_without_leaks(channel, &greeters).await;
}

// spec: A17/unimplemented
#[tokio::test]
async fn a_server_without_a_health_service_is_taken_as_healthy() {
    let greeters = [Greeter::start(), Greeter::start_with_health()];
    let channelz = Channelz::new();
    let channel = connected(&greeters, builder(&greeters, CHECKED).channelz(&channelz)).await;
    until_health(&channel, &greeters[0], "unsupported").await;
    until_calls_go_to(&channel, &greeters).await;
    let report = report_of(&channel, &greeters[0]).await.unwrap();
    assert_eq!(report.counters["health watches"], 1);
    // The trace of the channel says so, once, as an error.
    let shown = channelz.top_channels(0, 1).items.remove(0);
    let told: Vec<_> =
        shown.trace.events.iter().filter(|it| it.severity == ChannelzSeverity::Error).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    let address = greeters[0].address().to_string();
    let text = &told[0].description;
    assert!(text.contains(&address) && text.contains("UNIMPLEMENTED"), "{text}");
    close_without_leaks(channel, &greeters).await;
}

// spec: A17/backoff
#[tokio::test]
async fn a_watch_that_dies_is_begun_again() {
    let greeters = two();
    let health = greeters[0].health();
    let channel = connected(&greeters, builder(&greeters, CHECKED)).await;
    until_calls_go_to(&channel, &greeters).await;
    for status in [tonic::Status::ok(""), tonic::Status::internal("a fit")] {
        let before = health.watches();
        health.end_watches(status);
        until("it is asked again", async || health.watches() > before).await;
        until_calls_go_to(&channel, &greeters).await;
    }
    // One that says nothing makes the next one wait.
    health.refuse(Some(tonic::Status::permission_denied("not you")));
    health.end_watches(tonic::Status::internal("a fit"));
    until("it is asked, and refuses", async || {
        let report = report_of(&channel, &greeters[0]).await.unwrap();
        report.facts["health"].contains("PERMISSION_DENIED")
    })
    .await;
    until_calls_go_to(&channel, &greeters[1..]).await;
    let report = report_of(&channel, &greeters[0]).await.unwrap();
    assert!(report.facts["health"].contains("PERMISSION_DENIED: not you"), "{report}");
    assert_eq!(report.next_timer.unwrap().purpose, "next health check");
    health.refuse(None);
    channel.reset_connect_backoff();
    until_calls_go_to(&channel, &greeters).await;
    close_without_leaks(channel, &greeters).await;
}

// spec: A17/switched-off
#[tokio::test]
async fn a_channel_may_refuse_to_ask() {
    let greeters = two();
    greeters[0].health().say(GREETER, Serving::No);
    let channel = connected(&greeters, builder(&greeters, CHECKED).disable_health_check()).await;
    until_calls_go_to(&channel, &greeters).await;
    until_health(&channel, &greeters[0], "off").await;
    assert_eq!(greeters[0].health().watches(), 0);
    close_without_leaks(channel, &greeters).await;
}

// spec: A17/pick-first
#[tokio::test]
async fn pick_first_asks_nobody() {
    let greeters = [Greeter::start_with_health()];
    greeters[0].health().say(GREETER, Serving::No);
    let config = r#"{"healthCheckConfig":{"serviceName":"helloworld.Greeter"}}"#;
    let channel = connected(&greeters, builder(&greeters, config)).await;
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    until_health(&channel, &greeters[0], "off").await;
    assert_eq!(greeters[0].health().watches(), 0);
    close_without_leaks(channel, &greeters).await;
}

/// One subchannel to the first address, and calls while its connection and its health are READY.
struct Careful {
    asks: bool,
    subchannel: Option<SubchannelId>,
    connectivity: ConnectivityState,
    health: SubchannelState,
}

impl LbPolicy for Careful {
    fn handle(&mut self, event: LbEvent, cx: &mut LbContext<'_>) {
        match event {
            LbEvent::Update(update) if self.subchannel.is_none() => {
                let id = cx.create_subchannel(&update.endpoints[0].addresses()[0]);
                if self.asks {
                    cx.watch_health(id);
                }
                cx.connect(id);
                self.subchannel = Some(id);
            }
            LbEvent::SubchannelChanged { state, .. } => self.connectivity = state.connectivity,
            LbEvent::HealthChanged { state, .. } => self.health = state,
            _ => {}
        }
        let (Some(id), ConnectivityState::Ready) = (self.subchannel, self.connectivity) else {
            return;
        };
        cx.publish(self.health.connectivity, Arc::new(CarefulPicker(id, self.health.clone())));
    }

    fn inspect(&self) -> PolicyReport {
        PolicyReport {
            policy: "careful".to_owned(),
            connectivity: self.connectivity,
            subchannels: Vec::new(),
            note: None,
            children: Vec::new(),
        }
    }
}

struct CarefulPicker(SubchannelId, SubchannelState);

impl Picker for CarefulPicker {
    fn pick(&self, _: &PickArgs<'_>) -> PickResult {
        match (self.1.connectivity, &self.1.error) {
            (ConnectivityState::Ready, _) => PickResult::Complete(Pick::new(self.0)),
            (_, Some(error)) => PickResult::Fail(error.clone()),
            (_, None) => PickResult::Queue,
        }
    }
}

struct CarefulBuilder {
    asks: bool,
}

impl LbPolicyBuilder for CarefulBuilder {
    fn name(&self) -> &'static str {
        "careful"
    }

    fn parse_config(&self, _: &serde_json::Value) -> Result<LbPolicyConfig, ServiceConfigError> {
        Ok(LbPolicyConfig::new(()))
    }

    fn build(&self) -> Box<dyn LbPolicy> {
        let connectivity = ConnectivityState::Connecting;
        let health = SubchannelState { connectivity: ConnectivityState::Ready, error: None };
        Box::new(Careful { asks: self.asks, subchannel: None, connectivity, health })
    }
}

#[tokio::test]
async fn a_policy_of_its_own_is_told_of_health_if_it_asks() {
    let greeters = [Greeter::start_with_health()];
    greeters[0].health().say(GREETER, Serving::No);
    let config = CHECKED.replace("round_robin", "careful");
    for asks in [true, false] {
        let builder = builder(&greeters, &config).lb_policy(CarefulBuilder { asks });
        let channel = connected(&greeters, builder).await;
        if asks {
            until_state(&channel, ConnectivityState::TransientFailure).await;
            let status = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
            assert!(status.message().contains("says NOT_SERVING"), "{status}");
            greeters[0].health().say(GREETER, Serving::Yes);
            until_state(&channel, ConnectivityState::Ready).await;
            greeters[0].health().say(GREETER, Serving::No);
            until_state(&channel, ConnectivityState::TransientFailure).await;
        } else {
            channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
            until_health(&channel, &greeters[0], "off").await;
        }
        close_without_leaks(channel, &greeters).await;
    }
    assert_eq!(greeters[0].health().watches(), 1);
}

#[tokio::test]
async fn a_resolver_switches_checks_on_and_off_and_asks_for_another_service() {
    let greeters = two();
    greeters[0].health().say(GREETER, Serving::No);
    greeters[1].health().say("other.Service", Serving::Yes);
    let manual = ManualResolver::new();
    let update = |config: &str| {
        let endpoints = greeters.iter().map(|greeter| Endpoint::from(greeter.address()));
        manual.set_resolution(Resolution::new(endpoints).with_service_config(config));
    };
    update(ROUND_ROBIN);
    let builder = plaintext("manual:///greeter").resolver("manual", manual.clone());
    let channel = connected(&greeters, builder).await;
    until_calls_go_to(&channel, &greeters).await;
    assert_eq!(greeters[0].health().watches(), 0);

    update(CHECKED);
    until_calls_go_to(&channel, &greeters[1..]).await;
    update(&CHECKED.replace(GREETER, "other.Service"));
    until_health(&channel, &greeters[1], "serving").await;
    until("it is asked anew", async || greeters[0].health().watches() == 2).await;
    until_calls_go_to(&channel, &greeters[1..]).await;
    assert_eq!(open_watches(&greeters), 2);

    update(ROUND_ROBIN);
    until_calls_go_to(&channel, &greeters).await;
    until("the watches end", async || open_watches(&greeters) == 0).await;
    for greeter in &greeters {
        assert_eq!(greeter.accepted(), 1, "the connection stays through all of it");
    }
    close_without_leaks(channel, &greeters).await;
}

#[tokio::test]
async fn a_policy_that_does_not_go_by_health_takes_a_connection_over_and_asks_no_more() {
    let greeters = [Greeter::start_with_health()];
    let manual = ManualResolver::new();
    let update = |config: &str| {
        let endpoint = Endpoint::from(greeters[0].address());
        manual.set_resolution(Resolution::new([endpoint]).with_service_config(config));
    };
    update(CHECKED);
    let builder = plaintext("manual:///greeter").resolver("manual", manual.clone());
    let channel = connected(&greeters, builder.allow_injection()).await;
    until("the server is asked", async || open_watches(&greeters) == 1).await;
    // The config changes just when the Balancer fails: its next life begins with another policy.
    let stall = Fault::stall(ActorKind::Balancer, Duration::from_millis(100));
    channel.inject(stall).await.unwrap();
    channel.inject(Fault::crash(ActorKind::Balancer)).await.unwrap();
    update(&CHECKED.replace("round_robin", "pick_first"));
    until("it is no longer asked", async || open_watches(&greeters) == 0).await;
    until_health(&channel, &greeters[0], "off").await;
    assert_eq!((peers(&channel).await, greeters[0].accepted()), (names(&greeters), 1));
    close_without_leaks(channel, &greeters).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_of_any_actor_sends_no_call_to_a_server_that_does_not_serve() {
    let greeters = two();
    let channel = connected(&greeters, builder(&greeters, CHECKED).allow_injection()).await;
    greeters[0].health().say(GREETER, Serving::No);
    until_calls_go_to(&channel, &greeters[1..]).await;
    let received = greeters[0].received();
    for actor in
        [ActorKind::ClientConn, ActorKind::Balancer, ActorKind::AddrConn, ActorKind::Supervisor]
    {
        let load = Load::start(&channel, false);
        load.more_calls(200).await;
        channel.inject(Fault::crash(actor)).await.unwrap();
        until("the restart shows", async || {
            let reports = reports(&channel).await;
            reports.iter().any(|it| it.actor == actor && it.restarts > 0)
        })
        .await;
        load.more_calls(200).await;
        assert_eq!(load.stop().await.len(), 0, "{actor}");
        assert_eq!(greeters[0].received(), received, "{actor}");
        until_connected(&channel, &greeters).await;
    }
    // What is said after that is heard.
    greeters[0].health().say(GREETER, Serving::Yes);
    greeters[1].health().say(GREETER, Serving::No);
    until_calls_go_to(&channel, &greeters[..1]).await;
    close_without_leaks(channel, &greeters).await;
    until("the watches end", async || open_watches(&greeters) == 0).await;
}

#[tokio::test]
async fn a_new_connection_is_asked_anew_and_a_watch_does_not_keep_the_old_one() {
    let mut greeters = two();
    let channel = connected(&greeters, builder(&greeters, CHECKED)).await;
    until_calls_go_to(&channel, &greeters).await;
    // It waits for its streams to end, of which the watch is one.
    greeters[0].stop_gracefully().await;
    until_calls_go_to(&channel, &greeters[1..]).await;
    greeters[0].start_again();
    channel.reset_connect_backoff();
    until_calls_go_to(&channel, &greeters).await;
    assert_eq!(greeters[0].health().watches(), 2);
    close_without_leaks(channel, &greeters).await;
}

type Seen = Arc<Mutex<Vec<(Instant, String)>>>;

/// A channel to a server in memory whose health is `health`, and what that is asked for, and when.
/// A channel that nobody uses for ten seconds goes idle.
fn in_memory(health: mini::Health) -> (Channel, Seen) {
    let (connector, mut listener) = pipe();
    let seen = Seen::default();
    let list = seen.clone();
    tokio::spawn(async move {
        while let Some(stream) = listener.accept().await {
            let list = list.clone();
            tokio::spawn(async move {
                let manner = Manner { health, ..Manner::default() };
                // However the connection ends, it is over.
                let _ = answer_all_in(manner, stream, |head| {
                    let what = head.uri.path().rsplit('/').next().unwrap_or_default().to_owned();
                    list.lock().unwrap().push((Instant::now(), what));
                })
                .await;
            });
        }
    });
    let builder = plaintext("passthrough:server").connector(connector).seed(7);
    let builder = builder.default_service_config(CHECKED).idle_timeout(Duration::from_secs(10));
    (builder.build().unwrap(), seen)
}

async fn end(channel: Channel) {
    channel.close().await;
    drop(channel);
    no_leaks(&[]).await;
}

/// The fact of the one `AddrConn` there is.
async fn health_of(channel: &Channel) -> String {
    let mut reports = reports(channel).await.into_iter();
    reports.find_map(|mut it| it.facts.remove("health")).unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn a_watch_is_no_call_that_keeps_a_channel_from_going_idle() {
    let (channel, seen) = in_memory(mini::Health::Serves);
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    let since = Instant::now();
    let mut reports = reports(&channel).await.into_iter();
    let report = reports.find(|it| it.actor == ActorKind::AddrConn).unwrap();
    assert_eq!((report.connections[0].open_streams, report.connections[0].streams), (0, 1));
    until_state(&channel, ConnectivityState::Idle).await;
    assert_eq!(since.elapsed().as_secs(), 10);
    let asked: Vec<_> = seen.lock().unwrap().iter().map(|(_, what)| what.clone()).collect();
    assert_eq!(asked, ["Watch", "SayHello"], "the watch comes first, and once");
    // All of it comes back with the next call.
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    assert_eq!(seen.lock().unwrap().len(), 4);
    end(channel).await;
}

// spec: A17/backoff
#[tokio::test(start_paused = true)]
async fn rests_between_watches_that_say_nothing_grow_as_those_between_dials() {
    let (channel, seen) = in_memory(mini::Health::Refuses);
    channel.connect();
    until("it is asked four times", async || seen.lock().unwrap().len() == 4).await;
    let times: Vec<_> = seen.lock().unwrap().iter().map(|(at, _)| *at).collect();
    let rests: Vec<_> = times.windows(2).map(|it| (it[1] - it[0]).as_secs_f64()).collect();
    for (rest, (least, most)) in rests.iter().zip([(1.0, 1.01), (1.28, 1.93), (2.04, 3.08)]) {
        assert!((least..most).contains(rest), "{rests:?}");
    }
    let status = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
    assert!(status.message().contains("`helloworld.Greeter` failed"), "{status}");
    end(channel).await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_cannot_be_decoded_is_a_failed_watch() {
    let (channel, _) = in_memory(mini::Health::Babbles);
    let status = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
    assert_eq!(status.code(), Code::UNAVAILABLE);
    assert!(status.message().contains("no HealthCheckResponse"), "{status}");
    assert!(health_of(&channel).await.starts_with("not serving"));
    end(channel).await;
}

// spec: A17/first-answer
#[tokio::test(start_paused = true)]
async fn calls_wait_for_the_first_answer() {
    let (channel, seen) = in_memory(mini::Health::SaysNothing);
    let request = ask("Ada").timeout(Duration::from_secs(5));
    let status = channel.invoke(&SAY_HELLO, request).await.unwrap_err();
    assert_eq!(status.code(), Code::DEADLINE_EXCEEDED);
    assert_eq!(channel.state(), ConnectivityState::Connecting);
    assert_eq!(health_of(&channel).await, "checking");
    assert_eq!(seen.lock().unwrap().len(), 1, "the call has not left");
    end(channel).await;
}

#[tokio::test(start_paused = true)]
async fn of_many_answers_the_last_one_counts() {
    let (channel, _) = in_memory(mini::Health::Flickers);
    channel.connect();
    until("all are read", async || {
        let reports = reports(&channel).await;
        reports.iter().flat_map(|it| &it.connections).any(|it| it.messages_received == 20_001)
    })
    .await;
    until_state(&channel, ConnectivityState::TransientFailure).await;
    assert!(health_of(&channel).await.starts_with("not serving"));
    let status = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
    assert!(status.message().contains("says NOT_SERVING"), "{status}");
    end(channel).await;
}

#[tokio::test(start_paused = true)]
async fn of_several_connections_one_is_asked_and_another_when_that_is_lost() {
    let (connector, mut listener) = pipe();
    // Over which connection each watch came, and what ends that.
    let watches: Arc<Mutex<Vec<usize>>> = Arc::default();
    let connections: Arc<Mutex<Vec<tokio::task::AbortHandle>>> = Arc::default();
    let (seen, accepted) = (watches.clone(), connections.clone());
    tokio::spawn(async move {
        while let Some(stream) = listener.accept().await {
            let (seen, nth) = (seen.clone(), accepted.lock().unwrap().len());
            let serving = tokio::spawn(async move {
                let manner = Manner { health: mini::Health::Serves, ..Manner::default() };
                let _ = answer_all_in(manner, stream, |head| {
                    if head.uri.path().ends_with("/Watch") {
                        seen.lock().unwrap().push(nth);
                    }
                })
                .await;
            });
            accepted.lock().unwrap().push(serving.abort_handle());
        }
    });
    let builder = plaintext("passthrough:server").connector(connector);
    let builder = builder.default_service_config(CHECKED).connections_per_address(2);
    let channel = builder.build().unwrap();
    drop(builder);
    channel.connect();
    until_state(&channel, ConnectivityState::Ready).await;
    until("there are two connections", async || {
        let reports = reports(&channel).await;
        reports.iter().any(|it| it.connections.len() == 2)
    })
    .await;
    assert_eq!(*watches.lock().unwrap(), [0]);

    let mut changes = channel.watch_state();
    connections.lock().unwrap()[0].abort();
    until("another one is asked", async || watches.lock().unwrap().len() > 1).await;
    assert!(watches.lock().unwrap()[1] > 0);
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    channel.close().await;
    // Nothing was said against the server.
    for state in [ConnectivityState::Ready, ConnectivityState::Shutdown] {
        assert_eq!(changes.next().await, Some(StateChange::Changed(state)));
    }
    drop((channel, changes));
    no_leaks(&[]).await;
}

/// Signs every request by whom it is for.
struct Signed;

impl CallCredentials for Signed {
    fn metadata<'a>(
        &'a self,
        call: &'a CallContext<'_>,
    ) -> BoxFuture<'a, Result<Metadata, Status>> {
        let mut metadata = Metadata::new();
        metadata.insert("signature", call.audience()).unwrap();
        Box::pin(std::future::ready(Ok(metadata)))
    }

    fn min_security_level(&self) -> SecurityLevel {
        SecurityLevel::None
    }
}

// spec: A17/call-credentials
#[tokio::test(start_paused = true)]
async fn the_call_credentials_of_the_channel_go_with_the_question() {
    let (connector, mut listener) = pipe();
    let signatures: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = signatures.clone();
    tokio::spawn(async move {
        let stream = listener.accept().await.unwrap();
        let manner = Manner { health: mini::Health::Serves, ..Manner::default() };
        let _ = answer_all_in(manner, stream, |head| {
            let signature = head.headers["signature"].to_str().unwrap().to_owned();
            seen.lock().unwrap().push(signature);
        })
        .await;
    });
    let builder = plaintext("passthrough:server").connector(connector);
    let credentials = Credentials::insecure().with_call_credentials(Signed);
    let builder = builder.default_service_config(CHECKED).credentials(credentials);
    let channel = builder.build().unwrap();
    drop(builder);
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    let signatures = signatures.lock().unwrap().clone();
    let services = ["grpc.health.v1.Health", "helloworld.Greeter"];
    assert_eq!(signatures.len(), services.len());
    for (signature, service) in signatures.iter().zip(services) {
        assert!(signature.ends_with(&format!("/{service}")), "{signatures:?}");
    }
    end(channel).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_changes_its_mind_all_the_time_is_heard_ten_times_a_second() {
    let (connector, mut listener) = pipe();
    tokio::spawn(async move {
        let manner = Manner { health: mini::Health::Flickers, ..Manner::default() };
        while let Some(stream) = listener.accept().await {
            tokio::spawn(answer_all_in(manner, stream, |_| ()));
        }
    });
    let builder = plaintext("passthrough:server").connector(connector);
    let channel = builder.default_service_config(CHECKED).build().unwrap();
    let mut states = channel.watch_state();
    channel.connect();
    tokio::time::sleep(Duration::from_secs(5)).await;
    channel.close().await;
    let mut changes = 0;
    while states.next().await.is_some() {
        changes += 1;
    }
    // It says so twenty thousand times.
    assert!(changes <= 55, "{changes} in five seconds");
}
