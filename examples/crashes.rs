//! Actors that crash under load: calls do not notice.
//!
//! `cargo run --example crashes -- 60` goes on for a minute; without a number it is five seconds.

#![expect(clippy::print_stdout, reason = "what an example shows, it prints")]

#[path = "../tests/support/greeter.rs"]
#[expect(dead_code, reason = "tests use more of it")]
mod greeter;

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use greeter::{Greeter, SAY_HELLO, ask, target_of};
use switchboard::{ActorAnswer, ActorKind, Channel, ConnectivityState, Credentials, Fault};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let time = std::env::args().nth(1).map_or(Ok(5), |seconds| seconds.parse())?;
    let greeters = [Greeter::start(), Greeter::start(), Greeter::start()];
    let channel = Channel::builder(target_of(&greeters))
        .credentials(Credentials::insecure())
        .default_service_config(r#"{"loadBalancingConfig":[{"round_robin":{}}]}"#)
        .allow_injection()
        .build()?;
    let (answered, failed, stop) = (
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let mut callers = JoinSet::new();
    for _ in 0..64 {
        let (channel, answered) = (channel.clone(), answered.clone());
        let (failed, stop) = (failed.clone(), stop.clone());
        callers.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let outcome = channel.invoke(&SAY_HELLO, ask("world")).await;
                let counter = if outcome.is_ok() { &answered } else { &failed };
                counter.fetch_add(1, Ordering::Relaxed);
            }
        });
    }

    let kinds =
        [ActorKind::ClientConn, ActorKind::Resolver, ActorKind::Balancer, ActorKind::AddrConn];
    let (end, mut crashes, mut dice) = (Instant::now() + Duration::from_secs(time), 0_u64, 7_u64);
    while Instant::now() < end {
        sleep(Duration::from_millis(500)).await;
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let kind = kinds[(dice >> 33) as usize % kinds.len()];
        let of_kind: Vec<_> =
            channel.actors().into_iter().filter(|actor| actor.kind() == kind).collect();
        let Some(actor) = of_kind.get((dice >> 40) as usize % of_kind.len().max(1)) else {
            continue;
        };
        // One that is being restarted at this moment cannot crash.
        if actor.inject(Fault::crash(kind)).await.is_ok() {
            crashes += 1;
        }
        let mut state = channel.state();
        while state != ConnectivityState::Ready {
            state = channel.wait_for_state_change(state).await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    callers.join_all().await;

    let mut restarts = BTreeMap::new();
    for actor in channel.inspect().await.actors {
        if let ActorAnswer::Answered(report) = actor {
            *restarts.entry(report.actor).or_insert(0) += report.restarts;
        }
    }
    println!("{crashes} crashes in {time} s");
    for (kind, restarts) in restarts {
        println!("  {kind}: {restarts} restarts");
    }
    let (answered, failed) = (answered.load(Ordering::Relaxed), failed.load(Ordering::Relaxed));
    println!("{answered} calls answered, {failed} failed");
    channel.close().await;
    drop(channel);
    let left = || greeters.iter().map(Greeter::connections).sum::<usize>();
    // The servers hear of the end a moment later.
    let patience = Instant::now() + Duration::from_secs(5);
    while left() > 0 && Instant::now() < patience {
        sleep(Duration::from_millis(10)).await;
    }
    let left = left();
    println!("{left} connections left");
    if failed == 0 && crashes > 0 && left == 0 {
        Ok(())
    } else {
        Err("crashes of actors should cost no call, and leave nothing".into())
    }
}
