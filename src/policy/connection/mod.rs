//! When one address is dialled, how long it backs off after a failure, and what it reports.

use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::later;
use super::lb::SubchannelState;
use crate::types::{ConnectivityState, Dice, Status};

/// The life of one subchannel's connection.
///
/// ```text
///               Connect                  Dialed
///     ┌───────┐ ──────► ┌────────────┐ ─────────► ┌───────┐
///     │ Idle  │         │ Connecting │            │ Ready │
///     └───────┘         └────────────┘            └───────┘
///       ▲   ▲ Wake, ResetBackoff │ DialFailed        │ Lost
///       │   └───── ┌─────────┐ ◄─┘                   │
///       │          │ Backoff │                       │
///       │          └─────────┘                       │
///       └────────────────────────────────────────────┘
///
///     Retire, from anywhere: Retired
///     Lost while a further connection was being made: Connecting, or Backoff after its failure
/// ```
///
/// `attempt` counts the failures in a row; it is the index into the backoff. It starts over when a
/// connection was up, however short, and when it is told to.
#[derive(Clone, Debug)]
pub(crate) enum State {
    /// Nobody has asked for a connection since the last one ended.
    Idle {
        /// Failures in a row so far.
        attempt: u32,
    },
    /// A dial is under way.
    Connecting {
        /// Failures in a row so far.
        attempt: u32,
        /// When the dial is given up, whatever it is doing. The dialler keeps it.
        deadline: Instant,
    },
    /// There is a connection.
    Ready,
    /// The dial failed; no other before `until`.
    Backoff {
        /// Failures in a row before this one.
        attempt: u32,
        /// The end of the backoff.
        until: Instant,
        /// How the dial failed.
        cause: Status,
    },
    /// Given up forever.
    Retired,
}

/// What happens to it.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// The policy wants a connection.
    Connect,
    /// The dial has led to a connection.
    Dialed,
    /// The dial has failed, or its deadline has passed.
    DialFailed(Status),
    /// The last connection is gone, or takes no new streams.
    Lost(Growth),
    /// The time of `wake_at` has come.
    Wake,
    /// Failures so far are to be forgotten.
    ResetBackoff,
    /// The policy has no more use for this address.
    Retire,
}

/// What was being done to get a further connection when the last one was lost. It goes on as the
/// dial, or the backoff, of the subchannel: that has one of each (A105).
#[derive(Clone, Debug)]
pub(crate) enum Growth {
    /// Nothing.
    None,
    /// A dial is under way.
    Dialing {
        /// Failures in a row so far.
        attempt: u32,
        /// When the dial is given up.
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

/// What it wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Dial, and give it up at `deadline`.
    Dial {
        /// Covers everything up to the first frame of the server.
        deadline: Instant,
    },
    /// Give up the dial that is under way.
    AbandonDial,
    /// Tell the policy of this state.
    Report(ConnectivityState),
    /// Ask for a new resolution: the address may be out of date.
    ResolveNow,
    /// Close the live connection gracefully: its streams go on to their ends.
    Drain,
}

/// The times it goes by.
pub(crate) struct Timing<'a> {
    /// How long it rests after a failure.
    pub(crate) backoff: &'a Backoff,
    /// The least time that a dial is given.
    pub(crate) min_connect_timeout: Duration,
    /// For the jitter.
    pub(crate) dice: &'a mut Dice,
}

impl Default for State {
    fn default() -> Self {
        Self::Idle { attempt: 0 }
    }
}

impl State {
    /// The state after `event`; what is to be done goes onto `fx`, in order.
    pub(crate) fn step(
        self,
        now: Instant,
        event: Event,
        timing: &mut Timing<'_>,
        fx: &mut Vec<Effect>,
    ) -> Self {
        match (self, event) {
            (Self::Idle { attempt }, Event::Connect) => {
                let patience = timing.backoff.nominal(attempt);
                let deadline = later(now, patience.max(timing.min_connect_timeout));
                fx.push(Effect::Report(ConnectivityState::Connecting));
                fx.push(Effect::Dial { deadline });
                Self::Connecting { attempt, deadline }
            }
            (Self::Connecting { .. }, Event::Dialed) => {
                fx.push(Effect::Report(ConnectivityState::Ready));
                Self::Ready
            }
            (Self::Connecting { attempt, .. }, Event::DialFailed(cause)) => {
                // In this order, so that whoever sees the failure can count on a new resolution.
                fx.push(Effect::ResolveNow);
                fx.push(Effect::Report(ConnectivityState::TransientFailure));
                let until = later(now, timing.backoff.delay(attempt, timing.dice));
                Self::Backoff { attempt, until, cause }
            }
            // Not TRANSIENT_FAILURE where no dial has failed: the address was good a moment ago.
            (Self::Ready, Event::Lost(growth)) => {
                let state = match growth {
                    Growth::None => Self::Idle { attempt: 0 },
                    Growth::Dialing { attempt, deadline } => Self::Connecting { attempt, deadline },
                    Growth::Backoff { attempt, until, cause } => {
                        Self::Backoff { attempt, until, cause }
                    }
                };
                fx.push(Effect::ResolveNow);
                fx.push(Effect::Report(state.connectivity()));
                state
            }
            (Self::Backoff { attempt, until, .. }, Event::Wake) if now >= until => {
                fx.push(Effect::Report(ConnectivityState::Idle));
                Self::Idle {
                    attempt: attempt.saturating_add(1),
                }
            }
            (Self::Backoff { .. }, Event::ResetBackoff) => {
                fx.push(Effect::Report(ConnectivityState::Idle));
                Self::Idle { attempt: 0 }
            }
            (Self::Idle { .. }, Event::ResetBackoff) => Self::Idle { attempt: 0 },
            (Self::Connecting { deadline, .. }, Event::ResetBackoff) => Self::Connecting {
                attempt: 0,
                deadline,
            },
            (Self::Idle { .. } | Self::Backoff { .. }, Event::Retire) => {
                fx.push(Effect::Report(ConnectivityState::Shutdown));
                Self::Retired
            }
            (Self::Connecting { .. }, Event::Retire) => {
                fx.push(Effect::AbandonDial);
                fx.push(Effect::Report(ConnectivityState::Shutdown));
                Self::Retired
            }
            (Self::Ready, Event::Retire) => {
                fx.push(Effect::Drain);
                fx.push(Effect::Report(ConnectivityState::Shutdown));
                Self::Retired
            }
            // A policy may ask at any time; only an idle address has to act on it.
            (state @ (Self::Connecting { .. } | Self::Ready | Self::Backoff { .. }), Event::Connect)
            // Late news of a dial or a connection that is no longer ours.
            | (
                state @ (Self::Idle { .. } | Self::Ready | Self::Backoff { .. }),
                Event::Dialed | Event::DialFailed(_),
            )
            | (
                state @ (Self::Idle { .. } | Self::Connecting { .. } | Self::Backoff { .. }),
                Event::Lost(_),
            )
            // Timers that are early, or late.
            | (
                state @ (Self::Idle { .. }
                | Self::Connecting { .. }
                | Self::Ready
                | Self::Backoff { .. }),
                Event::Wake,
            )
            | (state @ Self::Ready, Event::ResetBackoff)
            | (
                state @ Self::Retired,
                Event::Connect
                | Event::Dialed
                | Event::DialFailed(_)
                | Event::Lost(_)
                | Event::Wake
                | Event::ResetBackoff
                | Event::Retire,
            ) => state,
        }
    }

    /// When it next wants [`Event::Wake`].
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        match self {
            Self::Backoff { until, .. } => Some(*until),
            Self::Idle { .. } | Self::Connecting { .. } | Self::Ready | Self::Retired => None,
        }
    }

    /// As policies see it.
    pub(crate) fn connectivity(&self) -> ConnectivityState {
        match self {
            Self::Idle { .. } => ConnectivityState::Idle,
            Self::Connecting { .. } => ConnectivityState::Connecting,
            Self::Ready => ConnectivityState::Ready,
            Self::Backoff { .. } => ConnectivityState::TransientFailure,
            Self::Retired => ConnectivityState::Shutdown,
        }
    }

    /// As policies are told of it, with the cause of a failure.
    pub(crate) fn reported(&self) -> SubchannelState {
        let error = match self {
            Self::Backoff { cause, .. } => Some(cause.clone()),
            Self::Idle { .. } | Self::Connecting { .. } | Self::Ready | Self::Retired => None,
        };
        SubchannelState { connectivity: self.connectivity(), error }
    }
}

#[cfg(test)]
mod tests;
