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

use super::core::Resolved;
#[cfg(feature = "test-util")]
use super::faults::Fault;
use super::vitals::Vitals;
use super::{Core, balancer, resolver};
use crate::observe::{ActorKind, ActorReport};
use crate::policy::channel::{Effect, Event, State};
use crate::policy::lb::{FailPicker, Picker};
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
    Inject(Fault),
}

/// What the policy tree last said.
#[derive(Clone)]
pub(crate) struct Published {
    pub(super) connectivity: ConnectivityState,
    pub(super) picker: Arc<dyn Picker>,
}

pub(super) struct ClientConn {
    pub(super) core: Arc<Core>,
}

pub(super) struct Life {
    machine: State,
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
        self.core.client_conn.take_over(me);
        let mut life = Life {
            machine: State::default(),
            vitals: Vitals::new(
                ActorKind::ClientConn,
                None,
                self.core.lives.client_conn.restarts(),
            ),
        };
        self.resume(&mut life);
        Ok(life)
    }

    async fn handle(
        &self,
        _me: ActorRef<Msg>,
        message: Msg,
        life: &mut Life,
    ) -> Result<(), ActorProcessingErr> {
        self.core.client_conn.one_taken();
        match message {
            Msg::Demand => self.demand(life),
            Msg::Resolved => self.resolved(life),
            Msg::Published(published) => self.published(life, published),
            Msg::PartFailed(status) => self.part_failed(life, status),
            Msg::Close(done) => self.close(life, done),
            Msg::Inspect(reply) => self.inspect(life, reply),
            #[cfg(feature = "test-util")]
            Msg::Inject(fault) => fault.suffer().await,
        }
        Ok(())
    }
}

impl ClientConn {
    /// Continues where an earlier life ended.
    fn resume(&self, life: &mut Life) {
        let memory = self.core.memory();
        let (config, resolved) = (memory.config.clone(), memory.resolved.is_some());
        let published = memory.published.clone();
        drop(memory);
        if let Some(config) = config {
            life.machine = State::Serving { config };
        } else if self.core.is_resolving() {
            life.machine = State::Resolving;
        }
        if self.core.demanded.load(Ordering::Acquire) {
            self.demand(life);
        }
        if resolved {
            self.resolved(life);
        }
        if let Some(published) = published {
            self.published(life, published);
        }
    }

    fn demand(&self, life: &mut Life) {
        self.core.demanded.store(false, Ordering::Release);
        life.vitals.count("demands");
        self.advance(life, Event::Demand);
    }

    fn resolved(&self, life: &mut Life) {
        let resolved = self.core.memory().resolved.clone();
        let event = match resolved {
            Some(Resolved::Update { endpoints, config }) => {
                life.vitals.count("resolutions");
                Event::Resolved { endpoints, config }
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
        let Published { connectivity, picker } = published;
        self.advance(life, Event::Published { connectivity, picker });
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
        let report = life.vitals.report(self.core.client_conn.depth(), None);
        let _ = reply.send(report);
    }

    fn advance(&self, life: &mut Life, event: Event) {
        let mut effects = Vec::new();
        let machine = mem::take(&mut life.machine);
        life.machine = machine.step(event, &self.core.settings.default_config, &mut effects);
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
                let update = balancer::Update { endpoints, config };
                let mut memory = self.core.memory();
                memory.config = Some(update.config.clone());
                memory.update = Some(update);
                memory.failure = None;
                drop(memory);
                self.core.balancer.tell(balancer::Msg::Updated);
            }
            Effect::FailBalancer { config, status } => {
                let mut memory = self.core.memory();
                memory.config = Some(config);
                memory.failure = Some(status);
                drop(memory);
                self.core.balancer.tell(balancer::Msg::ResolverFailed);
            }
            Effect::RejectUpdate(reason) => {
                life.vitals.fail(Status::unavailable(reason.clone()));
                self.core.resolver.tell(resolver::Msg::Rejected(reason));
            }
            Effect::Publish { connectivity, picker } => {
                life.vitals.enter(connectivity.to_string());
                life.vitals.count("published");
                self.core.publish(connectivity, picker);
                self.core.lives.client_conn.prove();
            }
            Effect::Stop => {
                life.vitals.enter("closed");
                self.core.resolver.tell(resolver::Msg::Stop);
            }
        }
    }
}
