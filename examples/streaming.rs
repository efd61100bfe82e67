//! Streams of messages in all three ways, against a greeter that this example starts.

#![expect(clippy::print_stdout, reason = "what an example shows, it prints")]

#[path = "../tests/support/greeter.rs"]
#[expect(dead_code, reason = "tests use more of it")]
mod greeter;

use std::time::Duration;

use greeter::{BIDI_HELLO, Greeter, LOTS_OF_GREETINGS, LOTS_OF_REPLIES, hello, target_of};
use switchboard::{CallOptions, Channel, Credentials, Request};
use tokio_stream::StreamExt as _;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let greeter = [Greeter::start()];
    let channel =
        Channel::builder(target_of(&greeter)).credentials(Credentials::insecure()).build()?;
    // A deadline covers the whole stream, also while nobody polls it.
    let timeout = Duration::from_secs(10);

    println!("One request, many responses:");
    let request = Request::new(hello("Ada Grace Edsger")).timeout(timeout);
    let mut replies = channel.server_streaming(LOTS_OF_REPLIES, request).await?;
    while let Some(reply) = replies.recv().await? {
        println!("  {}", reply.message);
    }

    // The response is given once the server has said OK: nothing is left to be received then.
    println!("Many requests, one response:");
    let names = tokio_stream::iter(["Ada", "Grace", "Edsger"]).map(hello);
    let request = Request::new(names).timeout(timeout);
    let reply = channel.client_streaming(LOTS_OF_GREETINGS, request).await?;
    println!("  {}", reply.message().message);

    println!("Both ways at once:");
    let names = tokio_stream::iter(["Ada", "Grace", "Edsger"]).map(hello);
    let mut replies = channel.bidi_streaming(BIDI_HELLO, Request::new(names)).await?;
    while let Some(reply) = replies.recv().await? {
        println!("  {}", reply.message);
    }

    println!("The same in two tasks:");
    let options = CallOptions::new().timeout(timeout);
    let (mut requests, mut replies) = channel.new_stream(BIDI_HELLO, options).await?.split();
    let sending = tokio::spawn(async move {
        for name in ["Ada", "Grace", "Edsger"] {
            requests.send(hello(name)).await?;
        }
        // A task that fails before this does not leave half of the requests to be taken for all.
        requests.close_send();
        Ok::<_, switchboard::Status>(())
    });
    while let Some(reply) = replies.next().await {
        println!("  {}", reply?.message);
    }
    sending.await??;

    channel.close().await;
    Ok(())
}
