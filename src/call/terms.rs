//! What a call goes by, of all that is said of it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::CallHead;
use crate::policy::retry::{HedgingPolicy, RetryPolicy, Throttle};
use crate::policy::service_config::{AttemptPolicy, MethodConfig, ServiceConfig};

/// What calls go by of which nothing is said.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Defaults {
    /// How long a call may take.
    pub(crate) timeout: Option<Duration>,
    pub(crate) wait_for_ready: bool,
    pub(crate) receive_bytes_max: usize,
    pub(crate) send_bytes_max: usize,
}

/// What the call says, else the service config of its method, else the channel; of times and sizes
/// that the first two say, the lesser. Chosen once for a call, when it first gets a connection.
#[derive(Clone)]
pub(crate) struct Terms {
    /// When the call ends at the latest.
    pub(crate) deadline: Option<Instant>,
    /// Whether failing picks are waited out.
    pub(super) wait_for_ready: bool,
    /// The largest message that is taken, in bytes.
    pub(crate) receive_bytes_max: usize,
    /// The largest message that is sent, in bytes.
    pub(crate) send_bytes_max: usize,
    method: Option<Arc<MethodConfig>>,
    pub(super) throttle: Option<Arc<Throttle>>,
}

impl Terms {
    pub(super) fn of(call: &CallHead, config: &ServiceConfig) -> Self {
        let CallHead { defaults, .. } = call;
        let method = config.method(&call.path);
        let said = |of: fn(&MethodConfig) -> Option<usize>| method.and_then(|method| of(method));
        let after = |timeout| call.begun.checked_add(timeout);
        let deadline = match method.and_then(|method| method.timeout) {
            Some(timeout) => lesser(call.deadline, after(timeout)),
            None => call.deadline.or_else(|| defaults.timeout.and_then(after)),
        };
        let configured = method.and_then(|method| method.wait_for_ready);
        Self {
            deadline,
            wait_for_ready: call.wait_for_ready.or(configured).unwrap_or(defaults.wait_for_ready),
            receive_bytes_max: lesser(call.receive_bytes_max, said(|it| it.response_bytes_max))
                .unwrap_or(defaults.receive_bytes_max),
            send_bytes_max: lesser(call.send_bytes_max, said(|it| it.request_bytes_max))
                .unwrap_or(defaults.send_bytes_max),
            method: method.cloned(),
            throttle: config.throttle().cloned(),
        }
    }

    /// When failed attempts are followed by others, if ever.
    pub(super) fn retry_policy(&self) -> Option<&RetryPolicy> {
        match &self.method.as_ref()?.attempts {
            AttemptPolicy::Retry(policy) => Some(policy),
            AttemptPolicy::Once | AttemptPolicy::Hedging(_) => None,
        }
    }

    /// When attempts that have not answered are joined by others, if ever.
    pub(super) fn hedging_policy(&self) -> Option<&HedgingPolicy> {
        match &self.method.as_ref()?.attempts {
            AttemptPolicy::Hedging(policy) => Some(policy),
            AttemptPolicy::Once | AttemptPolicy::Retry(_) => None,
        }
    }

    /// The call has ended well.
    pub(super) fn succeeded(&self) {
        if let Some(throttle) = &self.throttle {
            throttle.succeeded();
        }
    }
}

fn lesser<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
