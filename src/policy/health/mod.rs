//! Whether a server that is connected to says that it serves (A17).

use std::time::Instant;

use super::backoff::Backoff;
use super::later;
use crate::types::ConnectivityState;
use crate::types::Dice;

/// The health of one subchannel, beside the state of its connection.
///
/// ```text
///     ┌─────┐ Enabled  ┌─────────────┐ Connected  ┌──────────┐
///     │ Off │ ───────► │ Unconnected │ ─────────► │ Checking │ ◄───────────────┐
///     └─────┘          └─────────────┘            └──────────┘                 │
///                            Unimplemented           │   │ WatchEnded          │
///     ┌─────────────┐ ◄───── from any of these ──────┤   ▼                     │
///     │ Unsupported │                                │ ┌─────────┐ Wake,       │
///     └─────────────┘                       Answered │ │ Resting │ ResetBackoff│
///                                                    ▼ └─────────┘ ────────────┤
///                        Answered ┌─────────┐ ┌────────────┐                   │
///                          ┌────► │ Serving │ │ NotServing │ ◄────┐            │
///                          │      └─────────┘ └────────────┘      │            │
///                          └─────────── one or the other ─────────┘            │
///                            WatchEnded, from both: Resting ───────────────────┘
///
///     Lost, or Enabled with another service, from all but Off: Unconnected
///     Connected, from all but Off: Checking
///     Disabled, from anywhere: Off
/// ```
///
/// `attempt` counts the watches in a row that ended without a word; it is the index into the
/// backoff. After one that said something it starts over.
///
/// What is asked, and whom, it does not know: it goes by what came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum State {
    /// Nobody asks: what is connected is taken as healthy.
    #[default]
    Off,
    /// It is to be asked, and there is no connection to ask on.
    Unconnected,
    /// A watch has begun and has not said anything.
    Checking {
        /// Watches in a row that ended without a word.
        attempt: u32,
    },
    /// The server says that it serves; the watch goes on.
    Serving,
    /// The server says anything else; the watch goes on.
    NotServing,
    /// The watch has failed; no other before `until`.
    Resting {
        /// Watches in a row that ended without a word, before that one.
        attempt: u32,
        /// The end of the rest.
        until: Instant,
    },
    /// The server does not know what a watch is: taken as healthy for as long as this connection
    /// lives.
    Unsupported,
}

/// What happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// It is to be asked from now on, or for another service than before. If there is a
    /// connection, [`Event::Connected`] follows.
    Enabled,
    /// It is not to be asked any more.
    Disabled,
    /// There is a new connection.
    Connected,
    /// The watch is gone, or must go, for no fault of the server: what it said holds until the
    /// next one says otherwise.
    Moved,
    /// The connection is gone, or takes no new streams.
    Lost,
    /// The watch has said something.
    Answered {
        /// Whether the server serves.
        serving: bool,
    },
    /// The server has ended the watch with UNIMPLEMENTED.
    Unimplemented,
    /// The watch has ended in any other way, a good one included.
    WatchEnded,
    /// The time of `wake_at` has come.
    Wake,
    /// Failures so far are to be forgotten.
    ResetBackoff,
}

/// What it wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Begin a watch; one that is under way ends.
    Watch,
    /// End the watch that is under way.
    StopWatch,
    /// Say that the server cannot be asked.
    Complain,
    /// Tell the policy of this state.
    Report(ConnectivityState),
}

/// How long it rests.
pub(crate) struct Pace<'a> {
    /// After a watch that ended without a word.
    pub(crate) backoff: &'a Backoff,
    /// For the jitter.
    pub(crate) dice: &'a mut Dice,
}

impl State {
    /// The state after `event`; what is to be done goes onto `fx`, in order.
    pub(crate) fn step(
        self,
        now: Instant,
        event: Event,
        pace: &mut Pace<'_>,
        fx: &mut Vec<Effect>,
    ) -> Self {
        match (self, event) {
            (_, Event::Disabled) => self.enter(Self::Off, fx),
            (_, Event::Enabled)
            | (
                Self::Unconnected
                | Self::Checking { .. }
                | Self::Serving
                | Self::NotServing
                | Self::Resting { .. }
                | Self::Unsupported,
                Event::Lost,
            ) => self.enter(Self::Unconnected, fx),
            (
                Self::Unconnected
                | Self::Checking { .. }
                | Self::Serving
                | Self::NotServing
                | Self::Resting { .. }
                | Self::Unsupported,
                Event::Connected,
            )
            | (Self::Resting { .. }, Event::ResetBackoff) => self.watch(0, fx),
            (Self::Checking { .. } | Self::Serving | Self::NotServing, Event::Moved) => {
                fx.push(Effect::Watch);
                self
            }
            (
                Self::Checking { .. } | Self::Serving | Self::NotServing,
                Event::Answered { serving: true },
            ) => self.enter(Self::Serving, fx),
            (
                Self::Checking { .. } | Self::Serving | Self::NotServing,
                Event::Answered { serving: false },
            ) => {
                // Even if that is no news: the words may be others.
                fx.push(Effect::Report(ConnectivityState::TransientFailure));
                Self::NotServing
            }
            (
                Self::Checking { .. } | Self::Serving | Self::NotServing,
                Event::Unimplemented,
            ) => {
                fx.push(Effect::Complain);
                self.enter(Self::Unsupported, fx)
            }
            (Self::Checking { attempt }, Event::WatchEnded) => rest(now, attempt, pace, fx),
            // It has spoken, so failures before it are over; yet a server that ends each watch
            // after a word must not be asked without a pause.
            (Self::Serving | Self::NotServing, Event::WatchEnded) => rest(now, 0, pace, fx),
            (Self::Resting { attempt, until }, Event::Wake) if now >= until => {
                self.watch(attempt.saturating_add(1), fx)
            }
            (Self::Checking { .. }, Event::ResetBackoff) => Self::Checking { attempt: 0 },
            // Nobody asks.
            (
                Self::Off,
                Event::Connected
                | Event::Moved
                | Event::Lost
                | Event::Answered { .. }
                | Event::Unimplemented
                | Event::WatchEnded
                | Event::Wake
                | Event::ResetBackoff,
            )
            // Late news of a watch that is over.
            | (
                Self::Unconnected | Self::Resting { .. } | Self::Unsupported,
                Event::Moved
                | Event::Answered { .. }
                | Event::Unimplemented
                | Event::WatchEnded,
            )
            // Timers that are early, or late.
            | (
                Self::Unconnected
                | Self::Checking { .. }
                | Self::Serving
                | Self::NotServing
                | Self::Resting { .. }
                | Self::Unsupported,
                Event::Wake,
            )
            | (
                Self::Unconnected | Self::Serving | Self::NotServing | Self::Unsupported,
                Event::ResetBackoff,
            ) => self,
        }
    }

    /// When it next wants [`Event::Wake`].
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        match self {
            Self::Resting { until, .. } => Some(*until),
            Self::Off
            | Self::Unconnected
            | Self::Checking { .. }
            | Self::Serving
            | Self::NotServing
            | Self::Unsupported => None,
        }
    }

    /// As policies see it.
    pub(crate) fn connectivity(&self) -> ConnectivityState {
        match self {
            Self::Off | Self::Serving | Self::Unsupported => ConnectivityState::Ready,
            Self::Unconnected | Self::Checking { .. } => ConnectivityState::Connecting,
            Self::NotServing | Self::Resting { .. } => ConnectivityState::TransientFailure,
        }
    }

    /// Whether a watch is under way.
    pub(crate) fn is_watching(&self) -> bool {
        match self {
            Self::Checking { .. } | Self::Serving | Self::NotServing => true,
            Self::Off | Self::Unconnected | Self::Resting { .. } | Self::Unsupported => false,
        }
    }

    fn watch(self, attempt: u32, fx: &mut Vec<Effect>) -> Self {
        fx.push(Effect::Watch);
        self.enter(Self::Checking { attempt }, fx)
    }

    /// Goes on to `next`, with an end of what belongs to this state alone; tells the policy if it
    /// sees a difference.
    fn enter(self, next: Self, fx: &mut Vec<Effect>) -> Self {
        if self.is_watching() && !next.is_watching() {
            fx.push(Effect::StopWatch);
        }
        if self.connectivity() != next.connectivity() {
            fx.push(Effect::Report(next.connectivity()));
        }
        next
    }
}

fn rest(now: Instant, attempt: u32, pace: &mut Pace<'_>, fx: &mut Vec<Effect>) -> State {
    fx.push(Effect::Report(ConnectivityState::TransientFailure));
    State::Resting { attempt, until: later(now, pace.backoff.delay(attempt, pace.dice)) }
}

#[cfg(test)]
mod tests;
