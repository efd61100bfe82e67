//! Balancer: runs the tree of load-balancing policies.
//!
//! Policies speak in ids; the Balancer makes subchannels for them, passes their orders to the
//! `AddrConn`s, and takes what they publish to the `ClientConn`. Events that wait in the mailbox
//! together are answered by one flush: ten thousand subchannels that turn READY at once do not
//! make ten thousand pickers.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::client_conn::{self, Published};
#[cfg(feature = "test-util")]
use super::faults::Blow;
use super::registry::Subchannel;
use super::timer::Timer;
use super::vitals::Vitals;
use super::{Core, addr_conn, resolver, supervisor};
use crate::observe::{ActorKind, ActorReport, PolicyReport};
use crate::policy::lb::graceful_switch::GracefulSwitch;
use crate::policy::lb::{LbContext, LbEffect, SubchannelState, Subchannels};
use crate::policy::service_config::ServiceConfig;
use crate::types::Dice;
use crate::types::{Address, ConnectivityState, Endpoint, Status, SubchannelId};

/// What a Balancer is told.
pub(crate) enum Msg {
    /// There is a new [`Update`] in [`Core`].
    Updated,
    /// There is a new failure of resolution in [`Core`].
    ResolverFailed,
    /// A subchannel is in a new state.
    SubchannelChanged {
        /// Which.
        id: SubchannelId,
        /// How it stands now.
        state: SubchannelState,
    },
    /// The server of a subchannel says otherwise whether it serves.
    HealthChanged(SubchannelId),
    /// Somebody wants the channel: connect if idle.
    ExitIdle,
    /// Nobody does: drop the policies and give up every subchannel.
    LetGo,
    /// Tell how you stand.
    Inspect(oneshot::Sender<(ActorReport, Option<PolicyReport>)>),
    /// Suffer this.
    #[cfg(feature = "test-util")]
    Inject(Blow),
    /// Have a policy panic.
    #[cfg(feature = "test-util")]
    BreakPolicy,
    /// Something of its own came to its end.
    Own(Own),
}

/// A completion; only this file makes one.
pub(crate) struct Own(Completion);

#[derive(Clone, Copy)]
enum Completion {
    /// The messages that were waiting have been handled.
    Drained,
    Wake(u64),
}

/// What is to be balanced, and how.
#[derive(Clone)]
pub(crate) struct Update {
    pub(super) endpoints: Arc<[Endpoint]>,
    pub(super) config: Arc<ServiceConfig>,
}

/// Why there is nothing to balance, or nothing newer.
#[derive(Clone)]
pub(crate) struct Failure {
    pub(super) status: Status,
    /// The config that applies.
    pub(super) config: Arc<ServiceConfig>,
}

pub(super) struct Balancer {
    pub(super) core: Arc<Core>,
}

pub(super) struct Life {
    tree: GracefulSwitch,
    dice: Dice,
    timer: Timer,
    /// Whether a flush is on its way to the end of the mailbox.
    flushing: bool,
    /// What the service config wants of the subchannels, as they have been told.
    minded: Minded,
    /// The config that the tree was told of last.
    config: Option<Arc<ServiceConfig>>,
    /// How often the channel had gone idle when the tree began.
    era: u64,
    /// How often the tree has published.
    pickers: u64,
    vitals: Vitals,
}

/// What a service config wants of subchannels, whichever policy has them.
#[derive(Default, PartialEq)]
struct Minded {
    /// What servers are asked whether they serve it, if they are.
    health_service: Option<Arc<str>>,
    /// How many connections a subchannel may have, where the config says so.
    connections: Option<usize>,
}

impl Minded {
    fn of(config: &ServiceConfig) -> Self {
        Self {
            health_service: config.health_service().cloned(),
            connections: config.max_connections_per_subchannel(),
        }
    }
}

impl Actor for Balancer {
    type Msg = Msg;
    type State = Life;
    type Arguments = ();

    async fn pre_start(
        &self,
        me: ActorRef<Msg>,
        (): (),
    ) -> Result<Self::State, ActorProcessingErr> {
        self.core.balancer.take_over(me.clone());
        let restarts = self.core.lives.balancer.restarts();
        let mut life = Life {
            tree: GracefulSwitch::new(),
            dice: Dice::new(self.core.settings.seed ^ BALANCER_DICE),
            timer: Timer::new(self.core.tasks.clone()),
            flushing: false,
            minded: Minded::default(),
            config: None,
            era: self.core.memory().era,
            pickers: 0,
            vitals: Vitals::new(&self.core, ActorKind::Balancer, None, restarts),
        };
        self.resume(&me, &mut life);
        Ok(life)
    }

    async fn handle(
        &self,
        me: ActorRef<Msg>,
        message: Msg,
        life: &mut Life,
    ) -> Result<(), ActorProcessingErr> {
        if !matches!(message, Msg::Own(_)) {
            self.core.balancer.one_taken();
        }
        match message {
            Msg::Own(Own(completion)) => self.complete(&me, life, completion),
            Msg::Updated => self.updated(&me, life),
            Msg::ResolverFailed => self.resolver_failed(&me, life),
            Msg::SubchannelChanged { id, state } => self.subchannel_changed(&me, life, id, state),
            Msg::HealthChanged(id) => self.health_changed(&me, life, id),
            Msg::ExitIdle => self.act(&me, life, GracefulSwitch::exit_idle),
            Msg::LetGo => self.let_go(life),
            Msg::Inspect(reply) => self.inspect(life, reply),
            #[cfg(feature = "test-util")]
            Msg::Inject(blow) => blow.suffer().await,
            #[cfg(feature = "test-util")]
            Msg::BreakPolicy => {
                self.act(&me, life, |_, _| panic!("policy panic injected by a test"));
            }
        }
        Ok(())
    }
}

impl Balancer {
    /// Builds the tree again and lets it take over the subchannels that an earlier life left.
    fn resume(&self, me: &ActorRef<Msg>, life: &mut Life) {
        let mut orphans = Orphans::of(self.core.registry.all());
        self.update(me, life, &mut orphans);
        for orphan in orphans.rest() {
            self.core.registry.retire(orphan.id);
        }
        // An earlier life may have ended before it could.
        self.core.registry.tell_all(|| addr_conn::Msg::MindConfig);
        self.resolver_failed(me, life);
    }

    fn let_go(&self, life: &mut Life) {
        life.tree = GracefulSwitch::new();
        life.timer = Timer::new(self.core.tasks.clone());
        life.config = None;
        life.era = self.core.memory().era;
        life.vitals.enter(ConnectivityState::Idle.to_string());
        for subchannel in self.core.registry.all() {
            self.core.registry.retire(subchannel.id);
        }
    }

    fn updated(&self, me: &ActorRef<Msg>, life: &mut Life) {
        self.update(me, life, &mut Orphans::default());
    }

    fn update(&self, me: &ActorRef<Msg>, life: &mut Life, orphans: &mut Orphans) {
        let update = self.core.memory().update.clone();
        let Some(Update { endpoints, config }) = update else { return };
        life.vitals.count("updates");
        life.config = Some(config.clone());
        let pickers = life.pickers;
        let rejected = self.with_tree(me, life, orphans, |tree, cx| {
            tree.update(config.lb(), endpoints, cx);
        });
        if life.pickers == pickers && !Arc::ptr_eq(&self.core.shared.cell.load().config, &config) {
            self.publish_again(life);
        }
        self.core.resolver.tell(match rejected {
            Some(reason) => resolver::Msg::Rejected(reason),
            None => resolver::Msg::Accepted,
        });
        for (id, health, state) in orphans.take_adopted() {
            // Before the rest, so that no call goes to one that does not serve.
            self.act(me, life, |tree, cx| tree.health_changed(id, health, cx));
            if state.connectivity != ConnectivityState::Idle {
                self.subchannel_changed(me, life, id, state);
            }
        }
        let minded = Minded::of(&config);
        if life.minded != minded {
            life.minded = minded;
            self.core.registry.tell_all(|| addr_conn::Msg::MindConfig);
        }
    }

    fn resolver_failed(&self, me: &ActorRef<Msg>, life: &mut Life) {
        let failure = self.core.memory().failure.clone();
        if let Some(Failure { status, config }) = failure {
            life.config = Some(config);
            life.vitals.fail(status.clone());
            self.act(me, life, |tree, cx| tree.resolver_failed(status, cx));
        }
    }

    fn subchannel_changed(
        &self,
        me: &ActorRef<Msg>,
        life: &mut Life,
        id: SubchannelId,
        state: SubchannelState,
    ) {
        // The news of a subchannel that has been given up meanwhile is nobody's.
        if self.core.registry.get(id).is_some() {
            life.vitals.count("subchannel changes");
            self.act(me, life, |tree, cx| tree.subchannel_changed(id, state, cx));
        }
    }

    fn health_changed(&self, me: &ActorRef<Msg>, life: &mut Life, id: SubchannelId) {
        if let Some(subchannel) = self.core.registry.get(id) {
            let health = subchannel.look_at_health();
            life.vitals.count("health changes");
            self.act(me, life, |tree, cx| tree.health_changed(id, health, cx));
        }
    }

    fn complete(&self, me: &ActorRef<Msg>, life: &mut Life, completion: Completion) {
        match completion {
            Completion::Drained => {
                life.flushing = false;
                self.with_tree(me, life, &mut Orphans::default(), |tree, cx| {
                    tree.flush(cx);
                });
            }
            Completion::Wake(epoch) => {
                if life.timer.is_current(epoch) {
                    self.act(me, life, GracefulSwitch::wake);
                }
            }
        }
    }

    /// Lets the tree act on an event; its flush follows the messages that wait.
    fn act(
        &self,
        me: &ActorRef<Msg>,
        life: &mut Life,
        act: impl FnOnce(&mut GracefulSwitch, &mut LbContext<'_>),
    ) {
        self.with_tree(me, life, &mut Orphans::default(), act);
        life.flush_later(me);
    }

    /// Lets the tree act and does what it asks for. Gives the reason if it refused an update.
    fn with_tree(
        &self,
        me: &ActorRef<Msg>,
        life: &mut Life,
        orphans: &mut Orphans,
        act: impl FnOnce(&mut GracefulSwitch, &mut LbContext<'_>),
    ) -> Option<String> {
        let mut source = Source { core: &self.core, orphans };
        let now = Instant::now().into_std();
        let mut cx = LbContext::new(now, &mut life.dice, &mut source);
        act(&mut life.tree, &mut cx);
        let effects = cx.take_effects();
        let wake_at = life.tree.wake_at().map(Instant::from_std);
        life.timer.arm(wake_at, me, |epoch| Msg::Own(Own(Completion::Wake(epoch))));
        let mut rejected = None;
        for effect in effects {
            match effect {
                LbEffect::RejectUpdate(reason) => rejected = Some(reason),
                LbEffect::Connect(id) => self.connect(id),
                LbEffect::WatchHealth(id) => {
                    self.watch_health(id);
                    orphans.watched.insert(id);
                }
                LbEffect::Retire(id) => self.core.registry.retire(id),
                LbEffect::ResolveNow => {
                    self.core.resolver.tell(resolver::Msg::ResolveNow);
                }
                LbEffect::Publish { connectivity, picker } => {
                    let (config, era) = (life.config.clone(), life.era);
                    self.publish(life, Published { connectivity, picker, config, era });
                }
            }
        }
        rejected
    }

    fn connect(&self, id: SubchannelId) {
        if let Some(subchannel) = self.core.registry.get(id) {
            subchannel.connect();
        }
    }

    fn watch_health(&self, id: SubchannelId) {
        if let Some(subchannel) = self.core.registry.get(id) {
            subchannel.watch_health();
        }
    }

    fn publish(&self, life: &mut Life, published: Published) {
        life.vitals.enter(published.connectivity.to_string());
        life.vitals.count("pickers");
        life.pickers += 1;
        // Its picker is the application's, and goes without the lock.
        let before = self.core.memory().published.replace(published.clone());
        drop(before);
        self.core.lives.balancer.prove();
        self.core.client_conn.tell(client_conn::Msg::Published(published));
    }

    /// The policies have nothing to change about picks, but calls are to go by the new config.
    fn publish_again(&self, life: &mut Life) {
        let published = self.core.memory().published.clone();
        if let Some(published) = published.filter(|published| published.era == life.era) {
            let config = life.config.clone();
            self.publish(life, Published { config, ..published });
        }
    }

    fn inspect(&self, life: &Life, reply: oneshot::Sender<(ActorReport, Option<PolicyReport>)>) {
        let timer = life.timer.fires_at().map(|at| ("next connection attempt", at));
        let mut report = life.vitals.report(self.core.balancer.depth(), timer);
        // The picker is the application's: it runs without the lock.
        let published = self.core.memory().published.clone();
        if let Some(published) = published {
            report.facts.insert("picker", published.picker.inspect());
        }
        let policy = Some(life.tree.inspect()).filter(|tree| !tree.children.is_empty());
        // Whoever asked may have stopped waiting.
        let _ = reply.send((report, policy));
    }
}

impl Life {
    /// A flush goes to the end of the mailbox: what waits there now comes first.
    fn flush_later(&mut self, me: &ActorRef<Msg>) {
        if !self.flushing {
            // To itself, alive.
            self.flushing = me.cast(Msg::Own(Own(Completion::Drained))).is_ok();
        }
    }
}

/// Gives policies their subchannels.
struct Source<'a> {
    core: &'a Arc<Core>,
    orphans: &'a mut Orphans,
}

impl Subchannels for Source<'_> {
    fn create(&mut self, address: &Address) -> SubchannelId {
        if let Some(id) = self.orphans.adopt(address) {
            return id;
        }
        let subchannel = self.core.registry.add(address);
        self.core.supervisor.tell(supervisor::Msg::Spawn(subchannel.id));
        subchannel.id
    }
}

/// Subchannels that a Balancer's earlier life left, READY ones among them.
#[derive(Default)]
struct Orphans {
    by_address: HashMap<Address, VecDeque<Arc<Subchannel>>>,
    adopted: Vec<Arc<Subchannel>>,
    /// Those of whose health the policies want to know. Only for looking up.
    watched: HashSet<SubchannelId>,
}

impl Orphans {
    fn of(subchannels: Vec<Arc<Subchannel>>) -> Self {
        let mut by_address: HashMap<_, VecDeque<_>> = HashMap::new();
        for subchannel in subchannels {
            by_address.entry(subchannel.address.clone()).or_default().push_back(subchannel);
        }
        Self { by_address, ..Self::default() }
    }

    fn adopt(&mut self, address: &Address) -> Option<SubchannelId> {
        let orphan = self.by_address.get_mut(address)?.pop_front()?;
        let id = orphan.id;
        self.adopted.push(orphan);
        Some(id)
    }

    /// Those that were taken over, each with its health and its state. Of a new one policies
    /// expect that it is healthy and IDLE.
    fn take_adopted(&mut self) -> Vec<(SubchannelId, SubchannelState, SubchannelState)> {
        let adopted = std::mem::take(&mut self.adopted);
        let states = adopted.into_iter().map(|subchannel| {
            let (health, mut state) =
                (subchannel.look_at_health(), subchannel.machine().reported());
            // Its connection may have been lost while its AddrConn was dead as well.
            let is_ready = state.connectivity == ConnectivityState::Ready;
            if is_ready && !subchannel.slot.has_connection() {
                state.connectivity = ConnectivityState::Idle;
            }
            // The policies of the earlier life may have been others.
            if subchannel.is_watched() && !self.watched.contains(&subchannel.id) {
                subchannel.ignore_health();
            }
            (subchannel.id, health, state)
        });
        states.collect()
    }

    fn rest(self) -> impl Iterator<Item = Arc<Subchannel>> {
        let mut rest: Vec<_> = self.by_address.into_values().flatten().collect();
        rest.sort_by_key(|subchannel| subchannel.id);
        rest.into_iter()
    }
}

/// Sets the policies' dice apart from those of the other actors of one seed.
const BALANCER_DICE: u64 = 0x6261_6c61_6e63;
