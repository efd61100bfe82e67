//! The call that asks a server whether it serves (A17): `/grpc.health.v1.Health/Watch`.
//!
//! It is here because what goes wrong with a stream becomes a `Status` in this layer. It is no call
//! of the application's: nobody picks for it, nothing is tried again, no interceptor and no observer
//! sees it, and channelz alone counts it.

use std::future::poll_fn;

use super::credentials::gather;
use super::{Shared, status};
use crate::transport::{
    AllCallCredentials, Connection, Received, RequestHead, ServingStatus, Stream, StreamError,
    health_request,
};
use crate::types::{Address, Code, MethodPath, Status};

/// A watch that is under way. Dropping it ends it.
pub(crate) struct HealthWatch {
    stream: Stream,
    path: MethodPath,
    peer: Address,
}

/// How a watch ended.
#[derive(Clone, Debug)]
pub(crate) enum WatchEnd {
    /// With its connection, or because that takes no more streams.
    ConnectionLost,
    /// The server does not know this method.
    Unimplemented(Status),
    /// In any other way; OK is one of them.
    Failed(Status),
}

impl HealthWatch {
    /// Asks the server of `connection` for `service`, with the call credentials of the channel.
    /// Where the server takes no more streams, this waits until it does. Cancel-safe.
    pub(crate) async fn open(
        shared: &Shared,
        connection: &Connection,
        service: &str,
    ) -> Result<Self, WatchEnd> {
        // That its path is one is checked below.
        let path = MethodPath::of_valid(WATCH).unwrap_or_else(|_| MethodPath::unnamed());
        let own = AllCallCredentials::default();
        let proof = gather(shared, &path, connection.authority(), &own, connection);
        let proof = proof.await.map_err(|error| WatchEnd::Failed(error.into_status()))?;
        let head = RequestHead {
            path: path.as_http(),
            authority: None,
            content_type: "application/grpc",
            timeout: None,
            encoding: None,
            // A few bytes are not worth it.
            accepted: Some(&[]),
            metadata: proof.as_fields(),
        };
        let peer = connection.address().clone();
        let opened = connection.open_aside(&head, health_request(service)).await;
        let stream = opened.map_err(|error| WatchEnd::of(&error, &peer))?;
        Ok(Self { stream, path, peer })
    }

    /// What the server says next. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<ServingStatus, WatchEnd> {
        let Self { stream, path, peer } = self;
        let recv = &mut stream.recv;
        let message = poll_fn(|cx| recv.poll_message(cx, MESSAGE_BYTES_MAX)).await;
        let failed = |error: StreamError| WatchEnd::of(&error, peer);
        let Some(message) = message else {
            let trailers = poll_fn(|cx| recv.poll_trailers(cx)).await.map_err(failed)?;
            let ended = status::of_trailers(trailers, None, path, peer);
            return Err(WatchEnd::said(match ended {
                Ok(_) => Status::new(Code::OK, "the server has ended the watch"),
                Err(status) => status,
            }));
        };
        let Received { compressed, payload } = message.map_err(failed)?;
        if compressed {
            let compressed = status::compressed(peer, "compression was not offered");
            return Err(WatchEnd::Failed(compressed));
        }
        ServingStatus::decode(&payload).map_err(|error| {
            WatchEnd::Failed(Status::internal(format!("{peer}: {error}")).with_source(error))
        })
    }
}

impl WatchEnd {
    /// Whether the server has ended it with OK.
    pub(crate) fn is_ok(&self) -> bool {
        matches!(self, Self::Failed(status) if status.code() == Code::OK)
    }

    fn of(error: &StreamError, peer: &Address) -> Self {
        match error {
            StreamError::Unsent(_) | StreamError::Unprocessed(_) | StreamError::Lost(_) => {
                Self::ConnectionLost
            }
            error => Self::said(status::of_stream_error(error, None, peer)),
        }
    }

    fn said(status: Status) -> Self {
        if status.code() == Code::UNIMPLEMENTED {
            Self::Unimplemented(status)
        } else {
            Self::Failed(status)
        }
    }
}

const WATCH: &str = "/grpc.health.v1.Health/Watch";
const _: () = assert!(MethodPath::is_valid(WATCH));

/// A response has a number and nothing else; what is so much longer comes from something else.
const MESSAGE_BYTES_MAX: usize = 4 * 1024;
