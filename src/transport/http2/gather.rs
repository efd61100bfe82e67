//! Short messages of one stream, gathered into few DATA frames.
//!
//! Each piece that the engine is given becomes a DATA frame at least. Servers count those that are
//! short and that nobody has read, and end the connection when there are too many: a server built on
//! h2 after some 130 to 3,500 of them, by the size of its window. So messages wait here until the
//! driver of the connection runs, which takes all that are there as one piece.
//!
//! Where a server does not seem to read, and each piece is short all the same since the messages
//! come one by one, a piece is held back until it is long enough not to count, or for
//! [`HOLD_MAX`]. No message waits for anything that the server does.

use std::mem;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::time::Instant;

/// What one stream is to send and the engine does not have.
#[derive(Debug, Default)]
pub(super) struct Gather {
    held: Held,
    /// Whether the requests end with what is held.
    is_last: bool,
    /// Short frames that the server is not known to have read.
    short_frames: u32,
    /// Since when short messages are held back.
    since: Option<Instant>,
}

#[derive(Debug, Default)]
enum Held {
    #[default]
    Nothing,
    /// One message, as it is: nothing is copied as long as each goes alone.
    One(Bytes),
    Several(BytesMut),
}

/// When what is held is to be handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Now,
    At(Instant),
}

impl Gather {
    /// Bytes that are held.
    pub(super) fn len(&self) -> usize {
        match &self.held {
            Held::Nothing => 0,
            Held::One(frame) => frame.len(),
            Held::Several(block) => block.len(),
        }
    }

    /// Whether there is nothing to hand over.
    pub(super) fn is_empty(&self) -> bool {
        matches!(self.held, Held::Nothing)
    }

    /// Whether a message of so many bytes fits in behind what is held.
    pub(super) fn has_room(&self, len: usize) -> bool {
        self.len() + len <= BLOCK_MAX
    }

    /// Adds a message, which [fits](Self::has_room) or is the first. Gives whether what is held is
    /// due now where it may not have been before.
    pub(super) fn push(&mut self, frame: Bytes) -> bool {
        let (was_empty, was_short) = (self.is_empty(), self.len() < SHORT);
        self.held = match mem::take(&mut self.held) {
            Held::Nothing => Held::One(frame),
            Held::One(first) => {
                let mut block = BytesMut::with_capacity(BLOCK_START.max(first.len() + frame.len()));
                block.put_slice(&first);
                block.put_slice(&frame);
                Held::Several(block)
            }
            Held::Several(mut block) => {
                block.put_slice(&frame);
                Held::Several(block)
            }
        };
        was_empty || (was_short && self.len() >= SHORT)
    }

    /// The requests end with what is held.
    pub(super) fn end(&mut self) {
        self.is_last = true;
    }

    /// Takes out what is held, and whether the requests end with it.
    pub(super) fn take(&mut self) -> (Bytes, bool) {
        let is_short = (1..SHORT).contains(&self.len());
        self.short_frames += u32::from(is_short && !self.is_last);
        self.since = None;
        let piece = match mem::take(&mut self.held) {
            Held::Nothing => Bytes::new(),
            Held::One(frame) => frame,
            Held::Several(block) => block.freeze(),
        };
        (piece, self.is_last)
    }

    /// When what is held is to be handed over, where all streams of the connection have sent
    /// `short_frames` that their server is not known to have read.
    pub(super) fn due(&mut self, short_frames: u32, now: impl FnOnce() -> Instant) -> Due {
        let is_unread = self.short_frames >= SHORT_FRAMES_MAX
            || (short_frames >= SHORT_FRAMES_MAX && self.short_frames >= SHORT_FRAMES_MIN);
        if self.is_last || !is_unread || self.len() >= SHORT {
            return Due::Now;
        }
        let now = now();
        let until = *self.since.get_or_insert(now) + HOLD_MAX;
        if until <= now { Due::Now } else { Due::At(until) }
    }

    /// Short frames that the server is not known to have read.
    pub(super) fn short_frames(&self) -> u32 {
        self.short_frames
    }

    /// The server has answered so many times, each of which may be the answer to one.
    pub(super) fn answered(&mut self, times: u32) {
        self.short_frames = self.short_frames.saturating_sub(times);
    }

    /// The server makes room, as one does that has read.
    pub(super) fn is_read(&mut self) {
        self.short_frames = 0;
    }
}

/// The longest frame that every server takes. A longer piece would be cut, its rest perhaps short.
const BLOCK_MAX: usize = 16 * 1024;

/// What a block of several messages begins with.
const BLOCK_START: usize = 1024;

/// Frames from this length on count for nothing with h2, which counts by what shorter ones fall
/// short of it.
const SHORT: usize = 256;

/// So many short frames may be unread before further ones are held back: the smallest budget of an
/// h2 server, that of a window of 64 KiB, is used up by a hundred empty ones.
const SHORT_FRAMES_MAX: u32 = 64;

/// Where all streams of a connection together have as many, those that have this many of them hold
/// back. One is what a stream has whose server answers each message.
const SHORT_FRAMES_MIN: u32 = 2;

/// How long a short message is held back at most: what a message waits longer that comes by itself,
/// on a stream whose server neither answers nor makes room. At 5 ms, messages of 100 bytes that come
/// every 2 ms are long enough together.
const HOLD_MAX: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn held(lens: &[usize]) -> Gather {
        let mut gather = Gather::default();
        for len in lens {
            assert!(gather.is_empty() || gather.has_room(*len));
            gather.push(Bytes::from(vec![*len as u8; *len]));
        }
        gather
    }

    #[test]
    fn messages_come_out_in_the_order_in_which_they_were_put_in() {
        let rows: &[&[usize]] = &[&[], &[7], &[7, 9], &[5, 5, 2000, 5], &[20_000]];
        for lens in rows {
            let mut gather = held(lens);
            let expected: Vec<u8> = lens.iter().flat_map(|len| vec![*len as u8; *len]).collect();
            assert_eq!((gather.len(), gather.is_empty()), (expected.len(), lens.is_empty()));
            assert_eq!(gather.take(), (Bytes::from(expected), false));
            assert!(gather.is_empty());
        }
    }

    #[test]
    fn a_block_is_no_longer_than_a_frame() {
        let gather = held(&[10_000, 6_000]);
        assert!(gather.has_room(384) && !gather.has_room(385));
    }

    #[test]
    fn short_messages_are_held_back_for_a_while_where_nobody_seems_to_read() {
        let now = Instant::now();
        let after = |millis| now + Duration::from_millis(millis);
        // (own short frames, those of all, bytes held, whether it is the end, when it is due)
        let rows = [
            (0, 0, 10, false, Due::Now),
            (SHORT_FRAMES_MAX - 1, SHORT_FRAMES_MAX - 1, 10, false, Due::Now),
            (SHORT_FRAMES_MAX, SHORT_FRAMES_MAX, 10, false, Due::At(now + HOLD_MAX)),
            (SHORT_FRAMES_MAX, SHORT_FRAMES_MAX, SHORT - 1, false, Due::At(now + HOLD_MAX)),
            (SHORT_FRAMES_MAX, SHORT_FRAMES_MAX, SHORT, false, Due::Now),
            (SHORT_FRAMES_MAX, SHORT_FRAMES_MAX, 10, true, Due::Now),
            // One of many streams, on each of which a frame is on its way.
            (1, 10_000, 10, false, Due::Now),
            (SHORT_FRAMES_MIN, 10_000, 10, false, Due::At(now + HOLD_MAX)),
        ];
        for (own, all, len, is_last, due) in rows {
            let mut gather = held(&[len]);
            gather.short_frames = own;
            if is_last {
                gather.end();
            }
            assert_eq!(gather.due(all, || now), due, "{own} {all} {len} {is_last}");
            if due != Due::Now {
                // From the first look on, however many follow.
                assert_eq!(gather.due(all, || after(3)), due);
                assert_eq!(gather.due(all, || after(5)), Due::Now);
            }
        }
    }

    #[test]
    fn a_server_that_answers_or_makes_room_is_one_that_reads() {
        let mut gather = Gather::default();
        for _ in 0..10 {
            gather.push(Bytes::from_static(b"short"));
            gather.take();
        }
        gather.push(Bytes::from(vec![0; SHORT]));
        gather.take();
        assert_eq!(gather.short_frames(), 10);
        gather.answered(3);
        assert_eq!(gather.short_frames(), 7);
        gather.answered(30);
        assert_eq!(gather.short_frames(), 0);
        gather.short_frames = 5;
        gather.is_read();
        assert_eq!(gather.short_frames(), 0);
        // The last frame of a stream is not counted by any server.
        gather.push(Bytes::from_static(b"short"));
        gather.end();
        gather.take();
        assert_eq!(gather.short_frames(), 0);
    }
}
