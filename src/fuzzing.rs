//! What `fuzz` drives and nobody else can name: the tree of load-balancing policies and the
//! machines. Nothing is decided here, and everything may change at any time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::observe::PolicyReport;
use crate::policy::backoff::Backoff;
use crate::policy::connection::{self, Timing};
use crate::policy::lb::graceful_switch::GracefulSwitch;
use crate::policy::lb::{LbContext, LbEffect, LbRegistry, Picker, SubchannelState, Subchannels};
use crate::policy::resolution::{self, Pace};
use crate::policy::scaling::{self, Goal, View};
use crate::policy::service_config::{Client, ServiceConfig, ServiceConfigError};
use crate::policy::{idle, token};
use crate::types::Dice;
use crate::types::{Address, ConnectivityState, Endpoint, Refresh, Status, SubchannelId};

/// Whether one of the service configs in DNS that are in `choices` is meant for a client that draws
/// this.
pub fn has_service_config(choices: &[u8], draw: usize) -> Result<bool, ServiceConfigError> {
    let client = Client { hostname: Some("localhost"), draw };
    Ok(ServiceConfig::choose(choices, client, &LbRegistry::default())?.is_some())
}

/// The tree of policies of one channel.
pub struct Policies {
    tree: GracefulSwitch,
    registry: LbRegistry,
    dice: Dice,
    factory: Factory,
}

/// What the tree wants done; what it has made comes first.
pub enum Action {
    Create(SubchannelId),
    Connect(SubchannelId),
    Retire(SubchannelId),
    Publish(ConnectivityState, Arc<dyn Picker>),
    ResolveNow,
    RejectUpdate(String),
}

#[derive(Default)]
struct Factory {
    made: u32,
    new: Vec<SubchannelId>,
}

impl Subchannels for Factory {
    fn create(&mut self, _: &Address) -> SubchannelId {
        let id = SubchannelId::new(self.made, self.made);
        self.made += 1;
        self.new.push(id);
        id
    }
}

impl Policies {
    pub fn new(seed: u64) -> Self {
        Self {
            tree: GracefulSwitch::new(),
            registry: LbRegistry::default(),
            dice: Dice::new(seed),
            factory: Factory::default(),
        }
    }

    pub fn update(
        &mut self,
        now: Instant,
        config: &str,
        endpoints: Vec<Endpoint>,
    ) -> Result<Vec<Action>, ServiceConfigError> {
        let config = ServiceConfig::parse(config, &self.registry)?;
        Ok(self.act(now, |tree, cx| tree.update(config.lb(), endpoints.into(), cx)))
    }

    pub fn resolver_failed(&mut self, now: Instant, status: Status) -> Vec<Action> {
        self.act(now, |tree, cx| tree.resolver_failed(status, cx))
    }

    pub fn subchannel_changed(
        &mut self,
        now: Instant,
        id: SubchannelId,
        state: SubchannelState,
    ) -> Vec<Action> {
        self.act(now, |tree, cx| tree.subchannel_changed(id, state, cx))
    }

    pub fn exit_idle(&mut self, now: Instant) -> Vec<Action> {
        self.act(now, GracefulSwitch::exit_idle)
    }

    pub fn wake(&mut self, now: Instant) -> Vec<Action> {
        self.act(now, GracefulSwitch::wake)
    }

    pub fn flush(&mut self, now: Instant) -> Vec<Action> {
        self.act(now, GracefulSwitch::flush)
    }

    pub fn wake_at(&self) -> Option<Instant> {
        self.tree.wake_at()
    }

    pub fn inspect(&self) -> PolicyReport {
        self.tree.inspect()
    }

    fn act(
        &mut self,
        now: Instant,
        act: impl FnOnce(&mut GracefulSwitch, &mut LbContext<'_>),
    ) -> Vec<Action> {
        let mut cx = LbContext::new(now, &mut self.dice, &mut self.factory);
        act(&mut self.tree, &mut cx);
        let effects = cx.take_effects();
        let made = self.factory.new.drain(..).map(Action::Create);
        let wanted = effects.into_iter().filter_map(|effect| match effect {
            LbEffect::Connect(id) => Some(Action::Connect(id)),
            LbEffect::WatchHealth(_) => None,
            LbEffect::Retire(id) => Some(Action::Retire(id)),
            LbEffect::Publish { connectivity, picker } => {
                Some(Action::Publish(connectivity, picker))
            }
            LbEffect::ResolveNow => Some(Action::ResolveNow),
            LbEffect::RejectUpdate(reason) => Some(Action::RejectUpdate(reason)),
        });
        made.chain(wanted).collect()
    }
}

/// One of each machine, and the chance that they share.
pub struct Machines {
    backoff: Backoff,
    dice: Dice,
    resolution: resolution::State,
    idle: idle::State,
    scaling: scaling::State,
    token: token::State<()>,
}

/// The machine of one subchannel.
#[derive(Clone, Debug, Default)]
pub struct Connection(connection::State);

/// What the machine of a connection wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Did {
    Dial(Instant),
    AbandonDial,
    Report(ConnectivityState),
    ResolveNow,
    Drain,
}

impl Connection {
    /// What can happen: Connect, Dialed, `DialFailed`, Lost, Wake, `ResetBackoff`, Retire, two more
    /// kinds of Lost, Answered.
    pub fn step(&mut self, now: Instant, event: usize, machines: &mut Machines) -> Vec<Did> {
        use connection::{Event, Growth, Loss, Proof};
        let lost = |proof| {
            let cause = Status::unavailable("gone");
            Event::Lost(Loss { proof, cause, growth: Growth::None })
        };
        let events = [
            Event::Connect,
            Event::Dialed,
            Event::DialFailed(Status::unavailable("refused")),
            lost(Proof::None),
            Event::Wake,
            Event::ResetBackoff,
            Event::Retire,
            lost(Proof::Expected),
            lost(Proof::Answered),
            Event::Answered,
        ];
        let mut fx = Vec::new();
        let mut timing = Timing {
            backoff: &machines.backoff,
            min_connect_timeout: CONNECT_TIMEOUT,
            dice: &mut machines.dice,
        };
        let event = events[event % events.len()].clone();
        self.0 = std::mem::take(&mut self.0).step(now, event, &mut timing, &mut fx);
        let did = fx.into_iter().map(|effect| match effect {
            connection::Effect::Dial { deadline } => Did::Dial(deadline),
            connection::Effect::AbandonDial => Did::AbandonDial,
            connection::Effect::Report(connectivity) => Did::Report(connectivity),
            connection::Effect::ResolveNow => Did::ResolveNow,
            connection::Effect::Drain => Did::Drain,
        });
        did.collect()
    }

    pub fn wake_at(&self) -> Option<Instant> {
        self.0.wake_at()
    }

    pub fn connectivity(&self) -> ConnectivityState {
        self.0.connectivity()
    }
}

impl Machines {
    pub fn new(seed: u64) -> Self {
        Self {
            backoff: Backoff::new([1, 2, 4].map(Duration::from_secs), 0.2),
            dice: Dice::new(seed),
            resolution: resolution::State::default(),
            idle: idle::State::default(),
            scaling: scaling::State::default(),
            token: token::State::default(),
        }
    }

    /// Start, Resolved, Failed, Accepted, Rejected, `ResolveNow`, Changed, Wake, `ResetBackoff`,
    /// Stop; gives the names of the effects.
    pub fn resolution(&mut self, now: Instant, event: usize) -> Vec<String> {
        use resolution::Event;
        let events = [
            Event::Start,
            Event::Resolved,
            Event::Failed,
            Event::Accepted,
            Event::Rejected,
            Event::ResolveNow,
            Event::Changed,
            Event::Wake,
            Event::ResetBackoff,
            Event::Stop,
        ];
        let mut fx = Vec::new();
        let mut pace = Pace {
            backoff: &self.backoff,
            lookup_timeout: CONNECT_TIMEOUT,
            refresh: Refresh::AtMostEvery(Duration::from_secs(30)),
            expiry: Some(Duration::from_secs(60)),
            dice: &mut self.dice,
        };
        let event = events[event % events.len()];
        self.resolution = self.resolution.step(now, event, &mut pace, &mut fx);
        fx.iter().map(|effect| format!("{effect:?}")).collect()
    }

    pub fn resolution_wake_at(&self) -> Option<Instant> {
        self.resolution.wake_at()
    }

    /// Woken, or Wake where there is a usage: open calls, and when the last ended. Whether to go
    /// idle.
    pub fn idle(
        &mut self,
        now: Instant,
        usage: Option<(usize, Option<Instant>)>,
        timeout: Duration,
    ) -> bool {
        let event = match usage {
            None => idle::Event::Woken,
            Some((calls, last_end)) => idle::Event::Wake(idle::Usage { calls, last_end }),
        };
        let (state, goes) = self.idle.step(now, event, Some(timeout));
        self.idle = state;
        goes.is_some()
    }

    pub fn idle_wake_at(&self) -> Option<Instant> {
        self.idle.wake_at()
    }

    /// Looked, Dialed, Failed, Wake, `ResetBackoff`, with so many connections and waiting calls;
    /// whether to dial.
    pub fn scaling(
        &mut self,
        now: Instant,
        event: usize,
        (open, waiting): (usize, usize),
        (warm, max): (usize, usize),
    ) -> bool {
        use scaling::Event;
        let failed = Event::Failed(Status::unavailable("refused"));
        let events = [Event::Looked, Event::Dialed, failed, Event::Wake, Event::ResetBackoff];
        let mut timing = Timing {
            backoff: &self.backoff,
            min_connect_timeout: CONNECT_TIMEOUT,
            dice: &mut self.dice,
        };
        let (view, goal) = (View { open, waiting }, Goal { warm, max });
        let event = events[event % events.len()].clone();
        let state = std::mem::take(&mut self.scaling);
        let (state, dial) = state.step(now, event, view, goal, &mut timing);
        self.scaling = state;
        dial.is_some()
    }

    pub fn scaling_wake_at(&self) -> Option<Instant> {
        self.scaling.wake_at()
    }

    /// Asked, or Fetched where there is an outcome: when the token expires, or a failure. Whether
    /// to fetch.
    pub fn token(
        &mut self,
        now: Instant,
        fetched: Option<Result<Option<Instant>, Status>>,
    ) -> bool {
        let event = match fetched {
            None => token::Event::Asked,
            Some(outcome) => token::Event::Fetched(outcome.map(|expires_at| ((), expires_at))),
        };
        let (backoff, dice) = (&self.backoff, &mut self.dice);
        let state = std::mem::take(&mut self.token);
        let (state, fetch) = state.step(now, event, |failure| backoff.delay(failure, dice));
        self.token = state;
        fetch.is_some()
    }

    /// Whether a call that asks now sends, waits or fails.
    pub fn token_answer(&self, now: Instant) -> &'static str {
        match self.token.answer(now) {
            token::Answer::Send(()) => "send",
            token::Answer::Wait => "wait",
            token::Answer::Fail(_) => "fail",
        }
    }
}

/// As the builder has it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
