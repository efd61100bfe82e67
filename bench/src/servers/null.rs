//! A server that costs almost nothing, so that the client is what is measured.
//!
//! It writes HTTP/2 frames by hand and answers every request with the same canned message. It never decodes a header
//! block (a real client's are indexed and Huffman-coded), so it does not know the path of a request: what it does
//! with all of them is its [`Mode`], and each mode is a server of its own. It keeps to the protocol otherwise: the
//! client's windows bound what it sends, and it gives back what it receives.
//!
//! One blocking thread serves a connection. While the client's windows let it send more than it wants to have in
//! memory at once, it looks for input between bursts without waiting; else it waits for input.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes};
use rustc_hash::FxHashMap;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::{CONNECTION_WINDOW, STREAM_WINDOW};
use crate::proto::{PREFIX, Resp, frame as frame_message, framed_len};

/// What is done with every request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mode {
    /// One response when the request has ended.
    Unary,
    /// As `Unary`, but responses are held back.
    Hold {
        /// Only for the first calls, in order of arrival; later ones are answered at once.
        first: u64,
        /// For how long; `None`: they are never answered.
        delay: Option<Duration>,
    },
    /// One response to each message as it arrives.
    Stream,
    /// This many responses when the request has ended.
    Down { messages: u64 },
}

/// A mode, and its answer prepared.
#[derive(Debug)]
pub(crate) struct Answer {
    mode: Mode,
    /// The length of one framed message.
    message: usize,
    /// Framed messages end to end, as many as it takes to cut a whole frame out of it from within any of them.
    tape: Vec<u8>,
}

impl Answer {
    /// An answer with a body of this many bytes.
    pub(crate) fn new(mode: Mode, bytes: usize) -> Self {
        let body = Bytes::from(vec![0; bytes]);
        let mut tape = Vec::new();
        frame_message(&Resp { body }, &mut tape);
        let message = tape.len();
        let repeats = 1 + usize::from(FRAME).div_ceil(message);
        Self { mode, message, tape: tape.repeat(repeats) }
    }
}

/// Serves on a listener until the process ends; over TLS if it is given how.
pub(crate) fn serve(
    listener: &TcpListener,
    answer: Answer,
    tls: Option<&Arc<ServerConfig>>,
) -> io::Result<()> {
    let answer = Arc::new(answer);
    loop {
        let (socket, _) = listener.accept()?;
        let (answer, tls) = (Arc::clone(&answer), tls.cloned());
        thread::spawn(move || {
            // How a connection ends is the client's to report: it sees the same end.
            Wire::new(socket, tls)
                .and_then(|wire| Connection::open(wire, &answer))
                .and_then(Connection::run)
        });
    }
}

/// The payload of the largest frame, sent or received: what every peer must accept.
const FRAME: u16 = 16 << 10;
/// What is collected before it is written.
const BURST: usize = 256 << 10;
/// How much is consumed before it is given back.
const GIVE_BACK: u32 = 1 << 20;
/// Until a client that does not read is given up.
const STALLED: Duration = Duration::from_secs(10);

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEADER: usize = 9;

/// Frame types.
mod kind {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PING: u8 = 6;
    pub(super) const WINDOW_UPDATE: u8 = 8;
}

/// Flags of frames.
mod flag {
    pub(super) const ACK: u8 = 0x1;
    pub(super) const END_STREAM: u8 = 0x1;
    pub(super) const END_HEADERS: u8 = 0x4;
    pub(super) const PADDED: u8 = 0x8;
}

/// Settings, and the window before any.
mod setting {
    pub(super) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(super) const INITIAL_WINDOW_SIZE: u16 = 4;
    pub(super) const DEFAULT_WINDOW: u32 = 65_535;
}

/// Header blocks, in HPACK's literals without indexing.
mod block {
    pub(super) const RESPONSE: &[u8] = b"\x88\x00\x0ccontent-type\x10application/grpc";
    pub(super) const TRAILERS: &[u8] = b"\x00\x0bgrpc-status\x010";
}

fn protocol_error(what: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

struct FrameHeader {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl FrameHeader {
    fn parse(mut bytes: &[u8]) -> Option<Self> {
        (bytes.len() >= FRAME_HEADER).then(|| Self {
            length: bytes.get_uint(3) as usize,
            kind: bytes.get_u8(),
            flags: bytes.get_u8(),
            stream: bytes.get_u32() & !(1 << 31),
        })
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

fn put_frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.put_uint(payload.len() as u64, 3);
    out.put_u8(kind);
    out.put_u8(flags);
    out.put_u32(stream);
    out.put_slice(payload);
}

fn put_window_update(out: &mut Vec<u8>, stream: u32, by: u32) {
    put_frame(out, kind::WINDOW_UPDATE, 0, stream, &by.to_be_bytes());
}

/// Finds the ends of the messages in a stream of data.
#[derive(Default)]
struct Messages {
    prefix: [u8; PREFIX],
    /// How much of the prefix is there.
    filled: usize,
    /// How much of the message is not.
    missing: usize,
}

impl Messages {
    /// How many messages end in this data.
    fn count(&mut self, mut data: &[u8]) -> u64 {
        let mut ended = 0;
        while !data.is_empty() {
            if self.filled < PREFIX {
                let piece = data.len().min(PREFIX - self.filled);
                data.copy_to_slice(&mut self.prefix[self.filled..self.filled + piece]);
                self.filled += piece;
                match framed_len(&self.prefix[..self.filled]) {
                    Some(length) => self.missing = length - PREFIX,
                    None => return ended,
                }
            }
            let piece = data.len().min(self.missing);
            data.advance(piece);
            self.missing -= piece;
            if self.missing == 0 {
                ended += 1;
                self.filled = 0;
            }
        }
        ended
    }
}

struct Stream {
    /// How much the client lets this stream send; negative when it shrank the window.
    window: i64,
    /// What there is to send, in bytes of framed messages, and how much of it is sent.
    total: u64,
    sent: u64,
    headers_sent: bool,
    /// The trailers follow when all is sent.
    complete: bool,
    /// It is in the queue of streams that may be able to send.
    queued: bool,
    /// Received and not given back.
    consumed: u32,
    requests: Messages,
}

/// What the bytes of a connection go over.
enum Wire {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ServerConnection, TcpStream>>),
}

impl Wire {
    fn new(socket: TcpStream, tls: Option<Arc<ServerConfig>>) -> io::Result<Self> {
        let Some(config) = tls else { return Ok(Self::Plain(socket)) };
        let session = ServerConnection::new(config).map_err(io::Error::other)?;
        Ok(Self::Tls(Box::new(StreamOwned::new(session, socket))))
    }

    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => &stream.sock,
        }
    }
}

impl Read for Wire {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(into),
            Self::Tls(stream) => stream.read(into),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

struct Connection<'a> {
    answer: &'a Answer,
    socket: Wire,
    out: Vec<u8>,
    streams: FxHashMap<u32, Stream>,
    /// Streams that may be able to send.
    queue: VecDeque<u32>,
    /// Streams that only the window of the connection keeps from sending.
    starved: Vec<u32>,
    /// Streams that are answered at a time, in order of it.
    held: VecDeque<(Instant, u32)>,
    /// How many calls have been held.
    holds: u64,
    window: i64,
    initial_window: i64,
    /// Received and not given back.
    consumed: u32,
}

impl<'a> Connection<'a> {
    fn open(socket: Wire, answer: &'a Answer) -> io::Result<Self> {
        socket.tcp().set_nodelay(true)?;
        socket.tcp().set_write_timeout(Some(STALLED))?;
        let mut settings = Vec::new();
        settings.put_u16(setting::MAX_CONCURRENT_STREAMS);
        settings.put_u32(1 << 20);
        settings.put_u16(setting::INITIAL_WINDOW_SIZE);
        settings.put_u32(STREAM_WINDOW);
        let mut out = Vec::with_capacity(2 * BURST);
        put_frame(&mut out, kind::SETTINGS, 0, 0, &settings);
        put_window_update(&mut out, 0, CONNECTION_WINDOW - setting::DEFAULT_WINDOW);
        Ok(Self {
            answer,
            socket,
            out,
            streams: FxHashMap::default(),
            queue: VecDeque::new(),
            starved: Vec::new(),
            held: VecDeque::new(),
            holds: 0,
            window: setting::DEFAULT_WINDOW.into(),
            initial_window: setting::DEFAULT_WINDOW.into(),
            consumed: 0,
        })
    }

    fn run(mut self) -> io::Result<()> {
        let mut buffer = vec![0; 1 << 20];
        let mut filled = 0;
        let mut greeted = false;
        loop {
            self.answer_held();
            self.send();
            self.socket.write_all(&self.out)?;
            self.socket.flush()?;
            self.out.clear();
            match self.receive(&mut buffer[filled..]) {
                Ok(0) => return Ok(()),
                Ok(received) => filled += received,
                Err(error) if is_timeout(&error) => {}
                Err(error) => return Err(error),
            }

            let mut rest = &buffer[..filled];
            if !greeted && filled >= PREFACE.len() {
                let Some(after) = rest.strip_prefix(PREFACE) else {
                    return Err(protocol_error("not HTTP/2"));
                };
                rest = after;
                greeted = true;
            }
            while greeted && let Some(header) = FrameHeader::parse(rest) {
                if header.length > FRAME.into() {
                    return Err(protocol_error("a frame too large"));
                }
                let Some(payload) = rest.get(FRAME_HEADER..FRAME_HEADER + header.length) else {
                    break;
                };
                self.handle(&header, payload)?;
                rest = &rest[FRAME_HEADER + header.length..];
            }
            let left = rest.len();
            buffer.copy_within(filled - left..filled, 0);
            filled = left;
        }
    }

    /// Waits for input, unless there is more to send; at most until a held call is to be answered.
    fn receive(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if !self.queue.is_empty() {
            self.socket.tcp().set_nonblocking(true)?;
            let received = self.socket.read(into);
            self.socket.tcp().set_nonblocking(false)?;
            return received;
        }
        let Some((due, _)) = self.held.front() else {
            return self.socket.read(into);
        };
        let wait = due.saturating_duration_since(Instant::now());
        let wait = wait.max(Duration::from_millis(1));
        self.socket.tcp().set_read_timeout(Some(wait))?;
        let received = self.socket.read(into);
        self.socket.tcp().set_read_timeout(None)?;
        received
    }

    fn handle(&mut self, header: &FrameHeader, payload: &[u8]) -> io::Result<()> {
        let id = header.stream;
        match header.kind {
            kind::HEADERS => {
                self.open_stream(id);
                if header.has(flag::END_STREAM) {
                    self.end_request(id);
                }
            }
            kind::DATA => self.receive_data(header, payload)?,
            kind::RST_STREAM => {
                self.streams.remove(&id);
            }
            kind::SETTINGS if !header.has(flag::ACK) => {
                self.apply_settings(payload);
                put_frame(&mut self.out, kind::SETTINGS, flag::ACK, 0, &[]);
            }
            kind::PING if !header.has(flag::ACK) => {
                put_frame(&mut self.out, kind::PING, flag::ACK, 0, payload);
            }
            kind::WINDOW_UPDATE => {
                let Some(by) = payload.first_chunk() else {
                    return Err(protocol_error("a short WINDOW_UPDATE"));
                };
                let by = i64::from(u32::from_be_bytes(*by) & !(1 << 31));
                if id == 0 {
                    self.window += by;
                    for id in std::mem::take(&mut self.starved) {
                        self.enqueue(id);
                    }
                } else if let Some(stream) = self.streams.get_mut(&id) {
                    stream.window += by;
                    self.enqueue(id);
                }
            }
            // PRIORITY, GOAWAY, CONTINUATION (nobody looks into header blocks), acknowledgements, unknown types.
            _ => {}
        }
        Ok(())
    }

    fn open_stream(&mut self, id: u32) {
        let window = self.initial_window;
        self.streams.entry(id).or_insert_with(|| Stream {
            window,
            total: 0,
            sent: 0,
            headers_sent: false,
            complete: false,
            queued: false,
            consumed: 0,
            requests: Messages::default(),
        });
        if matches!(self.answer.mode, Mode::Stream) {
            // The headers need not wait for a message, and some clients wait for them.
            self.enqueue(id);
        }
    }

    fn receive_data(&mut self, header: &FrameHeader, payload: &[u8]) -> io::Result<()> {
        // Padding counts too.
        let length = header.length as u32;
        self.consumed += length;
        if self.consumed >= GIVE_BACK {
            put_window_update(&mut self.out, 0, self.consumed);
            self.consumed = 0;
        }
        let id = header.stream;
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(());
        };
        stream.consumed += length;
        if stream.consumed >= GIVE_BACK {
            put_window_update(&mut self.out, id, stream.consumed);
            stream.consumed = 0;
        }
        if matches!(self.answer.mode, Mode::Stream) {
            let data = without_padding(header, payload)?;
            let messages = stream.requests.count(data);
            if messages > 0 {
                stream.total += messages * self.answer.message as u64;
                self.enqueue(id);
            }
        }
        if header.has(flag::END_STREAM) {
            self.end_request(id);
        }
        Ok(())
    }

    fn end_request(&mut self, id: u32) {
        let message = self.answer.message as u64;
        match self.answer.mode {
            Mode::Hold { first, delay } if self.holds < first => {
                self.holds += 1;
                if let Some(delay) = delay {
                    self.held.push_back((Instant::now() + delay, id));
                }
            }
            Mode::Unary | Mode::Hold { .. } => self.complete(id, message),
            Mode::Down { messages } => self.complete(id, messages * message),
            Mode::Stream => self.complete(id, 0),
        }
    }

    /// Sends this much more on a stream and ends it.
    fn complete(&mut self, id: u32, more: u64) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.total += more;
            stream.complete = true;
            self.enqueue(id);
        }
    }

    fn answer_held(&mut self) {
        while let Some(&(due, id)) = self.held.front()
            && due <= Instant::now()
        {
            self.held.pop_front();
            self.complete(id, self.answer.message as u64);
        }
    }

    fn apply_settings(&mut self, mut payload: &[u8]) {
        while payload.len() >= 6 {
            let (setting, value) = (payload.get_u16(), payload.get_u32());
            if setting == setting::INITIAL_WINDOW_SIZE {
                let by = i64::from(value) - self.initial_window;
                self.initial_window += by;
                for stream in self.streams.values_mut() {
                    stream.window += by;
                }
                let ids: Vec<_> = self.streams.keys().copied().collect();
                for id in ids {
                    self.enqueue(id);
                }
            }
        }
    }

    fn enqueue(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id)
            && !stream.queued
        {
            stream.queued = true;
            self.queue.push_back(id);
        }
    }

    /// Collects one burst of output, one frame of each stream in turn.
    fn send(&mut self) {
        while self.out.len() < BURST
            && let Some(id) = self.queue.pop_front()
        {
            self.send_frame(id);
        }
    }

    fn send_frame(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.queued = false;
        let streaming = matches!(self.answer.mode, Mode::Stream);
        if !stream.headers_sent && (stream.complete || streaming) {
            stream.headers_sent = true;
            let flags = flag::END_HEADERS;
            put_frame(&mut self.out, kind::HEADERS, flags, id, block::RESPONSE);
        }
        let left = stream.total - stream.sent;
        let allowed = stream.window.min(self.window).clamp(0, FRAME.into());
        let length = left.min(allowed.unsigned_abs());
        if length > 0 {
            let start = (stream.sent % self.answer.message as u64) as usize;
            let data = &self.answer.tape[start..start + length as usize];
            put_frame(&mut self.out, kind::DATA, 0, id, data);
            stream.sent += length;
            stream.window = stream.window.saturating_sub_unsigned(length);
            self.window = self.window.saturating_sub_unsigned(length);
        }
        if stream.sent < stream.total {
            if stream.window > 0 && self.window > 0 {
                self.enqueue(id);
            } else if stream.window > 0 {
                self.starved.push(id);
            }
        } else if stream.complete {
            let flags = flag::END_HEADERS | flag::END_STREAM;
            put_frame(&mut self.out, kind::HEADERS, flags, id, block::TRAILERS);
            self.streams.remove(&id);
        }
    }
}

fn without_padding<'a>(header: &FrameHeader, payload: &'a [u8]) -> io::Result<&'a [u8]> {
    if !header.has(flag::PADDED) {
        return Ok(payload);
    }
    payload
        .split_first()
        .and_then(|(&padding, data)| data.get(..data.len().checked_sub(padding.into())?))
        .ok_or_else(|| protocol_error("more padding than payload"))
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_across_any_cut() {
        let mut data = Vec::new();
        for bytes in [0, 1, 300] {
            let body = Bytes::from(vec![0; bytes]);
            frame_message(&Resp { body }, &mut data);
        }
        for size in 1..=data.len() {
            let mut messages = Messages::default();
            let ended: u64 = data.chunks(size).map(|piece| messages.count(piece)).sum();
            assert_eq!(ended, 3, "in pieces of {size}");
            assert_eq!(messages.filled, 0);
        }
    }

    #[test]
    fn padding_is_taken_off() {
        let header = |flags| FrameHeader { length: 4, kind: kind::DATA, flags, stream: 1 };
        assert_eq!(without_padding(&header(0), b"abcd").unwrap(), b"abcd");
        let padded = header(flag::PADDED);
        assert_eq!(without_padding(&padded, b"\x01ab0").unwrap(), b"ab");
        assert!(without_padding(&padded, b"\x04abc").is_err());
        assert!(without_padding(&padded, b"").is_err());
    }

    /// Serves one mode and connects to it with small windows.
    async fn connect(mode: Mode, bytes: usize) -> h2::client::SendRequest<Bytes> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap();
        thread::spawn(move || serve(&listener, Answer::new(mode, bytes), None));
        let socket = tokio::net::TcpStream::connect(server).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let (requests, connection) =
            h2::client::Builder::new().initial_window_size(1000).handshake(socket).await.unwrap();
        tokio::spawn(connection);
        requests.ready().await.unwrap()
    }

    fn open(
        requests: &mut h2::client::SendRequest<Bytes>,
    ) -> (h2::client::ResponseFuture, h2::SendStream<Bytes>) {
        let head = http::Request::post("http://bench/").body(()).unwrap();
        requests.send_request(head, false).unwrap()
    }

    /// Reads to the trailers and says how long the body was. h2 fails it when a window is overrun.
    async fn drain(response: h2::client::ResponseFuture) -> usize {
        let mut body = response.await.unwrap().into_body();
        let mut length = 0;
        while let Some(chunk) = body.data().await {
            let chunk = chunk.unwrap();
            assert!(chunk.len() <= 1000);
            length += chunk.len();
            body.flow_control().release_capacity(chunk.len()).unwrap();
        }
        let trailers = body.trailers().await.unwrap().unwrap();
        assert_eq!(trailers["grpc-status"], "0");
        length
    }

    #[tokio::test]
    async fn many_streams_at_once_stay_within_small_windows() {
        let mut requests = connect(Mode::Down { messages: 500 }, 300).await;
        let mut streams = tokio::task::JoinSet::new();
        for _ in 0..10 {
            let (response, mut request) = open(&mut requests);
            request.send_data(Bytes::new(), true).unwrap();
            streams.spawn(drain(response));
        }
        for length in streams.join_all().await {
            assert_eq!(length, 500 * (300 + 3 + PREFIX));
        }
    }

    #[tokio::test]
    async fn an_upload_larger_than_all_windows_is_let_through() {
        let mut requests = connect(Mode::Unary, 2).await;
        let (response, mut request) = open(&mut requests);
        let upload = Bytes::from(vec![0; 20 << 20]);
        request.send_data(upload, true).unwrap();
        assert_eq!(drain(response).await, 2 + 2 + PREFIX);
    }

    #[tokio::test]
    async fn each_message_of_a_stream_is_answered() {
        let mut requests = connect(Mode::Stream, 2).await;
        let (response, mut request) = open(&mut requests);
        let mut messages = Vec::new();
        for _ in 0..3 {
            let body = Bytes::from_static(b"ab");
            frame_message(&Resp { body }, &mut messages);
        }
        let (early, late) = messages.split_at(12);
        request.send_data(Bytes::copy_from_slice(early), false).unwrap();
        request.send_data(Bytes::copy_from_slice(late), true).unwrap();
        assert_eq!(drain(response).await, messages.len());
    }

    #[tokio::test]
    async fn calls_are_held() {
        let hold = |delay| Mode::Hold { first: 1, delay };
        let delay = Duration::from_millis(50);
        let mut requests = connect(hold(Some(delay)), 2).await;
        let begin = Instant::now();
        let (slow, mut request) = open(&mut requests);
        request.send_data(Bytes::new(), true).unwrap();
        let (fast, mut request) = open(&mut requests);
        request.send_data(Bytes::new(), true).unwrap();
        drain(fast).await;
        drain(slow).await;
        assert!(begin.elapsed() >= delay);

        let mut requests = connect(hold(None), 2).await;
        let (never, mut request) = open(&mut requests);
        request.send_data(Bytes::new(), true).unwrap();
        let waited = tokio::time::timeout(2 * delay, never).await;
        assert!(waited.is_err());
    }
}
