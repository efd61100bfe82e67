//! tonic's client, to compare with: called as the code that its generator writes calls it.

use std::io;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::codegen::http::Uri;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;
use tower::service_fn;

use crate::ledger::Ledger;
use crate::proto::{
    FULL_DUPLEX_CALL, SimpleRequest, SimpleResponse, StreamingOutputCallRequest,
    StreamingOutputCallResponse, UNARY_CALL,
};
use crate::wire::Watched;

#[derive(Clone)]
pub(crate) struct TonicClient {
    grpc: Grpc<Channel>,
    call_time_max: Duration,
}

impl TonicClient {
    pub(crate) fn new(uri: String, ledger: Ledger, call_time_max: Duration) -> Result<Self> {
        let connector = service_fn(move |uri: Uri| {
            let ledger = ledger.clone();
            async move {
                let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
                let stream = TcpStream::connect(authority).await?;
                stream.set_nodelay(true)?;
                Ok::<_, io::Error>(TokioIo::new(Watched::new(stream, ledger.watcher())))
            }
        });
        let endpoint = Endpoint::from_shared(uri).context("the server's address")?;
        let grpc = Grpc::new(endpoint.connect_with_connector_lazy(connector));
        Ok(Self { grpc, call_time_max })
    }

    pub(crate) async fn unary(&self, request: SimpleRequest) -> Result<SimpleResponse> {
        let mut grpc = self.grpc.clone();
        grpc.ready().await?;
        let path = PathAndQuery::from_static(UNARY_CALL.path());
        let codec = ProstCodec::<SimpleRequest, SimpleResponse>::default();
        Ok(grpc.unary(self.request(request), path, codec).await?.into_inner())
    }

    /// Sends each request once the one before is answered; `check` sees the answers.
    pub(crate) async fn ping_pong(
        &self,
        requests: Vec<StreamingOutputCallRequest>,
        check: impl Fn(&StreamingOutputCallResponse) -> Result<()>,
    ) -> Result<()> {
        let mut grpc = self.grpc.clone();
        grpc.ready().await?;
        let path = PathAndQuery::from_static(FULL_DUPLEX_CALL.path());
        let codec =
            ProstCodec::<StreamingOutputCallRequest, StreamingOutputCallResponse>::default();
        let (sender, outgoing) = mpsc::channel(1);
        let mut responses = None;
        let mut starting =
            Some(grpc.streaming(self.request(ReceiverStream::new(outgoing)), path, codec));
        for request in requests {
            sender.send(request).await.context("the stream takes no more")?;
            // Servers may send their headers with the first message, which needs a request.
            if let Some(starting) = starting.take() {
                responses = Some(starting.await?.into_inner());
            }
            let responses = responses.as_mut().context("there is no response")?;
            check(&responses.message().await?.context("the stream ended")?)?;
        }
        drop(sender);
        let mut responses = responses.context("there is nothing to send")?;
        ensure!(responses.message().await?.is_none(), "expected the end, and a message came");
        Ok(())
    }

    fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request.set_timeout(self.call_time_max);
        request
    }
}
