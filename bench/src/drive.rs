//! The load: callers that call without pause, and what is read off while they do.
//!
//! All callers run from the warm-up through the measured interval without a stop between them; the counters are read
//! at the two ends of the interval while calls are in flight.

use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{self, Poll};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_stream::Stream;

use crate::alloc::{self, Allocated};
use crate::cases::Call;
use crate::clients::{Client, Download, PingPong};
use crate::pin;
use crate::proto::{Req, Resp};

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) call: Call,
    pub(crate) callers: usize,
    /// The body of each message, both ways.
    pub(crate) bytes: usize,
    /// Calls that are opened first and that the server never answers.
    pub(crate) held: usize,
    pub(crate) warm_up: Duration,
    pub(crate) measure: Duration,
}

/// What one measurement found. A call is a unary call, a round trip, or a message received or sent.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) calls_per_s: f64,
    pub(crate) cpu_us_per_call: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) allocs_per_call: f64,
    pub(crate) alloc_bytes_per_call: f64,
}

/// Messages of a stream in one direction between two looks at the clock; the latencies reported are means over as many.
const RUN: u64 = 64;
/// How long calls in flight may take to end after the interval.
const LAST_CALLS: Duration = Duration::from_secs(5);
/// Until held calls have reached the server.
const HELD_ARRIVE: Duration = Duration::from_millis(200);

const WARM_UP: u8 = 0;
const MEASURE: u8 = 1;
const END: u8 = 2;

/// What the callers share.
struct Meter {
    phase: AtomicU8,
    calls: AtomicU64,
    /// In nanoseconds.
    latencies: Mutex<Histogram<u64>>,
}

/// The counters at one moment.
struct Reading {
    at: Instant,
    cpu: Duration,
    allocated: Allocated,
    calls: u64,
}

impl Reading {
    fn take(meter: &Meter) -> Result<Self> {
        Ok(Self {
            at: Instant::now(),
            cpu: pin::cpu_time().context("reading the CPU time")?,
            allocated: alloc::allocated(),
            calls: meter.calls.load(Relaxed),
        })
    }
}

/// One caller's hand on the meter.
struct Recorder {
    meter: Arc<Meter>,
    /// Recorded here and handed over in batches: one short lock for many calls.
    latencies: Vec<u64>,
    last: Instant,
}

impl Recorder {
    const BATCH: usize = 256;

    fn new(meter: Arc<Meter>) -> Self {
        Self { meter, latencies: Vec::with_capacity(Self::BATCH), last: Instant::now() }
    }

    /// Counts the calls that ended since the last lap. `false`: it is time to stop.
    fn lap(&mut self, calls: u64) -> bool {
        let now = Instant::now();
        let elapsed = now - self.last;
        self.last = now;
        self.meter.calls.fetch_add(calls, Relaxed);
        let phase = self.meter.phase.load(Relaxed);
        if phase == MEASURE {
            self.latencies.push(elapsed.as_nanos() as u64 / calls);
            if self.latencies.len() == Self::BATCH {
                self.hand_over();
            }
        }
        phase != END
    }

    fn hand_over(&mut self) {
        let shared = &self.meter.latencies;
        let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
        for latency in self.latencies.drain(..) {
            shared.saturating_record(latency);
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.hand_over();
    }
}

/// Measures one client.
pub(crate) async fn run<C: Client>(client: C, plan: &Plan) -> Result<Sample> {
    let request = Req {
        response_size: i32::try_from(plan.bytes).context("messages this large")?,
        body: Bytes::from(vec![0; plan.bytes]),
    };
    let mut held = hold(&client, &request, plan.held).await?;

    let meter = Arc::new(Meter {
        phase: AtomicU8::new(WARM_UP),
        calls: AtomicU64::new(0),
        latencies: Mutex::new(Histogram::new_with_max(60_000_000_000, 3)?),
    });
    let mut callers = JoinSet::new();
    for _ in 0..plan.callers {
        let (client, request) = (client.clone(), request.clone());
        let recorder = Recorder::new(Arc::clone(&meter));
        match plan.call {
            Call::Unary => callers.spawn(unary(client, request, recorder)),
            Call::PingPong => callers.spawn(ping_pong(client, request, recorder)),
            Call::ServerStream => callers.spawn(server_stream(client, request, recorder)),
            Call::ClientStream => callers.spawn(client_stream(client, request, recorder)),
        };
    }

    sleep(plan.warm_up).await;
    let from = Reading::take(&meter)?;
    meter.phase.store(MEASURE, Relaxed);
    sleep(plan.measure).await;
    let to = Reading::take(&meter)?;
    meter.phase.store(END, Relaxed);

    let ended = timeout(LAST_CALLS, async {
        while let Some(caller) = callers.join_next().await {
            caller??;
        }
        anyhow::Ok(())
    });
    ended.await.context("calls do not end")??;
    if let Some(answered) = held.try_join_next() {
        answered??;
        bail!("a held call ended");
    }

    let latencies = meter.latencies.lock();
    let latencies = latencies.unwrap_or_else(PoisonError::into_inner);
    let calls = to.calls - from.calls;
    ensure!(calls > 0 && !latencies.is_empty(), "no call ended in time");
    let calls = calls as f64;
    let allocated = to.allocated - from.allocated;
    let quantile_us = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e3;
    Ok(Sample {
        calls_per_s: calls / (to.at - from.at).as_secs_f64(),
        cpu_us_per_call: to.cpu.saturating_sub(from.cpu).as_secs_f64() * 1e6 / calls,
        p50_us: quantile_us(0.50),
        p99_us: quantile_us(0.99),
        allocs_per_call: allocated.count as f64 / calls,
        alloc_bytes_per_call: allocated.bytes as f64 / calls,
    })
}

/// Opens calls that are not answered. They end with the process.
async fn hold<C: Client>(client: &C, request: &Req, count: usize) -> Result<JoinSet<Result<()>>> {
    let mut held = JoinSet::new();
    for _ in 0..count {
        let (mut client, request) = (client.clone(), request.clone());
        held.spawn(async move {
            client.unary(request).await.context("a held call")?;
            bail!("a held call was answered");
        });
    }
    if count > 0 {
        sleep(HELD_ARRIVE).await;
    }
    Ok(held)
}

async fn unary<C: Client>(mut client: C, request: Req, mut recorder: Recorder) -> Result<()> {
    loop {
        check(&client.unary(request.clone()).await?, &request)?;
        if !recorder.lap(1) {
            return Ok(());
        }
    }
}

async fn ping_pong<C: Client>(mut client: C, request: Req, mut recorder: Recorder) -> Result<()> {
    let mut stream = client.ping_pong().await?;
    loop {
        check(&stream.round_trip(request.clone()).await?, &request)?;
        if !recorder.lap(1) {
            return Ok(());
        }
    }
}

async fn server_stream<C: Client>(
    mut client: C,
    request: Req,
    mut recorder: Recorder,
) -> Result<()> {
    loop {
        let mut stream = client.server_stream(request.clone()).await?;
        let mut messages = 0;
        while let Some(response) = stream.message().await? {
            check(&response, &request)?;
            messages += 1;
            if messages == RUN {
                messages = 0;
                if !recorder.lap(RUN) {
                    return Ok(());
                }
            }
        }
        if messages > 0 && !recorder.lap(messages) {
            return Ok(());
        }
    }
}

async fn client_stream<C: Client>(mut client: C, request: Req, recorder: Recorder) -> Result<()> {
    let requests = Requests { request: request.clone(), recorder, taken: 0 };
    check(&client.client_stream(requests).await?, &request)
}

/// Requests that are always there, until it is time to stop.
struct Requests {
    request: Req,
    recorder: Recorder,
    /// Since the last look at the clock.
    taken: u64,
}

impl Stream for Requests {
    type Item = Req;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut task::Context<'_>) -> Poll<Option<Req>> {
        self.taken += 1;
        if self.taken == RUN {
            self.taken = 0;
            if !self.recorder.lap(RUN) {
                return Poll::Ready(None);
            }
        }
        Poll::Ready(Some(self.request.clone()))
    }
}

fn check(response: &Resp, request: &Req) -> Result<()> {
    let (got, expected) = (response.body.len(), request.body.len());
    ensure!(got == expected, "a response of {got} bytes instead of {expected}");
    Ok(())
}
