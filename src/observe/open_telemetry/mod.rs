//! Metrics and traces through OpenTelemetry's API (A66, A72, A79, A94, A96).

mod builder;
mod call;
mod metrics;
mod propagation;
mod spans;

use std::sync::Arc;

use opentelemetry::Context;

use super::calls::{CallInfo, CallObserver, Observer};
use super::channels::{ChannelEvent, ChannelInfo};
pub use builder::{OpenTelemetryBuilder, UnknownMetric};
use call::Call;
use metrics::{Instruments, MethodFilter};
pub use propagation::GrpcTraceBinPropagator;
use spans::Tracing;

/// An [`Observer`] that makes metrics and traces of calls and connections, by the names that gRPC
/// gives them in every language, through OpenTelemetry's API. What becomes of them is up to the SDK
/// behind the providers; there is never a global one.
///
/// ```
/// # fn run(
/// #     meters: opentelemetry_sdk::metrics::SdkMeterProvider,
/// #     tracers: opentelemetry_sdk::trace::SdkTracerProvider,
/// # ) -> Result<(), Box<dyn std::error::Error>> {
/// use switchboard::{Channel, Credentials, OpenTelemetry};
///
/// let telemetry = OpenTelemetry::builder()
///     .meter_provider(&meters)
///     .tracer_provider(&tracers)
///     .enable_metrics(["grpc.client.call.retries"])
///     .build()?;
/// let channel = Channel::builder("dns:///greeter.example")
///     .credentials(Credentials::tls())
///     .observer(telemetry.clone())
///     .build()?;
/// # Ok(()) }
/// ```
///
/// A clone is the same; several channels may share it, and one channel may have several, each with
/// providers of its own.
///
/// # Metrics
///
/// Durations are in seconds, sizes in bytes without the prefix of five that gRPC puts before each
/// message. `grpc.method` is `package.Service/Method`, and `other` where the call names a path
/// rather than a [`Method`](crate::Method) (see
/// [`generic_method_attribute_filter`](OpenTelemetryBuilder::generic_method_attribute_filter));
/// `grpc.target` the target in its whole form; `grpc.status` the name of a code, `UNKNOWN` where
/// gRPC has none for its number.
///
/// | name | kind | labels beside `grpc.target` |
/// |---|---|---|
/// | `grpc.client.attempt.started` | counter | `grpc.method` |
/// | `grpc.client.attempt.duration` | histogram | `grpc.method`, `grpc.status` |
/// | `grpc.client.attempt.sent_total_compressed_message_size` | histogram | `grpc.method`, `grpc.status` |
/// | `grpc.client.attempt.rcvd_total_compressed_message_size` | histogram | `grpc.method`, `grpc.status` |
/// | `grpc.client.call.duration` | histogram | `grpc.method`, `grpc.status` |
///
/// These are on (A66). What gRPC calls experimental is off, and so are metrics of this library's
/// own, until [`enable_metrics`](OpenTelemetryBuilder::enable_metrics) or
/// [`everything`](OpenTelemetryBuilder::everything) says otherwise (A79):
///
/// | name | kind | labels beside `grpc.target` |
/// |---|---|---|
/// | `grpc.client.call.retries` | histogram (A96) | `grpc.method` |
/// | `grpc.client.call.transparent_retries` | histogram (A96) | `grpc.method` |
/// | `grpc.client.call.hedges` | histogram (A96) | `grpc.method` |
/// | `grpc.client.call.retry_delay` | histogram (A96) | `grpc.method` |
/// | `grpc.client.call.ended` | counter, its own | `grpc.method`, `grpc.status` |
/// | `grpc.subchannel.disconnections` | counter (A94) | `grpc.disconnect_error` if asked for |
/// | `grpc.subchannel.connection_attempts_succeeded` | counter (A94) | |
/// | `grpc.subchannel.connection_attempts_failed` | counter (A94) | |
/// | `grpc.subchannel.open_connections` | up-down counter (A94) | `grpc.security_level` if asked for |
/// | `grpc.subchannel.connection_attempt_duration` | histogram of successes, its own | |
/// | `grpc.subchannel.states` | up-down counter, its own | `grpc.subchannel.state`, IDLE left out |
///
/// Of the four of A96 a zero is not recorded. A call counts from when it has passed the
/// interceptors; the encoding of its message and the interceptors are not in its duration.
///
/// # Traces
///
/// Each call has a span `Sent.package.Service.Method` of kind client, whose parent is the span of
/// [`Context::current`] on the task that makes the call; below it each attempt has a span
/// `Attempt.package.Service.Method`, and the server is told of that one, by default in
/// `traceparent` (W3C). See [`propagator`](OpenTelemetryBuilder::propagator). A call that is made
/// where telemetry is suppressed, as by an exporter, makes none.
#[derive(Clone)]
pub struct OpenTelemetry {
    inner: Arc<Inner>,
}

/// What all clones, and all calls, share.
struct Inner {
    metrics: Option<Instruments>,
    tracing: Option<Tracing>,
    method_filter: Option<MethodFilter>,
}

impl OpenTelemetry {
    /// A builder, which has nothing to tell yet: give it a meter provider, a tracer provider, or
    /// both.
    pub fn builder() -> OpenTelemetryBuilder {
        OpenTelemetryBuilder::new()
    }
}

impl Observer for OpenTelemetry {
    fn call_began(&self, call: &CallInfo<'_>) -> Option<Arc<dyn CallObserver>> {
        // Else an exporter that exports through a channel with this would never come to an end.
        if Context::map_current(Context::is_telemetry_suppressed) {
            return None;
        }
        Some(Arc::new(Call::begin(self.inner.clone(), call)))
    }

    fn channel_event(&self, channel: &ChannelInfo<'_>, event: &ChannelEvent<'_>) {
        if let Some(metrics) = &self.inner.metrics {
            metrics.channel_event(channel.target, event);
        }
    }
}

impl std::fmt::Debug for OpenTelemetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenTelemetry")
            .field("metrics", &self.inner.metrics.is_some())
            .field("traces", &self.inner.tracing.is_some())
            .finish()
    }
}
