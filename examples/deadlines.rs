//! Deadlines: what they cover, who sets them, and what a call says that came too late.

#![expect(clippy::print_stdout, reason = "what an example shows, it prints")]

#[path = "../tests/support/greeter.rs"]
#[expect(dead_code, reason = "tests use more of it")]
mod greeter;

use std::error::Error;
use std::time::Duration;

use greeter::{BIDI_HELLO, Greeter, SAY_HELLO, ask, target_of};
use switchboard::{CallOptions, Channel, Code, Credentials, Status};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let greeter = Greeter::start();
    // What nothing else is said of ends after 200 ms; methods of Greeter take no longer than 100 ms.
    let channel = Channel::builder(target_of([&greeter]))
        .credentials(Credentials::insecure())
        .default_timeout(Duration::from_millis(200))
        .default_stream_timeout(Duration::from_secs(3600))
        .default_service_config(
            r#"{"methodConfig": [{
                "name": [{"service": "helloworld.Greeter", "method": "SayHello"}],
                "timeout": "0.1s"
            }]}"#,
        )
        .build()?;
    let reply = channel.invoke(&SAY_HELLO, ask("Ada")).await?;
    println!("in time: {}", reply.message().message);

    // From here on the server takes calls and does not answer.
    greeter.hold();
    let of_method = channel.invoke(&SAY_HELLO, ask("Ada")).await;
    println!("by the method's config: {}", too_late(of_method)?);
    let request = ask("Ada").timeout(Duration::from_millis(20));
    println!(
        "by the call, which says less: {}",
        too_late(channel.invoke(&SAY_HELLO, request).await)?
    );

    let options = CallOptions::new().timeout(Duration::from_millis(20));
    let mut stream = channel.new_stream(&BIDI_HELLO, options).await?;
    println!("a stream, although somebody waits for it: {}", too_late(stream.recv().await)?);
    greeter.release();
    channel.close().await;

    // Waiting for a connection is covered as well: nobody listens there.
    let nowhere = Channel::builder("ipv4:127.0.0.1:1").credentials(Credentials::insecure());
    let channel = nowhere.wait_for_ready(true).build()?;
    let request = ask("Ada").timeout(Duration::from_millis(100));
    println!("without a server: {}", too_late(channel.invoke(&SAY_HELLO, request).await)?);
    channel.close().await;
    Ok(())
}

/// What a call says that has come to its deadline.
fn too_late<T>(answer: Result<T, Status>) -> Result<String, &'static str> {
    match answer {
        Err(status) if status.code() == Code::DEADLINE_EXCEEDED => Ok(status.message().to_owned()),
        Ok(_) | Err(_) => Err("the deadline should have come first"),
    }
}
