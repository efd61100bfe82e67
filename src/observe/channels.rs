//! What can be seen of a channel beside its calls: connections, and connectivity states.

use std::error::Error;
use std::time::Duration;

use crate::types::{Address, ConnectivityState, SecurityLevel, Status, SubchannelId};

/// The channel that an event is of.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ChannelInfo<'a> {
    /// Its target, in its whole form.
    pub target: &'a str,
}

impl<'a> ChannelInfo<'a> {
    pub(crate) const fn new(target: &'a str) -> Self {
        Self { target }
    }
}

/// What happens to a channel, its calls aside.
///
/// Whatever begins comes to an end: a connection that was opened is disconnected once and then
/// closed, and each subchannel ends in SHUTDOWN, also where an actor crashed meanwhile. That of a
/// subchannel may come a little after the channel has closed.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum ChannelEvent<'a> {
    /// The channel has another state.
    StateChanged {
        /// Which.
        state: ConnectivityState,
    },
    /// The names are resolved, and are not what they were before.
    Resolved {
        /// To how many backends.
        endpoints: usize,
    },
    /// The names could not be resolved.
    ResolutionFailed {
        /// Why.
        cause: &'a Status,
    },
    /// Another load-balancing policy is at work, at the top of the tree; also where there was none,
    /// as after the channel was idle.
    PolicyChanged {
        /// Its name.
        policy: &'a str,
    },
    /// There is a new subchannel, IDLE.
    SubchannelCreated {
        /// Which: its number, that inspections show, is never used again.
        subchannel: SubchannelId,
        /// Its address.
        address: &'a Address,
    },
    /// A subchannel has another state.
    SubchannelStateChanged {
        /// Which.
        subchannel: SubchannelId,
        /// Its address.
        address: &'a Address,
        /// What it was.
        from: ConnectivityState,
        /// What it is; SHUTDOWN where it is no more.
        to: ConnectivityState,
        /// Why it is in `TRANSIENT_FAILURE`, if it is.
        cause: Option<&'a Status>,
    },
    /// A server has no health service where the service config asks for checks, so it is taken as
    /// healthy (A17). Told once for each connection.
    HealthCheckUnimplemented {
        /// Of this subchannel.
        subchannel: SubchannelId,
        /// Its address.
        address: &'a Address,
        /// What the server answered.
        cause: &'a Status,
    },
    /// A connection is up: the server has begun HTTP/2. One that is given up before is told as
    /// neither a success nor a failure (A94).
    ConnectionAttemptSucceeded {
        /// Of this subchannel.
        subchannel: SubchannelId,
        /// To this address.
        address: &'a Address,
        /// How long that took, all handshakes included; not the wait for its turn.
        took: Duration,
    },
    /// A connection did not come up.
    ConnectionAttemptFailed {
        /// Of this subchannel.
        subchannel: SubchannelId,
        /// To this address.
        address: &'a Address,
        /// How long that took.
        took: Duration,
        /// Why; the text names the address.
        cause: &'a (dyn Error + 'static),
    },
    /// A connection takes calls.
    ConnectionOpened {
        /// Of this subchannel.
        subchannel: SubchannelId,
        /// To this address.
        address: &'a Address,
        /// How it is protected.
        security: SecurityLevel,
    },
    /// A connection takes no more calls. Those that are open may go on.
    Disconnected {
        /// Of this subchannel.
        subchannel: SubchannelId,
        /// To this address.
        address: &'a Address,
        /// Why, in short. Where there are several reasons, it is the first that was seen (A94).
        reason: DisconnectReason,
        /// Why, at length; the text names the address.
        cause: &'a (dyn Error + 'static),
    },
    /// A connection is gone.
    ConnectionClosed {
        /// Of this subchannel.
        subchannel: SubchannelId,
        /// To this address.
        address: &'a Address,
        /// How it was protected.
        security: SecurityLevel,
    },
}

/// Why a connection takes no more calls, in short (A94).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DisconnectReason {
    /// The server sent a GOAWAY.
    Goaway {
        /// The name of its error code, such as `NO_ERROR`; `INTERNAL_ERROR` where HTTP/2 does not
        /// define the code.
        code: &'static str,
    },
    /// This side wants it no more: the channel is closed or idle, or the address is gone.
    SubchannelShutdown,
    /// The connection was reset.
    ConnectionReset,
    /// The connection timed out, or the server gave no sign of life.
    ConnectionTimedOut,
    /// The connection was aborted.
    ConnectionAborted,
    /// Another error of the socket.
    SocketError,
    /// Anything else, such as a server that closes the connection or breaks the protocol.
    Unknown,
}
