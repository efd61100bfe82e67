//! A server made of single frames.

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;

pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
pub(super) const PADDED: u8 = 8;

pub(super) const HEADER_TABLE_SIZE: u16 = 1;
pub(super) const MAX_CONCURRENT_STREAMS: u16 = 3;
pub(super) const INITIAL_WINDOW_SIZE: u16 = 4;
pub(super) const MAX_HEADER_LIST_SIZE: u16 = 6;

pub(super) const NO_ERROR: u32 = 0;
pub(super) const PROTOCOL_ERROR: u32 = 1;
pub(super) const REFUSED_STREAM: u32 = 7;
pub(super) const CANCEL: u32 = 8;
pub(super) const ENHANCE_YOUR_CALM: u32 = 11;

/// The server's end of a connection.
pub(super) struct Peer {
    io: DuplexStream,
}

#[derive(Debug)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    pub(super) fn is_end(&self) -> bool {
        self.flags & END_STREAM != 0
    }

    /// The error code of a reset.
    pub(super) fn code(&self) -> u32 {
        assert_eq!(self.kind, RST_STREAM, "{self:?}");
        u32::from_be_bytes(self.payload[..4].try_into().unwrap())
    }
}

impl Peer {
    /// A peer that has read the client's preface.
    pub(super) async fn new(mut io: DuplexStream) -> Self {
        let mut preface = [0; 24];
        io.read_exact(&mut preface).await.unwrap();
        assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        Self { io }
    }

    pub(super) async fn send_raw(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.unwrap();
    }

    pub(super) async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.send_raw(&frame(kind, flags, stream, payload)).await;
    }

    pub(super) async fn settings(&mut self, settings: &[(u16, u32)]) {
        let mut payload = Vec::new();
        for (name, value) in settings {
            payload.extend(name.to_be_bytes());
            payload.extend(value.to_be_bytes());
        }
        self.send(SETTINGS, 0, 0, &payload).await;
    }

    /// Takes on the client's settings: only then are its windows what it wants.
    pub(super) async fn acknowledge_settings(&mut self) {
        self.send(SETTINGS, 1, 0, &[]).await;
    }

    pub(super) async fn headers(&mut self, stream: u32, flags: u8, fields: &[(&str, &str)]) {
        let block = header_block(fields);
        self.send(HEADERS, flags | END_HEADERS, stream, &block).await;
    }

    /// The usual headers of a response.
    pub(super) async fn ok_headers(&mut self, stream: u32) {
        self.headers(stream, 0, GRPC).await;
    }

    pub(super) async fn trailers(&mut self, stream: u32, status: &str) {
        self.headers(stream, END_STREAM, &[("grpc-status", status)]).await;
    }

    pub(super) async fn data(&mut self, stream: u32, flags: u8, bytes: &[u8]) {
        self.send(DATA, flags, stream, bytes).await;
    }

    /// A whole successful response with one message.
    pub(super) async fn answer(&mut self, stream: u32, payload: &[u8]) {
        self.ok_headers(stream).await;
        self.data(stream, 0, &framed(payload)).await;
        self.trailers(stream, "0").await;
    }

    pub(super) async fn reset(&mut self, stream: u32, code: u32) {
        self.send(RST_STREAM, 0, stream, &code.to_be_bytes()).await;
    }

    pub(super) async fn goaway(&mut self, last_stream: u32, code: u32, debug_data: &[u8]) {
        let mut payload = last_stream.to_be_bytes().to_vec();
        payload.extend(code.to_be_bytes());
        payload.extend(debug_data);
        self.send(GOAWAY, 0, 0, &payload).await;
    }

    pub(super) async fn window_update(&mut self, stream: u32, increment: u32) {
        self.send(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes()).await;
    }

    /// The next frame about a stream or the end of the connection; `None` when it has ended.
    pub(super) async fn next(&mut self) -> Option<Frame> {
        loop {
            let frame = self.next_of_all().await?;
            if !matches!(frame.kind, SETTINGS | WINDOW_UPDATE | PING) {
                return Some(frame);
            }
        }
    }

    pub(super) async fn next_of_all(&mut self) -> Option<Frame> {
        let mut header = [0; 9];
        self.io.read_exact(&mut header).await.ok()?;
        let [l2, l1, l0, kind, flags, s3, s2, s1, s0] = header;
        let mut payload = vec![0; u32::from_be_bytes([0, l2, l1, l0]) as usize];
        self.io.read_exact(&mut payload).await.ok()?;
        Some(Frame { kind, flags, stream: u32::from_be_bytes([s3, s2, s1, s0]), payload })
    }

    /// The next frame of this kind; others are passed over.
    pub(super) async fn next_of(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.next_of_all().await?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }

    /// Answers a PING.
    pub(super) async fn pong(&mut self, ping: &Frame) {
        self.send(PING, 1, 0, &ping.payload).await;
    }

    /// The next frame, which must be of this kind.
    pub(super) async fn expect(&mut self, kind: u8) -> Frame {
        let frame = self.next().await.expect("the connection is open");
        assert_eq!(frame.kind, kind, "{frame:?}");
        frame
    }

    /// The next frame about a stream, whatever it is.
    pub(super) async fn expect_any(&mut self) -> Frame {
        self.next().await.expect("the connection is open")
    }

    /// Reads until a request is whole or reset; its stream, and whether it is whole.
    pub(super) async fn request_or_reset(&mut self) -> (u32, bool) {
        loop {
            let frame = self.expect_any().await;
            if frame.kind == RST_STREAM {
                return (frame.stream, false);
            }
            if frame.is_end() {
                return (frame.stream, true);
            }
        }
    }

    /// Reads until a request is whole; its stream.
    pub(super) async fn request(&mut self) -> u32 {
        loop {
            let frame = self.next().await.expect("the connection is open");
            assert!(matches!(frame.kind, HEADERS | DATA), "{frame:?}");
            if frame.is_end() {
                return frame.stream;
            }
        }
    }
}

pub(super) const GRPC: &[(&str, &str)] =
    &[(":status", "200"), ("content-type", "application/grpc")];

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A message with its prefix.
pub(super) fn framed(payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend((payload.len() as u32).to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Fields as literals without indexing.
pub(super) fn header_block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            // One byte of length holds up to 126.
            assert!(text.len() < 127);
            block.push(text.len() as u8);
            block.extend(text.bytes());
        }
    }
    block
}
