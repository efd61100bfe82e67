//! One run: a channel in a simulated world, random operations, and the end of it all.

use std::time::Duration;

use switchboard::{
    ActorKind, Address, BackoffConfig, Channel, Credentials, Endpoint, Fault, KeepaliveConfig,
    Resolution, ResolveError,
};

use tokio::time::Instant;

use crate::calls::{Calls, End, Wanted};
use crate::chance::Chance;
use crate::checks;
use crate::network::{Network, Pace, Reach};
use crate::resolver::Names;
use crate::server::{Fleet, Manner};
use crate::trace::Trace;

/// What a run came to.
pub(crate) struct Outcome {
    pub(crate) trace: String,
    pub(crate) violations: Vec<String>,
}

/// Everything there is.
pub(crate) struct World {
    pub(crate) trace: Trace,
    pub(crate) network: Network,
    pub(crate) fleet: Fleet,
    pub(crate) names: Names,
    pub(crate) calls: Calls,
    pub(crate) channel: Channel,
    chance: Chance,
    /// The service config that was given last.
    config: Config,
    /// How many attempts any config allows that may be in force.
    attempts_max: u32,
    /// Whether configs of this run differ in their retry policies.
    retries_vary: bool,
}

/// A service config, as far as the simulation goes by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Config {
    is_round_robin: bool,
    /// How many attempts a call may have whose method may be retried; 1 means no policy.
    attempts: u32,
}

impl World {
    fn new(seed: u64) -> Self {
        let trace = Trace::begin();
        let mut chance = Chance::of(&[seed]);
        let network = Network::new(seed, trace.clone());
        let names = Names::new(seed, &trace);
        let calls = Calls::new(&trace);
        let mut fleet = Fleet::new(&network, &trace, seed);
        for host in HOSTS {
            fleet.start(host);
            fleet.set_manner(host, any_manner(&mut chance));
            network.set_pace(host, any_pace(&mut chance));
        }
        let config =
            Config { is_round_robin: chance.percent(50), attempts: *chance.one_of(&[1, 2, 3, 4]) };
        let idle_timeout = *chance.one_of(&[None, Some(3_000), Some(8_000), Some(20_000)]);
        let builder = Channel::builder("sim:///service")
            .credentials(Credentials::insecure())
            .no_proxy()
            .resolver("sim", names.clone())
            .connector(network.clone())
            .observer(calls.clone())
            .default_service_config(config.json())
            .backoff(BackoffConfig {
                base_delay: Duration::from_millis(100),
                multiplier: 1.6,
                jitter: 0.2,
                max_delay: BACKOFF_MAX,
            })
            .min_connect_timeout(CONNECT_TIMEOUT)
            .keepalive(KeepaliveConfig {
                time: Duration::from_secs(10),
                timeout: Duration::from_secs(5),
                permit_without_stream: chance.percent(50),
            })
            .idle_timeout(idle_timeout.map(Duration::from_millis))
            .keep_connected(chance.percent(20))
            .max_connections_per_subchannel(chance.between(1, 2) as usize)
            .allow_injection()
            .seed(seed);
        let channel = builder.build().unwrap();
        trace.tell(format_args!("seed {seed}: {config:?}, idle after {idle_timeout:?} ms"));
        let retries_vary = chance.percent(30);
        let attempts_max = config.attempts;
        Self {
            trace,
            network,
            fleet,
            names,
            calls,
            channel,
            chance,
            config,
            attempts_max,
            retries_vary,
        }
    }

    /// Does something that might happen.
    async fn act(&mut self) {
        let host = *self.chance.one_of(&HOSTS);
        match self.chance.below(100) {
            0..42 => {
                for _ in 0..*self.chance.one_of(&[1, 1, 1, 2, 5]) {
                    let wanted = self.any_call();
                    self.calls.begin(&self.channel, wanted, self.attempts_max);
                }
            }
            42..46 => {
                let pending = self.calls.pending();
                if !pending.is_empty() {
                    self.calls.drop_call(self.chance.one_of(&pending).0);
                }
            }
            46..56 => self.resolve(),
            56..60 => {
                let reach = *self.chance.one_of(&[Reach::Cut, Reach::Cut, Reach::Refusing]);
                self.trace.tell(match reach {
                    Reach::Cut => format!("{host} is cut off"),
                    _ => format!("{host} refuses connections"),
                });
                self.network.set_reach(host, reach);
            }
            60..66 => {
                self.trace.tell(format_args!("{host} can be reached"));
                self.network.set_reach(host, Reach::Open);
            }
            66..69 => {
                self.trace.tell(format_args!("connections to {host} are lost"));
                self.network.lose(host);
            }
            69..72 => self.fleet.crash(host),
            72..78 => self.fleet.start(host),
            78..81 => {
                let abrupt = self.chance.percent(50);
                self.trace.tell(format_args!("{host} goes away, abruptly: {abrupt}"));
                self.fleet.go_away(host, abrupt);
            }
            81..85 => {
                self.fleet.set_manner(host, any_manner(&mut self.chance));
            }
            85..87 => {
                self.network.set_pace(host, any_pace(&mut self.chance));
            }
            87..92 => self.harm().await,
            92..94 => {
                self.trace.tell("connect");
                self.channel.connect();
            }
            94..96 => {
                self.trace.tell("reset_connect_backoff");
                self.channel.reset_connect_backoff();
            }
            _ => {
                let millis = self.chance.below(30_000);
                self.trace.tell(format_args!("nothing for {millis} ms"));
                tokio::time::sleep(Duration::from_millis(millis)).await;
            }
        }
    }

    fn any_call(&mut self) -> Wanted {
        let is_stream = self.chance.percent(30);
        Wanted {
            stream_messages: is_stream.then(|| self.chance.below(4)),
            timeout: self.chance.percent(70).then(|| {
                let most = *self.chance.one_of(&[50, 1_000, DEADLINE_MILLIS_MAX]);
                Duration::from_millis(self.chance.between(1, most))
            }),
            wait_for_ready: self.chance.percent(50),
            is_retried: self.chance.percent(60),
        }
    }

    /// Changes what the resolver finds.
    fn resolve(&mut self) {
        if self.chance.percent(15) {
            self.trace.tell("the resolver fails from now on");
            return self.names.set(Err(ResolveError::new("no such name")));
        }
        let hosts = self.any_hosts(0);
        let mut found = Resolution::new(hosts.iter().map(|host| endpoint(host)));
        let mut told = format!("the resolver finds {hosts:?} from now on");
        if self.chance.percent(10) {
            told += " and a config that is none";
            found = found.with_service_config(r#"{"loadBalancingConfig":[{"unheard_of":{}}]}"#);
        } else if self.chance.percent(50) {
            self.config.is_round_robin = self.chance.percent(50);
            if self.retries_vary {
                self.config.attempts = *self.chance.one_of(&[1, 2, 3, 4]);
            }
            self.allow(self.config.attempts);
            told = format!("{told} and {:?}", self.config);
            found = found.with_service_config(self.config.json());
        }
        self.trace.tell(told);
        self.names.set(Ok(found));
    }

    /// Some of the hosts in any order, and at least so many.
    fn any_hosts(&mut self, least: u64) -> Vec<&'static str> {
        let mut hosts = HOSTS;
        self.chance.shuffle(&mut hosts);
        let least = if self.chance.percent(5) { least } else { least.max(1) };
        let many = self.chance.between(least, HOSTS.len() as u64) as usize;
        hosts[..many].to_vec()
    }

    /// A config may be in force from now on that allows so many attempts.
    fn allow(&mut self, attempts: u32) {
        self.attempts_max = self.attempts_max.max(attempts);
        self.calls.allow(self.attempts_max);
    }

    /// An actor crashes, or stalls.
    async fn harm(&mut self) {
        let actor = *self.chance.one_of(&[
            ActorKind::Supervisor,
            ActorKind::ClientConn,
            ActorKind::Resolver,
            ActorKind::Balancer,
            ActorKind::AddrConn,
        ]);
        let fault = if self.chance.percent(70) {
            self.trace.tell(format_args!("{actor} crashes"));
            Fault::crash(actor)
        } else {
            let millis = self.chance.below(STALL_MILLIS_MAX);
            let time = Duration::from_millis(millis);
            self.trace.tell(format_args!("{actor} stalls for {time:?}"));
            Fault::stall(actor, time)
        };
        // There may be no such actor at the moment.
        let _ = self.channel.inject(fault).await;
    }

    /// Everything works again; then the channel must, too.
    async fn calm(&mut self) {
        let hosts = self.any_hosts(1);
        self.config.is_round_robin = self.chance.percent(50);
        if self.retries_vary {
            self.config.attempts = *self.chance.one_of(&[1, 2, 3, 4]);
        }
        self.allow(self.config.attempts);
        self.trace.tell(format_args!("calm: {hosts:?} and {:?}", self.config));
        let pace = Pace { delay: self.chance.below(20), jitter: self.chance.below(10) };
        let is_lost = self.chance.percent(50);
        for host in HOSTS {
            self.network.set_pace(host, pace);
            self.network.set_reach(host, Reach::Open);
            self.fleet.start(host);
            let service_millis_max = self.chance.below(20);
            let manner = Manner { service_millis_max, ..Manner::default() };
            self.fleet.set_manner(host, manner);
            // Those that were cut off are lost in any case.
            if is_lost {
                self.network.lose(host);
            }
        }
        let endpoints = hosts.iter().map(|host| endpoint(host));
        self.names.set(Ok(Resolution::new(endpoints).with_service_config(self.config.json())));
        // What a silent server has taken on may go on for ever.
        for (number, call) in self.calls.pending() {
            if call.wanted.timeout.is_none() && !call.waits_for_pick() {
                self.calls.drop_call(number);
            }
        }
        let earlier = self.calls.all().len() as u64;
        let calm_at = Instant::now() + CALM;
        while Instant::now() < calm_at {
            // The channel is not to go idle.
            self.call_patiently().await;
            tokio::time::sleep(CALM_PAUSE).await;
            checks::step(self).await;
        }
        for (number, call) in self.calls.pending() {
            if number < earlier {
                let text = format_args!("call {number} goes on for {CALM:?} of calm: {call}");
                self.trace.violated("calm", text);
            }
        }
        if self.call_patiently().await.is_none() {
            self.trace.violated("calm", "a call that waits for ready is not answered");
            return;
        }
        checks::rest(self, &hosts).await;
        if self.config.is_round_robin {
            self.sees_turns(&hosts).await;
        } else {
            self.sees_first(hosts[0]).await;
        }
        // The config in force is known now.
        self.attempts_max = self.config.attempts;
    }

    /// The server that answers a call which waits for ready, if any does in good time.
    async fn call_patiently(&mut self) -> Option<String> {
        let wanted = Wanted {
            timeout: Some(Duration::from_secs(5)),
            wait_for_ready: true,
            ..Wanted::default()
        };
        let number = self.calls.begin(&self.channel, wanted, 1);
        loop {
            match self.calls.get(number)?.end {
                Some((_, End::Answered(server))) => return Some(server),
                Some(_) => return None,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    /// While nothing happens, `round_robin` goes to each in turn.
    async fn sees_turns(&mut self, hosts: &[&str]) {
        let mut answered = Vec::new();
        for _ in 0..2 * hosts.len() {
            answered.push(self.call_patiently().await.unwrap_or_default());
        }
        for (nth, turns) in answered.windows(hosts.len()).enumerate() {
            let mut turns: Vec<_> = turns.iter().collect();
            turns.sort();
            turns.dedup();
            if turns.len() < hosts.len() {
                let text = format_args!("not in turn from the {nth}th on: {answered:?}");
                return self.trace.violated("round_robin", text);
            }
        }
    }

    /// After the connection is lost, `pick_first` goes to the first, and stays.
    async fn sees_first(&mut self, first: &str) {
        for host in HOSTS {
            self.network.lose(host);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        for nth in 0..4 {
            let server = self.call_patiently().await.unwrap_or_default();
            if server.split('#').next() != Some(first) {
                let text = format_args!("the {nth}th goes to {server}, not to {first}");
                return self.trace.violated("pick_first", text);
            }
        }
    }

    /// The last handle of the channel is dropped, and calls go on to their ends.
    async fn abandon(self) {
        let Self { trace, network, mut fleet, names, calls, channel, .. } = self;
        for (number, call) in calls.pending() {
            if call.wanted.timeout.is_none() {
                calls.drop_call(number);
            }
        }
        trace.tell("the channel is dropped");
        drop(channel);
        tokio::time::sleep(Duration::from_millis(DEADLINE_MILLIS_MAX) + CLOSE_MAX).await;
        trace.tell("what is left is to be nothing");
        checks::nothing_left(&mut fleet, &network, &names, &trace).await;
        checks::judge_all(&fleet, &calls, &trace, None);
    }

    /// The channel ends; nothing is left.
    async fn end(mut self) {
        if self.chance.percent(25) {
            return self.abandon().await;
        }

        let grace = Duration::from_millis(self.chance.below(2_000));
        self.trace.tell(format_args!("close within {grace:?}"));
        let closed_at = Instant::now();
        let closing = self.channel.close_within(grace);
        if tokio::time::timeout(grace + CLOSE_MAX, closing).await.is_err() {
            self.trace.violated("close", "it does not return");
        }
        self.trace.tell("closed");
        checks::closed(&mut self, closed_at).await;
    }
}

impl Config {
    fn json(self) -> String {
        let policy = if self.is_round_robin { "round_robin" } else { "pick_first" };
        let retries = if self.attempts < 2 {
            String::new()
        } else {
            format!(
                r#""methodConfig":[{{"name":[{{"service":"sim.Sim","method":"Retried"}},
                {{"service":"sim.Sim","method":"RetriedStream"}}],"retryPolicy":{{"maxAttempts":{},
                "initialBackoff":"0.05s","maxBackoff":"0.4s","backoffMultiplier":2,
                "retryableStatusCodes":["UNAVAILABLE"]}}}}],"#,
                self.attempts
            )
        };
        format!(r#"{{{retries}"loadBalancingConfig":[{{"{policy}":{{}}}}]}}"#)
    }
}

/// Runs `steps` random operations that follow from `seed`, and checks.
pub(crate) async fn run(seed: u64, steps: u64) -> Outcome {
    let mut world = World::new(seed);
    let trace = world.trace.clone();
    let edges = checks::watch_edges(&world);
    let all = async move {
        world.resolve();
        for step in 0..steps {
            if !world.trace.is_clean() {
                break;
            }
            world.trace.tell(format_args!("step {step}"));
            if world.chance.percent(CALM_PERCENT) {
                world.calm().await;
            } else {
                world.act().await;
            }
            let most = *world.chance.one_of(&[0, 5, 100, 1_000]);
            tokio::time::sleep(Duration::from_millis(world.chance.below(most + 1))).await;
            checks::step(&mut world).await;
        }
        if world.trace.is_clean() && world.chance.percent(50) {
            world.calm().await;
        }
        world.end().await;
    };
    if tokio::time::timeout(RUN_MAX, all).await.is_err() {
        trace.violated("run", "it comes to no end");
    }
    edges.abort();
    let (trace, violations) = trace.end();
    Outcome { trace, violations }
}

fn any_manner(chance: &mut Chance) -> Manner {
    Manner {
        faults_percent: *chance.one_of(&[0, 20, 50]),
        service_millis_max: *chance.one_of(&[0, 20, 500, 3_000]),
        streams_max: *chance.one_of(&[None, None, Some(1), Some(3)]),
    }
}

fn any_pace(chance: &mut Chance) -> Pace {
    let most = *chance.one_of(&[2, 30, 300]);
    Pace { delay: chance.below(most), jitter: chance.below(most) }
}

fn endpoint(host: &str) -> Endpoint {
    Address::Name(host.into()).into()
}

pub(crate) const HOSTS: [&str; 5] = ["a:1", "b:1", "c:1", "d:1", "e:1"];

/// No run is as long as this; one that is waits for something that does not come.
const RUN_MAX: Duration = Duration::from_secs(24 * 3_600);

/// How often in a hundred steps everything is made to work.
const CALM_PERCENT: u64 = 2;

/// Longer than any wait of the channel, and than any deadline.
const CALM: Duration = Duration::from_secs(12);

/// Shorter than the shortest idle timeout.
const CALM_PAUSE: Duration = Duration::from_secs(2);

const DEADLINE_MILLIS_MAX: u64 = 8_000;

const STALL_MILLIS_MAX: u64 = 3_000;

const BACKOFF_MAX: Duration = Duration::from_secs(2);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long `close` may take beyond its grace.
const CLOSE_MAX: Duration = Duration::from_secs(5);
