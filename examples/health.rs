//! Health checks: one of two servers says for a while that it does not serve, and calls go to the
//! other. Its connection stays up meanwhile.

#![expect(clippy::print_stdout, reason = "what an example shows, it prints")]

#[path = "../tests/support/greeter.rs"]
#[expect(dead_code, reason = "tests use more of it")]
mod greeter;

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use greeter::health_service::Serving;
use greeter::{GREETER, Greeter, SAY_HELLO, ask, target_of};
use switchboard::{Channel, Credentials, Status};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let servers = [Greeter::start_with_health(), Greeter::start_with_health()];
    // A service config mostly comes with the addresses; here the channel has it as its default.
    let config = r#"{
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": "helloworld.Greeter"}
    }"#;
    let channel = Channel::builder(target_of(&servers))
        .credentials(Credentials::insecure())
        .default_service_config(config)
        .build()?;

    println!("Both serve:");
    print(&answers_of(&channel, &servers, 2).await?);

    println!("{} says NOT_SERVING:", servers[0].address());
    servers[0].health().say(GREETER, Serving::No);
    print(&answers_of(&channel, &servers, 1).await?);
    for line in channel.inspect().await.to_string().lines().filter(|it| it.contains("AddrConn")) {
        println!("  {}", line.trim());
    }

    println!("{} says SERVING again:", servers[0].address());
    servers[0].health().say(GREETER, Serving::Yes);
    print(&answers_of(&channel, &servers, 2).await?);

    if servers.iter().any(|server| server.accepted() != 1) {
        return Err("the connections should have stayed".into());
    }
    channel.close().await;
    Ok(())
}

/// Who answers ten calls, once that is as many servers as it should be: what a server says takes a
/// moment to arrive.
async fn answers_of(
    channel: &Channel,
    servers: &[Greeter],
    expected: usize,
) -> Result<BTreeMap<String, u32>, Status> {
    loop {
        let mut answers: BTreeMap<_, _> =
            servers.iter().map(|server| (server.address().to_string(), 0)).collect();
        for _ in 0..10 {
            let request = ask("Ada").timeout(Duration::from_secs(10)).wait_for_ready(true);
            let reply = channel.invoke(&SAY_HELLO, request).await?;
            *answers.entry(reply.peer().to_string()).or_default() += 1;
        }
        if answers.values().filter(|calls| **calls > 0).count() == expected {
            return Ok(answers);
        }
    }
}

fn print(answers: &BTreeMap<String, u32>) {
    for (server, calls) in answers {
        println!("  {server} answers {calls} calls of 10");
    }
}
