//! A long path: how fast a stream of messages comes over one with a delay, with windows that adapt and with small ones.
//!
//! The delay is made in user space: a relay between client and server holds every byte back for half of a round trip,
//! each way, without a bound on how many are under way.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use switchboard::{Channel, ChannelBuilder, Credentials, Method, kind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::child;
use crate::proto::{DOWN, Req, Resp};

const DOWN_METHOD: Method<Req, Resp, kind::ServerStreaming> = Method::server_streaming(DOWN);

/// The round trip of the path.
const ROUND_TRIP: Duration = Duration::from_millis(50);
/// The body of each message.
const MESSAGE: usize = 64 << 10;
/// The window of HTTP/2 where nobody says otherwise, and of many clients.
const SMALL_WINDOW: u32 = 65_535;
/// How much faster the windows that adapt are to be.
const AT_LEAST: f64 = 5.0;
/// With small windows less is transferred: their rate is steady from the first round trip on.
const LESS: usize = 16;

/// Transfers so many bytes each way of doing it, and says how the rates compare.
pub(crate) async fn compare(server: &child::Server, bytes: usize) -> Result<String> {
    let relay = relay(server.address).await?;
    let base = || {
        Channel::builder(format!("ipv4:{relay}"))
            .credentials(Credentials::insecure())
            .max_receive_message_bytes(2 * MESSAGE)
    };
    let adapting = rate(base(), bytes).await.context("with windows that adapt")?;
    let small = base().receive_windows(SMALL_WINDOW, SMALL_WINDOW);
    let small = rate(small, bytes / LESS).await.context("with small windows")?;
    let ratio = adapting / small;
    let verdict = if ratio >= AT_LEAST { "met" } else { "MISSED" };
    Ok(format!(
        "{} MB over a path of {ROUND_TRIP:?}: {:.1} MB/s; with windows of 64 KiB {:.1} MB/s\n\
         {verdict}: {ratio:.1} times as fast, at least {AT_LEAST:.1}",
        bytes / 1_000_000,
        adapting / 1e6,
        small / 1e6,
    ))
}

/// Bytes per second, from the first message to the last.
async fn rate(builder: ChannelBuilder, bytes: usize) -> Result<f64> {
    let channel = builder.build()?;
    let mut stream = channel.new_stream(&DOWN_METHOD, switchboard::CallOptions::new()).await?;
    let body = Bytes::new();
    let response_size = i32::try_from(MESSAGE).context("messages this large")?;
    stream.send(Req { response_size, body }).await?;
    stream.recv().await?.context("no message")?;
    let began = Instant::now();
    let mut received = 0;
    while received < bytes {
        let message: Resp = stream.recv().await?.context("the stream ended")?;
        ensure!(message.body.len() == MESSAGE, "a message of {} bytes", message.body.len());
        received += MESSAGE;
    }
    let rate = received as f64 / began.elapsed().as_secs_f64();
    drop(stream);
    channel.close().await;
    Ok(rate)
}

/// Stands before `server`, half of a round trip away.
async fn relay(server: SocketAddr) -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let Ok(server) = TcpStream::connect(server).await else { return };
            for socket in [&client, &server] {
                // It would add a delay of its own.
                let _ = socket.set_nodelay(true);
            }
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            delay(from_client, to_server);
            delay(from_server, to_client);
        }
    });
    Ok(address)
}

/// Passes bytes on, each half of a round trip after it came.
fn delay(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let (pass, mut passed) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let mut piece = vec![0; 256 << 10];
            match from.read(&mut piece).await {
                Ok(length @ 1..) => piece.truncate(length),
                // The end of one side is the end of the other, in its time.
                Ok(0) | Err(_) => return,
            }
            if pass.send((tokio::time::Instant::now() + ROUND_TRIP / 2, piece)).is_err() {
                return;
            }
        }
    });
    tokio::spawn(async move {
        while let Some((due, piece)) = passed.recv().await {
            tokio::time::sleep_until(due).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
    });
}
