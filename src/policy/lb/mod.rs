//! Load-balancing policies: which subchannels there are, and which of them a call goes to.
//!
//! A policy is a machine: it is told events, answers with effects through its [`LbContext`], and
//! never does I/O, reads a clock or draws from global randomness. Policies form a tree; a parent
//! runs its children and publishes one picker for all of them.

pub(crate) mod endpoint_shards;
mod foreign;
pub(crate) mod graceful_switch;
pub(crate) mod pick_first;
mod picker;
mod registry;
pub(crate) mod round_robin;
#[cfg(test)]
pub(crate) mod testing;

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use crate::observe::PolicyReport;
use crate::types::Dice;
use crate::types::{Address, ConnectivityState, Endpoint, Foreign, Status, SubchannelId};

pub use endpoint_shards::{EndpointShards, ReadyEndpoint, Spread};
pub(crate) use picker::{DropPicker, FailPicker, queue};
pub use picker::{Pick, PickArgs, PickResult, Picker};
pub use registry::LbPolicyBuilder;
pub(crate) use registry::LbRegistry;

/// A load-balancing policy.
///
/// One task at a time runs it, in the order of events. What it wants done it says to the context;
/// the channel does it after `handle` has returned.
pub trait LbPolicy: Send + 'static {
    /// Reacts to `event`.
    fn handle(&mut self, event: LbEvent, cx: &mut LbContext<'_>);

    /// When it next wants an [`LbEvent::Wake`]; asked after each event.
    fn wake_at(&self) -> Option<Instant> {
        None
    }

    /// What it would tell about itself: its name, state and children.
    fn inspect(&self) -> PolicyReport;
}

/// What a policy is told.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum LbEvent {
    /// There is a new list of endpoints, or a new config. Always the whole of it.
    Update(LbUpdate),
    /// Resolution failed. Where there are endpoints already, go on with them.
    ResolverFailed(Status),
    /// A subchannel of this policy is in a new state. A subchannel that was taken over from an
    /// earlier life of the policy may be in any state from the start.
    SubchannelChanged {
        /// Which.
        id: SubchannelId,
        /// How it stands now.
        state: SubchannelState,
    },
    /// The server of a subchannel says otherwise than before whether it serves (A17). Only of
    /// subchannels that the policy has asked for by [`LbContext::watch_health`].
    ///
    /// It stands beside the connectivity, which stays as it is: calls go to a subchannel whose
    /// connectivity and health are both READY. As long as nothing is said of it, it is healthy.
    /// Where servers are asked, this event says CONNECTING before [`LbEvent::SubchannelChanged`]
    /// says READY, so that no call goes to a server that has not answered.
    HealthChanged {
        /// Which.
        id: SubchannelId,
        /// READY: it serves, or is not asked. CONNECTING: it has not answered yet.
        /// `TRANSIENT_FAILURE`: it does not serve, for this reason.
        state: SubchannelState,
    },
    /// Somebody wants to use the channel: connect if idle.
    ExitIdle,
    /// The time that `wake_at` asked for has come.
    Wake,
    /// No further event is waiting: publish what was put off while there were.
    Flush,
}

/// The endpoints and the config for a policy.
#[derive(Clone, Debug)]
pub struct LbUpdate {
    /// Every endpoint there is.
    pub endpoints: Arc<[Endpoint]>,
    /// The policy's own config.
    pub config: LbPolicyConfig,
}

/// How a subchannel stands.
#[derive(Clone, Debug)]
pub struct SubchannelState {
    /// Its connectivity.
    pub connectivity: ConnectivityState,
    /// Why it is in `TRANSIENT_FAILURE`.
    pub error: Option<Status>,
}

/// Through which a policy acts.
pub struct LbContext<'a> {
    now: Instant,
    dice: &'a mut Dice,
    subchannels: &'a mut dyn Subchannels,
    effects: Vec<LbEffect>,
}

impl<'a> LbContext<'a> {
    pub(crate) fn new(
        now: Instant,
        dice: &'a mut Dice,
        subchannels: &'a mut dyn Subchannels,
    ) -> Self {
        Self { now, dice, subchannels, effects: Vec::new() }
    }

    /// The time of this event.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// A random number below `bound`; 0 if that is 0. Reproducible by the builder's seed.
    pub fn random_below(&mut self, bound: usize) -> usize {
        self.dice.below(bound)
    }

    /// Makes a subchannel to `address`. It starts IDLE and connects when told to.
    pub fn create_subchannel(&mut self, address: &Address) -> SubchannelId {
        self.subchannels.create(address)
    }

    /// Tells an IDLE subchannel to connect; in any other state nothing happens.
    pub fn connect(&mut self, id: SubchannelId) {
        self.effects.push(LbEffect::Connect(id));
    }

    /// Has the server of a subchannel asked whether it serves, where the service config says so
    /// (`healthCheckConfig`, A17): [`LbEvent::HealthChanged`] tells what it says. Right after the
    /// subchannel is made; once is enough, for all of its connections. A policy that does not ask,
    /// which is what `pick_first` does, is told of connections alone.
    pub fn watch_health(&mut self, id: SubchannelId) {
        self.effects.push(LbEffect::WatchHealth(id));
    }

    /// Gives a subchannel up. Calls on it go on to their ends; no further event tells of it.
    pub fn retire(&mut self, id: SubchannelId) {
        self.effects.push(LbEffect::Retire(id));
    }

    /// Says how the policy stands and how calls are to pick from now on.
    pub fn publish(&mut self, connectivity: ConnectivityState, picker: Arc<dyn Picker>) {
        self.effects.push(LbEffect::Publish { connectivity, picker });
    }

    /// Asks for a new resolution.
    pub fn resolve_now(&mut self) {
        self.effects.push(LbEffect::ResolveNow);
    }

    /// Refuses the update that is being handled: the resolver backs off and tries again.
    pub fn reject_update(&mut self, reason: impl Into<String>) {
        let mut reason = reason.into();
        if reason.trim().is_empty() {
            "the load-balancing policy gave no reason".clone_into(&mut reason);
        }
        self.effects.push(LbEffect::RejectUpdate(reason));
    }

    /// Takes what was asked for so far; for a parent that runs a child.
    pub(crate) fn take_effects(&mut self) -> Vec<LbEffect> {
        std::mem::take(&mut self.effects)
    }

    /// Runs a child: `run` gets a context of its own, and what was asked for through that comes
    /// back instead of being done.
    pub(crate) fn run_child(&mut self, run: impl FnOnce(&mut LbContext<'_>)) -> ChildRun {
        let mut recorder = Recorder { subchannels: self.subchannels, created: Vec::new() };
        let mut cx = LbContext::new(self.now, self.dice, &mut recorder);
        run(&mut cx);
        ChildRun { effects: cx.take_effects(), created: recorder.created }
    }

    pub(crate) fn push(&mut self, effect: LbEffect) {
        self.effects.push(effect);
    }
}

/// What came of running a child.
pub(crate) struct ChildRun {
    /// The subchannels that it has made.
    pub(crate) created: Vec<SubchannelId>,
    /// What it asks for.
    pub(crate) effects: Vec<LbEffect>,
}

struct Recorder<'a> {
    subchannels: &'a mut dyn Subchannels,
    created: Vec<SubchannelId>,
}

impl Subchannels for Recorder<'_> {
    fn create(&mut self, address: &Address) -> SubchannelId {
        let id = self.subchannels.create(address);
        self.created.push(id);
        id
    }
}

/// Where subchannels come from.
pub(crate) trait Subchannels {
    /// Makes one, or hands over a live one to the same address that has no owner.
    fn create(&mut self, address: &Address) -> SubchannelId;
}

/// What a policy asks for.
pub(crate) enum LbEffect {
    Connect(SubchannelId),
    WatchHealth(SubchannelId),
    Retire(SubchannelId),
    Publish { connectivity: ConnectivityState, picker: Arc<dyn Picker> },
    ResolveNow,
    RejectUpdate(String),
}

/// A policy's parsed config; each policy knows its own type.
#[derive(Clone)]
pub struct LbPolicyConfig(Foreign<Arc<dyn Any + Send + Sync>>);

impl LbPolicyConfig {
    /// A config of the policy's own type.
    pub fn new<C: Any + Send + Sync>(config: C) -> Self {
        Self(Foreign::new("the configuration of a load-balancing policy", Arc::new(config)))
    }

    /// The config, if it is a `C`.
    pub fn get<C: Any>(&self) -> Option<&C> {
        self.0.get()?.downcast_ref()
    }
}

impl fmt::Debug for LbPolicyConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LbPolicyConfig")
    }
}
