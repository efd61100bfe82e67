//! After an attempt has failed: the rest before the next, or the end of the call.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use tokio::time::Instant;

use super::shared::Elapsed;
use super::{CallHead, Shared, Terms, status};
use crate::observe::AttemptKind;
use crate::policy::retry::{Failure, Progress, Pushback, Rules, Verdict};
use crate::transport::StreamError;
use crate::types::Dice;
use crate::types::{Address, Metadata, Seen, Status, later};

/// What a channel has settled about attempts beyond the first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RetryLimits {
    /// How many attempts a call may have, whatever the service config says.
    pub(crate) attempts_cap: u32,
    /// What is kept of one call to be sent again, in bytes.
    pub(crate) call_buffer_max: usize,
    /// What is kept of all calls together, in bytes.
    pub(crate) channel_buffer_max: usize,
}

/// What attempts beyond the first have in common, over all calls of a channel.
pub(super) struct Retrying {
    pub(super) limits: RetryLimits,
    /// Bytes that are kept to be sent again.
    pub(super) buffered: AtomicUsize,
    dice: Mutex<Dice>,
}

impl Retrying {
    pub(super) fn new(limits: RetryLimits, seed: u64) -> Self {
        Self { limits, buffered: AtomicUsize::new(0), dice: Mutex::new(Dice::new(seed)) }
    }

    /// How much may be kept of `call`.
    pub(super) fn buffer_max(&self, call: &CallHead) -> usize {
        let own = call.extras.as_ref().and_then(|extras| extras.retry_buffer_max);
        own.unwrap_or(self.limits.call_buffer_max)
    }

    /// Keeps `bytes` more, if the channel allows for them.
    pub(super) fn keep(&self, bytes: usize) -> bool {
        let all = self.buffered.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if all > self.limits.channel_buffer_max {
            self.give_back(bytes);
            return false;
        }
        true
    }

    pub(super) fn give_back(&self, bytes: usize) {
        self.buffered.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// How an attempt failed.
pub(super) enum AttemptError {
    /// There was no connection for it.
    Pick(Status),
    /// Its credentials failed, and nothing was sent.
    Credentials(Status),
    /// Its stream failed.
    Stream(StreamError, Address),
    /// The server has answered, with no more than this.
    Answered(Status),
}

impl AttemptError {
    /// What policies go by, and what the call would end with.
    pub(super) fn told(self, terms: &Terms) -> (Failure, Status) {
        let (seen, is_of_server) = match &self {
            Self::Stream(error, _) => (error.seen(), true),
            Self::Answered(_) => (Seen::Maybe, true),
            // No server has seen it either, but the same would happen again at once.
            Self::Pick(_) | Self::Credentials(_) => (Seen::Maybe, false),
        };
        let status = self.into_status(terms);
        // Only a server says when to come back.
        let said = is_of_server.then(|| pushback(status.metadata()));
        let pushback = said.unwrap_or_default();
        (Failure { seen, code: status.code(), pushback }, status)
    }

    pub(super) fn into_status(self, terms: &Terms) -> Status {
        match self {
            Self::Pick(status) | Self::Credentials(status) | Self::Answered(status) => status,
            Self::Stream(error, peer) => status::of_stream_error(&error, terms.deadline, &peer),
        }
    }
}

/// An attempt that failed.
pub(super) struct FailedAttempt {
    /// Its number, as observers know it.
    pub(super) number: u32,
    pub(super) error: AttemptError,
    /// Whether the server had begun to answer, or there is nothing left to send again.
    pub(super) committed: bool,
}

/// The attempts of one call.
#[derive(Default)]
pub(super) struct Attempts {
    progress: Progress,
    /// How the latest ended that was followed by another.
    last: Option<Status>,
}

impl Attempts {
    /// How many have failed that the server is told of.
    pub(super) fn failed(&self) -> u32 {
        self.progress.failed
    }

    /// `status` as `call` ends with it: after these attempts.
    pub(super) fn end(&self, status: Status, call: &CallHead) -> Status {
        status::after_failure(status, self.last.as_ref()).of_call(&call.path)
    }

    /// What follows an attempt that failed. Without `is_kept` there is nothing to send again, and
    /// only what the server cannot have seen is.
    pub(super) fn judge(
        &mut self,
        failed: FailedAttempt,
        shared: &Shared,
        call: &CallHead,
        terms: &Terms,
        is_kept: bool,
    ) -> Next {
        let FailedAttempt { number, error, committed } = failed;
        let (failure, status) = error.told(terms);
        call.events.attempt_ended(number, Err(&status));
        self.judge_untold(failure, status, committed, shared, terms, is_kept)
    }

    /// As [`judge`](Self::judge), where the caller tells observers of the end of the attempt.
    pub(super) fn judge_untold(
        &mut self,
        failure: Failure,
        status: Status,
        committed: bool,
        shared: &Shared,
        terms: &Terms,
        is_kept: bool,
    ) -> Next {
        let limits = &shared.retrying.limits;
        let policy = terms.retry_policy().filter(|_| is_kept && limits.attempts_cap > 1);
        let rules = Rules {
            policy,
            attempts_cap: limits.attempts_cap,
            throttle: terms.throttle.as_deref(),
        };
        let verdict = {
            let mut dice = shared.retrying.dice.lock().unwrap_or_else(PoisonError::into_inner);
            self.progress.judge(failure, committed, rules, &mut dice)
        };
        match verdict {
            Verdict::RetryTransparently => {
                self.last = Some(status);
                Next::AtOnce
            }
            Verdict::RetryAfter(rest) => {
                self.last = Some(status);
                Next::At(Instant::from_std(later(Instant::now().into_std(), rest)))
            }
            Verdict::Finish => Next::End(status),
            Verdict::Exhausted(attempts) => Next::End(status::retries_exhausted(status, attempts)),
        }
    }
}

/// What follows an attempt that failed.
#[derive(Clone)]
pub(super) enum Next {
    /// Another.
    AtOnce,
    /// Another at this time.
    At(Instant),
    /// The end of the call.
    End(Status),
}

impl Next {
    /// What the next attempt is, if there is one.
    pub(super) fn kind(&self) -> AttemptKind {
        match self {
            Self::AtOnce => AttemptKind::TransparentRetry,
            Self::At(_) | Self::End(_) => AttemptKind::Retry,
        }
    }

    /// Waits until it is time for another attempt. Fails with the status of the call. Cancel-safe.
    pub(super) async fn wait(self, shared: &Shared, terms: &Terms) -> Result<(), Status> {
        match self {
            Self::AtOnce => Ok(()),
            Self::End(status) => Err(status),
            Self::At(at) => Box::pin(rest_until(at, shared, terms)).await,
        }
    }
}

async fn rest_until(at: Instant, shared: &Shared, terms: &Terms) -> Result<(), Status> {
    let _busy = shared.activity.stay();
    tokio::select! {
        biased;
        rested = shared.rest_until(terms.deadline, at) => match rested {
            Ok(()) => Ok(()),
            Err(Elapsed) => Err(status::deadline_while_resting()),
        },
        // There is nothing to rest for: the pick that follows says how the call ends.
        () = shared.states.closed() => Ok(()),
    }
}

fn pushback(trailers: &Metadata) -> Pushback {
    Pushback::of(trailers.get_all(PUSHBACK))
}

const PUSHBACK: &str = "grpc-retry-pushback-ms";
