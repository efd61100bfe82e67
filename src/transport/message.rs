//! The five-byte prefix: messages on their way out, and out of the DATA that comes in.

use std::fmt;
use std::mem;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// An encoded message with its prefix in front, in one piece, which attempts and the retry buffer
/// share without copying.
#[derive(Clone)]
pub(crate) struct Message(Bytes);

impl Message {
    /// Lets `write` append the encoded message to a buffer that has room for `capacity_hint`
    /// bytes, and puts the prefix of an uncompressed message before it.
    pub(crate) fn encode<E>(
        capacity_hint: usize,
        write: impl FnOnce(&mut BytesMut) -> Result<(), E>,
    ) -> Result<Self, E> {
        Self::encode_flagged(false, capacity_hint, write)
    }

    /// As [`Message::encode`], for one message of many: the short ones share the memory of `block`.
    pub(crate) fn encode_in<E>(
        block: &mut BytesMut,
        capacity_hint: usize,
        write: impl FnOnce(&mut BytesMut) -> Result<(), E>,
    ) -> Result<Self, E> {
        let needed = PREFIX_LEN + capacity_hint;
        if needed > BLOCK_LEN / 4 {
            return Self::encode(capacity_hint, write);
        }
        block.clear();
        if block.capacity() < needed {
            block.reserve(BLOCK_LEN);
        }
        fill(block, false, write)?;
        let frame = block.split().freeze();
        if frame.len() > BLOCK_LEN {
            // It is longer than was said, and what is left of its memory is not worth keeping it.
            *block = BytesMut::new();
        }
        Ok(Self(frame))
    }

    /// As [`Message::encode`], for bytes that are compressed if `compressed` says so.
    pub(crate) fn encode_flagged<E>(
        compressed: bool,
        capacity_hint: usize,
        write: impl FnOnce(&mut BytesMut) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut buf = BytesMut::with_capacity(PREFIX_LEN + capacity_hint);
        fill(&mut buf, compressed, write)?;
        Ok(Self(buf.freeze()))
    }

    /// The message without its prefix.
    pub(crate) fn payload(&self) -> &[u8] {
        &self.0[PREFIX_LEN..]
    }

    /// Bytes of the message without its prefix.
    pub(crate) fn payload_len(&self) -> usize {
        self.0.len() - PREFIX_LEN
    }

    /// Bytes of the message with its prefix.
    pub(crate) fn frame_len(&self) -> usize {
        self.0.len()
    }

    /// Whether the prefix says that the message is compressed.
    pub(crate) fn is_compressed(&self) -> bool {
        self.0[0] == 1
    }

    /// The bytes as they go out.
    pub(crate) fn into_frame(self) -> Bytes {
        self.0
    }
}

/// Puts into `buf`, which is empty, what `write` writes, behind its prefix.
fn fill<E>(
    buf: &mut BytesMut,
    compressed: bool,
    write: impl FnOnce(&mut BytesMut) -> Result<(), E>,
) -> Result<(), E> {
    buf.put_bytes(0, PREFIX_LEN);
    write(buf)?;
    let len = buf.len().saturating_sub(PREFIX_LEN);
    buf.resize(len + PREFIX_LEN, 0);
    buf[0] = u8::from(compressed);
    // A message beyond `SEND_LEN_MAX` never leaves, so the length fits where it matters.
    buf[1..PREFIX_LEN].copy_from_slice(&(len as u32).to_be_bytes());
    Ok(())
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("compressed", &self.is_compressed())
            .field("payload_len", &self.payload_len())
            .finish()
    }
}

/// One message as it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    /// Whether `payload` is compressed, by the encoding that the headers name.
    pub(crate) compressed: bool,
    /// The message, perhaps a slice of a larger read buffer.
    pub(crate) payload: Bytes,
}

impl Received {
    /// Bytes of the message as it came, with its prefix.
    pub(crate) fn frame_len(&self) -> usize {
        PREFIX_LEN + self.payload.len()
    }
}

/// Finds the messages in the DATA of one stream.
#[derive(Debug, Default)]
pub(crate) struct Deframer {
    /// What arrived and is not looked at yet.
    chunk: Bytes,
    state: Framing,
}

#[derive(Debug)]
enum Framing {
    /// In the prefix, of which `have` bytes are here.
    Prefix { bytes: [u8; PREFIX_LEN], have: usize },
    /// In a message of `len` bytes, of which `parts` are here.
    Payload { compressed: bool, len: usize, parts: Vec<u8> },
}

impl Default for Framing {
    fn default() -> Self {
        Self::Prefix { bytes: [0; PREFIX_LEN], have: 0 }
    }
}

impl Deframer {
    /// Takes the next piece of DATA. Call [`Deframer::next`] until it gives `None` before the next
    /// piece: one that is still there would be lost.
    pub(crate) fn feed(&mut self, chunk: Bytes) {
        debug_assert!(self.chunk.is_empty(), "the last piece is not used up");
        self.chunk = chunk;
    }

    /// The next whole message, or `None` if more DATA is needed.
    ///
    /// A message longer than `limit` bytes is refused as soon as its prefix is known. After an
    /// error the stream cannot be read on.
    pub(crate) fn next(&mut self, limit: usize) -> Result<Option<Received>, FramingError> {
        loop {
            match &mut self.state {
                Framing::Prefix { bytes, have } => {
                    let taken = self.chunk.len().min(PREFIX_LEN - *have);
                    bytes[*have..*have + taken].copy_from_slice(&self.chunk[..taken]);
                    self.chunk.advance(taken);
                    *have += taken;
                    if *have < PREFIX_LEN {
                        return Ok(None);
                    }
                    let [flag, len @ ..] = *bytes;
                    let compressed = match flag {
                        0 => false,
                        1 => true,
                        _ => return Err(FramingError::BadFlag(flag)),
                    };
                    let len = u32::from_be_bytes(len) as usize;
                    if len > limit {
                        return Err(FramingError::TooLarge { len, limit });
                    }
                    self.state = Framing::Payload { compressed, len, parts: Vec::new() };
                }
                Framing::Payload { compressed, len, parts } => {
                    let missing = *len - parts.len();
                    if self.chunk.len() < missing {
                        if !self.chunk.is_empty() {
                            keep(parts, &self.chunk, *len);
                            self.chunk = Bytes::new();
                        }
                        return Ok(None);
                    }
                    let rest = self.chunk.split_to(missing);
                    let payload = if parts.is_empty() {
                        rest
                    } else {
                        keep(parts, &rest, *len);
                        mem::take(parts).into()
                    };
                    let received = Received { compressed: *compressed, payload };
                    self.state = Framing::default();
                    return Ok(Some(received));
                }
            }
        }
    }

    /// The messages that come next and are here as a whole, up to the first that [`next`](Self::next)
    /// has to look at more closely.
    pub(crate) fn run(&mut self, limit: usize) -> Run {
        if !matches!(self.state, Framing::Prefix { have: 0, .. }) {
            return Run::default();
        }
        let (mut end, mut messages) = (0, 0);
        while let Some(len) = plain_len(&self.chunk[end..])
            && len <= limit
            && self.chunk.len() - end - PREFIX_LEN >= len
        {
            end += PREFIX_LEN + len;
            messages += 1;
        }
        Run { bytes: self.chunk.split_to(end), messages }
    }

    /// Bytes that are here, and have been given to nobody.
    pub(crate) fn held_bytes(&self) -> usize {
        let begun = match &self.state {
            Framing::Prefix { have, .. } => *have,
            Framing::Payload { parts, .. } => PREFIX_LEN + parts.len(),
        };
        begun + self.chunk.len()
    }

    /// Whether a message has begun and is not complete.
    pub(crate) fn is_in_message(&self) -> bool {
        !self.chunk.is_empty() || !matches!(self.state, Framing::Prefix { have: 0, .. })
    }
}

/// Puts a further `part` of a message of `len` bytes behind its `parts`. The length is only a claim:
/// the memory that is reserved grows with what has arrived, and fits a message that is whole.
fn keep(parts: &mut Vec<u8>, part: &[u8], len: usize) {
    let needed = parts.len() + part.len();
    if parts.capacity() < needed {
        let capacity = needed.saturating_mul(RESERVE_FACTOR).min(len);
        parts.reserve_exact(capacity - parts.len());
    }
    parts.extend_from_slice(part);
}

/// The length of the message that begins here, if it is not compressed.
fn plain_len(bytes: &[u8]) -> Option<usize> {
    match bytes {
        [0, a, b, c, d, ..] => Some(u32::from_be_bytes([*a, *b, *c, *d]) as usize),
        _ => None,
    }
}

/// Whole messages that came in one after the other, none of them compressed, none too long.
///
/// They are read where they lie: who reads many of them has one lock to take for all.
#[derive(Debug, Default)]
pub(crate) struct Run {
    bytes: Bytes,
    messages: u64,
}

impl Run {
    /// How many are left.
    pub(crate) fn len(&self) -> u64 {
        self.messages
    }

    /// The next message, without its prefix.
    pub(crate) fn first(&self) -> Option<&[u8]> {
        let len = plain_len(&self.bytes)?;
        self.bytes.get(PREFIX_LEN..PREFIX_LEN + len)
    }

    /// Goes on to the one after it.
    pub(crate) fn advance(&mut self) {
        if let Some(len) = self.first().map(<[u8]>::len) {
            self.bytes.advance(PREFIX_LEN + len);
            self.messages -= 1;
        }
        if self.messages == 0 {
            // What the socket was read into is not needed any more.
            self.bytes = Bytes::new();
        }
    }

    /// The next message, which shares its memory with what the socket was read into.
    pub(crate) fn take(&mut self) -> Option<Bytes> {
        let first = self.first()?;
        let first = self.bytes.slice_ref(first);
        self.advance();
        Some(first)
    }
}

/// The DATA of a stream is not a sequence of messages, or one is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FramingError {
    /// The first byte of a prefix is neither 0 nor 1.
    BadFlag(u8),
    /// A message is announced with more bytes than are allowed.
    TooLarge {
        /// Bytes announced.
        len: usize,
        /// Bytes allowed.
        limit: usize,
    },
}

/// The longest DATA that HTTP/2 flow control can count, prefix included.
pub(crate) const SEND_LEN_MAX: usize = i32::MAX as usize;

/// Flag and length.
const PREFIX_LEN: usize = 5;

/// What short messages share: enough for a hundred small ones, little for a stream to keep.
const BLOCK_LEN: usize = 4096;

/// How much is reserved for a message, as a multiple of what has arrived of it. A message of 64 KiB, a
/// usual size, has its place once its first DATA frame of 16 KiB is here, and is not moved.
const RESERVE_FACTOR: usize = 4;

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn framed(flag: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![flag];
        bytes.extend((payload.len() as u32).to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    /// Whole messages: flag and payload.
    type Messages = Vec<(bool, Vec<u8>)>;

    fn deframe(chunks: &[&[u8]], limit: usize) -> (Messages, Result<bool, FramingError>) {
        let mut deframer = Deframer::default();
        let mut messages = Vec::new();
        for chunk in chunks {
            deframer.feed(Bytes::copy_from_slice(chunk));
            loop {
                match deframer.next(limit) {
                    Ok(Some(message)) => {
                        messages.push((message.compressed, message.payload.to_vec()));
                    }
                    Ok(None) => break,
                    Err(error) => return (messages, Err(error)),
                }
            }
        }
        (messages, Ok(deframer.is_in_message()))
    }

    #[test]
    fn a_message_carries_its_prefix_and_comes_back() {
        for payload in [&b""[..], b"x", &vec![7; 70_000]] {
            let message = Message::encode(payload.len(), |buf| {
                buf.extend_from_slice(payload);
                Ok::<_, Infallible>(())
            })
            .unwrap();
            assert_eq!(message.payload_len(), payload.len());
            let frame = message.clone().into_frame();
            assert_eq!(frame, framed(0, payload));
            assert_eq!(frame.as_ptr(), message.into_frame().as_ptr());
        }
    }

    #[test]
    fn short_messages_of_many_share_their_memory_and_long_ones_do_not() {
        let mut block = BytesMut::new();
        let mut encode = |payload: &[u8], hint: usize| {
            let message = Message::encode_in(&mut block, hint, |buf| {
                buf.extend_from_slice(payload);
                Ok::<_, Infallible>(())
            });
            let frame = message.unwrap().into_frame();
            assert_eq!(frame, framed(0, payload));
            (frame, block.capacity())
        };
        let (first, left) = encode(b"first", 5);
        let (second, less) = encode(b"", 0);
        assert_eq!(second.as_ptr() as usize, first.as_ptr() as usize + first.len());
        assert_eq!(left - less, PREFIX_LEN);
        assert_eq!(encode(&[7; 2000], 2000).1, less, "it has memory of its own");
        assert_eq!(encode(&[7; 9000], 0).1, 0, "it is longer than it said");
        // Nothing of one that fails is left.
        assert_eq!(
            Message::encode_in(&mut block, 9, |buf| {
                buf.extend_from_slice(b"half");
                Err("no")
            })
            .unwrap_err(),
            "no"
        );
        let after = Message::encode_in(&mut block, 2, |buf| {
            buf.extend_from_slice(b"ok");
            Ok::<_, Infallible>(())
        });
        assert_eq!(after.unwrap().into_frame(), framed(0, b"ok"));
    }

    #[test]
    fn a_codec_that_fails_or_empties_the_buffer_does_no_harm() {
        assert_eq!(Message::encode(9, |_| Err("no")).unwrap_err(), "no");
        let emptied = Message::encode(9, |buf| {
            buf.clear();
            Ok::<_, Infallible>(())
        });
        assert_eq!(emptied.unwrap().payload_len(), 0);
        let compressed = Message::encode_flagged(true, 0, |_| Ok::<_, Infallible>(())).unwrap();
        assert!(compressed.is_compressed());
    }

    #[test]
    fn messages_are_found_however_the_data_is_cut() {
        let mut whole = framed(0, b"");
        whole.extend(framed(1, b"abc"));
        whole.extend(framed(0, &[9; 300]));
        let expected = [(false, vec![]), (true, b"abc".to_vec()), (false, vec![9; 300])];
        for size in 1..=whole.len() {
            let chunks: Vec<_> = whole.chunks(size).collect();
            let (messages, end) = deframe(&chunks, 300);
            assert_eq!(messages, expected, "in chunks of {size}");
            assert_eq!(end, Ok(false));
        }
    }

    #[test]
    fn a_run_has_the_whole_messages_up_to_one_that_is_compressed_too_long_wrong_or_cut() {
        let plain = [framed(0, b"one"), framed(0, b""), framed(0, b"three")].concat();
        let after = [framed(1, b"x"), framed(0, &[9; 300]), vec![2, 0, 0, 0, 0], vec![0, 0, 0]];
        for after in after.iter().chain([&vec![], &framed(0, b"four")[..7].to_vec()]) {
            let mut deframer = Deframer::default();
            deframer.feed([&plain[..], after].concat().into());
            let first = deframer.next(100).unwrap().unwrap();
            assert_eq!(first.payload, "one");
            let mut run = deframer.run(100);
            assert_eq!((run.len(), run.first()), (2, Some(&b""[..])));
            run.advance();
            assert_eq!(run.take().unwrap(), "three");
            assert_eq!((run.len(), run.first()), (0, None));
            assert_eq!(run.take(), None);
            run.advance();
            assert_eq!(deframer.is_in_message(), !after.is_empty());
            // What follows is met as it would be without.
            let mut alone = Deframer::default();
            alone.feed(after.clone().into());
            assert_eq!(deframer.next(100), alone.next(100), "{after:?}");
            assert_eq!(deframer.run(100).len(), 0);
        }
    }

    #[test]
    fn a_payload_in_one_chunk_is_not_copied() {
        let chunk = Bytes::from(framed(0, &[1; 5_000]));
        let mut deframer = Deframer::default();
        deframer.feed(chunk.clone());
        let received = deframer.next(5_000).unwrap().unwrap();
        assert_eq!(received.payload.as_ptr(), chunk[PREFIX_LEN..].as_ptr());
    }

    #[test]
    fn broken_framing_is_told_from_the_prefix() {
        let (_, flag) = deframe(&[&[2, 0, 0, 0, 0]], 9);
        assert_eq!(flag, Err(FramingError::BadFlag(2)));
        let (before, large) = deframe(&[&framed(0, b"ok"), &[0, 0, 0, 0, 10]], 9);
        assert_eq!(before.len(), 1);
        assert_eq!(large, Err(FramingError::TooLarge { len: 10, limit: 9 }));
        for cut in [&[0][..], &[0, 0, 0, 0, 3], &[0, 0, 0, 0, 3, 1]] {
            assert_eq!(deframe(&[cut], 9).1, Ok(true), "{cut:?}");
        }
    }

    #[test]
    fn memory_for_a_message_grows_with_what_has_arrived_of_it() {
        let len = 1 << 20;
        let whole = framed(0, &vec![7; len]);
        for size in [6, 100, 16_384, 1 << 19] {
            let (mut deframer, mut arrived) = (Deframer::default(), 0);
            for chunk in whole.chunks(size) {
                deframer.feed(Bytes::copy_from_slice(chunk));
                arrived += chunk.len();
                if let Some(received) = deframer.next(len).unwrap() {
                    assert_eq!(received.payload, vec![7; len]);
                    continue;
                }
                let Framing::Payload { parts, .. } = &deframer.state else {
                    panic!("in the payload")
                };
                assert!(parts.capacity() <= (RESERVE_FACTOR * arrived).min(len), "by {size}");
            }
            assert!(!deframer.is_in_message());
        }
        // A claim beyond all memory.
        let mut deframer = Deframer::default();
        deframer.feed(Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff, 1]));
        assert_eq!(deframer.next(usize::MAX), Ok(None));
    }
}
