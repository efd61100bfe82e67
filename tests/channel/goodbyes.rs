//! Servers that part from connections under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use switchboard::{CallOptions, Channel, Credentials, TlsConfig};

use crate::support::greeter::{Greeter, LOTS_OF_REPLIES, SAY_HELLO, ask, hello};
use crate::support::tls::{Certificate, Issuer, TlsServer, USUAL};
use crate::support::{close_without_leaks, plaintext, until};

/// A server that closes right behind its last GOAWAY makes a write fail while that GOAWAY, and whole
/// answers, lie unread in the socket.
// spec: grpc/graceful-goaway
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_limits_the_age_of_connections_costs_no_call() {
    for bytes in [1_000, 20_000] {
        let greeter = Greeter::start_with_max_age(Duration::from_millis(100));
        let channel = plaintext(greeter.address().to_string()).build().unwrap();
        call_through(&channel, &greeter, bytes).await;
        close_without_leaks(channel, &[greeter]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_limits_the_age_of_connections_costs_no_call_over_tls() {
    let issuer = Issuer::new();
    // Longer than a handshake takes on a busy machine.
    let greeter = Greeter::start_with_max_age(Duration::from_millis(200));
    let certificate = Certificate::of(&["127.0.0.1"]);
    let tls = TlsServer::before(&issuer, certificate, USUAL, greeter.address()).await;
    let config = TlsConfig::new().roots_pem(issuer.root_pem()).unwrap();
    let builder = Channel::builder(tls.address().to_string());
    let channel = builder.credentials(Credentials::tls_with(config)).no_proxy().build().unwrap();
    call_through(&channel, &greeter, 1_000).await;
    channel.close().await;
}

/// Calls, unary and of messages, until the server has parted from some connections.
async fn call_through(channel: &Channel, greeter: &Greeter, bytes: usize) {
    let name: Arc<str> = "x".repeat(bytes).into();
    let is_over = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..CALLERS)
        .map(|number| {
            let (channel, name, is_over) = (channel.clone(), name.clone(), is_over.clone());
            tokio::spawn(async move {
                let (mut calls, mut resets) = (0, 0);
                while !is_over.load(Ordering::Relaxed) {
                    let called = if number % 4 == 0 {
                        stream(&channel, &name).await
                    } else {
                        channel.invoke(&SAY_HELLO, ask(&name)).await.map(drop)
                    };
                    calls += 1;
                    match called {
                        Ok(()) => {}
                        // One whose handshake has outlasted its age, say: the server does not speak
                        // of its calls.
                        Err(status) if status.message().contains("connection reset by peer") => {
                            resets += 1;
                        }
                        Err(status) => panic!("{status:?}"),
                    }
                }
                (calls, resets)
            })
        })
        .collect();
    until("connections have been replaced", async || greeter.accepted() > 6).await;
    is_over.store(true, Ordering::Relaxed);
    let (mut calls, mut resets) = (0, 0);
    for caller in callers {
        let (called, reset) = caller.await.unwrap();
        calls += called;
        resets += reset;
    }
    assert!(
        calls > CALLERS && resets < calls / 10,
        "{resets} of {calls} calls were lost by resets"
    );
}

async fn stream(channel: &Channel, name: &str) -> Result<(), switchboard::Status> {
    let mut stream = channel.new_stream(&LOTS_OF_REPLIES, CallOptions::new()).await?;
    // How it ended is what receiving tells.
    let _ = stream.send(hello(name)).await;
    stream.close_send();
    while stream.recv().await?.is_some() {}
    Ok(())
}

const CALLERS: usize = 32;
