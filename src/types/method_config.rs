//! What calls of a method go by.

use std::time::Duration;

use super::Code;

/// What calls of a method go by, where they do not say themselves: an entry of `methodConfig` in a
/// service config (A6), or what a [`ConfigSelector`](crate::ConfigSelector) gives.
///
/// The default says nothing of anything. Policies for further attempts come from JSON,
/// [`from_json`](Self::from_json).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MethodConfig {
    /// How long a call may take.
    pub(crate) timeout: Option<Duration>,
    /// Whether calls wait while no server can be reached.
    pub(crate) wait_for_ready: Option<bool>,
    /// The largest message that is sent, in bytes.
    pub(crate) request_bytes_max: Option<usize>,
    /// The largest message that is taken, in bytes.
    pub(crate) response_bytes_max: Option<usize>,
    /// What follows when an attempt fails, or does not answer.
    pub(crate) attempts: AttemptPolicy,
}

impl MethodConfig {
    /// A config that says nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long a call may take, from its beginning. Of this and what the call says itself the lesser
    /// counts; the channel's default does not.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Whether calls that do not say wait while no server can be reached.
    pub fn wait_for_ready(mut self, wait: bool) -> Self {
        self.wait_for_ready = Some(wait);
        self
    }

    /// The largest message that is sent, in bytes. Of this and what the call says the lesser counts.
    pub fn max_request_message_bytes(mut self, bytes: usize) -> Self {
        self.request_bytes_max = Some(bytes);
        self
    }

    /// The largest message that is taken, in bytes. Of this and what the call says the lesser counts.
    pub fn max_response_message_bytes(mut self, bytes: usize) -> Self {
        self.response_bytes_max = Some(bytes);
        self
    }
}

/// How often a call may be attempted.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum AttemptPolicy {
    /// Once.
    #[default]
    Once,
    /// Again after a failure.
    Retry(RetryPolicy),
    /// Again while the last attempt has not answered.
    Hedging(HedgingPolicy),
}

/// When a failed attempt is followed by another.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RetryPolicy {
    /// How many attempts there may be in all; at least 2.
    pub(crate) max_attempts: u32,
    /// What the rest before the second is about.
    pub(crate) initial_backoff: Duration,
    /// What no rest is much longer than.
    pub(crate) max_backoff: Duration,
    /// By what each rest grows.
    pub(crate) multiplier: f64,
    /// The failures that are followed by another attempt; at least one.
    pub(crate) codes: CodeSet,
}

/// When an attempt that has not answered is joined by another.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HedgingPolicy {
    /// How many attempts there may be in all; at least 2.
    pub(crate) max_attempts: u32,
    /// How long after one the next is made; all at once where that is zero.
    pub(crate) delay: Duration,
    /// The failures that do not end the call while other attempts are under way or to come.
    pub(crate) non_fatal: CodeSet,
}

/// Some status codes of gRPC's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CodeSet(u32);

impl CodeSet {
    /// Adds `code`, which must be one of gRPC's own.
    pub(crate) fn insert(&mut self, code: Code) {
        self.0 |= Self::bit(code);
    }

    pub(crate) fn contains(self, code: Code) -> bool {
        self.0 & Self::bit(code) != 0
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn bit(code: Code) -> u32 {
        1_u32.checked_shl(code.number()).unwrap_or_default()
    }
}
