//! `AddrConn`: one address, and the connections to it: one, or as many as calls need.
//!
//! When to dial, wait and report is [`policy::connection`](crate::policy::connection)'s decision,
//! and its state lies in [`Core`], so that a new life goes on in the middle of a backoff or with
//! the connection that is serving. Whether there are to be more connections than that one is
//! [`policy::scaling`](crate::policy::scaling)'s decision; they show to nobody else. What the
//! server says of its health, where it is asked, [`policy::health`](crate::policy::health) makes
//! something of. The dial is a task of its own, and so is the watch; so is the connection's driver,
//! which outlives the `AddrConn` for as long as calls are on it.

use std::mem;
use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};
use tracing::Level;

#[cfg(feature = "test-util")]
use super::faults::Blow;
use super::health::{Said, Watch, fact, failed, not_serving};
use super::open::{Open, tell_of_dial};
use super::registry::{Health, Subchannel};
use super::task::spawn_told;
use super::timer::Timer;
use super::vitals::Vitals;
use super::{Core, balancer, resolver};
use crate::call::WatchEnd;
use crate::observe::{ActorKind, ActorReport, ChannelEvent, Trouble};
use crate::policy::connection::{Effect, Event, Growth, Loss, Proof, State, Timing};
use crate::policy::lb::SubchannelState;
use crate::policy::{health, scaling};
use crate::transport::{
    self, ConnectError, ConnectFault, Connection, ConnectionOptions, Disconnect, DisconnectCause,
    Driver, News,
};
use crate::types::Dice;
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
    /// The server has answered a call on a connection that was lost before it had answered any.
    Answered,
    /// Calls wait for room.
    Crowded,
    /// See what the policy and the service config want now: whether the server is to be asked
    /// whether it serves, and for what; how many connections there may be.
    MindConfig,
    /// Tell how you stand.
    Inspect(oneshot::Sender<ActorReport>),
    /// Suffer this.
    #[cfg(feature = "test-util")]
    Inject(Blow),
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
    /// A dial that began for a further connection, which is driven already.
    Grown {
        dial: u64,
        outcome: Result<(), Box<ConnectError>>,
    },
    GrowthWake(u64),
    /// A watch has something to tell; it waits until this is dropped.
    Watched {
        watch: u64,
        said: Said,
        _heard: oneshot::Sender<()>,
    },
    HealthWake(u64),
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
    health_timer: Timer,
    watch: Option<Watch>,
    watches: u64,
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
            health_timer: Timer::new(self.core.tasks.clone()),
            watch: None,
            watches: 0,
            vitals: Vitals::new(
                &self.core,
                ActorKind::AddrConn,
                Some(self.subchannel.name()),
                restarts,
            ),
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
            Msg::Retire => self.advance(&me, life, Event::Retire),
            Msg::ResetBackoff => {
                self.advance(&me, life, Event::ResetBackoff);
                self.scale(&me, life, scaling::Event::ResetBackoff);
                self.advance_health(&me, life, health::Event::ResetBackoff, None);
            }
            Msg::Lost(cause) => self.lost(&me, life, &cause),
            Msg::Answered => self.advance(&me, life, Event::Answered),
            Msg::Crowded => {
                self.subchannel.look();
                self.scale(&me, life, scaling::Event::Looked);
            }
            Msg::MindConfig => {
                self.mind_health(&me, life);
                self.scale(&me, life, scaling::Event::Looked);
            }
            Msg::Inspect(reply) => self.inspect(life, reply),
            #[cfg(feature = "test-util")]
            Msg::Inject(blow) => blow.suffer().await,
            Msg::Own(Own(completion)) => self.complete(&me, life, completion),
        }
        Ok(())
    }
}

impl AddrConn {
    /// Continues where an earlier life ended: with its connection, its backoff, or its orders.
    fn resume(&self, me: &ActorRef<Msg>, life: &mut Life) {
        let machine = self.subchannel.machine();
        life.vitals.enter(machine.connectivity().to_string());
        life.arm(me, &machine);
        life.arm_health(me, &self.subchannel.health().machine);
        self.mind_health(me, life);
        match machine {
            State::Ready { .. } => {
                if !self.subchannel.slot.has_connection() {
                    self.advance_lost(me, life, Growth::None);
                }
                // The watch has ended with the life that held it.
                self.move_watch(me, life);
                // So may have word of calls that wait.
                self.subchannel.look();
                self.scale(me, life, scaling::Event::Looked);
            }
            State::Connecting { deadline, .. } => {
                self.dial_first(me, life, Instant::from_std(deadline));
            }
            State::Idle { .. } | State::Pausing { .. } | State::Backoff { .. } | State::Retired => {
            }
        }
        if self.subchannel.is_retired() {
            self.advance(me, life, Event::Retire);
        } else {
            self.connect(me, life);
        }
    }

    fn connect(&self, me: &ActorRef<Msg>, life: &mut Life) {
        if self.subchannel.take_order() {
            self.advance(me, life, Event::Connect);
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
                self.grown(me, life, outcome);
            }
            // All others were lost meanwhile.
            Completion::Grown { dial, outcome } if dial == life.dials && life.dial.is_some() => {
                life.dial = None;
                match outcome {
                    Ok(()) => self.connected(me, life),
                    Err(error) => self.dial_failed(me, life, *error),
                }
            }
            // The connection of this news has been replaced, or this dial given up.
            Completion::Dialed { .. } | Completion::Grown { .. } => {}
            Completion::Watched { watch, said, _heard } => {
                // One that was ended may have had something to say.
                if watch == life.watches && life.watch.is_some() {
                    self.watched(me, life, said);
                }
            }
            Completion::HealthWake(epoch) => {
                if life.health_timer.is_current(epoch) {
                    self.advance_health(me, life, health::Event::Wake, None);
                }
            }
            Completion::GrowthWake(epoch) => {
                if life.growth_timer.is_current(epoch) {
                    self.scale(me, life, scaling::Event::Wake);
                }
            }
            Completion::Wake(epoch) => {
                if life.timer.is_current(epoch) {
                    self.advance(me, life, Event::Wake);
                }
            }
        }
    }

    fn dialed(&self, me: &ActorRef<Msg>, life: &mut Life, connection: Connection, driver: Driver) {
        put_in(&self.core, &self.subchannel, &connection);
        drive(self.core.clone(), self.subchannel.clone(), connection, driver);
        self.connected(me, life);
    }

    /// The dial has led to a connection, which is in the slot.
    fn connected(&self, me: &ActorRef<Msg>, life: &mut Life) {
        life.vitals.count("connections");
        self.advance(me, life, Event::Dialed);
        self.advance_health(me, life, health::Event::Connected, None);
        // One that has been driven for a while may be gone, and this may have been told.
        self.look_for_loss(me, life);
        self.scale(me, life, scaling::Event::Looked);
    }

    /// A dial for a further connection has ended.
    fn grown(&self, me: &ActorRef<Msg>, life: &mut Life, outcome: Result<(), Box<ConnectError>>) {
        match outcome {
            Ok(()) => {
                life.vitals.count("connections");
                self.scale(me, life, scaling::Event::Dialed);
            }
            Err(error) => {
                life.vitals.count("failed dials");
                life.vitals.fail((*error).clone());
                self.scale(me, life, scaling::Event::Failed(unavailable(*error)));
            }
        }
    }

    /// Looks whether the address needs a further connection.
    fn scale(&self, me: &ActorRef<Msg>, life: &mut Life, event: scaling::Event) {
        let oldest = self.subchannel.slot.connection();
        let view = scaling::View {
            open: oldest.as_ref().map_or(0, |connection| connection.siblings().len()),
            waiting: oldest.as_ref().map_or(0, Connection::queued_streams),
        };
        let mut timing = Timing {
            backoff: &self.core.settings.backoff,
            min_connect_timeout: self.core.settings.min_connect_timeout,
            dice: &mut life.dice,
        };
        let goal = self.core.connections_goal();
        let now = Instant::now().into_std();
        let before = mem::take(&mut life.scaling);
        let (scaling, dial) = before.step(now, event, view, goal, &mut timing);
        life.scaling = scaling;
        life.arm_growth(me);
        if let Some(scaling::Dial { deadline }) = dial {
            let (core, subchannel) = (self.core.clone(), self.subchannel.clone());
            let grown = move |dial, outcome: Box<Dialled>| {
                // Calls are on it as soon as it stands beside the others: it must not wait for
                // this actor to be driven, which may be busy, or dead.
                let joined = |(connection, driver)| join(core, subchannel, connection, driver);
                Completion::Grown { dial, outcome: outcome.map(joined).map_err(Box::new) }
            };
            life.growth = Some(self.dial(me, life, oldest, Instant::from_std(deadline), grown));
        }
    }

    fn dial_failed(&self, me: &ActorRef<Msg>, life: &mut Life, error: ConnectError) {
        life.vitals.count("failed dials");
        life.vitals.fail(error.clone());
        self.advance(me, life, Event::DialFailed(unavailable(error)));
    }

    fn lost(&self, me: &ActorRef<Msg>, life: &mut Life, cause: &Disconnect) {
        life.vitals.count("lost connections");
        let log = &self.core.settings.log;
        log.tell(
            Level::INFO,
            "connection takes no more calls",
            &self.subchannel.address,
            Some(cause),
        );
        life.vitals.fail(cause.clone());
        self.core.memory().disconnect = Some((Instant::now(), cause.clone()));
        // News of an older connection says nothing of the one that serves now.
        self.look_for_loss(me, life);
        // If there are others: perhaps it was on this one, which it must not keep from closing.
        self.move_watch(me, life);
        self.scale(me, life, scaling::Event::Looked);
    }

    /// Looks whether the last connection is gone. What was under way for a further one is then
    /// what the subchannel goes on with.
    fn look_for_loss(&self, me: &ActorRef<Msg>, life: &mut Life) {
        let is_ready = matches!(self.subchannel.machine(), State::Ready { .. });
        if !is_ready || self.subchannel.slot.has_connection() {
            return;
        }
        let growth = life.scaling.hand_over();
        life.arm_growth(me);
        life.dial = life.growth.take();
        self.advance_lost(me, life, growth);
    }

    /// The last connection is gone.
    fn advance_lost(&self, me: &ActorRef<Msg>, life: &mut Life, growth: Growth) {
        let record = self.subchannel.record();
        let cause = match record.loss {
            Some(loss) => Status::unavailable(format!("{loss}, before any call was answered"))
                .with_source(loss),
            // Whoever has taken it from the slot is about to say why.
            None => Status::unavailable(format!(
                "{}: the connection was lost before any call was answered",
                self.subchannel.address
            )),
        };
        let loss = Loss { proof: record.proof, cause, growth };
        self.advance(me, life, Event::Lost(loss));
    }

    /// Goes by what the policy and the service config say of health checks now.
    fn mind_health(&self, me: &ActorRef<Msg>, life: &mut Life) {
        let service = self.core.health_service().filter(|_| self.subchannel.is_watched());
        let health = self.subchannel.health();
        if service == health.service {
            return;
        }
        let is_on = service.is_some();
        self.subchannel.set_health(Health { service, ..health });
        if !is_on {
            return self.advance_health(me, life, health::Event::Disabled, None);
        }
        self.advance_health(me, life, health::Event::Enabled, None);
        let is_ready = matches!(self.subchannel.machine(), State::Ready { .. });
        if is_ready && self.subchannel.slot.has_connection() {
            self.advance_health(me, life, health::Event::Connected, None);
        }
    }

    /// The watch goes to the connection that there is now, or ends if there is none.
    fn move_watch(&self, me: &ActorRef<Msg>, life: &mut Life) {
        let is_connected = self.subchannel.slot.has_connection();
        let event = match self.subchannel.health().machine {
            _ if !is_connected => health::Event::Lost,
            health::State::Unconnected => health::Event::Connected,
            health::State::Off
            | health::State::Checking { .. }
            | health::State::Serving
            | health::State::NotServing
            | health::State::Resting { .. }
            | health::State::Unsupported => health::Event::Moved,
        };
        self.advance_health(me, life, event, None);
    }

    /// A watch has something to tell.
    fn watched(&self, me: &ActorRef<Msg>, life: &mut Life, said: Said) {
        let Some(service) = self.subchannel.health().service else { return };
        let address = &self.subchannel.address;
        let (event, error) = match said {
            Said::Status(status) if status.is_serving() => {
                (health::Event::Answered { serving: true }, None)
            }
            Said::Status(status) => {
                let error = not_serving(address, &service, status);
                (health::Event::Answered { serving: false }, Some(error))
            }
            Said::End(WatchEnd::ConnectionLost) => {
                // No word on the server's health. Whose end it is may not have done this yet.
                self.subchannel.slot.renew();
                return self.move_watch(me, life);
            }
            Said::End(WatchEnd::Unimplemented(status)) => {
                (health::Event::Unimplemented, Some(status))
            }
            Said::End(WatchEnd::Failed(status)) => {
                (health::Event::WatchEnded, Some(failed(address, &service, status)))
            }
        };
        if let Some(error) = &error {
            life.vitals.fail(error.clone());
        }
        self.advance_health(me, life, event, error);
    }

    /// One step of the machine of health: written down, then carried out.
    fn advance_health(
        &self,
        me: &ActorRef<Msg>,
        life: &mut Life,
        event: health::Event,
        error: Option<Status>,
    ) {
        let before = self.subchannel.health();
        let mut effects = Vec::new();
        let mut pace = health::Pace { backoff: &self.core.settings.backoff, dice: &mut life.dice };
        let now = Instant::now();
        let machine = before.machine.step(now.into_std(), event, &mut pace, &mut effects);
        let is_same = mem::discriminant(&machine) == mem::discriminant(&before.machine);
        let needs_reason = match machine {
            health::State::NotServing
            | health::State::Resting { .. }
            | health::State::Unsupported => true,
            health::State::Off
            | health::State::Unconnected
            | health::State::Checking { .. }
            | health::State::Serving => false,
        };
        let health = Health {
            machine,
            service: before.service.clone(),
            error: error.or_else(|| before.error.clone()).filter(|_| needs_reason),
            since: before.since.filter(|_| is_same).or(Some(now)),
        };
        life.arm_health(me, &machine);
        let words = |health: &Health| health.error.as_ref().map(|it| it.text().to_string());
        let is_news = !is_same || words(&before) != words(&health);
        self.subchannel.set_health(health.clone());
        for effect in effects {
            match effect {
                health::Effect::Watch => self.watch(me, life, &health),
                health::Effect::StopWatch => life.watch = None,
                health::Effect::Complain => {
                    // It follows from an answer of the server alone, which is the reason.
                    health.error.iter().for_each(|cause| self.complain(cause));
                }
                health::Effect::Report(connectivity) => {
                    if is_news {
                        self.report_health(&health, connectivity);
                    }
                }
            }
        }
    }

    fn watch(&self, me: &ActorRef<Msg>, life: &mut Life, health: &Health) {
        life.watch = None;
        // Without a connection its loss is on the way, which is the end of this.
        let connection = self.subchannel.slot.connection();
        let (Some(connection), Some(service)) = (connection, &health.service) else { return };
        life.watches += 1;
        life.vitals.count("health watches");
        let (me, watch) = (me.clone(), life.watches);
        let tell = move |said, heard| {
            // If the actor is gone nobody wants to know.
            let _ = me.cast(Msg::Own(Own(Completion::Watched { watch, said, _heard: heard })));
        };
        let counted = self.core.settings.observers.own_call(self.subchannel.id);
        let watch = Watch::begin(&self.core, connection, service.clone(), counted, tell);
        life.watch = Some(watch);
    }

    fn complain(&self, cause: &Status) {
        let (subchannel, address) = (self.subchannel.id, &self.subchannel.address);
        let what = "the service config wants health checks, and the server has no \
                    grpc.health.v1.Health/Watch: it is taken as healthy";
        self.core.settings.log.tell(Level::ERROR, what, address, Some(&cause.text()));
        self.core.settings.observers.tell(|| ChannelEvent::HealthCheckUnimplemented {
            subchannel,
            address,
            cause,
        });
    }

    fn report_health(&self, health: &Health, connectivity: ConnectivityState) {
        let address = &self.subchannel.address;
        let cause = health.error.as_ref().map(Status::message).unwrap_or_default();
        let log = &self.core.settings.log;
        match connectivity {
            ConnectivityState::TransientFailure => log.fails(Trouble::NotServing, address, &cause),
            ConnectivityState::Ready => {
                log.recovers(Trouble::NotServing, address);
            }
            ConnectivityState::Idle
            | ConnectivityState::Connecting
            | ConnectivityState::Shutdown => {}
        }
        if self.subchannel.tells_health() {
            let told = balancer::Msg::HealthChanged(self.subchannel.id);
            self.core.balancer.tell(told);
        }
    }

    fn inspect(&self, life: &Life, reply: oneshot::Sender<ActorReport>) {
        let next_watch = life.health_timer.fires_at().map(|at| ("next health check", at));
        let timer = life.timer.fires_at().map(|at| ("end of backoff", at)).or(next_watch);
        let mut report = life.vitals.report(self.subchannel.mailbox.depth(), timer);
        report.facts.insert("health", fact(&self.subchannel.health()));
        if let Some(connection) = self.subchannel.slot.connection() {
            report.counters.insert("queued streams", connection.queued_streams() as u64);
            report.connections = connection.siblings().iter().map(Connection::report).collect();
        }
        // Whoever asked may have stopped waiting.
        let _ = reply.send(report);
    }

    /// One step of the machine: the new state is written down, then carried out.
    fn advance(&self, me: &ActorRef<Msg>, life: &mut Life, event: Event) {
        let machine = self.subchannel.machine();
        let mut effects = Vec::new();
        let mut timing = Timing {
            backoff: &self.core.settings.backoff,
            min_connect_timeout: self.core.settings.min_connect_timeout,
            dice: &mut life.dice,
        };
        let machine = machine.step(Instant::now().into_std(), event, &mut timing, &mut effects);
        life.arm(me, &machine);
        let state = machine.reported();
        self.subchannel.set_machine(machine);
        for effect in effects {
            match effect {
                Effect::Dial { deadline } => self.dial_first(me, life, Instant::from_std(deadline)),
                Effect::AbandonDial => life.dial = None,
                Effect::ResolveNow => {
                    self.core.resolver.tell(resolver::Msg::ResolveNow);
                }
                Effect::Report(connectivity) => self.report(me, life, connectivity, &state),
                Effect::Drain => {
                    life.growth = None;
                    life.watch = None;
                    self.subchannel.drain();
                }
            }
        }
    }

    fn report(
        &self,
        me: &ActorRef<Msg>,
        life: &mut Life,
        connectivity: ConnectivityState,
        state: &SubchannelState,
    ) {
        let address = &self.subchannel.address;
        let cause = state.error.as_ref().map(Status::message);
        let log = &self.core.settings.log;
        match connectivity {
            ConnectivityState::TransientFailure => {
                log.fails(Trouble::Unreachable, address, &cause.unwrap_or_default());
            }
            ConnectivityState::Ready if log.recovers(Trouble::Unreachable, address) => {}
            ConnectivityState::Ready => log.tell(Level::INFO, "connected", address, None),
            ConnectivityState::Connecting => log.tell(Level::DEBUG, "connecting", address, None),
            ConnectivityState::Idle => log.tell(Level::DEBUG, "not connected", address, None),
            ConnectivityState::Shutdown => log.tell(Level::DEBUG, "given up", address, None),
        }
        life.vitals.enter_because(connectivity.to_string(), cause);
        self.subchannel.lives.prove();
        if connectivity == ConnectivityState::Shutdown {
            me.stop(None);
            return;
        }
        let (id, state) = (self.subchannel.id, state.clone());
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
        let subchannel = self.subchannel.clone();
        let address = subchannel.address.clone();
        let dialling = async move {
            let settings = &core.settings;
            let asked_at = Instant::now();
            let next_dial = subchannel.next_dial();
            if next_dial > asked_at {
                sleep_until(next_dial).await;
            }
            let _place = core.dials.acquire().await;
            // The time until it is its turn is not the server's fault.
            let begun_at = Instant::now();
            let deadline = deadline + (begun_at - asked_at);
            let options =
                ConnectionOptions { keepalive: core.keepalive(), ..settings.connection.clone() };
            let outcome = transport::dial(
                &settings.connector,
                &settings.security,
                &subchannel.address,
                &settings.authority,
                &options,
                beside.as_ref(),
                deadline,
            )
            .await;
            if outcome.is_ok() {
                subchannel.has_dialled(begun_at);
            }
            tell_of_dial(&settings.observers, &subchannel, begun_at.elapsed(), &outcome);
            outcome
        };
        Dial(spawn_told(&self.core.tasks, dialling, move |outcome| {
            let gone = || Err(ConnectError::new(address, ConnectFault::Abandoned));
            let outcome = Box::new(outcome.unwrap_or_else(gone));
            // If the actor is gone nobody wants the connection, and dropping it closes it.
            let _ = me.cast(Msg::Own(Own(completion(dial, outcome))));
        }))
    }
}

impl Life {
    fn arm(&mut self, me: &ActorRef<Msg>, machine: &State) {
        let wake_at = machine.wake_at().map(Instant::from_std);
        self.timer.arm(wake_at, me, |epoch| Msg::Own(Own(Completion::Wake(epoch))));
    }

    fn arm_growth(&mut self, me: &ActorRef<Msg>) {
        let wake_at = self.scaling.wake_at().map(Instant::from_std);
        self.growth_timer.arm(wake_at, me, |epoch| Msg::Own(Own(Completion::GrowthWake(epoch))));
    }

    fn arm_health(&mut self, me: &ActorRef<Msg>, machine: &health::State) {
        let wake_at = machine.wake_at().map(Instant::from_std);
        self.health_timer.arm(wake_at, me, |epoch| Msg::Own(Own(Completion::HealthWake(epoch))));
    }
}

/// Puts the first connection where calls find it.
fn put_in(core: &Core, subchannel: &Arc<Subchannel>, connection: &Connection) {
    // Weak: the connection lies in the subchannel's slot.
    let crowded = Arc::downgrade(subchannel);
    connection.on_crowded(move || {
        if let Some(subchannel) = crowded.upgrade() {
            subchannel.is_crowded();
        }
    });
    if !matches!(subchannel.machine(), State::Ready { .. }) {
        // The loss of the one before has been acted on.
        subchannel.begin_record();
    }
    if let Some(earlier) = subchannel.slot.fill(connection.clone()) {
        // One that a crash made its actor forget. Calls find it no more.
        earlier.siblings().iter().for_each(Connection::drain);
    }
    core.shared.slot_filled();
    if subchannel.is_retired() {
        // The order to end is still on its way; should this life of the actor not come to it, no
        // other will.
        subchannel.drain();
    }
}

/// Has a further connection driven. Where all others were lost meanwhile, it takes their place.
fn join(core: Arc<Core>, subchannel: Arc<Subchannel>, connection: Connection, driver: Driver) {
    if !subchannel.slot.has_connection() {
        put_in(&core, &subchannel, &connection);
    }
    drive(core, subchannel, connection, driver);
}

fn unavailable(error: ConnectError) -> Status {
    Status::unavailable(error.to_string()).with_source(error)
}

/// Has a connection run to its end, as a task.
fn drive(core: Arc<Core>, subchannel: Arc<Subchannel>, connection: Connection, driver: Driver) {
    let tasks = core.tasks.clone();
    // In this order they are dropped, should the task never be polled.
    let both = (driver, Driven::begin(core, subchannel, connection));
    tasks.spawn(async move {
        let (driver, mut owner) = both;
        driver.run(|news| owner.hear(news)).await;
    });
}

/// A connection whose driver runs. However that comes to its end, be it by a panic or with its
/// runtime, the connection is lost with it, and its owner is told.
struct Driven {
    core: Arc<Core>,
    subchannel: Arc<Subchannel>,
    connection: Connection,
    /// Its place among those of the channel.
    key: usize,
    open: Open,
    is_lost: bool,
}

impl Driven {
    fn begin(core: Arc<Core>, subchannel: Arc<Subchannel>, connection: Connection) -> Self {
        let open = Open::new(&core.settings.observers, subchannel.id, &connection);
        let key = core.connections().insert(connection.clone());
        Self { core, subchannel, connection, key, open, is_lost: false }
    }

    fn hear(&mut self, news: News<'_>) {
        match news {
            News::TooManyPings => {
                if let Some(time) = self.connection.keepalive_time() {
                    self.core.ask_less_often(time);
                }
            }
            News::Draining(cause) => self.lost(cause),
            News::Answered => {
                self.subchannel.mailbox.tell(Msg::Answered);
            }
        }
    }

    /// It takes no more calls, because of `cause`.
    fn lost(&mut self, cause: &Disconnect) {
        self.is_lost = true;
        let proof = if self.connection.has_answered() {
            Proof::Answered
        } else if self.connection.may_yet_answer() {
            Proof::Expected
        } else {
            Proof::None
        };
        self.subchannel.note_loss(cause, proof);
        // Calls stop picking it at once, before anybody is told; the actors hear of it when they
        // come to it.
        self.subchannel.slot.renew();
        self.open.disconnected(cause);
        self.subchannel.mailbox.tell(Msg::Lost(cause.clone()));
    }
}

impl Drop for Driven {
    fn drop(&mut self) {
        if !self.is_lost {
            let address = self.connection.address().clone();
            self.lost(&Disconnect::new(address, DisconnectCause::Abandoned));
        }
        if self.connection.has_had_calls() {
            // Calls that it was lost under are over now.
            let over_at = self.connection.unused_since().unwrap_or_else(Instant::now);
            self.core.shared.activity.over_at(over_at);
        }
        let gone = self.core.connections().remove(self.key);
        drop(gone);
    }
}

/// Sets the dice of the `AddrConn`s of one seed apart.
const ADDR_CONN_DICE: u64 = 0x9e37_79b9_7f4a_7c15;
