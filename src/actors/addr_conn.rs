//! `AddrConn`: one address, and the connections to it: one, or as many as calls need.
//!
//! When to dial, wait and report is [`policy::connection`](crate::policy::connection)'s decision,
//! and its state lies in [`Core`], so that a new life goes on in the middle of a backoff or with
//! the connection that is serving. Whether there are to be more connections than that one is
//! [`policy::scaling`](crate::policy::scaling)'s decision; they show to nobody else. The dial is a task of its own; so is the connection's driver,
//! which outlives the `AddrConn` for as long as calls are on it.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::Instant;

#[cfg(feature = "test-util")]
use super::faults::Fault;
use super::registry::{Standing, Subchannel};
use super::timer::Timer;
use super::vitals::Vitals;
use super::{Core, balancer, resolver};
use crate::observe::{ActorKind, ActorReport};
use crate::policy::chance::Dice;
use crate::policy::connection::{Effect, Event, State, Timing};
use crate::policy::scaling;
use crate::transport::{self, ConnectError, Connection, ConnectionOptions, Disconnect, Driver};
use crate::types::{ConnectivityState, Status};

/// What an `AddrConn` is told.
pub(crate) enum Msg {
    /// Connect, if idle.
    Connect,
    /// End: no new calls, open ones go on.
    Retire,
    /// Do not wait for the end of the backoff.
    ResetBackoff,
    /// A connection takes no more calls.
    Lost(Disconnect),
    /// Calls wait for room.
    Crowded,
    /// Tell how you stand.
    Inspect(oneshot::Sender<ActorReport>),
    /// Suffer this.
    #[cfg(feature = "test-util")]
    Inject(Fault),
    /// Something of its own came to its end.
    Own(Own),
}

/// A completion; only this file makes one.
pub(crate) struct Own(Completion);

enum Completion {
    Dialed {
        dial: u64,
        outcome: Box<Dialled>,
    },
    Wake(u64),
    /// A dial for a further connection.
    Grown {
        dial: u64,
        outcome: Box<Dialled>,
    },
    GrowthWake(u64),
}

type Dialled = Result<(Connection, Driver), ConnectError>;

pub(super) struct AddrConn {
    pub(super) core: Arc<Core>,
    pub(super) subchannel: Arc<Subchannel>,
}

pub(super) struct Life {
    timer: Timer,
    dice: Dice,
    dial: Option<Dial>,
    dials: u64,
    scaling: scaling::State,
    growth_timer: Timer,
    growth: Option<Dial>,
    vitals: Vitals,
}

/// A dial that is under way. Dropping it ends it.
struct Dial(AbortHandle);

impl Drop for Dial {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Actor for AddrConn {
    type Msg = Msg;
    type State = Life;
    type Arguments = ();

    async fn pre_start(
        &self,
        me: ActorRef<Msg>,
        (): (),
    ) -> Result<Self::State, ActorProcessingErr> {
        self.subchannel.mailbox.take_over(me.clone());
        let serial = u64::from(self.subchannel.id.serial());
        let restarts = self.subchannel.lives.restarts();
        let mut life = Life {
            timer: Timer::new(self.core.tasks.clone()),
            dice: Dice::new(
                self.core.settings.seed ^ serial.wrapping_mul(ADDR_CONN_DICE) ^ restarts,
            ),
            dial: None,
            dials: 0,
            scaling: scaling::State::default(),
            growth_timer: Timer::new(self.core.tasks.clone()),
            growth: None,
            vitals: Vitals::new(ActorKind::AddrConn, Some(self.subchannel.name()), restarts),
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
            self.subchannel.mailbox.one_taken();
        }
        match message {
            Msg::Connect => self.connect(&me, life),
            Msg::Retire => self.advance(&me, life, Event::Retire, None),
            Msg::ResetBackoff => self.advance(&me, life, Event::ResetBackoff, None),
            Msg::Lost(cause) => self.lost(&me, life, &cause),
            Msg::Crowded => {
                self.subchannel.look();
                self.scale(&me, life, scaling::Event::Looked);
            }
            Msg::Inspect(reply) => self.inspect(life, reply),
            #[cfg(feature = "test-util")]
            Msg::Inject(fault) => fault.suffer().await,
            Msg::Own(Own(completion)) => self.complete(&me, life, completion),
        }
        Ok(())
    }
}

impl AddrConn {
    /// Continues where an earlier life ended: with its connection, its backoff, or its orders.
    fn resume(&self, me: &ActorRef<Msg>, life: &mut Life) {
        let standing = self.subchannel.standing();
        life.vitals.enter(standing.machine.connectivity().to_string());
        life.arm(me, &standing.machine);
        match standing.machine {
            State::Ready if self.subchannel.slot.connection().is_none() => {
                self.advance(me, life, Event::Lost, None);
            }
            State::Connecting { deadline, .. } => {
                self.dial_first(me, life, Instant::from_std(deadline));
            }
            State::Idle { .. } | State::Ready | State::Backoff { .. } | State::Retired => {}
        }
        if self.subchannel.is_retired() {
            self.advance(me, life, Event::Retire, None);
        } else {
            self.connect(me, life);
        }
    }

    fn connect(&self, me: &ActorRef<Msg>, life: &mut Life) {
        if self.subchannel.take_order() {
            self.advance(me, life, Event::Connect, None);
        }
    }

    fn complete(&self, me: &ActorRef<Msg>, life: &mut Life, completion: Completion) {
        match completion {
            Completion::Dialed { dial, outcome } if dial == life.dials && life.dial.is_some() => {
                life.dial = None;
                match *outcome {
                    Ok((connection, driver)) => self.dialed(me, life, connection, driver),
                    Err(error) => self.dial_failed(me, life, error),
                }
            }
            Completion::Grown { dial, outcome } if dial == life.dials && life.growth.is_some() => {
                life.growth = None;
                self.grown(me, life, *outcome);
            }
            // The connection of this news has been replaced, or this dial given up.
            Completion::Dialed { .. } | Completion::Grown { .. } => {}
            Completion::GrowthWake(epoch) => {
                if life.growth_timer.is_current(epoch) {
                    self.scale(me, life, scaling::Event::Wake);
                }
            }
            Completion::Wake(epoch) => {
                if life.timer.is_current(epoch) {
                    self.advance(me, life, Event::Wake, None);
                }
            }
        }
    }

    fn dialed(&self, me: &ActorRef<Msg>, life: &mut Life, connection: Connection, driver: Driver) {
        life.vitals.count("connections");
        // Weak: the connection lies in the subchannel's slot.
        let subchannel = Arc::downgrade(&self.subchannel);
        connection.on_crowded(move || {
            if let Some(subchannel) = subchannel.upgrade() {
                subchannel.is_crowded();
            }
        });
        self.subchannel.slot.fill(connection.clone());
        self.start_driving(connection, driver);
        self.advance(me, life, Event::Dialed, None);
        self.scale(me, life, scaling::Event::Looked);
    }

    /// A dial for a further connection has ended.
    fn grown(&self, me: &ActorRef<Msg>, life: &mut Life, outcome: Dialled) {
        match outcome {
            Ok((connection, driver)) => {
                life.vitals.count("connections");
                // All others may have been lost meanwhile: then nobody would find this one.
                if self.subchannel.slot.connection().is_none() {
                    connection.drain();
                }
                self.start_driving(connection, driver);
                self.scale(me, life, scaling::Event::Dialed);
            }
            Err(error) => {
                life.vitals.count("failed dials");
                life.vitals.fail(error);
                self.scale(me, life, scaling::Event::Failed);
            }
        }
    }

    fn start_driving(&self, connection: Connection, driver: Driver) {
        let (core, subchannel) = (self.core.clone(), self.subchannel.clone());
        self.core.tasks.spawn(drive(core, subchannel, connection, driver));
    }

    /// Looks whether the address needs a further connection.
    fn scale(&self, me: &ActorRef<Msg>, life: &mut Life, event: scaling::Event) {
        let oldest = self.subchannel.slot.connection();
        let view = scaling::View {
            open: oldest.as_ref().map_or(0, |connection| connection.siblings().len()),
            waiting: oldest.as_ref().map_or(0, Connection::queued_streams),
        };
        let mut effects = Vec::new();
        let mut timing = Timing {
            backoff: &self.core.settings.backoff,
            min_connect_timeout: self.core.settings.min_connect_timeout,
            dice: &mut life.dice,
        };
        let goal = self.core.connections_goal();
        let now = Instant::now().into_std();
        life.scaling = life.scaling.step(now, event, view, goal, &mut timing, &mut effects);
        let wake_at = life.scaling.wake_at().map(Instant::from_std);
        life.growth_timer.arm(wake_at, me, |epoch| Msg::Own(Own(Completion::GrowthWake(epoch))));
        for effect in effects {
            match effect {
                scaling::Effect::Dial { deadline } => {
                    let deadline = Instant::from_std(deadline);
                    let grown = |dial, outcome| Completion::Grown { dial, outcome };
                    life.growth = Some(self.dial(me, life, oldest.clone(), deadline, grown));
                }
                scaling::Effect::AbandonDial => life.growth = None,
            }
        }
    }

    fn dial_failed(&self, me: &ActorRef<Msg>, life: &mut Life, error: ConnectError) {
        life.vitals.count("failed dials");
        life.vitals.fail(error.clone());
        let status = Status::unavailable(error.to_string()).with_source(error);
        self.advance(me, life, Event::DialFailed, Some(&status));
    }

    fn lost(&self, me: &ActorRef<Msg>, life: &mut Life, cause: &Disconnect) {
        life.vitals.count("lost connections");
        tracing::info!(target: "switchboard", %cause, "connection takes no more calls");
        life.vitals.fail(cause.clone());
        self.core.memory().disconnect = Some((Instant::now(), cause.clone()));
        // News of an older connection says nothing of the one that serves now.
        if self.subchannel.slot.connection().is_none() {
            self.advance(me, life, Event::Lost, None);
        }
        self.scale(me, life, scaling::Event::Looked);
    }

    fn inspect(&self, life: &Life, reply: oneshot::Sender<ActorReport>) {
        let timer = life.timer.fires_at().map(|at| ("end of backoff", at));
        let mut report = life.vitals.report(self.subchannel.mailbox.depth(), timer);
        if let Some(connection) = self.subchannel.slot.connection() {
            report.counters.insert("queued streams", connection.queued_streams() as u64);
            let siblings = connection.siblings();
            report.counters.insert("open connections", siblings.len() as u64);
            for connection in siblings.iter() {
                let traffic = connection.traffic();
                for (name, count) in [
                    ("open streams", connection.open_streams() as u64),
                    ("streams", traffic.streams_started),
                    ("messages sent", traffic.messages_sent),
                    ("messages received", traffic.messages_received),
                    ("bytes sent", traffic.bytes_written),
                    ("bytes received", traffic.bytes_read),
                ] {
                    *report.counters.entry(name).or_default() += count;
                }
            }
            report.facts.insert("security", connection.security_level().to_string());
            if let Some(round_trip) = connection.round_trip() {
                report.facts.insert("round trip", format!("{round_trip:.1?}"));
            }
            let allowed = connection.max_concurrent_streams();
            if allowed < NO_LIMIT {
                report.counters.insert("streams allowed", allowed as u64);
            }
        }
        // Whoever asked may have stopped waiting.
        let _ = reply.send(report);
    }

    /// One step of the machine: the new standing is written down, then carried out.
    fn advance(&self, me: &ActorRef<Msg>, life: &mut Life, event: Event, error: Option<&Status>) {
        let machine = self.subchannel.standing().machine;
        let mut effects = Vec::new();
        let mut timing = Timing {
            backoff: &self.core.settings.backoff,
            min_connect_timeout: self.core.settings.min_connect_timeout,
            dice: &mut life.dice,
        };
        let machine = machine.step(Instant::now().into_std(), event, &mut timing, &mut effects);
        life.arm(me, &machine);
        self.subchannel.set_standing(Standing { machine, error: error.cloned() });
        for effect in effects {
            self.perform(me, life, effect, error);
        }
    }

    fn perform(&self, me: &ActorRef<Msg>, life: &mut Life, effect: Effect, error: Option<&Status>) {
        match effect {
            Effect::Dial { deadline } => self.dial_first(me, life, Instant::from_std(deadline)),
            Effect::AbandonDial => life.dial = None,
            Effect::ResolveNow => {
                self.core.resolver.tell(resolver::Msg::ResolveNow);
            }
            Effect::Report(connectivity) => self.report(me, life, connectivity, error),
            Effect::Drain => {
                life.growth = None;
                if let Some(connection) = self.subchannel.slot.empty() {
                    connection.siblings().iter().for_each(Connection::drain);
                }
            }
        }
    }

    fn report(
        &self,
        me: &ActorRef<Msg>,
        life: &mut Life,
        connectivity: ConnectivityState,
        error: Option<&Status>,
    ) {
        let address = &self.subchannel.address;
        match error {
            Some(error) => {
                tracing::info!(target: "switchboard", %address, state = %connectivity, cause = error.message(), "subchannel");
            }
            None => {
                tracing::info!(target: "switchboard", %address, state = %connectivity, "subchannel");
            }
        }
        life.vitals.enter(connectivity.to_string());
        self.subchannel.lives.prove();
        if connectivity == ConnectivityState::Shutdown {
            me.stop(None);
            return;
        }
        let state = crate::policy::lb::SubchannelState { connectivity, error: error.cloned() };
        let id = self.subchannel.id;
        self.core.balancer.tell(balancer::Msg::SubchannelChanged { id, state });
    }

    fn dial_first(&self, me: &ActorRef<Msg>, life: &mut Life, deadline: Instant) {
        let dialed = |dial, outcome| Completion::Dialed { dial, outcome };
        life.dial = Some(self.dial(me, life, None, deadline, dialed));
    }

    /// Dials, for a connection that shares the calls with `beside` if there is one.
    fn dial(
        &self,
        me: &ActorRef<Msg>,
        life: &mut Life,
        beside: Option<Connection>,
        deadline: Instant,
        completion: impl FnOnce(u64, Box<Dialled>) -> Completion + Send + 'static,
    ) -> Dial {
        life.dials += 1;
        life.vitals.count("dials");
        let (core, me, dial) = (self.core.clone(), me.clone(), life.dials);
        let address = self.subchannel.address.clone();
        let task = self.core.tasks.spawn(async move {
            let settings = &core.settings;
            let asked_at = Instant::now();
            let _place = core.dials.acquire().await;
            // The time until it is its turn is not the server's fault.
            let deadline = deadline + asked_at.elapsed();
            let options =
                ConnectionOptions { keepalive: core.keepalive(), ..settings.connection.clone() };
            let outcome = transport::dial(
                settings.connector.as_ref(),
                &settings.security,
                &address,
                &settings.authority,
                &options,
                beside.as_ref(),
                deadline,
            )
            .await;
            // If the actor is gone nobody wants the connection, and dropping it closes it.
            let _ = me.cast(Msg::Own(Own(completion(dial, Box::new(outcome)))));
        });
        Dial(task.abort_handle())
    }
}

impl Life {
    fn arm(&mut self, me: &ActorRef<Msg>, machine: &State) {
        let wake_at = machine.wake_at().map(Instant::from_std);
        self.timer.arm(wake_at, me, |epoch| Msg::Own(Own(Completion::Wake(epoch))));
    }
}

/// Runs a connection to its end.
async fn drive(
    core: Arc<Core>,
    subchannel: Arc<Subchannel>,
    connection: Connection,
    driver: Driver,
) {
    let keepalive_time = connection.keepalive_time();
    let key = core.connections().insert(connection.clone());
    driver
        .run(|cause| {
            if let (true, Some(time)) = (cause.is_too_many_pings(), keepalive_time) {
                core.ask_less_often(time);
            }
            // Calls stop picking it at once; the actors hear of it when they come to it.
            subchannel.slot.empty_if_unusable();
            subchannel.mailbox.tell(Msg::Lost(cause.clone()));
        })
        .await;
    if connection.traffic().streams_started > 0 {
        // Calls that it was lost under are over now.
        let over_at = connection.unused_since().unwrap_or_else(Instant::now);
        core.shared.activity.over_at(over_at);
    }
    core.connections().remove(key);
}

/// What a server that sets no limit to streams amounts to.
const NO_LIMIT: usize = u32::MAX as usize;

/// Sets the dice of the `AddrConn`s of one seed apart.
const ADDR_CONN_DICE: u64 = 0x9e37_79b9_7f4a_7c15;
