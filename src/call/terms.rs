//! What a call goes by, of all that is said of it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::CallHead;
use super::selected::Selected;
use crate::policy::lb::PickArgs;
use crate::policy::retry::{HedgingPolicy, RetryPolicy, Throttle};
use crate::policy::service_config::ServiceConfig;
use crate::types::{AttemptPolicy, Metadata, MethodConfig, SelectArgs, Status, later};

/// What calls go by of which nothing is said.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Defaults {
    /// How long a call may take.
    pub(crate) timeout: Option<Duration>,
    pub(crate) wait_for_ready: bool,
    pub(crate) receive_bytes_max: usize,
    pub(crate) send_bytes_max: usize,
}

/// What the call says, else the config of its method (which the service config has, or a config
/// selector chooses), else the channel; of times and sizes that the first two say, the lesser. Chosen
/// once for a call, when it first gets a connection, or at once where a selector does it.
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
    /// Where a config selector has chosen `method`, what else it has.
    selected: Option<Arc<Selected>>,
    pub(super) throttle: Option<Arc<Throttle>>,
}

impl Terms {
    /// Fails with the status of the call where the config selector does.
    pub(super) fn of(call: &CallHead, config: &ServiceConfig) -> Result<Self, Status> {
        let throttle = config.throttle().cloned();
        let Some(selector) = config.selector() else {
            return Ok(Self::by(call, config.method(&call.path), throttle));
        };
        let chosen = selector.select(&SelectArgs::new(&call.path, &call.metadata));
        let chosen = chosen.map_err(|status| status.of_control_part("the config selector"))?;
        let (method, selected) = Selected::of(call, chosen);
        Ok(Self { selected: Some(selected), ..Self::by(call, Some(&method), throttle) })
    }

    /// The terms of a call that ends before any are settled.
    pub(super) fn of_ended(call: &CallHead) -> Self {
        Self::by(call, None, None)
    }

    fn by(
        call: &CallHead,
        method: Option<&Arc<MethodConfig>>,
        throttle: Option<Arc<Throttle>>,
    ) -> Self {
        let CallHead { defaults, .. } = call;
        let said = |of: fn(&MethodConfig) -> Option<usize>| method.and_then(|method| of(method));
        let after = |timeout| Some(Instant::from_std(later(call.begun.into_std(), timeout)));
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
            selected: None,
            throttle,
        }
    }

    /// Whether a config selector has settled them, which it does once.
    pub(super) fn are_selected(&self) -> bool {
        self.selected.is_some()
    }

    /// What a picker may look at.
    pub(super) fn pick_args<'a>(&'a self, call: &'a CallHead) -> PickArgs<'a> {
        let args = PickArgs::new(&call.path, self.metadata(call));
        match self.selected.as_ref().and_then(|selected| selected.attribute()) {
            Some(attribute) => args.with_attribute(attribute),
            None => args,
        }
    }

    /// The metadata of `call`, with what the config selector adds.
    pub(super) fn metadata<'a>(&'a self, call: &'a CallHead) -> &'a Metadata {
        let added = self.selected.as_ref().and_then(|selected| selected.metadata());
        added.unwrap_or(&call.metadata)
    }

    /// The call is committed, or over: there is no further pick. Idempotent.
    pub(super) fn committed(&self) {
        if let Some(selected) = &self.selected {
            selected.commit();
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
