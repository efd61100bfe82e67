//! The health service of gRPC on tonic, with answers that a test gives it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::sync::watch;
use tokio_stream::Stream;
use tonic::server::{Grpc, ServerStreamingService};
use tonic::{Request, Response, Status};

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    pub(crate) service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    pub(crate) status: i32,
}

/// What a server says of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Serving {
    Yes = 1,
    No = 2,
    /// It does not know the service, which is what it says of one that it was told nothing of.
    Unknown = 3,
}

/// A health service; clones are the same one.
#[derive(Clone, Default)]
pub(crate) struct Health(Arc<Shared>);

#[derive(Default)]
struct Shared {
    said: watch::Sender<Said>,
    open: AtomicUsize,
    begun: AtomicU64,
}

#[derive(Clone, Default)]
struct Said {
    /// By service.
    serving: BTreeMap<String, Serving>,
    /// How watches end that are open, and how often such an end was asked for.
    end: Option<(u64, Status)>,
    /// How watches end that begin.
    refuse: Option<Status>,
}

impl Health {
    /// From now on it says this of `service`.
    pub(crate) fn say(&self, service: &str, serving: Serving) {
        self.0.said.send_modify(|said| {
            said.serving.insert(service.to_owned(), serving);
        });
    }

    /// Ends the watches that are open.
    pub(crate) fn end_watches(&self, status: Status) {
        self.0.said.send_modify(|said| {
            let ends = said.end.as_ref().map_or(0, |(ends, _)| *ends);
            said.end = Some((ends + 1, status));
        });
    }

    /// Ends watches that begin from now on before they have said anything; with `None`, no longer.
    pub(crate) fn refuse(&self, status: Option<Status>) {
        self.0.said.send_modify(|said| said.refuse = status);
    }

    /// Watches that are open.
    pub(crate) fn open_watches(&self) -> usize {
        self.0.open.load(Ordering::Acquire)
    }

    /// Watches that have ever begun, refused ones included.
    pub(crate) fn watches(&self) -> u64 {
        self.0.begun.load(Ordering::Acquire)
    }
}

impl tonic::server::NamedService for Health {
    const NAME: &'static str = "grpc.health.v1.Health";
}

impl tower_service::Service<http::Request<tonic::body::Body>> for Health {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let health = self.clone();
        Box::pin(async move {
            let codec =
                tonic_prost::ProstCodec::<HealthCheckResponse, HealthCheckRequest>::default();
            Ok(match request.uri().path() {
                "/grpc.health.v1.Health/Watch" => {
                    Grpc::new(codec).server_streaming(health, request).await
                }
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

type Answers = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

impl ServerStreamingService<HealthCheckRequest> for Health {
    type Response = HealthCheckResponse;
    type ResponseStream = Answers;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Answers>, Status>> + Send>>;

    fn call(&mut self, request: Request<HealthCheckRequest>) -> Self::Future {
        let watch = Watch::begin(self, request.into_inner().service);
        Box::pin(async move {
            if let Some(refusal) = watch.said.borrow().refuse.clone() {
                return Err(refusal);
            }
            let answers: Answers = Box::pin(watch);
            Ok(Response::new(answers))
        })
    }
}

/// A watch, counted while it is open.
struct Watch {
    health: Health,
    service: String,
    said: watch::Receiver<Said>,
    told: Option<Serving>,
    ends_before: u64,
    next: Option<Pin<Box<dyn Future<Output = watch::Receiver<Said>> + Send>>>,
    is_over: bool,
}

impl Watch {
    fn begin(health: &Health, service: String) -> Self {
        health.0.begun.fetch_add(1, Ordering::AcqRel);
        health.0.open.fetch_add(1, Ordering::AcqRel);
        let mut said = health.0.said.subscribe();
        let ends_before = said.borrow_and_update().end.as_ref().map_or(0, |(ends, _)| *ends);
        Self {
            health: health.clone(),
            service,
            said,
            told: None,
            ends_before,
            next: None,
            is_over: false,
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.health.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Stream for Watch {
    type Item = Result<HealthCheckResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if this.is_over {
                return Poll::Ready(None);
            }
            let said = this.said.borrow_and_update().clone();
            let serving = said.serving.get(&this.service).copied().unwrap_or(Serving::Unknown);
            if let Some((ends, status)) = said.end
                && ends > this.ends_before
            {
                this.is_over = true;
                let is_ok = status.code() == tonic::Code::Ok;
                return Poll::Ready((!is_ok).then_some(Err(status)));
            }
            if this.told != Some(serving) {
                this.told = Some(serving);
                return Poll::Ready(Some(Ok(HealthCheckResponse { status: serving as i32 })));
            }
            let mut changing = this.said.clone();
            let next = this.next.get_or_insert_with(|| {
                Box::pin(async move {
                    if changing.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                    changing
                })
            });
            match next.as_mut().poll(cx) {
                Poll::Ready(_) => this.next = None,
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
