//! When names are looked up.

use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::later;
use crate::types::Dice;
use crate::types::Refresh;

/// The life of one resolver.
///
/// ```text
///     ┌──────┐ Start  ┌─────────┐ Resolved ┌─────────┐
///     │ Idle │ ─────► │ Looking │ ───────► │ Settled │
///     └──────┘        └─────────┘ ◄─────── └─────────┘
///                       │   ▲     ResolveNow    │ Rejected
///           Failed or   │   │     (no sooner    │
///           the deadline│   │     than Refresh  │
///           passed      │   │     has it),      │
///                       ▼   │     Changed       │
///                     ┌─────────┐               │
///                     │ Backoff │ ◄─────────────┘
///                     └─────────┘  Wake, ResetBackoff, Changed: look again
///
///     Stop, from anywhere: Idle
/// ```
///
/// `attempt` counts the failures in a row, a result that the balancer refuses being one. It starts
/// over when the balancer accepts a result, and when it is told to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum State {
    /// Nobody wants endpoints: not yet, or not any more.
    #[default]
    Idle,
    /// A lookup is under way.
    Looking(Lookup),
    /// There is a result.
    Settled(Settled),
    /// The lookup failed, or the balancer refused its result; no other before `until`.
    Backoff {
        /// Failures in a row.
        attempt: u32,
        /// The end of the rest.
        until: Instant,
    },
}

/// A lookup that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lookup {
    /// Failures in a row so far.
    pub(crate) attempt: u32,
    /// When the lookup is given up.
    pub(crate) deadline: Instant,
    /// What follows it.
    pub(crate) then: Then,
}

/// A result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settled {
    /// Failures in a row so far; not zero until the balancer has accepted the result.
    pub(crate) attempt: u32,
    /// When the result came.
    pub(crate) looked_at: Instant,
    /// When to look again: when the result is out of date, or as soon as the resolver may be asked
    /// if somebody has wanted that before.
    pub(crate) due: Option<Instant>,
}

/// What follows a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// Nothing.
    Rest,
    /// Another, as soon as the resolver may be asked again: somebody wanted one meanwhile.
    Refresh {
        /// How long it is left alone after its answer.
        floor: Duration,
    },
    /// Another at once, also after a failure: the resolver has news that this one may have missed.
    Repeat,
}

/// What happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The channel wants endpoints.
    Start,
    /// The lookup has a result.
    Resolved,
    /// The lookup has failed, or the resolver itself has: then it is made anew.
    Failed,
    /// The balancer has accepted the result.
    Accepted,
    /// The balancer, or the channel, has refused the result.
    Rejected,
    /// Somebody suspects that the result is out of date.
    ResolveNow,
    /// The resolver itself says that there is something new.
    Changed,
    /// The time of `wake_at` has come.
    Wake,
    /// Failures so far are to be forgotten.
    ResetBackoff,
    /// The channel no longer wants endpoints.
    Stop,
}

/// What it wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Look the name up.
    Look,
    /// Give up the resolver, with the lookup that it may be at.
    Abandon,
    /// Tell the balancer that the lookup has failed by taking too long.
    TimedOut,
}

/// The times it goes by.
pub(crate) struct Pace<'a> {
    /// How long it rests after a failure.
    pub(crate) backoff: &'a Backoff,
    /// How long one lookup may take.
    pub(crate) lookup_timeout: Duration,
    /// How often the resolver may be asked again.
    pub(crate) refresh: Refresh,
    /// After what time the result that has just come is out of date, if that is known.
    pub(crate) expiry: Option<Duration>,
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
            (Self::Idle, Event::Start) | (Self::Backoff { .. }, Event::ResetBackoff) => {
                look(now, 0, pace, fx)
            }
            (Self::Looking(lookup), Event::Resolved) => match lookup.then {
                Then::Repeat => look(now, lookup.attempt, pace, fx),
                Then::Rest => settle(now, lookup.attempt, expires_at(now, pace)),
                Then::Refresh { floor } => {
                    let due = later(now, floor);
                    let expiry = expires_at(now, pace).map_or(due, |expiry| expiry.min(due));
                    settle(now, lookup.attempt, Some(expiry))
                }
            },
            (Self::Looking(lookup), Event::Failed) => fail(now, lookup, pace, fx),
            (Self::Looking(lookup), Event::Wake) if now >= lookup.deadline => {
                fx.push(Effect::Abandon);
                fx.push(Effect::TimedOut);
                fail(now, lookup, pace, fx)
            }
            (Self::Looking(lookup), Event::ResolveNow) => {
                Self::Looking(lookup.wanted(pace.refresh))
            }
            (Self::Looking(lookup), Event::Changed) => Self::Looking(Lookup {
                then: Then::Repeat,
                ..lookup
            }),
            // Accepted: the answer to an earlier result, which was good.
            (Self::Looking(lookup), Event::Accepted | Event::ResetBackoff) => {
                Self::Looking(Lookup {
                    attempt: 0,
                    ..lookup
                })
            }
            (Self::Settled(settled), Event::Accepted | Event::ResetBackoff) => {
                Self::Settled(Settled {
                    attempt: 0,
                    ..settled
                })
            }
            // Failed: the resolver has ended by itself after it gave this result.
            (Self::Settled(settled), Event::Rejected | Event::Failed) => {
                rest(now, settled.attempt, pace)
            }
            (Self::Settled(settled), Event::ResolveNow) => settled.wanted(now, pace, fx),
            (Self::Settled(Settled { attempt, due, .. }), Event::Wake)
                if due.is_some_and(|due| now >= due) =>
            {
                look(now, attempt, pace, fx)
            }
            (Self::Backoff { attempt, until }, Event::Wake) if now >= until => {
                look(now, attempt, pace, fx)
            }
            (
                Self::Settled(Settled { attempt, .. }) | Self::Backoff { attempt, .. },
                Event::Changed,
            ) => look(now, attempt, pace, fx),
            (Self::Looking(_) | Self::Settled(_) | Self::Backoff { .. }, Event::Stop) => {
                fx.push(Effect::Abandon);
                Self::Idle
            }
            (
                Self::Idle,
                Event::Resolved
                | Event::Failed
                | Event::Accepted
                | Event::Rejected
                | Event::ResolveNow
                | Event::Changed
                | Event::Wake
                | Event::ResetBackoff
                | Event::Stop,
            )
            // A result that is refused after the next lookup has begun: that one will be judged.
            // And a timer that is early, or late, as below.
            | (Self::Looking(_), Event::Start | Event::Rejected | Event::Wake)
            // Late news of a lookup that is no longer ours.
            | (Self::Settled(_), Event::Start | Event::Resolved | Event::Wake)
            // A rest after a failure is not cut short by those who want to know.
            | (
                Self::Backoff { .. },
                Event::Start
                | Event::Resolved
                | Event::Failed
                | Event::Accepted
                | Event::Rejected
                | Event::ResolveNow
                | Event::Wake,
            ) => self,
        }
    }

    /// When it next wants [`Event::Wake`].
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        match self {
            Self::Looking(lookup) => Some(lookup.deadline),
            Self::Settled(settled) => settled.due,
            Self::Backoff { until, .. } => Some(*until),
            Self::Idle => None,
        }
    }
}

impl Lookup {
    /// Somebody wants another.
    fn wanted(self, refresh: Refresh) -> Self {
        match (self.then, refresh) {
            (Then::Rest, Refresh::AtMostEvery(floor)) => {
                Self { then: Then::Refresh { floor }, ..self }
            }
            (Then::Rest, Refresh::Never)
            | (Then::Refresh { .. } | Then::Repeat, Refresh::Never | Refresh::AtMostEvery(_)) => {
                self
            }
        }
    }
}

impl Settled {
    /// Somebody wants another lookup.
    fn wanted(self, now: Instant, pace: &Pace<'_>, fx: &mut Vec<Effect>) -> State {
        let Refresh::AtMostEvery(floor) = pace.refresh else {
            return State::Settled(self);
        };
        let due = later(self.looked_at, floor);
        if now >= due {
            return look(now, self.attempt, pace, fx);
        }
        let due = self.due.map_or(due, |planned| planned.min(due));
        State::Settled(Self { due: Some(due), ..self })
    }
}

fn look(now: Instant, attempt: u32, pace: &Pace<'_>, fx: &mut Vec<Effect>) -> State {
    fx.push(Effect::Look);
    State::Looking(Lookup { attempt, deadline: later(now, pace.lookup_timeout), then: Then::Rest })
}

/// When the result that has just come is to be looked up again. Up to a tenth is added by chance:
/// clients that began together must not ask together for ever, and none before a cache has let go.
fn expires_at(now: Instant, pace: &mut Pace<'_>) -> Option<Instant> {
    let expiry = pace.expiry?;
    let jitter = expiry.as_secs_f64() * EXPIRY_JITTER * pace.dice.unit();
    let jitter = Duration::try_from_secs_f64(jitter).unwrap_or_default();
    Some(later(now, expiry.saturating_add(jitter)))
}

fn settle(now: Instant, attempt: u32, due: Option<Instant>) -> State {
    State::Settled(Settled { attempt, looked_at: now, due })
}

fn fail(now: Instant, lookup: Lookup, pace: &mut Pace<'_>, fx: &mut Vec<Effect>) -> State {
    match lookup.then {
        Then::Repeat => look(now, lookup.attempt.saturating_add(1), pace, fx),
        Then::Rest | Then::Refresh { .. } => rest(now, lookup.attempt, pace),
    }
}

/// The first rest has index 1, as grpc-go has it: 1.6 s with the usual table.
fn rest(now: Instant, attempt: u32, pace: &mut Pace<'_>) -> State {
    let attempt = attempt.saturating_add(1);
    State::Backoff { attempt, until: later(now, pace.backoff.delay(attempt, pace.dice)) }
}

/// How much longer than its life a result may be kept.
const EXPIRY_JITTER: f64 = 0.1;

#[cfg(test)]
mod tests;
