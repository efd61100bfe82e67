//! How a server is told which span its own is below (A72).

use std::fmt::{self, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use opentelemetry::Context;
use opentelemetry::propagation::text_map_propagator::FieldIter;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};

use tracing::Level;

use crate::observe::Log;
use crate::types::Metadata;

/// The metadata of an attempt, as propagators see it. What they set is text; by a key that ends in
/// `-bin` it is base64, and bytes on their way. What cannot travel is left out and told to `log`.
pub(super) struct Carrier<'a> {
    pub(super) metadata: &'a mut Metadata,
    pub(super) log: &'a Log,
}

impl Carrier<'_> {
    fn leaves_out(&self, key: &str, cause: &dyn fmt::Display) {
        self.log.tell(Level::WARN, "what a propagator gave is left out", &key, Some(cause));
    }
}

impl Injector for Carrier<'_> {
    fn set(&mut self, key: &str, value: String) {
        // An empty list of vendors says nothing.
        if value.is_empty() {
            return;
        }
        let set = if key.to_ascii_lowercase().ends_with("-bin") {
            let Ok(bytes) = STANDARD_NO_PAD.decode(value.trim_end_matches('=')) else {
                return self.leaves_out(key, &"binary metadata must be in base64");
            };
            self.metadata.insert_bin(key, &bytes)
        } else {
            self.metadata.insert(key, value)
        };
        if let Err(error) = set {
            self.leaves_out(key, &error);
        }
    }
}

/// Tells of a span in `traceparent` and `tracestate` (W3C trace context). The same is in
/// OpenTelemetry's SDK, on which a library does not depend.
#[derive(Clone, Debug)]
pub(super) struct TraceContext {
    fields: [String; 2],
}

impl Default for TraceContext {
    fn default() -> Self {
        Self { fields: ["traceparent".to_owned(), "tracestate".to_owned()] }
    }
}

impl TextMapPropagator for TraceContext {
    fn inject_context(&self, context: &Context, injector: &mut dyn Injector) {
        let span = context.span();
        let span = span.span_context();
        if !span.is_valid() {
            return;
        }
        let [parent, state] = &self.fields;
        let flags = span.trace_flags() & TraceFlags::SAMPLED;
        let mut value = String::with_capacity(TRACEPARENT_LEN);
        // Writing to a string does not fail.
        let _ = write!(value, "00-{}-{}-{flags:02x}", span.trace_id(), span.span_id());
        injector.set(parent, value);
        injector.set(state, span.trace_state().header());
    }

    /// Nothing is taken out of what a server sends.
    fn extract_with_context(&self, context: &Context, _: &dyn Extractor) -> Context {
        context.clone()
    }

    fn fields(&self) -> FieldIter<'_> {
        FieldIter::new(&self.fields)
    }
}

/// Tells of a span in `grpc-trace-bin` (A72), which gRPC's `OpenCensus` plugins understand: for the
/// time in which not all servers have OpenTelemetry.
///
/// With an [`OpenTelemetry`](super::OpenTelemetry) the value travels as bytes; with other carriers
/// it is base64.
#[derive(Clone, Debug)]
pub struct GrpcTraceBinPropagator {
    fields: [String; 1],
}

impl GrpcTraceBinPropagator {
    /// One.
    pub fn new() -> Self {
        Self { fields: [GRPC_TRACE_BIN.to_owned()] }
    }
}

impl Default for GrpcTraceBinPropagator {
    fn default() -> Self {
        Self::new()
    }
}

impl TextMapPropagator for GrpcTraceBinPropagator {
    fn inject_context(&self, context: &Context, injector: &mut dyn Injector) {
        let span = context.span();
        let span = span.span_context();
        if span.is_valid() {
            injector.set(GRPC_TRACE_BIN, STANDARD.encode(to_bytes(span)));
        }
    }

    fn extract_with_context(&self, context: &Context, extractor: &dyn Extractor) -> Context {
        let value = extractor.get(GRPC_TRACE_BIN).unwrap_or_default().trim_end_matches('=');
        let bytes = STANDARD_NO_PAD.decode(value).ok();
        match bytes.and_then(|bytes| from_bytes(&bytes)) {
            Some(span) => context.with_remote_span_context(span),
            None => context.clone(),
        }
    }

    fn fields(&self) -> FieldIter<'_> {
        FieldIter::new(&self.fields)
    }
}

/// Version 0, and fields that begin with their numbers: the trace, the span, the flags.
fn to_bytes(span: &SpanContext) -> [u8; TRACE_BIN_LEN] {
    let mut bytes = [0; TRACE_BIN_LEN];
    bytes[2..18].copy_from_slice(&span.trace_id().to_bytes());
    bytes[18] = 1;
    bytes[19..27].copy_from_slice(&span.span_id().to_bytes());
    bytes[27] = 2;
    bytes[28] = (span.trace_flags() & TraceFlags::SAMPLED).to_u8();
    bytes
}

fn from_bytes(bytes: &[u8]) -> Option<SpanContext> {
    let bytes: &[u8; TRACE_BIN_LEN] = bytes.try_into().ok()?;
    let numbers = [bytes[0], bytes[1], bytes[18], bytes[27]];
    let trace = TraceId::from_bytes(bytes[2..18].try_into().ok()?);
    let span = SpanId::from_bytes(bytes[19..27].try_into().ok()?);
    let flags = TraceFlags::new(bytes[28]) & TraceFlags::SAMPLED;
    let span = SpanContext::new(trace, span, flags, true, TraceState::default());
    (numbers == [0, 0, 1, 2] && span.is_valid()).then_some(span)
}

const GRPC_TRACE_BIN: &str = "grpc-trace-bin";

/// A byte for the version, and one before each of 16, 8 and 1.
const TRACE_BIN_LEN: usize = 29;

/// `00-`, 32 digits, `-`, 16 digits, `-` and two.
const TRACEPARENT_LEN: usize = 55;

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::observe::instant;

    fn context() -> Context {
        let trace = TraceId::from_bytes([7; 16]);
        let state = TraceState::from_key_value([("vendor", "x")]).unwrap();
        let span = SpanId::from_bytes([9; 8]);
        let span = SpanContext::new(trace, span, TraceFlags::SAMPLED, false, state);
        Context::new().with_remote_span_context(span)
    }

    fn log() -> Log {
        Log::new(None, instant)
    }

    fn carrier<'a>(metadata: &'a mut Metadata, log: &'a Log) -> Carrier<'a> {
        Carrier { metadata, log }
    }

    // spec: A72/propagation
    #[test]
    fn a_span_travels_as_traceparent_and_tracestate() {
        let mut metadata = Metadata::new();
        TraceContext::default().inject_context(&context(), &mut carrier(&mut metadata, &log()));
        let parent = format!("00-{}-{}-01", "07".repeat(16), "09".repeat(8));
        assert_eq!(parent.len(), TRACEPARENT_LEN);
        assert_eq!(metadata.get("traceparent"), Some(parent.as_str()));
        assert_eq!(metadata.get("tracestate"), Some("vendor=x"));
        let mut metadata = Metadata::new();
        TraceContext::default()
            .inject_context(&Context::new(), &mut carrier(&mut metadata, &log()));
        assert!(metadata.is_empty());
    }

    // spec: A72/grpc-trace-bin
    #[test]
    fn a_span_travels_as_grpc_trace_bin_and_comes_back() {
        let mut metadata = Metadata::new();
        let propagator = GrpcTraceBinPropagator::new();
        propagator.inject_context(&context(), &mut carrier(&mut metadata, &log()));
        let bytes = metadata.get_bin("grpc-trace-bin").unwrap();
        let expected = [&[0, 0][..], &[7; 16], &[1], &[9; 8], &[2, 1]].concat();
        assert_eq!(bytes, expected);
        let mut carrier = HashMap::new();
        propagator.inject_context(&context(), &mut carrier);
        let there = propagator.extract_with_context(&Context::new(), &carrier);
        let (there, here) = (there.span().span_context().clone(), context());
        assert_eq!(there.trace_id(), here.span().span_context().trace_id());
        assert_eq!(there.span_id(), here.span().span_context().span_id());
        assert!(there.is_sampled() && there.is_remote());
        for wrong in ["", "AAA", "no base64"] {
            let carrier = HashMap::from([(GRPC_TRACE_BIN.to_owned(), wrong.to_owned())]);
            let there = propagator.extract_with_context(&Context::new(), &carrier);
            assert!(!there.span().span_context().is_valid(), "{wrong}");
        }
    }

    #[test]
    fn what_a_propagator_gives_that_cannot_travel_is_left_out() {
        let mut metadata = Metadata::new();
        let log = log();
        let mut carrier = carrier(&mut metadata, &log);
        carrier.set("content-type", "no".to_owned());
        carrier.set("x-bin", "no base64!".to_owned());
        carrier.set("text", "ü".to_owned());
        carrier.set("baggage", "a=b".to_owned());
        assert_eq!(metadata.keys().collect::<Vec<_>>(), ["baggage"]);
    }
}
