//! Metrics and traces, as OpenTelemetry's SDK takes them in.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use opentelemetry::propagation::TextMapCompositePropagator;
use opentelemetry::trace::{
    FutureExt as _, SpanId, SpanKind, TraceContextExt as _, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData, ScopeMetrics};
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, SdkMeterProvider};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{InMemorySpanExporter, Sampler, SdkTracerProvider, SpanData};
use switchboard::{
    ActorKind, CallEvent, CallInfo, CallObserver, CallOptions, Channel, ChannelBuilder,
    ChannelEvent, ChannelInfo, Code, Compression, ConnectivityState, Fault, GrpcTraceBinPropagator,
    Observer, OpenTelemetry, OpenTelemetryBuilder, memory,
};

use crate::hedging::{TWO_ATTEMPTS, answered_twice};
use crate::support::greeter::{
    BIDI_HELLO, FLAKY, Greeter, HelloReply, HelloRequest, SAY_HELLO, ask, hello, target_of,
};
use crate::support::{ROUND_ROBIN, close_without_leaks, plaintext, reports, until, until_state};

/// Takes in what a channel tells.
struct Collector {
    metrics: InMemoryMetricExporter,
    meters: SdkMeterProvider,
    spans: InMemorySpanExporter,
    tracers: SdkTracerProvider,
}

impl Collector {
    fn new() -> Self {
        let metrics = InMemoryMetricExporter::default();
        let spans = InMemorySpanExporter::default();
        Self {
            meters: SdkMeterProvider::builder().with_periodic_exporter(metrics.clone()).build(),
            metrics,
            tracers: SdkTracerProvider::builder().with_simple_exporter(spans.clone()).build(),
            spans,
        }
    }

    /// What tells it metrics alone, all of them.
    fn metrics(&self) -> OpenTelemetry {
        OpenTelemetry::builder().meter_provider(&self.meters).everything().build().unwrap()
    }

    /// What tells it spans alone.
    fn spans(&self) -> OpenTelemetry {
        OpenTelemetry::builder().tracer_provider(&self.tracers).build().unwrap()
    }

    /// The time series so far, each with what it amounts to, in order. Durations are counted.
    fn series(&self) -> Vec<String> {
        self.metrics.reset();
        self.meters.force_flush().unwrap();
        let mut all = Vec::new();
        for resource in self.metrics.get_finished_metrics().unwrap() {
            for scope in resource.scope_metrics() {
                assert_eq!(scope.scope().name(), "grpc-rust-switchboard");
                for metric in scope.metrics() {
                    let name = metric.name();
                    match metric.data() {
                        AggregatedMetrics::U64(data) => write_down(name, data, true, &mut all),
                        AggregatedMetrics::I64(data) => write_down(name, data, true, &mut all),
                        AggregatedMetrics::F64(data) => write_down(name, data, false, &mut all),
                    }
                }
            }
        }
        all.sort();
        all
    }

    /// Those of the series whose name begins so.
    fn series_of(&self, name: &str) -> Vec<String> {
        let mut all = self.series();
        all.retain(|it| it.starts_with(name));
        all
    }

    /// Whether there have been subchannels, and all are gone. One is when the last that knows of it
    /// is, which may be an actor that was killed.
    fn has_no_subchannel(&self) -> bool {
        let states = self.series_of("grpc.subchannel.states");
        !states.is_empty() && states.iter().all(|it| it.ends_with(" = 0"))
    }

    /// The spans that have ended, in the order in which they did.
    fn ended(&self) -> Vec<SpanData> {
        let spans = self.spans.get_finished_spans().unwrap();
        self.spans.reset();
        spans
    }
}

fn write_down<T: Copy + Display>(
    name: &str,
    data: &MetricData<T>,
    with_sums: bool,
    all: &mut Vec<String>,
) {
    match data {
        MetricData::Sum(sum) => {
            for point in sum.data_points() {
                all.push(format!("{name} {} = {}", labels(point.attributes()), point.value()));
            }
        }
        MetricData::Histogram(histogram) => {
            for point in histogram.data_points() {
                let (labels, count) = (labels(point.attributes()), point.count());
                all.push(if with_sums {
                    format!("{name} {labels} = {} in {count}", point.sum())
                } else {
                    format!("{name} {labels} = {count}")
                });
            }
        }
        MetricData::Gauge(_) | MetricData::ExponentialHistogram(_) => panic!("{name} is another"),
    }
}

/// The target aside, which has a port of its own in each test.
fn labels<'a>(attributes: impl Iterator<Item = &'a KeyValue>) -> String {
    let (target, others): (Vec<_>, Vec<_>) = attributes
        .map(|it| format!("{}={}", it.key, it.value))
        .partition(|it| it.starts_with("grpc.target="));
    let is_whole = |it: &String| it.contains("=ipv4:127.0.0.1:") || it.contains("=passthrough:");
    assert!(target.len() == 1 && target.iter().all(is_whole), "{target:?}");
    let mut others = others;
    others.sort();
    format!("{{{}}}", others.join(","))
}

/// A channel to a greeter, with this.
async fn observed(
    telemetry: OpenTelemetry,
    change: impl FnOnce(ChannelBuilder) -> ChannelBuilder,
) -> (Channel, [Greeter; 1]) {
    let greeter = [Greeter::start()];
    let channel = change(plaintext(target_of(&greeter)).observer(telemetry)).build().unwrap();
    channel.connect();
    until_state(&channel, ConnectivityState::Ready).await;
    (channel, greeter)
}

const RETRIES: &str = r#"{"methodConfig":[{"name":[{}],"retryPolicy":{"maxAttempts":2,
    "initialBackoff":"0.001s","maxBackoff":"1s","backoffMultiplier":1,
    "retryableStatusCodes":["UNAVAILABLE"]}}]}"#;

// spec: A66/method-label
// spec: A66/metrics
#[tokio::test]
async fn a_call_has_the_metrics_of_a66_and_no_others_unless_they_are_asked_for() {
    let collector = Collector::new();
    let telemetry = OpenTelemetry::builder().meter_provider(&collector.meters).build().unwrap();
    let (channel, greeter) = observed(telemetry, |it| it).await;
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    let failed = channel.invoke(&SAY_HELLO, ask("fail:5:no")).await;
    assert_eq!(failed.unwrap_err().code(), Code::NOT_FOUND);
    let path = "/helloworld.Greeter/SayHello";
    channel.invoke::<HelloRequest, HelloReply>(path, ask("Ada")).await.unwrap();
    let reply = u64::try_from("Hello Ada, from 12345".len() + 2).unwrap();
    let reply = reply - 5 + greeter[0].address().port().to_string().len() as u64;
    let known = "grpc.method=helloworld.Greeter/SayHello";
    let (sent, received) =
        ("sent_total_compressed_message_size", "rcvd_total_compressed_message_size");
    assert_eq!(
        collector.series(),
        [
            format!("grpc.client.attempt.duration {{{known},grpc.status=NOT_FOUND}} = 1"),
            format!("grpc.client.attempt.duration {{{known},grpc.status=OK}} = 1"),
            "grpc.client.attempt.duration {grpc.method=other,grpc.status=OK} = 1".to_owned(),
            format!("grpc.client.attempt.{received} {{{known},grpc.status=NOT_FOUND}} = 0 in 1"),
            format!("grpc.client.attempt.{received} {{{known},grpc.status=OK}} = {reply} in 1"),
            format!(
                "grpc.client.attempt.{received} {{grpc.method=other,grpc.status=OK}} = {reply} in 1"
            ),
            // Without the prefix of five.
            format!("grpc.client.attempt.{sent} {{{known},grpc.status=NOT_FOUND}} = 11 in 1"),
            format!("grpc.client.attempt.{sent} {{{known},grpc.status=OK}} = 5 in 1"),
            format!("grpc.client.attempt.{sent} {{grpc.method=other,grpc.status=OK}} = 5 in 1"),
            format!("grpc.client.attempt.started {{{known}}} = 2"),
            "grpc.client.attempt.started {grpc.method=other} = 1".to_owned(),
            format!("grpc.client.call.duration {{{known},grpc.status=NOT_FOUND}} = 1"),
            format!("grpc.client.call.duration {{{known},grpc.status=OK}} = 1"),
            "grpc.client.call.duration {grpc.method=other,grpc.status=OK} = 1".to_owned(),
        ]
    );
    close_without_leaks(channel, &greeter).await;
}

// spec: A66/status-label
#[tokio::test]
async fn a_code_that_a_server_made_up_is_unknown_in_metrics() {
    let collector = Collector::new();
    let (connector, mut listener) = memory::pipe();
    tokio::spawn(async move {
        let mut connection = h2::server::handshake(listener.accept().await.unwrap()).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let mut response = http::Response::new(());
            let grpc = http::HeaderValue::from_static("application/grpc");
            response.headers_mut().insert("content-type", grpc);
            response.headers_mut().insert("grpc-status", 4711.into());
            respond.send_response(response, true).unwrap();
        }
    });
    let builder = plaintext("passthrough:server").connector(connector);
    let channel = builder.observer(collector.metrics()).build().unwrap();
    let status = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap_err();
    assert_eq!(status.code(), Code::from_number(4711));
    let known = "grpc.method=helloworld.Greeter/SayHello";
    for name in ["grpc.client.call.duration", "grpc.client.attempt.duration"] {
        let [series] = collector.series_of(name).try_into().unwrap();
        assert!(series.contains(known) && series.contains("grpc.status=UNKNOWN}"), "{series}");
    }
    channel.close().await;
}

// spec: A66/method-label
#[tokio::test]
async fn the_path_of_an_unknown_method_is_a_label_only_where_the_filter_takes_it() {
    let collector = Collector::new();
    let telemetry = OpenTelemetry::builder()
        .meter_provider(&collector.meters)
        .generic_method_attribute_filter(|name| name == "helloworld.Greeter/SayHello")
        .build()
        .unwrap();
    let (channel, greeter) = observed(telemetry, |it| it).await;
    for path in ["/helloworld.Greeter/SayHello", "/helloworld.Greeter/SayNothing"] {
        let _ = channel.invoke::<HelloRequest, HelloReply>(path, ask("Ada")).await;
    }
    let series = collector.series_of("grpc.client.attempt.started");
    let expected = ["helloworld.Greeter/SayHello", "other"];
    let expected =
        expected.map(|it| format!("grpc.client.attempt.started {{grpc.method={it}}} = 1"));
    assert_eq!(series, expected);
    close_without_leaks(channel, &greeter).await;
}

// spec: A66/buckets
#[tokio::test]
async fn histograms_have_the_units_and_buckets_of_a66_and_a96() {
    let collector = Collector::new();
    let (channel, greeter) =
        observed(collector.metrics(), |it| it.default_service_config(RETRIES)).await;
    channel.invoke(&SAY_HELLO, ask(FLAKY)).await.unwrap();
    collector.series();
    let exported = collector.metrics.get_finished_metrics().unwrap();
    let mut seen = Vec::new();
    for metric in exported[0].scope_metrics().flat_map(ScopeMetrics::metrics) {
        let bounds: Option<Vec<f64>> = match metric.data() {
            AggregatedMetrics::F64(MetricData::Histogram(it)) => {
                it.data_points().next().map(|point| point.bounds().collect())
            }
            AggregatedMetrics::U64(MetricData::Histogram(it)) => {
                it.data_points().next().map(|point| point.bounds().collect())
            }
            _ => None,
        };
        let bounds = bounds.map_or("none", |it| match &it[..] {
            it if it == LATENCIES => "latencies",
            it if it == SIZES => "sizes",
            [1.0, 2.0, 3.0, 4.0, 5.0] => "retries",
            _ => "others",
        });
        seen.push(format!("{} {}: {bounds}", metric.name(), metric.unit()));
    }
    seen.sort();
    assert_eq!(
        seen,
        [
            "grpc.client.attempt.duration s: latencies",
            "grpc.client.attempt.rcvd_total_compressed_message_size By: sizes",
            "grpc.client.attempt.sent_total_compressed_message_size By: sizes",
            "grpc.client.attempt.started {attempt}: none",
            "grpc.client.call.duration s: latencies",
            "grpc.client.call.ended {call}: none",
            "grpc.client.call.retries {retry}: retries",
            "grpc.client.call.retry_delay s: latencies",
            "grpc.subchannel.connection_attempt_duration s: latencies",
            "grpc.subchannel.connection_attempts_succeeded {attempt}: none",
            "grpc.subchannel.open_connections {connection}: none",
            "grpc.subchannel.states {subchannel}: none",
        ]
    );
    close_without_leaks(channel, &greeter).await;
}

// spec: A96/retries
#[tokio::test]
async fn a_retried_call_counts_its_retries_and_the_time_between_and_others_no_zero() {
    let collector = Collector::new();
    let (channel, greeter) =
        observed(collector.metrics(), |it| it.default_service_config(RETRIES)).await;
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    for name in ["retries", "transparent_retries", "hedges", "retry_delay"] {
        assert!(collector.series_of(&format!("grpc.client.call.{name} ")).is_empty(), "{name}");
    }
    channel.invoke(&SAY_HELLO, ask(FLAKY)).await.unwrap();
    let method = "grpc.method=helloworld.Greeter/SayHello";
    let call = collector.series_of("grpc.client.call.");
    assert_eq!(
        call,
        [
            format!("grpc.client.call.duration {{{method},grpc.status=OK}} = 2"),
            format!("grpc.client.call.ended {{{method},grpc.status=OK}} = 2"),
            format!("grpc.client.call.retries {{{method}}} = 1 in 1"),
            format!("grpc.client.call.retry_delay {{{method}}} = 1"),
        ]
    );
    assert_eq!(
        collector.series_of("grpc.client.attempt.duration"),
        [
            format!("grpc.client.attempt.duration {{{method},grpc.status=OK}} = 2"),
            format!("grpc.client.attempt.duration {{{method},grpc.status=UNAVAILABLE}} = 1"),
        ]
    );
    close_without_leaks(channel, &greeter).await;
}

// spec: A96/hedges
#[tokio::test]
async fn a_hedged_call_counts_its_hedges_and_the_loser_as_cancelled() {
    let collector = Collector::new();
    let (channel, greeter) =
        observed(collector.metrics(), |it| it.default_service_config(TWO_ATTEMPTS)).await;
    answered_twice(&channel, &greeter[0]).await;
    let method = "grpc.method=helloworld.Greeter/SayHello";
    assert_eq!(
        collector.series_of("grpc.client.call."),
        [
            format!("grpc.client.call.duration {{{method},grpc.status=OK}} = 1"),
            format!("grpc.client.call.ended {{{method},grpc.status=OK}} = 1"),
            format!("grpc.client.call.hedges {{{method}}} = 1 in 1"),
        ]
    );
    assert_eq!(
        collector.series_of("grpc.client.attempt.duration"),
        [
            format!("grpc.client.attempt.duration {{{method},grpc.status=CANCELLED}} = 1"),
            format!("grpc.client.attempt.duration {{{method},grpc.status=OK}} = 1"),
        ]
    );
    close_without_leaks(channel, &greeter).await;
}

// spec: A94/metrics
#[tokio::test]
async fn connections_are_counted_as_they_come_up_fail_and_end() {
    let collector = Collector::new();
    let mut greeters = [Greeter::start(), Greeter::start()];
    let builder = plaintext(target_of(&greeters)).observer(collector.metrics());
    let channel = builder.default_service_config(ROUND_ROBIN).build().unwrap();
    channel.connect();
    let states = |state: &str| format!("grpc.subchannel.states {{grpc.subchannel.state={state}}}");
    let subchannels = || collector.series_of("grpc.subchannel.");
    until("both are up", async || {
        subchannels().contains(&format!("{} = 2", states("READY")))
            && subchannels()
                .contains(&"grpc.subchannel.open_connections {grpc.security_level=none} = 2".into())
    })
    .await;
    assert_eq!(
        subchannels(),
        [
            "grpc.subchannel.connection_attempt_duration {} = 2".to_owned(),
            "grpc.subchannel.connection_attempts_succeeded {} = 2".to_owned(),
            "grpc.subchannel.open_connections {grpc.security_level=none} = 2".to_owned(),
            format!("{} = 0", states("CONNECTING")),
            format!("{} = 2", states("READY")),
        ]
    );
    // One says goodbye, and nobody listens there any more.
    greeters[0].stop_gracefully().await;
    until("it is missed", async || {
        let seen = subchannels();
        seen.iter().any(|it| it.starts_with("grpc.subchannel.connection_attempts_failed {} = "))
            && seen.contains(&format!("{} = 1", states("TRANSIENT_FAILURE")))
            && seen
                .contains(&"grpc.subchannel.open_connections {grpc.security_level=none} = 1".into())
    })
    .await;
    let goaway = "grpc.subchannel.disconnections {grpc.disconnect_error=GOAWAY NO_ERROR} = 1";
    assert_eq!(collector.series_of("grpc.subchannel.disconnections"), [goaway]);
    assert!(subchannels().contains(&format!("{} = 1", states("READY"))));
    // The end of the channel is the end of all.
    close_without_leaks(channel, &greeters).await;
    assert_eq!(
        collector.series_of("grpc.subchannel.disconnections"),
        [goaway, "grpc.subchannel.disconnections {grpc.disconnect_error=subchannel shutdown} = 1"]
    );
    assert_eq!(
        collector.series_of("grpc.subchannel.open_connections"),
        ["grpc.subchannel.open_connections {grpc.security_level=none} = 0"]
    );
    until("no state is left", async || collector.has_no_subchannel()).await;
}

// spec: A96/transparent-retries
#[tokio::test]
async fn what_a_server_refuses_is_a_transparent_retry_and_no_previous_attempt() {
    let collector = Collector::new();
    let (connector, mut listener) = memory::pipe();
    let server = tokio::spawn(async move {
        let mut connection = h2::server::handshake(listener.accept().await.unwrap()).await.unwrap();
        let mut calls = 0;
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            calls += 1;
            if calls == 1 {
                respond.send_reset(h2::Reason::REFUSED_STREAM);
                continue;
            }
            let grpc = http::Response::builder().header("content-type", "application/grpc");
            let mut body = respond.send_response(grpc.body(()).unwrap(), false).unwrap();
            body.send_data(Bytes::from_static(&[0; 5]), false).unwrap();
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", 0.into());
            body.send_trailers(trailers).unwrap();
        }
    });
    let telemetry = all(&collector, |it| it);
    let builder = plaintext("passthrough:server").connector(connector).observer(telemetry);
    let channel = builder.build().unwrap();
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    let method = "grpc.method=helloworld.Greeter/SayHello";
    let seen = collector.series_of("grpc.client.call.transparent_retries");
    assert_eq!(seen, [format!("grpc.client.call.transparent_retries {{{method}}} = 1 in 1")]);
    assert!(collector.series_of("grpc.client.call.retries").is_empty());
    let attempts: Vec<_> = collector.ended()[..2].iter().map(|it| shown(it)[0].clone()).collect();
    assert!(attempts[0].contains("[previous-rpc-attempts=0 transparent-retry=false] Error"));
    assert!(attempts[1].contains("[previous-rpc-attempts=0 transparent-retry=true] Ok"));
    channel.close().await;
    server.await.unwrap();
}

#[tokio::test]
async fn a_crash_leaves_nothing_counted_that_has_ended() {
    for actor in [
        ActorKind::Supervisor,
        ActorKind::ClientConn,
        ActorKind::Resolver,
        ActorKind::Balancer,
        ActorKind::AddrConn,
    ] {
        let collector = Collector::new();
        let json = |it: ChannelBuilder| it.allow_injection().default_service_config(ROUND_ROBIN);
        let (channel, greeter) = observed(collector.metrics(), json).await;
        let open = || collector.series_of("grpc.subchannel.open_connections");
        let counted = |count: u32| {
            format!("grpc.subchannel.open_connections {{grpc.security_level=none}} = {count}")
        };
        until("it is open", async || open() == [counted(1)]).await;
        channel.inject(Fault::crash(actor)).await.unwrap();
        until("it is back", async || {
            let reports = reports(&channel).await;
            reports.iter().any(|it| it.actor == actor && it.restarts > 0)
        })
        .await;
        channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
        assert_eq!(open(), [counted(1)], "{actor}");
        close_without_leaks(channel, &greeter).await;
        assert_eq!(open(), [counted(0)], "{actor}");
        until("no state is left", async || collector.has_no_subchannel()).await;
    }
}

#[tokio::test]
async fn a_subchannel_whose_actor_is_killed_in_its_sleep_is_counted_no_more() {
    let collector = Collector::new();
    let (channel, greeter) = observed(collector.metrics(), ChannelBuilder::allow_injection).await;
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    let stall = Fault::stall(ActorKind::AddrConn, Duration::from_secs(3_600));
    channel.inject(stall).await.unwrap();
    close_without_leaks(channel, &greeter).await;
    until("no state is left", async || collector.has_no_subchannel()).await;
    let open = collector.series_of("grpc.subchannel.open_connections");
    assert_eq!(open, ["grpc.subchannel.open_connections {grpc.security_level=none} = 0"]);
}

/// The attributes, and the events with theirs, of a span.
fn shown(span: &SpanData) -> Vec<String> {
    let pairs = |attributes: &[KeyValue]| {
        let pairs: Vec<_> =
            attributes.iter().map(|it| format!("{}={}", it.key, it.value)).collect();
        pairs.join(" ")
    };
    let events = span.events.iter().map(|it| format!("{}: {}", it.name, pairs(&it.attributes)));
    [format!("{} [{}] {:?}", span.name, pairs(&span.attributes), span.status)]
        .into_iter()
        .chain(events)
        .collect()
}

// spec: A72/spans
#[tokio::test]
async fn a_retried_call_has_a_span_with_one_below_it_for_each_attempt() {
    let collector = Collector::new();
    let (channel, greeter) =
        observed(collector.spans(), |it| it.default_service_config(RETRIES)).await;
    let tracer = collector.tracers.tracer("test");
    let parent = Context::new().with_span(tracer.start("parent"));
    let parent_id = parent.span().span_context().span_id();
    let trace_id = parent.span().span_context().trace_id();
    let call = channel.invoke(&SAY_HELLO, ask(FLAKY)).with_context(parent);
    let reply = call.await.unwrap();
    let spans = collector.ended();
    let [failed, succeeded, call] = &spans[..spans.len().min(3)] else { panic!("{spans:?}") };
    let size = reply.message().message.len() + 2;
    assert_eq!(
        shown(failed),
        [
            "Attempt.helloworld.Greeter.SayHello [previous-rpc-attempts=0 transparent-retry=false] \
             Error { description: \"UNAVAILABLE, not at the first attempt\" }"
                .to_owned(),
            "Outbound message: sequence-number=0 message-size=7".to_owned(),
        ]
    );
    assert_eq!(
        shown(succeeded),
        [
            "Attempt.helloworld.Greeter.SayHello [previous-rpc-attempts=1 transparent-retry=false] \
             Ok"
                .to_owned(),
            "Outbound message: sequence-number=0 message-size=7".to_owned(),
            format!("Inbound message: sequence-number=0 message-size={size}"),
        ]
    );
    assert_eq!(shown(call), ["Sent.helloworld.Greeter.SayHello [] Ok"]);
    assert_eq!(call.span_kind, SpanKind::Client);
    assert_eq!(call.parent_span_id, parent_id);
    for attempt in [failed, succeeded] {
        assert_eq!(attempt.parent_span_id, call.span_context.span_id());
        assert_eq!(attempt.span_context.trace_id(), trace_id);
    }
    // The server hears of the attempt that reached it.
    let (trace, span) = (trace_id, succeeded.span_context.span_id());
    assert_eq!(reply.metadata().get("traceparent"), Some(&*format!("00-{trace}-{span}-01")));
    close_without_leaks(channel, &greeter).await;
}

// spec: A72/delays
#[tokio::test]
async fn a_call_that_waits_says_so_in_its_span_and_in_that_of_its_attempt() {
    let collector = Collector::new();
    let greeter = [Greeter::start()];
    let builder = plaintext(target_of(&greeter)).observer(collector.spans());
    let channel = builder.build().unwrap();
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    let spans = collector.ended();
    assert_eq!(shown(&spans[0])[1], "Delayed LB pick complete: ");
    assert_eq!(shown(&spans[1])[1..], ["Delayed name resolution complete: "]);
    // Nobody is above it.
    assert_eq!(spans[1].parent_span_id, SpanId::INVALID);
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    let spans = collector.ended();
    assert!(shown(&spans[0])[1].starts_with("Outbound message"));
    assert_eq!(shown(&spans[1]).len(), 1);
    close_without_leaks(channel, &greeter).await;
}

// spec: A72/messages
#[tokio::test]
async fn the_messages_of_a_stream_are_numbered_and_sized_before_and_after_compression() {
    let collector = Collector::new();
    let (channel, greeter) = observed(collector.spans(), |it| it).await;
    let name = "Ada".repeat(1_000);
    let options = CallOptions::new().compress(Compression::Gzip);
    let mut stream = channel.new_stream(&BIDI_HELLO, options).await.unwrap();
    stream.send(hello(&name)).await.unwrap();
    stream.close_send();
    // Tonic's greeter has no gzip, and says so.
    let ended = stream.recv().await;
    assert_eq!(ended.unwrap_err().code(), Code::UNIMPLEMENTED);
    drop(stream);
    let spans = collector.ended();
    let said = shown(&spans[0]);
    let (plain, compressed) = said[1].split_once(" message-size-compressed=").unwrap();
    assert_eq!(plain, "Outbound message: sequence-number=0 message-size=3003");
    assert!(compressed.parse::<usize>().unwrap() < 100, "{compressed}");
    let mut stream = channel.new_stream(&BIDI_HELLO, CallOptions::new()).await.unwrap();
    for name in ["Ada", "Grace"] {
        stream.send(hello(name)).await.unwrap();
        stream.recv().await.unwrap();
    }
    stream.close_send();
    assert!(stream.recv().await.unwrap().is_none());
    let seen: Vec<_> = shown(&collector.ended()[0])
        .into_iter()
        .map(|it| it.split(" message-size").next().unwrap().to_owned())
        .collect();
    assert_eq!(
        seen[1..],
        [
            "Outbound message: sequence-number=0",
            "Inbound message: sequence-number=0",
            "Outbound message: sequence-number=1",
            "Inbound message: sequence-number=1",
        ]
    );
    close_without_leaks(channel, &greeter).await;
}

// spec: A72/propagators
#[tokio::test]
async fn a_server_is_told_of_the_span_in_the_ways_that_are_chosen_and_in_place_of_the_callers() {
    let collector = Collector::new();
    let propagators = TextMapCompositePropagator::new(vec![
        Box::new(TraceContextPropagator::new()),
        Box::new(GrpcTraceBinPropagator::new()),
    ]);
    let telemetry = OpenTelemetry::builder()
        .tracer_provider(&collector.tracers)
        .propagator(propagators)
        .build()
        .unwrap();
    let (channel, greeter) = observed(telemetry, |it| it).await;
    let mut request = ask("Ada");
    request.metadata_mut().insert("traceparent", "mine").unwrap();
    request.metadata_mut().insert("echo", "kept").unwrap();
    let reply = channel.invoke(&SAY_HELLO, request).await.unwrap();
    let span = collector.ended()[0].span_context.clone();
    let parents: Vec<_> = reply.metadata().get_all("traceparent").collect();
    assert_eq!(parents, [format!("00-{}-{}-01", span.trace_id(), span.span_id())]);
    let binary = reply.metadata().get_bin("grpc-trace-bin").unwrap();
    assert_eq!(binary[2..18], span.trace_id().to_bytes());
    assert_eq!(binary[19..27], span.span_id().to_bytes());
    assert_eq!(reply.metadata().get("echo"), Some("kept"));
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn a_call_that_is_not_sampled_makes_no_span_and_the_server_hears_that() {
    let collector = Collector::new();
    let tracers = SdkTracerProvider::builder()
        .with_sampler(Sampler::AlwaysOff)
        .with_simple_exporter(collector.spans.clone())
        .build();
    let telemetry = OpenTelemetry::builder().tracer_provider(&tracers).build().unwrap();
    let (channel, greeter) = observed(telemetry, |it| it.default_service_config(RETRIES)).await;
    let reply = channel.invoke(&SAY_HELLO, ask(FLAKY)).await.unwrap();
    let told = reply.metadata().get("traceparent").unwrap();
    assert!(told.starts_with("00-") && told.ends_with("-00"), "{told}");
    assert!(collector.ended().is_empty());
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn what_is_made_where_telemetry_is_suppressed_is_not_told() {
    let collector = Collector::new();
    let telemetry = all(&collector, |it| it);
    let (channel, greeter) = observed(telemetry, |it| it).await;
    let quiet = Context::new().with_telemetry_suppressed();
    channel.invoke(&SAY_HELLO, ask("Ada")).with_context(quiet).await.unwrap();
    assert!(collector.ended().is_empty());
    assert!(collector.series_of("grpc.client.").is_empty());
    close_without_leaks(channel, &greeter).await;
}

#[tokio::test]
async fn one_serves_two_channels_and_one_channel_has_two() {
    let (one, other) = (Collector::new(), Collector::new());
    let telemetry = one.metrics();
    let (first, first_greeter) = observed(telemetry.clone(), |it| it).await;
    let both = |it: ChannelBuilder| it.observer(other.metrics());
    let (second, second_greeter) = observed(telemetry, both).await;
    for channel in [&first, &second] {
        channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    }
    assert_eq!(one.series_of("grpc.client.attempt.started").len(), 2);
    assert_eq!(other.series_of("grpc.client.attempt.started").len(), 1);
    first.close().await;
    drop((first, first_greeter));
    close_without_leaks(second, &second_greeter).await;
}

#[tokio::test]
async fn a_call_that_is_dropped_is_told_as_cancelled() {
    let collector = Collector::new();
    let (channel, greeter) = observed(all(&collector, |it| it), |it| it).await;
    greeter[0].hold();
    let call = channel.invoke(&SAY_HELLO, ask("Ada"));
    assert!(tokio::time::timeout(Duration::from_millis(5), call).await.is_err());
    let spans = collector.ended();
    assert_eq!(spans.len(), 2);
    for span in &spans {
        assert!(shown(span)[0].contains("CANCELLED, the application dropped"), "{span:?}");
    }
    greeter[0].release();
    close_without_leaks(channel, &greeter).await;
}

/// Metrics and spans, all there are.
fn all(
    collector: &Collector,
    change: impl FnOnce(OpenTelemetryBuilder) -> OpenTelemetryBuilder,
) -> OpenTelemetry {
    let builder = OpenTelemetry::builder().everything();
    let builder = builder.meter_provider(&collector.meters).tracer_provider(&collector.tracers);
    change(builder).build().unwrap()
}

/// Panics at all that it is told.
struct Panics;

impl Observer for Panics {
    fn call_began(&self, call: &CallInfo<'_>) -> Option<Arc<dyn CallObserver>> {
        assert!(call.is_known, "a panic that a test wants");
        Some(Arc::new(Self))
    }

    fn channel_event(&self, _: &ChannelInfo<'_>, event: &ChannelEvent<'_>) {
        panic!("a panic that a test wants: {event:?}");
    }
}

impl CallObserver for Panics {
    fn event(&self, event: &CallEvent<'_>) {
        panic!("a panic that a test wants: {event:?}");
    }

    fn propagate(&self, _: u32, _: &mut switchboard::Metadata) {
        panic!("a panic that a test wants");
    }
}

#[tokio::test]
async fn an_observer_that_panics_harms_no_call_no_actor_and_no_other_observer() {
    let collector = Collector::new();
    let greeter = [Greeter::start()];
    let builder = plaintext(target_of(&greeter)).observer(Panics);
    let channel = builder.observer(all(&collector, |it| it)).build().unwrap();
    channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
    let path = "/helloworld.Greeter/SayHello";
    channel.invoke::<HelloRequest, HelloReply>(path, ask("Ada")).await.unwrap();
    let mut stream = channel.new_stream(&BIDI_HELLO, CallOptions::new()).await.unwrap();
    stream.send(hello("Ada")).await.unwrap();
    stream.recv().await.unwrap();
    drop(stream);
    let report = channel.inspect().await.to_string();
    assert!(!report.contains("restart"), "{report}");
    assert_eq!(collector.ended().len(), 6);
    close_without_leaks(channel, &greeter).await;
    let open = collector.series_of("grpc.subchannel.open_connections");
    assert_eq!(open, ["grpc.subchannel.open_connections {grpc.security_level=none} = 0"]);
}

/// The buckets of A66, in seconds.
const LATENCIES: [f64; 41] = [
    0.0, 0.00001, 0.00005, 0.0001, 0.0003, 0.0006, 0.0008, 0.001, 0.002, 0.003, 0.004, 0.005,
    0.006, 0.008, 0.01, 0.013, 0.016, 0.02, 0.025, 0.03, 0.04, 0.05, 0.065, 0.08, 0.1, 0.13, 0.16,
    0.2, 0.25, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0,
];

/// The buckets of A66, in bytes.
const SIZES: [f64; 14] = [
    0.0,
    1024.0,
    2048.0,
    4096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
    268_435_456.0,
    1_073_741_824.0,
    4_294_967_296.0,
];
