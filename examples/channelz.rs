//! channelz: what a tool like `grpcdebug` is told of the channels of a program.
//!
//! `cargo run --features channelz --example channelz -- 60` goes on serving for a minute, and says
//! what to type in another terminal; without a number it asks itself and ends.

#![expect(clippy::print_stdout, reason = "what an example shows, it prints")]

#[path = "../tests/support/greeter.rs"]
#[expect(dead_code, reason = "tests use more of it")]
mod greeter;

use std::error::Error;
use std::time::Duration;

use greeter::{Greeter, SAY_HELLO, ask, target_of};
use switchboard::{Channel, Channelz, ChannelzTrace, Credentials};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let seconds = std::env::args().nth(1).map_or(Ok(0), |seconds| seconds.parse())?;

    // One for the whole program. A server for operators alone shows it.
    let channelz = Channelz::new();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let server = tonic::transport::Server::builder().add_service(channelz.service());
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));

    let greeters = [Greeter::start(), Greeter::start()];
    let channel = Channel::builder(target_of(&greeters))
        .credentials(Credentials::insecure())
        .default_service_config(r#"{"loadBalancingConfig":[{"round_robin":{}}]}"#)
        .channelz(&channelz)
        .build()?;
    for _ in 0..10 {
        channel.invoke(&SAY_HELLO, ask("world")).await?;
    }
    let failed = channel.invoke(&SAY_HELLO, ask("fail:5:nobody of that name")).await;
    println!("a call has failed: {}\n", failed.err().ok_or("expected NOT_FOUND")?);

    // The registry can be read without a tool, too.
    for shown in channelz.top_channels(0, 50).items {
        let calls = shown.calls;
        println!("channel {} {} is {}", shown.itself.id, shown.target, shown.state);
        println!("  {} calls, {} of them failed", calls.started, calls.failed);
        print(&shown.trace);
        for subchannel in shown.subchannels.iter().filter_map(|it| channelz.subchannel(it.id)) {
            let id = subchannel.itself.id;
            println!("subchannel {id} {} is {}", subchannel.address, subchannel.state);
            print(&subchannel.trace);
            for socket in subchannel.sockets.iter().filter_map(|it| channelz.socket(it.id)) {
                println!("  socket {} {}", socket.itself.id, socket.itself.name);
                println!("    {}", socket.connection);
            }
        }
    }
    if seconds > 0 {
        println!("\ngrpcdebug {address} channelz channels");
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }
    channel.close().await;
    let left = channelz.top_channels(0, 50).items.len();
    println!("\n{left} channels once it is closed");
    if left == 0 { Ok(()) } else { Err("a channel that is closed should not be shown".into()) }
}

fn print(trace: &ChannelzTrace) {
    for event in &trace.events {
        println!("  {:?}: {}", event.severity, event.description);
    }
}
