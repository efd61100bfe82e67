//! What observers are told of connections.

use std::time::Duration;

use crate::observe::{ChannelEvent, Observers};
use crate::transport::{ConnectError, Connection, Disconnect, DisconnectCause};
use crate::types::{Address, SecurityLevel};

/// Tells of a dial that has come to its end by itself. One that is given up ends nowhere, and is told
/// as neither a success nor a failure (A94).
pub(super) fn tell_of_dial<T>(
    observers: &Observers,
    address: &Address,
    took: Duration,
    outcome: &Result<T, ConnectError>,
) {
    observers.tell(|| match outcome {
        Ok(_) => ChannelEvent::ConnectionAttemptSucceeded { address, took },
        Err(cause) => ChannelEvent::ConnectionAttemptFailed { address, took, cause },
    });
}

/// A connection that observers know of. However its driver comes to its end, be it by the end of its
/// runtime, they are told of a disconnection once, and then that it is closed.
pub(super) struct Open {
    observers: Observers,
    address: Address,
    security: SecurityLevel,
    is_disconnected: bool,
}

impl Open {
    pub(super) fn new(observers: &Observers, connection: &Connection) -> Self {
        let (address, security) = (connection.address().clone(), connection.security_level());
        observers.tell(|| ChannelEvent::ConnectionOpened { address: &address, security });
        Self { observers: observers.clone(), address, security, is_disconnected: false }
    }

    /// It takes no more calls; what comes after `cause` is not told (A94).
    pub(super) fn disconnected(&mut self, cause: &Disconnect) {
        if !self.is_disconnected {
            self.is_disconnected = true;
            let (address, reason) = (&self.address, cause.reason());
            self.observers.tell(|| ChannelEvent::Disconnected { address, reason, cause });
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.disconnected(&Disconnect::new(self.address.clone(), DisconnectCause::Abandoned));
        let (address, security) = (&self.address, self.security);
        self.observers.tell(|| ChannelEvent::ConnectionClosed { address, security });
    }
}
