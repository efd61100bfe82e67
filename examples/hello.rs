//! Three greeters, one channel: how calls spread, what a server that goes away costs, and how it
//! is taken back.
//!
//! Run it with `cargo run --example hello`; it needs nothing but this repository and ends by
//! itself.

#![expect(clippy::print_stdout, reason = "what an example shows, it prints")]

#[path = "../tests/support/greeter.rs"]
#[expect(dead_code, reason = "tests use more of it")]
mod greeter;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use greeter::{Greeter, SAY_HELLO, ask, target_of};
use switchboard::{ActorAnswer, BackoffConfig, Channel, Code, Credentials, Status};
use tokio::task::JoinSet;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<ExitCode, Failure> {
    // The channel tells each change of state in a line of its own.
    let lines = tracing_subscriber::fmt::layer().with_target(false).without_time();
    let of_the_channel = Targets::new().with_target("switchboard", LevelFilter::INFO);
    tracing_subscriber::registry().with(lines.with_filter(of_the_channel)).init();

    say("Three greeters start, and one channel to all of them.");
    let mut greeters = [Greeter::start(), Greeter::start(), Greeter::start()];
    let channel = Channel::builder(target_of(&greeters))
        .credentials(Credentials::insecure())
        .default_service_config(r#"{"loadBalancingConfig":[{"round_robin":{}}]}"#)
        // A server that is gone is tried again every quarter of a second, so that this ends soon.
        // Without this line it is after 1 s, then 1.6 s, and so on up to 2 minutes.
        .backoff(BackoffConfig {
            base_delay: Duration::from_millis(250),
            max_delay: Duration::from_millis(250),
            ..BackoffConfig::default()
        })
        .build()?;
    channel.invoke(&SAY_HELLO, ask("world")).await?;
    wait_for_ready(&channel, 3).await;

    say("300 calls, in turn:");
    let mut spread = BTreeMap::new();
    for _ in 0..300 {
        let reply = channel.invoke(&SAY_HELLO, ask("world")).await?;
        *spread.entry(reply.peer().to_string()).or_insert(0) += 1;
    }
    for (server, calls) in &spread {
        println!("  {server} answered {calls}");
    }

    say("64 callers call without a pause, and one server stops gracefully.");
    let load = Load::start(&channel);
    load.more_calls(2_000).await;
    greeters[0].stop_gracefully().await;
    load.more_calls(2_000).await;
    let graceful = load.stop().await;
    graceful.print();

    say("The same, and another server is killed in the middle of calls.");
    let load = Load::start(&channel);
    load.more_calls(2_000).await;
    greeters[1].hold();
    while greeters[1].open_calls() < CALLERS {
        tokio::task::yield_now().await;
    }
    println!("  it has accepted {CALLERS} calls and has not answered them: now");
    greeters[1].kill();
    load.more_calls(2_000).await;
    let killed = load.stop().await;
    killed.print();
    if !killed.failures.is_empty() {
        println!(
            "  They are the calls that the server had accepted when it was killed. It may have"
        );
        println!(
            "  carried them out, so the channel does not repeat them by itself: a retry policy"
        );
        println!("  in the service config says that it may. All other calls went to the others.");
    }
    greeters[1].release();

    say("Both start again.");
    greeters[0].start_again();
    greeters[1].start_again();
    wait_for_ready(&channel, 3).await;
    let before: Vec<_> = greeters.iter().map(Greeter::received).collect();
    for _ in 0..30 {
        channel.invoke(&SAY_HELLO, ask("again")).await?;
    }
    for (greeter, before) in greeters.iter().zip(before) {
        println!("  {} takes part again: {} of 30", greeter.address(), greeter.received() - before);
    }

    say("The channel, from the inside:");
    println!("{}", channel.inspect().await);
    channel.close().await;

    // What a server had accepted may have had its effect, so only the caller can know whether to
    // call again: these calls fail, and no others.
    let victim = greeters[1].address().to_string();
    let is_due =
        |status: &Status| status.code() == Code::UNAVAILABLE && status.message().contains(&victim);
    if !graceful.failures.is_empty()
        || killed.failures.len() > CALLERS
        || !killed.failures.iter().all(is_due)
    {
        say("Calls failed that should not have.");
        return Ok(ExitCode::FAILURE);
    }
    say("All went as it should.");
    Ok(ExitCode::SUCCESS)
}

/// How many callers a load has.
const CALLERS: usize = 64;

fn say(text: &str) {
    println!("\n{text}");
}

/// Waits until as many servers are connected.
async fn wait_for_ready(channel: &Channel, servers: usize) {
    let mut states = channel.watch_state();
    loop {
        let inspection = channel.inspect().await;
        let ready = inspection.actors.iter().filter(|actor| match actor {
            ActorAnswer::Answered(report) => report.id.is_some() && report.state == "READY",
            ActorAnswer::Silent { .. } => false,
        });
        if ready.count() == servers {
            return;
        }
        // The channel itself may change its state or not while its parts do: look again soon.
        let _ = tokio::time::timeout(Duration::from_millis(20), states.next()).await;
    }
}

/// Callers that call until they are stopped.
struct Load {
    tasks: JoinSet<()>,
    stop: Arc<AtomicBool>,
    calls: tokio::sync::watch::Sender<usize>,
    failures: Arc<Mutex<Vec<Status>>>,
}

impl Load {
    fn start(channel: &Channel) -> Self {
        let mut load = Self {
            tasks: JoinSet::new(),
            stop: Arc::default(),
            calls: tokio::sync::watch::Sender::new(0),
            failures: Arc::default(),
        };
        for _ in 0..CALLERS {
            let channel = channel.clone();
            let (stop, calls, failures) =
                (load.stop.clone(), load.calls.clone(), load.failures.clone());
            load.tasks.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let request = ask("load").timeout(Duration::from_secs(5));
                    if let Err(status) = channel.invoke(&SAY_HELLO, request).await {
                        failures.lock().unwrap_or_else(PoisonError::into_inner).push(status);
                    }
                    calls.send_modify(|calls| *calls += 1);
                }
            });
        }
        load
    }

    /// Waits until so many more calls have ended.
    async fn more_calls(&self, more: usize) {
        let mut calls = self.calls.subscribe();
        let enough = *calls.borrow() + more;
        // The sender is in `self`.
        let _ = calls.wait_for(|calls| *calls >= enough).await;
    }

    async fn stop(mut self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        while self.tasks.join_next().await.is_some() {}
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Outcome { calls: *self.calls.borrow(), failures }
    }
}

/// How the calls of a load ended.
struct Outcome {
    calls: usize,
    failures: Vec<Status>,
}

impl Outcome {
    fn print(&self) {
        println!("  {} calls, {} failed", self.calls, self.failures.len());
        let mut kinds = BTreeMap::new();
        for status in &self.failures {
            *kinds.entry(status.to_string()).or_insert(0) += 1;
        }
        for (status, calls) in kinds {
            println!("  {calls} x {status}");
        }
    }
}
