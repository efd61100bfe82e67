//! `ClientConn`: the sole writer of the snapshot that calls read.
//!
//! It takes what resolution says to the Balancer, and what the Balancer says to the calls. The
//! decisions are [`policy::channel`](crate::policy::channel)'s; a new life begins from what
//! [`Core`] remembers, so that a crash loses nothing.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::core::Resolved;
#[cfg(feature = "test-util")]
use super::faults::Blow;
use super::timer::Timer;
use super::vitals::Vitals;
use super::{Core, balancer, resolver};
use crate::observe::{ActorKind, ActorReport, ChannelEvent};
use crate::policy::channel::{Effect, Event, State};
use crate::policy::idle::{self, GoIdle};
use crate::policy::lb::{FailPicker, Picker};
use crate::policy::service_config::ServiceConfig;
use crate::types::{ConnectivityState, Status};

/// What a `ClientConn` is told.
pub(crate) enum Msg {
    /// A call or a user wants the channel.
    Demand,
    /// The Resolver has written its last word into [`Core`].
    Resolved,
    /// The Balancer has.
    Published(Published),
    /// A part of the channel fails again and again.
    PartFailed(Status),
    /// End; calls are to end with CANCELLED.
    Close(oneshot::Sender<()>),
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
    Wake(u64),
}

/// What the policy tree last said.
#[derive(Clone)]
pub(crate) struct Published {
    pub(super) connectivity: ConnectivityState,
    pub(super) picker: Arc<dyn Picker>,
    /// The config that the tree was told of last when it made that picker.
    pub(super) config: Option<Arc<ServiceConfig>>,
    /// How often the channel had gone idle before the tree began that says this.
    pub(super) era: u64,
}

pub(super) struct ClientConn {
    pub(super) core: Arc<Core>,
}

pub(super) struct Life {
    machine: State,
    idle: idle::State,
    timer: Timer,
    vitals: Vitals,
}

impl Actor for ClientConn {
    type Msg = Msg;
    type State = Life;
    type Arguments = ();

    async fn pre_start(
        &self,
        me: ActorRef<Msg>,
        (): (),
    ) -> Result<Self::State, ActorProcessingErr> {
        self.core.client_conn.take_over(me.clone());
        let mut life = Life {
            machine: State::default(),
            idle: idle::State::default(),
            timer: Timer::new(self.core.tasks.clone()),
            vitals: Vitals::new(
                &self.core,
                ActorKind::ClientConn,
                None,
                self.core.lives.client_conn.restarts(),
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
            self.core.client_conn.one_taken();
        }
        match message {
            Msg::Own(Own(completion)) => self.complete(&me, life, &completion),
            Msg::Demand => self.demand(&me, life),
            Msg::Resolved => self.resolved(life),
            Msg::Published(published) => self.published(life, published),
            Msg::PartFailed(status) => self.part_failed(life, status),
            Msg::Close(done) => self.close(life, done),
            Msg::Inspect(reply) => self.inspect(life, reply),
            #[cfg(feature = "test-util")]
            Msg::Inject(blow) => blow.suffer().await,
        }
        Ok(())
    }
}

impl ClientConn {
    /// Continues where an earlier life ended.
    fn resume(&self, me: &ActorRef<Msg>, life: &mut Life) {
        let memory = self.core.memory();
        let balanced = memory.update.is_some() || memory.failure.is_some();
        life.machine = match memory.config.clone() {
            config if !memory.resolving => State::Idle { config },
            None if memory.unconfigured => State::Unconfigured,
            Some(config) if balanced => State::Serving { config },
            config => State::Resolving { config },
        };
        let (resolving, resolved) = (memory.resolving, memory.resolved.is_some());
        let published = memory.published.clone();
        drop(memory);
        if resolving {
            self.mind(me, life, idle::Event::Woken);
        }
        if self.core.demanded.load(Ordering::Acquire) {
            self.demand(me, life);
        }
        if resolved {
            self.resolved(life);
        }
        if let Some(published) = published {
            self.published(life, published);
        }
    }

    fn demand(&self, me: &ActorRef<Msg>, life: &mut Life) {
        self.core.demanded.store(false, Ordering::Release);
        life.vitals.count("demands");
        self.mind(me, life, idle::Event::Woken);
        self.advance(life, Event::Demand);
    }

    fn complete(&self, me: &ActorRef<Msg>, life: &mut Life, completion: &Completion) {
        let Completion::Wake(epoch) = completion;
        if life.timer.is_current(*epoch) {
            self.mind(me, life, idle::Event::Wake(self.core.usage()));
        }
    }

    /// Minds whether the channel is in use; lets it go idle if it is not.
    fn mind(&self, me: &ActorRef<Msg>, life: &mut Life, event: idle::Event) {
        let now = Instant::now().into_std();
        let (state, idle) = life.idle.step(now, event, self.core.settings.idle_timeout);
        life.idle = state;
        let wake_at = life.idle.wake_at().map(Instant::from_std);
        life.timer.arm(wake_at, me, |epoch| Msg::Own(Own(Completion::Wake(epoch))));
        if let Some(GoIdle) = idle {
            self.advance(life, Event::GoIdle);
        }
    }

    fn resolved(&self, life: &mut Life) {
        let resolved = self.core.memory().resolved.clone();
        let event = match resolved {
            Some(Resolved::Update { endpoints, config, selector }) => {
                life.vitals.count("resolutions");
                Event::Resolved { endpoints, config, selector }
            }
            Some(Resolved::Failed(status)) => {
                life.vitals.fail(status.clone());
                Event::ResolveFailed(status)
            }
            None => return,
        };
        self.advance(life, event);
    }

    fn published(&self, life: &mut Life, published: Published) {
        let Published { connectivity, picker, config, era } = published;
        // What was said before the channel went idle says nothing of what was built since.
        if era == self.core.memory().era {
            self.advance(life, Event::Published { connectivity, picker, config });
            if connectivity == ConnectivityState::Idle && self.core.settings.keep_connected {
                self.advance(life, Event::Demand);
            }
        }
    }

    /// While a connection lives the last snapshot is good enough.
    fn part_failed(&self, life: &mut Life, status: Status) {
        life.vitals.fail(status.clone());
        if !self.core.registry.any_live() {
            let picker = Arc::new(FailPicker(status));
            self.core.publish(ConnectivityState::TransientFailure, picker);
        }
    }

    fn close(&self, life: &mut Life, done: oneshot::Sender<()>) {
        self.advance(life, Event::Close);
        // Whoever asked may have stopped waiting.
        let _ = done.send(());
    }

    fn inspect(&self, life: &Life, reply: oneshot::Sender<ActorReport>) {
        let timer = life.timer.fires_at().map(|at| ("going idle, unless it is in use", at));
        let report = life.vitals.report(self.core.client_conn.depth(), timer);
        let _ = reply.send(report);
    }

    fn advance(&self, life: &mut Life, event: Event) {
        let mut effects = Vec::new();
        let machine = mem::take(&mut life.machine);
        life.machine = machine.step(event, &self.core.settings.default_config, &mut effects);
        self.core.memory().unconfigured = matches!(life.machine, State::Unconfigured);
        for effect in effects {
            self.perform(life, effect);
        }
    }

    fn perform(&self, life: &mut Life, effect: Effect) {
        match effect {
            Effect::StartResolver => {
                self.core.memory().resolving = true;
                self.core.resolver.tell(resolver::Msg::Start);
            }
            Effect::ExitIdle => {
                self.core.balancer.tell(balancer::Msg::ExitIdle);
            }
            Effect::UpdateBalancer { endpoints, config } => {
                let mut memory = self.core.memory();
                let before =
                    memory.update.as_ref().map(|update| update.config.lb().name().to_owned());
                let (config, last) = memory.configure(config);
                let update = balancer::Update { endpoints, config: config.clone() };
                let gone = (last, memory.update.replace(update), memory.failure.take());
                drop(memory);
                drop(gone);
                let policy = config.lb().name();
                if before.is_none_or(|before| before != policy) {
                    let observers = &self.core.settings.observers;
                    observers.tell(|| ChannelEvent::PolicyChanged { policy });
                }
                self.core.balancer.tell(balancer::Msg::Updated);
            }
            Effect::FailBalancer { config, status } => {
                let mut memory = self.core.memory();
                let (config, last) = memory.configure(config);
                let gone = (last, memory.failure.replace(balancer::Failure { status, config }));
                drop(memory);
                drop(gone);
                self.core.balancer.tell(balancer::Msg::ResolverFailed);
            }
            Effect::Configure(config) => {
                let gone = self.core.memory().configure(config);
                drop(gone);
            }
            Effect::RejectUpdate(reason) => {
                life.vitals.fail(Status::unavailable(reason.clone()));
                self.core.resolver.tell(resolver::Msg::Rejected(reason));
            }
            Effect::Publish { connectivity, picker, config } => {
                life.vitals.enter(connectivity.to_string());
                life.vitals.count("published");
                self.core.publish_made_of(config, connectivity, picker);
                self.core.lives.client_conn.prove();
            }
            Effect::LetGo => {
                let gone = self.core.memory().go_idle();
                drop(gone);
                self.core.resolver.tell(resolver::Msg::Stop);
                self.core.balancer.tell(balancer::Msg::LetGo);
            }
        }
    }
}
