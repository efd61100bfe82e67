//! What the policies that spread calls over endpoints share: one `pick_first` per endpoint, the
//! state of the whole, and when to publish it.

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::pick_first::{self, PickFirst};
use super::{
    FailPicker, LbContext, LbEffect, LbEvent, LbPolicy, LbPolicyConfig, LbUpdate, PickArgs,
    PickResult, Picker, PolicyReport, SubchannelState, queue,
};
use crate::types::{Address, ConnectivityState, Endpoint, Status, SubchannelId};

/// How calls are spread over the endpoints that are READY: all that is left to write of a policy
/// that keeps a connection to each endpoint. [`EndpointShards`] is the rest.
pub trait Spread: Send + 'static {
    /// The policy's name, as inspections show it.
    fn name(&self) -> &str;

    /// Takes note of a config, which is of the type that the policy's
    /// [`LbPolicyBuilder`](super::LbPolicyBuilder) makes; the next picker goes by it. The default
    /// has nothing to configure.
    fn configure(&mut self, _config: &LbPolicyConfig) {}

    /// A picker over `ready`, of which there is at least one.
    fn picker(&mut self, ready: &[ReadyEndpoint<'_>], cx: &mut LbContext<'_>) -> Arc<dyn Picker>;
}

/// An endpoint that has a connection.
#[derive(Clone, Copy, Debug)]
pub struct ReadyEndpoint<'a> {
    endpoint: &'a Endpoint,
    subchannel: SubchannelId,
}

impl<'a> ReadyEndpoint<'a> {
    /// The endpoint.
    pub const fn endpoint(&self) -> &'a Endpoint {
        self.endpoint
    }

    /// What to pick so that a call goes there.
    pub const fn subchannel(&self) -> SubchannelId {
        self.subchannel
    }
}

/// A policy that spreads calls over endpoints by a [`Spread`] of yours.
///
/// Runs one `pick_first` per distinct endpoint, and publishes one picker for all of them.
///
/// ```text
///                      SubchannelChanged ── routes ──► child ── Publish ──► counts
///                                                                             │
///     the state of the whole has changed: publish ◄───────────────────────────┤
///     only the picker has: stale until Flush, then publish ◄──────────────────┘
/// ```
///
/// The state of the whole is the best of its children's: READY, CONNECTING, IDLE,
/// `TRANSIENT_FAILURE`, in this order. A child that goes IDLE is told to connect again at once.
///
/// Servers are asked whether they serve, where the service config says so (A17, A61). The children
/// hear nothing of it: a `pick_first` that left its READY subchannel over that would connect again
/// to the same server. A child that is READY counts as what the server behind it says, so that
/// the connection stays, and calls that are on it go on, while new ones go elsewhere.
///
/// An event costs the same however many children there are; building a picker costs as much as
/// there are children in the winning state. So a picker that changes within a state waits for the
/// end of the batch: 10,000 subchannels that become READY publish a handful of pickers.
pub struct EndpointShards<S> {
    spread: S,
    /// In the order of the last update, rotated.
    children: Vec<Child>,
    /// Which child a subchannel belongs to. Only for looking up: its order is not reproducible.
    routes: HashMap<SubchannelId, usize>,
    /// What is said of subchannels whose servers do not serve, or have yet to answer. Only for
    /// looking up.
    unhealthy: HashMap<SubchannelId, SubchannelState>,
    /// When children want to be woken, and which.
    timers: BTreeSet<(Instant, usize)>,
    counts: Counts,
    /// What calls fail with while there are no children.
    absence: Status,
    /// What was published last.
    published: ConnectivityState,
    /// Whether calls would pick differently now, in the same state.
    stale: bool,
}

struct Child {
    key: Key,
    endpoint: Endpoint,
    policy: PickFirst,
    /// What the policy published last.
    published: (ConnectivityState, Arc<dyn Picker>),
    /// As the whole counts it: that, or what the server says of itself.
    connectivity: ConnectivityState,
    picker: Arc<dyn Picker>,
    /// As in `timers`.
    wake_at: Option<Instant>,
}

impl<S: Spread> EndpointShards<S> {
    /// A policy without endpoints, as [`LbPolicyBuilder::build`](super::LbPolicyBuilder::build)
    /// makes it.
    pub fn new(spread: S) -> Self {
        Self {
            spread,
            children: Vec::new(),
            routes: HashMap::new(),
            unhealthy: HashMap::new(),
            timers: BTreeSet::new(),
            counts: Counts::default(),
            absence: Status::unavailable(NO_CHILDREN),
            published: ConnectivityState::Connecting,
            stale: false,
        }
    }

    fn update(&mut self, update: &LbUpdate, cx: &mut LbContext<'_>) {
        self.spread.configure(&update.config);
        let mut endpoints = distinct(&update.endpoints);
        // So that the clients of one list do not all begin with the same endpoint.
        let offset = cx.random_below(endpoints.len());
        endpoints.rotate_left(offset);

        let mut places = self.keep(&endpoints, cx);
        for ((key, endpoint), place) in endpoints.into_iter().zip(&mut places) {
            let index = self.children.len();
            let child = place.take().unwrap_or_else(|| Child::new(key, endpoint));
            for id in child.policy.subchannels() {
                self.routes.insert(id, index);
            }
            self.counts.add(child.connectivity);
            let update = LbUpdate {
                endpoints: Arc::new([endpoint.clone()]),
                config: LbPolicyConfig::new(pick_first::Config::default()),
            };
            self.children.push(Child { endpoint: endpoint.clone(), wake_at: None, ..child });
            self.run(index, LbEvent::Update(update), cx);
        }
        if self.children.is_empty() {
            self.absence = Status::unavailable(NO_CHILDREN);
            cx.reject_update(NO_CHILDREN);
        }
        self.publish(cx);
    }

    /// Empties itself: children whose endpoint is among `endpoints` come back in its place, the
    /// others are ended.
    fn keep(
        &mut self,
        endpoints: &[(Key, &Endpoint)],
        cx: &mut LbContext<'_>,
    ) -> Vec<Option<Child>> {
        self.routes.clear();
        self.timers.clear();
        self.counts = Counts::default();
        let index: HashMap<&Key, usize> = endpoints.iter().map(|(key, _)| key).zip(0..).collect();
        let mut places: Vec<Option<Child>> = Vec::new();
        places.resize_with(endpoints.len(), || None);
        for child in self.children.drain(..) {
            if let Some(&at) = index.get(&child.key) {
                places[at] = Some(child);
            } else {
                for id in child.policy.subchannels() {
                    self.unhealthy.remove(&id);
                    cx.retire(id);
                }
            }
        }
        places
    }

    fn resolver_failed(&mut self, status: &Status, cx: &mut LbContext<'_>) {
        if self.children.is_empty() {
            self.absence = pick_first::resolver_error(status);
            return self.publish(cx);
        }
        for index in 0..self.children.len() {
            self.run(index, LbEvent::ResolverFailed(status.clone()), cx);
        }
        self.settle(cx);
    }

    fn wake(&mut self, cx: &mut LbContext<'_>) {
        while let Some(&(at, index)) = self.timers.first() {
            if at > cx.now() {
                break;
            }
            self.run(index, LbEvent::Wake, cx);
        }
        self.settle(cx);
    }

    /// Runs a child; what it publishes is noted, what else it asks for is passed on.
    fn run(&mut self, index: usize, event: LbEvent, cx: &mut LbContext<'_>) {
        self.run_once(index, event, cx);
        if self.children[index].connectivity == ConnectivityState::Idle {
            self.run_once(index, LbEvent::ExitIdle, cx);
        }
    }

    fn run_once(&mut self, index: usize, event: LbEvent, cx: &mut LbContext<'_>) {
        let child = &mut self.children[index];
        let run = cx.run_child(|cx| child.policy.handle(event, cx));
        let wake_at = child.policy.wake_at();
        for id in run.created {
            self.routes.insert(id, index);
            cx.watch_health(id);
        }
        for effect in run.effects {
            match effect {
                LbEffect::Publish { connectivity, picker } => {
                    self.children[index].published = (connectivity, picker);
                    self.weigh(index);
                }
                LbEffect::Retire(id) => {
                    self.routes.remove(&id);
                    self.unhealthy.remove(&id);
                    cx.retire(id);
                }
                LbEffect::Connect(_)
                | LbEffect::WatchHealth(_)
                | LbEffect::ResolveNow
                | LbEffect::RejectUpdate(_) => cx.push(effect),
            }
        }
        let child = &mut self.children[index];
        if wake_at != child.wake_at {
            if let Some(at) = child.wake_at {
                self.timers.remove(&(at, index));
            }
            if let Some(at) = wake_at {
                self.timers.insert((at, index));
            }
            child.wake_at = wake_at;
        }
    }

    /// Takes note of what the server of a subchannel says of itself.
    fn health_changed(&mut self, id: SubchannelId, state: SubchannelState) {
        let Some(&index) = self.routes.get(&id) else { return };
        match state.connectivity {
            ConnectivityState::Ready => self.unhealthy.remove(&id),
            ConnectivityState::Idle
            | ConnectivityState::Connecting
            | ConnectivityState::TransientFailure
            | ConnectivityState::Shutdown => self.unhealthy.insert(id, state),
        };
        if self.children[index].policy.chosen() == Some(id) {
            self.weigh(index);
        }
    }

    /// Counts a child as what it published last, or as what its server says where it is READY.
    fn weigh(&mut self, index: usize) {
        let child = &mut self.children[index];
        let said = child.policy.chosen().and_then(|id| self.unhealthy.get(&id));
        let (connectivity, picker) = match (child.published.0, said) {
            (ConnectivityState::Ready, Some(said)) => shown(said),
            _ => child.published.clone(),
        };
        self.counts.remove(child.connectivity);
        self.counts.add(connectivity);
        // Queueing is the same whoever is the cause of it.
        let whole = self.counts.whole();
        let shows = whole == connectivity || whole == child.connectivity;
        self.stale |= shows && tells_children_apart(whole);
        child.connectivity = connectivity;
        child.picker = picker;
    }

    /// Publishes if the state of the whole has changed.
    fn settle(&mut self, cx: &mut LbContext<'_>) {
        if self.counts.whole() != self.published {
            self.publish(cx);
        }
    }

    fn publish(&mut self, cx: &mut LbContext<'_>) {
        let whole = self.counts.whole();
        let picker = match whole {
            ConnectivityState::Ready => {
                let ready: Vec<_> = self.children.iter().filter_map(Child::ready).collect();
                self.spread.picker(&ready, cx)
            }
            ConnectivityState::Connecting | ConnectivityState::Idle => queue(),
            ConnectivityState::TransientFailure | ConnectivityState::Shutdown => self.failure(cx),
        };
        self.published = whole;
        self.stale = false;
        cx.publish(whole, picker);
    }

    /// What a child tells of itself, and what its server says to that.
    fn report(&self, child: &Child) -> PolicyReport {
        let report = child.policy.inspect();
        let said = child.policy.chosen().and_then(|id| self.unhealthy.get(&id));
        let Some(said) = said else { return report };
        let note = match &said.error {
            Some(error) => error.text().to_string(),
            None => "connected, and yet to say that it serves".to_owned(),
        };
        PolicyReport { connectivity: child.connectivity, note: Some(note), ..report }
    }

    fn failure(&self, cx: &mut LbContext<'_>) -> Arc<dyn Picker> {
        if self.children.is_empty() {
            return Arc::new(FailPicker(self.absence.clone()));
        }
        let pickers = self.children.iter().map(|child| Arc::clone(&child.picker));
        Arc::new(FailuresInTurn {
            pickers: pickers.collect(),
            next: AtomicUsize::new(cx.random_below(self.children.len())),
        })
    }
}

impl<S: Spread> LbPolicy for EndpointShards<S> {
    fn handle(&mut self, event: LbEvent, cx: &mut LbContext<'_>) {
        match event {
            LbEvent::Update(update) => self.update(&update, cx),
            LbEvent::ResolverFailed(status) => self.resolver_failed(&status, cx),
            LbEvent::SubchannelChanged { id, state } => {
                if let Some(&index) = self.routes.get(&id) {
                    self.run(index, LbEvent::SubchannelChanged { id, state }, cx);
                    self.settle(cx);
                }
            }
            LbEvent::HealthChanged { id, state } => {
                self.health_changed(id, state);
                self.settle(cx);
            }
            LbEvent::Wake => self.wake(cx),
            LbEvent::Flush => {
                if self.stale {
                    self.publish(cx);
                }
            }
            // No child is idle for longer than an event.
            LbEvent::ExitIdle => {}
        }
    }

    fn wake_at(&self) -> Option<Instant> {
        self.timers.first().map(|&(at, _)| at)
    }

    fn inspect(&self) -> PolicyReport {
        let note = self.children.is_empty().then(|| self.absence.text().to_string());
        PolicyReport {
            policy: self.spread.name().to_owned(),
            connectivity: self.published,
            subchannels: Vec::new(),
            note,
            children: self.children.iter().map(|child| self.report(child)).collect(),
        }
    }
}

impl Child {
    fn new(key: Key, endpoint: &Endpoint) -> Self {
        Self {
            key,
            endpoint: endpoint.clone(),
            policy: PickFirst::default(),
            published: (ConnectivityState::Connecting, queue()),
            connectivity: ConnectivityState::Connecting,
            picker: queue(),
            wake_at: None,
        }
    }

    fn ready(&self) -> Option<ReadyEndpoint<'_>> {
        let is_ready = self.connectivity == ConnectivityState::Ready;
        let subchannel = self.policy.chosen().filter(|_| is_ready)?;
        Some(ReadyEndpoint { endpoint: &self.endpoint, subchannel })
    }
}

/// How a child counts that is READY while its server says this.
fn shown(said: &SubchannelState) -> (ConnectivityState, Arc<dyn Picker>) {
    match (said.connectivity, &said.error) {
        (ConnectivityState::TransientFailure, Some(error)) => {
            (ConnectivityState::TransientFailure, Arc::new(FailPicker(error.clone())))
        }
        (connectivity, _) => (connectivity, queue()),
    }
}

/// How many children are in each state.
#[derive(Default)]
struct Counts {
    ready: usize,
    connecting: usize,
    idle: usize,
    failing: usize,
}

impl Counts {
    fn add(&mut self, state: ConnectivityState) {
        *self.of(state) += 1;
    }

    fn remove(&mut self, state: ConnectivityState) {
        *self.of(state) -= 1;
    }

    fn whole(&self) -> ConnectivityState {
        if self.ready > 0 {
            ConnectivityState::Ready
        } else if self.connecting > 0 {
            ConnectivityState::Connecting
        } else if self.idle > 0 {
            ConnectivityState::Idle
        } else {
            ConnectivityState::TransientFailure
        }
    }

    fn of(&mut self, state: ConnectivityState) -> &mut usize {
        match state {
            ConnectivityState::Ready => &mut self.ready,
            ConnectivityState::Connecting => &mut self.connecting,
            ConnectivityState::Idle => &mut self.idle,
            ConnectivityState::TransientFailure | ConnectivityState::Shutdown => &mut self.failing,
        }
    }
}

/// Which endpoint: its addresses, whatever their order (A61).
#[derive(PartialEq, Eq, Hash)]
struct Key(Vec<Address>);

impl Key {
    fn of(endpoint: &Endpoint) -> Self {
        let mut addresses = endpoint.addresses().to_vec();
        addresses.sort_by_cached_key(Address::to_string);
        addresses.dedup();
        Self(addresses)
    }
}

/// Each endpoint once. One without addresses is nothing to connect to.
fn distinct(endpoints: &[Endpoint]) -> Vec<(Key, &Endpoint)> {
    let mut seen = HashSet::new();
    let mut list: Vec<_> = endpoints
        .iter()
        .filter(|endpoint| !endpoint.addresses().is_empty())
        .map(|endpoint| (Key::of(endpoint), endpoint))
        .collect();
    let first_of_its_kind: Vec<bool> = list.iter().map(|(key, _)| seen.insert(key)).collect();
    let mut keep = first_of_its_kind.into_iter();
    list.retain(|_| keep.next().unwrap_or_default());
    list
}

/// Whether a picker of this state depends on which children are in it.
fn tells_children_apart(whole: ConnectivityState) -> bool {
    match whole {
        ConnectivityState::Ready
        | ConnectivityState::TransientFailure
        | ConnectivityState::Shutdown => true,
        ConnectivityState::Connecting | ConnectivityState::Idle => false,
    }
}

/// Calls fail with the children's errors in turn, so that logs show all of them.
struct FailuresInTurn {
    pickers: Box<[Arc<dyn Picker>]>,
    next: AtomicUsize,
}

impl Picker for FailuresInTurn {
    fn pick(&self, args: &PickArgs<'_>) -> PickResult {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        self.pickers[turn % self.pickers.len()].pick(args)
    }

    fn inspect(&self) -> String {
        format!("calls fail with the errors of {} endpoints in turn", self.pickers.len())
    }
}

const NO_CHILDREN: &str = "no children to pick from";
