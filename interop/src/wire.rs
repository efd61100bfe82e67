//! What the client writes to a plaintext connection, frame by frame, and how often it connects.

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
            Ok(Io::new(Watched { io, reader: FrameReader::new(), frames: self.frames.clone() }))
        })
    }
}

/// Dials sockets and counts the connections.
pub(crate) struct Counting {
    pub(crate) connections: watch::Sender<u64>,
}

impl Connect for Counting {
    fn connect<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, io::Result<Io>> {
        Box::pin(async move {
            let io = SocketConnector.connect(address).await?;
            self.connections.send_modify(|connections| *connections += 1);
            Ok(io)
        })
    }
}

struct Watched {
    io: Io,
    reader: FrameReader,
    frames: watch::Sender<Vec<Frame>>,
}

impl Watched {
    fn has_sent(&mut self, bytes: &[u8]) {
        let Self { reader, frames, .. } = self;
        reader.read(bytes, |frame| frames.send_modify(|frames| frames.push(frame)));
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let sent = ready!(Pin::new(&mut self.io).poll_write(cx, buf))?;
        self.has_sent(&buf[..sent]);
        Poll::Ready(Ok(sent))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let sent = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bufs))?;
        let mut left = sent;
        for buf in bufs {
            let part = left.min(buf.len());
            self.has_sent(&buf[..part]);
            left -= part;
        }
        Poll::Ready(Ok(sent))
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
    /// The head of a frame, as far as it has come; with the payload too if that is an error code.
    head: Vec<u8>,
}

impl FrameReader {
    fn new() -> Self {
        Self { skip: PREFACE_BYTES, head: Vec::with_capacity(HEAD_BYTES + ERROR_CODE_BYTES) }
    }

    fn read(&mut self, mut bytes: &[u8], mut found: impl FnMut(Frame)) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let part = self.skip.min(bytes.len());
                self.skip -= part;
                bytes = &bytes[part..];
                continue;
            }
            let due = if self.head.len() < HEAD_BYTES { HEAD_BYTES } else { RESET_BYTES };
            let part = (due - self.head.len()).min(bytes.len());
            self.head.extend_from_slice(&bytes[..part]);
            bytes = &bytes[part..];
            if self.head.len() == due {
                self.head_is_whole(&mut found);
            }
        }
    }

    fn head_is_whole(&mut self, found: &mut impl FnMut(Frame)) {
        let head = &self.head;
        let kind = match (head[3], head.len()) {
            (0, _) => Kind::Data,
            (1, _) => Kind::Headers,
            // Its error code is still to come.
            (3, HEAD_BYTES) => return,
            (3, _) => Kind::Reset(u32::from_be_bytes([head[9], head[10], head[11], head[12]])),
            _ => return self.next(),
        };
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        found(Frame { stream, kind });
        self.next();
    }

    /// Goes on to the next frame: past what of this one is not in `head`.
    fn next(&mut self) {
        let payload = u32::from_be_bytes([0, self.head[0], self.head[1], self.head[2]]) as usize;
        self.skip = (HEAD_BYTES + payload).saturating_sub(self.head.len());
        self.head.clear();
    }
}

const PREFACE_BYTES: usize = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();
const HEAD_BYTES: usize = 9;
const ERROR_CODE_BYTES: usize = 4;
const RESET_BYTES: usize = HEAD_BYTES + ERROR_CODE_BYTES;

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
        let expected = [
            Frame { stream: 5, kind: Kind::Headers },
            Frame { stream: 5, kind: Kind::Data },
            Frame { stream: 5, kind: Kind::Reset(CANCEL) },
            Frame { stream: 7, kind: Kind::Data },
        ];
        for size in 1..=bytes.len() {
            let mut reader = FrameReader::new();
            let mut frames = Vec::new();
            for piece in bytes.chunks(size) {
                reader.read(piece, |frame| frames.push(frame));
            }
            assert_eq!(frames, expected, "in pieces of {size}");
        }
    }
}
