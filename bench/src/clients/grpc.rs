//! The official `grpc` crate, which has no options for windows and leaves Nagle's algorithm on.

use std::pin::pin;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use bytes::{Buf, Bytes};
use grpc::client::{
    CallOptions, Channel, ChannelOptions, DynRecvStream, DynSendStream, Invoke as _,
    RecvStream as _, ResponseStreamItem, SendOptions, SendStream as _,
};
use grpc::core::{RecvMessage, RequestHeaders, SendMessage};
use grpc::credentials::LocalChannelCredentials;
use prost::Message as _;
use tokio_stream::{Stream as Requests, StreamExt as _};

use super::{CALL_TIMEOUT, Client, Download, PingPong, Target};
use crate::proto::{DOWN, Req, Resp, STREAM, UNARY, UP};

/// One channel.
#[derive(Clone)]
pub(crate) struct Grpc(Channel);

impl Client for Grpc {
    type PingPong = Stream;
    type Download = Stream;

    async fn connect(server: &Target) -> Result<Self> {
        let server = server.in_plaintext()?;
        let credentials = LocalChannelCredentials::new_arc();
        Ok(Self(Channel::new(format!("dns:///{server}"), credentials, ChannelOptions::default())))
    }

    async fn unary(&mut self, request: Req) -> Result<Resp> {
        let mut stream = Stream::open(&self.0, UNARY).await;
        stream.send(&request, true).await?;
        stream.receive_only().await
    }

    async fn ping_pong(&mut self) -> Result<Stream> {
        Ok(Stream::open(&self.0, STREAM).await)
    }

    async fn server_stream(&mut self, request: Req) -> Result<Stream> {
        let mut stream = Stream::open(&self.0, DOWN).await;
        stream.send(&request, true).await?;
        Ok(stream)
    }

    async fn client_stream(
        &mut self,
        requests: impl Requests<Item = Req> + Send + 'static,
    ) -> Result<Resp> {
        let mut stream = Stream::open(&self.0, UP).await;
        let mut requests = pin!(requests);
        let mut request = requests.next().await.context("no request")?;
        while let Some(next) = requests.next().await {
            stream.send(&request, false).await?;
            request = next;
        }
        stream.send(&request, true).await?;
        stream.receive_only().await
    }
}

/// One call of any kind.
pub(crate) struct Stream {
    requests: Box<dyn DynSendStream>,
    responses: Box<dyn DynRecvStream>,
}

impl Stream {
    async fn open(channel: &Channel, method: &str) -> Self {
        let headers = RequestHeaders::new().with_method_name(method);
        let mut options = CallOptions::default();
        options.set_deadline(Instant::now() + CALL_TIMEOUT);
        let (requests, responses) = channel.invoke(headers, options).await;
        Self { requests, responses }
    }

    async fn send(&mut self, request: &Req, last: bool) -> Result<()> {
        let message = Encoded(request.encode_to_vec().into());
        let options = SendOptions::new().with_final_msg(last);
        let sent = self.requests.send(&message, options).await;
        sent.map_err(|()| anyhow!("the stream takes no more messages"))
    }

    /// The only message.
    async fn receive_only(&mut self) -> Result<Resp> {
        let response = self.receive().await?.context("no response")?;
        match self.receive().await? {
            None => Ok(response),
            Some(_) => bail!("a second response"),
        }
    }

    /// The next message; `None` after the last, when the server said that all is well.
    async fn receive(&mut self) -> Result<Option<Resp>> {
        let mut response = Decoded(None);
        loop {
            match self.responses.recv(&mut response).await {
                ResponseStreamItem::Headers(_) => {}
                ResponseStreamItem::Message => return Ok(response.0),
                ResponseStreamItem::Trailers(trailers) => {
                    let status = trailers.into_status();
                    return status.map(|()| None).map_err(|error| anyhow!("{error:?}"));
                }
                ResponseStreamItem::StreamClosed => bail!("the stream closed without trailers"),
            }
        }
    }
}

impl PingPong for Stream {
    async fn round_trip(&mut self, request: Req) -> Result<Resp> {
        self.send(&request, false).await?;
        self.receive().await?.context("the stream ended")
    }
}

impl Download for Stream {
    async fn message(&mut self) -> Result<Option<Resp>> {
        self.receive().await
    }
}

struct Encoded(Bytes);

impl SendMessage for Encoded {
    fn encode(&self) -> Result<Box<dyn Buf + Send + Sync>, String> {
        Ok(Box::new(self.0.clone()))
    }
}

struct Decoded(Option<Resp>);

impl RecvMessage for Decoded {
    fn decode(&mut self, data: &mut dyn Buf) -> Result<(), String> {
        self.0 = Some(Resp::decode(data).map_err(|error| error.to_string())?);
        Ok(())
    }
}
