//! `compression`: messages that are compressed, or not, both ways. What went over the wire tells.

use anyhow::{Context as _, Result, ensure};
use switchboard::{ActorAnswer, CallOptions, Channel, Compression, ConnectionReport, Request};

use crate::cases::{check_payload, expect_end, expect_response, number, open, send, zeros};
use crate::proto::{
    BoolValue, FULL_DUPLEX_CALL, ResponseParameters, SimpleRequest, StreamingOutputCallRequest,
    UNARY_CALL,
};

pub(crate) async fn run(channel: &Channel) -> Result<()> {
    // Connects, and says all that a connection says first.
    unary(channel, false, false).await?;
    for (sends, receives) in [(true, true), (true, false), (false, true), (false, false)] {
        let before = Traffic::of(channel).await?;
        unary(channel, sends, receives).await?;
        let told = || format!("unary, compressed there: {sends}, back: {receives}");
        Traffic::of(channel).await?.check_since(before, sends, receives).with_context(told)?;
    }
    let options = CallOptions::new().compress(Compression::Gzip);
    let mut stream = open(channel, &FULL_DUPLEX_CALL, options).await?;
    for (sends, receives) in [(true, true), (false, true), (true, false), (true, true)] {
        let before = Traffic::of(channel).await?;
        stream.compress(sends);
        let request = StreamingOutputCallRequest {
            response_parameters: vec![ResponseParameters {
                size: number(SIZE),
                interval_us: 0,
                compressed: Some(BoolValue { value: receives }),
            }],
            payload: Some(zeros(SIZE)),
            ..Default::default()
        };
        send(&mut stream, request).await?;
        expect_response(&mut stream, SIZE).await?;
        let told = || format!("a stream, compressed there: {sends}, back: {receives}");
        Traffic::of(channel).await?.check_since(before, sends, receives).with_context(told)?;
    }
    stream.close_send();
    expect_end(&mut stream).await
}

async fn unary(channel: &Channel, sends: bool, receives: bool) -> Result<()> {
    let request = SimpleRequest {
        response_size: number(SIZE),
        payload: Some(zeros(SIZE)),
        response_compressed: Some(BoolValue { value: receives }),
        ..Default::default()
    };
    let request = Request::new(request).compress(sends.then_some(Compression::Gzip));
    let response = channel.invoke(&UNARY_CALL, request).await?;
    check_payload(response.message().payload.as_ref(), SIZE)
}

/// Bytes that a channel has sent and received.
#[derive(Clone, Copy)]
struct Traffic {
    sent: u64,
    received: u64,
}

impl Traffic {
    async fn of(channel: &Channel) -> Result<Self> {
        let actors = channel.inspect().await.actors.into_iter();
        let mut connections = actors.filter_map(|actor| match actor {
            ActorAnswer::Answered(report) => report.connections.into_iter().next(),
            ActorAnswer::Silent { .. } => None,
        });
        let ConnectionReport { bytes_sent: sent, bytes_received: received, .. } =
            connections.next().context("expected a connection that counts its bytes")?;
        Ok(Self { sent, received })
    }

    fn check_since(self, before: Self, sends: bool, receives: bool) -> Result<()> {
        let sides = [
            ("sent", self.sent - before.sent, sends),
            ("received", self.received - before.received, receives),
        ];
        for (way, bytes, compressed) in sides {
            let fits = if compressed { bytes < SIZE as u64 / 10 } else { bytes >= SIZE as u64 };
            ensure!(fits, "{bytes} bytes were {way} for {SIZE} of payload");
        }
        Ok(())
    }
}

const SIZE: usize = 100_000;
