//! Metrics and traces: what a call that is retried tells OpenTelemetry.
//!
//! The collector is this process: what a service sends to one over the network is printed here.

#![expect(clippy::print_stdout, reason = "what an example shows, it prints")]

#[path = "../tests/support/greeter.rs"]
#[expect(dead_code, reason = "tests use more of it")]
mod greeter;

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt::{Debug, Display};

use greeter::{FLAKY, Greeter, SAY_HELLO, ask, target_of};
use opentelemetry::trace::{
    FutureExt as _, SpanId, TraceContextExt as _, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::metrics::data::{
    AggregatedMetrics, MetricData, ResourceMetrics, ScopeMetrics,
};
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, SdkMeterProvider};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use switchboard::{Channel, Credentials, OpenTelemetry};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // In a service: exporters that speak OTLP.
    let (metrics, spans) = (InMemoryMetricExporter::default(), InMemorySpanExporter::default());
    let meters = SdkMeterProvider::builder().with_periodic_exporter(metrics.clone()).build();
    let tracers = SdkTracerProvider::builder().with_simple_exporter(spans.clone()).build();

    let telemetry = OpenTelemetry::builder()
        .meter_provider(&meters)
        .tracer_provider(&tracers)
        .everything()
        .build()?;
    let greeter = Greeter::start();
    let retries = r#"{"methodConfig": [{"name": [{"service": "helloworld.Greeter"}],
        "retryPolicy": {"maxAttempts": 3, "initialBackoff": "0.01s", "maxBackoff": "1s",
        "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}}]}"#;
    let channel = Channel::builder(target_of([&greeter]))
        .credentials(Credentials::insecure())
        .default_service_config(retries)
        .observer(telemetry)
        .build()?;

    // What the program is at has a span; the call's is below it.
    let work = Context::current_with_span(tracers.tracer("example").start("work"));
    let reply = channel.invoke(&SAY_HELLO, ask(FLAKY)).with_context(work.clone()).await?;
    println!(
        "the server was told of {}\n",
        reply.metadata().get("traceparent").unwrap_or("nothing")
    );
    work.span().end();
    channel.close().await;

    let spans = spans.get_finished_spans()?;
    show(&spans, SpanId::INVALID, 0);
    println!();
    meters.force_flush()?;
    let seen = show_metrics(&metrics.get_finished_metrics()?);
    meters.shutdown()?;
    tracers.shutdown()?;
    let is_complete = spans.len() == 4 && seen.contains("grpc.client.call.retries");
    if is_complete { Ok(()) } else { Err("a span or a metric is missing".into()) }
}

/// Prints the spans below one, each with its own below it.
fn show(spans: &[SpanData], parent: SpanId, depth: usize) {
    for span in spans.iter().filter(|it| it.parent_span_id == parent) {
        let indent = "    ".repeat(depth);
        println!("{indent}{} {{{}}} {:?}", span.name, pairs(span.attributes.iter()), span.status);
        for event in span.events.iter() {
            println!("{indent}  . {} {{{}}}", event.name, pairs(event.attributes.iter()));
        }
        show(spans, span.span_context.span_id(), depth + 1);
    }
}

/// Prints the metrics; gives their names.
fn show_metrics(exported: &[ResourceMetrics]) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    let metrics = exported.last().into_iter().flat_map(ResourceMetrics::scope_metrics);
    for metric in metrics.flat_map(ScopeMetrics::metrics) {
        let what = (metric.name(), metric.unit());
        match metric.data() {
            AggregatedMetrics::F64(data) => write_down(what, data, &mut lines),
            AggregatedMetrics::U64(data) => write_down(what, data, &mut lines),
            AggregatedMetrics::I64(data) => write_down(what, data, &mut lines),
        }
    }
    for line in &lines {
        println!("{line}");
    }
    lines.iter().filter_map(|line| Some(line.split_once(' ')?.0.to_owned())).collect()
}

fn write_down<T: Copy + Debug + Display>(
    (name, unit): (&str, &str),
    data: &MetricData<T>,
    lines: &mut BTreeSet<String>,
) {
    match data {
        MetricData::Sum(sum) => lines.extend(sum.data_points().map(|point| {
            format!("{name} {} {unit} {{{}}}", point.value(), pairs(point.attributes()))
        })),
        MetricData::Histogram(histogram) => lines.extend(histogram.data_points().map(|point| {
            let (count, sum) = (point.count(), point.sum());
            format!("{name} {count} times, {sum} {unit} in all {{{}}}", pairs(point.attributes()))
        })),
        MetricData::Gauge(_) | MetricData::ExponentialHistogram(_) => {}
    }
}

fn pairs<'a>(attributes: impl Iterator<Item = &'a KeyValue>) -> String {
    let pairs: BTreeSet<_> = attributes.map(|it| format!("{}={}", it.key, it.value)).collect();
    pairs.into_iter().collect::<Vec<_>>().join(", ")
}
