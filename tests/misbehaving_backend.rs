//! How a service behaves when its backend misbehaves: an example to copy, which the guide on testing
//! shows. The service greets, and has something to say where its backend does not answer.

#[path = "support/greeter.rs"]
#[expect(dead_code, reason = "other tests use more of it")]
mod greeter;

use std::time::Duration;

use greeter::{Greeter, SAY_HELLO, ask, target_of};
use switchboard::{Channel, Credentials, Fault, Status};

/// The service that is tested.
async fn greeting(backend: &Channel, name: &str) -> String {
    let request = ask(name).timeout(Duration::from_millis(200));
    match backend.invoke(&SAY_HELLO, request).await {
        Ok(reply) => reply.into_message().message,
        Err(_) => format!("Hello {name}"),
    }
}

/// A backend that works, and a channel to it that may be harmed.
fn backend() -> Result<(Greeter, Channel), Box<dyn std::error::Error>> {
    let greeter = Greeter::start();
    let channel = Channel::builder(target_of([&greeter]))
        .credentials(Credentials::insecure())
        .allow_injection()
        .build()?;
    Ok((greeter, channel))
}

#[tokio::test]
async fn it_greets_although_the_backend_cannot_be_reached() -> Result<(), Box<dyn std::error::Error>>
{
    let (_backend, channel) = backend()?;
    let refused = channel.inject(Fault::dial_refused()).await?;
    assert_eq!(greeting(&channel, "Ada").await, "Hello Ada");
    // And as it should once the backend is back.
    refused.remove();
    channel.inject(Fault::backoff_skipped()).await?;
    while !greeting(&channel, "Ada").await.starts_with("Hello Ada, from ") {
        tokio::task::yield_now().await;
    }
    Ok(())
}

#[tokio::test]
async fn it_greets_although_the_backend_falls_silent() -> Result<(), Box<dyn std::error::Error>> {
    let (_backend, channel) = backend()?;
    assert!(greeting(&channel, "Ada").await.starts_with("Hello Ada, from "));
    let silent = channel.inject(Fault::reads_stalled()).await?;
    assert_eq!(greeting(&channel, "Ada").await, "Hello Ada");
    silent.remove();
    assert!(greeting(&channel, "Grace").await.starts_with("Hello Grace, from "));
    Ok(())
}

#[tokio::test]
async fn it_greets_although_the_backend_refuses() -> Result<(), Box<dyn std::error::Error>> {
    let (_backend, channel) = backend()?;
    let overloaded = Fault::calls_fail(Status::unavailable("overloaded"));
    let overloaded = channel.inject(overloaded).await?;
    channel.connect();
    assert_eq!(greeting(&channel, "Ada").await, "Hello Ada");
    println!("{}", channel.inspect().await);
    assert!(overloaded.is_active());
    Ok(())
}
