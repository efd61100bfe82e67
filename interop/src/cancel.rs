//! The two cases of cancellation.
//!
//! The call must complete with CANCELLED and be over on a connection that goes on; where the wire can
//! be read, the call must have ended there with `RST_STREAM(CANCEL)`.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use switchboard::{ActorAnswer, CallOptions, Channel, Code, ConnectionReport, Streaming};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::cases::{empty_unary, expect_response, expect_status, open, ping, send};
use crate::flags::Flags;
use crate::proto::{FULL_DUPLEX_CALL, STREAMING_INPUT_CALL};
use crate::wire::{CANCEL, Frame, Kind, Watching};

pub(crate) async fn after_begin(flags: &Flags) -> Result<()> {
    let begin =
        async |channel: &Channel| open(channel, &STREAMING_INPUT_CALL, CallOptions::new()).await;
    cancel(flags, begin, Sent::NoPayload).await
}

pub(crate) async fn after_first_response(flags: &Flags) -> Result<()> {
    let begin = async |channel: &Channel| {
        let mut stream = open(channel, &FULL_DUPLEX_CALL, CallOptions::new()).await?;
        send(&mut stream, ping(27_182, 31_415)).await?;
        expect_response(&mut stream, 31_415).await?;
        Ok(stream)
    };
    cancel(flags, begin, Sent::Payload).await
}

/// What a call has sent when it is cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    NoPayload,
    Payload,
}

/// Cancels a call that `begin` begins.
async fn cancel<Req, Resp>(
    flags: &Flags,
    begin: impl AsyncFn(&Channel) -> Result<Streaming<Req, Resp>>,
    sent: Sent,
) -> Result<()> {
    let frames = watch::Sender::new(Vec::new());
    let mut builder = flags.channel_builder().map_err(|what| anyhow!(what))?;
    if flags.is_plaintext() {
        builder = builder.connector(Watching { frames: frames.clone() });
    }
    let channel = builder.build().context("building a channel")?;
    empty_unary(&channel).await.context("before the call that is cancelled")?;
    let before = frames.borrow().len();

    let mut call = begin(&channel).await?;
    if flags.is_plaintext() {
        // What is cancelled before it has left is no call to the server.
        until_sent(&frames, before, Kind::Headers).await?;
    }
    call.cancel();
    expect_status(call.recv().await, Code::CANCELLED, None)?;
    until_no_stream_is_open(&channel).await?;
    empty_unary(&channel).await.context("after the call that is cancelled")?;
    // The three calls so far went over one connection: this one has seen them all.
    let streams = connection(&channel).await?.streams;
    ensure!(streams == 3, "expected one connection of 3 streams to go on, found {streams} on it");
    if flags.is_plaintext() {
        until_sent(&frames, before, Kind::Reset(CANCEL)).await?;
        check_frames(&frames.borrow()[before..], sent)?;
    }
    Ok(())
}

/// The first call among `frames` must have been cancelled after it had sent what is due.
fn check_frames(frames: &[Frame], sent: Sent) -> Result<()> {
    let call = frames.first().context("expected frames of a call, and there were none")?.stream;
    let kinds: Vec<_> = frames.iter().filter(|it| it.stream == call).map(|it| it.kind).collect();
    let (Some(Kind::Headers), Some(Kind::Reset(CANCEL))) = (kinds.first(), kinds.last()) else {
        bail!("expected HEADERS first and RST_STREAM(CANCEL) last on the wire, got {kinds:?}");
    };
    let between = &kinds[1..kinds.len() - 1];
    ensure!(
        between.iter().all(|kind| *kind == Kind::Data)
            && between.is_empty() == (sent == Sent::NoPayload),
        "expected {sent:?} before the cancellation, got {kinds:?}"
    );
    Ok(())
}

/// Waits until a frame after the first `before` is of this kind.
async fn until_sent(frames: &watch::Sender<Vec<Frame>>, before: usize, kind: Kind) -> Result<()> {
    let mut changes = frames.subscribe();
    let sent = changes.wait_for(|frames| frames[before..].iter().any(|it| it.kind == kind));
    match tokio::time::timeout(WAIT_MAX, sent).await {
        Ok(found) => found.map(drop).context("the connection is gone"),
        Err(_elapsed) => {
            bail!("expected {kind:?} on the wire, got {:?}", &frames.borrow()[before..])
        }
    }
}

async fn until_no_stream_is_open(channel: &Channel) -> Result<()> {
    let give_up_at = Instant::now() + WAIT_MAX;
    while connection(channel).await?.open_streams > 0 {
        ensure!(
            Instant::now() < give_up_at,
            "expected a cancelled call to be over, and it is open"
        );
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// The one live connection.
async fn connection(channel: &Channel) -> Result<ConnectionReport> {
    let inspection = channel.inspect().await;
    let connection = inspection.actors.iter().find_map(|actor| match actor {
        ActorAnswer::Answered(report) => report.connections.first(),
        ActorAnswer::Silent { .. } => None,
    });
    connection.cloned().with_context(|| format!("expected a live connection, found {inspection}"))
}

/// How long something may take that is done at once.
const WAIT_MAX: Duration = Duration::from_secs(10);
