//! A tonic server that ends every connection gracefully, 50 ms after it was made. It listens on
//! loopback only and prints its port on the first line. Told an address, it listens there, and keeps
//! connections as other servers do.

#![expect(clippy::print_stdout, reason = "its port is what it prints")]

#[expect(dead_code, reason = "the client calls more than this server answers")]
mod proto;

use std::convert::Infallible;
use std::time::Duration;

use anyhow::Result;
use proto::{
    FULL_DUPLEX_CALL, Payload, SimpleRequest, SimpleResponse, StreamingOutputCallRequest,
    StreamingOutputCallResponse, UNARY_CALL,
};
use tokio::net::TcpListener;
use tokio::time::sleep;
use tokio_stream::{Stream, StreamExt as _};
use tonic::body::Body;
use tonic::codegen::{self, BoxFuture, BoxStream, Context, Poll, Service, StdError, http};
use tonic::server::{Grpc, NamedService, StreamingService, UnaryService};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

#[tokio::main]
async fn main() -> Result<()> {
    let address = std::env::args().nth(1);
    let builder = tonic::transport::Server::builder();
    let mut builder = if address.is_some() { builder } else { builder.max_connection_age(AGE) };
    let listener = TcpListener::bind(address.as_deref().unwrap_or("127.0.0.1:0")).await?;
    println!("{}", listener.local_addr()?.port());
    builder
        .add_service(TestService)
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
        .await?;
    Ok(())
}

#[derive(Clone, Copy)]
struct TestService;

impl NamedService for TestService {
    const NAME: &'static str = "grpc.testing.TestService";
}

impl<B> Service<http::Request<B>> for TestService
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
        let path = request.uri().path();
        if path == UNARY_CALL.path() {
            let mut grpc = Grpc::new(ProstCodec::default());
            Box::pin(async move { Ok(grpc.unary(Self, request).await) })
        } else if path == FULL_DUPLEX_CALL.path() {
            let mut grpc = Grpc::new(ProstCodec::default());
            Box::pin(async move { Ok(grpc.streaming(Self, request).await) })
        } else {
            let status = Status::unimplemented(path);
            Box::pin(async move { Ok(status.into_http()) })
        }
    }
}

impl UnaryService<SimpleRequest> for TestService {
    type Response = SimpleResponse;
    type Future = BoxFuture<Response<SimpleResponse>, Status>;

    fn call(&mut self, request: Request<SimpleRequest>) -> Self::Future {
        Box::pin(async move {
            let payload = Some(zeros(request.get_ref().response_size)?);
            Ok(Response::new(SimpleResponse { payload }))
        })
    }
}

impl StreamingService<StreamingOutputCallRequest> for TestService {
    type Response = StreamingOutputCallResponse;
    type ResponseStream = BoxStream<StreamingOutputCallResponse>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<Streaming<StreamingOutputCallRequest>>) -> Self::Future {
        Box::pin(async move { Ok(Response::new(answers(request.into_inner()))) })
    }
}

/// What each request asks for, after the time that it says.
fn answers(
    requests: impl Stream<Item = Result<StreamingOutputCallRequest, Status>> + Send + 'static,
) -> BoxStream<StreamingOutputCallResponse> {
    Box::pin(requests.then(|request| async move {
        // No caller of this server asks for more than one response at a time.
        let [wanted] = &request?.response_parameters[..] else {
            return Err(Status::invalid_argument("ask for one response in each request"));
        };
        sleep(Duration::from_micros(wanted.interval_us.try_into().unwrap_or_default())).await;
        Ok(StreamingOutputCallResponse { payload: Some(zeros(wanted.size)?) })
    }))
}

fn zeros(size: i32) -> Result<Payload, Status> {
    let size = usize::try_from(size).map_err(|_| Status::invalid_argument("a negative size"))?;
    Ok(Payload { body: vec![0; size], ..Default::default() })
}

/// As `interop/go/churn` has it. With a grace beside it, tonic 0.14.9 sends no GOAWAY, but cuts the
/// connection off when both have passed.
const AGE: Duration = Duration::from_millis(50);
