//! When a call that has not been answered is sent once more, to whoever answers first.

use std::time::Instant;

use super::later;
use super::retry::{Failure, HedgingPolicy, Pushback, Throttle};
use crate::types::Seen;

/// The attempts of a hedged call (A6).
///
/// ```text
///   ┌──────┐ Begin, and from then on:   one is sent
///   │ Open │   Wake, and it is time    ───────────►   the next after the delay
///   │      │   Failed, not fatally     ───────────►   the next at once, or when the server says
///   └──────┘ ── Failed fatally, or no attempt is left ──►  the end
///      │
///      │ Committed: a server has begun to answer, and the others are cancelled
///      ▼
///   ┌───────────┐
///   │ Committed │ ── Failed ──►  the end
///   └───────────┘
/// ```
///
/// A server that wants no more, a throttle, the number of attempts, or the end of the channel close
/// it for further ones; those that are under way go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    sent: u32,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Attempts may join those that are under way.
    Open(Open),
    /// One attempt has the call, whatever becomes of it.
    Committed,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Open {
    live: u32,
    /// Whether the server has refused one that did not count.
    refused: bool,
    /// When the next is sent; never where there is to be none.
    next_at: Option<Instant>,
}

impl Default for Stage {
    fn default() -> Self {
        Self::Open(Open::default())
    }
}

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// It begins.
    Begin,
    /// The time of `wake_at` has come.
    Wake,
    /// An attempt has failed.
    Failed(Failure),
    /// A server has begun to answer: the other attempts are cancelled.
    Committed,
    /// The channel is closed, with so many attempts under way.
    Closed {
        /// How many.
        live: u32,
    },
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Send an attempt, beside those that are under way.
    Send,
    /// Send the one that has failed again: no server has seen it.
    SendAgain,
    /// Wait for these.
    Wait,
    /// End the call with the failure.
    End,
}

/// What a call is hedged by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules<'a> {
    pub(crate) policy: &'a HedgingPolicy,
    /// How many attempts there may be, whatever the policy says.
    pub(crate) attempts_cap: u32,
    pub(crate) throttle: Option<&'a Throttle>,
}

impl State {
    /// The state after `event`, and what to do.
    pub(crate) fn step(self, now: Instant, event: Event, rules: Rules<'_>) -> (Self, Action) {
        let open = match self.stage {
            Stage::Open(open) => open,
            Stage::Committed => {
                return match event {
                    Event::Failed(_) => (self, Action::End),
                    Event::Begin | Event::Wake | Event::Committed | Event::Closed { .. } => {
                        (self, Action::Wait)
                    }
                };
            }
        };
        match event {
            Event::Begin => self.send(now, open, rules),
            Event::Wake => match open.next_at {
                Some(at) if now < at => (self, Action::Wait),
                Some(_) if rules.throttle.is_none_or(Throttle::is_open) => {
                    self.send(now, open, rules)
                }
                Some(_) | None => self.wait(Open { next_at: None, ..open }),
            },
            Event::Failed(failure) => self.failed(now, failure, open, rules),
            Event::Committed => (Self { stage: Stage::Committed, ..self }, Action::Wait),
            Event::Closed { live } => {
                (self.with(Open { live, next_at: None, ..open }), Action::Wait)
            }
        }
    }

    /// When it next wants [`Event::Wake`].
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        match self.stage {
            Stage::Open(open) => open.next_at,
            Stage::Committed => None,
        }
    }

    /// How many attempts have been sent.
    pub(crate) fn sent(&self) -> u32 {
        self.sent
    }

    fn with(self, open: Open) -> Self {
        Self { stage: Stage::Open(open), ..self }
    }

    fn send(self, now: Instant, open: Open, rules: Rules<'_>) -> (Self, Action) {
        let sent = self.sent + 1;
        let is_last = sent >= rules.policy.max_attempts.min(rules.attempts_cap);
        let next_at = (!is_last).then(|| later(now, rules.policy.delay));
        let open = Open { live: open.live + 1, next_at, ..open };
        (Self { sent, stage: Stage::Open(open) }, Action::Send)
    }

    fn failed(
        self,
        now: Instant,
        failure: Failure,
        open: Open,
        rules: Rules<'_>,
    ) -> (Self, Action) {
        // What no server has seen is made up for, and does not count.
        match failure.seen {
            Seen::Never => return (self, Action::SendAgain),
            Seen::Refused if !open.refused => {
                return (self.with(Open { refused: true, ..open }), Action::SendAgain);
            }
            Seen::Refused | Seen::Maybe => {}
        }
        let is_unwanted = failure.pushback == Pushback::Never;
        let is_fatal = !rules.policy.non_fatal.contains(failure.code);
        let has_tokens = is_fatal && !is_unwanted || rules.throttle.is_none_or(Throttle::failed);
        if is_fatal {
            return (self, Action::End);
        }
        let next_at = match (open.next_at, failure.pushback) {
            (None, _) | (Some(_), Pushback::Never) => None,
            (Some(_), _) if !has_tokens => None,
            (Some(_), Pushback::After(rest)) => Some(later(now, rest)),
            (Some(_), Pushback::None) => Some(now),
        };
        self.wait(Open { live: open.live.saturating_sub(1), next_at, ..open })
    }

    /// Waits for those that are under way and the next, if there is anything to wait for.
    fn wait(self, open: Open) -> (Self, Action) {
        let is_over = open.live == 0 && open.next_at.is_none();
        (self.with(open), if is_over { Action::End } else { Action::Wait })
    }
}

#[cfg(test)]
mod tests;
