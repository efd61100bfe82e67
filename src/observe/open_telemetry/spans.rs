//! The spans of calls and attempts (A72).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{
    Span, SpanBuilder, SpanKind, Status as SpanStatus, TraceContextExt, Tracer,
};
use opentelemetry::{Context, KeyValue};

use super::metrics::code_name;
use super::propagation::Carrier;
use crate::observe::Log;
use crate::types::{Metadata, MethodPath, Status};

/// A tracer, whatever its spans are.
pub(super) trait StartSpan: Send + Sync {
    /// A span below that of `parent`, in a context of its own.
    fn start(&self, span: SpanBuilder, parent: &Context) -> Context;
}

impl<T> StartSpan for T
where
    T: Tracer<Span: Span + Send + Sync + 'static> + Send + Sync,
{
    fn start(&self, span: SpanBuilder, parent: &Context) -> Context {
        parent.with_span(self.build_with_context(span, parent))
    }
}

/// Where spans go, and how servers are told of them.
pub(super) struct Tracing {
    pub(super) tracer: Arc<dyn StartSpan>,
    pub(super) propagator: Arc<dyn TextMapPropagator + Send + Sync>,
    pub(super) log: Log,
}

impl Tracing {
    /// Begins the span of a call of `method`, below the one of this task.
    pub(super) fn call(&self, method: &MethodPath) -> CallSpan {
        let method = method.clone();
        let builder = SpanBuilder::from_name(name("Sent", &method)).with_kind(SpanKind::Client);
        let context = Context::map_current(|parent| self.tracer.start(builder, parent));
        let is_recording = context.span().is_recording();
        let has_waited = AtomicBool::new(false);
        CallSpan { context, method, is_recording, has_waited, sizes: Mutex::default() }
    }

    /// Begins the span of an attempt. Where that of the call is not recorded this has none of its
    /// own, which would not be either, and the server is told of the call's.
    pub(super) fn attempt(&self, call: &CallSpan, before: u64, transparent: bool) -> AttemptSpan {
        if !call.is_recording {
            let context = call.context.clone();
            return AttemptSpan { context, is_recording: false, sent: 0, received: 0 };
        }
        let builder = SpanBuilder::from_name(name("Attempt", &call.method));
        let attributes = [
            KeyValue::new("previous-rpc-attempts", as_int(before)),
            KeyValue::new("transparent-retry", transparent),
        ];
        let context = self.tracer.start(builder.with_attributes(attributes), &call.context);
        let is_recording = context.span().is_recording();
        AttemptSpan { context, is_recording, sent: 0, received: 0 }
    }

    /// Tells the server of an attempt which span its own is below.
    pub(super) fn propagate(&self, attempt: &AttemptSpan, metadata: &mut Metadata) {
        let mut carrier = Carrier { metadata, log: &self.log };
        self.propagator.inject_context(&attempt.context, &mut carrier);
    }
}

/// The span of a call.
pub(super) struct CallSpan {
    context: Context,
    method: MethodPath,
    is_recording: bool,
    /// Whether it is told that the call waited for names.
    has_waited: AtomicBool,
    sizes: Mutex<Sizes>,
}

/// How long the messages are that the application has sent, before they are compressed. An event
/// of an attempt says only what goes over the wire.
#[derive(Default)]
struct Sizes {
    /// From the first on as long as another attempt may repeat them; then the last alone.
    bytes: Vec<usize>,
    /// Messages before those.
    dropped: usize,
    is_committed: bool,
}

impl Sizes {
    fn push(&mut self, bytes: usize) {
        if self.is_committed || self.bytes.len() == SIZES_MAX {
            self.dropped += self.bytes.len();
            self.bytes.clear();
        }
        self.bytes.push(bytes);
    }

    /// That of the `nth` message, as far as it is known.
    fn get(&self, nth: usize) -> Option<usize> {
        self.bytes.get(nth.checked_sub(self.dropped)?).copied()
    }
}

impl CallSpan {
    /// The call had to wait for names; told once (A72).
    pub(super) fn names_resolved(&self) {
        if self.is_recording && !self.has_waited.swap(true, Ordering::Relaxed) {
            self.context.span().add_event("Delayed name resolution complete", Vec::new());
        }
    }

    /// The application has sent a message.
    pub(super) fn will_send(&self, bytes: usize) {
        if self.is_recording {
            self.sizes().push(bytes);
        }
    }

    /// The server has begun to answer: no message is sent again.
    pub(super) fn committed(&self) {
        if self.is_recording {
            self.sizes().is_committed = true;
        }
    }

    pub(super) fn end(&self, result: Result<(), &Status>) {
        if self.is_recording {
            end(&self.context, result);
        }
    }

    fn sizes(&self) -> MutexGuard<'_, Sizes> {
        self.sizes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The span of an attempt.
pub(super) struct AttemptSpan {
    context: Context,
    is_recording: bool,
    /// How many messages there have been.
    sent: usize,
    received: usize,
}

impl AttemptSpan {
    /// The attempt had to wait for a connection.
    pub(super) fn picked(&self) {
        if self.is_recording {
            self.context.span().add_event("Delayed LB pick complete", Vec::new());
        }
    }

    /// A message of so many bytes is on its way, compressed if it is.
    pub(super) fn sent(&mut self, bytes: usize, call: &CallSpan) {
        if self.is_recording {
            let plain = call.sizes().get(self.sent).unwrap_or(bytes);
            self.message("Outbound message", self.sent, plain, bytes);
        }
        self.sent += 1;
    }

    /// A message has come of so many bytes, which are `plain` once inflated.
    pub(super) fn received(&mut self, bytes: usize, plain: usize) {
        if self.is_recording {
            self.message("Inbound message", self.received, plain, bytes);
        }
        self.received += 1;
    }

    fn message(&self, name: &'static str, nth: usize, plain: usize, compressed: usize) {
        let mut attributes = vec![
            KeyValue::new("sequence-number", as_int(nth as u64)),
            KeyValue::new("message-size", as_int(plain as u64)),
        ];
        if compressed != plain {
            attributes.push(KeyValue::new("message-size-compressed", as_int(compressed as u64)));
        }
        self.context.span().add_event(name, attributes);
    }

    pub(super) fn end(self, result: Result<(), &Status>) {
        if self.is_recording {
            end(&self.context, result);
        }
    }
}

/// The name of a span: gRPC has dots for the slashes of a method.
fn name(kind: &str, method: &MethodPath) -> String {
    let mut name = String::with_capacity(kind.len() + method.as_str().len());
    name.push_str(kind);
    name.extend(method.as_str().chars().map(|it| if it == '/' { '.' } else { it }));
    name
}

fn end(context: &Context, result: Result<(), &Status>) {
    let span = context.span();
    span.set_status(match result {
        Ok(()) => SpanStatus::Ok,
        Err(status) => {
            SpanStatus::error(format!("{}, {}", code_name(Err(status)), status.message()))
        }
    });
    span.end();
}

fn as_int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// As many as a call has that is retried at all; of one that sends more before the server answers,
/// a repeated message is told by its size on the wire.
const SIZES_MAX: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_kept_while_messages_may_be_sent_again_and_never_without_bound() {
        let mut sizes = Sizes::default();
        sizes.push(7);
        sizes.push(8);
        assert_eq!([0, 1, 2].map(|nth| sizes.get(nth)), [Some(7), Some(8), None]);
        sizes.is_committed = true;
        sizes.push(9);
        assert_eq!([0, 1, 2].map(|nth| sizes.get(nth)), [None, None, Some(9)]);
        let mut sizes = Sizes::default();
        for bytes in 0..10 * SIZES_MAX {
            sizes.push(bytes);
            assert_eq!(sizes.get(bytes), Some(bytes));
        }
        assert!(sizes.bytes.len() <= SIZES_MAX);
    }
}
