//! How many connections one address has (A105).

use std::time::Instant;

use super::connection::Timing;
use super::later;

/// Whether an address gets a further connection. The first is `policy::connection`'s affair; this
/// one begins when that is up.
///
/// ```text
///     ┌────────┐ Looked, and one more is wanted: dial ┌─────────┐
///     │ Steady │ ───────────────────────────────────► │ Dialing │
///     └────────┘ ◄─────────────────────────────────── └─────────┘
///         ▲                   Dialed                       │ Failed
///         │ Wake, and no more is wanted  ┌─────────┐       │
///         └───────────────────────────── │ Resting │ ◄─────┘
///                                        └─────────┘ Wake, and one more is wanted: dial
///
///     No connection is left: Steady, and a dial is given up
/// ```
///
/// One at a time: each that comes up may be enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum State {
    /// Nothing is under way.
    #[default]
    Steady,
    /// A further connection is being made.
    Dialing {
        /// Failures in a row so far.
        attempt: u32,
    },
    /// The dial failed; no other before `until`.
    Resting {
        /// Failures in a row before this one.
        attempt: u32,
        /// The end of the rest.
        until: Instant,
    },
}

/// What happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Something may have changed: a call waits, a connection came or went.
    Looked,
    /// The dial has led to a connection.
    Dialed,
    /// It has failed.
    Failed,
    /// The time of `wake_at` has come.
    Wake,
}

/// What it wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Make a further connection, and give that up at `deadline`.
    Dial {
        /// Covers everything up to the first frame of the server.
        deadline: Instant,
    },
    /// Give up the dial that is under way.
    AbandonDial,
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
    /// The state after `event`; what is to be done goes onto `fx`.
    pub(crate) fn step(
        self,
        now: Instant,
        event: Event,
        view: View,
        goal: Goal,
        timing: &mut Timing<'_>,
        fx: &mut Vec<Effect>,
    ) -> Self {
        match (self, event) {
            (Self::Dialing { .. }, Event::Looked) if view.open == 0 => {
                fx.push(Effect::AbandonDial);
                Self::Steady
            }
            (Self::Resting { .. }, Event::Looked) if view.open == 0 => Self::Steady,
            (Self::Steady, Event::Looked) | (Self::Dialing { .. }, Event::Dialed) => {
                dial_if_wanted(now, 0, view, goal, timing, fx)
            }
            (Self::Dialing { attempt }, Event::Failed) => {
                let until = later(now, timing.backoff.delay(attempt, timing.dice));
                Self::Resting { attempt, until }
            }
            (Self::Resting { attempt, until }, Event::Wake) if now >= until => {
                dial_if_wanted(now, attempt.saturating_add(1), view, goal, timing, fx)
            }
            // A dial that was given up may have been done already; and what waits is looked at
            // again when the dial, or the rest, is over.
            (Self::Steady, Event::Dialed | Event::Failed | Event::Wake)
            | (Self::Dialing { .. }, Event::Looked | Event::Wake)
            | (Self::Resting { .. }, Event::Looked | Event::Dialed | Event::Failed | Event::Wake) => {
                self
            }
        }
    }

    /// When it next wants [`Event::Wake`].
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        match self {
            Self::Resting { until, .. } => Some(*until),
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
    fx: &mut Vec<Effect>,
) -> State {
    if !goal.wants_more(view) {
        return State::Steady;
    }
    let patience = timing.backoff.nominal(attempt).max(timing.min_connect_timeout);
    fx.push(Effect::Dial { deadline: later(now, patience) });
    State::Dialing { attempt }
}

#[cfg(test)]
mod tests;
