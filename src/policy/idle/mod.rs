//! When a channel that nobody uses gives up its connections.

use std::time::{Duration, Instant};

use super::later;

/// Whether a channel is at work, and when to look whether it still has to be (A62).
///
/// ```text
///     ┌────────┐   Woken    ┌───────┐ ──┐ Wake, and it is in use or was not long ago:
///     │ Asleep │ ─────────► │ Awake │   │ look again when it may be idle at the earliest
///     └────────┘ ◄───────── └───────┘ ◄─┘
///                Wake, and it has been unused for as long as the timeout
/// ```
///
/// It falls asleep when its last call has been over for as long as the timeout, or when it has been
/// awake for that long without a call. The time of a call costs nothing: nobody is told of calls
/// but by a look every now and then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum State {
    /// It has no resolver, no policies and no connections.
    #[default]
    Asleep,
    /// It has them.
    Awake {
        /// Since when.
        since: Instant,
        /// When to look; never where it is to stay awake.
        check_at: Option<Instant>,
    },
}

/// What happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Somebody wants to use the channel.
    Woken,
    /// The time of `wake_at` has come, and this is how it is used.
    Wake(Usage),
}

/// What it wants done: to let go of everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GoIdle;

/// How a channel is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Calls that have begun and not ended, waiting ones among them.
    pub(crate) calls: usize,
    /// When the last one ended that left none behind.
    pub(crate) last_end: Option<Instant>,
}

impl State {
    /// The state after `event`, and whether to go idle. Without a `timeout` it never does.
    pub(crate) fn step(
        self,
        now: Instant,
        event: Event,
        timeout: Option<Duration>,
    ) -> (Self, Option<GoIdle>) {
        let after = |start| timeout.map(|timeout| later(start, timeout));
        match (self, event) {
            (Self::Asleep, Event::Woken) => {
                (Self::Awake { since: now, check_at: after(now) }, None)
            }
            (Self::Awake { since, .. }, Event::Wake(usage)) => {
                let unused_since = match usage {
                    Usage { calls: 0, last_end } => last_end.map_or(since, |end| end.max(since)),
                    Usage { .. } => now,
                };
                match after(unused_since) {
                    Some(due) if now >= due => (Self::Asleep, Some(GoIdle)),
                    check_at => (Self::Awake { since, check_at }, None),
                }
            }
            (Self::Awake { .. }, Event::Woken) | (Self::Asleep, Event::Wake(_)) => (self, None),
        }
    }

    /// When it next wants [`Event::Wake`].
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        match self {
            Self::Asleep => None,
            Self::Awake { check_at, .. } => *check_at,
        }
    }
}

#[cfg(test)]
mod tests;
