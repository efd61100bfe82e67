//! What outlives a crash: everything that the actors of a channel share, outside of them all.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::Level;

use super::mailbox::Mailbox;
use super::news::News;
use super::registry::Registry;
use super::{balancer, client_conn, resolver, root, supervisor};
use crate::call::{Conduct, NoRuntime, RetryLimits, Shared, Snapshot};
use crate::observe::{ChannelEvent, Log, Observers};
use crate::policy::backoff::Backoff;
use crate::policy::idle;
use crate::policy::lb::{self, DropPicker, Picker};
use crate::policy::scaling;
use crate::policy::service_config::{ServiceConfig, ServiceConfigError};
use crate::transport::resolve::{BuildResolver, ResolverOptions};
use crate::transport::{
    AllCallCredentials, Connect, Connection, ConnectionOptions, Disconnect, KeepaliveConfig,
    Security,
};
use crate::types::{
    Authority, ConfigSelector, ConnectivityState, Endpoint, Foreign, Generation, Status, Target,
};

/// What the builder decided.
pub(crate) struct Settings {
    pub(crate) target: Target,
    /// Where lines go that peers can bring about.
    pub(crate) log: Arc<Log>,
    /// Who is told what happens.
    pub(crate) observers: Observers,
    pub(crate) resolver: Foreign<Arc<dyn BuildResolver>>,
    pub(crate) resolver_options: ResolverOptions,
    pub(crate) lb_registry: lb::LbRegistry,
    pub(crate) default_config: Arc<ServiceConfig>,
    pub(crate) backoff: Backoff,
    pub(crate) min_connect_timeout: Duration,
    /// How many dials may be under way at a time.
    pub(crate) dials_max: usize,
    /// How many calls may wait for a connection.
    pub(crate) queued_calls_max: usize,
    pub(crate) retry_limits: RetryLimits,
    /// How long a channel is kept up that nobody uses; for ever, where there is none.
    pub(crate) idle_timeout: Option<Duration>,
    /// How many connections a subchannel may have where the service config does not say.
    pub(crate) max_connections: usize,
    /// How many it may have whatever anybody says.
    pub(crate) connections_cap: usize,
    /// When servers are asked whether they serve.
    pub(crate) health_checks: HealthChecks,
    /// Whether a lost connection is made again without a call that wants it.
    pub(crate) keep_connected: bool,
    pub(crate) connector: Foreign<Arc<dyn Connect>>,
    pub(crate) security: Security,
    pub(crate) call_credentials: AllCallCredentials,
    pub(crate) authority: Authority,
    pub(crate) connection: ConnectionOptions,
    pub(crate) seed: u64,
    pub(crate) runtime: Option<Handle>,
}

/// When servers are asked whether they serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HealthChecks {
    /// Where the service config says so.
    ByConfig,
    /// Whatever that says.
    Never,
}

impl Settings {
    fn conduct(&self) -> Conduct {
        Conduct {
            credentials: self.call_credentials.clone(),
            waiting_max: self.queued_calls_max,
            retry_limits: self.retry_limits,
            seed: self.seed,
            accepted: self.connection.accepted.clone(),
            request_fields_max: self.connection.request_fields_max,
            #[cfg(feature = "test-util")]
            faults: self.connection.faults.clone(),
        }
    }
}

/// The state of one channel that no crash of an actor takes away.
pub(crate) struct Core {
    /// What calls read.
    pub(crate) shared: Arc<Shared>,
    pub(crate) settings: Settings,
    /// What is in force before anything is.
    no_config: Arc<ServiceConfig>,
    /// How far the channel has come with its life.
    pub(super) life: watch::Sender<Life>,
    /// A demand that the `ClientConn` has not taken up.
    pub(super) demanded: AtomicBool,
    /// The lives of each part so far.
    pub(super) lives: Lives,
    pub(super) supervisor: Mailbox<supervisor::Msg>,
    pub(super) client_conn: Mailbox<client_conn::Msg>,
    pub(super) resolver: Mailbox<resolver::Msg>,
    pub(super) balancer: Mailbox<balancer::Msg>,
    /// Every subchannel, with its slot and its `AddrConn`'s mailbox.
    pub(super) registry: Registry,
    /// A place for each dial that may be under way.
    pub(super) dials: Semaphore,
    /// Word that something is new.
    pub(crate) news: News,
    /// Every task of the channel that is not an actor.
    pub(super) tasks: TaskTracker,
    connections: Mutex<slab::Slab<Connection>>,
    memory: Mutex<Memory>,
}

/// The records of the parts that a channel has one of.
#[derive(Default)]
pub(super) struct Lives {
    pub(super) client_conn: Record,
    pub(super) resolver: Record,
    pub(super) balancer: Record,
}

/// What the Supervisor goes by when a part has failed.
#[derive(Default)]
pub(super) struct Record {
    restarts: AtomicU64,
    proved: AtomicBool,
}

impl Record {
    /// The part has done its work again: what was wrong is over.
    pub(super) fn prove(&self) {
        self.proved.store(true, Ordering::Relaxed);
    }

    /// Whether the part did its work since it last failed; a new life has it still to prove.
    pub(super) fn take_proof(&self) -> bool {
        self.proved.swap(false, Ordering::Relaxed)
    }

    pub(super) fn count_restart(&self) {
        self.restarts.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }
}

/// How far a channel has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// Built, never used.
    New,
    /// Its first task has not run.
    Starting,
    /// Its actors are at work.
    Running,
    /// It is to end in this way.
    Ending(Ending),
    /// It has ended; nothing of it is left.
    Ended,
}

/// How a channel ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The last handle is gone: open streams go on to their ends.
    Dropped,
    /// `close`: open streams have this long.
    Closed { grace: Duration },
}

/// The last word of each actor to the next, so that a new life can be told it again.
#[derive(Default)]
pub(super) struct Memory {
    /// Whether the Resolver has been told to start.
    pub(super) resolving: bool,
    /// What resolution said last.
    pub(super) resolved: Option<Resolved>,
    /// The service config in force.
    pub(super) config: Option<Arc<ServiceConfig>>,
    /// What the Balancer was last ordered to balance.
    pub(super) update: Option<balancer::Update>,
    /// Whether the first config was bad, and none has come since that is good.
    pub(super) unconfigured: bool,
    /// The failure that it was told of since.
    pub(super) failure: Option<balancer::Failure>,
    /// What the Balancer published last.
    pub(super) published: Option<client_conn::Published>,
    /// How often the channel has gone idle.
    pub(super) era: u64,
    /// After how much silence new connections are asked whether they live, where a server has said
    /// that what the builder wants is too often.
    keepalive_time: Option<Duration>,
    /// When the last connection ended, and why.
    pub(super) disconnect: Option<(Instant, Disconnect)>,
}

impl Memory {
    /// From now on this config is in force; gives it as it is then, with the tokens of the last,
    /// and the last, to be dropped without the lock: its selector is the application's.
    pub(super) fn configure(
        &mut self,
        config: Arc<ServiceConfig>,
    ) -> (Arc<ServiceConfig>, Option<Arc<ServiceConfig>>) {
        let config = config.go_on_from(self.config.as_deref());
        let last = self.config.replace(config.clone());
        (config, last)
    }

    /// Keeps what a channel knows that goes idle: the config that applied, and what servers put up
    /// with.
    ///
    /// Gives the rest, to be dropped without the lock.
    pub(super) fn go_idle(&mut self) -> Self {
        let (config, disconnect) = (self.config.take(), self.disconnect.take());
        let (keepalive_time, era) = (self.keepalive_time, self.era + 1);
        let idle = Self { config, era, keepalive_time, disconnect, ..Self::default() };
        std::mem::replace(self, idle)
    }
}

/// The outcome of a resolution.
#[derive(Clone)]
pub(super) enum Resolved {
    Update {
        endpoints: Arc<[Endpoint]>,
        config: Option<Result<Arc<ServiceConfig>, ServiceConfigError>>,
        selector: Option<Arc<dyn ConfigSelector>>,
    },
    Failed(Status),
}

impl Core {
    pub(crate) fn new(settings: Settings) -> Arc<Self> {
        Arc::new_cyclic(|core: &std::sync::Weak<Self>| {
            let no_config = Arc::new(ServiceConfig::default_for(&settings.lb_registry));
            let first = Snapshot {
                generation: Generation::default(),
                connectivity: ConnectivityState::Idle,
                is_resolved: false,
                picker: lb::queue(),
                slots: crate::call::SlotTable::default(),
                // Before anything is resolved nothing is said of any method.
                config: no_config.clone(),
            };
            let core = core.clone();
            let demand = move || core.upgrade().map_or(Ok(()), |core| core.demand());
            Self {
                shared: Arc::new(Shared::new(first, settings.conduct(), demand)),
                dials: Semaphore::new(settings.dials_max.clamp(1, Semaphore::MAX_PERMITS)),
                registry: Registry::new(settings.observers.clone()),
                settings,
                no_config,
                life: watch::Sender::new(Life::New),
                demanded: AtomicBool::new(false),
                lives: Lives::default(),
                supervisor: Mailbox::new(),
                client_conn: Mailbox::new(),
                resolver: Mailbox::new(),
                balancer: Mailbox::new(),
                news: News::new(),
                tasks: TaskTracker::new(),
                connections: Mutex::default(),
                memory: Mutex::default(),
            }
        })
    }

    /// Somebody wants the channel: it starts if it has not, and leaves IDLE. Demands that come
    /// before the first is taken up are one.
    pub(crate) fn demand(self: &Arc<Self>) -> Result<(), NoRuntime> {
        root::start(self)?;
        if !self.demanded.swap(true, Ordering::AcqRel) {
            self.client_conn.tell(client_conn::Msg::Demand);
        }
        Ok(())
    }

    /// Ends every wait between connection attempts.
    pub(crate) fn reset_connect_backoff(&self) {
        self.registry.tell_all(|| super::addr_conn::Msg::ResetBackoff);
        self.resolver.tell(resolver::Msg::ResetBackoff);
    }

    /// Puts a picker that was made of no config before the calls, with the config in force.
    pub(super) fn publish(&self, connectivity: ConnectivityState, picker: Arc<dyn Picker>) {
        self.publish_made_of(None, connectivity, picker);
    }

    /// Puts a snapshot before the calls, then its state before the watchers, so that whoever is
    /// woken by READY finds a picker that is. Only the `ClientConn` publishes, or who stands in
    /// for it while it is dead.
    ///
    /// Calls go by the `config` that the picker was made of, and not by a newer one that the
    /// Balancer has not heard of: the two may depend on each other.
    pub(super) fn publish_made_of(
        &self,
        config: Option<Arc<ServiceConfig>>,
        connectivity: ConnectivityState,
        picker: Arc<dyn Picker>,
    ) {
        // Before the Balancer has made a picker, or without one, names are not known yet: also when
        // an idle channel is woken, whose last config stays in force.
        let is_over = matches!(
            connectivity,
            ConnectivityState::TransientFailure | ConnectivityState::Shutdown
        );
        let is_resolved = config.is_some() || is_over;
        let config = config.or_else(|| self.memory().config.clone());
        self.shared.publish(Snapshot {
            generation: Generation::default(),
            connectivity,
            is_resolved,
            picker,
            slots: self.registry.slots(),
            config: config.unwrap_or_else(|| self.no_config.clone()),
        });
        self.news.tell();
        if self.shared.states.post(connectivity) {
            self.settings.observers.tell(|| ChannelEvent::StateChanged { state: connectivity });
            let (log, is) = (&self.settings.log, "channel has another state");
            log.tell(Level::INFO, is, &connectivity, None);
        }
    }

    /// From now on every call ends with `status`.
    pub(super) fn publish_end(&self, status: Status) {
        self.publish(ConnectivityState::Shutdown, Arc::new(DropPicker(status)));
    }

    /// How the channel is used at this moment: by calls that wait, and those that have a stream.
    pub(super) fn usage(&self) -> idle::Usage {
        let activity = &self.shared.activity;
        let (mut calls, mut last_end) = (activity.waiting(), activity.last());
        for (_, connection) in self.connections().iter() {
            calls += connection.open_streams() + connection.queued_streams();
            last_end = last_end.max(connection.unused_since());
        }
        idle::Usage { calls, last_end: last_end.map(Instant::into_std) }
    }

    /// How many connections a subchannel is to have.
    pub(super) fn connections_goal(&self) -> scaling::Goal {
        let config = self.memory().config.clone();
        let said = config.and_then(|config| config.max_connections_per_subchannel());
        let cap = self.settings.connections_cap.max(1);
        scaling::Goal {
            warm: self.settings.connection.connections_per_address.min(cap),
            max: said.unwrap_or(self.settings.max_connections).min(cap),
        }
    }

    /// Of which service the servers are to be asked whether they serve it, if they are.
    pub(super) fn health_service(&self) -> Option<Arc<str>> {
        match self.settings.health_checks {
            HealthChecks::ByConfig => self.memory().config.as_ref()?.health_service().cloned(),
            HealthChecks::Never => None,
        }
    }

    /// How a new connection is kept alive.
    pub(super) fn keepalive(&self) -> Option<KeepaliveConfig> {
        let keepalive = self.settings.connection.keepalive?;
        let time = self.memory().keepalive_time.unwrap_or(keepalive.time);
        Some(KeepaliveConfig { time, ..keepalive })
    }

    /// A server finds it too much to be asked after so much silence: later connections are asked
    /// half as often (A8).
    pub(super) fn ask_less_often(&self, time: Duration) {
        let mut memory = self.memory();
        let doubled = time.saturating_mul(2);
        if memory.keepalive_time.is_none_or(|time| time < doubled) {
            memory.keepalive_time = Some(doubled);
        }
        // Whoever writes the log is foreign code.
        drop(memory);
        let said = "a server says too_many_pings: its keepalive allows fewer than this channel sends; \
                    the time between them is doubled";
        self.settings.log.tell(Level::ERROR, said, &format!("{time:?}"), None);
    }

    /// Whether the channel has left IDLE and resolves its target.
    pub(super) fn is_resolving(&self) -> bool {
        self.memory().resolving
    }

    pub(super) fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Handles of every connection whose driver runs. What ends one wakes its callers, which are
    /// foreign code: no lock is held then.
    pub(super) fn open_connections(&self) -> Vec<Connection> {
        self.connections().iter().map(|(_, connection)| connection.clone()).collect()
    }

    /// Every connection whose driver runs.
    pub(super) fn connections(&self) -> MutexGuard<'_, slab::Slab<Connection>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
