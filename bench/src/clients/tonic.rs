//! tonic's channel, called as the code that its generator writes calls it.

use anyhow::{Context, Result};
use http::uri::PathAndQuery;
use tokio::sync::mpsc;
use tokio_stream::Stream as Requests;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{GrpcMethod, Request, Streaming};
use tonic_prost::ProstCodec;

use super::{CALL_TIMEOUT, CONNECTION_WINDOW, Client, Download, PingPong, STREAM_WINDOW, Target};
use crate::proto::{DOWN, Req, Resp, SERVICE, STREAM, UNARY, UP};
use crate::secure;

/// One channel.
#[derive(Clone)]
pub(crate) struct Tonic(Grpc<Channel>);

impl Client for Tonic {
    type PingPong = Stream;
    type Download = Streaming<Resp>;

    async fn connect(server: &Target) -> Result<Self> {
        let scheme = if server.tls.is_some() { "https" } else { "http" };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{}", server.address))?;
        if let Some(folder) = &server.tls {
            let roots = Certificate::from_pem(std::fs::read(secure::roots(folder))?);
            let config = ClientTlsConfig::new().ca_certificate(roots);
            endpoint = endpoint.tls_config(config.domain_name(secure::SERVER_NAME))?;
        }
        let channel = endpoint
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .connect()
            .await?;
        Ok(Self(Grpc::new(channel)))
    }

    async fn unary(&mut self, message: Req) -> Result<Resp> {
        self.0.ready().await?;
        let request = request(message, "Unary");
        let path = PathAndQuery::from_static(UNARY);
        let response = self.0.unary(request, path, codec()).await?;
        Ok(response.into_inner())
    }

    async fn ping_pong(&mut self) -> Result<Stream> {
        let (requests, outgoing) = mpsc::channel(1);
        self.0.ready().await?;
        let request = request(ReceiverStream::new(outgoing), "Stream");
        let path = PathAndQuery::from_static(STREAM);
        let response = self.0.streaming(request, path, codec()).await?;
        Ok(Stream { requests, responses: response.into_inner() })
    }

    async fn server_stream(&mut self, message: Req) -> Result<Streaming<Resp>> {
        self.0.ready().await?;
        let request = request(message, "Down");
        let path = PathAndQuery::from_static(DOWN);
        let response = self.0.server_streaming(request, path, codec()).await?;
        Ok(response.into_inner())
    }

    async fn client_stream(
        &mut self,
        requests: impl Requests<Item = Req> + Send + 'static,
    ) -> Result<Resp> {
        self.0.ready().await?;
        let request = request(requests, "Up");
        let path = PathAndQuery::from_static(UP);
        let response = self.0.client_streaming(request, path, codec()).await?;
        Ok(response.into_inner())
    }
}

fn codec() -> ProstCodec<Req, Resp> {
    ProstCodec::default()
}

fn request<T>(message: T, method: &'static str) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    let method = GrpcMethod::new(SERVICE, method);
    request.extensions_mut().insert(method);
    request
}

/// A stream in both directions.
pub(crate) struct Stream {
    requests: mpsc::Sender<Req>,
    responses: Streaming<Resp>,
}

impl PingPong for Stream {
    async fn round_trip(&mut self, request: Req) -> Result<Resp> {
        self.requests.send(request).await?;
        let response = self.responses.message().await?;
        response.context("the stream ended")
    }
}

impl Download for Streaming<Resp> {
    async fn message(&mut self) -> Result<Option<Resp>> {
        // The method of `Streaming` itself, which comes before the trait's.
        Ok(Self::message(self).await?)
    }
}
