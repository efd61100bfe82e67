//! What can be seen of calls: one catalogue of events, from which metrics, traces and logs are made.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::channels::{ChannelEvent, ChannelInfo};
use crate::types::{Address, Metadata, MethodPath, Status, SubchannelId};

/// Sees the calls of a channel.
///
/// Registered with [`ChannelBuilder::observer`](crate::ChannelBuilder::observer). Observers watch:
/// they change nothing, but may [tell the server](CallObserver::propagate) that they do. What they
/// do runs on the path of the call, so they must be quick and must not block. Where there are none,
/// an event costs one branch. One that panics is as one that did nothing: the panic is caught and
/// logged, and what it was told of goes on. (That needs `panic = "unwind"`, which is the default.)
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// use switchboard::{CallEvent, CallInfo, CallObserver, Observer};
///
/// /// Counts the attempts of all calls.
/// #[derive(Clone, Default)]
/// struct Attempts(Arc<AtomicU64>);
///
/// impl Observer for Attempts {
///     fn call_began(&self, _: &CallInfo<'_>) -> Option<Arc<dyn CallObserver>> {
///         Some(Arc::new(self.clone()))
///     }
/// }
///
/// impl CallObserver for Attempts {
///     fn event(&self, event: &CallEvent<'_>) {
///         if let CallEvent::AttemptBegan { .. } = event {
///             self.0.fetch_add(1, Ordering::Relaxed);
///         }
///     }
/// }
/// ```
pub trait Observer: Send + Sync + 'static {
    /// A call begins; interceptors have seen it. What is given gets its events; `None` where this
    /// one is of no interest.
    fn call_began(&self, call: &CallInfo<'_>) -> Option<Arc<dyn CallObserver>>;

    /// Something has happened to the channel that is no call's: to a connection or a state. Told
    /// by whoever did it, actors and tasks of the channel's runtime among them. Default: nothing.
    fn channel_event(&self, channel: &ChannelInfo<'_>, event: &ChannelEvent<'_>) {
        let _ = (channel, event);
    }
}

/// Sees what happens to one call.
pub trait CallObserver: Send + Sync + 'static {
    /// Something has happened. Events of a call come one at a time where it is unary; those of a
    /// stream that is sent on and received from in different tasks may come side by side.
    fn event(&self, event: &CallEvent<'_>);

    /// What the server of an attempt is told of what is observed: a trace goes on there by that
    /// (A72). Asked between [`AttemptBegan`](CallEvent::AttemptBegan) and
    /// [`RequestHeaders`](CallEvent::RequestHeaders). `metadata` is empty, or has what the observers
    /// before have put in; by its keys it takes the place of the call's own. Default: nothing.
    fn propagate(&self, attempt: u32, metadata: &mut Metadata) {
        let _ = (attempt, metadata);
    }
}

/// A call that begins.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct CallInfo<'a> {
    /// The method.
    pub method: &'a MethodPath,
    /// Whether the program knows the method as a [`Method`](crate::Method); a path that was made
    /// up as it ran is no good label for metrics.
    pub is_known: bool,
    /// The target of the channel, in its whole form.
    pub target: &'a str,
}

impl<'a> CallInfo<'a> {
    pub(crate) const fn new(method: &'a MethodPath, is_known: bool, target: &'a str) -> Self {
        Self { method, is_known, target }
    }
}

/// What happens to a call, in the order in which it can.
///
/// Attempts have numbers, from 0: several can be under way at a time where a call is hedged.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum CallEvent<'a> {
    /// An attempt begins; a connection is picked for it next.
    AttemptBegan {
        /// Its number.
        attempt: u32,
        /// Why there is another.
        kind: AttemptKind,
    },
    /// The pick had to wait for the first resolution of the names.
    NamesResolved {
        /// The attempt that waited.
        attempt: u32,
        /// How long.
        waited: Duration,
    },
    /// The pick had to wait for a connection, or for the policy.
    PickCompleted {
        /// The attempt that waited.
        attempt: u32,
        /// How long, names included.
        waited: Duration,
    },
    /// The attempt goes to this subchannel, which has a connection.
    SubchannelPicked {
        /// The attempt.
        attempt: u32,
        /// Which, as [`ChannelEvent::SubchannelCreated`] told.
        subchannel: SubchannelId,
    },
    /// The request's headers are on their way.
    RequestHeaders {
        /// The attempt.
        attempt: u32,
        /// The server.
        peer: &'a Address,
        /// The name that it is addressed by.
        authority: &'a str,
        /// The application's metadata, that of interceptors, credentials and observers included.
        metadata: &'a Metadata,
        /// What is left until the deadline.
        timeout: Option<Duration>,
    },
    /// The application has sent a message; once for all attempts.
    RequestMessage {
        /// It, not compressed.
        payload: &'a [u8],
    },
    /// The application will send no further message; once for all attempts.
    RequestsEnded,
    /// A message is on its way.
    MessageSent {
        /// The attempt.
        attempt: u32,
        /// Its bytes as they go over the wire: compressed, if it is, and with the prefix of five.
        wire_bytes: usize,
    },
    /// The response's headers have come. There are none where the server sends trailers alone.
    ResponseHeaders {
        /// The attempt.
        attempt: u32,
        /// What the server sends before its messages.
        metadata: &'a Metadata,
    },
    /// A message has come.
    ResponseMessage {
        /// The attempt.
        attempt: u32,
        /// It, not compressed.
        payload: &'a Bytes,
        /// Its bytes as they came over the wire: compressed, if it was, and with the prefix of five.
        wire_bytes: usize,
    },
    /// The server has ended an attempt.
    ResponseTrailers {
        /// The attempt.
        attempt: u32,
        /// What the server sends at the end, its status aside.
        metadata: &'a Metadata,
    },
    /// An attempt is over.
    AttemptEnded {
        /// Its number.
        attempt: u32,
        /// How it ended; CANCELLED where this side gave it up.
        result: Result<(), &'a Status>,
    },
    /// The call is over. The last event, and there always is one.
    Ended {
        /// How it ended; CANCELLED where it was dropped.
        result: Result<(), &'a Status>,
    },
}

/// Why there is an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AttemptKind {
    /// It is the first.
    First,
    /// The one before failed, and the retry policy wants another (A6).
    Retry,
    /// The server cannot have seen the one before (A6).
    TransparentRetry,
    /// Those before have not answered yet (A6).
    Hedge,
}
