//! The one timer that each actor has.

use ractor::{ActorRef, Message};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

/// Wakes an actor at the time that its machine names, by a message with the epoch of the arming.
///
/// Arming again replaces the time; a message of an older epoch that is already under way is told
/// by [`Timer::is_current`]. Dropping it stops it.
pub(super) struct Timer {
    tasks: TaskTracker,
    armed: Option<Armed>,
    epoch: u64,
}

struct Armed {
    at: Instant,
    task: AbortHandle,
}

impl Timer {
    pub(super) fn new(tasks: TaskTracker) -> Self {
        Self { tasks, armed: None, epoch: 0 }
    }

    /// Sends `wake(epoch)` to `actor` at `at`; with `None`, or until then, nothing.
    pub(super) fn arm<M: Message>(
        &mut self,
        at: Option<Instant>,
        actor: &ActorRef<M>,
        wake: impl FnOnce(u64) -> M + Send + 'static,
    ) {
        if self.armed.as_ref().map(|armed| armed.at) == at {
            return;
        }
        self.disarm();
        let Some(at) = at else { return };
        self.epoch += 1;
        let (actor, epoch) = (actor.clone(), self.epoch);
        let task = self.tasks.spawn(async move {
            tokio::time::sleep_until(at).await;
            // If the actor is gone its timer means nothing.
            let _ = actor.cast(wake(epoch));
        });
        self.armed = Some(Armed { at, task: task.abort_handle() });
    }

    /// Whether `epoch` is of the latest arming. If so the timer has fired and may be armed anew.
    pub(super) fn is_current(&mut self, epoch: u64) -> bool {
        let current = self.armed.is_some() && epoch == self.epoch;
        if current {
            self.armed = None;
        }
        current
    }

    /// When it fires.
    pub(super) fn fires_at(&self) -> Option<Instant> {
        self.armed.as_ref().map(|armed| armed.at)
    }

    fn disarm(&mut self) {
        if let Some(armed) = self.armed.take() {
            armed.task.abort();
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.disarm();
    }
}
