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
/// ```
///
/// A server that wants no more, a throttle, the number of attempts, or the end of the channel close
/// it for further ones; those that are under way go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    sent: u32,
    live: u32,
    /// Whether the server has refused one that did not count.
    refused: bool,
    /// When the next is sent; never where there is to be none.
    next_at: Option<Instant>,
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
        match event {
            Event::Begin => self.send(now, rules),
            Event::Wake => match self.next_at {
                Some(at) if now < at => (self, Action::Wait),
                Some(_) if rules.throttle.is_none_or(Throttle::is_open) => self.send(now, rules),
                Some(_) | None => Self { next_at: None, ..self }.wait(),
            },
            Event::Failed(failure) => self.failed(now, failure, rules),
            Event::Closed { live } => (Self { live, next_at: None, ..self }, Action::Wait),
        }
    }

    /// When it next wants [`Event::Wake`].
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        self.next_at
    }

    /// How many attempts have been sent.
    pub(crate) fn sent(&self) -> u32 {
        self.sent
    }

    fn send(self, now: Instant, rules: Rules<'_>) -> (Self, Action) {
        let sent = self.sent + 1;
        let is_last = sent >= rules.policy.max_attempts.min(rules.attempts_cap);
        let next_at = (!is_last).then(|| later(now, rules.policy.delay));
        (Self { sent, live: self.live + 1, next_at, ..self }, Action::Send)
    }

    fn failed(self, now: Instant, failure: Failure, rules: Rules<'_>) -> (Self, Action) {
        // What no server has seen is made up for, and does not count.
        match failure.seen {
            Seen::Never => return (self, Action::SendAgain),
            Seen::Refused if !self.refused => {
                return (Self { refused: true, ..self }, Action::SendAgain);
            }
            Seen::Refused | Seen::Maybe => {}
        }
        let is_unwanted = failure.pushback == Pushback::Never;
        let is_fatal = !rules.policy.non_fatal.contains(failure.code);
        let has_tokens = is_fatal && !is_unwanted || rules.throttle.is_none_or(Throttle::failed);
        if is_fatal {
            return (self, Action::End);
        }
        let next_at = match (self.next_at, failure.pushback) {
            (None, _) | (Some(_), Pushback::Never) => None,
            (Some(_), _) if !has_tokens => None,
            (Some(_), Pushback::After(rest)) => Some(later(now, rest)),
            (Some(_), Pushback::None) => Some(now),
        };
        Self { live: self.live.saturating_sub(1), next_at, ..self }.wait()
    }

    /// Waits for those that are under way and the next, if there is anything to wait for.
    fn wait(self) -> (Self, Action) {
        let is_over = self.live == 0 && self.next_at.is_none();
        (self, if is_over { Action::End } else { Action::Wait })
    }
}

#[cfg(test)]
mod tests;
