//! What observers are told of connections.

use std::sync::Arc;
use std::time::Duration;

use super::registry::Subchannel;
use crate::observe::{ChannelEvent, Observers, SocketEntry};
use crate::transport::{ConnectError, Connection, Disconnect, DisconnectCause};
use crate::types::{Address, SecurityLevel, SubchannelId};

/// Tells of a dial that has come to its end by itself. One that is given up ends nowhere, and is told
/// as neither a success nor a failure (A94).
pub(super) fn tell_of_dial<T>(
    observers: &Observers,
    subchannel: &Subchannel,
    took: Duration,
    outcome: &Result<T, ConnectError>,
) {
    let (address, subchannel) = (&subchannel.address, subchannel.id);
    observers.tell(|| match outcome {
        Ok(_) => ChannelEvent::ConnectionAttemptSucceeded { subchannel, address, took },
        Err(cause) => ChannelEvent::ConnectionAttemptFailed { subchannel, address, took, cause },
    });
}

/// A connection that observers know of. However its driver comes to its end, be it by the end of its
/// runtime, they are told of a disconnection once, and then that it is closed.
pub(super) struct Open {
    observers: Observers,
    subchannel: SubchannelId,
    address: Address,
    security: SecurityLevel,
    is_disconnected: bool,
    _entry: Option<SocketEntry>,
}

impl Open {
    pub(super) fn new(
        observers: &Observers,
        subchannel: SubchannelId,
        connection: &Connection,
    ) -> Self {
        let (address, security) = (connection.address().clone(), connection.security_level());
        observers.tell(|| ChannelEvent::ConnectionOpened {
            subchannel,
            address: &address,
            security,
        });
        let channelz = observers.channelz();
        let entry = channelz.and_then(|it| it.opened(subchannel, Arc::new(connection.clone())));
        Self {
            observers: observers.clone(),
            subchannel,
            address,
            security,
            is_disconnected: false,
            _entry: entry,
        }
    }

    /// It takes no more calls; what comes after `cause` is not told (A94).
    pub(super) fn disconnected(&mut self, cause: &Disconnect) {
        if !self.is_disconnected {
            self.is_disconnected = true;
            let (subchannel, address, reason) = (self.subchannel, &self.address, cause.reason());
            self.observers.tell(|| ChannelEvent::Disconnected {
                subchannel,
                address,
                reason,
                cause,
            });
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.disconnected(&Disconnect::new(self.address.clone(), DisconnectCause::Abandoned));
        let (subchannel, address, security) = (self.subchannel, &self.address, self.security);
        self.observers.tell(|| ChannelEvent::ConnectionClosed { subchannel, address, security });
    }
}
