//! The clients that are compared, behind one trait.

mod grpc;
mod raw_h2;
mod switchboard;
mod tonic;

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde::Serialize;
use tokio_stream::Stream;

use crate::drive::{self, Plan, Sample};
use crate::proto::{Req, Resp};

/// The deadline of every call of a client that has deadlines. It never expires: what is measured is carrying it.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// The window of a stream that a client grants.
const STREAM_WINDOW: u32 = 4 << 20;
/// The window of a connection that a client grants.
const CONNECTION_WINDOW: u32 = 16 << 20;

/// Whom a client connects to.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    /// Where what TLS needs is, if it is TLS.
    pub(crate) tls: Option<PathBuf>,
    /// Whether it can be asked about its health.
    pub(crate) has_health: bool,
}

impl Target {
    /// Fails for a client that is not compared over TLS.
    fn in_plaintext(&self) -> Result<SocketAddr> {
        ensure!(self.tls.is_none(), "this client is not compared over TLS");
        Ok(self.address)
    }
}

/// A client, connected to the server. Each caller has a clone of its own.
pub(crate) trait Client: Clone + Send + Sync + Sized + 'static {
    type PingPong: PingPong;
    type Download: Download;

    /// Connects over TLS if the target says so, with the windows above and without Nagle's algorithm where that can be set.
    fn connect(server: &Target) -> impl Future<Output = Result<Self>> + Send;

    /// Calls [`UNARY`](crate::proto::UNARY).
    fn unary(&mut self, request: Req) -> impl Future<Output = Result<Resp>> + Send;

    /// Opens [`STREAM`](crate::proto::STREAM).
    fn ping_pong(&mut self) -> impl Future<Output = Result<Self::PingPong>> + Send;

    /// Calls [`DOWN`](crate::proto::DOWN).
    fn server_stream(
        &mut self,
        request: Req,
    ) -> impl Future<Output = Result<Self::Download>> + Send;

    /// Calls [`UP`](crate::proto::UP).
    fn client_stream(
        &mut self,
        requests: impl Stream<Item = Req> + Send + 'static,
    ) -> impl Future<Output = Result<Resp>> + Send;
}

/// A stream in both directions.
pub(crate) trait PingPong: Send {
    /// Sends one message and waits for one.
    fn round_trip(&mut self, request: Req) -> impl Future<Output = Result<Resp>> + Send;
}

/// A stream of responses.
pub(crate) trait Download: Send {
    /// The next message; `None` after the last, when the server said that all is well.
    fn message(&mut self) -> impl Future<Output = Result<Option<Resp>>> + Send;
}

/// The clients by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    Switchboard,
    /// The same with what a service may put onto its channel.
    Equipped,
    RawH2,
    Tonic,
    Grpc,
}

impl Kind {
    /// In the order of the table.
    pub(crate) const ALL: [Self; 5] =
        [Self::Switchboard, Self::Equipped, Self::RawH2, Self::Tonic, Self::Grpc];
    /// Without what differs in unary calls alone.
    pub(crate) const PLAIN: [Self; 4] = [Self::Switchboard, Self::RawH2, Self::Tonic, Self::Grpc];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Switchboard => "switchboard",
            Self::Equipped => "equipped",
            Self::RawH2 => "raw-h2",
            Self::Tonic => "tonic",
            Self::Grpc => "grpc",
        }
    }

    /// Connects this client to a server and measures it.
    pub(crate) async fn measure(self, server: &Target, plan: &Plan) -> Result<Sample> {
        match self {
            Self::Switchboard => measure::<switchboard::Switchboard>(server, plan).await,
            Self::Equipped => measure::<switchboard::Equipped>(server, plan).await,
            Self::RawH2 => measure::<raw_h2::RawH2>(server, plan).await,
            Self::Tonic => measure::<tonic::Tonic>(server, plan).await,
            Self::Grpc => measure::<grpc::Grpc>(server, plan).await,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

async fn measure<C: Client>(server: &Target, plan: &Plan) -> Result<Sample> {
    let client = C::connect(server).await;
    let client = client.with_context(|| format!("connecting to {}", server.address))?;
    drive::run(client, plan).await
}
