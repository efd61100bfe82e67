//! `unread_streams`: streams of small messages that nobody reads, and unary calls on the same
//! connection, all of which must succeed. Then the streams are read, and have all their messages.
//!
//! `go/unread` makes the same calls with grpc-go's client, to compare with.

use std::time::Duration;

use anyhow::{Context as _, Error, Result};
use switchboard::{CallOptions, Channel, Request};
use tokio::time::timeout;

use crate::cases::{expect_end, expect_response, number, open, send};
use crate::flags::Flags;
use crate::proto::{
    ResponseParameters, STREAMING_OUTPUT_CALL, SimpleRequest, StreamingOutputCallRequest,
    UNARY_CALL,
};

pub(crate) async fn run(flags: &Flags) -> Result<()> {
    let mut failures = Vec::new();
    for window in WINDOWS {
        let mut builder = flags.channel_builder().map_err(Error::msg)?;
        if let Some(window) = window {
            builder = builder.receive_windows(window, window);
        }
        let channel = builder.build().context("building a channel")?;
        for streams in STREAMS {
            for size in SIZES {
                let row = || format!("{streams} streams of messages of {size} bytes, {window:?}");
                let failed = beside(&channel, streams, size).await.with_context(row)?;
                failures.extend(failed.into_iter().map(|error| error.context(row())));
            }
        }
        channel.close().await;
    }
    let rows = WINDOWS.len() * STREAMS.len() * SIZES.len();
    let failed = failures.len();
    println!("switchboard: {} unary calls beside unread streams, {failed} failed", rows * CALLS);
    failures.into_iter().next().map_or(Ok(()), Err)
}

/// Leaves so many streams unread while unary calls are made, and reads them to their end. Gives how
/// the calls failed.
async fn beside(channel: &Channel, streams: usize, size: usize) -> Result<Vec<Error>> {
    let sizes = || (0..MESSAGES).map(|nth| size + nth % SIZE_STEPS);
    let response_parameters: Vec<_> = sizes()
        .map(|size| ResponseParameters { size: number(size), ..Default::default() })
        .collect();
    let mut unread = Vec::new();
    for _ in 0..streams {
        let mut stream = open(channel, &STREAMING_OUTPUT_CALL, CallOptions::new()).await?;
        let response_parameters = response_parameters.clone();
        let request = StreamingOutputCallRequest { response_parameters, ..Default::default() };
        send(&mut stream, request).await?;
        stream.close_send();
        // The server has begun to answer.
        stream.header().await.context("expected headers")?;
        unread.push(stream);
    }
    let mut failures = Vec::new();
    for nth in 0..CALLS {
        let call = channel.invoke(&UNARY_CALL, Request::new(SimpleRequest::default()));
        let outcome = timeout(CALL_TIME_MAX, call).await.map_err(Error::from);
        let outcome = outcome.and_then(|outcome| Ok(outcome.map(drop)?));
        failures.extend(outcome.err().map(|error| error.context(format!("unary call {nth}"))));
    }
    for stream in &mut unread {
        for (nth, size) in sizes().enumerate() {
            expect_response(stream, size).await.with_context(|| format!("message {nth}"))?;
        }
        expect_end(stream).await?;
    }
    Ok(failures)
}

// These as in interop/go/unread.

/// Bytes that the server may send ahead on a stream, and on all of them together: as this side
/// chooses, and the smallest that HTTP/2 has without being told. Five streams have more than that.
const WINDOWS: [Option<u32>; 2] = [None, Some(65_535)];
const STREAMS: [usize; 3] = [1, 5, 40];
const SIZES: [usize; 4] = [0, 20, 100, 300];

/// The sizes of a stream's messages go up and down by so much, so that one that is missing or in the
/// wrong place shows.
const SIZE_STEPS: usize = 7;

/// Of each stream.
const MESSAGES: usize = 2_000;

/// Beside each number of streams and each size.
const CALLS: usize = 60;
const CALL_TIME_MAX: Duration = Duration::from_secs(5);
