//! What goes wrong beneath HTTP/2, in TLS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use switchboard::{BackoffConfig, Channel, Code, Credentials, TlsConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::support::greeter::{Greeter, SAY_HELLO, ask};
use crate::support::tls::{Certificate, Issuer, TlsServer, USUAL};
use crate::support::until;

/// Passes everything on, until it is told to: then it sends `last` to the client and hangs up.
async fn middleman(server: SocketAddr, last: &'static [u8], now: Arc<Notify>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            tokio::spawn(pass(client, server, last, now.clone()));
        }
    });
    address
}

async fn pass(client: TcpStream, server: SocketAddr, last: &[u8], now: Arc<Notify>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = TcpStream::connect(server).await.unwrap().into_split();
    let requests = async { tokio::io::copy(&mut from_client, &mut to_server).await };
    let responses = async {
        let mut buffer = [0; 4096];
        loop {
            tokio::select! {
                read = from_server.read(&mut buffer) => match read {
                    Ok(bytes @ 1..) if to_client.write_all(&buffer[..bytes]).await.is_ok() => {}
                    _ => return,
                },
                () = now.notified() => {
                    let _ = to_client.write_all(last).await;
                    return;
                }
            }
        }
    };
    tokio::select! {
        _ = requests => {}
        () = responses => {}
    }
}

#[tokio::test]
async fn a_secured_connection_that_is_tampered_with_or_cut_ends_its_calls_and_comes_back() {
    let (issuer, greeter) = (Issuer::new(), Greeter::start());
    let wait = Duration::from_millis(20);
    let backoff = BackoffConfig { base_delay: wait, max_delay: wait, ..BackoffConfig::default() };
    for (last, text) in [
        // Not what any key was used for.
        (
            &[0x17, 3, 3, 0, 20, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9][..],
            "changed on its way",
        ),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "TLS"),
        // Without a goodbye, so that nobody can tell whether all was said.
        (b"", "closed the connection"),
    ] {
        let certificate = Certificate::of(&["127.0.0.1"]);
        let server = TlsServer::before(&issuer, certificate, USUAL, greeter.address()).await;
        let now = Arc::new(Notify::new());
        let address = middleman(server.address(), last, now.clone()).await;
        let config = TlsConfig::new().roots_pem(issuer.root_pem()).unwrap();
        let builder = Channel::builder(address.to_string())
            .credentials(Credentials::tls_with(config))
            .backoff(backoff);
        let channel = builder.build().unwrap();
        greeter.hold();
        let call = tokio::spawn({
            let channel = channel.clone();
            async move { channel.invoke(&SAY_HELLO, ask("Ada")).await }
        });
        until("the call is under way", async || greeter.open_calls() == 1).await;
        now.notify_one();
        let status = call.await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::UNAVAILABLE);
        let message = status.message();
        assert!(message.contains(&address.to_string()) && message.contains(text), "{status}");
        greeter.release();
        channel.invoke(&SAY_HELLO, ask("Bo").wait_for_ready(true)).await.unwrap();
        channel.close().await;
        until("the server has seen it", async || greeter.open_calls() == 0).await;
    }
}
