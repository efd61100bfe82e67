//! Resolver: runs one [`Resolve`] and decides when it looks again.
//!
//! The look-up itself runs in a task of its own, the worker, which owns the `Resolve`: a look-up
//! that hangs is cut off with its worker, and one that panics takes nothing else along. When to
//! look is [`policy::resolution`](crate::policy::resolution)'s decision.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};
use tracing::Level;

use super::core::Resolved;
#[cfg(feature = "test-util")]
use super::faults::Blow;
use super::task::spawn_told;
use super::timer::Timer;
use super::vitals::Vitals;
use super::{Core, Settings, client_conn};
use crate::observe::{ActorKind, ActorReport, ChannelEvent, Trouble};
use crate::policy::floor::{ENDPOINT_CHANGES, Floor};
use crate::policy::resolution::{Effect, Event, Pace, State};
use crate::policy::service_config::{Client, ServiceConfig};
use crate::transport::resolve::{Resolution, Resolve, ResolveError, ServiceConfigChoices};
use crate::types::{
    ConfigSelector, Dice, Endpoint, Foreign, ForeignSelector, Panicked, Refresh, Status,
    TargetError, shown,
};

/// What a Resolver is told.
pub(crate) enum Msg {
    /// The channel wants endpoints from now on.
    Start,
    /// Somebody believes that the endpoints are out of date.
    ResolveNow,
    /// The last update was put to use.
    Accepted,
    /// The last update was refused, for this reason.
    Rejected(String),
    /// Do not wait for the end of the backoff.
    ResetBackoff,
    /// The channel wants no more endpoints.
    Stop,
    /// Tell how you stand.
    Inspect(oneshot::Sender<ActorReport>),
    /// Suffer this.
    #[cfg(feature = "test-util")]
    Inject(Blow),
    /// What befalls the channel is something else now.
    #[cfg(feature = "test-util")]
    FaultsChanged,
    /// Something of its own came to its end.
    Own(Own),
}

/// A completion; only this file makes one.
pub(crate) struct Own(Completion);

enum Completion {
    Looked { look: u64, outcome: Result<Resolution, ResolveError> },
    Changed { worker: u64 },
    WorkerDied { worker: u64, panicked: Option<Panicked> },
    Wake(u64),
}

pub(super) struct Resolver {
    pub(super) core: Arc<Core>,
}

pub(super) struct Life {
    machine: State,
    timer: Timer,
    dice: Dice,
    worker: Option<Worker>,
    /// How often the resolver may be asked; it says so when it is built.
    refresh: Refresh,
    /// After what time the last result is out of date.
    expiry: Option<Duration>,
    /// Numbers look-ups and workers, so that what comes late is told apart.
    serial: u64,
    found: Option<Found>,
    /// Whether look-ups come to what a test wants.
    #[cfg(feature = "test-util")]
    is_faulty: bool,
    vitals: Vitals,
}

/// The last result, as far as it is told about.
struct Found {
    endpoints: usize,
    /// Some of their addresses.
    addresses: String,
    service_config: &'static str,
    at: Instant,
    ttl: Option<Duration>,
    given_up: Option<String>,
}

impl Actor for Resolver {
    type Msg = Msg;
    type State = Life;
    type Arguments = ();

    async fn pre_start(
        &self,
        me: ActorRef<Msg>,
        (): (),
    ) -> Result<Self::State, ActorProcessingErr> {
        self.core.resolver.take_over(me.clone());
        let mut life = Life {
            machine: State::default(),
            timer: Timer::new(self.core.tasks.clone()),
            dice: Dice::new(self.core.settings.seed ^ RESOLVER_DICE),
            worker: None,
            refresh: Refresh::Never,
            expiry: None,
            serial: 0,
            found: None,
            #[cfg(feature = "test-util")]
            is_faulty: false,
            vitals: Vitals::new(
                &self.core,
                ActorKind::Resolver,
                None,
                self.core.lives.resolver.restarts(),
            ),
        };
        // A later life looks at once: what it knew is in the channel already, and may be old.
        if self.core.is_resolving() {
            self.advance(&me, &mut life, Event::Start);
        }
        Ok(life)
    }

    async fn handle(
        &self,
        me: ActorRef<Msg>,
        message: Msg,
        life: &mut Life,
    ) -> Result<(), ActorProcessingErr> {
        if !matches!(message, Msg::Own(_)) {
            self.core.resolver.one_taken();
        }
        match message {
            Msg::Own(Own(completion)) => self.complete(&me, life, completion),
            Msg::Start => self.advance(&me, life, Event::Start),
            Msg::ResolveNow => self.advance(&me, life, Event::ResolveNow),
            Msg::Accepted => self.advance(&me, life, Event::Accepted),
            Msg::Rejected(reason) => self.rejected(&me, life, reason),
            Msg::ResetBackoff => self.advance(&me, life, Event::ResetBackoff),
            Msg::Stop => self.advance(&me, life, Event::Stop),
            Msg::Inspect(reply) => self.inspect(life, reply),
            #[cfg(feature = "test-util")]
            Msg::Inject(blow) => blow.suffer().await,
            #[cfg(feature = "test-util")]
            Msg::FaultsChanged => self.faults_changed(&me, life),
        }
        Ok(())
    }
}

impl Resolver {
    fn complete(&self, me: &ActorRef<Msg>, life: &mut Life, completion: Completion) {
        match completion {
            Completion::Looked { look, outcome } if life.is_current_look(look) => {
                self.looked(me, life, outcome);
            }
            Completion::Changed { worker } if life.is_current_worker(worker) => {
                self.advance(me, life, Event::Changed);
            }
            Completion::WorkerDied { worker, panicked } if life.is_current_worker(worker) => {
                life.worker = None;
                self.looked(me, life, Err(self.gone(panicked)));
            }
            Completion::Wake(epoch) if life.timer.is_current(epoch) => {
                self.advance(me, life, Event::Wake);
            }
            // Of a look-up, worker or arming that has been replaced.
            Completion::Looked { .. }
            | Completion::Changed { .. }
            | Completion::WorkerDied { .. }
            | Completion::Wake(_) => {}
        }
    }

    /// Hands the outcome of a look-up on: written down first, then told.
    fn looked(
        &self,
        me: &ActorRef<Msg>,
        life: &mut Life,
        outcome: Result<Resolution, ResolveError>,
    ) {
        life.vitals.count("lookups");
        let (resolved, event) = match outcome {
            Ok(resolution) => (self.understood(life, resolution), Event::Resolved),
            Err(error) => (self.failed(life, error), Event::Failed),
        };
        self.advance(me, life, event);
        self.tell(&resolved);
    }

    /// The resolver has come to an end of its own.
    fn gone(&self, panicked: Option<Panicked>) -> ResolveError {
        let target = &self.core.settings.target;
        match panicked {
            Some(panicked) => {
                let text = format!("resolving {target}: {panicked}");
                ResolveError::new(text).with_source(panicked)
            }
            None => {
                ResolveError::new(format!("resolving {target}: the task of the resolver ended"))
            }
        }
    }

    fn failed(&self, life: &mut Life, error: ResolveError) -> Resolved {
        let settings = &self.core.settings;
        settings.log.fails(Trouble::Unresolved, &settings.target, &error);
        life.vitals.fail(error.clone());
        Resolved::Failed(Status::unavailable(error.to_string()).with_source(error))
    }

    fn tell(&self, resolved: &Resolved) {
        let before = self.core.memory().resolved.replace(resolved.clone());
        let observers = &self.core.settings.observers;
        match (resolved, &before) {
            (
                Resolved::Update { endpoints, .. },
                Some(Resolved::Update { endpoints: same, .. }),
            ) if endpoints == same => {}
            (Resolved::Update { endpoints, .. }, _) => {
                observers.tell(|| ChannelEvent::Resolved { endpoints: endpoints.len() });
            }
            (Resolved::Failed(cause), _) => {
                observers.tell(|| ChannelEvent::ResolutionFailed { cause });
            }
        }
        self.core.lives.resolver.prove();
        self.core.client_conn.tell(client_conn::Msg::Resolved);
    }

    fn understood(&self, life: &mut Life, resolution: Resolution) -> Resolved {
        let Resolution {
            endpoints,
            service_config,
            config_selector,
            choices,
            given_up,
            ttl,
            refresh_after,
        } = resolution;
        life.expiry = refresh_after;
        let registry = &self.core.settings.lb_registry;
        let is_disabled = self.core.settings.resolver_options.disable_service_config;
        let selector = config_selector.filter(|_| !is_disabled);
        let selector =
            selector.map(|it| Arc::new(ForeignSelector::new(it)) as Arc<dyn ConfigSelector>);
        let config = if is_disabled {
            None
        } else if let Some(json) = service_config {
            Some(ServiceConfig::parse(&json, registry))
        } else if let Some(ServiceConfigChoices { list, hostname }) = choices {
            let client = Client { hostname: hostname.as_deref(), draw: life.dice.below(100) };
            ServiceConfig::choose(&list, client, registry).transpose()
        } else {
            None
        };
        let config = config.map(|config| config.map(Arc::new));
        life.found = Some(Found {
            endpoints: endpoints.len(),
            addresses: some_of(&endpoints),
            service_config: match &config {
                Some(Ok(_)) => "taken",
                Some(Err(_)) => "refused",
                None if selector.is_some() => "chosen call by call",
                None => "none",
            },
            at: Instant::now(),
            ttl,
            given_up,
        });
        let (log, target) = (&self.core.settings.log, &self.core.settings.target);
        log.recovers(Trouble::Unresolved, target);
        log.tell(
            Level::DEBUG,
            "names are resolved",
            &format!("{} endpoints", endpoints.len()),
            None,
        );
        match &config {
            Some(Err(error)) => log.fails(Trouble::BadConfig, target, error),
            Some(Ok(_)) | None => {
                log.recovers(Trouble::BadConfig, target);
            }
        }
        Resolved::Update { endpoints: endpoints.into(), config, selector }
    }

    fn rejected(&self, me: &ActorRef<Msg>, life: &mut Life, reason: String) {
        life.vitals.count("rejected");
        life.vitals.fail(Status::unavailable(reason));
        self.advance(me, life, Event::Rejected);
    }

    fn inspect(&self, life: &Life, reply: oneshot::Sender<ActorReport>) {
        let timer = life.timer.fires_at().map(|at| (words(&life.machine).1, at));
        let mut report = life.vitals.report(self.core.resolver.depth(), timer);
        if let Some(found) = &life.found {
            report.facts.extend(found.facts());
        }
        // Whoever asked may have stopped waiting.
        let _ = reply.send(report);
    }

    fn advance(&self, me: &ActorRef<Msg>, life: &mut Life, event: Event) {
        let mut effects = Vec::new();
        let mut pace = Pace {
            backoff: &self.core.settings.backoff,
            lookup_timeout: LOOKUP_TIMEOUT,
            refresh: life.refresh,
            expiry: life.expiry,
            dice: &mut life.dice,
        };
        let machine = mem::take(&mut life.machine);
        life.machine = machine.step(Instant::now().into_std(), event, &mut pace, &mut effects);
        life.vitals.enter(words(&life.machine).0);
        let wake_at = life.machine.wake_at().map(Instant::from_std);
        life.timer.arm(wake_at, me, |epoch| Msg::Own(Own(Completion::Wake(epoch))));
        for effect in effects {
            self.perform(me, life, effect);
        }
    }

    fn perform(&self, me: &ActorRef<Msg>, life: &mut Life, effect: Effect) {
        match effect {
            Effect::Look => self.look(me, life),
            Effect::Abandon => {
                life.worker = None;
                // What it has found may be in the mailbox already, and is nobody's any more.
                life.serial += 1;
            }
            Effect::TimedOut => {
                let target = &self.core.settings.target;
                let text = format!("resolving {target}: no answer within {LOOKUP_TIMEOUT:?}");
                self.tell(&self.failed(life, ResolveError::new(text)));
            }
        }
    }

    /// Looks up again, if look-ups come to something else now than they did.
    #[cfg(feature = "test-util")]
    fn faults_changed(&self, me: &ActorRef<Msg>, life: &mut Life) {
        let is_faulty = self.core.faults().is_some_and(|faults| faults.concern_resolution());
        if is_faulty || life.is_faulty {
            if matches!(life.machine, State::Looking { .. }) {
                // In the place of the look-up that is under way, which may hang.
                self.look(me, life);
            } else {
                self.advance(me, life, Event::Changed);
            }
        }
    }

    fn look(&self, me: &ActorRef<Msg>, life: &mut Life) {
        life.serial += 1;
        let serial = life.serial;
        #[cfg(feature = "test-util")]
        {
            let outcome = self.core.faults().and_then(|faults| faults.resolution());
            if outcome.is_some() || life.is_faulty {
                life.worker = None;
            }
            life.is_faulty = outcome.is_some();
            if let Some(outcome) = outcome {
                life.worker = Some(self.hire(me, serial, super::faults::faulty(outcome)));
            }
        }
        if life.worker.is_none() {
            match self.build() {
                Ok((resolve, refresh)) => {
                    life.refresh = refresh;
                    life.worker = Some(self.hire(me, serial, resolve));
                }
                Err(error) => {
                    let outcome = Err(error);
                    let failed = Completion::Looked { look: serial, outcome };
                    // To itself, alive.
                    let _ = me.cast(Msg::Own(Own(failed)));
                }
            }
        }
        if let Some(worker) = &mut life.worker {
            worker.look = serial;
            // A worker that died has told so.
            let _ = worker.orders.send(serial);
        }
    }

    fn build(&self) -> Result<(Box<dyn Resolve>, Refresh), ResolveError> {
        let Settings { resolver, target, resolver_options, .. } = &self.core.settings;
        let built = resolver.call(|resolver| {
            let resolve = resolver.build_with(target, resolver_options)?;
            let refresh = resolve.refresh();
            Ok((resolve, refresh))
        });
        let built = built.map_err(|panicked| self.gone(Some(panicked)))?;
        built.map_err(|error: TargetError| ResolveError::new(error.to_string()))
    }

    fn hire(&self, me: &ActorRef<Msg>, serial: u64, resolve: Box<dyn Resolve>) -> Worker {
        let (orders, queue) = mpsc::unbounded_channel();
        let resolve = Foreign::new("the resolver", resolve);
        let teller = Teller { worker: serial, actor: me.clone() };
        let alarm = teller.clone();
        let task = spawn_told(&self.core.tasks, work(resolve, queue, teller), move |end| {
            // Nobody has an order for it any more where it came to a regular end.
            let panicked = match end {
                Some(Err(panicked)) => Some(panicked),
                Some(Ok(())) | None => None,
            };
            alarm.tell(Completion::WorkerDied { worker: alarm.worker, panicked });
        });
        Worker { serial, look: serial, orders, task }
    }
}

impl Life {
    fn is_current_look(&self, look: u64) -> bool {
        // Where the resolver could not be built there is no worker to compare with.
        self.worker.as_ref().map_or(look == self.serial, |worker| worker.look == look)
    }

    fn is_current_worker(&self, serial: u64) -> bool {
        self.worker.as_ref().is_some_and(|worker| worker.serial == serial)
    }
}

impl Found {
    fn facts(&self) -> impl Iterator<Item = (&'static str, String)> {
        let age = self.at.elapsed();
        let life = self.ttl.map(|ttl| match ttl.checked_sub(age) {
            Some(left) => format!("{ttl:?}, {left:.0?} left"),
            None => format!("{ttl:?}, over"),
        });
        let all = [
            ("endpoints", self.endpoints.to_string()),
            ("found", self.addresses.clone()),
            ("service config", self.service_config.to_owned()),
        ];
        let given_up = self.given_up.clone();
        let life = life.map(|life| ("time to live", life));
        all.into_iter().chain(life).chain(given_up.map(|what| ("given up", what)))
    }
}

/// The first addresses, for people.
fn some_of(endpoints: &[Endpoint]) -> String {
    let addresses: Vec<_> = endpoints.iter().flat_map(Endpoint::addresses).collect();
    shown(addresses.into_iter(), SHOWN)
}

/// The task that owns the `Resolve`. Dropping this ends it, in the middle of a look-up too.
struct Worker {
    serial: u64,
    /// The look-up that it is at, or did last.
    look: u64,
    orders: mpsc::UnboundedSender<u64>,
    task: AbortHandle,
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Runs until nobody gives orders any more, or the resolver panics.
async fn work(
    mut resolve: Foreign<Box<dyn Resolve>>,
    mut orders: mpsc::UnboundedReceiver<u64>,
    teller: Teller,
) -> Result<(), Panicked> {
    let mut floor = Floor::default();
    loop {
        let order = tokio::select! {
            biased;
            order = orders.recv() => order,
            changed = resolve.future_mut(|resolve| resolve.changed()) => {
                changed?;
                // A resolver that never stops changing its mind must not be asked without a pause.
                let at = floor.next(Instant::now().into_std(), ENDPOINT_CHANGES);
                tokio::select! {
                    biased;
                    // The look-up that is wanted finds the change.
                    order = orders.recv() => order,
                    () = sleep_until(at.into()) => {
                        floor.note(at);
                        teller.tell(Completion::Changed { worker: teller.worker });
                        // One notice is enough until it has been acted on.
                        orders.recv().await
                    }
                }
            }
        };
        let Some(look) = order else { return Ok(()) };
        let outcome = resolve.future_mut(|resolve| resolve.resolve()).await?;
        teller.tell(Completion::Looked { look, outcome });
    }
}

/// Tells the actor of its worker.
#[derive(Clone)]
struct Teller {
    worker: u64,
    actor: ActorRef<Msg>,
}

impl Teller {
    fn tell(&self, completion: Completion) {
        // An actor that is gone took its worker along.
        let _ = self.actor.cast(Msg::Own(Own(completion)));
    }
}

/// What a state is called, and what its timer is for.
fn words(state: &State) -> (&'static str, &'static str) {
    match state {
        State::Idle => ("idle", "nothing"),
        State::Looking { .. } => ("looking up", "giving the look-up up"),
        State::Settled { .. } => ("settled", "next look-up"),
        State::Backoff { .. } => ("backing off", "next look-up"),
    }
}

/// A look-up that takes longer has failed; as in grpc-go.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(30);

/// How many addresses an inspection names.
const SHOWN: usize = 8;

/// Sets the Resolver's dice apart from those of the other actors of one seed.
const RESOLVER_DICE: u64 = 0x7265_736f_6c76;
