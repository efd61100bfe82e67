//! The channel's connectivity state, and those who watch it.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, broadcast};

use crate::types::ConnectivityState;

/// Keeps the channel's state and tells its changes, every edge in order.
pub(crate) struct StateBoard {
    current: Mutex<Posted>,
    changed: Notify,
}

struct Posted {
    state: ConnectivityState,
    /// Its number.
    nth: u64,
    /// `None` once watchers have been told of SHUTDOWN, which is their last change.
    watchers: Option<broadcast::Sender<(u64, ConnectivityState)>>,
    /// Changes that watchers are yet to be told, and whether somebody is at that.
    untold: VecDeque<(u64, ConnectivityState)>,
    is_telling: bool,
}

impl StateBoard {
    pub(crate) fn new() -> Self {
        let current = Mutex::new(Posted {
            state: ConnectivityState::Idle,
            nth: 0,
            watchers: Some(broadcast::Sender::new(WATCHED_CHANGES_MAX)),
            untold: VecDeque::new(),
            is_telling: false,
        });
        Self { current, changed: Notify::new() }
    }

    /// The state.
    pub(crate) fn get(&self) -> ConnectivityState {
        self.lock().state
    }

    /// Posts a state. Says whether it is a change: the same state again is none, and nothing
    /// follows SHUTDOWN.
    pub(crate) fn post(&self, state: ConnectivityState) -> bool {
        let mut posted = self.lock();
        if posted.state == state || posted.state == ConnectivityState::Shutdown {
            return false;
        }
        posted.state = state;
        posted.nth += 1;
        let change = (posted.nth, state);
        posted.untold.push_back(change);
        let is_telling = std::mem::replace(&mut posted.is_telling, true);
        drop(posted);
        if !is_telling {
            self.tell();
        }
        self.changed.notify_waiters();
        true
    }

    /// Tells watchers what they have not been told, in order; without the lock, as whoever is woken
    /// may ask for the state at once. One poster does so for all that come meanwhile.
    fn tell(&self) {
        loop {
            let mut posted = self.lock();
            let Some(change) = posted.untold.pop_front() else {
                posted.is_telling = false;
                return;
            };
            let watchers = if change.1 == ConnectivityState::Shutdown {
                posted.watchers.take()
            } else {
                posted.watchers.clone()
            };
            drop(posted);
            if let Some(watchers) = watchers {
                // An error says that nobody watches.
                let _ = watchers.send(change);
            }
        }
    }

    /// Returns once the state is another than `from`, and which. Cancel-safe.
    pub(crate) async fn other_than(&self, from: ConnectivityState) -> ConnectivityState {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let state = self.get();
            if state != from {
                return state;
            }
            changed.await;
        }
    }

    /// Whether the channel is closed, and calls have been told so.
    pub(crate) fn is_closed(&self) -> bool {
        self.get() == ConnectivityState::Shutdown
    }

    /// Returns once the channel is closed, and calls have been told so. Cancel-safe.
    pub(crate) async fn closed(&self) {
        let mut state = self.get();
        while state != ConnectivityState::Shutdown {
            state = self.other_than(state).await;
        }
    }

    /// Watches from now on; the current state comes first.
    pub(crate) fn watch(&self) -> StateChanges {
        let posted = self.lock();
        StateChanges {
            first: Some(posted.state),
            seen: posted.nth,
            changes: posted.watchers.as_ref().map(broadcast::Sender::subscribe),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Posted> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The states of a channel from the moment of [`watch_state`](crate::Channel::watch_state) on:
/// the current one first, then every change, in order.
#[derive(Debug)]
pub struct StateChanges {
    first: Option<ConnectivityState>,
    /// The number of the first. Those before it may be told yet.
    seen: u64,
    changes: Option<broadcast::Receiver<(u64, ConnectivityState)>>,
}

/// What [`StateChanges`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateChange {
    /// The channel is in this state now.
    Changed(ConnectivityState),
    /// This many changes passed unseen, because they were not fetched in time.
    Lagged(u64),
}

impl StateChanges {
    /// The next change; `None` after SHUTDOWN. Up to 256 changes are kept for a slow watcher; past
    /// that the oldest are lost and it is told how many. Cancel-safe.
    pub async fn next(&mut self) -> Option<StateChange> {
        if let Some(first) = self.first.take() {
            return Some(StateChange::Changed(first));
        }
        let changes = self.changes.as_mut()?;
        loop {
            match changes.recv().await {
                Ok((nth, _)) if nth <= self.seen => {}
                Ok((_, state)) => return Some(StateChange::Changed(state)),
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    return Some(StateChange::Lagged(missed));
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

/// Enough for any burst of a healthy channel; a watcher that sleeps longer is told so.
const WATCHED_CHANGES_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::ConnectivityState::{Connecting, Idle, Ready, Shutdown, TransientFailure};
    use super::*;

    #[tokio::test]
    async fn a_watcher_sees_every_edge_in_order_and_shutdown_last() {
        let board = StateBoard::new();
        let mut changes = board.watch();
        for state in [Connecting, Connecting, Ready, Idle, Shutdown, Ready] {
            board.post(state);
        }
        for state in [Idle, Connecting, Ready, Idle, Shutdown] {
            assert_eq!(changes.next().await, Some(StateChange::Changed(state)));
        }
        assert_eq!(changes.next().await, None);
        assert_eq!(board.get(), Shutdown);
    }

    #[tokio::test]
    async fn a_slow_watcher_is_told_how_much_it_missed() {
        let board = StateBoard::new();
        let mut changes = board.watch();
        for round in 0..WATCHED_CHANGES_MAX + 10 {
            board.post(if round % 2 == 0 { Connecting } else { TransientFailure });
        }
        assert_eq!(changes.next().await, Some(StateChange::Changed(Idle)));
        assert_eq!(changes.next().await, Some(StateChange::Lagged(10)));
        assert_eq!(changes.next().await, Some(StateChange::Changed(Connecting)));
    }

    #[tokio::test]
    async fn waiting_for_another_state_returns_at_once_if_it_is_already_there() {
        let board = StateBoard::new();
        board.post(Connecting);
        assert_eq!(board.other_than(Idle).await, Connecting);
    }
}
