//! Supervisor: starts the other actors and starts them again when they have failed. It knows
//! nothing of what they do.
//!
//! A part that was sound since it last failed is started again at once, another after a growing
//! wait ([`policy::restart`](crate::policy::restart)). It is never given up: past [`FAILURES_TOLERATED`] in a row the
//! channel says what is wrong, unless it has a connection that serves, and the attempts go on.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Core;
use super::addr_conn::AddrConn;
use super::balancer::Balancer;
use super::client_conn::{self, ClientConn};
use super::core::Record;
#[cfg(feature = "test-util")]
use super::faults::Blow;
use super::resolver::Resolver;
use super::vitals::Vitals;
use crate::observe::{ActorKind, ActorReport};
use crate::policy::lb::FailPicker;
use crate::policy::restart::Failures;
use crate::types::{ConnectivityState, Status, SubchannelId};

/// What a Supervisor is told.
pub(crate) enum Msg {
    /// There is a new subchannel that wants its `AddrConn`.
    Spawn(SubchannelId),
    /// Tell how you stand.
    Inspect(oneshot::Sender<ActorReport>),
    /// Suffer this.
    #[cfg(feature = "test-util")]
    Inject(Blow),
    /// Something of its own came to its end.
    Own(Own),
}

/// A completion; only this file makes one.
pub(crate) struct Own(Part);

/// A part of the channel that can fail and be started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Part {
    ClientConn,
    Resolver,
    Balancer,
    AddrConn(SubchannelId),
}

pub(super) struct Supervisor {
    pub(super) core: Arc<Core>,
    pub(super) restarts: u64,
}

pub(super) struct Life {
    children: HashMap<ActorId, Part>,
    /// The same parts, to be looked up.
    running: HashSet<Part>,
    /// The failures of each part that has had any.
    failures: HashMap<Part, Failures>,
    vitals: Vitals,
}

impl Actor for Supervisor {
    type Msg = Msg;
    type State = Life;
    type Arguments = ();

    async fn pre_start(
        &self,
        me: ActorRef<Msg>,
        (): (),
    ) -> Result<Self::State, ActorProcessingErr> {
        self.core.supervisor.take_over(me);
        Ok(Life {
            children: HashMap::new(),
            running: HashSet::new(),
            failures: HashMap::new(),
            vitals: Vitals::new(&self.core, ActorKind::Supervisor, None, self.restarts),
        })
    }

    async fn post_start(
        &self,
        me: ActorRef<Msg>,
        life: &mut Life,
    ) -> Result<(), ActorProcessingErr> {
        life.vitals.enter("supervising");
        // Whoever is told something must be there before whoever tells it.
        for part in [Part::ClientConn, Part::Resolver, Part::Balancer] {
            self.start(&me, life, part).await;
        }
        for subchannel in self.core.registry.all() {
            self.start(&me, life, Part::AddrConn(subchannel.id)).await;
        }
        Ok(())
    }

    async fn handle(
        &self,
        me: ActorRef<Msg>,
        message: Msg,
        life: &mut Life,
    ) -> Result<(), ActorProcessingErr> {
        if !matches!(message, Msg::Own(_)) {
            self.core.supervisor.one_taken();
        }
        match message {
            Msg::Own(Own(part)) => self.start(&me, life, part).await,
            Msg::Spawn(id) => self.spawn_if_new(&me, life, Part::AddrConn(id)).await,
            Msg::Inspect(reply) => self.inspect(life, reply),
            #[cfg(feature = "test-util")]
            Msg::Inject(blow) => blow.suffer().await,
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<Msg>,
        event: SupervisionEvent,
        life: &mut Life,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(actor, error) => {
                self.failed(&me, life, &actor, &error.to_string());
            }
            SupervisionEvent::ActorTerminated(actor, _, _) => {
                // An AddrConn that was retired. Nobody else ends by itself.
                if let Some(part) = life.forget(&actor) {
                    life.failures.remove(&part);
                }
            }
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {}
        }
        Ok(())
    }
}

impl Supervisor {
    /// A subchannel may have been made before this life of the Supervisor began, which then
    /// started its `AddrConn` already.
    async fn spawn_if_new(&self, me: &ActorRef<Msg>, life: &mut Life, part: Part) {
        if !life.running.contains(&part) {
            self.start(me, life, part).await;
        }
    }

    async fn start(&self, me: &ActorRef<Msg>, life: &mut Life, part: Part) {
        let (core, cell) = (self.core.clone(), me.get_cell());
        let started = match part {
            Part::ClientConn => {
                cell_of(Actor::spawn_linked(None, ClientConn { core }, (), cell).await)
            }
            Part::Resolver => cell_of(Actor::spawn_linked(None, Resolver { core }, (), cell).await),
            Part::Balancer => cell_of(Actor::spawn_linked(None, Balancer { core }, (), cell).await),
            Part::AddrConn(id) => {
                // Given up before it was started.
                let Some(subchannel) = core.registry.get(id) else { return };
                let addr_conn = AddrConn { core, subchannel };
                cell_of(Actor::spawn_linked(None, addr_conn, (), cell).await)
            }
        };
        match started {
            Ok(actor) => {
                life.children.insert(actor.get_id(), part);
                life.running.insert(part);
            }
            Err(error) => self.restart(me, life, part, &error),
        }
    }

    fn failed(&self, me: &ActorRef<Msg>, life: &mut Life, actor: &ActorCell, error: &str) {
        if let Some(part) = life.forget(actor) {
            tracing::error!(target: "switchboard", channel = %self.core.settings.target, ?part, error, "actor failed");
            self.restart(me, life, part, error);
        }
    }

    fn restart(&self, me: &ActorRef<Msg>, life: &mut Life, part: Part, error: &str) {
        let proved = match part {
            Part::ClientConn => revive(&self.core.lives.client_conn),
            Part::Resolver => revive(&self.core.lives.resolver),
            Part::Balancer => revive(&self.core.lives.balancer),
            Part::AddrConn(id) => match self.core.registry.get(id) {
                Some(subchannel) => revive(&subchannel.lives),
                None => return,
            },
        };
        life.vitals.count("restarts of others");
        let status = Status::unavailable(format!("the channel's {part} fails: {error}"));
        life.vitals.fail(status.clone());
        let failures = life.failures.entry(part).or_default();
        let now = Instant::now().into_std();
        let (next, wait) = failures.step(now, proved, &self.core.settings.backoff);
        *failures = next;
        if next.in_a_row() > FAILURES_TOLERATED {
            self.report(part, status);
        }
        self.core.start_later(me, part, wait);
    }

    /// Calls learn that a part fails for good, unless a connection serves them.
    fn report(&self, part: Part, status: Status) {
        if part == Part::ClientConn {
            // It is dead, so this is the only writer.
            if !self.core.registry.any_live() {
                let picker = Arc::new(FailPicker(status));
                self.core.publish(ConnectivityState::TransientFailure, picker);
            }
        } else {
            self.core.client_conn.tell(client_conn::Msg::PartFailed(status));
        }
    }

    fn inspect(&self, life: &Life, reply: oneshot::Sender<ActorReport>) {
        // Whoever asked may have stopped waiting.
        let _ = reply.send(life.vitals.report(self.core.supervisor.depth(), None));
    }
}

impl Life {
    /// The part that `actor` was, if it was one.
    fn forget(&mut self, actor: &ActorCell) -> Option<Part> {
        let part = self.children.remove(&actor.get_id())?;
        self.running.remove(&part);
        Some(part)
    }
}

impl Core {
    fn start_later(&self, supervisor: &ActorRef<Msg>, part: Part, wait: Duration) {
        let supervisor = supervisor.clone();
        self.tasks.spawn(async move {
            tokio::time::sleep(wait).await;
            // A Supervisor that is gone has a successor, which starts everything.
            let _ = supervisor.cast(Msg::Own(Own(part)));
        });
    }
}

/// Counts a restart; says whether the part had proved itself since the last.
fn revive(record: &Record) -> bool {
    record.count_restart();
    record.take_proof()
}

fn cell_of<M>(
    spawned: Result<(ActorRef<M>, ractor::concurrency::JoinHandle<()>), ractor::SpawnErr>,
) -> Result<ActorCell, String> {
    match spawned {
        Ok((actor, _)) => Ok(actor.get_cell()),
        Err(error) => Err(error.to_string()),
    }
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ClientConn => ActorKind::ClientConn.fmt(f),
            Self::Resolver => ActorKind::Resolver.fmt(f),
            Self::Balancer => ActorKind::Balancer.fmt(f),
            Self::AddrConn(id) => write!(f, "{} {id}", ActorKind::AddrConn),
        }
    }
}

/// Failures in a row after which calls are told. One may be chance, three are a fault that stays.
const FAILURES_TOLERATED: u32 = 3;
