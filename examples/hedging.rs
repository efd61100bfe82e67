//! Hedging: one call in twenty takes a server half a second, and callers hardly notice.

#![expect(clippy::print_stdout, reason = "what an example shows, it prints")]

#[path = "../tests/support/greeter.rs"]
#[expect(dead_code, reason = "tests use more of it")]
mod greeter;
#[path = "../tests/support/mini.rs"]
#[expect(dead_code, reason = "tests use more of it")]
mod mini;

use std::error::Error;
use std::time::Duration;

use greeter::{SAY_HELLO, ask};
use mini::Manner;
use switchboard::{Channel, Credentials};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let target = format!("ipv4:{},{}", start_server().await?, start_server().await?);

    // A service config mostly comes with the addresses; here the channel has it as its default.
    let policy = r#"{"loadBalancingConfig": [{"round_robin": {}}]}"#;
    let plain = p99(&target, policy).await?;
    println!("p99 without hedging: {plain:.1?}");

    let policy = r#"{
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [{
            "name": [{"service": "helloworld.Greeter"}],
            "hedgingPolicy": {"maxAttempts": 2, "hedgingDelay": "0.020s"}
        }]
    }"#;
    let hedged = p99(&target, policy).await?;
    println!("p99 with a second attempt after 20 ms: {hedged:.1?}");
    if hedged >= plain {
        return Err("hedging should have helped".into());
    }
    Ok(())
}

/// How long it takes the slowest of a hundred calls, among two thousand.
async fn p99(target: &str, config: &str) -> Result<Duration, Box<dyn Error + Send + Sync>> {
    let builder = Channel::builder(target).credentials(Credentials::insecure());
    let channel = builder.default_service_config(config).build()?;
    let mut callers = JoinSet::new();
    for _ in 0..20 {
        let channel = channel.clone();
        callers.spawn(async move {
            let mut took = Vec::new();
            for _ in 0..100 {
                let began = Instant::now();
                channel.invoke(&SAY_HELLO, ask("Ada")).await?;
                took.push(began.elapsed());
            }
            Ok::<_, switchboard::Status>(took)
        });
    }
    let mut took = Vec::new();
    while let Some(caller) = callers.join_next().await {
        took.extend(caller??);
    }
    channel.close().await;
    took.sort();
    took.get(took.len() * 99 / 100).copied().ok_or_else(|| "no calls were made".into())
}

/// A server on loopback to whom every twentieth call of a connection is half a second's work.
async fn start_server() -> Result<std::net::SocketAddr, std::io::Error> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let service_time = Duration::from_millis(500);
    let manner = Manner { service_time, slow_one_in: Some(20), ..Manner::default() };
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(mini::answer_all_in(manner, stream, |_| ()));
        }
    });
    Ok(address)
}
