//! How many connections one address has (A105).

use std::time::Instant;

use super::connection::{Growth, Timing};
use super::later;
use crate::types::Status;

/// Whether an address gets a further connection. The first is `policy::connection`'s affair; this
/// one begins when that is up.
///
/// ```text
///     ┌────────┐ Looked, and one more is wanted: dial ┌─────────┐
///     │ Steady │ ───────────────────────────────────► │ Dialing │
///     └────────┘ ◄─────────────────────────────────── └─────────┘
///       ▲  ▲                  Dialed                       │ Failed
///       │  │ Wake or ResetBackoff, and   ┌─────────┐       │
///       │  └──────────────────────────── │ Backoff │ ◄─────┘
///       │        no more is wanted       └─────────┘ Wake or ResetBackoff, and one more is
///       │                                            wanted: dial
///       └─ handed over, with what is under way, once no connection is left
/// ```
///
/// One at a time: each that comes up may be enough.
#[derive(Clone, Debug, Default)]
pub(crate) enum State {
    /// Nothing is under way.
    #[default]
    Steady,
    /// A further connection is being made.
    Dialing {
        /// Failures in a row so far.
        attempt: u32,
        /// When the dial is given up, whatever it is doing. The dialler keeps it.
        deadline: Instant,
    },
    /// The dial failed; no other before `until`.
    Backoff {
        /// Failures in a row before this one.
        attempt: u32,
        /// The end of the backoff.
        until: Instant,
        /// How the dial failed.
        cause: Status,
    },
}

/// What happens to it.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// Something may have changed: a call waits, a connection came or went, the service config
    /// allows another number of them.
    Looked,
    /// The dial has led to a connection.
    Dialed,
    /// It has failed.
    Failed(Status),
    /// The time of `wake_at` has come.
    Wake,
    /// Failures so far are to be forgotten.
    ResetBackoff,
}

/// Make a further connection, and give that up at `deadline`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dial {
    /// Covers everything up to the first frame of the server.
    pub(crate) deadline: Instant,
}

/// How the address stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct View {
    /// Connections that take calls.
    pub(crate) open: usize,
    /// Calls that wait for room on them.
    pub(crate) waiting: usize,
}

/// How many connections there are to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Goal {
    /// So many in any case.
    pub(crate) warm: usize,
    /// So many if calls wait.
    pub(crate) max: usize,
}

impl Goal {
    fn wants_more(self, view: View) -> bool {
        let enough = if view.waiting > 0 { self.max.max(self.warm) } else { self.warm };
        view.open > 0 && view.open < enough
    }
}

impl State {
    /// The state after `event`, and the dial that is to be made, if one is.
    pub(crate) fn step(
        self,
        now: Instant,
        event: Event,
        view: View,
        goal: Goal,
        timing: &mut Timing<'_>,
    ) -> (Self, Option<Dial>) {
        match (self, event) {
            (Self::Steady, Event::Looked)
            | (Self::Dialing { .. }, Event::Dialed)
            | (Self::Backoff { .. }, Event::ResetBackoff) => {
                dial_if_wanted(now, 0, view, goal, timing)
            }
            (Self::Dialing { attempt, .. }, Event::Failed(cause)) => {
                let until = later(now, timing.backoff.delay(attempt, timing.dice));
                (Self::Backoff { attempt, until, cause }, None)
            }
            (Self::Backoff { attempt, until, .. }, Event::Wake) if now >= until => {
                dial_if_wanted(now, attempt.saturating_add(1), view, goal, timing)
            }
            (Self::Dialing { deadline, .. }, Event::ResetBackoff) => {
                (Self::Dialing { attempt: 0, deadline }, None)
            }
            // What waits is looked at again when the dial, or the backoff, is over. News of a dial
            // may be late.
            (
                state @ Self::Steady,
                Event::Dialed | Event::Failed(_) | Event::Wake | Event::ResetBackoff,
            )
            | (state @ Self::Dialing { .. }, Event::Looked | Event::Wake)
            | (
                state @ Self::Backoff { .. },
                Event::Looked | Event::Dialed | Event::Failed(_) | Event::Wake,
            ) => (state, None),
        }
    }

    /// Gives away what is under way, as no connection is left to grow from.
    pub(crate) fn hand_over(&mut self) -> Growth {
        match std::mem::take(self) {
            Self::Steady => Growth::None,
            Self::Dialing { attempt, deadline } => Growth::Dialing { attempt, deadline },
            Self::Backoff { attempt, until, cause } => Growth::Backoff { attempt, until, cause },
        }
    }

    /// When it next wants [`Event::Wake`].
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        match self {
            Self::Backoff { until, .. } => Some(*until),
            Self::Steady | Self::Dialing { .. } => None,
        }
    }
}

fn dial_if_wanted(
    now: Instant,
    attempt: u32,
    view: View,
    goal: Goal,
    timing: &Timing<'_>,
) -> (State, Option<Dial>) {
    if !goal.wants_more(view) {
        return (State::Steady, None);
    }
    let patience = timing.backoff.nominal(attempt).max(timing.min_connect_timeout);
    let deadline = later(now, patience);
    (State::Dialing { attempt, deadline }, Some(Dial { deadline }))
}

#[cfg(test)]
mod tests;
