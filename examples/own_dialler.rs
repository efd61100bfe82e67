//! A dialler of your own: calls to a server in the same process, over pipes in memory. A virtual
//! machine's socket or a tunnel is dialled the same way.

#![expect(clippy::print_stdout, reason = "what an example shows, it prints")]

#[path = "../tests/support/greeter.rs"]
#[expect(dead_code, reason = "tests use more of it")]
mod greeter;
#[path = "../tests/support/mini.rs"]
#[expect(dead_code, reason = "tests use more of it")]
mod mini;

use std::io;

use greeter::{SAY_HELLO, ask};
use switchboard::{Address, BoxFuture, Channel, Connect, Credentials, Io};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;

/// Dials by making a pipe and handing its far end to the server.
struct Pipes {
    server: mpsc::Sender<DuplexStream>,
}

impl Connect for Pipes {
    /// The channel bounds it by its connect deadline, and tries again by its backoff: no timeouts
    /// and no second tries are needed here.
    fn connect<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, io::Result<Io>> {
        Box::pin(async move {
            // What follows `passthrough:` in the target comes as it is, for a dialler to understand.
            if address.to_string() != "greeter" {
                return Err(io::Error::new(io::ErrorKind::NotFound, "there is a `greeter` alone"));
            }
            let (near, far) = tokio::io::duplex(64 * 1024);
            let gone = |_| io::Error::new(io::ErrorKind::ConnectionRefused, "the server is gone");
            self.server.send(far).await.map_err(gone)?;
            Ok(Io::new(near))
        })
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (server, mut connections) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Some(connection) = connections.recv().await {
            tokio::spawn(mini::answer_all(connection, |_| ()));
        }
    });

    let channel = |target: &str| {
        let pipes = Pipes { server: server.clone() };
        // Whoever can read the memory of this process knows it all.
        Channel::builder(target).credentials(Credentials::insecure()).connector(pipes).build()
    };
    let greeter = channel("passthrough:greeter")?;
    for name in ["Ada", "Grace"] {
        let reply = greeter.invoke(&SAY_HELLO, ask(name)).await?;
        println!("{} over a pipe", reply.message().message);
    }
    greeter.close().await;

    let stranger = channel("passthrough:stranger")?;
    match stranger.invoke(&SAY_HELLO, ask("Ada")).await {
        Ok(_) => return Err("nobody is there to answer".into()),
        Err(status) => println!("{status}"),
    }
    stranger.close().await;
    Ok(())
}
