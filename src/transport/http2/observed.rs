//! Watches the bytes of a connection go by.
//!
//! The engine does not tell what matters here. Inbound: whether the server's first frame is
//! SETTINGS, and if not, what speaks there instead; and what a GOAWAY says. Outbound: which streams'
//! HEADERS have begun to leave, so that of a lost connection it is known which requests the server
//! cannot have seen.
//!
//! Two habits of the engine are also mended here. A write that fails would end the reading, although
//! a GOAWAY and whole answers may lie unread in the socket. And a PONG would overtake the HEADERS
//! that are queued, although servers say which streams they take once they have the PONG.

use std::fmt::Write as _;
use std::io::{self, IoSlice};
use std::mem;
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::super::connect::Io;
use super::super::error::{Goaway, Loss, in_words};
use super::blocks::Blocks;
use super::sieve::{Listener, Sieve};
use super::signs::{Sign, Signs};
use super::stale::{By, Resets};
use super::unread::{Arrivals, INTERIM_HEADS_MAX, READ_BUFFER_LEN, ReceiveBuffer, Unread};
use crate::types::harmless;

/// What was seen of a connection. Written by its driver, read by anyone.
#[derive(Debug)]
pub(super) struct Watch {
    first_frame: OnceLock<FirstFrame>,
    /// The highest stream that was opened.
    highest_opened: AtomicU32,
    /// The highest stream whose HEADERS have begun to leave.
    highest_sent: AtomicU32,
    /// DATA that the server takes over all streams, in bytes.
    send_window: AtomicI64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    /// Whether the last write had to wait: then the engine still holds output.
    write_blocked: AtomicBool,
    /// How long the kernel waits for sent data to be acknowledged, by the channel's keepalive.
    user_timeout: Option<Duration>,
    /// How writing failed. Nothing has left since.
    write_failure: OnceLock<Loss>,
    /// How reading ended, and with it the stream of bytes.
    ended: OnceLock<Loss>,
    /// The last GOAWAY of the server.
    goaway: Mutex<Option<Goaway>>,
    /// Whether any GOAWAY complained of too many PINGs.
    too_many_pings: AtomicBool,
    pub(super) unread: Unread,
    /// What the server's header fields take on the wire.
    pub(super) blocks: Blocks,
    pub(super) signs: Signs,
    pub(super) resets: Resets,
    /// DATA that the server takes on a new stream, in bytes.
    stream_window: AtomicU32,
    /// Bytes of header fields that the server takes in one request.
    peer_max_fields: AtomicU32,
    open_streams: AtomicUsize,
    /// Whether the server has begun to answer any request, or has reset one.
    has_answered: AtomicBool,
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
    pub(super) fn new(
        receive_buffer: Arc<ReceiveBuffer>,
        fields_max: u32,
        user_timeout: Option<Duration>,
    ) -> Self {
        Self {
            user_timeout,
            first_frame: OnceLock::new(),
            highest_opened: AtomicU32::new(0),
            highest_sent: AtomicU32::new(0),
            send_window: AtomicI64::new(INITIAL_WINDOW.into()),
            bytes_read: AtomicU64::new(0),
            bytes_written: AtomicU64::new(0),
            write_blocked: AtomicBool::new(false),
            write_failure: OnceLock::new(),
            ended: OnceLock::new(),
            goaway: Mutex::default(),
            too_many_pings: AtomicBool::new(false),
            signs: Signs::default(),
            resets: Resets::default(),
            stream_window: AtomicU32::new(INITIAL_WINDOW),
            unread: Unread::new(receive_buffer),
            blocks: Blocks::new(fields_max),
            peer_max_fields: AtomicU32::new(u32::MAX),
            open_streams: AtomicUsize::new(0),
            has_answered: AtomicBool::new(false),
        }
    }

    /// Whether the server has begun to answer any request, or has reset one.
    pub(super) fn has_answered(&self) -> bool {
        self.has_answered.load(Ordering::Relaxed)
    }

    fn note_answer(&self) {
        // A store that changes nothing would still take the line from other cores.
        if !self.has_answered() {
            self.has_answered.store(true, Ordering::Relaxed);
        }
    }

    /// What the server said first, once enough of it is here to tell.
    pub(super) fn first_frame(&self) -> Option<&FirstFrame> {
        self.first_frame.get()
    }

    /// Notes that `stream` is handed to the engine. Ids only grow.
    pub(super) fn opened(&self, stream: u32) {
        self.highest_opened.store(stream, Ordering::Relaxed);
    }

    /// Whether HEADERS of `stream` have begun to leave. What this denies after writing has failed
    /// or the connection has ended never left.
    pub(super) fn has_sent(&self, stream: u32) -> bool {
        self.highest_sent.load(Ordering::Acquire) >= stream
    }

    /// Whether DATA may wait for the window of the connection: it is used up, or spoken for by DATA
    /// that wait for the socket, or for what is left of it each stream that sends has asked for a
    /// byte.
    pub(super) fn may_lack_window(&self) -> bool {
        let asked_for = i64::try_from(self.signs.senders()).unwrap_or(i64::MAX);
        self.is_write_blocked() || self.send_window.load(Ordering::Relaxed) <= asked_for
    }

    /// Whether some of so many bytes may wait for the window of their stream.
    pub(super) fn may_lack_stream_window(&self, bytes: usize) -> bool {
        bytes > self.stream_window.load(Ordering::Relaxed) as usize
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

    /// Notes how many streams are open.
    pub(super) fn set_open_streams(&self, count: usize) {
        self.open_streams.store(count, Ordering::Relaxed);
    }

    /// How writing failed, if it has. Reading goes on for a while after that.
    pub(super) fn write_failure(&self) -> Option<&Loss> {
        self.write_failure.get()
    }

    /// Whether the stream of bytes has ended: nothing more is read.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.get().is_some()
    }

    /// What ended the connection. An error in reading says most; a mere end says less than a write
    /// that failed before it.
    pub(super) fn loss(&self) -> Loss {
        let ended = self.ended.get();
        let failed_reading = ended.filter(|loss| loss.kind.is_some());
        let known = failed_reading.or_else(|| self.write_failure.get()).or(ended);
        known.cloned().unwrap_or_else(|| Loss { how: CLOSED_BY_SERVER.to_owned(), kind: None })
    }

    /// The last GOAWAY of the server.
    pub(super) fn goaway(&self) -> Option<Goaway> {
        self.goaway_mut().clone()
    }

    /// Whether the server has said, in whichever of its GOAWAYs, that it is sent too many PINGs
    /// (A8).
    pub(super) fn is_sent_too_many_pings(&self) -> bool {
        self.too_many_pings.load(Ordering::Relaxed)
    }

    fn goaway_mut(&self) -> MutexGuard<'_, Option<Goaway>> {
        self.goaway.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard_goaway(&self, goaway: Goaway) {
        if goaway.is_too_many_pings() {
            self.too_many_pings.store(true, Ordering::Relaxed);
        }
        *self.goaway_mut() = Some(goaway);
    }

    fn heard_setting(&self, setting: u16, value: u32) {
        match setting {
            SETTINGS_INITIAL_WINDOW_SIZE => self.stream_window.store(value, Ordering::Relaxed),
            SETTINGS_MAX_HEADER_LIST_SIZE => self.peer_max_fields.store(value, Ordering::Relaxed),
            _ => {}
        }
    }

    fn record_end(&self, kind: Option<io::ErrorKind>, how: impl FnOnce() -> String) {
        // The first cause counts: what follows a broken connection is only its echo.
        self.ended.get_or_init(|| Loss { how: how(), kind });
    }

    fn record_error(&self, error: &io::Error) {
        self.record_end(Some(error.kind()), || how_it_failed(error, self.user_timeout));
    }
}

/// Says in words how a socket failed. `user_timeout` is how long the kernel waits, by the channel's
/// keepalive, for sent data to be acknowledged.
fn how_it_failed(error: &io::Error, user_timeout: Option<Duration>) -> String {
    let error_text = in_words(error);
    match (error.kind(), user_timeout) {
        // What writing to a connection gives that the other side has closed.
        (io::ErrorKind::BrokenPipe, _) => format!("{CLOSED_BY_SERVER} ({error_text})"),
        // Of the kernel, not of a stream of bytes that has a timeout of its own.
        (io::ErrorKind::TimedOut, Some(timeout)) if error.raw_os_error().is_some() => format!(
            "keepalive: sent data was not acknowledged within {timeout:?}, the TCP_USER_TIMEOUT \
             ({error_text})"
        ),
        _ => error_text,
    }
}

/// A stream of bytes with a [`Watch`] on it.
///
/// To the engine no write fails. From the first one that does, and from the end of reading on, what
/// it writes is dropped: so it reads to the end, and what had not left by then never leaves.
pub(super) struct Observed {
    io: Io,
    watch: Arc<Watch>,
    inbound: Inbound,
    sieve: Sieve,
    /// What passed the sieve and has not found room in the buffer of the engine.
    surplus: Surplus,
    /// How many reads in a row have found all the room filled.
    full_reads: u32,
    /// What has arrived since the driver last had its turn, and what of it is kept, in bytes.
    kept: usize,
    /// A GOAWAY that is not here as a whole.
    goodbye: Option<Goodbye>,
    /// A `WINDOW_UPDATE` of the connection that is not here as a whole.
    room: Option<Room>,
    /// SETTINGS that are not here as a whole.
    settings: Option<Settings>,
    frames_out: Frames,
    pongs: Pongs,
    /// How long reading may go on after a write has failed.
    last_words: Option<LastWords>,
}

impl Observed {
    pub(super) fn new(io: Io, watch: Arc<Watch>) -> Self {
        Self {
            io,
            watch,
            inbound: Inbound::default(),
            sieve: Sieve::default(),
            surplus: Surplus::default(),
            full_reads: 0,
            kept: 0,
            goodbye: None,
            room: None,
            settings: None,
            frames_out: Frames::after(PREFACE_LEN),
            pongs: Pongs::default(),
            last_words: None,
        }
    }

    /// Whether what is written is dropped.
    fn is_mute(&self) -> bool {
        self.last_words.is_some() || self.watch.has_ended()
    }

    /// Writes `bufs`, or what of them is to leave now.
    fn poll_output(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len = bufs.iter().map(|buf| buf.len()).sum();
        if self.is_mute() || len == 0 {
            return Poll::Ready(Ok(len));
        }
        ready!(self.poll_write_pongs(cx));
        let pong = match bufs.first() {
            Some(buf) if self.pongs.due > 0 => self.next_pong(buf),
            _ => None,
        };
        let polled = match (pong, bufs) {
            (Some(0), [buf, ..]) => {
                self.pongs
                    .hold(&buf[..PING_LEN], self.watch.highest_opened.load(Ordering::Relaxed));
                return Poll::Ready(Ok(PING_LEN));
            }
            (Some(before), [buf, ..]) => Pin::new(&mut self.io).poll_write(cx, &buf[..before]),
            (_, [buf]) => Pin::new(&mut self.io).poll_write(cx, buf),
            (_, bufs) => Pin::new(&mut self.io).poll_write_vectored(cx, bufs),
        };
        self.watch.write_blocked.store(polled.is_pending(), Ordering::Relaxed);
        match ready!(polled) {
            Ok(0) => self.writing_failed(cx, &io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                self.wrote(bufs, written);
                return Poll::Ready(Ok(written));
            }
            Err(error) => self.writing_failed(cx, &error),
        }
        Poll::Ready(Ok(len))
    }

    fn wrote(&mut self, bufs: &[IoSlice<'_>], written: usize) {
        add(&self.watch.bytes_written, written);
        self.pongs.is_flushed = false;
        let mut left = written;
        for buf in bufs {
            let taken = buf.len().min(left);
            let Self { watch, pongs, .. } = self;
            // Without its whole header the server cannot act on a frame, with it perhaps.
            self.frames_out.follow(&buf[..taken], |frame, _| match frame.kind {
                HEADERS => {
                    watch.highest_sent.fetch_max(frame.stream, Ordering::Release);
                }
                RST_STREAM => watch.resets.note(frame.stream, By::Us),
                DATA => {
                    // A frame has 24 bits of length.
                    let bytes = i64::try_from(frame.len).unwrap_or_default();
                    watch.send_window.fetch_sub(bytes, Ordering::Relaxed);
                }
                PING if frame.flags & ACK != 0 => pongs.due = pongs.due.saturating_sub(1),
                _ => {}
            });
            left -= taken;
            if left == 0 {
                break;
            }
        }
    }

    /// Where in `buf` the first PONG begins that HEADERS are to come before.
    fn next_pong(&self, buf: &[u8]) -> Option<usize> {
        let is_full = self.pongs.held.len() >= PONGS_HELD_MAX;
        if is_full || self.watch.has_sent(self.watch.highest_opened.load(Ordering::Relaxed)) {
            return None;
        }
        let mut at = None;
        self.frames_out.clone().follow(buf, |frame, payload| {
            let is_whole = payload.len() >= PING_LEN - FRAME_HEADER_LEN;
            if at.is_none() && frame.kind == PING && frame.flags & ACK != 0 && is_whole {
                // One that has begun to leave begins before `buf`.
                at = (buf.len() - payload.len()).checked_sub(FRAME_HEADER_LEN);
            }
        });
        at
    }

    /// Writes the PONGs that wait no longer. Ready once they have left.
    fn poll_write_pongs(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.pongs.held.is_empty()
            && self.watch.has_sent(self.pongs.after)
            && self.frames_out.is_between()
        {
            self.pongs.release();
        }
        while !self.pongs.released.is_empty() && !self.is_mute() {
            let polled = Pin::new(&mut self.io).poll_write(cx, &self.pongs.released);
            self.watch.write_blocked.store(polled.is_pending(), Ordering::Relaxed);
            match ready!(polled) {
                Ok(0) => self.writing_failed(cx, &io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    let left: Vec<u8> = self.pongs.released.drain(..written).collect();
                    self.wrote(&[IoSlice::new(&left)], written);
                }
                Err(error) => self.writing_failed(cx, &error),
            }
        }
        Poll::Ready(())
    }

    fn writing_failed(&mut self, cx: &Context<'_>, error: &io::Error) {
        let how = || how_it_failed(error, self.watch.user_timeout);
        let loss = || Loss { how: how(), kind: Some(error.kind()) };
        self.watch.write_failure.get_or_init(loss);
        self.watch.write_blocked.store(false, Ordering::Relaxed);
        self.last_words.get_or_insert_with(LastWords::new);
        // For the time to be watched, and for what the driver does about it.
        cx.waker().wake_by_ref();
    }

    /// Looks at what has arrived, as it came.
    fn arrived(&mut self, bytes: &[u8], is_end: bool) {
        add(&self.watch.bytes_read, bytes.len());
        if let Inbound::First(first) = &mut self.inbound
            && let Some(verdict) = first.judge(bytes, is_end)
        {
            // Nobody else writes it.
            let _ = self.watch.first_frame.set(verdict);
            self.inbound = Inbound::Rest;
        }
        if is_end {
            self.watch.record_end(None, || CLOSED_BY_SERVER.to_owned());
        }
    }

    /// Moves what the engine is to see of `bytes` to their front, and returns how much that is. Notes
    /// what others are to hear of. Fails where the server does what no server has a use for.
    fn sift(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let Self { watch, sieve, goodbye, room, settings, pongs, .. } = self;
        let (watch, rest) = (&**watch, sieve.rest_of_frame(bytes));
        *goodbye = goodbye.take().and_then(|goodbye| goodbye.hear(rest, watch));
        *room = room.take().and_then(|room| room.hear(rest, watch));
        *settings = settings.take().and_then(|settings| settings.hear(rest, watch));
        let arrivals = watch.unread.arrivals();
        let mut hearing =
            Hearing { watch, arrivals, goodbye, room, settings, pongs, has_too_many_heads: false };
        let sifted = sieve.sift(bytes, &mut hearing);
        let Hearing { arrivals, has_too_many_heads, .. } = hearing;
        // So that there is a turn whatever comes.
        self.kept += arrivals.cost() + bytes.len();
        drop(arrivals);
        let abuse = match sifted {
            Ok(len) if !has_too_many_heads => return Ok(len),
            Ok(_) => {
                format!("the server answered one call with more than {INTERIM_HEADS_MAX} headers")
            }
            Err(flood) => flood.text(),
        };
        watch.record_end(None, || abuse.clone());
        Err(io::Error::new(io::ErrorKind::InvalidData, abuse))
    }

    /// Reads into `buf` what the engine is to see.
    fn poll_input(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if !self.surplus.left.is_empty() {
                self.surplus.give(buf);
                return Poll::Ready(Ok(()));
            }
            if self.kept >= TURN_BYTES {
                // What is kept is bounded by the driver, which has its turn once the engine rests.
                self.kept = 0;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let is_bulk = self.full_reads >= BULK_FROM;
            if buf.remaining() >= ROOM_MIN && !is_bulk {
                self.surplus = Surplus::default();
                let before = buf.filled().len();
                let came = ready!(self.poll_sifted(cx, buf))?;
                self.full_reads = if came == Came::Full { self.full_reads + 1 } else { 0 };
                if buf.filled().len() > before || came == Came::End {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            // The end of the engine's buffer may be shorter than a frame header.
            let len = if is_bulk { BULK_LEN } else { ROOM_MIN };
            // Let go of where nothing is there to read.
            let mut surplus = mem::take(&mut self.surplus);
            surplus.bytes.resize(len, 0);
            let mut room = ReadBuf::new(&mut surplus.bytes);
            let came = ready!(self.poll_sifted(cx, &mut room))?;
            surplus.left = 0..room.filled().len();
            if is_bulk && surplus.left.len() <= READ_BUFFER_LEN {
                self.full_reads = 0;
            }
            let is_over = came == Came::End && surplus.left.is_empty();
            self.surplus = surplus;
            if is_over {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Reads once and sifts that, which may leave nothing. `buf` has room for more than a frame
    /// header. Says whether it was the end.
    fn poll_sifted(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<Came>> {
        let before = buf.filled().len();
        buf.put_slice(self.sieve.held());
        let behind_held = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        let arrived = buf.filled().len() - behind_held;
        if let Some(last_words) = &mut self.last_words
            && let Poll::Ready(limit) = last_words.poll(cx, arrived)
        {
            let loss = self.watch.loss();
            let text = format!("{}, and the server went on for more than {limit}", loss.how);
            self.watch.record_end(loss.kind, || text.clone());
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, text)));
        }
        match polled {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => {
                buf.set_filled(before);
                self.watch.record_error(&error);
                return Poll::Ready(Err(error));
            }
            Poll::Pending => {
                buf.set_filled(before);
                return Poll::Pending;
            }
        }
        let is_end = arrived == 0;
        self.arrived(&buf.filled()[behind_held..], is_end);
        if is_end {
            // What is held goes out as it is.
            self.sieve.give_up_held();
            return Poll::Ready(Ok(Came::End));
        }
        let came = if buf.remaining() == 0 { Came::Full } else { Came::Part };
        let len = self.sift(&mut buf.filled_mut()[before..])?;
        buf.set_filled(before + len);
        Poll::Ready(Ok(came))
    }
}

impl AsyncRead for Observed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_input(cx, buf)
    }
}

impl AsyncWrite for Observed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_output(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_output(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_mute() {
            return Poll::Ready(Ok(()));
        }
        if self.pongs.is_flushed && self.frames_out.is_between() {
            // The engine had nothing else to write: there is nothing to wait for, as where a
            // stream was reset before its HEADERS had left.
            self.pongs.release();
        }
        ready!(self.poll_write_pongs(cx));
        self.pongs.is_flushed = true;
        if !self.pongs.held.is_empty() {
            cx.waker().wake_by_ref();
        }
        if self.is_mute() {
            return Poll::Ready(Ok(()));
        }
        let polled = Pin::new(&mut self.io).poll_flush(cx);
        // TLS takes what it is given, and holds it until the socket takes it.
        self.watch.write_blocked.store(polled.is_pending(), Ordering::Relaxed);
        if let Err(error) = ready!(polled) {
            self.writing_failed(cx, &error);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // All has been flushed. What fails now is a goodbye to somebody who has gone.
        let _ = ready!(Pin::new(&mut self.io).poll_shutdown(cx));
        Poll::Ready(Ok(()))
    }
}

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Came {
    Part,
    /// As much as there was room for.
    Full,
    End,
}

/// What passed the sieve and has not found room in the buffer of the engine.
#[derive(Default)]
struct Surplus {
    bytes: Vec<u8>,
    left: Range<usize>,
}

impl Surplus {
    /// Puts as much as there is room for into `buf`.
    fn give(&mut self, buf: &mut ReadBuf<'_>) {
        let len = self.left.len().min(buf.remaining());
        buf.put_slice(&self.bytes[self.left.start..][..len]);
        self.left.start += len;
    }
}

/// Notes what goes by of what a server sends.
struct Hearing<'a> {
    watch: &'a Watch,
    arrivals: Arrivals<'a>,
    goodbye: &'a mut Option<Goodbye>,
    room: &'a mut Option<Room>,
    settings: &'a mut Option<Settings>,
    pongs: &'a mut Pongs,
    /// Whether a stream has had more informational headers than a server has to say.
    has_too_many_heads: bool,
}

impl Listener for Hearing<'_> {
    fn open_streams(&self) -> usize {
        self.watch.open_streams.load(Ordering::Relaxed)
    }

    fn data(&mut self, stream: u32, len: usize, position: u64) {
        self.arrivals.data(stream, len, position);
    }

    fn block(&mut self, stream: u32, len: usize, is_first: bool) {
        if is_first {
            self.watch.note_answer();
            self.watch.blocks.begin(stream, len);
        } else {
            self.watch.blocks.go_on(stream, len);
        }
    }

    fn fields(&mut self, stream: u32, cost: usize, is_interim: bool) {
        self.has_too_many_heads |= self.arrivals.fields(stream, cost, is_interim);
    }

    fn ended(&mut self, stream: u32) {
        self.watch.signs.note(stream, Sign::Ended);
    }

    fn made_room(&mut self, stream: u32) {
        self.watch.signs.note(stream, Sign::MadeRoom);
    }

    fn made_room_for_all(&mut self, start: &[u8]) {
        *self.room = Room::default().hear(start, self.watch);
    }

    fn ping(&mut self) {
        self.pongs.due = self.pongs.due.saturating_add(1);
    }

    fn settings(&mut self, len: usize, start: &[u8]) {
        *self.settings = Settings::new(len).hear(start, self.watch);
    }

    fn reset(&mut self, stream: u32) {
        self.watch.note_answer();
        self.watch.resets.note(stream, By::Server);
    }

    fn goaway(&mut self, len: usize, start: &[u8]) {
        *self.goodbye = Goodbye::new(len).hear(start, self.watch);
    }
}

/// PONGs that wait for the HEADERS of streams that were opened before.
///
/// A server that shuts down gracefully says first that it will, then sends a PING, and on its PONG
/// says which streams it takes. The engine writes a PONG before the HEADERS that are queued, whose
/// calls would then be disowned.
#[derive(Default)]
struct Pongs {
    /// PINGs of the server that no PONG has left for.
    due: usize,
    held: Vec<u8>,
    /// The stream whose HEADERS are to leave before those that are held.
    after: u32,
    /// What leaves next; its beginning may have left.
    released: Vec<u8>,
    /// Whether nothing was written since the last flush.
    is_flushed: bool,
}

impl Pongs {
    fn hold(&mut self, pong: &[u8], after: u32) {
        self.held.extend_from_slice(pong);
        self.after = after;
        self.is_flushed = false;
    }

    fn release(&mut self) {
        self.released.append(&mut self.held);
    }
}

/// What may still be read of a server once writing to it has failed.
struct LastWords {
    until: Pin<Box<Sleep>>,
    bytes_left: usize,
}

impl LastWords {
    fn new() -> Self {
        let until = Box::pin(sleep_until(Instant::now() + LAST_WORDS_TIME_MAX));
        Self { until, bytes_left: LAST_WORDS_BYTES_MAX }
    }

    /// Ready when there are too many of them, with the limit in words. So many more bytes have
    /// arrived.
    fn poll(&mut self, cx: &mut Context<'_>, arrived: usize) -> Poll<String> {
        match self.bytes_left.checked_sub(arrived) {
            Some(left) => self.bytes_left = left,
            None => return Poll::Ready(format!("{LAST_WORDS_BYTES_MAX} bytes")),
        }
        self.until.as_mut().poll(cx).map(|()| format!("{LAST_WORDS_TIME_MAX:?}"))
    }
}

/// A GOAWAY, as far as it is here.
struct Goodbye {
    start: Vec<u8>,
    /// Bytes that are not here yet.
    left: usize,
}

impl Goodbye {
    fn new(len: usize) -> Self {
        Self { start: Vec::new(), left: len }
    }

    /// Takes what is here of it. Tells `watch` and is gone once it is whole.
    fn hear(mut self, bytes: &[u8], watch: &Watch) -> Option<Self> {
        let bytes = &bytes[..bytes.len().min(self.left)];
        let kept = bytes.len().min(GOODBYE_BYTES_MAX - self.start.len());
        self.start.extend_from_slice(&bytes[..kept]);
        self.left -= bytes.len();
        if self.left > 0 {
            return Some(self);
        }
        // One that is too short is a breach of the protocol, which the engine tells.
        if let Some((head, debug_data)) = self.start.split_first_chunk::<8>() {
            let [s3, s2, s1, s0, code @ ..] = *head;
            let last_stream = u32::from_be_bytes([s3 & 0x7f, s2, s1, s0]);
            watch.heard_goaway(Goaway::new(last_stream, u32::from_be_bytes(code), debug_data));
        }
        None
    }
}

/// A `WINDOW_UPDATE` of the connection, as far as it is here.
#[derive(Default)]
struct Room {
    increment: u32,
    /// Bytes of it that are here.
    have: usize,
}

impl Room {
    /// Takes what is here of it. Tells `watch` and is gone once it is whole.
    fn hear(mut self, bytes: &[u8], watch: &Watch) -> Option<Self> {
        for byte in bytes.iter().take(4 - self.have) {
            self.increment = self.increment << 8 | u32::from(*byte);
            self.have += 1;
        }
        if self.have < 4 {
            return Some(self);
        }
        // The highest bit means nothing.
        let bytes = i64::from(self.increment & (u32::MAX >> 1));
        watch.send_window.fetch_add(bytes, Ordering::Relaxed);
        None
    }
}

/// SETTINGS, as far as they are here.
struct Settings {
    /// Bytes of them that are not here.
    left: usize,
    /// What is here of one that is not here as a whole, and how many bytes that is.
    setting: u64,
    have: usize,
}

impl Settings {
    fn new(len: usize) -> Self {
        Self { left: len, setting: 0, have: 0 }
    }

    /// Takes what is here of them. Tells `watch` of each, and is gone once there are no more.
    fn hear(mut self, bytes: &[u8], watch: &Watch) -> Option<Self> {
        for byte in bytes.iter().take(self.left) {
            self.setting = self.setting << 8 | u64::from(*byte);
            self.have += 1;
            if self.have == SETTING_LEN {
                let [_, _, s1, s0, value @ ..] = self.setting.to_be_bytes();
                watch.heard_setting(u16::from_be_bytes([s1, s0]), u32::from_be_bytes(value));
                (self.setting, self.have) = (0, 0);
            }
        }
        self.left -= bytes.len().min(self.left);
        (self.left > 0).then_some(self)
    }
}

/// Follows frames through the bytes of one direction.
#[derive(Clone, Default)]
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
        return format!("it answered in HTTP/1, `{}`", harmless(&line));
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

/// Adds to a counter that only the caller writes.
fn add(counter: &AtomicU64, amount: usize) {
    let sum = counter.load(Ordering::Relaxed) + amount as u64;
    counter.store(sum, Ordering::Relaxed);
}

const CLOSED_BY_SERVER: &str = "the server closed the connection";

/// What a connection and its streams begin with. SETTINGS change that of the streams.
const INITIAL_WINDOW: u32 = 65_535;

/// `PRI * HTTP/2.0` and so on.
const PREFACE_LEN: usize = 24;

const FRAME_HEADER_LEN: usize = 9;

/// What a peer may send before our SETTINGS allow more, which they never do.
const FRAME_LEN_MAX: usize = 16_384;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
#[cfg(feature = "test-util")]
const GOAWAY: u8 = 7;

/// A whole PING.
const PING_LEN: usize = FRAME_HEADER_LEN + 8;

/// What is held back of PONGs: more of them in one go than any server has a use for.
const PONGS_HELD_MAX: usize = 16 * PING_LEN;

/// What is kept of a GOAWAY: debug data is for people, a frame of it is not.
const GOODBYE_BYTES_MAX: usize = 8 + 256;

/// A socket that takes nothing more gives what lies in it at once, and then its end. So this is for
/// streams of bytes that break in one direction only.
const LAST_WORDS_TIME_MAX: Duration = Duration::from_secs(10);

/// More than the buffers of any socket, and than all windows that it is sent into by default.
const LAST_WORDS_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The number of a setting.
const SETTINGS_INITIAL_WINDOW_SIZE: u16 = 4;

const SETTINGS_MAX_HEADER_LIST_SIZE: u16 = 6;

/// Two bytes say which, four its value.
const SETTING_LEN: usize = 6;

const ACK: u8 = 1;

/// What may come in before the driver has its turn: it bounds how much that takes beside what a
/// channel may hold.
const TURN_BYTES: usize = 1024 * 1024;

/// How much is read at once where much comes: an eighth of the reads, and of the acknowledgements
/// that the system sends for them. It is copied to the engine, which costs less: of 4 KiB calls a
/// tenth of the CPU time is saved.
const BULK_LEN: usize = 64 * 1024;

/// How many reads must have filled the engine's buffer before.
const BULK_FROM: u32 = 4;

/// Room for a frame header that was held back, and for more than that.
const ROOM_MIN: usize = 64;

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
    use std::future::poll_fn;

    use super::*;

    fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, 0]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    // spec: A18/user-timeout
    #[cfg(target_os = "linux")]
    #[test]
    fn a_timeout_of_the_kernel_is_told_as_one_of_the_keepalive_that_set_it() {
        let (system, own) = (io::Error::from_raw_os_error(110), io::ErrorKind::TimedOut.into());
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        let (set, unset) = (Some(Duration::from_secs(3)), None);
        let told = "keepalive: sent data was not acknowledged within 3s, the TCP_USER_TIMEOUT \
                    (connection timed out (os error 110))";
        for (error, user_timeout, expected) in [
            (&system, set, told),
            (&system, unset, "connection timed out (os error 110)"),
            (&own, set, "timed out"),
            (&own, unset, "timed out"),
            (&reset, set, "connection reset"),
        ] {
            assert_eq!(how_it_failed(error, user_timeout), expected);
        }
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

    /// As the system would fill a buffer, whatever its size.
    struct Tape {
        bytes: Vec<u8>,
        at: usize,
    }

    impl AsyncRead for Tape {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let Self { bytes, at } = &mut *self;
            let len = buf.remaining().min(bytes.len() - *at);
            buf.put_slice(&bytes[*at..*at + len]);
            *at += len;
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Tape {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_comes_in_bulk_passes_as_it_came_whatever_room_the_engine_has() {
        let mut bytes = frame(SETTINGS, 0, &[0; 12]);
        let mut expected = bytes.clone();
        for number in 0..300_usize {
            let data = frame(0, 1, &vec![number as u8; 1 + number * 37 % 5_000]);
            // One that is empty is taken out.
            bytes.extend([&data[..], &frame(0, 1, &[])].concat());
            expected.extend(data);
        }
        for room in [1, 9, 63, 64, 100, READ_BUFFER_LEN, 100_000] {
            let watch = Arc::new(Watch::new(ReceiveBuffer::new(usize::MAX), 16_384, None));
            let tape = Tape { bytes: bytes.clone(), at: 0 };
            let mut observed = Observed::new(Io::new(tape), Arc::clone(&watch));
            let (mut passed, mut piece) = (Vec::<u8>::new(), vec![0; room]);
            loop {
                let mut buf = ReadBuf::new(&mut piece);
                let read = poll_fn(|cx| Pin::new(&mut observed).poll_read(cx, &mut buf));
                read.await.unwrap();
                if buf.filled().is_empty() {
                    break;
                }
                passed.extend(buf.filled());
            }
            assert!(passed == expected, "by {room}");
            assert_eq!(watch.bytes_read() as usize, bytes.len(), "by {room}");
            assert!(watch.has_ended());
            assert!(observed.surplus.bytes.len() <= BULK_LEN);
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
