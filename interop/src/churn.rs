//! `goaway_churn`: callers call without a pause while the server ends every connection, gracefully,
//! soon after it was made. No call may fail: neither one that is open at that time nor one that
//! begins then.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Error, Result, ensure};
use switchboard::{CallOptions, Channel, Request};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::cases::{check_payload, expect_end, expect_response, number, open, send, zeros};
use crate::described;
use crate::flags::Flags;
use crate::proto::{
    FULL_DUPLEX_CALL, ResponseParameters, SimpleRequest, StreamingOutputCallRequest, UNARY_CALL,
};
use crate::wire::Counting;

pub(crate) async fn run(flags: &Flags) -> Result<()> {
    let connections = watch::Sender::new(0_u64);
    let builder = flags.channel_builder().map_err(Error::msg)?;
    let builder = builder.connector(Counting { connections: connections.clone() });
    let channel = builder.build().context("building a channel")?;

    let end = Instant::now() + flags.churn.time;
    let mut callers = JoinSet::new();
    for nth in 0..flags.churn.callers {
        let kind = if nth % STREAM_EVERY == STREAM_EVERY - 1 { Kind::Stream } else { Kind::Unary };
        callers.spawn(call_until(end, channel.clone(), kind));
    }
    let mut all = Tally::default();
    while let Some(tally) = callers.join_next().await {
        all.add(tally.context("a caller panicked")?);
    }
    channel.close().await;

    let (connections, failed) = (*connections.borrow(), all.failed());
    println!("{} unary calls and {} streams", all.unary, all.streams);
    println!("{connections} connections");
    for (failure, calls) in all.failures.iter().take(FAILURES_SHOWN) {
        println!("{calls} x {failure}");
    }
    println!("{failed} failed calls");
    ensure!(failed == 0, "expected no call to fail, and {failed} have");
    ensure!(
        connections > 1,
        "expected a server that ends connections, and there was {connections} in all"
    );
    Ok(())
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
    /// By what is said of them.
    failures: BTreeMap<String, u64>,
}

impl Tally {
    fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    fn add(&mut self, other: Self) {
        self.unary += other.unary;
        self.streams += other.streams;
        for (failure, calls) in other.failures {
            *self.failures.entry(failure).or_default() += calls;
        }
    }
}

async fn call_until(end: Instant, channel: Channel, kind: Kind) -> Tally {
    let mut tally = Tally::default();
    while Instant::now() < end {
        let outcome = match kind {
            Kind::Unary => {
                tally.unary += 1;
                unary(&channel).await
            }
            Kind::Stream => {
                tally.streams += 1;
                stream(&channel).await
            }
        };
        if let Err(error) = outcome {
            *tally.failures.entry(described(&error)).or_default() += 1;
            sleep(AFTER_FAILURE).await;
        }
    }
    tally
}

async fn unary(channel: &Channel) -> Result<()> {
    let request = SimpleRequest {
        response_size: number(RESPONSE_SIZE),
        payload: Some(zeros(REQUEST_SIZE)),
        ..Default::default()
    };
    let request = Request::new(request).timeout(CALL_TIME_MAX);
    let response = channel.invoke(&UNARY_CALL, request).await?;
    check_payload(response.message().payload.as_ref(), RESPONSE_SIZE)
}

async fn stream(channel: &Channel) -> Result<()> {
    let options = CallOptions::new().timeout(CALL_TIME_MAX);
    let mut stream = open(channel, &FULL_DUPLEX_CALL, options).await?;
    for _ in 0..STREAM_MESSAGES {
        let request = StreamingOutputCallRequest {
            response_parameters: vec![ResponseParameters {
                size: number(RESPONSE_SIZE),
                interval_us: STREAM_INTERVAL_US,
                compressed: None,
            }],
            payload: Some(zeros(REQUEST_SIZE)),
            ..Default::default()
        };
        send(&mut stream, request).await?;
        expect_response(&mut stream, RESPONSE_SIZE).await?;
    }
    stream.close_send();
    expect_end(&mut stream).await
}

/// Every so many-th caller makes streams, the others unary calls.
const STREAM_EVERY: u32 = 4;

/// A stream lasts 200 ms, which is as old as a connection becomes.
const STREAM_MESSAGES: u32 = 4;
const STREAM_INTERVAL_US: i32 = 50_000;

const REQUEST_SIZE: usize = 1_000;
const RESPONSE_SIZE: usize = 1_000;

/// More kinds of failure tell nothing that these do not.
const FAILURES_SHOWN: usize = 20;

/// A server that is gone need not be asked as fast as a processor can.
const AFTER_FAILURE: Duration = Duration::from_millis(10);

/// A call that hangs is to be seen as one that failed.
const CALL_TIME_MAX: Duration = Duration::from_secs(10);
