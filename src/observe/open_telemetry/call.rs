//! One call.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::Inner;
use super::metrics::{AttemptTotals, CallLabels, CallTotals, call_labels};
use super::spans::{AttemptSpan, CallSpan};
use crate::observe::{AttemptKind, CallEvent, CallInfo, CallObserver};
use crate::types::{Metadata, Status};

/// One call, as it is told to OpenTelemetry.
pub(super) struct Call {
    inner: Arc<Inner>,
    /// Only where there are metrics.
    labels: Option<CallLabels>,
    span: Option<CallSpan>,
    began: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Those that are under way.
    attempts: Vec<Attempt>,
    totals: CallTotals,
    /// Since when there has been no attempt under way.
    idle_since: Option<Instant>,
}

/// An attempt that is under way.
struct Attempt {
    number: u32,
    began: Instant,
    /// Bytes of messages, without prefixes.
    sent: u64,
    received: u64,
    span: Option<AttemptSpan>,
}

impl Call {
    pub(super) fn begin(inner: Arc<Inner>, call: &CallInfo<'_>) -> Self {
        let path = call.method.as_str();
        let labels = inner
            .metrics
            .is_some()
            .then(|| call_labels(path, call.is_known, inner.method_filter.as_ref(), call.target));
        let span = inner.tracing.as_ref().map(|tracing| tracing.call(call.method));
        Self { inner, labels, span, began: now(), state: Mutex::default() }
    }

    fn attempt_began(&self, number: u32, kind: AttemptKind) {
        if let (Some(metrics), Some(labels)) = (&self.inner.metrics, &self.labels) {
            metrics.attempt_began(labels);
        }
        let mut state = self.lock();
        let began = now();
        if let Some(since) = state.idle_since.take() {
            state.totals.retry_delay += began.saturating_duration_since(since);
        }
        match kind {
            AttemptKind::First => {}
            AttemptKind::Retry => state.totals.retries += 1,
            AttemptKind::TransparentRetry => state.totals.transparent_retries += 1,
            AttemptKind::Hedge => state.totals.hedges += 1,
        }
        let span = self.inner.tracing.as_ref().zip(self.span.as_ref()).map(|(tracing, call)| {
            // What the server is told of as well: transparent retries do not count (A72).
            let before = state.totals.retries + state.totals.hedges;
            tracing.attempt(call, before, kind == AttemptKind::TransparentRetry)
        });
        state.attempts.push(Attempt { number, began, sent: 0, received: 0, span });
    }

    fn attempt_ended(&self, number: u32, result: Result<(), &Status>) {
        let mut state = self.lock();
        let Some(at) = state.attempts.iter().position(|it| it.number == number) else { return };
        let Attempt { began, sent, received, span, .. } = state.attempts.swap_remove(at);
        let ended = now();
        if state.attempts.is_empty() {
            state.idle_since = Some(ended);
        }
        drop(state);
        if let (Some(metrics), Some(labels)) = (&self.inner.metrics, &self.labels) {
            let took = ended.saturating_duration_since(began);
            metrics.attempt_ended(labels, result, AttemptTotals { took, sent, received });
        }
        if let Some(span) = span {
            span.end(result);
        }
    }

    fn ended(&self, result: Result<(), &Status>) {
        if let (Some(metrics), Some(labels)) = (&self.inner.metrics, &self.labels) {
            let took = now().saturating_duration_since(self.began);
            metrics.call_ended(labels, result, CallTotals { took, ..self.lock().totals });
        }
        if let Some(span) = &self.span {
            span.end(result);
        }
    }

    /// Does this with an attempt, if it is under way.
    fn with_attempt(&self, number: u32, change: impl FnOnce(&mut Attempt)) {
        if let Some(attempt) = self.lock().attempts.iter_mut().find(|it| it.number == number) {
            change(attempt);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CallObserver for Call {
    fn event(&self, event: &CallEvent<'_>) {
        match *event {
            CallEvent::AttemptBegan { attempt, kind } => self.attempt_began(attempt, kind),
            CallEvent::NamesResolved { .. } => {
                if let Some(span) = &self.span {
                    span.names_resolved();
                }
            }
            CallEvent::PickCompleted { attempt, .. } => self.with_attempt(attempt, |attempt| {
                if let Some(span) = &attempt.span {
                    span.picked();
                }
            }),
            CallEvent::RequestMessage { payload } => {
                if let Some(span) = &self.span {
                    span.will_send(payload.len());
                }
            }
            CallEvent::MessageSent { attempt, wire_bytes } => {
                self.with_attempt(attempt, |attempt| {
                    let bytes = without_prefix(wire_bytes);
                    attempt.sent += bytes as u64;
                    if let (Some(span), Some(call)) = (&mut attempt.span, &self.span) {
                        span.sent(bytes, call);
                    }
                });
            }
            CallEvent::ResponseHeaders { .. } => {
                if let Some(span) = &self.span {
                    span.committed();
                }
            }
            CallEvent::ResponseMessage { attempt, payload, wire_bytes } => {
                self.with_attempt(attempt, |attempt| {
                    let bytes = without_prefix(wire_bytes);
                    attempt.received += bytes as u64;
                    if let Some(span) = &mut attempt.span {
                        span.received(bytes, payload.len());
                    }
                });
            }
            CallEvent::AttemptEnded { attempt, result } => self.attempt_ended(attempt, result),
            CallEvent::Ended { result } => self.ended(result),
            CallEvent::SubchannelPicked { .. }
            | CallEvent::RequestHeaders { .. }
            | CallEvent::RequestsEnded
            | CallEvent::ResponseTrailers { .. } => {}
        }
    }

    fn propagate(&self, attempt: u32, metadata: &mut Metadata) {
        let Some(tracing) = &self.inner.tracing else { return };
        self.with_attempt(attempt, |attempt| {
            if let Some(span) = &attempt.span {
                tracing.propagate(span, metadata);
            }
        });
    }
}

/// A66 and A72 leave out what gRPC puts before each message.
fn without_prefix(wire_bytes: usize) -> usize {
    wire_bytes.saturating_sub(PREFIX_BYTES)
}

#[expect(clippy::disallowed_methods, reason = "what is measured is the time that passes for users")]
fn now() -> Instant {
    Instant::now()
}

/// A flag, and a length of four bytes.
const PREFIX_BYTES: usize = 5;
