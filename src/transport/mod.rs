//! The network: from an address to gRPC messages, and from a target to addresses.
//!
//! The seam to the layers above lies at messages. [`dial`] gives a [`Connection`], which opens
//! [`Stream`]s, and its [`Driver`], a future that must be polled for the connection to live. A
//! stream takes header fields and encoded messages, and gives headers, whole messages with their
//! compressed flag, and trailers. Nothing of the HTTP/2 engine shows through.

mod aside;
mod call_credentials;
mod compression;
mod connect;
mod credentials;
mod error;
mod eyeballs;
#[cfg(feature = "test-util")]
mod faults;
mod file;
mod health;
mod http2;
#[cfg(feature = "test-util")]
pub mod memory;
mod message;
mod proxy;
pub(crate) mod resolve;
mod response;
#[cfg(feature = "_tls")]
mod tls;

use std::sync::Arc;

use http::HeaderValue;
use tokio::time::{Instant, timeout_at};

use crate::types::{Address, Authority, Caught, Compression, Foreign};

pub use call_credentials::{BearerToken, CallContext, CallCredentials};
pub use connect::{BoxFuture, Connect, Io, SocketConnector};
pub use credentials::{Credentials, CredentialsError};
pub use http2::KeepaliveConfig;
pub use proxy::{Proxy, ProxyError};
#[cfg(feature = "dns")]
pub use resolve::Dns;
#[cfg(feature = "test-util")]
pub use resolve::ManualResolver;
pub use resolve::{BuildResolver, Resolution, Resolve, ResolveError, ResolverOptions, SystemDns};
#[cfg(feature = "_tls")]
pub use tls::TlsConfig;

pub(crate) use call_credentials::AllCallCredentials;
pub(crate) use compression::{DecompressError, decompress};
pub(crate) use credentials::Security;
use credentials::SecurityError;
#[cfg(test)]
pub(crate) use error::NotGrpc;
pub(crate) use error::{
    ConnectError, ConnectFault, ConnectPhase, Disconnect, DisconnectCause, ErrorCode, StreamError,
};
#[cfg(feature = "test-util")]
pub(crate) use faults::{Faults, Scope, Trouble};
pub(crate) use file::WatchedFile;
pub(crate) use health::{ServingStatus, request_for as health_request};
pub(crate) use http2::{
    Connection, Driver, News, Reader, ReceiveBuffer, RecvHalf, RequestHead, Stream, StreamHandle,
    fields_len,
};
pub(crate) use message::{Message, Received, Run};
pub(crate) use response::{Encoding, Headers, Trailers};

/// Connects to `address`: dials it, secures the connection for `authority` and exchanges the
/// prefaces of HTTP/2.
///
/// With `beside`, a connection to the same address, the two share the calls from then on.
///
/// Returns once the server's SETTINGS have arrived as its first frame: the connection is READY
/// then. All of it lies under `deadline`. Dropping the future gives the attempt up.
pub(crate) async fn dial(
    connector: &Foreign<Arc<dyn Connect>>,
    security: &Security,
    address: &Address,
    authority: &Authority,
    options: &ConnectionOptions,
    beside: Option<&Connection>,
    deadline: Instant,
) -> Result<(Connection, Driver), ConnectError> {
    let fail = |fault| ConnectError::new(address.clone(), fault);
    let timed_out = |phase| move |_| fail(ConnectFault::TimedOut(phase));

    #[cfg(feature = "test-util")]
    if let Some(faults) = &options.faults {
        timeout_at(deadline, faults.before_dial(address))
            .await
            .map_err(timed_out(ConnectPhase::Connecting))?
            .map_err(|error| fail(ConnectFault::Dial(error.into())))?;
    }
    let dialling = connector.future(|connector| connector.connect(address));
    let io = timeout_at(deadline, dialling)
        .await
        .map_err(timed_out(ConnectPhase::Connecting))?
        .unwrap_or_else(|panicked| Err(std::io::Error::other(panicked)))
        .map_err(|error| fail(ConnectFault::Dial(error.into())))?;
    if let Some(keepalive) = &options.keepalive {
        let set = io.set_user_timeout(keepalive.timeout);
        set.map_err(|error| fail(ConnectFault::Dial(error.into())))?;
    }
    // Verifiers of certificates can be the application's.
    let handshake = || Box::pin(security.handshake(io, address)) as BoxFuture<'_, _>;
    let io = timeout_at(deadline, Caught::made("the certificate verifier", handshake))
        .await
        .map_err(timed_out(ConnectPhase::Handshaking))?
        .unwrap_or_else(|panicked| {
            let sentence = panicked.to_string();
            Err(ConnectFault::NotSecured(SecurityError::new(sentence).with_source(panicked)))
        })
        .map_err(fail)?;
    let identity = http2::Identity {
        address: address.clone(),
        authority: authority.clone(),
        scheme: security.scheme(),
        security: security.level(&io),
        proof: security.proof(&io),
        tls: io.tls(),
        ends: io.ends(),
    };
    #[cfg(feature = "test-util")]
    let io = match &options.faults {
        Some(faults) if faults.fails_handshake(address) => {
            let text = "the handshake was ended by an injected fault";
            let error = std::io::Error::new(std::io::ErrorKind::ConnectionReset, text);
            return Err(fail(ConnectFault::Dial(error.into())));
        }
        Some(faults) => faults.over(io, address),
        None => io,
    };
    timeout_at(deadline, http2::establish(io, identity, options, beside))
        .await
        .map_err(timed_out(ConnectPhase::AwaitingSettings))?
        .map_err(fail)
}

/// What all connections of a channel have in common.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionOptions {
    /// `user-agent` of every request.
    pub(crate) user_agent: HeaderValue,
    /// What servers may compress messages with, beside what their calls are compressed with.
    pub(crate) accepted: Arc<[Compression]>,
    /// Bytes that the server may send ahead on one stream.
    pub(crate) initial_stream_window: u32,
    /// Bytes that the server may send ahead on all streams together.
    pub(crate) initial_connection_window: u32,
    /// Whether the windows grow where that would make transfers faster.
    pub(crate) adaptive_windows: bool,
    /// When a silent connection is asked whether it lives.
    pub(crate) keepalive: Option<KeepaliveConfig>,
    /// Bytes of header fields that a response may have, each counted with 32 for its overhead.
    pub(crate) max_header_list_size: u32,
    /// The same of a request, whatever the server takes.
    pub(crate) request_fields_max: usize,
    /// How many connections there are to be to each address; where it is more than one, a call goes
    /// to the one with fewest streams.
    pub(crate) connections_per_address: usize,
    /// Calls that may wait for the server to take more streams, per address.
    pub(crate) queued_streams_max: usize,
    /// What may have arrived that nobody has read.
    pub(crate) receive_buffer: Arc<ReceiveBuffer>,
    /// Whether they note when they were last used for what.
    pub(crate) keeps_times: bool,
    /// How many streams each may have, where that is fewer than HTTP/2 has ids for.
    #[cfg(feature = "test-util")]
    pub(crate) stream_ids: u64,
    /// What a test has them suffer.
    #[cfg(feature = "test-util")]
    pub(crate) faults: Option<Arc<Faults>>,
}

impl Default for ConnectionOptions {
    fn default() -> Self {
        Self {
            user_agent: HeaderValue::from_static(USER_AGENT),
            accepted: Arc::default(),
            initial_stream_window: INITIAL_STREAM_WINDOW,
            initial_connection_window: INITIAL_CONNECTION_WINDOW,
            adaptive_windows: true,
            keepalive: None,
            max_header_list_size: MAX_HEADER_LIST_SIZE,
            request_fields_max: REQUEST_FIELDS_MAX,
            connections_per_address: 1,
            queued_streams_max: QUEUED_STREAMS_MAX,
            receive_buffer: ReceiveBuffer::new(RECEIVE_BUFFER_BYTES_MAX),
            keeps_times: false,
            #[cfg(feature = "test-util")]
            stream_ids: u64::MAX,
            #[cfg(feature = "test-util")]
            faults: None,
        }
    }
}

/// As gRPC asks: `grpc-`, the language, an implementation, its version.
const USER_AGENT: &str = concat!("grpc-rust-switchboard/", env!("CARGO_PKG_VERSION"));

/// 2 MiB, as hyper has it: 20 MiB/s at 100 ms of delay, without memory to speak of when idle.
const INITIAL_STREAM_WINDOW: u32 = 2 * 1024 * 1024;

/// 8 MiB: four streams at full speed, so that one reader that lags does not stop the others.
const INITIAL_CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;

/// 64 KiB: room for any sane metadata, and no lever for a hostile server.
const MAX_HEADER_LIST_SIZE: u32 = 64 * 1024;

/// 1 MiB: what servers take is far below, and the header fields of a request go out in one piece,
/// for which all other streams of the connection wait.
const REQUEST_FIELDS_MAX: usize = 1024 * 1024;

/// 256 MiB: more than a hundred streams that fill their windows because their readers take their
/// time, which is no fault, and less than what would take a process down.
pub(crate) const RECEIVE_BUFFER_BYTES_MAX: usize = 256 * 1024 * 1024;

/// 10,000 calls: beyond that a server that far behind is helped by an early error.
const QUEUED_STREAMS_MAX: usize = 10_000;
