//! How many instructions things cost, counted by valgrind: unlike time, that is the same in each run.
//!
//! `cargo bench --bench instructions --features test-util`; it needs `valgrind`.

#![expect(clippy::print_stdout, reason = "what a benchmark measures, it prints")]

use std::env;
use std::error::Error;
use std::hint::black_box;
use std::process::{Command, ExitCode};
use std::sync::Arc;

use bytes::Bytes;
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, SdkMeterProvider};
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use switchboard::{
    Answer, CallEvent, CallInfo, CallObserver, Channel, ChannelBuilder, Channelz, Credentials,
    EncodedMessage, EventRig, Interceptor, Method, Next, Observer, OpenTelemetry,
    OpenTelemetryBuilder, OutgoingCall, Raw, Request, Response, Status, memory,
};

const ECHO: Method<Bytes, Bytes> = Method::with_codec::<Raw>("/test.Echo/Once");

/// What is counted, by name.
const SUBJECTS: [(&str, Subject); 11] = [
    ("nothing", || repeat(|| ())),
    ("an event that nobody sees", || {
        let rig = EventRig::new();
        repeat(move || rig.tell())
    }),
    ("a call", || calls(|builder| builder)),
    ("a call, after a hundred inspections", || {
        let mut made = calls(|builder| builder);
        made.inspections = 100;
        made
    }),
    ("a call that is observed", || calls(|builder| builder.observer(Watching))),
    ("a call of a channel in channelz", || calls(|it| it.channelz(&Channelz::new()))),
    ("a call with metrics", || calls(|builder| builder.observer(telemetry().metrics()))),
    ("a call with metrics and spans", || {
        calls(|builder| builder.observer(telemetry().metrics_and_spans(Sampler::AlwaysOn)))
    }),
    ("a call with metrics and spans that are not sampled", || {
        calls(|builder| builder.observer(telemetry().metrics_and_spans(Sampler::AlwaysOff)))
    }),
    ("a call with a synchronous interceptor", || calls(|builder| builder.interceptor(Looking))),
    ("a call with an asynchronous one", || calls(|builder| builder.interceptor(Awaiting))),
];

type Subject = fn() -> Work;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().collect();
    let outcome = match &arguments[..] {
        [_, count, subject, times] if count == "--count" => run(subject, times),
        _ => compare(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn compare() -> Result<(), Box<dyn Error>> {
    for (name, _) in SUBJECTS {
        let (few, many) = (count(name, FEW)?, count(name, MANY)?);
        let each = f64::from(u32::try_from(many.saturating_sub(few))?) / f64::from(MANY - FEW);
        println!("{name}: {each:.1} instructions");
    }
    Ok(())
}

/// The instructions of a process that does it so many times.
fn count(name: &str, times: u32) -> Result<u64, Box<dyn Error>> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(env::current_exe()?)
        .args(["--count", name, &times.to_string()])
        .output()
        .map_err(|error| format!("valgrind cannot be run: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let counted = said.lines().find_map(|line| line.split_once("Collected :"));
    let (_, counted) = counted.ok_or_else(|| format!("valgrind has counted nothing: {said}"))?;
    Ok(counted.trim().parse()?)
}

fn run(subject: &str, times: &str) -> Result<(), Box<dyn Error>> {
    let (_, work) = SUBJECTS.iter().find(|(name, _)| *name == subject).ok_or("no such subject")?;
    work().run(times.parse()?)
}

/// What is repeated.
struct Work {
    what: What,
    inspections: u32,
}

enum What {
    Plain(Box<dyn Fn()>),
    Calls(fn(ChannelBuilder) -> ChannelBuilder),
}

fn repeat(what: impl Fn() + 'static) -> Work {
    Work { what: What::Plain(Box::new(what)), inspections: 0 }
}

fn calls(change: fn(ChannelBuilder) -> ChannelBuilder) -> Work {
    Work { what: What::Calls(change), inspections: 0 }
}

impl Work {
    fn run(self, times: u32) -> Result<(), Box<dyn Error>> {
        match self.what {
            What::Plain(what) => {
                for _ in 0..times {
                    black_box(&what)();
                }
                Ok(())
            }
            What::Calls(change) => {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(call(change, self.inspections, times))
            }
        }
    }
}

/// Calls a server on the same thread, one call after the other.
async fn call(
    change: fn(ChannelBuilder) -> ChannelBuilder,
    inspections: u32,
    times: u32,
) -> Result<(), Box<dyn Error>> {
    let (connector, mut listener) = memory::pipe();
    let server = async move {
        let stream = listener.accept().await?;
        let mut connection = h2::server::handshake(stream).await.ok()?;
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let mut response = http::Response::new(());
            let grpc = http::HeaderValue::from_static("application/grpc");
            response.headers_mut().insert("content-type", grpc);
            let mut body = respond.send_response(response, false).ok()?;
            body.send_data(Bytes::from_static(&[0; 5]), false).ok()?;
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", 0.into());
            body.send_trailers(trailers).ok()?;
        }
        Some(())
    };
    tokio::spawn(server);
    let builder = Channel::builder("passthrough:server").credentials(Credentials::insecure());
    let channel = change(builder.connector(connector)).build()?;
    for _ in 0..WARM_UP {
        channel.invoke(&ECHO, Request::new(Bytes::new())).await?;
    }
    for _ in 0..inspections {
        black_box(channel.inspect().await);
    }
    for _ in 0..times {
        channel.invoke(&ECHO, Request::new(Bytes::new())).await?;
    }
    Ok(())
}

/// Sees all, and does nothing with it.
struct Watching;

impl Observer for Watching {
    fn call_began(&self, _: &CallInfo<'_>) -> Option<Arc<dyn CallObserver>> {
        Some(Arc::new(Self))
    }
}

impl CallObserver for Watching {
    fn event(&self, event: &CallEvent<'_>) {
        black_box(event);
    }
}

/// OpenTelemetry's SDK, which takes all in and sends it nowhere.
struct Telemetry(OpenTelemetryBuilder);

fn telemetry() -> Telemetry {
    let meters = SdkMeterProvider::builder()
        .with_periodic_exporter(InMemoryMetricExporter::default())
        .build();
    // It lives as long as the process, as that of a service does.
    Telemetry(OpenTelemetry::builder().meter_provider(Box::leak(Box::new(meters))))
}

impl Telemetry {
    fn metrics(self) -> OpenTelemetry {
        self.0.build().expect("no metric is named")
    }

    fn metrics_and_spans(self, sampler: Sampler) -> OpenTelemetry {
        let tracers = SdkTracerProvider::builder().with_sampler(sampler).build();
        self.0.tracer_provider(&tracers).build().expect("no metric is named")
    }
}

struct Looking;

impl Interceptor for Looking {
    fn before(&self, call: &mut OutgoingCall) -> Result<(), Status> {
        black_box(call);
        Ok(())
    }
}

struct Awaiting;

impl Interceptor for Awaiting {
    fn unary<'a>(
        &'a self,
        call: OutgoingCall,
        message: EncodedMessage,
        next: Next<'a>,
    ) -> Answer<'a, Response<Bytes>> {
        Answer::later(async move { next.unary(call, message).await })
    }
}

/// Between the two lies what is counted; before it, what comes into being once.
const FEW: u32 = 1_000;
const MANY: u32 = 3_000;
const WARM_UP: u32 = 200;
