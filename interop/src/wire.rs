//! What a client writes to a plaintext connection, frame by frame, and how the connection ends.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use switchboard::{Address, BoxFuture, Connect, Io, SocketConnector};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

/// A frame that the client sent on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) stream: u32,
    pub(crate) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Headers,
    Data,
    /// With its error code.
    Reset(u32),
}

/// `CANCEL`, as `RST_STREAM` carries it.
pub(crate) const CANCEL: u32 = 8;

/// Dials sockets and writes down the frames that are sent there.
pub(crate) struct Watching {
    pub(crate) frames: watch::Sender<Vec<Frame>>,
}

impl Connect for Watching {
    fn connect<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, io::Result<Io>> {
        Box::pin(async move {
            let io = SocketConnector.connect(address).await?;
            Ok(Io::new(Watched::new(io, Frames(self.frames.clone()))))
        })
    }
}

struct Frames(watch::Sender<Vec<Frame>>);

impl Watcher for Frames {
    fn sent(&mut self, frame: Frame, _start: &[u8]) {
        self.0.send_modify(|frames| frames.push(frame));
    }
}

/// What becomes of a connection, told to whoever watches it.
pub(crate) trait Watcher: Send + Unpin + 'static {
    /// The client has sent a frame. `start` is the first [`START_BYTES`] of the payload of DATA,
    /// and empty for other frames.
    fn sent(&mut self, frame: Frame, start: &[u8]);

    /// Nothing more can be read: the peer has closed the connection, or reading has failed.
    fn reading_ended(&mut self, error: Option<&io::Error>) {
        let _ = error;
    }

    /// The socket took no more bytes.
    fn writing_failed(&mut self) {}
}

/// A connection that is watched.
pub(crate) struct Watched<S, W> {
    io: S,
    reader: FrameReader,
    watcher: W,
}

impl<S, W: Watcher> Watched<S, W> {
    pub(crate) fn new(io: S, watcher: W) -> Self {
        Self { io, reader: FrameReader::new(), watcher }
    }

    fn wrote(&mut self, outcome: &io::Result<usize>, bufs: &[IoSlice<'_>]) {
        let Ok(mut left) = outcome.as_ref().copied() else {
            return self.watcher.writing_failed();
        };
        for buf in bufs {
            let part = left.min(buf.len());
            self.reader.read(&buf[..part], |frame, start| self.watcher.sent(frame, start));
            left -= part;
        }
    }
}

impl<S: AsyncRead + Unpin, W: Watcher> AsyncRead for Watched<S, W> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (room, before) = (buf.remaining(), buf.filled().len());
        let outcome = ready!(Pin::new(&mut self.io).poll_read(cx, buf));
        match &outcome {
            Ok(()) if room > 0 && buf.filled().len() == before => self.watcher.reading_ended(None),
            Ok(()) => {}
            Err(error) => self.watcher.reading_ended(Some(error)),
        }
        Poll::Ready(outcome)
    }
}

impl<S: AsyncWrite + Unpin, W: Watcher> AsyncWrite for Watched<S, W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = ready!(Pin::new(&mut self.io).poll_write(cx, buf));
        self.wrote(&outcome, &[IoSlice::new(buf)]);
        Poll::Ready(outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bufs));
        self.wrote(&outcome, bufs);
        Poll::Ready(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Finds frames in bytes that come in pieces of any size.
struct FrameReader {
    /// Bytes that are not looked at: the preface, and the rest of a frame.
    skip: usize,
    /// The head of a frame, and of its payload what is looked at, as far as they have come.
    head: Vec<u8>,
}

impl FrameReader {
    fn new() -> Self {
        Self { skip: PREFACE_BYTES, head: Vec::with_capacity(HEAD_BYTES + START_BYTES) }
    }

    fn read(&mut self, mut bytes: &[u8], mut found: impl FnMut(Frame, &[u8])) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let part = self.skip.min(bytes.len());
                self.skip -= part;
                bytes = &bytes[part..];
                continue;
            }
            let part = (self.wanted_bytes() - self.head.len()).min(bytes.len());
            self.head.extend_from_slice(&bytes[..part]);
            bytes = &bytes[part..];
            // A whole head tells how much of the payload is wanted, which may be nothing.
            if self.head.len() == self.wanted_bytes() {
                self.is_whole(&mut found);
            }
        }
    }

    /// The head of a frame, and of its payload what is looked at.
    fn wanted_bytes(&self) -> usize {
        if self.head.len() < HEAD_BYTES {
            return HEAD_BYTES;
        }
        let of_payload = match self.head[3] {
            DATA => START_BYTES,
            RST_STREAM => ERROR_CODE_BYTES,
            _ => 0,
        };
        HEAD_BYTES + of_payload.min(self.payload_bytes())
    }

    fn is_whole(&mut self, found: &mut impl FnMut(Frame, &[u8])) {
        let (head, start) = self.head.split_at(HEAD_BYTES);
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        match (head[3], start) {
            (DATA, start) => found(Frame { stream, kind: Kind::Data }, start),
            (HEADERS, _) => found(Frame { stream, kind: Kind::Headers }, &[]),
            (RST_STREAM, &[a, b, c, d]) => {
                let kind = Kind::Reset(u32::from_be_bytes([a, b, c, d]));
                found(Frame { stream, kind }, &[]);
            }
            _ => {}
        }
        // On to the next frame: past what of this one has not been looked at.
        self.skip = HEAD_BYTES + self.payload_bytes() - self.head.len();
        self.head.clear();
    }

    fn payload_bytes(&self) -> usize {
        u32::from_be_bytes([0, self.head[0], self.head[1], self.head[2]]) as usize
    }
}

/// How much of the payload of DATA a [`Watcher`] is shown: what a message of gRPC begins with.
pub(crate) const START_BYTES: usize = 64;

const PREFACE_BYTES: usize = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();
const HEAD_BYTES: usize = 9;
const ERROR_CODE_BYTES: usize = 4;

/// Types of frames.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_in_pieces_of_any_size() {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
        bytes.extend([0, 0, 3, 1, 4, 0, 0, 0, 5, 0xff, 3, 0xff]);
        bytes.extend([0, 0, 2, 0, 0, 0, 0, 0, 5, 3, 3]);
        bytes.extend([0, 0, 4, 3, 0, 0, 0, 0, 5, 0, 0, 0, 8]);
        bytes.extend([0, 0, 0, 0, 1, 0, 0, 0, 7]);
        bytes.extend([0, 0, 70, 0, 1, 0, 0, 0, 9]);
        bytes.extend([6; 70]);
        bytes.extend([0, 0, 0, 1, 4, 0, 0, 0, 9]);
        let expected = [
            (Frame { stream: 5, kind: Kind::Headers }, vec![]),
            (Frame { stream: 5, kind: Kind::Data }, vec![3, 3]),
            (Frame { stream: 5, kind: Kind::Reset(CANCEL) }, vec![]),
            (Frame { stream: 7, kind: Kind::Data }, vec![]),
            (Frame { stream: 9, kind: Kind::Data }, vec![6; START_BYTES]),
            (Frame { stream: 9, kind: Kind::Headers }, vec![]),
        ];
        for size in 1..=bytes.len() {
            let mut reader = FrameReader::new();
            let mut frames = Vec::new();
            for piece in bytes.chunks(size) {
                reader.read(piece, |frame, start| frames.push((frame, start.to_vec())));
            }
            assert_eq!(frames, expected, "in pieces of {size}");
        }
    }
}
