//! What follows when an attempt failed: another one, or the end of the call (A6).

mod throttle;

use std::time::Duration;

use crate::types::Dice;
use crate::types::{Code, Seen};
pub(crate) use crate::types::{HedgingPolicy, RetryPolicy};

pub(crate) use throttle::Throttle;

/// How a call has fared so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Attempts that have failed and count.
    pub(crate) failed: u32,
    /// Whether the server has refused one that does not count.
    pub(crate) refused: bool,
    /// Rests since the server last said how long to rest.
    rests: u32,
}

/// How an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// What the server may have seen of it.
    pub(crate) seen: Seen,
    /// What the call would end with.
    pub(crate) code: Code,
    /// What the server says about another.
    pub(crate) pushback: Pushback,
}

/// What a server says about another attempt, in `grpc-retry-pushback-ms`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Pushback {
    /// Nothing.
    #[default]
    None,
    /// After this time.
    After(Duration),
    /// None; also what it says that cannot be understood.
    Never,
}

impl Pushback {
    /// What `values` of the field say.
    pub(crate) fn of<'a>(mut values: impl Iterator<Item = &'a str>) -> Self {
        match (values.next(), values.next()) {
            (None, _) => Self::None,
            (Some(millis), None) => {
                let is_number = millis.bytes().all(|byte| byte.is_ascii_digit());
                let millis = millis.parse::<u32>().ok().filter(|_| is_number);
                millis.map_or(Self::Never, |it| Self::After(Duration::from_millis(it.into())))
            }
            (Some(_), Some(_)) => Self::Never,
        }
    }
}

/// What to do after an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Try again at once on a fresh pick: the server application has seen nothing. Counts neither
    /// as an attempt nor for throttling.
    RetryTransparently,
    /// Try again after this time.
    RetryAfter(Duration),
    /// The failure is the outcome of the call.
    Finish,
    /// It is, and would not be if there might be more attempts than so many.
    Exhausted(u32),
}

/// What a call is judged by.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rules<'a> {
    /// Nothing here: attempts are only made again for what the server cannot have seen.
    pub(crate) policy: Option<&'a RetryPolicy>,
    /// How many attempts there may be, whatever the policy says.
    pub(crate) attempts_cap: u32,
    pub(crate) throttle: Option<&'a Throttle>,
}

impl Progress {
    /// Judges a failed attempt. Once `committed` there is nothing left to send again.
    ///
    /// A stream that never left the client is tried again for as long as the deadline allows; one
    /// that the server refused or disowned, once in the life of the call. All else is for the
    /// policy: the server's pushback comes first, then the code, the throttle, and the number of
    /// attempts.
    pub(crate) fn judge(
        &mut self,
        failure: Failure,
        committed: bool,
        rules: Rules<'_>,
        dice: &mut Dice,
    ) -> Verdict {
        match failure.seen {
            _ if committed => return Verdict::Finish,
            Seen::Never => return Verdict::RetryTransparently,
            Seen::Refused if !self.refused => {
                self.refused = true;
                return Verdict::RetryTransparently;
            }
            Seen::Refused | Seen::Maybe => {}
        }
        let Some(policy) = rules.policy else { return Verdict::Finish };
        self.failed += 1;
        let is_unwanted = failure.pushback == Pushback::Never;
        if !is_unwanted && !policy.codes.contains(failure.code) {
            return Verdict::Finish;
        }
        let has_tokens = rules.throttle.is_none_or(Throttle::failed);
        if is_unwanted || !has_tokens {
            return Verdict::Finish;
        }
        if self.failed >= policy.max_attempts.min(rules.attempts_cap) {
            return Verdict::Exhausted(self.failed);
        }
        match failure.pushback {
            Pushback::After(rest) => {
                self.rests = 0;
                Verdict::RetryAfter(rest)
            }
            Pushback::None | Pushback::Never => {
                let rest = policy.rest(self.rests, dice);
                self.rests += 1;
                Verdict::RetryAfter(rest)
            }
        }
    }
}

impl RetryPolicy {
    /// How long to rest the `nth` time (from 0).
    fn rest(&self, nth: u32, dice: &mut Dice) -> Duration {
        let grown = self.initial_backoff.as_secs_f64() * self.multiplier.powf(f64::from(nth));
        let nominal = grown.min(self.max_backoff.as_secs_f64());
        Duration::try_from_secs_f64(nominal * (0.8 + 0.4 * dice.unit())).unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests;
