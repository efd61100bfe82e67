//! Requests, responses and the options of a call.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::finish::{Finish, Hooks};
use crate::call::{Extras, Reply};
use crate::transport::{AllCallCredentials, CallCredentials};
use crate::types::{
    Address, Authority, Compression, Deadline, InvalidAuthority, Metadata, SecurityLevel, Status,
};

/// What one call is to do differently from the channel's defaults.
#[derive(Clone, Debug, Default)]
pub struct CallOptions {
    pub(super) metadata: Metadata,
    pub(super) end: End,
    pub(super) wait_for_ready: Option<bool>,
    pub(super) receive_bytes_max: Option<usize>,
    pub(super) send_bytes_max: Option<usize>,
    pub(super) compression: Compress,
    pub(super) authority: Option<Authority>,
    pub(super) credentials: AllCallCredentials,
    pub(super) extras: Option<Box<Extras>>,
    finish: Hooks,
}

/// When a call ends at the latest.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum End {
    #[default]
    Never,
    After(Duration),
    At(Deadline),
}

/// How the messages of a call are compressed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Compress {
    /// As the channel's are.
    #[default]
    AsChannel,
    /// Not at all.
    No,
    With(Compression),
}

impl Compress {
    pub(super) fn or(self, channel: Option<Compression>) -> Option<Compression> {
        match self {
            Self::AsChannel => channel,
            Self::No => None,
            Self::With(compression) => Some(compression),
        }
    }
}

impl CallOptions {
    /// The channel's defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the call with `DEADLINE_EXCEEDED` this long after it begins. It covers everything:
    /// resolution, waiting, connecting, sending, and reading to the trailers. Replaces a
    /// [`deadline`](Self::deadline). `Duration::MAX` is a timeout as well, of some thirty years: the
    /// channel's default does not replace it. Default: the channel's, which is none.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.end = End::After(timeout);
        self
    }

    /// Ends the call with `DEADLINE_EXCEEDED` at this instant. Replaces a
    /// [`timeout`](Self::timeout).
    pub fn deadline(mut self, deadline: impl Into<Deadline>) -> Self {
        self.end = End::At(deadline.into());
        self
    }

    /// Whether the call waits while no server can be reached, instead of failing with UNAVAILABLE.
    /// Default: the channel's, which is `false`.
    pub fn wait_for_ready(mut self, wait: bool) -> Self {
        self.wait_for_ready = Some(wait);
        self
    }

    /// The largest message that is taken from the server, in bytes; a larger one ends the call with
    /// `RESOURCE_EXHAUSTED` before it is read. Default: the channel's, which is 4 MiB.
    pub fn max_receive_message_bytes(mut self, bytes: usize) -> Self {
        self.receive_bytes_max = Some(bytes);
        self
    }

    /// The largest message that is sent, in bytes; a larger one is not sent and ends the call with
    /// `RESOURCE_EXHAUSTED`. Default: the channel's, which is no limit.
    pub fn max_send_message_bytes(mut self, bytes: usize) -> Self {
        self.send_bytes_max = Some(bytes);
        self
    }

    /// Compresses the messages that are sent, or none with `None`; a stream may choose for each
    /// message with [`Sender::compress`](crate::Sender::compress). A server that does not have it
    /// ends the call with UNIMPLEMENTED. Default: the channel's, which is no compression.
    pub fn compress(mut self, compression: impl Into<Option<Compression>>) -> Self {
        self.compression = compression.into().map_or(Compress::No, Compress::With);
        self
    }

    /// Addresses the server by another name than the channel's.
    ///
    /// Over TLS the certificate of the connection must be for that name as well: otherwise the call
    /// fails with UNAVAILABLE and nothing is sent. Insecure and local connections prove nothing and
    /// allow any name; there call credentials are asked for the channel's.
    pub fn authority(mut self, authority: &str) -> Result<Self, InvalidAuthority> {
        self.authority = Some(Authority::parse(authority)?);
        Ok(self)
    }

    /// Proves to the server who calls, beside the channel's own credentials and those that were
    /// given here before.
    pub fn credentials(mut self, credentials: impl CallCredentials) -> Self {
        self.credentials = self.credentials.with(Arc::new(credentials));
        self
    }

    /// What the server may compress its messages with, the first being the dearest; what the call
    /// itself is [compressed](Self::compress) with is always accepted. Default: the channel's, which
    /// is nothing.
    pub fn accept_compression(mut self, accepted: impl IntoIterator<Item = Compression>) -> Self {
        let extras = self.extras.get_or_insert_default();
        extras.accepted = Some(accepted.into_iter().collect());
        self
    }

    /// How much of the call is kept to be sent again, in bytes; a call that has sent more is not
    /// retried (A6). Default: the channel's, which is 256 KiB.
    pub fn max_retry_buffer_bytes(mut self, bytes: usize) -> Self {
        self.extras.get_or_insert_default().retry_buffer_max = Some(bytes);
        self
    }

    /// Calls `hook` with the result of the call when it is over, exactly once: also where it fails
    /// before any attempt, and with CANCELLED where it is dropped under way. May be said several times; the
    /// hooks are called in that order.
    ///
    /// Of a stream the end is what its receiving side has seen. The hook runs on the task that
    /// sees the end, and must not block. Options that are used for several calls have it called for
    /// each.
    pub fn on_finish(mut self, hook: impl Fn(Result<(), &Status>) + Send + Sync + 'static) -> Self {
        self.finish.push(hook);
        self
    }

    /// What is sent along with the call.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// What is sent along with the call, to be changed.
    pub fn metadata_mut(&mut self) -> &mut Metadata {
        &mut self.metadata
    }

    /// Takes out what is to be called when the call is over.
    pub(super) fn take_finish(&mut self) -> Finish {
        self.finish.take()
    }

    pub(super) fn deadline_from(&self, now: Instant) -> Option<Instant> {
        match self.end {
            End::Never => None,
            End::After(timeout) => Some(Deadline::after(now, timeout).instant()),
            End::At(deadline) => Some(deadline.instant()),
        }
    }
}

/// A request: a message, and the options of its call.
#[derive(Clone, Debug)]
pub struct Request<M> {
    message: M,
    options: CallOptions,
}

impl<M> Request<M> {
    /// A request with the channel's defaults.
    pub fn new(message: M) -> Self {
        Self { message, options: CallOptions::new() }
    }

    /// As [`CallOptions::timeout`].
    pub fn timeout(self, timeout: Duration) -> Self {
        self.with(|options| options.timeout(timeout))
    }

    /// As [`CallOptions::deadline`].
    pub fn deadline(self, deadline: impl Into<Deadline>) -> Self {
        self.with(|options| options.deadline(deadline))
    }

    /// As [`CallOptions::wait_for_ready`].
    pub fn wait_for_ready(self, wait: bool) -> Self {
        self.with(|options| options.wait_for_ready(wait))
    }

    /// As [`CallOptions::max_receive_message_bytes`].
    pub fn max_receive_message_bytes(self, bytes: usize) -> Self {
        self.with(|options| options.max_receive_message_bytes(bytes))
    }

    /// As [`CallOptions::max_send_message_bytes`].
    pub fn max_send_message_bytes(self, bytes: usize) -> Self {
        self.with(|options| options.max_send_message_bytes(bytes))
    }

    /// As [`CallOptions::compress`].
    pub fn compress(self, compression: impl Into<Option<Compression>>) -> Self {
        self.with(|options| options.compress(compression))
    }

    /// As [`CallOptions::authority`].
    pub fn authority(self, authority: &str) -> Result<Self, InvalidAuthority> {
        let Self { message, options } = self;
        Ok(Self { message, options: options.authority(authority)? })
    }

    /// As [`CallOptions::credentials`].
    pub fn credentials(self, credentials: impl CallCredentials) -> Self {
        self.with(|options| options.credentials(credentials))
    }

    /// As [`CallOptions::accept_compression`].
    pub fn accept_compression(self, accepted: impl IntoIterator<Item = Compression>) -> Self {
        self.with(|options| options.accept_compression(accepted))
    }

    /// As [`CallOptions::max_retry_buffer_bytes`].
    pub fn max_retry_buffer_bytes(self, bytes: usize) -> Self {
        self.with(|options| options.max_retry_buffer_bytes(bytes))
    }

    /// As [`CallOptions::on_finish`].
    pub fn on_finish(self, hook: impl Fn(Result<(), &Status>) + Send + Sync + 'static) -> Self {
        self.with(|options| options.on_finish(hook))
    }

    /// Replaces all options.
    pub fn options(mut self, options: CallOptions) -> Self {
        self.options = options;
        self
    }

    /// The message.
    pub fn message(&self) -> &M {
        &self.message
    }

    /// What is sent along with the call.
    pub fn metadata(&self) -> &Metadata {
        self.options.metadata()
    }

    /// What is sent along with the call, to be changed.
    pub fn metadata_mut(&mut self) -> &mut Metadata {
        self.options.metadata_mut()
    }

    pub(super) fn into_parts(self) -> (M, CallOptions) {
        (self.message, self.options)
    }

    fn with(mut self, change: impl FnOnce(CallOptions) -> CallOptions) -> Self {
        self.options = change(self.options);
        self
    }
}

/// A successful answer: a message, and what the server sent around it.
#[derive(Clone, Debug)]
pub struct Response<M> {
    message: M,
    metadata: Metadata,
    trailers: Metadata,
    peer: Address,
    security: SecurityLevel,
}

impl<M> Response<M> {
    /// An answer that an interceptor gives in place of a server, as if it came from `peer` without
    /// protection.
    pub fn new(message: M, peer: impl Into<Address>) -> Self {
        let (metadata, trailers) = (Metadata::new(), Metadata::new());
        Self { message, metadata, trailers, peer: peer.into(), security: SecurityLevel::None }
    }

    /// One that a stream has given. A stream of an interceptor may not know its peer.
    pub(super) fn received(
        message: M,
        metadata: Metadata,
        trailers: Metadata,
        peer: Option<Address>,
        security: SecurityLevel,
    ) -> Self {
        let peer = peer.unwrap_or_else(|| Address::Name("an interceptor".into()));
        Self { message, metadata, trailers, peer, security }
    }

    /// The message.
    pub fn message(&self) -> &M {
        &self.message
    }

    /// The message alone.
    pub fn into_message(self) -> M {
        self.message
    }

    /// The same answer with another message, made of this one's.
    pub fn try_map<N, E>(self, message: impl FnOnce(M) -> Result<N, E>) -> Result<Response<N>, E> {
        let Self { message: old, metadata, trailers, peer, security } = self;
        Ok(Response { message: message(old)?, metadata, trailers, peer, security })
    }

    /// What the server sent before the message.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// What the server sent before the message, to be changed.
    pub fn metadata_mut(&mut self) -> &mut Metadata {
        &mut self.metadata
    }

    /// What the server sent after the message.
    pub fn trailers(&self) -> &Metadata {
        &self.trailers
    }

    /// What the server sent after the message, to be changed.
    pub fn trailers_mut(&mut self) -> &mut Metadata {
        &mut self.trailers
    }

    /// The server that answered.
    pub fn peer(&self) -> &Address {
        &self.peer
    }

    /// How the connection to it is protected.
    pub fn security_level(&self) -> SecurityLevel {
        self.security
    }
}

impl From<Reply> for Response<bytes::Bytes> {
    fn from(reply: Reply) -> Self {
        let Reply { headers, message, trailers, peer, security } = reply;
        Self { message, metadata: headers, trailers, peer, security }
    }
}
