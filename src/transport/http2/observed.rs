//! Watches the bytes of a connection go by.
//!
//! The engine does not tell two things that matter here. Inbound: whether the server's first frame
//! is SETTINGS, and if not, what speaks there instead. Outbound: which streams' HEADERS have begun
//! to leave, so that of a lost connection it is known which requests the server cannot have seen.

use std::fmt::Write as _;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::connect::Io;
use super::super::error::{Loss, in_words};
use super::unread::{ReceiveBuffer, Unread};

/// What was seen of a connection. Written by its driver, read by anyone.
#[derive(Debug)]
pub(super) struct Watch {
    first_frame: OnceLock<FirstFrame>,
    /// The highest stream whose HEADERS have begun to leave.
    highest_sent: AtomicU32,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    /// Whether the last write had to wait: then the engine still holds output.
    write_blocked: AtomicBool,
    /// How the stream of bytes ended.
    ended: OnceLock<Loss>,
    pub(super) unread: Unread,
    /// Bytes of header fields that the server takes in one request.
    peer_max_fields: AtomicU32,
}

/// What a server said first.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FirstFrame {
    /// A whole SETTINGS frame, as it must.
    Settings,
    /// Something else; the text says what.
    Foreign(String),
}

impl Watch {
    pub(super) fn new(receive_buffer: Arc<ReceiveBuffer>) -> Self {
        Self {
            first_frame: OnceLock::new(),
            highest_sent: AtomicU32::new(0),
            bytes_read: AtomicU64::new(0),
            bytes_written: AtomicU64::new(0),
            write_blocked: AtomicBool::new(false),
            ended: OnceLock::new(),
            unread: Unread::new(receive_buffer),
            peer_max_fields: AtomicU32::new(u32::MAX),
        }
    }

    /// What the server said first, once enough of it is here to tell.
    pub(super) fn first_frame(&self) -> Option<&FirstFrame> {
        self.first_frame.get()
    }

    /// Whether HEADERS of `stream` have begun to leave. What this denies after the connection has
    /// ended never left.
    pub(super) fn has_sent(&self, stream: u32) -> bool {
        self.highest_sent.load(Ordering::Acquire) >= stream
    }

    pub(super) fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }

    pub(super) fn bytes_written(&self) -> u64 {
        self.bytes_written.load(Ordering::Relaxed)
    }

    pub(super) fn is_write_blocked(&self) -> bool {
        self.write_blocked.load(Ordering::Relaxed)
    }

    /// Bytes of header fields that the server takes in one request, as far as it has said so.
    pub(super) fn peer_max_fields(&self) -> usize {
        self.peer_max_fields.load(Ordering::Relaxed) as usize
    }

    /// How the stream of bytes ended, if it has.
    pub(super) fn ended(&self) -> Option<&str> {
        self.ended.get().map(|loss| loss.how.as_str())
    }

    /// As [`Watch::ended`], for when it has.
    pub(super) fn how_it_ended(&self) -> String {
        self.ended().unwrap_or(CLOSED_BY_SERVER).to_owned()
    }

    /// The same, as what ended the connection.
    pub(super) fn loss(&self) -> Loss {
        let closed = || Loss { how: CLOSED_BY_SERVER.to_owned(), kind: None };
        self.ended.get().cloned().unwrap_or_else(closed)
    }

    fn record_end(&self, kind: Option<io::ErrorKind>, how: impl FnOnce() -> String) {
        // The first cause counts: what follows a broken connection is only its echo.
        self.ended.get_or_init(|| Loss { how: how(), kind });
    }

    fn record_error(&self, error: &io::Error) {
        self.record_end(Some(error.kind()), || {
            let error_text = in_words(error);
            if error.kind() == io::ErrorKind::BrokenPipe {
                // What writing to a connection gives that the other side has closed.
                format!("{CLOSED_BY_SERVER} ({error_text})")
            } else {
                error_text
            }
        });
    }
}

/// A stream of bytes with a [`Watch`] on it.
///
/// Once it has ended for reading, or failed, nothing more is written: streams that had not left by
/// then are reported as unsent, and must stay so.
pub(super) struct Observed {
    io: Io,
    watch: Arc<Watch>,
    inbound: Inbound,
    frames_in: Frames,
    heads: Heads,
    frames_out: Frames,
}

impl Observed {
    pub(super) fn new(io: Io, watch: Arc<Watch>) -> Self {
        Self {
            io,
            watch,
            inbound: Inbound::default(),
            frames_in: Frames::default(),
            heads: Heads::default(),
            frames_out: Frames::after(PREFACE_LEN),
        }
    }

    fn wrote(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
        outcome: &Poll<io::Result<usize>>,
    ) {
        self.watch.write_blocked.store(outcome.is_pending(), Ordering::Relaxed);
        match outcome {
            Poll::Ready(Ok(written)) => {
                add(&self.watch.bytes_written, *written);
                let mut left = *written;
                for buf in bufs {
                    let taken = buf.len().min(left);
                    let watch = &self.watch;
                    // Without its whole header the server cannot act on a frame, with it perhaps.
                    self.frames_out.follow(&buf[..taken], |frame, _| {
                        if frame.kind == HEADERS {
                            watch.highest_sent.fetch_max(frame.stream, Ordering::Release);
                        }
                    });
                    left -= taken;
                    if left == 0 {
                        break;
                    }
                }
            }
            Poll::Ready(Err(error)) => {
                self.watch.record_error(error);
                self.read_last_words(cx);
            }
            Poll::Pending => {}
        }
    }

    /// Fails where the server does what no server has a use for.
    fn arrived(&mut self, bytes: &[u8], is_end: bool) -> io::Result<()> {
        add(&self.watch.bytes_read, bytes.len());
        if let Inbound::First(first) = &mut self.inbound
            && let Some(verdict) = first.judge(bytes, is_end)
        {
            // Nobody else writes it.
            let _ = self.watch.first_frame.set(verdict);
            self.inbound = Inbound::Rest;
        }
        let Watch { unread, peer_max_fields, .. } = &*self.watch;
        let heads = &mut self.heads;
        let mut is_abuse = false;
        self.frames_in.follow(bytes, |frame, payload| match frame.kind {
            DATA => unread.arrived(frame.stream, frame.data_len(payload)),
            HEADERS if frame.flags & END_STREAM == 0 => is_abuse |= heads.add_to(frame.stream),
            SETTINGS if frame.flags & ACK == 0 => {
                if let Some(max) = frame.max_fields(payload) {
                    peer_max_fields.store(max, Ordering::Relaxed);
                }
            }
            _ => {}
        });
        if is_end {
            self.watch.record_end(None, || CLOSED_BY_SERVER.to_owned());
        }
        if is_abuse {
            let text = format!("the server answered one call with more than {HEADS_MAX} headers");
            self.watch.record_end(None, || text.clone());
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(())
    }

    /// A server that does not speak HTTP/2 says so and hangs up. Where writing notices that first,
    /// the engine would not read what it said.
    fn read_last_words(&mut self, cx: &mut Context<'_>) {
        while matches!(self.inbound, Inbound::First(_)) {
            let mut words = [0; EXCERPT_LEN];
            let mut buf = ReadBuf::new(&mut words);
            match Pin::new(&mut self.io).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {
                    // Writing has failed: this connection is at its end, however it behaves.
                    let _ = self.arrived(buf.filled(), false);
                }
                Poll::Ready(_) => {
                    let _ = self.arrived(&[], true);
                    return;
                }
                Poll::Pending => return,
            }
        }
    }
}

impl AsyncRead for Observed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let had_room = buf.remaining() > 0;
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        match &polled {
            Poll::Ready(Ok(())) => {
                let arrived = &buf.filled()[before..];
                self.arrived(arrived, arrived.is_empty() && had_room)?;
            }
            Poll::Ready(Err(error)) => self.watch.record_error(error),
            Poll::Pending => {}
        }
        polled
    }
}

impl AsyncWrite for Observed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.watch.ended().is_some() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        self.wrote(cx, &[IoSlice::new(buf)], &polled);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.watch.ended().is_some() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.wrote(cx, bufs, &polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_flush(cx);
        if let Poll::Ready(Err(error)) = &polled {
            self.watch.record_error(error);
        }
        polled
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Follows frames through the bytes of one direction.
#[derive(Default)]
pub(in crate::transport) struct Frames {
    /// Bytes until the next frame header: the preface, or the rest of a payload.
    skip: usize,
    header: [u8; FRAME_HEADER_LEN],
    /// How much of `header` is here.
    have: usize,
}

impl Frames {
    /// Those that come after so many other bytes.
    fn after(skip: usize) -> Self {
        Self { skip, ..Self::default() }
    }

    /// Whether what was followed ends with a whole frame.
    #[cfg(feature = "test-util")]
    pub(in crate::transport) fn is_between(&self) -> bool {
        self.skip == 0 && self.have == 0
    }

    /// Calls `seen` for each frame whose header ends in `bytes`, with what follows it there.
    pub(in crate::transport) fn follow(
        &mut self,
        mut bytes: &[u8],
        mut seen: impl FnMut(&FrameHeader, &[u8]),
    ) {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            if bytes.is_empty() {
                return;
            }
            let taken = bytes.len().min(FRAME_HEADER_LEN - self.have);
            self.header[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have < FRAME_HEADER_LEN {
                return;
            }
            let frame = FrameHeader::parse(&self.header);
            self.have = 0;
            self.skip = frame.len;
            seen(&frame, bytes);
        }
    }
}

/// Counts the headers of each stream that do not end it: a response has them once, after any number
/// of informational ones. The engine keeps all of these until the call is polled.
struct Heads(Box<[(u32, u8); HEADS_PLACES]>);

impl Default for Heads {
    fn default() -> Self {
        Self(Box::new([(0, 0); HEADS_PLACES]))
    }
}

impl Heads {
    /// Whether these are too many of `stream`. Streams share places, and the one that comes takes
    /// it: what then is not counted is spread over more streams than there are places.
    fn add_to(&mut self, stream: u32) -> bool {
        let (owner, count) = &mut self.0[(stream / 2) as usize % HEADS_PLACES];
        if *owner != stream {
            (*owner, *count) = (stream, 0);
        }
        *count = count.saturating_add(1);
        *count > HEADS_MAX
    }
}

enum Inbound {
    First(Opening),
    Rest,
}

impl Default for Inbound {
    fn default() -> Self {
        Self::First(Opening::default())
    }
}

/// The first bytes of a server.
#[derive(Default)]
struct Opening {
    start: Vec<u8>,
    /// Bytes of the SETTINGS payload that are not here yet.
    settings_left: Option<usize>,
}

impl Opening {
    fn judge(&mut self, mut arrived: &[u8], ended: bool) -> Option<FirstFrame> {
        if self.settings_left.is_none() {
            let missing = FRAME_HEADER_LEN.saturating_sub(self.start.len());
            let header_part = arrived.len().min(missing);
            let kept = arrived.len().min(EXCERPT_LEN - self.start.len());
            self.start.extend_from_slice(&arrived[..kept]);
            if self.start.len() < FRAME_HEADER_LEN {
                // A server that does not speak HTTP/2 may say less than a frame header and hang
                // up, or wait.
                let tells = ended || self.start.starts_with(&TLS_ALERT);
                return (tells && !self.start.is_empty())
                    .then(|| FirstFrame::Foreign(describe(&self.start)));
            }
            let mut header = [0; FRAME_HEADER_LEN];
            header.copy_from_slice(&self.start[..FRAME_HEADER_LEN]);
            let frame = FrameHeader::parse(&header);
            let is_settings = frame.kind == SETTINGS
                && frame.flags & ACK == 0
                && frame.stream == 0
                && frame.len <= FRAME_LEN_MAX;
            if !is_settings {
                return Some(FirstFrame::Foreign(describe(&self.start)));
            }
            self.settings_left = Some(frame.len);
            arrived = &arrived[header_part..];
        }
        let left = self.settings_left.get_or_insert(0);
        *left = left.saturating_sub(arrived.len());
        (*left == 0).then_some(FirstFrame::Settings)
    }
}

/// What speaks there, by its first bytes.
fn describe(start: &[u8]) -> String {
    if start.starts_with(b"HTTP/") {
        let line = start.split(|byte| matches!(byte, b'\r' | b'\n')).next();
        let line = String::from_utf8_lossy(line.unwrap_or_default());
        return format!("it answered in HTTP/1, `{}`", line.escape_debug());
    }
    if start.starts_with(&TLS_ALERT) {
        return "it answered with a TLS alert: it expects TLS".into();
    }
    if let Some(header) = start.first_chunk() {
        let frame = FrameHeader::parse(header);
        let known = FRAME_NAMES.get(usize::from(frame.kind));
        if let (Some(name), true) = (known, frame.len <= FRAME_LEN_MAX) {
            return format!("its first frame is {name} where SETTINGS must come first");
        }
    }
    let mut text = String::from("it began with the bytes");
    for byte in &start[..start.len().min(FRAME_HEADER_LEN)] {
        // Writing to a string cannot fail.
        let _ = write!(text, " {byte:02x}");
    }
    text
}

pub(in crate::transport) struct FrameHeader {
    len: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl FrameHeader {
    /// Whether its sender says that it goes away.
    #[cfg(feature = "test-util")]
    pub(in crate::transport) fn is_goaway(&self) -> bool {
        self.kind == GOAWAY
    }

    fn parse(bytes: &[u8; FRAME_HEADER_LEN]) -> Self {
        let [l2, l1, l0, kind, flags, s3, s2, s1, s0] = *bytes;
        Self {
            len: u32::from_be_bytes([0, l2, l1, l0]) as usize,
            kind,
            flags,
            stream: u32::from_be_bytes([s3 & 0x7f, s2, s1, s0]),
        }
    }
}

impl FrameHeader {
    /// What a SETTINGS frame says of the header fields that its sender takes. Where the frame
    /// arrives in pieces it may go unseen: then too long a request is left to the server.
    fn max_fields(&self, payload: &[u8]) -> Option<u32> {
        let settings = payload[..payload.len().min(self.len)].chunks_exact(6);
        let mut wanted =
            settings.filter_map(|setting| setting.strip_prefix(&SETTINGS_MAX_HEADER_LIST_SIZE));
        wanted.next_back()?.first_chunk().map(|value| u32::from_be_bytes(*value))
    }

    /// The bytes of a DATA frame without its padding, as far as the beginning of its payload tells.
    fn data_len(&self, payload: &[u8]) -> usize {
        match payload.first() {
            Some(padding) if self.flags & PADDED != 0 => {
                self.len.saturating_sub(1 + usize::from(*padding))
            }
            _ => self.len,
        }
    }
}

/// Adds to a counter that only the caller writes.
fn add(counter: &AtomicU64, amount: usize) {
    let sum = counter.load(Ordering::Relaxed) + amount as u64;
    counter.store(sum, Ordering::Relaxed);
}

const CLOSED_BY_SERVER: &str = "the server closed the connection";

/// `PRI * HTTP/2.0` and so on.
const PREFACE_LEN: usize = 24;

const FRAME_HEADER_LEN: usize = 9;

/// What a peer may send before our SETTINGS allow more, which they never do.
const FRAME_LEN_MAX: usize = 16_384;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
#[cfg(feature = "test-util")]
const GOAWAY: u8 = 7;
/// More than any server has to say before it answers.
const HEADS_MAX: u8 = 100;
/// Consecutive streams whose headers are counted exactly.
const HEADS_PLACES: usize = 256;

/// The number of a setting.
const SETTINGS_MAX_HEADER_LIST_SIZE: [u8; 2] = 6_u16.to_be_bytes();

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const PADDED: u8 = 8;

/// A TLS record of type alert.
const TLS_ALERT: [u8; 2] = [0x15, 0x03];

/// What is kept of the first bytes: a status line.
const EXCERPT_LEN: usize = 64;

const FRAME_NAMES: [&str; 10] = [
    "DATA",
    "HEADERS",
    "PRIORITY",
    "RST_STREAM",
    "a SETTINGS acknowledgement",
    "PUSH_PROMISE",
    "PING",
    "GOAWAY",
    "WINDOW_UPDATE",
    "CONTINUATION",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, 0]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn a_stream_counts_as_sent_once_its_whole_frame_header_left() {
        let mut sent = vec![0; PREFACE_LEN];
        sent.extend(frame(SETTINGS, 0, &[0; 12]));
        sent.extend(frame(HEADERS, 1, &[1; 20]));
        // A payload that looks like HEADERS of stream 9 is none.
        sent.extend(frame(0, 1, &frame(HEADERS, 9, &[])));
        let left_with = sent.len() + FRAME_HEADER_LEN;
        sent.extend(frame(HEADERS, 3, &[1; 20]));
        for size in [1, 2, 7, 9, 1000] {
            let mut frames = Frames::after(PREFACE_LEN);
            let mut seen = Vec::new();
            let mut follow = |bytes: &[u8]| {
                frames.follow(bytes, |frame, _| {
                    if frame.kind == HEADERS {
                        seen.push(frame.stream);
                    }
                });
                seen.clone()
            };
            for chunk in sent[..left_with - 1].chunks(size) {
                follow(chunk);
            }
            assert_eq!(follow(&[]), [1], "by {size}");
            assert_eq!(follow(&sent[left_with - 1..]), [1, 3], "by {size}");
        }
    }

    #[test]
    fn the_first_frame_is_judged_however_it_is_cut() {
        let mut settings = frame(SETTINGS, 0, &[0; 18]);
        settings.extend(frame(6, 0, &[0; 8]));
        let rows: [(&[u8], &str); 6] = [
            (b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n", "it answered in HTTP/1, `HTTP/1.1"),
            (&[0x15, 3, 1, 0, 2, 2, 70], "it expects TLS"),
            (&frame(7, 0, &[0; 8]), "its first frame is GOAWAY"),
            (&frame(SETTINGS, 1, &[]), "SETTINGS"),
            (b"SSH-2.0-OpenSSH_9.6\r\n", "the bytes 53 53 48"),
            (b"hi", "the bytes 68 69"),
        ];
        for size in [1, 3, 8, 9, 10, 26, 27, 1000] {
            let mut opening = Opening::default();
            let verdicts: Vec<_> = settings
                .chunks(size)
                .map_while(|chunk| Some(opening.judge(chunk, false)))
                .take_while(Option::is_none)
                .collect();
            let until = (verdicts.len() + 1) * size;
            assert!((27..27 + size).contains(&until), "by {size}");
            for (bytes, part) in rows {
                let mut opening = Opening::default();
                let mut verdict = None;
                for chunk in bytes.chunks(size) {
                    verdict = verdict.or_else(|| opening.judge(chunk, false));
                }
                let verdict = verdict.or_else(|| opening.judge(&[], true));
                let Some(FirstFrame::Foreign(text)) = verdict else {
                    panic!("{bytes:?} by {size}")
                };
                assert!(text.contains(part), "{text}");
            }
        }
    }

    #[test]
    fn a_server_that_says_nothing_is_not_judged() {
        assert_eq!(Opening::default().judge(&[], true), None);
    }
}
