//! What the engine gets to see of what a server sends, and what others hear of it.
//!
//! The engine counts empty DATA frames over the whole life of a connection, and its count can be
//! neither set nor reset. They carry nothing, so they are taken out of the stream of bytes before
//! the engine reads it. The same pass counts what the other frames make this side keep or do, and
//! tells what the engine does not.

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
    /// The stream whose last frame has begun to arrive.
    ending: Option<u32>,
    /// Offset of the next byte in the whole stream of bytes.
    position: u64,
    empty_frames: Allowance<EMPTY_FRAMES_MAX, EMPTY_FRAMES_PER_SECOND>,
    stream_updates: Allowance<STREAM_UPDATES_MAX, STREAM_UPDATES_PER_SECOND>,
}

/// Hears of what goes by.
pub(super) trait Listener {
    /// How many streams are open.
    fn open_streams(&self) -> usize;

    /// DATA for `stream` begins, of `len` bytes without its padding. Its last byte is the one before
    /// `position`.
    fn data(&mut self, stream: u32, len: usize, position: u64);

    /// A frame of `len` bytes begins with header fields for `stream`; `is_first` in a block.
    fn block(&mut self, stream: u32, len: usize, is_first: bool);

    /// A block of header fields for `stream` is here as a whole, which takes `cost` bytes in memory.
    /// `is_interim` if these may be informational headers (1xx), which others may follow. Of others it
    /// is told only where they cost more than [`FIELDS_FREE`].
    fn fields(&mut self, stream: u32, cost: usize, is_interim: bool);

    /// The last frame of `stream` is here as a whole, with all CONTINUATION frames of its headers.
    fn ended(&mut self, stream: u32);

    /// The server makes room in the window of `stream`.
    fn made_room(&mut self, stream: u32);

    /// A `WINDOW_UPDATE` of the connection, as far as it is here.
    fn made_room_for_all(&mut self, start: &[u8]);

    /// A PING that wants a PONG.
    fn ping(&mut self);

    /// SETTINGS of `len` bytes, as far as they are here.
    fn settings(&mut self, len: usize, start: &[u8]);

    /// The server resets `stream`.
    fn reset(&mut self, stream: u32);

    /// A GOAWAY of `len` bytes, as far as it is here.
    fn goaway(&mut self, len: usize, start: &[u8]);
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

    /// What of `bytes`, which arrive next, belongs to the frame that has begun.
    pub(super) fn rest_of_frame<'b>(&self, bytes: &'b [u8]) -> &'b [u8] {
        &bytes[..self.payload_left.min(bytes.len())]
    }

    /// Looks through `bytes`, which begin with those that were [held](Self::held), and moves those
    /// that the engine is to see to the front. Returns how many these are. Tells `listener` what is
    /// among them.
    pub(super) fn sift(
        &mut self,
        bytes: &mut [u8],
        listener: &mut impl Listener,
    ) -> Result<usize, Flood> {
        let (mut read, mut written) = (0, 0);
        // Of the frame that goes on: nothing if its head has gone by.
        let mut head_len = 0;
        loop {
            let payload_len = self.payload_left.min(bytes.len() - read - head_len);
            if let Some(block) = &mut self.block {
                block.fields.read(&bytes[read + head_len..][..payload_len]);
            }
            let len = head_len + payload_len;
            if written != read {
                bytes.copy_within(read..read + len, written);
            }
            (read, written) = (read + len, written + len);
            self.payload_left -= payload_len;
            if self.payload_left == 0 {
                self.frame_is_here(listener);
            }
            let Some(head) = Head::parse(&bytes[read..]) else { break };
            let behind = read + head.len;
            match self.judge(&head, behind, &bytes[behind..], listener)? {
                Verdict::Pass => (head_len, self.payload_left) = (head.len, head.payload_len),
                Verdict::Drop => (head_len, read) = (0, behind),
            }
        }
        self.position += read as u64;
        let rest = &bytes[read..];
        self.held[..rest.len()].copy_from_slice(rest);
        self.held_len = rest.len();
        Ok(written)
    }

    /// The frame that has begun is here as a whole, or none has.
    fn frame_is_here(&mut self, listener: &mut impl Listener) {
        if let Some(block) = &self.block {
            if !block.is_last_frame {
                return;
            }
            block.tell(listener);
            self.block = None;
        }
        if let Some(stream) = self.ending.take() {
            listener.ended(stream);
        }
    }

    /// Judges the frame of `head`, which ends `at` so many bytes from the last position. The bytes
    /// `behind` come after it.
    fn judge(
        &mut self,
        head: &Head,
        at: usize,
        behind: &[u8],
        listener: &mut impl Listener,
    ) -> Result<Verdict, Flood> {
        let Head { stream, flags, .. } = *head;
        match head.kind {
            // Padding takes room in the windows, for which only the engine can make up.
            DATA if head.is_empty() && flags & (END_STREAM | PADDED) == 0 => {
                if !self.empty_frames.spend(1) {
                    return Err(Flood::EmptyFrames);
                }
                return Ok(Verdict::Drop);
            }
            DATA => {
                self.empty_frames.earn(EMPTY_FRAMES_PER_FRAME);
                let len = head.payload_len.saturating_sub(head.padding);
                listener.data(stream, len, self.position + (at + head.payload_len) as u64);
                self.ending = (flags & END_STREAM != 0).then_some(stream);
            }
            HEADERS => {
                self.empty_frames.earn(EMPTY_FRAMES_PER_FRAME);
                listener.block(stream, head.frame_len(), true);
                self.ending = (flags & END_STREAM != 0).then_some(stream);
                self.begin_block(head, head.payload(behind), listener);
            }
            CONTINUATION => {
                listener.block(stream, head.frame_len(), false);
                if let Some(block) = &mut self.block {
                    block.goes_on(head);
                }
            }
            SETTINGS if flags & ACK == 0 => {
                self.updates_streams(head, listener)?;
                listener.settings(head.payload_len, head.payload(behind));
            }
            GOAWAY => {
                self.updates_streams(head, listener)?;
                listener.goaway(head.payload_len, head.payload(behind));
            }
            RST_STREAM => listener.reset(stream),
            WINDOW_UPDATE if stream > 0 => listener.made_room(stream),
            WINDOW_UPDATE => listener.made_room_for_all(head.payload(behind)),
            PING if flags & ACK == 0 => listener.ping(),
            _ => {}
        }
        Ok(Verdict::Pass)
    }

    /// A block begins with the frame of `head`, of whose payload so much is `here`.
    fn begin_block(&mut self, head: &Head, here: &[u8], listener: &mut impl Listener) {
        let is_whole = here.len() == head.payload_len && head.flags & END_HEADERS != 0;
        let is_final = head.flags & END_STREAM != 0 || here.first() == Some(&STATUS_200);
        let is_plain = head.flags & (PADDED | PRIORITY) == 0;
        if is_whole && is_final && is_plain && here.len() <= FREE_LEN {
            // As nearly all are that a server sends more than once.
            return;
        }
        let mut block = Block::of(head);
        if is_whole {
            // Nothing has to be kept of it.
            block.fields.read(here);
            block.tell(listener);
        } else {
            self.block = Some(block);
        }
    }

    /// The engine goes through all streams for a window that changes, and for a GOAWAY.
    fn updates_streams(&mut self, head: &Head, listener: &impl Listener) -> Result<(), Flood> {
        let open_streams = listener.open_streams();
        if head.is_empty() || self.stream_updates.spend(open_streams as u64) {
            Ok(())
        } else {
            Err(Flood::StreamUpdates { open_streams })
        }
    }
}

enum Verdict {
    Pass,
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

    /// The length of the frame without its header.
    fn frame_len(&self) -> usize {
        self.len - HEAD_LEN + self.payload_len
    }

    /// What of the bytes `behind` it belongs to its frame.
    fn payload<'b>(&self, behind: &'b [u8]) -> &'b [u8] {
        &behind[..self.payload_len.min(behind.len())]
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

    fn tell(&self, listener: &mut impl Listener) {
        let is_interim = self.goes_on && self.fields.first != Some(STATUS_200);
        let cost = self.fields.cost();
        if is_interim || cost > FIELDS_FREE {
            listener.fields(self.stream, cost, is_interim);
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
            if let Hpack::Field = self.state
                && let Some(behind) = self.read_whole(block)
            {
                block = behind;
                continue;
            }
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

    /// Reads a field that is here as a whole and whose numbers take a byte each, as nearly all are, in
    /// one step. Gives what comes behind it.
    fn read_whole<'b>(&mut self, block: &'b [u8]) -> Option<&'b [u8]> {
        let (byte, mut rest) = block.split_first()?;
        let first = First::of(*byte);
        if first.is_long {
            return None;
        }
        let mut text_len = 0;
        for _ in 0..first.strings {
            let (byte, behind) = rest.split_first()?;
            let len = usize::from(byte & !MORE);
            if len == LONG_LEN {
                return None;
            }
            rest = behind.get(len..)?;
            text_len += len;
        }
        self.begin(*byte, first);
        self.text_len += text_len;
        Some(rest)
    }

    /// The state after `byte`, which is in no string.
    fn after(&mut self, byte: u8) -> Hpack {
        match self.state {
            Hpack::Field => self.after_first(byte),
            Hpack::Index { strings } if byte & MORE != 0 => Hpack::Index { strings },
            Hpack::Index { strings: 0 } => Hpack::Field,
            Hpack::Index { strings } => Hpack::Length { strings: strings - 1 },
            Hpack::Length { strings } => match usize::from(byte & !MORE) {
                len @ LONG_LEN => Hpack::MoreLength { strings, len, shift: 0 },
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
        let first = First::of(byte);
        self.begin(byte, first);
        match (first.is_long, first.strings) {
            (true, strings) => Hpack::Index { strings },
            (false, 0) => Hpack::Field,
            (false, strings) => Hpack::Length { strings: strings - 1 },
        }
    }

    /// A field begins, or what is in the place of one, with `byte`.
    fn begin(&mut self, byte: u8, first: First) {
        self.first.get_or_insert(byte);
        self.count += usize::from(first.is_field);
        self.has_dynamic |= first.is_dynamic;
    }

    /// What the fields take in memory. Entries of the dynamic table are shared among all that refer
    /// to them, but outlive the table there.
    fn cost(&self) -> usize {
        let shared = if self.has_dynamic { DYNAMIC_TABLE_LEN } else { 0 };
        self.count * FIELD_COST + self.text_len * TEXT_FACTOR + shared
    }
}

/// What the first byte of a field tells.
#[derive(Clone, Copy)]
struct First {
    /// Whether it is a field, and not a size of the table.
    is_field: bool,
    /// Whether its index goes on in further bytes.
    is_long: bool,
    /// Whether its index is, or may be, one of the dynamic table.
    is_dynamic: bool,
    /// How many strings follow.
    strings: u8,
}

impl First {
    fn of(byte: u8) -> Self {
        match byte {
            0x80.. => Self::indexed(byte, 0x7f),
            0x40.. => Self::literal(byte, 0x3f),
            0x20.. => Self { is_field: false, is_dynamic: false, ..Self::indexed(byte, 0x1f) },
            _ => Self::literal(byte, 0x0f),
        }
    }

    /// A field by its index alone, which is in the bits of `mask`, and goes on if all are set.
    fn indexed(byte: u8, mask: u8) -> Self {
        let index = byte & mask;
        let (is_long, is_dynamic) = (index == mask, index > STATIC_INDEX_MAX.min(mask - 1));
        Self { is_field: true, is_long, is_dynamic, strings: 0 }
    }

    /// One whose value is spelled out, and its name where that has no index.
    fn literal(byte: u8, mask: u8) -> Self {
        let strings = if byte & mask == 0 { 2 } else { 1 };
        Self { strings, ..Self::indexed(byte, mask) }
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
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
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

/// A length that goes on in further bytes.
const LONG_LEN: usize = 0x7f;

const STATIC_INDEX_MAX: u8 = 61;

/// What the dynamic table may hold, since this side allows the default.
const DYNAMIC_TABLE_LEN: usize = 4_096;

/// A field in the engine's map of fields, at its sparsest: the map doubles when it is full.
const FIELD_COST: usize = 256;

/// What the header fields of one stream may take without being counted: far more than usual ones,
/// so that small calls pay nothing, and about what a call takes anyway.
pub(super) const FIELDS_FREE: usize = 8 * 1024;

/// A block of so many bytes does not cost more, be every byte of it a field.
const FREE_LEN: usize = (FIELDS_FREE - DYNAMIC_TABLE_LEN) / (FIELD_COST + TEXT_FACTOR);

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

    /// What is told, and how many bytes had arrived by then.
    struct Heard {
        open_streams: usize,
        arrived: usize,
        all: Vec<(Told, usize)>,
    }

    #[derive(Clone, Debug, PartialEq)]
    enum Told {
        Data { stream: u32, len: usize, position: u64 },
        Block { stream: u32, len: usize, is_first: bool },
        Fields { stream: u32, cost: usize, is_interim: bool },
        Ended(u32),
        MadeRoom(u32),
        MadeRoomForAll(Vec<u8>),
        Ping,
        Settings,
        Reset(u32),
        Goaway { len: usize, start: Vec<u8> },
    }

    impl Heard {
        fn with(open_streams: usize) -> Self {
            Self { open_streams, arrived: 0, all: Vec::new() }
        }

        fn hear(&mut self, told: Told) {
            self.all.push((told, self.arrived));
        }
    }

    impl Listener for Heard {
        fn open_streams(&self) -> usize {
            self.open_streams
        }

        fn data(&mut self, stream: u32, len: usize, position: u64) {
            self.hear(Told::Data { stream, len, position });
        }

        fn block(&mut self, stream: u32, len: usize, is_first: bool) {
            self.hear(Told::Block { stream, len, is_first });
        }

        fn fields(&mut self, stream: u32, cost: usize, is_interim: bool) {
            self.hear(Told::Fields { stream, cost, is_interim });
        }

        fn ended(&mut self, stream: u32) {
            self.hear(Told::Ended(stream));
        }

        fn made_room(&mut self, stream: u32) {
            self.hear(Told::MadeRoom(stream));
        }

        fn made_room_for_all(&mut self, start: &[u8]) {
            self.hear(Told::MadeRoomForAll(start.to_vec()));
        }

        fn ping(&mut self) {
            self.hear(Told::Ping);
        }

        fn settings(&mut self, _: usize, _: &[u8]) {
            self.hear(Told::Settings);
        }

        fn reset(&mut self, stream: u32) {
            self.hear(Told::Reset(stream));
        }

        fn goaway(&mut self, len: usize, start: &[u8]) {
            self.hear(Told::Goaway { len, start: start.to_vec() });
        }
    }

    /// What passes of `bytes`, in pieces of `size`, and what is told of them.
    fn sifted(bytes: &[u8], size: usize) -> (Vec<u8>, Vec<(Told, usize)>) {
        let (mut sieve, mut passed, mut heard) = (Sieve::default(), Vec::new(), Heard::with(1));
        for piece in bytes.chunks(size) {
            heard.arrived += piece.len();
            if let Some((Told::Goaway { start, .. } | Told::MadeRoomForAll(start), _)) =
                heard.all.last_mut()
            {
                start.extend(sieve.rest_of_frame(piece));
            }
            let mut piece = [sieve.held(), piece].concat();
            let len = sieve.sift(&mut piece, &mut heard).unwrap();
            passed.extend(&piece[..len]);
        }
        passed.extend(sieve.held());
        (passed, heard.all)
    }

    /// What is kept of `bytes`, in pieces of `size`.
    fn kept(bytes: &[u8], size: usize) -> Vec<Told> {
        let told = sifted(bytes, size).1.into_iter().map(|(told, _)| told);
        told.filter(|told| matches!(told, Told::Data { .. } | Told::Fields { .. })).collect()
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
        let whole = kept(&bytes, bytes.len());
        let lens: Vec<_> = whole
            .iter()
            .filter_map(|told| match told {
                Told::Data { stream, len, .. } => Some((*stream, *len)),
                _ => None,
            })
            .collect();
        assert_eq!(lens, [(1, 3), (3, 3), (3, 0), (3, 0), (1, 9), (1, 0)]);
        for size in 1..bytes.len() {
            assert_eq!(sifted(&bytes, size).0, expected, "by {size}");
            assert_eq!(kept(&bytes, size), whole, "by {size}");
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
    async fn a_stream_ends_with_the_last_byte_of_its_last_frame() {
        let mut bytes = frame(HEADERS, END_HEADERS, 1, &[0x88; 20]);
        let mut ends = Vec::new();
        for (part, ending) in [
            (frame(DATA, 0, 1, &[0; 100]), None),
            (frame(HEADERS, END_STREAM, 3, &[0x88; 10]), None),
            (frame(CONTINUATION, 0, 3, &[0x88; 10]), None),
            (frame(CONTINUATION, END_HEADERS, 3, &[0x88; 10]), Some(3)),
            (frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0x88; 5]), Some(1)),
            (frame(SETTINGS, ACK, 0, &[]), None),
            (frame(DATA, END_STREAM, 5, &[]), Some(5)),
            (frame(DATA, END_STREAM | PADDED, 7, &[0]), Some(7)),
        ] {
            bytes.extend(part);
            ends.extend(ending.map(|stream| (stream, bytes.len())));
        }
        for size in [1, 2, 9, 10, 33, 1_000] {
            let told = sifted(&bytes, size).1.into_iter();
            let seen: Vec<_> = told
                .filter_map(|(told, at)| match told {
                    Told::Ended(stream) => Some((stream, at)),
                    _ => None,
                })
                .collect();
            assert_eq!(seen.len(), ends.len(), "by {size}: {seen:?}");
            for ((stream, at), (expected, whole)) in seen.iter().zip(&ends) {
                assert_eq!(stream, expected, "by {size}");
                assert!((*whole..whole + size).contains(at), "by {size}: {at} of {whole}");
            }
        }
    }

    #[tokio::test]
    async fn what_the_engine_does_not_tell_is_told_however_the_bytes_are_cut() {
        let goaway = [&[0, 0, 0, 7, 0, 0, 0, 0][..], b"bye"].concat();
        let bytes = [
            frame(SETTINGS, ACK, 0, &[]),
            frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1, 0]),
            frame(WINDOW_UPDATE, 0, 5, &[0, 0, 1, 0]),
            frame(PING, 0, 0, &[0; 8]),
            frame(PING, ACK, 0, &[0; 8]),
            frame(HEADERS, PADDED, 3, &[1, STATUS_200, 0]),
            frame(CONTINUATION, END_HEADERS, 3, &[0x88; 7]),
            frame(GOAWAY, 0, 0, &goaway),
        ]
        .concat();
        for size in [1, 2, 9, 10, 33, 1_000] {
            let told = sifted(&bytes, size).1.into_iter().map(|(told, _)| told);
            let told: Vec<_> = told.filter(|it| !matches!(it, Told::Fields { .. })).collect();
            let expected = [
                Told::MadeRoomForAll(vec![0, 0, 1, 0]),
                Told::MadeRoom(5),
                Told::Ping,
                Told::Block { stream: 3, len: 3, is_first: true },
                Told::Block { stream: 3, len: 7, is_first: false },
                Told::Goaway { len: goaway.len(), start: goaway.clone() },
            ];
            assert_eq!(told, expected, "by {size}");
        }
    }

    #[tokio::test]
    async fn fields_are_counted_however_they_are_spelled_and_cut() {
        let long = "v".repeat(300);
        let rows: [(&str, Vec<u8>, usize, usize, bool); 9] = [
            ("nothing", vec![], 0, 0, false),
            ("static", vec![0x89, 0x88], 2, 0, false),
            ("so many that no other headers follow for free", vec![STATUS_200; 33], 33, 0, false),
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
            let expected = [Told::Fields { stream: 7, cost, is_interim }];
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
                    assert_eq!(kept(&bytes, size), expected, "{name} by {size}");
                }
            }
        }
        // What ends a stream is the last of it.
        let end = frame(HEADERS, END_HEADERS | END_STREAM, 7, &[0x89; 40]);
        let expected = Told::Fields { stream: 7, cost: 40 * FIELD_COST, is_interim: false };
        assert_eq!(kept(&end, 99), [expected]);
    }

    #[tokio::test]
    async fn nothing_is_told_of_few_fields_that_are_no_informational_headers() {
        // As many as are free, however they are cut.
        for (flags, block) in [
            (END_HEADERS, vec![STATUS_200; FIELDS_FREE / FIELD_COST]),
            (END_HEADERS | END_STREAM, vec![0xbe; FREE_LEN]),
            (END_HEADERS | END_STREAM, vec![0x89; FREE_LEN + 1]),
        ] {
            let bytes = frame(HEADERS, flags, 7, &block);
            for size in [1, 2, 9, 10, 11, 1_000] {
                assert_eq!(kept(&bytes, size), [], "{block:?} by {size}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn empty_frames_are_borne_up_to_a_rate_and_a_share_of_all() {
        let mut sieve = Sieve::default();
        let empty = frame(DATA, 0, 1, &[]);
        let mut sift = |bytes: &[u8], times: u64| {
            let sifted = |_| sieve.sift(&mut bytes.to_vec(), &mut Heard::with(1));
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
                let sifted = |_| sieve.sift(&mut bytes.clone(), &mut Heard::with(open_streams));
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
            sieve.sift(&mut idle.clone(), &mut Heard::with(1_000_000)).unwrap();
        }
    }
}
