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
///     └───────┘ ◄──┐    └────────────┘            └───────┘
///      │  ▲        │        ▲  │ DialFailed          │
///      │  │        │   Wake │  ▼                     │ Lost without proof, not for the first time
///      │  │        └────────│─ ┌─────────┐           │
///      │  │  Wake,          │  │ Backoff │ ◄─────────┤
///      │  │  ResetBackoff   │  └─────────┘           │
///      │  └─────────────────│────────────────────────┘ Lost
///      │ Connect too early ┌─────────┐
///      └─────────────────► │ Pausing │
///                          └─────────┘
///
///     Retire, from anywhere: Retired
///     Lost while a further connection was being made: Connecting, or Backoff after its failure
/// ```
///
/// `attempt` counts the failures in a row; it is the index into the backoff. It starts over when it
/// is told to, and when a connection has proved itself: it carried an answer, if only a reset, or
/// outlived the delay that would follow its loss. A connection that is lost without proof counts as
/// a failure. It fails no call where it is the first in a row, which may be one that the server
/// parts from as it stops, nor where its server keeps calls that it may yet answer: the next dial
/// waits for the delay, or for such an answer, and calls wait with it.
#[derive(Clone, Debug)]
pub(crate) enum State {
    /// Nobody has asked for a connection since the last one ended.
    Idle {
        /// Failures in a row so far.
        attempt: u32,
        /// When the next dial may begin, where a connection was lost without proof.
        not_before: Option<Instant>,
    },
    /// A connection is wanted, and it is too early to dial. Seen from outside this is CONNECTING.
    Pausing {
        /// Failures in a row so far.
        attempt: u32,
        /// When the dial may begin.
        until: Instant,
    },
    /// A dial is under way.
    Connecting {
        /// Failures in a row so far.
        attempt: u32,
        /// When the dial is given up, whatever it is doing. The dialler keeps it.
        deadline: Instant,
    },
    /// There is a connection.
    Ready {
        /// Failures in a row before it.
        attempt: u32,
        /// When it came up.
        since: Instant,
    },
    /// The dial failed, or its connection was of no use; no other before `until`.
    Backoff {
        /// Failures in a row before this one.
        attempt: u32,
        /// The end of the backoff.
        until: Instant,
        /// What failed.
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
    Lost(Loss),
    /// The time of `wake_at` has come.
    Wake,
    /// Failures so far are to be forgotten.
    ResetBackoff,
    /// The policy has no more use for this address.
    Retire,
    /// The server has answered a call on a connection that was lost before it had answered any.
    Answered,
}

/// How the last connection was lost.
#[derive(Clone, Debug)]
pub(crate) struct Loss {
    /// What the server has done for its calls.
    pub(crate) proof: Proof,
    /// Why it was lost.
    pub(crate) cause: Status,
    /// What was being done to get a further one.
    pub(crate) growth: Growth,
}

/// What shows that a server is of use, in rising order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Proof {
    /// Nothing.
    #[default]
    None,
    /// It parts from a connection gracefully, and keeps calls that it may yet answer.
    Expected,
    /// It has answered a call, if only by a reset.
    Answered,
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
        Self::FRESH
    }
}

impl State {
    /// Without failures.
    const FRESH: Self = Self::Idle { attempt: 0, not_before: None };

    /// The state after `event`; what is to be done goes onto `fx`, in order.
    pub(crate) fn step(
        self,
        now: Instant,
        event: Event,
        timing: &mut Timing<'_>,
        fx: &mut Vec<Effect>,
    ) -> Self {
        match (self, event) {
            (Self::Idle { attempt, not_before }, Event::Connect) => {
                fx.push(Effect::Report(ConnectivityState::Connecting));
                match not_before {
                    Some(until) if until > now => Self::Pausing { attempt, until },
                    Some(_) | None => dial(now, attempt, timing, fx),
                }
            }
            (Self::Pausing { attempt, until }, Event::Wake) if now >= until => {
                dial(now, attempt, timing, fx)
            }
            (Self::Connecting { attempt, .. }, Event::Dialed) => {
                fx.push(Effect::Report(ConnectivityState::Ready));
                Self::Ready { attempt, since: now }
            }
            (Self::Connecting { attempt, .. }, Event::DialFailed(cause)) => {
                // In this order, so that whoever sees the failure can count on a new resolution.
                fx.push(Effect::ResolveNow);
                fx.push(Effect::Report(ConnectivityState::TransientFailure));
                let until = later(now, timing.backoff.delay(attempt, timing.dice));
                Self::Backoff { attempt, until, cause }
            }
            (Self::Ready { attempt, since }, Event::Lost(loss)) => {
                let until = later(since, timing.backoff.delay(attempt, timing.dice));
                let state = Self::after(loss, attempt, until, now);
                fx.push(Effect::ResolveNow);
                fx.push(Effect::Report(state.connectivity()));
                state
            }
            (Self::Backoff { attempt, until, .. }, Event::Wake) if now >= until => {
                fx.push(Effect::Report(ConnectivityState::Idle));
                Self::Idle {
                    attempt: attempt.saturating_add(1),
                    not_before: None,
                }
            }
            (Self::Backoff { .. }, Event::ResetBackoff) => {
                fx.push(Effect::Report(ConnectivityState::Idle));
                Self::FRESH
            }
            (state, Event::ResetBackoff | Event::Answered) => state.forgive(now, timing, fx),
            (Self::Idle { .. } | Self::Pausing { .. } | Self::Backoff { .. }, Event::Retire) => {
                fx.push(Effect::Report(ConnectivityState::Shutdown));
                Self::Retired
            }
            (Self::Connecting { .. }, Event::Retire) => {
                fx.push(Effect::AbandonDial);
                fx.push(Effect::Report(ConnectivityState::Shutdown));
                Self::Retired
            }
            (Self::Ready { .. }, Event::Retire) => {
                fx.push(Effect::Drain);
                fx.push(Effect::Report(ConnectivityState::Shutdown));
                Self::Retired
            }
            // A policy may ask at any time; only an idle address has to act on it.
            (
                state @ (Self::Pausing { .. }
                | Self::Connecting { .. }
                | Self::Ready { .. }
                | Self::Backoff { .. }),
                Event::Connect,
            )
            // Late news of a dial or a connection that is no longer ours.
            | (
                state @ (Self::Idle { .. }
                | Self::Pausing { .. }
                | Self::Ready { .. }
                | Self::Backoff { .. }),
                Event::Dialed | Event::DialFailed(_),
            )
            | (
                state @ (Self::Idle { .. }
                | Self::Pausing { .. }
                | Self::Connecting { .. }
                | Self::Backoff { .. }),
                Event::Lost(_),
            )
            // Timers that are early, or late.
            | (
                state @ (Self::Idle { .. }
                | Self::Pausing { .. }
                | Self::Connecting { .. }
                | Self::Ready { .. }
                | Self::Backoff { .. }),
                Event::Wake,
            )
            | (
                state @ Self::Retired,
                Event::Connect
                | Event::Dialed
                | Event::DialFailed(_)
                | Event::Lost(_)
                | Event::Wake
                | Event::Retire,
            ) => state,
        }
    }

    /// Forgets failures so far.
    fn forgive(self, now: Instant, timing: &Timing<'_>, fx: &mut Vec<Effect>) -> Self {
        match self {
            Self::Idle { .. } => Self::FRESH,
            Self::Pausing { .. } => dial(now, 0, timing, fx),
            Self::Connecting { deadline, .. } => Self::Connecting { attempt: 0, deadline },
            Self::Ready { since, .. } => Self::Ready { attempt: 0, since },
            // This failure has come since.
            Self::Backoff { .. } | Self::Retired => self,
        }
    }

    /// What follows the loss of the last connection, before which so many attempts had failed. It
    /// has made good for these if it has carried an answer, or has lived until the delay that would
    /// follow was over.
    fn after(loss: Loss, failed: u32, delayed_until: Instant, now: Instant) -> Self {
        let is_proven = loss.proof == Proof::Answered || now >= delayed_until;
        let failures = if is_proven { 0 } else { failed.saturating_add(1) };
        match loss.growth {
            // Not TRANSIENT_FAILURE where the address was good a moment ago.
            Growth::None if is_proven => Self::FRESH,
            Growth::None if failed == 0 || loss.proof == Proof::Expected => {
                Self::Idle { attempt: failures, not_before: Some(delayed_until) }
            }
            Growth::None => {
                Self::Backoff { attempt: failed, until: delayed_until, cause: loss.cause }
            }
            Growth::Dialing { attempt, deadline } => {
                Self::Connecting { attempt: attempt.max(failures), deadline }
            }
            Growth::Backoff { attempt, until, cause } => {
                Self::Backoff { attempt: attempt.max(failures), until, cause }
            }
        }
    }

    /// When it next wants [`Event::Wake`].
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        match self {
            Self::Pausing { until, .. } | Self::Backoff { until, .. } => Some(*until),
            Self::Idle { .. } | Self::Connecting { .. } | Self::Ready { .. } | Self::Retired => {
                None
            }
        }
    }

    /// As policies see it.
    pub(crate) fn connectivity(&self) -> ConnectivityState {
        match self {
            Self::Idle { .. } => ConnectivityState::Idle,
            Self::Pausing { .. } | Self::Connecting { .. } => ConnectivityState::Connecting,
            Self::Ready { .. } => ConnectivityState::Ready,
            Self::Backoff { .. } => ConnectivityState::TransientFailure,
            Self::Retired => ConnectivityState::Shutdown,
        }
    }

    /// As policies are told of it, with the cause of a failure.
    pub(crate) fn reported(&self) -> SubchannelState {
        let error = match self {
            Self::Backoff { cause, .. } => Some(cause.clone()),
            Self::Idle { .. }
            | Self::Pausing { .. }
            | Self::Connecting { .. }
            | Self::Ready { .. }
            | Self::Retired => None,
        };
        SubchannelState { connectivity: self.connectivity(), error }
    }
}

fn dial(now: Instant, attempt: u32, timing: &Timing<'_>, fx: &mut Vec<Effect>) -> State {
    let patience = timing.backoff.nominal(attempt);
    let deadline = later(now, patience.max(timing.min_connect_timeout));
    fx.push(Effect::Dial { deadline });
    State::Connecting { attempt, deadline }
}

#[cfg(test)]
mod tests;
