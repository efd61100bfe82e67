//! The h2 crate used directly, without deadlines: the floor of what a client on this engine can cost.

use std::future::poll_fn;
use std::pin::pin;

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, Bytes, BytesMut};
use h2::client::{Builder, SendRequest};
use h2::{RecvStream, SendStream};
use http::header::{CONTENT_TYPE, TE, USER_AGENT};
use http::{HeaderValue, Method, Request, StatusCode, Uri, Version};
use prost::Message;
use tokio::net::TcpStream;
use tokio_stream::{Stream as Requests, StreamExt as _};

use super::{CONNECTION_WINDOW, Client, Download, PingPong, STREAM_WINDOW, Target};
use crate::proto::{DOWN, PREFIX, Req, Resp, STREAM, UNARY, UP, frame, framed_len};

/// As in gRPC implementations.
const MAX_MESSAGE: usize = 4 << 20;

/// One connection.
#[derive(Clone)]
pub(crate) struct RawH2 {
    requests: SendRequest<Bytes>,
    unary: Uri,
    stream: Uri,
    down: Uri,
    up: Uri,
}

impl Client for RawH2 {
    type PingPong = Stream;
    type Download = Messages;

    async fn connect(server: &Target) -> Result<Self> {
        let server = server.in_plaintext()?;
        let socket = TcpStream::connect(server).await?;
        socket.set_nodelay(true)?;
        let (requests, connection) = Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(socket)
            .await?;
        // What ends a connection ends its calls too, with the same error.
        tokio::spawn(connection);
        let uri = |path| format!("http://{server}{path}").parse();
        Ok(Self {
            requests,
            unary: uri(UNARY)?,
            stream: uri(STREAM)?,
            down: uri(DOWN)?,
            up: uri(UP)?,
        })
    }

    async fn unary(&mut self, request: Req) -> Result<Resp> {
        let uri = self.unary.clone();
        self.call(uri, &request).await?.only().await
    }

    async fn ping_pong(&mut self) -> Result<Stream> {
        let (response, requests) = self.open(self.stream.clone()).await?;
        Ok(Stream { requests, buffer: BytesMut::new(), responses: Messages::of(response.await?)? })
    }

    async fn server_stream(&mut self, request: Req) -> Result<Messages> {
        let uri = self.down.clone();
        self.call(uri, &request).await
    }

    async fn client_stream(
        &mut self,
        requests: impl Requests<Item = Req> + Send + 'static,
    ) -> Result<Resp> {
        let (response, mut sender) = self.open(self.up.clone()).await?;
        let mut requests = pin!(requests);
        while let Some(request) = requests.next().await {
            let message = encode(&request);
            sender.reserve_capacity(message.len());
            while sender.capacity() < message.len() {
                let more = poll_fn(|cx| sender.poll_capacity(cx)).await;
                more.context("the stream ended")??;
            }
            sender.send_data(message, false)?;
        }
        sender.send_data(Bytes::new(), true)?;
        Messages::of(response.await?)?.only().await
    }
}

impl RawH2 {
    async fn open(&mut self, uri: Uri) -> Result<(h2::client::ResponseFuture, SendStream<Bytes>)> {
        let mut head = Request::new(());
        *head.method_mut() = Method::POST;
        *head.version_mut() = Version::HTTP_2;
        *head.uri_mut() = uri;
        let fields = head.headers_mut();
        fields.reserve(4);
        fields.insert(TE, HeaderValue::from_static("trailers"));
        fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        fields.insert(USER_AGENT, HeaderValue::from_static("raw-h2/0.4"));
        poll_fn(|cx| self.requests.poll_ready(cx)).await?;
        Ok(self.requests.send_request(head, false)?)
    }

    /// Sends the only request of a call.
    async fn call(&mut self, uri: Uri, request: &Req) -> Result<Messages> {
        let (response, mut requests) = self.open(uri).await?;
        requests.send_data(encode(request), true)?;
        Messages::of(response.await?)
    }
}

fn encode(request: &Req) -> Bytes {
    let mut out = BytesMut::with_capacity(PREFIX + request.encoded_len());
    frame(request, &mut out);
    out.freeze()
}

/// A stream in both directions.
pub(crate) struct Stream {
    requests: SendStream<Bytes>,
    /// Used again for each request once the one before is sent.
    buffer: BytesMut,
    responses: Messages,
}

impl PingPong for Stream {
    async fn round_trip(&mut self, request: Req) -> Result<Resp> {
        self.buffer.reserve(PREFIX + request.encoded_len());
        frame(&request, &mut self.buffer);
        let request = self.buffer.split().freeze();
        self.requests.send_data(request, false)?;
        self.responses.next().await?.context("the stream ended")
    }
}

/// The responses of a call.
pub(crate) struct Messages {
    body: RecvStream,
    /// Received, not yet looked at.
    chunk: Bytes,
    /// The beginning of a message that is not whole yet.
    partial: BytesMut,
}

impl Messages {
    fn of(response: http::Response<RecvStream>) -> Result<Self> {
        let (head, body) = response.into_parts();
        ensure!(head.status == StatusCode::OK, "HTTP status {}", head.status);
        Ok(Self { body, chunk: Bytes::new(), partial: BytesMut::new() })
    }

    async fn only(mut self) -> Result<Resp> {
        let response = self.next().await?.context("no response")?;
        ensure!(self.next().await?.is_none(), "a second response");
        Ok(response)
    }

    async fn next(&mut self) -> Result<Option<Resp>> {
        loop {
            if let Some(mut message) = self.take_whole()? {
                ensure!(message.get_u8() == 0, "a compressed message");
                message.advance(PREFIX - 1);
                return Ok(Some(Resp::decode(message)?));
            }
            let Some(chunk) = self.body.data().await else {
                return self.end().await.map(|()| None);
            };
            self.chunk = chunk?;
            let flow_control = self.body.flow_control();
            flow_control.release_capacity(self.chunk.len())?;
        }
    }

    /// A whole framed message. `None`: all that was received is in `partial`.
    fn take_whole(&mut self) -> Result<Option<Bytes>> {
        if self.partial.is_empty() {
            match framed_len(&self.chunk) {
                Some(length) if length <= self.chunk.len() => {
                    return Ok(Some(self.chunk.split_to(length)));
                }
                _ => {}
            }
        }
        while !self.chunk.is_empty() {
            let length = framed_len(&self.partial);
            let missing = length.unwrap_or(PREFIX) - self.partial.len();
            ensure!(missing <= MAX_MESSAGE, "a message of {missing} bytes");
            self.partial.reserve(missing);
            let piece = self.chunk.split_to(missing.min(self.chunk.len()));
            self.partial.extend_from_slice(&piece);
            if framed_len(&self.partial) == Some(self.partial.len()) {
                return Ok(Some(self.partial.split().freeze()));
            }
        }
        Ok(None)
    }

    async fn end(&mut self) -> Result<()> {
        ensure!(self.partial.is_empty(), "the stream ended within a message");
        let trailers = self.body.trailers().await?.context("no trailers")?;
        match trailers.get("grpc-status") {
            Some(status) if status == "0" => Ok(()),
            status => bail!("grpc-status {status:?}"),
        }
    }
}

impl Download for Messages {
    async fn message(&mut self) -> Result<Option<Resp>> {
        self.next().await
    }
}
