//! channelz (A14): what channels, subchannels and sockets there are, and what became of them.
//!
//! An outlet of the events that observers are told: a channel that is in a [`Channelz`] has one
//! observer more. What a connection counts itself is asked for when somebody looks.

mod data;
mod entities;
mod entry;
#[cfg(feature = "channelz")]
mod messages;
#[cfg(feature = "channelz")]
mod service;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use data::{
    ChannelzCalls, ChannelzChannel, ChannelzEvent, ChannelzKind, ChannelzPage, ChannelzRef,
    ChannelzSeverity, ChannelzSocket, ChannelzSubchannel, ChannelzTrace,
};
#[cfg(feature = "channelz")]
pub use service::ChannelzService;

pub(crate) use entry::{ChannelEntry, OwnCall, SocketEntry};

use entities::Entities;

/// What can be seen of all channels that are in it (A14): each with its state, its calls and a trace
/// of what happened to it last, and below it its subchannels and their sockets.
///
/// [`ChannelBuilder::channelz`](crate::ChannelBuilder::channelz) puts a channel in. An entity has a
/// number, never used again. It is there for as long as it lives, and then for as long as one below
/// it does, or a trace speaks of it. With feature `channelz`, [`service`](Self::service) is what
/// tools like `grpcdebug` ask.
///
/// A clone is the same one. A call of a channel that is in one costs a few small allocations, counts
/// and looks at the clock more than of one that is not.
///
/// ```
/// use switchboard::{Channel, Channelz, Credentials};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let channelz = Channelz::new();
/// let channel = Channel::builder("ipv4:127.0.0.1:50051")
///     .credentials(Credentials::insecure())
///     .channelz(&channelz)
///     .build()?;
/// let page = channelz.top_channels(0, 50);
/// assert_eq!(page.items[0].target, "ipv4:127.0.0.1:50051");
/// assert_eq!(page.items[0].calls.started, 0);
/// # Ok(()) }
/// ```
#[derive(Clone, Default)]
pub struct Channelz(Arc<Mutex<Entities>>);

impl Channelz {
    /// One without any channel.
    pub fn new() -> Self {
        Self::default()
    }

    /// The channels that have no parent, by ascending number from `start` on, `max` at most.
    pub fn top_channels(&self, start: u64, max: usize) -> ChannelzPage<ChannelzChannel> {
        let entities = self.lock();
        let mut ids = entities.top_channels(start);
        let items = ids.by_ref().take(max).filter_map(|id| entities.channel(id)).collect();
        ChannelzPage { items, is_last: ids.next().is_none() }
    }

    /// A channel, nested ones included.
    pub fn channel(&self, id: u64) -> Option<ChannelzChannel> {
        self.lock().channel(id)
    }

    /// A subchannel.
    pub fn subchannel(&self, id: u64) -> Option<ChannelzSubchannel> {
        self.lock().subchannel(id)
    }

    /// A socket.
    pub fn socket(&self, id: u64) -> Option<ChannelzSocket> {
        let (itself, probe) = self.lock().socket(id)?;
        // Without the lock: a connection has one of its own.
        Some(ChannelzSocket { itself, connection: probe.report() })
    }

    fn lock(&self) -> MutexGuard<'_, Entities> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Channelz {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channelz").finish_non_exhaustive()
    }
}
