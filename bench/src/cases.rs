//! What is measured: every combination of call, server, workers, callers and size that makes a row.

use std::fmt;

use clap::ValueEnum;
use serde::Serialize;

use crate::clients::Kind;

/// The shape of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub(crate) enum Call {
    /// One request, one response.
    Unary,
    /// A stream on which each request waits for its response; a round trip is counted as a call.
    PingPong,
    /// A stream of responses; each is counted as a call.
    ServerStream,
    /// A stream of requests, each of which is there when it is asked for; each is counted as a call.
    ClientStream,
}

impl Call {
    /// As in the JSON file and on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Unary => "unary",
            Self::PingPong => "ping_pong",
            Self::ServerStream => "server_stream",
            Self::ClientStream => "client_stream",
        }
    }
}

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Server {
    /// Frames by hand and a canned answer: it costs almost nothing, so the client is what is measured.
    Null,
    /// The same over TLS.
    NullTls,
    /// A real tonic server.
    Tonic,
}

/// One row of the comparison, for each client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Case {
    #[serde(rename = "case")]
    pub(crate) call: Call,
    pub(crate) server: Server,
    /// Threads of the client's runtime. One: pinned, and gated. More: not pinned, only reported.
    pub(crate) workers: usize,
    /// Calls, or streams, at the same time.
    pub(crate) callers: usize,
    /// The body of each message, both ways.
    pub(crate) bytes: usize,
}

impl Case {
    pub(crate) const fn unary(server: Server, callers: usize, bytes: usize) -> Self {
        Self { call: Call::Unary, server, workers: 1, callers, bytes }
    }

    pub(crate) const fn ping_pong(server: Server, streams: usize) -> Self {
        Self { call: Call::PingPong, server, workers: 1, callers: streams, bytes: 32 }
    }

    pub(crate) const fn server_stream(server: Server, bytes: usize) -> Self {
        Self { call: Call::ServerStream, server, workers: 1, callers: 1, bytes }
    }

    pub(crate) const fn client_stream(server: Server, bytes: usize) -> Self {
        Self { call: Call::ClientStream, server, workers: 1, callers: 1, bytes }
    }

    /// Who takes part.
    pub(crate) const fn clients(self) -> &'static [Kind] {
        match (self.server, self.call) {
            (Server::Null | Server::Tonic, Call::Unary) => &Kind::ALL,
            (Server::Null | Server::Tonic, _) => &Kind::PLAIN,
            (Server::NullTls, _) => &[Kind::Switchboard, Kind::Tonic],
        }
    }

    const fn on_two_workers(self) -> Self {
        Self { workers: 2, ..self }
    }
}

/// As `--filter` sees it: `unary/null/w1/c128/b32`.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let call = self.call.name();
        let server = match self.server {
            Server::Null => "null",
            Server::NullTls => "null-tls",
            Server::Tonic => "tonic",
        };
        write!(f, "{call}/{server}/w{}/c{}/b{}", self.workers, self.callers, self.bytes)
    }
}

/// Every row, in the order of the table.
pub(crate) const ALL: [Case; 22] = [
    Case::unary(Server::Null, 1, 32),
    Case::unary(Server::Null, 16, 32),
    Case::unary(Server::Null, 128, 32),
    Case::unary(Server::Null, 1, 4096),
    Case::unary(Server::Null, 16, 4096),
    Case::unary(Server::Null, 128, 4096),
    Case::unary(Server::NullTls, 128, 32),
    Case::unary(Server::Tonic, 128, 32),
    Case::unary(Server::Tonic, 128, 4096),
    Case::ping_pong(Server::Null, 1),
    Case::ping_pong(Server::Null, 64),
    Case::server_stream(Server::Null, 32),
    Case::server_stream(Server::Null, 64 << 10),
    Case::client_stream(Server::Null, 32),
    Case::ping_pong(Server::Tonic, 1),
    Case::ping_pong(Server::Tonic, 64),
    Case::server_stream(Server::Tonic, 32),
    Case::server_stream(Server::Tonic, 64 << 10),
    Case::client_stream(Server::Tonic, 32),
    Case::unary(Server::Null, 128, 32).on_two_workers(),
    Case::unary(Server::Null, 128, 4096).on_two_workers(),
    Case::ping_pong(Server::Null, 64).on_two_workers(),
];

/// How many messages one server stream carries: at most a million, and at most 1 GiB.
pub(crate) fn messages_per_stream(bytes: usize) -> u64 {
    ((1 << 30) / bytes.max(1) as u64).clamp(1, 1_000_000)
}
