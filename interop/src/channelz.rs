//! `channelz`, which is no official case: calls, and then a server that tells of them, for a client
//! of gRPC's own messages to look at (A14). It serves until its standard input ends.

use anyhow::{Context as _, Error, Result, ensure};
use switchboard::{Channelz, Request};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;

use crate::flags::Flags;
use crate::proto::{EMPTY_CALL, Empty, UNIMPLEMENTED_METHOD};

pub(crate) async fn run(flags: &Flags) -> Result<()> {
    let channelz = Channelz::new();
    let builder = flags.channel_builder().map_err(Error::msg)?;
    let channel = builder.clone().channelz(&channelz).build().context("building a channel")?;
    let nested = builder.channelz_parent(&channel).build().context("building a nested one")?;
    for _ in 0..SUCCEEDING {
        let reply = channel.invoke(&EMPTY_CALL, Request::new(Empty {})).await;
        reply.context("expected EmptyCall to succeed")?;
    }
    for _ in 0..FAILING {
        let reply = channel.invoke(&UNIMPLEMENTED_METHOD, Request::new(Empty {})).await;
        ensure!(reply.is_err(), "expected a method that is not there to fail");
    }

    let listener = TcpListener::bind("127.0.0.1:0").await.context("listening")?;
    println!("{}", listener.local_addr().context("listening")?.port());
    let server = tonic::transport::Server::builder().add_service(channelz.service());
    let serving = tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let mut input = Vec::new();
    tokio::io::stdin().read_to_end(&mut input).await.context("waiting for the end of input")?;
    serving.abort();

    nested.close().await;
    channel.close().await;
    ensure!(channelz.top_channels(0, 1).items.is_empty(), "expected nothing to be left");
    Ok(())
}

/// As `interop/go/channelz` expects.
const SUCCEEDING: u32 = 20;
const FAILING: u32 = 5;
