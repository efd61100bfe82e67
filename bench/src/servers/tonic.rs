//! A real server: tonic, written as the code that its generator writes.

use std::convert::Infallible;
use std::net::TcpListener;

use anyhow::Result;
use bytes::Bytes;
use tokio_stream::{Stream, StreamExt};
use tonic::body::Body;
use tonic::codegen::{self, BoxFuture, BoxStream, Context, Poll, Service, StdError, http};
use tonic::server::{
    ClientStreamingService, Grpc, NamedService, ServerStreamingService, StreamingService,
    UnaryService,
};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use super::{CONNECTION_WINDOW, STREAM_WINDOW};
use crate::proto::{DOWN, Req, Resp, SERVICE, STREAM, UNARY, UP};

/// Serves on a listener until the process ends. `messages` is the length of each server stream.
pub(crate) async fn serve(listener: TcpListener, messages: u64) -> Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    tonic::transport::Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .add_service(Bench { messages })
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
        .await?;
    Ok(())
}

#[derive(Clone, Copy)]
struct Bench {
    messages: u64,
}

impl NamedService for Bench {
    const NAME: &'static str = SERVICE;
}

impl<B> Service<http::Request<B>> for Bench
where
    B: codegen::Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let bench = *self;
        let mut grpc = Grpc::new(ProstCodec::<Resp, Req>::default());
        match request.uri().path() {
            UNARY => Box::pin(async move { Ok(grpc.unary(bench, request).await) }),
            STREAM => Box::pin(async move { Ok(grpc.streaming(bench, request).await) }),
            DOWN => Box::pin(async move { Ok(grpc.server_streaming(bench, request).await) }),
            UP => Box::pin(async move { Ok(grpc.client_streaming(bench, request).await) }),
            path => {
                let status = Status::unimplemented(path);
                Box::pin(async move { Ok(status.into_http()) })
            }
        }
    }
}

impl UnaryService<Req> for Bench {
    type Response = Resp;
    type Future = BoxFuture<Response<Resp>, Status>;

    fn call(&mut self, request: Request<Req>) -> Self::Future {
        Box::pin(async move { answer(request.get_ref()).map(Response::new) })
    }
}

impl StreamingService<Req> for Bench {
    type Response = Resp;
    type ResponseStream = BoxStream<Resp>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<Streaming<Req>>) -> Self::Future {
        let requests = request.into_inner();
        let responses = requests.map(|request| answer(&request?));
        Box::pin(async move { Ok(boxed(responses)) })
    }
}

impl ServerStreamingService<Req> for Bench {
    type Response = Resp;
    type ResponseStream = BoxStream<Resp>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<Req>) -> Self::Future {
        let messages = self.messages;
        Box::pin(async move {
            let response = answer(request.get_ref())?;
            let responses = (0..messages).map(move |_| Ok(response.clone()));
            Ok(boxed(tokio_stream::iter(responses)))
        })
    }
}

impl ClientStreamingService<Req> for Bench {
    type Response = Resp;
    type Future = BoxFuture<Response<Resp>, Status>;

    fn call(&mut self, request: Request<Streaming<Req>>) -> Self::Future {
        Box::pin(async move {
            let mut requests = request.into_inner();
            let mut last = Req::default();
            while let Some(request) = requests.message().await? {
                last = request;
            }
            answer(&last).map(Response::new)
        })
    }
}

fn boxed<S>(responses: S) -> Response<BoxStream<Resp>>
where
    S: Stream<Item = Result<Resp, Status>> + Send + 'static,
{
    Response::new(Box::pin(responses))
}

fn answer(request: &Req) -> Result<Resp, Status> {
    let size = usize::try_from(request.response_size);
    let size = size.map_err(|_| Status::invalid_argument("a negative response_size"))?;
    Ok(Resp { body: Bytes::from(vec![0; size]) })
}
