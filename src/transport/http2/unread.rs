//! What has arrived and nobody has read: a bound on it for a whole channel, and a window that it
//! does not close.
//!
//! The engine gives room back to a server when a stream is read, the stream's and the connection's
//! at once. A stream that nobody reads would so take the room of all others. Here the connection's
//! window grows by what is unread, so that only the stream's own ever closes; and what a channel
//! holds is bounded by ending the stream that has most of it.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::super::error::StreamError;
use super::connection::Shared;

/// How much of what arrives on the connections of a channel may wait to be read.
pub(crate) struct ReceiveBuffer {
    limit: usize,
    total: AtomicUsize,
    /// Locked before the table of any of them, never after.
    connections: Mutex<Vec<Weak<Shared>>>,
}

/// Gives up what a stream has received that nobody has read. Called by no thread that holds a lock
/// of the connection.
pub(crate) trait Discard: Send + Sync {
    fn discard(&self);
}

impl ReceiveBuffer {
    /// Up to `limit` bytes on all connections together.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, total: AtomicUsize::new(0), connections: Mutex::default() })
    }

    pub(super) fn join(&self, connection: &Arc<Shared>) {
        let mut connections = self.connections();
        connections.retain(|it| it.strong_count() > 0);
        connections.push(Arc::downgrade(connection));
    }

    /// Where too much is unread, ends the streams that have most of it until that is over.
    pub(super) fn relieve(&self) {
        if self.total.load(Ordering::Relaxed) <= self.limit {
            return;
        }
        // One at a time: two would each find a stream too many.
        let connections = self.connections();
        while self.total.load(Ordering::Relaxed) > self.limit {
            let alive = connections.iter().filter_map(Weak::upgrade);
            let laggards = alive.filter_map(|it| Some((it.laggard()?, it)));
            let Some((laggard, connection)) = laggards.max_by_key(|(laggard, _)| laggard.unread)
            else {
                return;
            };
            let error = StreamError::ReceiveBufferFull { limit: self.limit };
            connection.give_up_reading(&laggard, error);
        }
    }

    fn connections(&self) -> MutexGuard<'_, Vec<Weak<Shared>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for ReceiveBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceiveBuffer")
            .field("limit", &self.limit)
            .field("total", &self.total)
            .finish_non_exhaustive()
    }
}

/// The open stream of a connection that has most unread.
pub(super) struct Laggard {
    pub(super) key: usize,
    pub(super) id: u32,
    unread: usize,
}

/// What is unread on one connection.
#[derive(Debug)]
pub(super) struct Unread {
    /// Of all streams.
    total: AtomicUsize,
    streams: Mutex<HashMap<u32, usize>>,
    channel: Arc<ReceiveBuffer>,
}

impl Unread {
    pub(super) fn new(channel: Arc<ReceiveBuffer>) -> Self {
        Self { total: AtomicUsize::new(0), streams: Mutex::default(), channel }
    }

    pub(super) fn total(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }

    pub(super) fn channel(&self) -> &ReceiveBuffer {
        &self.channel
    }

    /// DATA of so many bytes arrives for `stream`, which may be none.
    pub(super) fn arrived(&self, stream: u32, len: usize) {
        if len < COUNTED_FROM {
            return;
        }
        *self.streams().entry(stream).or_default() += len;
        self.total.fetch_add(len, Ordering::Relaxed);
        self.channel.total.fetch_add(len, Ordering::Relaxed);
    }

    /// DATA of so many bytes is read.
    pub(super) fn read(&self, stream: u32, len: usize) {
        if len < COUNTED_FROM {
            return;
        }
        let mut streams = self.streams();
        let Some(unread) = streams.get_mut(&stream) else { return };
        let len = len.min(*unread);
        *unread -= len;
        self.take(len);
    }

    /// What is left of `stream` will not be read.
    pub(super) fn forget(&self, stream: u32) {
        // Nearly always, as most responses are small: nothing then is on their way.
        if self.total() == 0 {
            return;
        }
        let unread = self.streams().remove(&stream).unwrap_or_default();
        self.take(unread);
    }

    /// Forgets all streams but those of `live`, and finds the one with most; `live` are the place
    /// and the number of each.
    pub(super) fn most(&self, live: impl Iterator<Item = (usize, u32)>) -> Option<Laggard> {
        let mut streams = self.streams();
        let mut kept = HashMap::new();
        let mut most: Option<Laggard> = None;
        for (key, id) in live {
            let Some(unread) = streams.remove(&id) else { continue };
            kept.insert(id, unread);
            if unread > most.as_ref().map_or(0, |most| most.unread) {
                most = Some(Laggard { key, id, unread });
            }
        }
        // What came for streams that were gone by then.
        self.take(streams.values().sum());
        *streams = kept;
        most
    }

    /// Whether so many streams are counted that some of them must be gone.
    pub(super) fn is_overgrown(&self, open_streams: usize) -> bool {
        self.total() > 0 && self.streams().len() > 2 * open_streams + STRAYS_MAX
    }

    fn take(&self, len: usize) {
        self.total.fetch_sub(len, Ordering::Relaxed);
        self.channel.total.fetch_sub(len, Ordering::Relaxed);
    }

    fn streams(&self) -> MutexGuard<'_, HashMap<u32, usize>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        self.channel.total.fetch_sub(self.total(), Ordering::Relaxed);
    }
}

/// The window of a connection: what a server may send ahead, beside what nobody has read.
#[derive(Debug)]
pub(super) struct Window {
    ahead: u32,
    /// What of the unread it makes up for.
    unread: u32,
}

impl Window {
    pub(super) fn new(ahead: u32) -> Self {
        Self { ahead, unread: 0 }
    }

    /// The server may from now on send so much ahead. Gives the window to set.
    pub(super) fn widen(&mut self, ahead: u32) -> u32 {
        self.ahead = self.ahead.max(ahead);
        self.target()
    }

    /// So much is unread. Gives the window to set, where that makes a difference.
    pub(super) fn make_up_for(&mut self, unread: usize) -> Option<u32> {
        let unread = u32::try_from(unread).unwrap_or(u32::MAX);
        if unread.abs_diff(self.unread) < self.ahead / 8 {
            return None;
        }
        self.unread = unread;
        Some(self.target())
    }

    fn target(&self) -> u32 {
        self.ahead.saturating_add(self.unread).min(super::WINDOW_MAX)
    }
}

/// DATA below this size is not counted, so that small calls cost nothing: the engine has a bound on
/// it of its own.
pub(super) const COUNTED_FROM: usize = 256;

/// How many streams may be counted that are gone: DATA may still be under way to them.
const STRAYS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrives_and_is_read_or_forgotten_comes_to_nothing() {
        let channel = ReceiveBuffer::new(1_000);
        let unread = Unread::new(channel.clone());
        unread.arrived(1, 600);
        unread.arrived(3, 500);
        unread.arrived(1, COUNTED_FROM - 1);
        assert_eq!((unread.total(), channel.total.load(Ordering::Relaxed)), (1_100, 1_100));
        unread.read(1, 300);
        unread.read(5, 300);
        let most = unread.most([(0, 1), (7, 3)].into_iter()).unwrap();
        assert_eq!((most.key, most.id, most.unread), (7, 3, 500));
        // One that is gone counts no more.
        assert_eq!(unread.most([(0, 1)].into_iter()).unwrap().id, 1);
        assert_eq!(unread.total(), 300);
        unread.read(1, 999);
        unread.forget(1);
        assert_eq!((unread.total(), channel.total.load(Ordering::Relaxed)), (0, 0));
        unread.arrived(9, 700);
        drop(unread);
        assert_eq!(channel.total.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn streams_that_are_gone_are_not_counted_for_ever() {
        let unread = Unread::new(ReceiveBuffer::new(usize::MAX));
        for stream in 0..=STRAYS_MAX as u32 {
            assert!(!unread.is_overgrown(0));
            unread.arrived(stream, COUNTED_FROM);
        }
        assert!(unread.is_overgrown(0) && !unread.is_overgrown(1));
        assert!(unread.most(std::iter::empty()).is_none());
        assert_eq!((unread.total(), unread.is_overgrown(0)), (0, false));
    }

    #[test]
    fn a_window_makes_up_for_what_is_unread() {
        let mut window = Window::new(800);
        assert_eq!(window.make_up_for(99), None);
        assert_eq!(window.make_up_for(100), Some(900));
        assert_eq!(window.make_up_for(150), None);
        assert_eq!(window.widen(1_000), 1_100);
        assert_eq!(window.make_up_for(0), None);
        assert_eq!(window.make_up_for(usize::MAX), Some(super::super::WINDOW_MAX));
        assert_eq!(window.make_up_for(0), Some(1_000));
    }
}
