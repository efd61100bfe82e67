//! `frozen_server`: one of two servers is stopped in the middle of everything, as a machine that
//! hangs is. Keepalive finds out, and calls go to the other.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Error, Result, ensure};
use switchboard::{Channel, Code, KeepaliveConfig, Request, Status};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;

use crate::flags::Flags;
use crate::proto::{EMPTY_CALL, Empty};

pub(crate) async fn run(flags: &Flags) -> Result<()> {
    let frozen = flags.frozen.pid.context("--frozen_pid is missing: say whom to stop")?;
    let builder = flags.channel_builder().map_err(Error::msg)?;
    let keepalive = KeepaliveConfig { time: TIME, timeout: TIMEOUT, permit_without_stream: false };
    let channel = builder.keepalive(keepalive).build().context("building a channel")?;
    // What the channel says of itself goes to the log, one line for each transition.
    let log = tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stderr).finish();
    let library = Targets::new().with_target("switchboard", Level::INFO);
    tracing::subscriber::set_global_default(log.with(library)).context("setting up the log")?;
    // Both servers answer before one of them stops.
    until_peers(&channel, 2).await?;

    let stop = Arc::new(AtomicBool::new(false));
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        callers.spawn(call_until(stop.clone(), channel.clone()));
    }
    sleep(Duration::from_secs(1)).await;
    let _thawed = Stopped::stop(frozen)?;
    let stopped_at = Instant::now();
    sleep(TIME + TIMEOUT + MARGIN).await;
    stop.store(true, Ordering::Relaxed);
    let mut outcomes = Vec::new();
    while let Some(caller) = callers.join_next().await {
        outcomes.extend(caller.context("a caller panicked")?);
    }

    let (succeeded, failed): (Vec<_>, Vec<_>) =
        outcomes.into_iter().partition(|(_, outcome)| outcome.is_ok());
    println!("{} calls, {} of them failed", succeeded.len() + failed.len(), failed.len());
    let last = failed.iter().map(|(at, _)| at.duration_since(stopped_at)).max();
    println!("the last failed {last:.1?} after the server stopped");
    for (at, outcome) in &failed {
        let Err(status) = outcome else { continue };
        let is_told = status.code() == Code::UNAVAILABLE && status.message().contains("keepalive");
        ensure!(is_told, "expected UNAVAILABLE of the keepalive, and a call ended with {status}");
        let after = at.duration_since(stopped_at);
        ensure!(after <= TIME + TIMEOUT + SLACK, "a call failed only after {after:?}");
    }
    ensure!(!failed.is_empty(), "expected calls under way at the server that stopped");
    ensure!(failed.len() <= CALLERS, "more calls failed than were under way");
    let inspection = channel.inspect().await.to_string();
    println!("{inspection}");
    ensure!(inspection.contains("keepalive"), "the inspection does not say why");
    for _ in 0..CALLERS {
        channel.invoke(&EMPTY_CALL, Request::new(Empty {}).timeout(TIMEOUT)).await?;
    }
    channel.close().await;
    Ok(())
}

/// Calls until it is told to stop; says of each call when it ended, and how.
async fn call_until(stop: Arc<AtomicBool>, channel: Channel) -> Vec<(Instant, Result<(), Status>)> {
    let mut outcomes = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let outcome = channel.invoke(&EMPTY_CALL, Request::new(Empty {})).await.map(drop);
        outcomes.push((Instant::now(), outcome));
        sleep(PAUSE).await;
    }
    outcomes
}

/// Waits until so many servers have answered.
async fn until_peers(channel: &Channel, wanted: usize) -> Result<()> {
    let mut peers = std::collections::BTreeSet::new();
    let end = Instant::now() + Duration::from_secs(10);
    while peers.len() < wanted {
        ensure!(Instant::now() < end, "expected {wanted} servers, and there are {peers:?}");
        let request = Request::new(Empty {}).wait_for_ready(true).timeout(TIME);
        let response = channel.invoke(&EMPTY_CALL, request).await?;
        peers.insert(response.peer().to_string());
    }
    Ok(())
}

/// A process that was stopped, and goes on when this is dropped.
struct Stopped(u32);

impl Stopped {
    fn stop(pid: u32) -> Result<Self> {
        signal("-STOP", pid).context("stopping the server")?;
        Ok(Self(pid))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // Whoever started it ends it in any case.
        let _ = signal("-CONT", self.0);
    }
}

fn signal(name: &str, pid: u32) -> Result<()> {
    let status = Command::new("kill").args([name, &pid.to_string()]).status()?;
    ensure!(status.success(), "kill {name} {pid}: {status}");
    Ok(())
}

/// What the channel is to notice within.
const TIME: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(1);
/// What a busy machine may add.
const SLACK: Duration = Duration::from_secs(2);
/// How long calls go on after that.
const MARGIN: Duration = Duration::from_secs(4);

const CALLERS: usize = 32;
const PAUSE: Duration = Duration::from_millis(5);
