//! A resolver of your own: endpoints come from a list that something else keeps, and calls follow
//! it.

#![expect(clippy::print_stdout, reason = "what an example shows, it prints")]

#[path = "../tests/support/greeter.rs"]
#[expect(dead_code, reason = "tests use more of it")]
mod greeter;

use std::net::SocketAddr;

use greeter::{Greeter, SAY_HELLO, ask};
use switchboard::{
    BoxFuture, Channel, Credentials, Endpoint, Refresh, Resolution, Resolve, ResolveError, Target,
    TargetError,
};
use tokio::sync::watch;

/// Looks services up in a list that is kept up to date elsewhere: here by `main`, in earnest by a
/// watch on a registry.
struct Registry {
    servers: watch::Receiver<Vec<SocketAddr>>,
}

impl Resolve for Registry {
    /// One whole look-up: everything that is known now.
    fn resolve(&mut self) -> BoxFuture<'_, Result<Resolution, ResolveError>> {
        Box::pin(async move {
            let servers = self.servers.borrow_and_update();
            if servers.is_empty() {
                return Err(ResolveError::new("the registry knows no server"));
            }
            Ok(Resolution::new(servers.iter().copied().map(Endpoint::from)))
        })
    }

    /// The channel looks again as soon as this completes.
    fn changed(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            // Without its keeper the list stays as it is.
            if self.servers.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    }

    /// Asking again brings nothing new: changes tell of themselves.
    fn refresh(&self) -> Refresh {
        Refresh::Never
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (first, second) = (Greeter::start(), Greeter::start());
    let servers = watch::Sender::new(vec![first.address()]);

    let list = servers.subscribe();
    let resolver = move |target: &Target| -> Result<Box<dyn Resolve>, TargetError> {
        match target.endpoint() {
            "greeter" => Ok(Box::new(Registry { servers: list.clone() })),
            other => Err(target.invalid(format!("the registry has no service `{other}`"))),
        }
    };
    let channel = Channel::builder("registry:///greeter")
        .resolver("registry", resolver)
        .credentials(Credentials::insecure())
        .build()?;

    let reply = channel.invoke(&SAY_HELLO, ask("world")).await?;
    println!("the registry has {}: {} answers", first.address(), reply.peer());

    servers.send_replace(vec![second.address()]);
    while second.received() == 0 {
        channel.invoke(&SAY_HELLO, ask("world")).await?;
    }
    let reply = channel.invoke(&SAY_HELLO, ask("world")).await?;
    println!("the registry has {}: {} answers", second.address(), reply.peer());

    channel.close().await;
    Ok(())
}
