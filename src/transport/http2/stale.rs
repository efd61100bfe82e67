//! What the engine holds for streams that are over.
//!
//! A stream that ends before its HEADERS have left stays in the output with all that was to be
//! sent, since on a stream HEADERS must come first. One that ends while its DATA wait for the window
//! of the connection stays in the queue for that window; the engine forgets it there for good,
//! unless somebody holds on to it until then. Servers that do not read, or give no window, can have
//! a client pile up both.

use std::collections::BTreeMap;

/// Streams that are over and not gone. `Handle` is what a stream is held on to by.
#[derive(Debug)]
pub(super) struct Stale<Handle> {
    /// Those whose HEADERS have not left, and what each takes in memory.
    unsent: BTreeMap<u32, usize>,
    /// What they take together.
    bytes: usize,
    /// Those whose DATA may wait for the window of the connection.
    parked: Vec<Handle>,
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
        Self { unsent: BTreeMap::new(), bytes: 0, parked: Vec::new(), is_withheld: false }
    }
}

impl<Handle> Stale<Handle> {
    /// The HEADERS of `stream` have not left, nor the bytes behind them.
    pub(super) fn is_unsent(&mut self, stream: u32, bytes: usize) {
        let takes = bytes.saturating_add(STREAM_BYTES);
        self.unsent.insert(stream, takes);
        self.bytes = self.bytes.saturating_add(takes);
    }

    /// HEADERS have left up to those of `stream`.
    pub(super) fn have_left(&mut self, stream: u32) {
        while let Some(first) = self.unsent.first_entry().filter(|first| *first.key() <= stream) {
            self.bytes = self.bytes.saturating_sub(first.remove());
        }
    }

    /// A stream is over whose DATA may wait for the window.
    pub(super) fn park(&mut self, handle: Handle) {
        self.parked.push(handle);
    }

    /// Nothing waits for the window any more.
    pub(super) fn unpark(&mut self) {
        self.parked = Vec::new();
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.unsent.is_empty() && self.parked.is_empty()
    }

    /// Whether there can be more.
    pub(super) fn room(&mut self) -> Room {
        let limit = if self.is_withheld { UNSENT_BYTES_MAX / 2 } else { UNSENT_BYTES_MAX };
        self.is_withheld = self.bytes > limit;
        if self.parked.len() > PARKED_MAX {
            Room::Never
        } else if self.is_withheld {
            Room::None
        } else {
            Room::Enough
        }
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
        // In the order of their ids, and not before half is gone.
        for (stream, room) in [(0, Room::None), (4, Room::None), (8, Room::None), (9, Room::Enough)]
        {
            stale.have_left(stream);
            assert_eq!(stale.room(), room, "{stream}");
        }
        // Then up to the whole again.
        stale.is_unsent(18, 8 * 64 * 1_024);
        assert_eq!(stale.room(), Room::Enough);
        stale.is_unsent(19, 64 * 1_024);
        assert_eq!(stale.room(), Room::None);
        stale.have_left(u32::MAX);
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
}
