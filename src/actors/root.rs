//! How a channel starts and ends.

use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use ractor::Actor;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::time::Instant;

use super::client_conn;
use super::core::{Core, Ending, Life};
use super::mailbox::answer_within;
use super::supervisor::Supervisor;
use crate::call::NoRuntime;
use crate::policy::lb::DropPicker;
use crate::transport::Connection;
use crate::types::{ConnectivityState, Status, caught};

/// Starts the channel unless it has started: on the runtime that the builder was given, else on
/// the one that the caller is on.
pub(super) fn start(core: &Arc<Core>) -> Result<(), NoRuntime> {
    if *core.life.borrow() != Life::New {
        return Ok(());
    }
    let given = core.settings.runtime.clone();
    let is_given = given.is_some();
    let runtime = given.or_else(|| Handle::try_current().ok()).ok_or(NoRuntime::Missing)?;
    if !has_timers(&runtime) {
        return Err(NoRuntime::WithoutTime);
    }
    let first = core.life.send_if_modified(|life| {
        let new = *life == Life::New;
        if new {
            // Whoever sees the channel running finds the runtime too. It was not set before.
            let _ = core.shared.runtime.set(runtime.clone());
            *life = Life::Starting;
        }
        new
    });
    if first {
        let (begun, watched) = mpsc::channel();
        // Made before the task: a runtime that is gone drops that without a poll.
        let sentinel = Sentinel { core: core.clone(), armed: true };
        runtime.spawn(live(core.clone(), sentinel, begun));
        if runtime.runtime_flavor() == RuntimeFlavor::CurrentThread && is_given {
            watch_the_start(core, watched);
        }
    }
    Ok(())
}

/// Whether there is a driver of timers on `runtime`: nobody says so but by a panic.
fn has_timers(runtime: &Handle) -> bool {
    let timer = || {
        let _entered = runtime.enter();
        drop(tokio::time::sleep(Duration::ZERO));
    };
    caught("the runtime", timer).is_ok()
}

/// Has calls fail while nobody drives the runtime of one thread that the builder was given: no
/// timer of that runtime would ever end them. Once it is driven they go on as usual.
fn watch_the_start(core: &Arc<Core>, begun: mpsc::Receiver<()>) {
    let core = Arc::downgrade(core);
    let watching = move || {
        if begun.recv_timeout(START_PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout)
            && let Some(core) = core.upgrade()
            && *core.life.borrow() == Life::Starting
        {
            let text = format!(
                "nobody has driven the runtime of the channel for {START_PATIENCE:?}: keep a \
                 thread in its `block_on`, or give ChannelBuilder::runtime one of several threads"
            );
            let picker = Arc::new(DropPicker(Status::unavailable(text)));
            core.publish(ConnectivityState::TransientFailure, picker);
        }
    };
    let watcher = thread::Builder::new().name("switchboard-start".to_owned()).spawn(watching);
    if let Err(error) = watcher {
        tracing::warn!(target: "switchboard", %error, "nobody watches whether the channel starts");
    }
}

impl Core {
    /// The last handle is gone.
    pub(crate) fn abandon(&self) {
        self.end(Ending::Dropped);
    }

    /// Ends the channel and returns when nothing of it is left. Cancel-safe: it ends all the same.
    pub(crate) async fn close(&self, grace: Duration) {
        self.end(Ending::Closed { grace });
        let mut life = self.life.subscribe();
        // The sender is in `self`, so it is there for as long as this waits.
        let _ = life.wait_for(|life| *life == Life::Ended).await;
    }

    /// Nothing is left of the channel.
    fn has_ended_now(&self) {
        self.life.send_replace(Life::Ended);
        self.news.tell();
    }

    /// Whether nothing is left of the channel.
    pub(crate) fn has_ended(&self) -> bool {
        *self.life.borrow() == Life::Ended
    }

    /// Whether the channel has been told to end.
    pub(crate) fn is_ending(&self) -> bool {
        matches!(*self.life.borrow(), Life::Ending(_) | Life::Ended)
    }

    fn end(&self, ending: Ending) {
        let mut unused = false;
        self.life.send_if_modified(|life| match *life {
            // Its task, should it come to run, finds nothing to do.
            Life::New | Life::Starting => {
                unused = true;
                *life = Life::Ended;
                true
            }
            Life::Running => {
                *life = Life::Ending(ending);
                true
            }
            Life::Ending(_) | Life::Ended => false,
        });
        if unused {
            self.publish_end(closed());
            self.news.tell();
        }
    }
}

/// The life of a channel: one Supervisor after the other, until it is to end.
async fn live(core: Arc<Core>, mut sentinel: Sentinel, begun: mpsc::Sender<()>) {
    drop(begun);
    let is_wanted = core.life.send_if_modified(|life| {
        let is_wanted = *life == Life::Starting;
        if is_wanted {
            *life = Life::Running;
        }
        is_wanted
    });
    if !is_wanted {
        sentinel.armed = false;
        return;
    }
    let mut life = core.life.subscribe();
    let mut restarts = 0;
    let ending = loop {
        let supervisor = Supervisor { core: core.clone(), restarts };
        let born = Instant::now();
        let spawned = Actor::spawn(None, supervisor, ()).await;
        let ended = async {
            // Nothing in `pre_start` can fail; if it did, it would be tried again below.
            if let Ok((_, task)) = spawned {
                // However it ended, it is gone.
                let _ = task.await;
            }
        };
        tokio::select! {
            biased;
            ending = ending(&mut life) => break ending,
            () = ended => {}
        }
        tracing::error!(target: "switchboard", channel = %core.settings.target, "supervisor failed");
        // Its children go with it; none may be left when the next ones begin.
        core.bury_actors().await;
        restarts += 1;
        if born.elapsed() < STEADY_LIFE {
            tokio::time::sleep(core.settings.backoff.nominal(0)).await;
        }
    };
    finish(&core, ending).await;
    sentinel.armed = false;
    core.has_ended_now();
}

async fn ending(life: &mut tokio::sync::watch::Receiver<Life>) -> Ending {
    loop {
        if let Life::Ending(ending) = *life.borrow_and_update() {
            return ending;
        }
        if life.changed().await.is_err() {
            return Ending::Dropped;
        }
    }
}

/// Ends everything: waiting calls at once, open ones after their grace.
async fn finish(core: &Arc<Core>, ending: Ending) {
    let asked = core.client_conn.ask(client_conn::Msg::Close);
    answer_within(asked, ANSWER_PATIENCE).await;
    core.bury_actors().await;
    if core.shared.states.get() != ConnectivityState::Shutdown {
        core.publish_end(closed());
    }
    for subchannel in core.registry.all() {
        subchannel.slot.empty();
    }
    core.registry.clear();
    core.open_connections().iter().for_each(Connection::drain);
    core.tasks.close();
    match ending {
        Ending::Dropped => core.tasks.wait().await,
        Ending::Closed { grace } => {
            if tokio::time::timeout(grace, core.tasks.wait()).await.is_err() {
                core.open_connections().iter().for_each(Connection::close);
                core.tasks.wait().await;
            }
        }
    }
}

impl Core {
    /// Kills every actor and waits until it is dead.
    async fn bury_actors(&self) {
        self.supervisor.kill().await;
        self.client_conn.kill().await;
        self.resolver.kill().await;
        self.balancer.kill().await;
        for subchannel in self.registry.all() {
            subchannel.mailbox.kill().await;
        }
    }
}

/// Notices that the runtime goes away under the channel: then nothing would ever answer its calls.
struct Sentinel {
    core: Arc<Core>,
    armed: bool,
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        // A channel that was closed before it began has told its end.
        if self.armed && !self.core.has_ended() {
            let text = "the runtime of the channel has shut down: keep the one that \
                        ChannelBuilder::runtime is given alive for as long as the channel";
            self.core.publish_end(Status::unavailable(text));
            self.core.has_ended_now();
        }
    }
}

fn closed() -> Status {
    Status::cancelled("the channel is closed")
}

/// How long a runtime of one thread may take to poll the first task of the channel.
const START_PATIENCE: Duration = Duration::from_secs(5);

/// How long an actor is waited for that may be stalled.
const ANSWER_PATIENCE: Duration = Duration::from_secs(1);

/// A Supervisor that lived so long was sound; one that failed sooner is started again with a wait.
const STEADY_LIFE: Duration = Duration::from_secs(1);
