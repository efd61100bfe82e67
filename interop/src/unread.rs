//! `unread_streams`: streams of small messages that nobody reads, and unary calls on the same
//! connection, all of which must succeed. Then the streams are read, and have all their messages.

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
    let builder = flags.channel_builder().map_err(Error::msg)?;
    let channel = builder.receive_windows(WINDOW, WINDOW).build().context("building a channel")?;
    for streams in STREAMS {
        for size in SIZES {
            let calls = beside(&channel, streams, size).await;
            calls.with_context(|| format!("{streams} streams of messages of {size} bytes"))?;
        }
    }
    println!("{} unary calls beside unread streams", STREAMS.len() * SIZES.len() * CALLS);
    println!("0 failed calls");
    channel.close().await;
    Ok(())
}

async fn beside(channel: &Channel, streams: usize, size: usize) -> Result<()> {
    let parameters = ResponseParameters { size: number(size), ..Default::default() };
    let response_parameters = vec![parameters; MESSAGES];
    let mut unread = Vec::new();
    for _ in 0..streams {
        let mut stream = open(channel, &STREAMING_OUTPUT_CALL, CallOptions::new()).await?;
        let response_parameters = response_parameters.clone();
        let request = StreamingOutputCallRequest { response_parameters, ..Default::default() };
        send(&mut stream, request).await?;
        stream.close_send();
        // Its answer has begun.
        expect_response(&mut stream, size).await?;
        unread.push(stream);
    }
    for nth in 0..CALLS {
        let call = channel.invoke(&UNARY_CALL, Request::new(SimpleRequest::default()));
        let answer = timeout(CALL_TIME_MAX, call).await;
        answer
            .map_err(Error::from)
            .and_then(|it| Ok(it.map(drop)?))
            .with_context(|| format!("unary call {nth} of {CALLS}"))?;
    }
    for stream in &mut unread {
        for _ in 1..MESSAGES {
            expect_response(stream, size).await?;
        }
        expect_end(stream).await?;
    }
    Ok(())
}

const STREAMS: [usize; 3] = [1, 5, 40];
const SIZES: [usize; 4] = [0, 20, 100, 300];

/// What the server may send ahead on a stream, and on all of them together, in bytes: as grpc-go has
/// it. Five streams of the smallest messages have more than that.
const WINDOW: u32 = 65_535;

/// Of each stream.
const MESSAGES: usize = 2_000;

/// Beside each number of streams and each size.
const CALLS: usize = 60;
const CALL_TIME_MAX: Duration = Duration::from_secs(5);
