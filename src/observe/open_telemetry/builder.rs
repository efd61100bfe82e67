//! What of it is wanted.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use opentelemetry::InstrumentationScope;
use opentelemetry::metrics::{Meter, MeterProvider};
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{Span, Tracer, TracerProvider};

use super::metrics::{
    DISCONNECT_ERROR, Instruments, METRICS, MethodFilter, SECURITY_LEVEL, STABLE,
};
use super::propagation::TraceContext;
use super::spans::{StartSpan, Tracing};
use super::{Inner, OpenTelemetry};
use crate::observe::{Log, instant};

/// Builds an [`OpenTelemetry`].
///
/// Nothing is told without a provider: without [`meter_provider`](Self::meter_provider) there are
/// no metrics, without [`tracer_provider`](Self::tracer_provider) no traces.
#[derive(Clone)]
pub struct OpenTelemetryBuilder {
    meter: Option<Meter>,
    tracer: Option<Arc<dyn StartSpan>>,
    propagator: Arc<dyn TextMapPropagator + Send + Sync>,
    method_filter: Option<MethodFilter>,
    enabled: BTreeSet<String>,
    labels: BTreeSet<String>,
    unknown: Option<UnknownMetric>,
}

impl OpenTelemetryBuilder {
    pub(super) fn new() -> Self {
        Self {
            meter: None,
            tracer: None,
            propagator: Arc::new(TraceContext::default()),
            method_filter: None,
            enabled: STABLE.iter().map(ToString::to_string).collect(),
            labels: BTreeSet::new(),
            unknown: None,
        }
    }

    /// Where metrics go. Default: nowhere.
    pub fn meter_provider(mut self, provider: &(impl MeterProvider + ?Sized)) -> Self {
        self.meter = Some(provider.meter_with_scope(scope()));
        self
    }

    /// Where spans go. Default: nowhere; then no call is traced and servers are told of no trace.
    pub fn tracer_provider<P>(mut self, provider: &P) -> Self
    where
        P: TracerProvider + ?Sized,
        P::Tracer: Tracer<Span: Span + Send + Sync + 'static> + Send + Sync + 'static,
    {
        self.tracer = Some(Arc::new(provider.tracer_with_scope(scope())));
        self
    }

    /// How servers are told of the span of an attempt (A72). What it sets by a key that ends in
    /// `-bin` is to be base64, as [`GrpcTraceBinPropagator`](super::GrpcTraceBinPropagator) has it.
    /// For more than one, give OpenTelemetry's composite propagator. Default: `traceparent` and
    /// `tracestate` (W3C trace context).
    pub fn propagator(
        mut self,
        propagator: impl TextMapPropagator + Send + Sync + 'static,
    ) -> Self {
        self.propagator = Arc::new(propagator);
        self
    }

    /// Records these metrics too, by their names; the table is at [`OpenTelemetry`].
    pub fn enable_metrics<S: AsRef<str>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        for name in names {
            let name = self.checked(name.as_ref(), &METRICS);
            self.enabled.extend(name);
        }
        self
    }

    /// Does not record these metrics, be they on by default or enabled before.
    pub fn disable_metrics<S: AsRef<str>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        for name in names {
            if let Some(name) = self.checked(name.as_ref(), &METRICS) {
                self.enabled.remove(&name);
            }
        }
        self
    }

    /// Adds this label wherever it is defined: `grpc.disconnect_error` or `grpc.security_level`
    /// (A94).
    pub fn optional_label(mut self, name: &str) -> Self {
        let name = self.checked(name, &LABELS);
        self.labels.extend(name);
        self
    }

    /// Records every metric, with every label, that there is in this version; what is added later
    /// is recorded then.
    pub fn everything(self) -> Self {
        LABELS.iter().fold(self.enable_metrics(METRICS), |it, label| it.optional_label(label))
    }

    /// Says by its path, without the leading slash, whether a method that the program does not know
    /// as a [`Method`](crate::Method) may be named in metrics (A66). Default: none is, each is
    /// `other`, so that paths that somebody else makes up do not become time series.
    pub fn generic_method_attribute_filter(
        mut self,
        filter: impl Fn(&str) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.method_filter = Some(Arc::new(filter));
        self
    }

    /// Fails where a metric or a label was named that there is not.
    pub fn build(self) -> Result<OpenTelemetry, UnknownMetric> {
        if let Some(unknown) = self.unknown {
            return Err(unknown);
        }
        let is_on = |name: &str| self.enabled.contains(name);
        let has_label = |name: &str| self.labels.contains(name);
        let metrics = self.meter.as_ref().map(|it| Instruments::new(it, is_on, has_label));
        let propagator = self.propagator;
        let log = Log::new(None, instant);
        let tracing = self.tracer.map(|tracer| Tracing { tracer, propagator, log });
        let method_filter = self.method_filter;
        Ok(OpenTelemetry { inner: Arc::new(Inner { metrics, tracing, method_filter }) })
    }

    /// `name`, if it is one of `known`; the first that is not is kept for the end.
    fn checked(&mut self, name: &str, known: &[&str]) -> Option<String> {
        if known.contains(&name) {
            return Some(name.to_owned());
        }
        let known = known.iter().map(ToString::to_string).collect();
        self.unknown.get_or_insert_with(|| UnknownMetric { name: name.to_owned(), known });
        None
    }
}

impl fmt::Debug for OpenTelemetryBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenTelemetryBuilder")
            .field("metrics", &self.enabled)
            .field("labels", &self.labels)
            .finish_non_exhaustive()
    }
}

/// There is no metric, or no optional label, of that name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownMetric {
    name: String,
    known: Vec<String>,
}

impl fmt::Display for UnknownMetric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, known } = self;
        write!(
            f,
            "there is no `{name}` among the metrics and labels: there are {}",
            known.join(", ")
        )
    }
}

impl std::error::Error for UnknownMetric {}

/// Says which library speaks, and in which version (A66).
fn scope() -> InstrumentationScope {
    InstrumentationScope::builder(LIBRARY).with_version(env!("CARGO_PKG_VERSION")).build()
}

const LABELS: [&str; 2] = [DISCONNECT_ERROR, SECURITY_LEVEL];

/// As in `user-agent`.
const LIBRARY: &str = "grpc-rust-switchboard";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_or_label_that_there_is_not_is_named_with_those_there_are() {
        let error = OpenTelemetry::builder().enable_metrics(["grpc.nothing"]).build().unwrap_err();
        let said = error.to_string();
        assert!(said.starts_with("there is no `grpc.nothing` among"), "{said}");
        assert!(said.contains("grpc.client.call.retries"), "{said}");
        let error = OpenTelemetry::builder().optional_label("grpc.lb.locality").build();
        assert!(
            error.unwrap_err().to_string().ends_with("grpc.disconnect_error, grpc.security_level")
        );
        assert!(OpenTelemetry::builder().everything().build().is_ok());
    }
}
