//! The service that tools ask.

use std::convert::Infallible;
use std::fmt;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use prost::Message;
use tonic::codegen::{Body, BoxFuture, Service, StdError, http};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::super::clock;
use super::Channelz;
use super::messages::{
    GetChannelRequest, GetChannelResponse, GetServerRequest, GetServersRequest, GetServersResponse,
    GetSocketRequest, GetSocketResponse, GetSubchannelRequest, GetSubchannelResponse,
    GetTopChannelsRequest, GetTopChannelsResponse, NothingOfServer, Socket,
};

/// `grpc.channelz.v1.Channelz` (A14), to add to a tonic server; made by [`Channelz::service`].
///
/// It answers for all channels that are in its registry. What gRPC says of servers has no answer
/// here: there are none. Two fields of a socket stay unset: the flow-control window that the server
/// grants, which the engine does not tell, and the certificate of this side.
///
/// It shows targets, addresses and errors to whoever can reach it: mount it where only operators can.
#[derive(Clone)]
pub struct ChannelzService(Channelz);

impl Channelz {
    /// The service that shows it to tools such as `grpcdebug`.
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// let channelz = switchboard::Channelz::new();
    /// tonic::transport::Server::builder()
    ///     .add_service(channelz.service())
    ///     .serve("127.0.0.1:50050".parse()?)
    ///     .await?;
    /// # Ok(()) }
    /// ```
    pub fn service(&self) -> ChannelzService {
        ChannelzService(self.clone())
    }
}

impl NamedService for ChannelzService {
    const NAME: &'static str = "grpc.channelz.v1.Channelz";
}

impl<B> Service<http::Request<B>> for ChannelzService
where
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let channelz = self.0.clone();
        match request.uri().path() {
            "/grpc.channelz.v1.Channelz/GetTopChannels" => answer(channelz, request, top_channels),
            "/grpc.channelz.v1.Channelz/GetChannel" => answer(channelz, request, channel),
            "/grpc.channelz.v1.Channelz/GetSubchannel" => answer(channelz, request, subchannel),
            "/grpc.channelz.v1.Channelz/GetSocket" => answer(channelz, request, socket),
            "/grpc.channelz.v1.Channelz/GetServers" => answer(channelz, request, servers),
            "/grpc.channelz.v1.Channelz/GetServer"
            | "/grpc.channelz.v1.Channelz/GetServerSockets" => answer(channelz, request, server),
            path => {
                let status = Status::unimplemented(format!("{path} is no method of channelz"));
                Box::pin(ready(Ok(status.into_http())))
            }
        }
    }
}

impl fmt::Debug for ChannelzService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelzService").finish_non_exhaustive()
    }
}

#[expect(clippy::unnecessary_wraps, reason = "the others can fail")]
fn top_channels(
    channelz: &Channelz,
    request: &GetTopChannelsRequest,
) -> Result<GetTopChannelsResponse, Status> {
    let max = match usize::try_from(request.max_results) {
        Ok(max @ 1..) => max.min(PAGE_MAX),
        Ok(0) | Err(_) => PAGE,
    };
    let page = channelz.top_channels(request.start_channel_id.try_into().unwrap_or(0), max);
    let channel = page.items.into_iter().map(Into::into).collect();
    Ok(GetTopChannelsResponse { channel, end: page.is_last })
}

fn channel(channelz: &Channelz, request: &GetChannelRequest) -> Result<GetChannelResponse, Status> {
    let channel = find("channel", request.channel_id, |id| channelz.channel(id))?;
    Ok(GetChannelResponse { channel: Some(channel.into()) })
}

fn subchannel(
    channelz: &Channelz,
    request: &GetSubchannelRequest,
) -> Result<GetSubchannelResponse, Status> {
    let subchannel = find("subchannel", request.subchannel_id, |id| channelz.subchannel(id))?;
    Ok(GetSubchannelResponse { subchannel: Some(subchannel.into()) })
}

fn socket(channelz: &Channelz, request: &GetSocketRequest) -> Result<GetSocketResponse, Status> {
    let socket = find("socket", request.socket_id, |id| channelz.socket(id))?;
    Ok(GetSocketResponse { socket: Some(Socket::new(socket, clock::now())) })
}

#[expect(clippy::unnecessary_wraps, reason = "the others can fail")]
fn servers(_: &Channelz, _: &GetServersRequest) -> Result<GetServersResponse, Status> {
    Ok(GetServersResponse { end: true })
}

fn server(_: &Channelz, request: &GetServerRequest) -> Result<NothingOfServer, Status> {
    find("server", request.server_id, |_| None)
}

fn find<T>(what: &str, id: i64, get: impl FnOnce(u64) -> Option<T>) -> Result<T, Status> {
    let found = u64::try_from(id).ok().and_then(get);
    found.ok_or_else(|| Status::not_found(format!("there is no {what} {id}, or not any more")))
}

type Answer<Q, A> = fn(&Channelz, &Q) -> Result<A, Status>;

fn answer<B, Q, A>(
    channelz: Channelz,
    request: http::Request<B>,
    answer: Answer<Q, A>,
) -> BoxFuture<http::Response<tonic::body::Body>, Infallible>
where
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
    Q: Message + Default + 'static,
    A: Message + Default + 'static,
{
    Box::pin(async move {
        let mut grpc = Grpc::new(ProstCodec::default());
        Ok(grpc.unary(Asked { channelz, answer }, request).await)
    })
}

struct Asked<Q, A> {
    channelz: Channelz,
    answer: Answer<Q, A>,
}

impl<Q, A> UnaryService<Q> for Asked<Q, A> {
    type Response = A;
    type Future = Ready<Result<Response<A>, Status>>;

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        ready((self.answer)(&self.channelz, request.get_ref()).map(Response::new))
    }
}

/// How many channels an answer has of which the question says nothing; as with grpc-go.
const PAGE: usize = 50;

/// How many it has at most. Who wants more asks again.
const PAGE_MAX: usize = 500;
