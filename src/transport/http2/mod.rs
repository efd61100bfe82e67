//! HTTP/2 over the `h2` crate, whose types do not leave this module.
//!
//! One lock per connection, held briefly, guards the table of open streams and the handle that
//! opens them. The engine itself is driven by one future, the [`Driver`], which also keeps the
//! deadlines of all streams with one timer. Streams beyond the peer's limit wait in one bounded
//! first-in-first-out queue before they enter the engine.

mod admission;
mod bdp;
mod blocks;
mod connection;
mod driver;
mod fault;
mod gather;
mod keepalive;
mod members;
mod observed;
mod pings;
mod request;
mod sieve;
mod signs;
mod stale;
mod stream;
#[cfg(test)]
mod tests;
mod times;
mod unread;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use rustc_hash::FxHashMap;

use crate::observe::TlsReport;
use crate::types::{Address, Authority, SecurityLevel};

use super::ConnectionOptions;
use super::connect::{Io, SocketEnds};
use super::credentials::Proof;
use super::error::{ConnectFault, ErrorCode, Goaway, NotProved, StreamError};
use observed::{FirstFrame, Observed, Watch};

pub(crate) use connection::Connection;
pub(crate) use driver::{Driver, News};
pub use keepalive::KeepaliveConfig;
#[cfg(feature = "test-util")]
pub(super) use observed::Frames;
pub(crate) use request::{RequestHead, fields_len};
pub(crate) use stream::{RecvHalf, Stream, StreamHandle};
pub(crate) use unread::{Reader, ReceiveBuffer};

/// Whom a connection goes to.
pub(super) struct Identity {
    /// Where it was dialled, for messages.
    pub(super) address: Address,
    /// `:authority` of requests that have none of their own.
    pub(super) authority: Authority,
    /// `:scheme` of all requests.
    pub(super) scheme: http::uri::Scheme,
    /// How it is protected.
    pub(super) security: SecurityLevel,
    /// Which names the server has proved.
    pub(super) proof: Proof,
    /// What TLS protects it with, where it is that.
    pub(super) tls: Option<TlsReport>,
    /// The socket's ends.
    pub(super) ends: SocketEnds,
}

impl Identity {
    /// Whether requests may be addressed to `authority`, as far as the handshake tells.
    fn check(&self, authority: &Authority) -> Result<(), StreamError> {
        self.proof.check(authority).map_err(|reason| {
            let (authority, secured_for) = (authority.clone(), self.authority.clone());
            StreamError::NotProved(Arc::new(NotProved { authority, secured_for, reason }))
        })
    }
}

/// Exchanges prefaces over `io`; returns once the server's SETTINGS are here.
pub(super) async fn establish(
    io: Io,
    identity: Identity,
    options: &ConnectionOptions,
    beside: Option<&Connection>,
) -> Result<(Connection, Driver), ConnectFault> {
    let watch = Arc::new(Watch::new(
        options.receive_buffer.clone(),
        options.max_header_list_size,
        options.keepalive.and(identity.ends.user_timeout),
    ));
    let observed = Observed::new(io, Arc::clone(&watch));
    // What small frames take in memory is counted, and bounded, by `Unread`.
    let handshake = h2::client::Builder::new()
        .enable_push(false)
        .initial_window_size(options.initial_stream_window.min(WINDOW_MAX))
        .initial_connection_window_size(options.initial_connection_window.min(WINDOW_MAX))
        .max_header_list_size(options.max_header_list_size)
        .max_send_buffer_size(SEND_BUFFER_BYTES)
        .max_concurrent_reset_streams(RESET_STREAMS_MAX)
        .max_local_error_reset_streams(Some(LATE_FRAMES_MAX))
        .data_frame_budget(usize::MAX)
        .handshake(observed);
    let (send_request, mut engine) =
        handshake.await.map_err(|error| fault_before_settings(&watch, &error))?;

    poll_fn(|cx| {
        let polled = Pin::new(&mut engine).poll(cx);
        match (watch.first_frame(), polled) {
            (Some(FirstFrame::Foreign(what)), _) => {
                Poll::Ready(Err(ConnectFault::NotHttp2(what.clone())))
            }
            // READY, and told to go at once: a graceful stop is no failed attempt, however few reads
            // it comes in. The driver meets the end.
            (Some(FirstFrame::Settings), Poll::Ready(ended))
                if watch.goaway().is_some_and(|goaway| goaway.code == ErrorCode::NO_ERROR)
                    && ended.as_ref().err().is_none_or(h2::Error::is_io) =>
            {
                Poll::Ready(Ok(()))
            }
            (_, Poll::Ready(Err(error))) => Poll::Ready(Err(fault_before_settings(&watch, &error))),
            (_, Poll::Ready(Ok(()))) if watch.has_ended() => {
                Poll::Ready(Err(ConnectFault::Closed(watch.loss().how)))
            }
            // The engine is content with a server that leaves while there is nothing to do.
            (_, Poll::Ready(Ok(()))) => {
                let goaway = watch.goaway().unwrap_or_else(|| Goaway::new(0, 0, b""));
                Poll::Ready(Err(ConnectFault::Goaway(goaway)))
            }
            // Nothing can be sent on it; what the server still says tells why.
            (Some(FirstFrame::Settings), Poll::Pending) if watch.write_failure().is_some() => {
                Poll::Pending
            }
            (Some(FirstFrame::Settings), Poll::Pending) => Poll::Ready(Ok(())),
            (None, Poll::Pending) => Poll::Pending,
        }
    })
    .await?;

    Ok(connection::new(engine, send_request, watch, identity, options, beside))
}

fn fault_before_settings(watch: &Watch, error: &h2::Error) -> ConnectFault {
    match (watch.first_frame(), watch.goaway()) {
        (Some(FirstFrame::Foreign(what)), _) => ConnectFault::NotHttp2(what.clone()),
        (_, Some(goaway)) if error.is_go_away() && error.is_remote() => {
            ConnectFault::Goaway(goaway)
        }
        _ if error.is_io() => ConnectFault::Closed(watch.loss().how),
        _ => ConnectFault::Protocol(error.to_string()),
    }
}

/// What is kept for each stream of a connection, by its number.
type ById<T> = FxHashMap<u32, T>;

/// The largest window that HTTP/2 knows.
const WINDOW_MAX: u32 = i32::MAX as u32;

/// What one stream may have waiting to be written before its sender waits: enough to keep a
/// connection busy, little enough for thousands of streams.
const SEND_BUFFER_BYTES: usize = 256 * 1024;

/// Streams that were reset here and whose late frames are still expected. Calls are often
/// cancelled in bulk, and one that is forgotten too early costs a needless `RST_STREAM`.
const RESET_STREAMS_MAX: usize = 1024;

/// Frames for forgotten streams, over the life of a connection, before it counts as an attack. The
/// engine's 1024 would end a healthy connection after a day of cancelled calls.
const LATE_FRAMES_MAX: usize = 64 * 1024;
