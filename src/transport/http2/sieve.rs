//! What the engine gets to see of what a server sends.
//!
//! The engine counts empty DATA frames over the whole life of a connection, and its count can be
//! neither set nor reset. They carry nothing, so they are taken out of the stream of bytes before
//! the engine reads it. The same pass counts what the other frames make this side keep or do.

use std::time::Duration;

use tokio::time::Instant;

/// Takes frames without content out of what arrives, and tells of the others.
///
/// A frame header that is not complete yet is held back until the rest of it arrives.
#[derive(Default)]
pub(super) struct Sieve {
    held: [u8; HEAD_LEN_MAX],
    held_len: usize,
    /// Bytes of the current frame that have not arrived yet.
    payload_left: usize,
    /// The fields that the current frame carries or continues.
    block: Option<Block>,
    /// Offset of the next byte in the whole stream of bytes.
    position: u64,
    empty_frames: Allowance<EMPTY_FRAMES_MAX, EMPTY_FRAMES_PER_SECOND>,
    stream_updates: Allowance<STREAM_UPDATES_MAX, STREAM_UPDATES_PER_SECOND>,
}

/// What a frame makes this side keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// DATA for `stream`, of `len` bytes without its padding. Its last byte is the one before
    /// `position`.
    Data { stream: u32, len: usize, position: u64 },
    /// A whole block of header fields for `stream`.
    Fields {
        stream: u32,
        /// What the fields take in memory, in bytes.
        cost: usize,
        /// Whether these may be informational headers (1xx), which others may follow.
        is_interim: bool,
    },
}

/// A server does what no server has a use for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flood {
    /// Too many DATA frames without data.
    EmptyFrames,
    /// Too much work for all open streams.
    StreamUpdates {
        /// How many streams are open.
        open_streams: usize,
    },
}

impl Flood {
    /// What the server did, and which limit it went over.
    pub(super) fn text(self) -> String {
        match self {
            Self::EmptyFrames => format!(
                "the server sent empty DATA frames, more than {EMPTY_FRAMES_MAX} beyond \
                 {EMPTY_FRAMES_PER_FRAME} for each other frame and {EMPTY_FRAMES_PER_SECOND} a \
                 second"
            ),
            Self::StreamUpdates { open_streams } => format!(
                "the server sent SETTINGS or GOAWAY frames, each of which touches all \
                 {open_streams} open streams, more than {STREAM_UPDATES_MAX} streams beyond \
                 {STREAM_UPDATES_PER_SECOND} a second"
            ),
        }
    }
}

impl Sieve {
    /// The bytes of an incomplete frame header, which belong in front of those that arrive next.
    pub(super) fn held(&self) -> &[u8] {
        &self.held[..self.held_len]
    }

    /// Hands out the bytes of an incomplete frame header: nothing will complete it.
    pub(super) fn give_up_held(&mut self) {
        self.held_len = 0;
    }

    /// Looks through `bytes`, which begin with those that were [held](Self::held), and moves those
    /// that the engine is to see to the front. Returns how many these are. Calls `kept` for each
    /// frame that makes this side keep something.
    pub(super) fn sift(
        &mut self,
        bytes: &mut [u8],
        open_streams: impl Fn() -> usize,
        mut kept: impl FnMut(Kept),
    ) -> Result<usize, Flood> {
        self.held_len = 0;
        let (mut read, mut written) = (0, 0);
        loop {
            let payload_len = self.payload_left.min(bytes.len() - read);
            if payload_len > 0 {
                let payload = read..read + payload_len;
                if let Some(block) = &mut self.block {
                    block.fields.read(&bytes[payload.clone()]);
                }
                if written != read {
                    bytes.copy_within(payload, written);
                }
                read += payload_len;
                written += payload_len;
                self.position += payload_len as u64;
                self.payload_left -= payload_len;
            }
            if self.payload_left == 0
                && let Some(block) = self.block.take_if(|block| block.is_last_frame)
            {
                kept(block.kept());
            }
            let Some(head) = Head::parse(&bytes[read..]) else { break };
            match self.judge(&head, &open_streams)? {
                Verdict::Drop => {
                    read += head.len;
                    self.position += head.len as u64;
                    continue;
                }
                Verdict::Pass(None) => {}
                Verdict::Pass(Some(data)) => kept(data),
            }
            if written != read {
                bytes.copy_within(read..read + head.len, written);
            }
            read += head.len;
            written += head.len;
            self.position += head.len as u64;
            self.payload_left = head.payload_len;
        }
        let rest = &bytes[read..];
        self.held[..rest.len()].copy_from_slice(rest);
        self.held_len = rest.len();
        Ok(written)
    }

    fn judge(&mut self, head: &Head, open_streams: &impl Fn() -> usize) -> Result<Verdict, Flood> {
        match head.kind {
            // Padding takes room in the windows, for which only the engine can make up.
            DATA if head.is_empty() && head.flags & (END_STREAM | PADDED) == 0 => {
                if !self.empty_frames.spend(1) {
                    return Err(Flood::EmptyFrames);
                }
                return Ok(Verdict::Drop);
            }
            DATA => {
                self.empty_frames.earn(EMPTY_FRAMES_PER_FRAME);
                let len = head.payload_len.saturating_sub(head.padding);
                let position = self.position + (head.len + head.payload_len) as u64;
                return Ok(Verdict::Pass(Some(Kept::Data { stream: head.stream, len, position })));
            }
            HEADERS => {
                self.empty_frames.earn(EMPTY_FRAMES_PER_FRAME);
                self.block = Some(Block::of(head));
            }
            CONTINUATION => {
                if let Some(block) = &mut self.block {
                    block.goes_on(head);
                }
            }
            // The engine goes through all streams for a window that changes, and for a GOAWAY.
            SETTINGS | GOAWAY if head.flags & ACK == 0 || head.kind == GOAWAY => {
                let open_streams = open_streams();
                if !head.is_empty() && !self.stream_updates.spend(open_streams as u64) {
                    return Err(Flood::StreamUpdates { open_streams });
                }
            }
            _ => {}
        }
        Ok(Verdict::Pass(None))
    }
}

enum Verdict {
    Pass(Option<Kept>),
    Drop,
}

/// The beginning of a frame: its header, and what tells of padding.
struct Head {
    kind: u8,
    flags: u8,
    stream: u32,
    /// Bytes of the beginning itself.
    len: usize,
    /// Bytes that come after it.
    payload_len: usize,
    /// How many of these are padding.
    padding: usize,
}

impl Head {
    /// Reads the beginning of a frame; `None` if `bytes` have less than that.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let [l2, l1, l0, kind, flags, s3, s2, s1, s0] = *bytes.first_chunk()?;
        let payload_len = u32::from_be_bytes([0, l2, l1, l0]) as usize;
        let stream = u32::from_be_bytes([s3 & 0x7f, s2, s1, s0]);
        let head = Self { kind, flags, stream, len: HEAD_LEN, payload_len, padding: 0 };
        let is_padded = flags & PADDED != 0 && matches!(kind, DATA | HEADERS) && payload_len > 0;
        if !is_padded {
            return Some(head);
        }
        let padding = usize::from(*bytes.get(HEAD_LEN)?);
        Some(Self { len: HEAD_LEN + 1, payload_len: payload_len - 1, padding, ..head })
    }

    /// Whether nothing comes after it.
    fn is_empty(&self) -> bool {
        self.payload_len == 0
    }
}

/// A block of header fields, which may go over several frames.
struct Block {
    stream: u32,
    /// Whether HEADERS without `END_STREAM` began it.
    goes_on: bool,
    is_last_frame: bool,
    fields: Fields,
}

impl Block {
    fn of(head: &Head) -> Self {
        let priority_len = if head.flags & PRIORITY == 0 { 0 } else { PRIORITY_LEN };
        let fields = Fields {
            skipped: priority_len,
            left: head.payload_len.saturating_sub(head.padding),
            ..Fields::default()
        };
        Self {
            stream: head.stream,
            goes_on: head.flags & END_STREAM == 0,
            is_last_frame: head.flags & END_HEADERS != 0,
            fields,
        }
    }

    fn goes_on(&mut self, head: &Head) {
        self.is_last_frame = head.flags & END_HEADERS != 0;
        self.fields.left = head.payload_len;
    }

    fn kept(&self) -> Kept {
        let is_final = self.fields.first == Some(STATUS_200);
        Kept::Fields {
            stream: self.stream,
            cost: self.fields.cost(),
            is_interim: self.goes_on && !is_final,
        }
    }
}

/// Counts the fields of a block in HPACK (RFC 7541, section 6) without decoding them.
#[derive(Default)]
struct Fields {
    /// Bytes in front of the block.
    skipped: usize,
    /// Bytes of the block in this frame; what comes behind is padding.
    left: usize,
    first: Option<u8>,
    count: usize,
    /// Bytes of names and values that are spelled out.
    text_len: usize,
    /// Whether an entry of the dynamic table is referred to.
    has_dynamic: bool,
    state: Hpack,
}

/// What the next byte of a block is.
#[derive(Clone, Copy, Default)]
enum Hpack {
    /// The first of a field.
    #[default]
    Field,
    /// More of an index; so many strings follow.
    Index { strings: u8 },
    /// The first of the length of a string; so many more strings follow.
    Length { strings: u8 },
    /// More of it.
    MoreLength { strings: u8, len: usize, shift: u32 },
    /// One of so many of a string.
    Text { strings: u8, left: usize },
}

impl Fields {
    fn read(&mut self, payload: &[u8]) {
        let skipped = self.skipped.min(payload.len());
        self.skipped -= skipped;
        self.left = self.left.saturating_sub(skipped);
        let block = &payload[skipped..];
        let mut block = &block[..block.len().min(self.left)];
        self.left -= block.len();
        while let [byte, rest @ ..] = block {
            if let Hpack::Text { strings, left } = self.state {
                let taken = left.min(block.len());
                self.text_len += taken;
                self.state = match left - taken {
                    0 => Hpack::after_string(strings),
                    left => Hpack::Text { strings, left },
                };
                block = &block[taken..];
                continue;
            }
            self.state = self.after(*byte);
            block = rest;
        }
    }

    /// The state after `byte`, which is in no string.
    fn after(&mut self, byte: u8) -> Hpack {
        match self.state {
            Hpack::Field => self.after_first(byte),
            Hpack::Index { strings } if byte & MORE != 0 => Hpack::Index { strings },
            Hpack::Index { strings: 0 } => Hpack::Field,
            Hpack::Index { strings } => Hpack::Length { strings: strings - 1 },
            Hpack::Length { strings } => match usize::from(byte & !MORE) {
                len @ 0x7f => Hpack::MoreLength { strings, len, shift: 0 },
                len => Hpack::text(strings, len),
            },
            Hpack::MoreLength { strings, len, shift } => {
                // Longer than any block: the engine refuses that.
                let more = usize::from(byte & !MORE).checked_shl(shift).unwrap_or(usize::MAX);
                let (len, shift) = (len.saturating_add(more), shift.saturating_add(7));
                if byte & MORE == 0 {
                    Hpack::text(strings, len)
                } else {
                    Hpack::MoreLength { strings, len, shift }
                }
            }
            // Taken care of by the caller.
            Hpack::Text { .. } => self.state,
        }
    }

    fn after_first(&mut self, byte: u8) -> Hpack {
        self.first.get_or_insert(byte);
        // What marks the kind of field, and how its index is spelled.
        let (mask, is_indexed, is_field) = match byte {
            0x80.. => (0x7f, true, true),
            0x40.. => (0x3f, false, true),
            0x20.. => (0x1f, true, false),
            _ => (0x0f, false, true),
        };
        let index = byte & mask;
        self.count += usize::from(is_field);
        self.has_dynamic |= is_field && index > STATIC_INDEX_MAX.min(mask - 1);
        let strings = match (is_indexed, index) {
            (true, _) => 0,
            (false, 0) => 2,
            (false, _) => 1,
        };
        match (index == mask, strings) {
            (true, strings) => Hpack::Index { strings },
            (false, 0) => Hpack::Field,
            (false, strings) => Hpack::Length { strings: strings - 1 },
        }
    }

    /// What the fields take in memory. Entries of the dynamic table are shared among all that refer
    /// to them, but outlive the table there.
    fn cost(&self) -> usize {
        let shared = if self.has_dynamic { DYNAMIC_TABLE_LEN } else { 0 };
        self.count * FIELD_COST + self.text_len * TEXT_FACTOR + shared
    }
}

impl Hpack {
    fn text(strings: u8, len: usize) -> Self {
        if len == 0 { Self::after_string(strings) } else { Self::Text { strings, left: len } }
    }

    fn after_string(strings: u8) -> Self {
        if strings == 0 { Self::Field } else { Self::Length { strings: strings - 1 } }
    }
}

/// How often something may happen: `MAX` times at once, `PER_SECOND` more each second, and what is
/// earned.
struct Allowance<const MAX: u64, const PER_SECOND: u64> {
    left: u64,
    /// When it was last filled up by time; `None` before it was first short.
    filled: Option<Instant>,
}

impl<const MAX: u64, const PER_SECOND: u64> Default for Allowance<MAX, PER_SECOND> {
    fn default() -> Self {
        Self { left: MAX, filled: None }
    }
}

impl<const MAX: u64, const PER_SECOND: u64> Allowance<MAX, PER_SECOND> {
    fn earn(&mut self, more: u64) {
        self.left = self.left.saturating_add(more).min(MAX);
    }

    /// Whether it lasted.
    fn spend(&mut self, amount: u64) -> bool {
        // The clock is read only where that matters.
        if self.left < amount || self.filled.is_none() {
            let now = Instant::now();
            let since = self.filled.replace(now).map_or(Duration::ZERO, |filled| now - filled);
            let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
            // What is less than a millisecond counts next time.
            if millis == 0 && !since.is_zero() {
                self.filled = Some(now - since);
            }
            self.earn(millis.saturating_mul(PER_SECOND) / 1_000);
        }
        match self.left.checked_sub(amount) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

const HEAD_LEN: usize = 9;

/// With the length of the padding.
const HEAD_LEN_MAX: usize = HEAD_LEN + 1;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;
const PRIORITY_LEN: usize = 5;

/// The field `:status: 200`, as every encoder spells it.
const STATUS_200: u8 = 0x88;

/// More bytes of a number follow.
const MORE: u8 = 0x80;

const STATIC_INDEX_MAX: u8 = 61;

/// What the dynamic table may hold, since this side allows the default.
const DYNAMIC_TABLE_LEN: usize = 4_096;

/// A field in the engine's map of fields, at its sparsest: the map doubles when it is full.
const FIELD_COST: usize = 256;

/// Huffman's code has no symbol shorter than five bits, so a byte on the wire is 1.6 bytes at most.
const TEXT_FACTOR: usize = 2;

/// Empty DATA frames that may come at once. Dropping one costs 20 ns.
const EMPTY_FRAMES_MAX: u64 = 10_000;
const EMPTY_FRAMES_PER_SECOND: u64 = 1_000;
/// A server that flushes more often than it has something to say still sends far less.
const EMPTY_FRAMES_PER_FRAME: u64 = 10;

/// Streams that SETTINGS and GOAWAY may touch at once: 200 times 10,000 open ones. Each takes some
/// 15 ns, so this is 30 ms in a second at most.
const STREAM_UPDATES_MAX: u64 = 2_000_000;
const STREAM_UPDATES_PER_SECOND: u64 = 2_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    /// What passes of `bytes`, in pieces of `size`, and what is kept of them.
    fn sifted(bytes: &[u8], size: usize) -> (Vec<u8>, Vec<Kept>) {
        let (mut sieve, mut passed, mut all) = (Sieve::default(), Vec::new(), Vec::new());
        for piece in bytes.chunks(size) {
            let mut piece = [sieve.held(), piece].concat();
            let len = sieve.sift(&mut piece, || 1, |kept| all.push(kept)).unwrap();
            passed.extend(&piece[..len]);
        }
        passed.extend(sieve.held());
        (passed, all)
    }

    #[tokio::test]
    async fn only_empty_data_is_taken_out_however_the_bytes_are_cut() {
        let padded = frame(DATA, PADDED, 3, &[2, b'a', b'b', b'c', 0, 0]);
        let pieces = [
            (frame(SETTINGS, 0, 0, &[]), true),
            (frame(DATA, 0, 1, &[]), false),
            (frame(HEADERS, END_HEADERS, 1, &[STATUS_200, 0x5f, 2, b'a', b'b']), true),
            (frame(DATA, 0, 1, b"abc"), true),
            (frame(DATA, 0, 1, &[]), false),
            (frame(DATA, 0, 5, &[]), false),
            (padded.clone(), true),
            // Room in the windows is not given back by dropping it.
            (frame(DATA, PADDED, 3, &[0]), true),
            (frame(DATA, PADDED, 3, &[]), true),
            (frame(DATA, 0, 1, &frame(DATA, 0, 1, &[])), true),
            (frame(DATA, END_STREAM, 1, &[]), true),
            (frame(DATA, 0, 1, &[]), false),
            (vec![0, 0, 0, DATA], true),
        ];
        let bytes: Vec<u8> = pieces.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        let expected: Vec<u8> = pieces
            .iter()
            .filter(|(_, passes)| *passes)
            .flat_map(|(bytes, _)| bytes.clone())
            .collect();
        let (_, whole) = sifted(&bytes, bytes.len());
        let lens: Vec<_> = whole
            .iter()
            .filter_map(|kept| match kept {
                Kept::Data { stream, len, .. } => Some((*stream, *len)),
                Kept::Fields { .. } => None,
            })
            .collect();
        assert_eq!(lens, [(1, 3), (3, 3), (3, 0), (3, 0), (1, 9), (1, 0)]);
        for size in 1..bytes.len() {
            assert_eq!(sifted(&bytes, size), (expected.clone(), whole.clone()), "by {size}");
        }
    }

    /// A literal without indexing, both parts spelled out.
    fn literal(name: &str, value: &str) -> Vec<u8> {
        let mut bytes = vec![0];
        for text in [name, value] {
            if text.len() < 127 {
                bytes.push(text.len() as u8);
            } else {
                let rest = text.len() - 127;
                assert!(rest < 1 << 14);
                bytes.extend([127, (rest % 128) as u8 | MORE, (rest / 128) as u8]);
            }
            bytes.extend(text.bytes());
        }
        bytes
    }

    #[tokio::test]
    async fn fields_are_counted_however_they_are_spelled_and_cut() {
        let long = "v".repeat(300);
        let rows: [(&str, Vec<u8>, usize, usize, bool); 8] = [
            ("nothing", vec![], 0, 0, false),
            ("static", vec![STATUS_200, 0x88], 2, 0, false),
            ("dynamic", vec![0xbe], 1, 0, true),
            ("far in the dynamic table", vec![0xff, 0x80, 0x01], 1, 0, true),
            ("literals", [literal("k", &long), literal("", "")].concat(), 2, 301, false),
            ("a static name", vec![0x50, 1, b'x', 0x0f, 0x05, 2, b'y', b'z'], 2, 3, true),
            ("a dynamic name", vec![0x7f, 0x00, 1, b'x'], 1, 1, true),
            ("a size, which is not a field", vec![0x3f, 0xe1, 0x1f, STATUS_200], 1, 0, false),
        ];
        for (name, block, count, text_len, has_dynamic) in rows {
            let shared = if has_dynamic { DYNAMIC_TABLE_LEN } else { 0 };
            let cost = count * FIELD_COST + text_len * TEXT_FACTOR + shared;
            let is_interim = block.first() != Some(&STATUS_200);
            let expected = [Kept::Fields { stream: 7, cost, is_interim }];
            // In one frame; padded, with a priority; and each byte in a frame of its own.
            let whole = frame(HEADERS, END_HEADERS, 7, &block);
            let padded = [&[3][..], &[0; PRIORITY_LEN], &block, &[0x88; 3]].concat();
            let padded = frame(HEADERS, END_HEADERS | PADDED | PRIORITY, 7, &padded);
            let mut single = frame(HEADERS, 0, 7, &[]);
            for byte in &block {
                single.extend(frame(CONTINUATION, 0, 7, &[*byte]));
            }
            single.extend(frame(CONTINUATION, END_HEADERS, 7, &[]));
            for bytes in [whole, padded, single] {
                for size in [1, 2, 9, 10, 11, 1_000] {
                    assert_eq!(sifted(&bytes, size).1, expected, "{name} by {size}");
                }
            }
        }
        // What ends a stream is the last of it.
        let end = frame(HEADERS, END_HEADERS | END_STREAM, 7, &[0x40, 0, 0]);
        let expected = Kept::Fields { stream: 7, cost: FIELD_COST, is_interim: false };
        assert_eq!(sifted(&end, 99).1, [expected]);
    }

    #[tokio::test(start_paused = true)]
    async fn empty_frames_are_borne_up_to_a_rate_and_a_share_of_all() {
        let mut sieve = Sieve::default();
        let empty = frame(DATA, 0, 1, &[]);
        let mut sift = |bytes: &[u8], times: u64| {
            let sifted = |_| sieve.sift(&mut bytes.to_vec(), || 1, |_| ());
            (0..times).map(sifted).find(Result::is_err)
        };
        // A hundred thousand of them, one with each answer.
        let answered = [empty.clone(), frame(DATA, 0, 1, b"x")].concat();
        assert_eq!(sift(&answered, 100_000), None);
        assert_eq!(sift(&empty, EMPTY_FRAMES_MAX), None);
        assert_eq!(sift(&empty, 1), Some(Err(Flood::EmptyFrames)));
        tokio::time::advance(Duration::from_millis(10)).await;
        assert_eq!(sift(&empty, EMPTY_FRAMES_PER_SECOND / 100), None);
        assert_eq!(sift(&empty, 1), Some(Err(Flood::EmptyFrames)));
    }

    #[tokio::test(start_paused = true)]
    async fn work_for_all_streams_is_borne_up_to_a_rate() {
        let settings = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 1]);
        let goaway = frame(GOAWAY, ACK, 0, &[0; 8]);
        for bytes in [settings, goaway] {
            let mut sieve = Sieve::default();
            let mut sift = |open_streams: usize, times: u64| {
                let sifted = |_| sieve.sift(&mut bytes.clone(), || open_streams, |_| ());
                (0..times).map(sifted).find(Result::is_err)
            };
            assert_eq!(sift(0, 200_000), None);
            assert_eq!(sift(10_000, STREAM_UPDATES_MAX / 10_000), None);
            let flood = Flood::StreamUpdates { open_streams: 10_000 };
            assert_eq!(sift(10_000, 1), Some(Err(flood)));
            tokio::time::advance(Duration::from_millis(10)).await;
            assert_eq!(sift(10_000, 2), None);
            assert_eq!(sift(10_000, 1), Some(Err(flood)));
        }
        // What is empty or acknowledges changes nothing.
        let mut sieve = Sieve::default();
        let idle = [frame(SETTINGS, 0, 0, &[]), frame(SETTINGS, ACK, 0, &[])].concat();
        for _ in 0..1_000 {
            sieve.sift(&mut idle.clone(), || 1_000_000, |_| ()).unwrap();
        }
    }
}
