//! What the engine holds for streams that are over.
//!
//! A stream that is reset before its HEADERS have left stays in the output with all that was to be
//! sent, since on a stream HEADERS must come first. Its DATA may then lack the window, and its reset
//! waits behind them. A stream that is reset while its DATA wait for the window of the connection
//! stays in the queue for that window; the engine forgets it there for good, unless somebody holds
//! on to it until then. Servers that do not read, or give no window, can have a client pile up both.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Streams that are over and not gone. `Handle` is what a stream is held on to by.
#[derive(Debug)]
pub(super) struct Stale<Handle> {
    /// Those that were reset before their HEADERS had left, and what each takes in memory. They are
    /// gone once their reset has left.
    unsent: BTreeMap<u32, usize>,
    /// What they take together.
    bytes: usize,
    /// How many of them are gone.
    gone: u64,
    /// Those that may be in the queue for the window of the connection.
    parked: Vec<Handle>,
    /// How many more the engine has forgotten there.
    forgotten: usize,
    is_withheld: bool,
}

/// What is to become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// It can have more streams.
    Enough,
    /// It can have more once some have left.
    None,
    /// It has too many that will not leave: another connection has to take its place.
    Never,
}

impl<Handle> Default for Stale<Handle> {
    fn default() -> Self {
        Self {
            unsent: BTreeMap::new(),
            bytes: 0,
            gone: 0,
            parked: Vec::new(),
            forgotten: 0,
            is_withheld: false,
        }
    }
}

impl<Handle> Stale<Handle> {
    /// `stream` is reset, and neither its HEADERS have left nor the bytes behind them. Changes
    /// nothing if that is known.
    pub(super) fn is_unsent(&mut self, stream: u32, bytes: usize) {
        if let btree_map::Entry::Vacant(place) = self.unsent.entry(stream) {
            let takes = *place.insert(bytes.saturating_add(STREAM_BYTES));
            self.bytes = self.bytes.saturating_add(takes);
        }
    }

    /// Whether `stream` was reset before it had left, and is not gone.
    pub(super) fn has(&self, stream: u32) -> bool {
        self.unsent.contains_key(&stream)
    }

    /// A reset of `stream` has gone by. Where the server's came first, the engine may have forgotten
    /// the stream in the queue for the window, if it is in there.
    pub(super) fn is_gone(&mut self, stream: u32, by: By, may_lack_window: bool) {
        if let Some(took) = self.unsent.remove(&stream) {
            self.bytes = self.bytes.saturating_sub(took);
            self.gone += 1;
            self.forgotten += usize::from(by == By::Server && may_lack_window);
        }
    }

    /// How many were reset before they had left, and are not gone.
    pub(super) fn unsent(&self) -> usize {
        self.unsent.len()
    }

    /// How many of those are gone so far.
    pub(super) fn gone(&self) -> u64 {
        self.gone
    }

    /// A stream is over that may be in the queue for the window.
    pub(super) fn park(&mut self, handle: Handle) {
        self.parked.push(handle);
    }

    /// None is in that queue any more.
    pub(super) fn unpark(&mut self) {
        self.parked = Vec::new();
    }

    /// Whether there are none of which more is to be heard.
    pub(super) fn is_empty(&self) -> bool {
        self.unsent.is_empty() && self.parked.is_empty()
    }

    /// Whether there can be more.
    pub(super) fn room(&mut self) -> Room {
        let limit = if self.is_withheld { UNSENT_BYTES_MAX / 2 } else { UNSENT_BYTES_MAX };
        self.is_withheld = self.bytes > limit;
        if self.parked.len() + self.forgotten > PARKED_MAX {
            Room::Never
        } else if self.is_withheld {
            Room::None
        } else {
            Room::Enough
        }
    }
}

/// The resets that go by.
#[derive(Debug, Default)]
pub(super) struct Resets {
    /// Whether anybody wants to know.
    is_wanted: AtomicBool,
    noted: Mutex<Vec<(u32, By)>>,
}

/// Whose reset it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Us,
    Server,
}

impl Resets {
    /// Whether they are to be noted. Said before the engine is told to reset a stream.
    pub(super) fn want(&self, is_wanted: bool) {
        self.is_wanted.store(is_wanted, Ordering::Relaxed);
    }

    pub(super) fn are_wanted(&self) -> bool {
        self.is_wanted.load(Ordering::Relaxed)
    }

    /// One has gone by.
    pub(super) fn note(&self, stream: u32, by: By) {
        if self.are_wanted() {
            self.noted().push((stream, by));
        }
    }

    /// Takes out what has been noted.
    pub(super) fn take(&self) -> Vec<(u32, By)> {
        mem::take(&mut *self.noted())
    }

    fn noted(&self) -> MutexGuard<'_, Vec<(u32, By)>> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a stream takes beside the bytes that it sends: measured at 505 with HEADERS of a usual size
/// and a message of 10 bytes, and rounded up.
const STREAM_BYTES: usize = 512;

/// What streams that are over may take in the output of a connection before it gets no more: as many
/// as 2,000 small calls.
const UNSENT_BYTES_MAX: usize = 1_024 * 1_024;

/// So many streams that are over may wait for the window of a connection: 1 MiB.
pub(super) const PARKED_MAX: usize = 2_048;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_that_have_not_left_take_the_room_of_others_until_half_of_them_has() {
        let mut stale = Stale::<()>::default();
        assert_eq!((stale.room(), stale.is_empty()), (Room::Enough, true));
        let each = 64 * 1_024 - STREAM_BYTES;
        for stream in 1..=16 {
            stale.is_unsent(stream, each);
            assert_eq!(stale.room(), Room::Enough, "{stream}");
        }
        stale.is_unsent(17, 0);
        assert_eq!(stale.room(), Room::None);
        // Not before half is gone. Those that are not known change nothing.
        for (stream, room) in [(99, Room::None), (9, Room::None), (1, Room::None)] {
            stale.is_gone(stream, By::Us, false);
            assert_eq!(stale.room(), room, "{stream}");
        }
        (2..=8).for_each(|stream| stale.is_gone(stream, By::Server, false));
        assert_eq!((stale.room(), stale.unsent(), stale.gone()), (Room::Enough, 8, 9));
        assert!(stale.has(10) && !stale.has(9));
        // Then up to the whole again. One counts once.
        for _ in 0..2 {
            stale.is_unsent(18, 8 * 64 * 1_024);
            assert_eq!(stale.room(), Room::Enough);
        }
        stale.is_unsent(19, 64 * 1_024);
        assert_eq!(stale.room(), Room::None);
        (10..=19).for_each(|stream| stale.is_gone(stream, By::Us, false));
        assert_eq!((stale.room(), stale.is_empty(), stale.bytes), (Room::Enough, true, 0));
    }

    #[test]
    fn small_streams_count_as_what_they_take_in_memory() {
        let mut stale = Stale::<()>::default();
        let fit = (1..).take_while(|stream| {
            stale.is_unsent(*stream, 0);
            stale.room() == Room::Enough
        });
        assert_eq!(fit.count(), UNSENT_BYTES_MAX / STREAM_BYTES);
    }

    #[test]
    fn too_many_that_wait_for_the_window_wear_a_connection_out() {
        let mut stale = Stale::default();
        (0..PARKED_MAX).for_each(|nth| stale.park(nth));
        assert_eq!((stale.room(), stale.is_empty()), (Room::Enough, false));
        // However many there were, those that are gone do not count.
        stale.unpark();
        (0..PARKED_MAX).for_each(|nth| stale.park(nth));
        assert_eq!(stale.room(), Room::Enough);
        stale.park(0);
        assert_eq!(stale.room(), Room::Never);
    }

    #[test]
    fn those_that_the_engine_has_forgotten_do_not_come_back() {
        let mut stale = Stale::<()>::default();
        for nth in 0..=2_048 {
            assert_eq!(stale.room(), Room::Enough);
            stale.is_unsent(nth, 0);
            stale.is_gone(nth, By::Server, true);
            stale.unpark();
        }
        assert_eq!((stale.room(), stale.is_empty()), (Room::Never, true));
    }
}
