//! How the parts of a channel reach each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use ractor::{ActorRef, Message};
use tokio::sync::oneshot;

/// The address of a part of the channel, whichever life of it is at work.
///
/// What is told while the part is dead is lost. That is sound because every fact is written down
/// in [`Core`](super::Core) before it is told, and a new life reads it there after it has taken
/// over the mailbox.
pub(super) struct Mailbox<M: Message> {
    current: ArcSwapOption<ActorRef<M>>,
    depth: AtomicUsize,
}

impl<M: Message> Mailbox<M> {
    pub(super) fn new() -> Self {
        Self { current: ArcSwapOption::empty(), depth: AtomicUsize::new(0) }
    }

    /// From now on messages go to `actor`. The first thing that an actor does.
    pub(super) fn take_over(&self, actor: ActorRef<M>) {
        self.depth.store(0, Ordering::Relaxed);
        self.current.store(Some(Arc::new(actor)));
    }

    /// Sends a message; says whether somebody is there to take it.
    pub(super) fn tell(&self, message: M) -> bool {
        let current = self.current.load();
        let Some(actor) = current.as_ref() else { return false };
        self.depth.fetch_add(1, Ordering::Relaxed);
        let sent = actor.cast(message).is_ok();
        if !sent {
            self.one_taken();
        }
        sent
    }

    /// Sends the message that `ask` makes of a reply port, and gives where the answer comes.
    pub(super) fn ask<T>(
        &self,
        ask: impl FnOnce(oneshot::Sender<T>) -> M,
    ) -> Option<oneshot::Receiver<T>> {
        let (reply, answer) = oneshot::channel();
        self.tell(ask(reply)).then_some(answer)
    }

    /// Kills the actor, if there is one, and waits until it is dead.
    pub(super) async fn kill(&self) {
        if let Some(actor) = self.current.swap(None) {
            // An error says that it is dead already.
            let _ = actor.get_cell().kill_and_wait(None).await;
        }
    }

    /// The actor has taken a message out.
    pub(super) fn one_taken(&self) {
        let less = |depth: usize| Some(depth.saturating_sub(1));
        // The closure always gives a value.
        let _ = self.depth.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Messages that wait.
    pub(super) fn depth(&self) -> usize {
        self.depth.load(Ordering::Relaxed)
    }
}

/// Waits for an answer no longer than `patience`.
pub(super) async fn answer_within<T>(
    answer: Option<oneshot::Receiver<T>>,
    patience: Duration,
) -> Option<T> {
    tokio::time::timeout(patience, answer?).await.ok()?.ok()
}
