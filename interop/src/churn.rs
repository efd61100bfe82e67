//! `goaway_churn`: callers call without a pause while the server, or a proxy before it, ends its
//! connections gracefully, one after the other. No call may fail: neither one that is open at that
//! time nor one that begins then. Calls whose connection ended with `ECONNRESET` on reading are
//! counted apart: what the server still had to say may be lost with the connection.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Error, Result, ensure};
use switchboard::{CallOptions, Channel, Request};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::cases::{check_payload, expect_end, expect_response, number, open, send};
use crate::described;
use crate::flags::{ChurnClient, Flags};
use crate::ledger::{Cause, Ledger, numbered};
use crate::proto::{
    FULL_DUPLEX_CALL, ResponseParameters, SimpleRequest, StreamingOutputCallRequest,
    StreamingOutputCallResponse, UNARY_CALL,
};
use crate::tonic_client::TonicClient;

pub(crate) async fn run(flags: &Flags) -> Result<()> {
    let ledger = Ledger::default();
    // One of each kind: a connection that is told to go away stays open for a stream, and would not
    // be closed right behind an answer.
    let clients: Vec<_> =
        KINDS.iter().map(|_| Client::new(flags, &ledger)).collect::<Result<_>>()?;
    let end = Instant::now() + flags.churn.time;
    let (mut callers, calls) = (JoinSet::new(), Arc::new(AtomicU64::new(0)));
    for nth in 0..flags.churn.callers {
        let of_kind = nth as usize % KINDS.len();
        let ((kind, size), client) = (KINDS[of_kind], clients[of_kind].clone());
        let caller = Caller { client, ledger: ledger.clone(), kind, size };
        callers.spawn(caller.call_until(end, calls.clone()));
    }
    let mut all = Tally::default();
    while let Some(tally) = callers.join_next().await {
        all.add(tally.context("a caller panicked")?);
    }
    for client in clients {
        client.close().await;
    }

    let connections = ledger.connections();
    for ((cause, failure), calls) in all.failures.iter().take(FAILURES_SHOWN) {
        println!("{calls} x {cause:?}: {failure}");
    }
    let (write, reset) = (all.failed(Cause::FailedWrite), all.failed(Cause::ResetOnReading));
    let other = all.failures.values().sum::<u64>() - write - reset;
    // `interop/run` reads this line, which `interop/go/callers` prints as well.
    println!(
        "unary={} streams={} connections={connections} write={write} reset={reset} other={other}",
        all.unary, all.streams
    );
    ensure!(
        connections > 1,
        "expected a server that ends connections, and there was {connections} in all"
    );
    // Another client may do as it does.
    if flags.churn.client == ChurnClient::Switchboard {
        let failed = write + other;
        ensure!(failed == 0, "expected no call to fail, and {failed} have");
    }
    Ok(())
}

/// Whoever makes the calls.
#[derive(Clone)]
enum Client {
    Switchboard(Channel),
    Tonic(TonicClient),
}

impl Client {
    fn new(flags: &Flags, ledger: &Ledger) -> Result<Self> {
        Ok(match flags.churn.client {
            ChurnClient::Switchboard => {
                let builder = flags.channel_builder().map_err(Error::msg)?;
                let builder = builder.connector(ledger.clone());
                Self::Switchboard(builder.build().context("building a channel")?)
            }
            ChurnClient::Tonic => {
                Self::Tonic(TonicClient::new(flags.uri(), ledger.clone(), CALL_TIME_MAX)?)
            }
        })
    }

    async fn unary(&self, call: u64, size: usize) -> Result<()> {
        let request = SimpleRequest {
            response_size: number(size),
            payload: Some(numbered(call, size)),
            ..Default::default()
        };
        let response = match self {
            Self::Switchboard(channel) => {
                let request = Request::new(request).timeout(CALL_TIME_MAX);
                channel.invoke(&UNARY_CALL, request).await?.into_message()
            }
            Self::Tonic(client) => client.unary(request).await?,
        };
        check_payload(response.payload.as_ref(), size)
    }

    async fn stream(&self, call: u64, size: usize) -> Result<()> {
        let request = StreamingOutputCallRequest {
            response_parameters: vec![ResponseParameters {
                size: number(size),
                interval_us: STREAM_INTERVAL_US,
                compressed: None,
            }],
            payload: Some(numbered(call, size)),
            ..Default::default()
        };
        let requests = vec![request; STREAM_MESSAGES];
        match self {
            Self::Switchboard(channel) => {
                let options = CallOptions::new().timeout(CALL_TIME_MAX);
                let mut stream = open(channel, &FULL_DUPLEX_CALL, options).await?;
                for request in requests {
                    send(&mut stream, request).await?;
                    expect_response(&mut stream, size).await?;
                }
                stream.close_send();
                expect_end(&mut stream).await
            }
            Self::Tonic(client) => {
                let check = |response: &StreamingOutputCallResponse| {
                    check_payload(response.payload.as_ref(), size)
                };
                client.ping_pong(requests, check).await
            }
        }
    }

    async fn close(&self) {
        if let Self::Switchboard(channel) = self {
            channel.close().await;
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Unary,
    /// Long enough that most have a connection that is told to go away meanwhile.
    Stream,
}

/// What calls came to.
#[derive(Default)]
struct Tally {
    unary: u64,
    streams: u64,
    /// By their cause and what is said of them.
    failures: BTreeMap<(Cause, String), u64>,
}

impl Tally {
    fn failed(&self, cause: Cause) -> u64 {
        self.failures.iter().filter(|((it, _), _)| *it == cause).map(|(_, calls)| calls).sum()
    }

    fn add(&mut self, other: Self) {
        self.unary += other.unary;
        self.streams += other.streams;
        for (failure, calls) in other.failures {
            *self.failures.entry(failure).or_default() += calls;
        }
    }
}

/// One that calls in the same way, over and over.
struct Caller {
    client: Client,
    ledger: Ledger,
    kind: Kind,
    size: usize,
}

impl Caller {
    async fn call_until(self, end: Instant, calls: Arc<AtomicU64>) -> Tally {
        let mut tally = Tally::default();
        while Instant::now() < end {
            let call = calls.fetch_add(1, Ordering::Relaxed);
            let outcome = match self.kind {
                Kind::Unary => {
                    tally.unary += 1;
                    self.client.unary(call, self.size).await
                }
                Kind::Stream => {
                    tally.streams += 1;
                    self.client.stream(call, self.size).await
                }
            };
            let cause = self.ledger.strike(call);
            if let Err(error) = outcome {
                *tally.failures.entry((cause, described(&error))).or_default() += 1;
                sleep(AFTER_FAILURE).await;
            }
        }
        tally
    }
}

/// What callers do, in turn, and with messages of how many bytes.
const KINDS: [(Kind, usize); 4] =
    [(Kind::Unary, 1_000), (Kind::Unary, 20_000), (Kind::Stream, 1_000), (Kind::Stream, 20_000)];

/// A stream lasts 200 ms, which is longer than a connection takes new calls.
const STREAM_MESSAGES: usize = 4;
const STREAM_INTERVAL_US: i32 = 50_000;

/// More kinds of failure tell nothing that these do not.
const FAILURES_SHOWN: usize = 20;

/// A server that is gone need not be asked as fast as a processor can.
const AFTER_FAILURE: Duration = Duration::from_millis(10);

/// A call that hangs is to be seen as one that failed.
const CALL_TIME_MAX: Duration = Duration::from_secs(10);
