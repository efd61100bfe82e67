//! One run: a channel in a simulated world, random operations, and the end of it all.

use std::time::Duration;

use switchboard::{
    ActorKind, Address, BackoffConfig, Channel, Credentials, Endpoint, Fault, KeepaliveConfig,
    Resolution, ResolveError,
};

use tokio::time::Instant;

use crate::attempts::{self, Allowed, Policy, Rules, Tokens};
use crate::calls::{Calls, End, Wanted};
use crate::chance::Chance;
use crate::checks;
use crate::faults::Faults;
use crate::network::{Network, Pace, Reach};
use crate::resolver::Names;
use crate::server::{Fleet, HEALTH_SERVICE, Health, Manner};
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
    pub(crate) faults: Faults,
    /// Since when no fault has kept back what servers send.
    pub(crate) reads_since: Instant,
    chance: Chance,
    /// The service config that was given last.
    config: Config,
    /// How many attempts any config allows that may be in force.
    allowed: Allowed,
    /// Whether configs of this run differ in their policies for attempts.
    policies_vary: bool,
    /// Whether configs of this run may have servers asked for their health.
    may_watch: bool,
    /// Whether connections are asked whether they live, even if nobody uses them.
    pub(crate) notices_silence: bool,
}

/// A service config, as far as the simulation goes by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Config {
    is_round_robin: bool,
    /// How many attempts a call may have; 1 means no policy.
    attempts: Allowed,
    hedging_delay: Duration,
    throttle: Option<Tokens>,
    /// Whether servers are asked for their health.
    is_watched: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let trace = Trace::begin();
        let mut chance = Chance::of(&[seed]);
        let network = Network::new(seed, trace.clone());
        let names = Names::new(seed, &trace);
        let policies_vary = chance.percent(20);
        let hedging_delay = Duration::from_millis(*chance.one_of(&[0, 20, 200, 2_000]));
        // Else it is not known which failures take tokens.
        let is_throttled = !policies_vary && chance.percent(80);
        let throttle = is_throttled.then(|| Tokens {
            max: *chance.one_of(&[1, 2, 5]),
            ratio: *chance.one_of(&[20, 100, 1_000]),
        });
        let calls = Calls::new(&trace, Rules::new(hedging_delay, throttle), !policies_vary);
        let mut fleet = Fleet::new(&network, &trace, seed);
        let may_watch = chance.percent(40);
        for host in HOSTS {
            fleet.start(host);
            fleet.set_manner(host, any_manner(&mut chance, may_watch));
            fleet.set_health(host, any_health(&mut chance));
            network.set_pace(host, any_pace(&mut chance));
        }
        let config = Config {
            is_round_robin: chance.percent(50),
            attempts: any_attempts(&mut chance),
            hedging_delay,
            throttle,
            is_watched: may_watch && chance.percent(70),
        };
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
            .idle_timeout(idle_timeout.map(Duration::from_millis))
            .keep_connected(chance.percent(20))
            .max_connections_per_subchannel(chance.between(1, 2) as usize)
            .allow_injection()
            .seed(seed);
        let keepalive = chance.percent(75).then(|| KeepaliveConfig {
            time: Duration::from_secs(10),
            timeout: Duration::from_secs(5),
            permit_without_stream: chance.percent(50),
        });
        let builder = match keepalive {
            Some(keepalive) => builder.keepalive(keepalive),
            None => builder,
        };
        let channel = builder.build().unwrap();
        trace.tell(format_args!("seed {seed}: {config:?}, idle after {idle_timeout:?} ms"));
        Self {
            trace,
            network,
            fleet,
            names,
            calls,
            channel,
            faults: Faults::default(),
            reads_since: Instant::now(),
            chance,
            config,
            allowed: config.attempts,
            policies_vary,
            may_watch,
            notices_silence: keepalive.is_some_and(|it| it.permit_without_stream),
        }
    }

    /// Does something that might happen.
    async fn act(&mut self) {
        let host = *self.chance.one_of(&HOSTS);
        match self.chance.below(100) {
            0..34 => {
                let many = *self.chance.one_of(&[1, 1, 2, 3, 8]);
                self.call(many);
            }
            34..42 => self.afflict().await,
            42..46 => {
                let pending = self.calls.pending();
                if !pending.is_empty() {
                    self.calls.drop_call(self.chance.one_of(&pending).0);
                }
            }
            46..56 => self.resolve(),
            56..60 => {
                let reach = *self.chance.one_of(&[
                    Reach::Cut,
                    Reach::Cut,
                    Reach::Deaf,
                    Reach::Mute,
                    Reach::Refusing,
                ]);
                self.trace.tell(format_args!("{host} is {reach:?}"));
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
                self.fleet.set_manner(host, any_manner(&mut self.chance, self.may_watch));
            }
            85..87 => {
                self.network.set_pace(host, any_pace(&mut self.chance));
            }
            87..92 => self.harm().await,
            92..94 if self.may_watch => {
                self.fleet.set_health(host, any_health(&mut self.chance));
            }
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

    fn call(&mut self, many: u32) {
        for _ in 0..many {
            let wanted = self.any_call();
            self.calls.begin(&self.channel, wanted, self.allowed);
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
            policy: match self.chance.below(10) {
                0..3 => Policy::None,
                3..6 if !is_stream => Policy::Hedged,
                _ => Policy::Retried,
            },
        }
    }

    /// Changes what the resolver finds.
    fn resolve(&mut self) {
        if self.chance.percent(20) {
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
            self.reconfigure();
            self.allow(self.config.attempts);
            told = format!("{told} and {:?}", self.config);
            found = found.with_service_config(self.config.json());
        }
        self.trace.tell(told);
        self.names.set(Ok(found));
    }

    /// Draws what may differ from config to config.
    fn reconfigure(&mut self) {
        if self.policies_vary {
            self.config.attempts = any_attempts(&mut self.chance);
        }
        self.config.is_watched = self.may_watch && self.chance.percent(70);
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
    fn allow(&mut self, attempts: Allowed) {
        self.allowed = self.allowed.or(attempts);
        self.calls.allow(self.allowed);
    }

    /// A fault is injected, or taken back.
    async fn afflict(&mut self) {
        if self.chance.percent(40) {
            return self.faults.remove_one(&mut self.chance, &self.trace);
        }
        let host = *self.chance.one_of(&HOSTS);
        let endpoints = self.any_hosts(1).iter().map(|host| endpoint(host)).collect();
        let Self { faults, channel, chance, trace, .. } = self;
        faults.inject(channel, host, endpoints, chance, trace).await;
    }

    /// An actor or its policy crashes, or it stalls.
    async fn harm(&mut self) {
        let actor = *self.chance.one_of(&[
            ActorKind::Supervisor,
            ActorKind::ClientConn,
            ActorKind::Resolver,
            ActorKind::Balancer,
            ActorKind::AddrConn,
        ]);
        let fault = match self.chance.below(10) {
            0 => {
                self.trace.tell("the policy panics");
                Fault::policy_panic()
            }
            1 => {
                self.trace.tell("backoff is skipped");
                Fault::backoff_skipped()
            }
            2..8 => {
                self.trace.tell(format_args!("{actor} crashes"));
                Fault::crash(actor)
            }
            _ => {
                let time = Duration::from_millis(self.chance.below(STALL_MILLIS_MAX));
                self.trace.tell(format_args!("{actor} stalls for {time:?}"));
                Fault::stall(actor, time)
            }
        };
        // There may be no such actor at the moment.
        let _ = self.channel.inject(fault).await;
    }

    /// Everything works again; then the channel must, too.
    async fn calm(&mut self) {
        let hosts = self.any_hosts(1);
        self.config.is_round_robin = self.chance.percent(50);
        self.reconfigure();
        self.allow(self.config.attempts);
        self.trace.tell(format_args!("calm: {hosts:?} and {:?}", self.config));
        self.faults.remove_all(&self.trace);
        let pace = Pace { delay: self.chance.below(20), jitter: self.chance.below(10) };
        let is_lost = self.chance.percent(50);
        let mut serving = hosts.clone();
        if self.goes_by_health() {
            serving.truncate(self.chance.between(1, hosts.len() as u64) as usize);
        }
        for host in HOSTS {
            self.network.set_pace(host, pace);
            self.network.set_reach(host, Reach::Open);
            self.fleet.start(host);
            let service_millis_max = self.chance.below(20);
            let manner = Manner { service_millis_max, ..Manner::default() };
            self.fleet.set_manner(host, manner);
            let is_sick = hosts.contains(&host) && !serving.contains(&host);
            let health = match self.chance.below(3) {
                _ if is_sick => Health::NOT_SERVING,
                0 => Health::Unimplemented,
                _ => Health::SERVING,
            };
            self.fleet.set_health(host, health);
            // Those that were cut off are lost in any case.
            if self.fleet.forget_declined(host) || is_lost {
                self.network.lose(host);
            }
        }
        let endpoints = hosts.iter().map(|host| endpoint(host));
        self.names.set(Ok(Resolution::new(endpoints).with_service_config(self.config.json())));
        // What a silent server has taken on may go on for ever.
        for (number, call) in self.calls.pending() {
            if call.wanted.timeout.is_none() && !call.only_waits() {
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
            self.sees_turns("round_robin", &serving).await;
            if self.goes_by_health() {
                self.sees_health(&hosts, serving).await;
            }
        } else {
            self.sees_first(hosts[0]).await;
        }
        // The config in force is known now.
        self.allowed = self.config.attempts;
    }

    /// The server that answers a call which waits for ready, if any does in good time.
    async fn call_patiently(&mut self) -> Option<String> {
        let wanted = Wanted {
            timeout: Some(Duration::from_secs(5)),
            wait_for_ready: true,
            ..Wanted::default()
        };
        let number = self.calls.begin(&self.channel, wanted, self.allowed);
        loop {
            match self.calls.get(number)?.end {
                Some((_, End::Answered(server))) => return Some(server),
                Some(_) => return None,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    /// Whether calls go by what servers say of themselves.
    fn goes_by_health(&self) -> bool {
        self.config.is_watched && self.config.is_round_robin
    }

    /// Servers that change their minds are followed.
    async fn sees_health(&mut self, hosts: &[&'static str], mut serving: Vec<&'static str>) {
        if let Some(recovered) = hosts.iter().find(|host| !serving.contains(host)) {
            self.fleet.set_health(recovered, Health::SERVING);
            serving.push(recovered);
            tokio::time::sleep(NEWS_MAX).await;
            self.sees_turns("health", &serving).await;
        }
        let of = |host: &&str| self.fleet.health(host) == Some(Health::SERVING);
        let failing = serving.iter().position(of).filter(|_| serving.len() > 1);
        if let Some(failing) = failing {
            self.fleet.set_health(serving.remove(failing), Health::NOT_SERVING);
            tokio::time::sleep(NEWS_MAX).await;
            self.sees_turns("health", &serving).await;
        }
    }

    /// While nothing happens, `round_robin` goes to each in turn, and to no other.
    async fn sees_turns(&mut self, checker: &str, hosts: &[&str]) {
        let mut answered = Vec::new();
        for _ in 0..2 * hosts.len() {
            let server = self.call_patiently().await.unwrap_or_default();
            answered.push(server.split('#').next().unwrap_or_default().to_owned());
        }
        if let Some(other) = answered.iter().find(|it| !hosts.contains(&it.as_str())) {
            let text = format_args!("{other:?} answers, which is none of {hosts:?}");
            return self.trace.violated(checker, text);
        }
        for (nth, turns) in answered.windows(hosts.len()).enumerate() {
            let mut turns: Vec<_> = turns.iter().collect();
            turns.sort();
            turns.dedup();
            if turns.len() < hosts.len() {
                let text = format_args!("not in turn from the {nth}th on: {answered:?}");
                return self.trace.violated(checker, text);
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

        // Close finds calls in all stages, after a calm too.
        for host in HOSTS {
            self.fleet.set_manner(host, any_manner(&mut self.chance, self.may_watch));
        }
        for _ in 0..4 {
            self.call(4);
            tokio::time::sleep(Duration::from_millis(self.chance.below(200))).await;
        }
        let grace = Duration::from_millis(self.chance.below(2_000));
        self.trace.tell(format_args!("close within {grace:?}"));
        let closed_at = Instant::now();
        self.calls.close();
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
        let mut methods = Vec::new();
        let Allowed { retried, hedged } = self.attempts;
        if retried > 1 {
            let [first, most] =
                [attempts::BACKOFF, attempts::BACKOFF_MAX].map(|it| it.as_secs_f64());
            methods.push(format!(
                r#"{{"name":[{{"service":"sim.Sim","method":"Retried"}},
                {{"service":"sim.Sim","method":"RetriedStream"}}],"retryPolicy":{{
                "maxAttempts":{retried},"initialBackoff":"{first}s","maxBackoff":"{most}s",
                "backoffMultiplier":2,"retryableStatusCodes":["UNAVAILABLE"]}}}}"#
            ));
        }
        if hedged > 1 {
            let delay = self.hedging_delay.as_secs_f64();
            methods.push(format!(
                r#"{{"name":[{{"service":"sim.Sim","method":"Hedged"}}],"hedgingPolicy":{{
                "maxAttempts":{hedged},"hedgingDelay":"{delay}s",
                "nonFatalStatusCodes":["UNAVAILABLE"]}}}}"#
            ));
        }
        let methods = methods.join(",");
        let throttle = self.throttle.map_or_else(String::new, |Tokens { max, ratio }| {
            let ratio = f64::from(ratio) / 1_000.0;
            format!(r#""retryThrottling":{{"maxTokens":{max},"tokenRatio":{ratio}}},"#)
        });
        let health = if self.is_watched {
            format!(r#""healthCheckConfig":{{"serviceName":"{HEALTH_SERVICE}"}},"#)
        } else {
            String::new()
        };
        format!(
            r#"{{"methodConfig":[{methods}],{throttle}{health}"loadBalancingConfig":[{{"{policy}":{{}}}}]}}"#
        )
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

fn any_attempts(chance: &mut Chance) -> Allowed {
    Allowed { retried: *chance.one_of(&ATTEMPTS), hedged: *chance.one_of(&ATTEMPTS) }
}

fn any_health(chance: &mut Chance) -> Health {
    *chance.one_of(&[
        Health::SERVING,
        Health::SERVING,
        Health::SERVING,
        Health::NOT_SERVING,
        Health::Says(0),
        Health::Says(3),
        Health::Unimplemented,
        Health::Ends(0),
        Health::Ends(14),
        Health::Silence,
    ])
}

/// A server that is asked for its health has room for more than that.
fn any_manner(chance: &mut Chance, is_watched: bool) -> Manner {
    let least = if is_watched { 2 } else { 1 };
    Manner {
        faults_percent: *chance.one_of(&[0, 30, 60]),
        service_millis_max: *chance.one_of(&[0, 20, 500, 3_000]),
        streams_max: *chance.one_of(&[None, None, Some(least), Some(3)]),
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

/// One attempt is no policy.
const ATTEMPTS: [u32; 6] = [1, 2, 3, 3, 4, 4];

/// No run is as long as this; one that is waits for something that does not come.
const RUN_MAX: Duration = Duration::from_secs(24 * 3_600);

/// How often in a hundred steps everything is made to work.
const CALM_PERCENT: u64 = 2;

/// Longer than any wait of the channel, and than any deadline.
const CALM: Duration = Duration::from_secs(12);

/// Shorter than the shortest idle timeout.
const CALM_PAUSE: Duration = Duration::from_secs(2);

/// Longer than it takes until a server's news is known, at calm.
const NEWS_MAX: Duration = Duration::from_millis(500);

const DEADLINE_MILLIS_MAX: u64 = 8_000;

const STALL_MILLIS_MAX: u64 = 3_000;

const BACKOFF_MAX: Duration = Duration::from_secs(2);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long `close` may take beyond its grace.
const CLOSE_MAX: Duration = Duration::from_secs(5);
