//! The cases of the official description, by their official names.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use switchboard::{
    CallOptions, Channel, Code, ConnectivityState, Metadata, Method, Request, Status, Streaming,
    kind::Kind,
};
use tokio::time::timeout;

use crate::flags::Flags;
use crate::proto::{
    EMPTY_CALL, EchoStatus, Empty, FULL_DUPLEX_CALL, Payload, PayloadType, ResponseParameters,
    STREAMING_INPUT_CALL, STREAMING_OUTPUT_CALL, SimpleRequest, StreamingInputCallRequest,
    StreamingOutputCallRequest, StreamingOutputCallResponse, UNARY_CALL, UNIMPLEMENTED_METHOD,
    UNIMPLEMENTED_SERVICE,
};
use crate::{cancel, channelz, churn, compression, cut, frozen, health, soak, unread};

/// What `--test_case` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Case {
    EmptyUnary,
    LargeUnary,
    ClientStreaming,
    ServerStreaming,
    PingPong,
    EmptyStream,
    TimeoutOnSleepingServer,
    CancelAfterBegin,
    CancelAfterFirstResponse,
    StatusCodeAndMessage,
    SpecialStatusMessage,
    CustomMetadata,
    UnimplementedMethod,
    UnimplementedService,
    RpcSoak,
    ChannelSoak,
    Compression,
    Health,
    GoawayChurn,
    FrozenServer,
    CutPeer,
    Channelz,
    UnreadStreams,
}

impl Case {
    const ALL: [(Self, &str); 23] = [
        (Self::EmptyUnary, "empty_unary"),
        (Self::LargeUnary, "large_unary"),
        (Self::ClientStreaming, "client_streaming"),
        (Self::ServerStreaming, "server_streaming"),
        (Self::PingPong, "ping_pong"),
        (Self::EmptyStream, "empty_stream"),
        (Self::TimeoutOnSleepingServer, "timeout_on_sleeping_server"),
        (Self::CancelAfterBegin, "cancel_after_begin"),
        (Self::CancelAfterFirstResponse, "cancel_after_first_response"),
        (Self::StatusCodeAndMessage, "status_code_and_message"),
        (Self::SpecialStatusMessage, "special_status_message"),
        (Self::CustomMetadata, "custom_metadata"),
        (Self::UnimplementedMethod, "unimplemented_method"),
        (Self::UnimplementedService, "unimplemented_service"),
        (Self::RpcSoak, "rpc_soak"),
        (Self::ChannelSoak, "channel_soak"),
        (Self::Compression, "compression"),
        (Self::Health, "health"),
        (Self::GoawayChurn, "goaway_churn"),
        (Self::FrozenServer, "frozen_server"),
        (Self::CutPeer, "cut_peer"),
        (Self::Channelz, "channelz"),
        (Self::UnreadStreams, "unread_streams"),
    ];

    pub(crate) fn parse(name: &str) -> Result<Self, String> {
        let known = Self::ALL.iter().find(|(_, known)| *known == name);
        known.map(|(case, _)| *case).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|(_, name)| *name).collect();
            format!("there is no such case; there are {}", names.join(", "))
        })
    }

    pub(crate) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(case, _)| *case == self).map_or("?", |(_, name)| name)
    }

    /// Runs the case, which may take no longer than it can in earnest.
    pub(crate) async fn run(self, flags: &Flags) -> Result<()> {
        let bound = match self {
            Self::RpcSoak | Self::ChannelSoak => flags.soak.overall_timeout + CASE_TIME_MAX,
            Self::GoawayChurn => flags.churn.time + CASE_TIME_MAX,
            Self::FrozenServer | Self::CutPeer => 2 * CASE_TIME_MAX,
            _ => CASE_TIME_MAX,
        };
        match timeout(bound, self.run_unbounded(flags)).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => bail!("expected an end within {bound:?}, and there was none"),
        }
    }

    async fn run_unbounded(self, flags: &Flags) -> Result<()> {
        match self {
            Self::CancelAfterBegin => return cancel::after_begin(flags).await,
            Self::CancelAfterFirstResponse => return cancel::after_first_response(flags).await,
            Self::RpcSoak => return soak::on_one_channel(flags).await,
            Self::ChannelSoak => return soak::on_a_channel_each(flags).await,
            Self::Health => return health::run(flags).await,
            Self::GoawayChurn => return churn::run(flags).await,
            Self::FrozenServer => return frozen::run(flags).await,
            Self::CutPeer => return cut::run(flags).await,
            Self::Channelz => return channelz::run(flags).await,
            Self::UnreadStreams => return unread::run(flags).await,
            _ => {}
        }
        let channel = channel(flags)?;
        match self {
            Self::EmptyUnary => empty_unary(&channel).await?,
            Self::LargeUnary => large_unary(&channel).await?,
            Self::ClientStreaming => client_streaming(&channel).await?,
            Self::ServerStreaming => server_streaming(&channel).await?,
            Self::PingPong => ping_pong(&channel).await?,
            Self::EmptyStream => empty_stream(&channel).await?,
            Self::TimeoutOnSleepingServer => timeout_on_sleeping_server(&channel).await?,
            Self::StatusCodeAndMessage => status_code_and_message(&channel).await?,
            Self::SpecialStatusMessage => special_status_message(&channel).await?,
            Self::CustomMetadata => custom_metadata(&channel).await?,
            Self::UnimplementedMethod => unimplemented(&channel, &UNIMPLEMENTED_METHOD).await?,
            Self::UnimplementedService => unimplemented(&channel, &UNIMPLEMENTED_SERVICE).await?,
            Self::Compression => compression::run(&channel).await?,
            Self::CancelAfterBegin
            | Self::CancelAfterFirstResponse
            | Self::RpcSoak
            | Self::ChannelSoak
            | Self::Health
            | Self::GoawayChurn
            | Self::FrozenServer
            | Self::CutPeer
            | Self::Channelz
            | Self::UnreadStreams => {}
        }
        channel.close().await;
        Ok(())
    }
}

pub(crate) fn channel(flags: &Flags) -> Result<Channel> {
    flags.channel_builder().map_err(|what| anyhow!(what))?.build().context("building a channel")
}

pub(crate) async fn empty_unary(channel: &Channel) -> Result<()> {
    let response = channel.invoke(&EMPTY_CALL, Request::new(Empty {})).await;
    response.map(drop).context("expected EmptyCall to succeed")
}

async fn large_unary(channel: &Channel) -> Result<()> {
    let response = channel.invoke(&UNARY_CALL, Request::new(large_request())).await;
    let response = response.context("expected UnaryCall to succeed")?;
    check_payload(response.message().payload.as_ref(), LARGE_RESPONSE)
}

async fn client_streaming(channel: &Channel) -> Result<()> {
    let request = |size| StreamingInputCallRequest { payload: Some(zeros(size)) };
    let requests = Request::new(tokio_stream::iter(REQUEST_SIZES.map(request)));
    let response = channel.client_streaming(STREAMING_INPUT_CALL, requests).await;
    let response = response.context("expected a response")?;
    let (expected, came) = (REQUEST_SIZES.iter().sum(), response.message().aggregated_payload_size);
    ensure!(came == number(expected), "expected an aggregate of {expected} bytes, got {came}");
    Ok(())
}

async fn server_streaming(channel: &Channel) -> Result<()> {
    let response_parameters = RESPONSE_SIZES.iter().flat_map(|size| parameters(*size)).collect();
    let request = StreamingOutputCallRequest { response_parameters, ..Default::default() };
    let responses = channel.server_streaming(STREAMING_OUTPUT_CALL, Request::new(request)).await;
    let mut responses = responses.context("expected StreamingOutputCall to begin")?;
    for size in RESPONSE_SIZES {
        let response = responses.recv().await.context("expected a response")?;
        let response = response.context("expected a response, got the end of the call")?;
        check_payload(response.payload.as_ref(), size)?;
    }
    let more = responses.recv().await.context("expected the call to end with OK")?;
    ensure!(more.is_none(), "expected the end of the call, got another response");
    Ok(())
}

async fn ping_pong(channel: &Channel) -> Result<()> {
    let mut stream = open(channel, &FULL_DUPLEX_CALL, CallOptions::new()).await?;
    for (request_size, response_size) in REQUEST_SIZES.into_iter().zip(RESPONSE_SIZES) {
        send(&mut stream, ping(request_size, response_size)).await?;
        expect_response(&mut stream, response_size).await?;
    }
    stream.close_send();
    expect_end(&mut stream).await
}

async fn empty_stream(channel: &Channel) -> Result<()> {
    let mut stream = open(channel, &FULL_DUPLEX_CALL, CallOptions::new()).await?;
    stream.close_send();
    expect_end(&mut stream).await
}

/// The connection is made beforehand: it is the server that is to be waited for.
async fn timeout_on_sleeping_server(channel: &Channel) -> Result<()> {
    channel.connect();
    let mut state = channel.state();
    while state != ConnectivityState::Ready {
        ensure!(state != ConnectivityState::TransientFailure, "the server cannot be reached");
        state = channel.wait_for_state_change(state).await;
    }
    let call = async {
        let options = CallOptions::new().timeout(Duration::from_millis(1));
        let mut stream = channel.new_stream(&FULL_DUPLEX_CALL, options).await?;
        let request =
            StreamingOutputCallRequest { payload: Some(zeros(27_182)), ..Default::default() };
        stream.send(request).await?;
        stream.recv().await
    };
    expect_status(call.await, Code::DEADLINE_EXCEEDED, None)
}

async fn status_code_and_message(channel: &Channel) -> Result<()> {
    let text = "test status message";
    let request = SimpleRequest { response_status: Some(echo(text)), ..Default::default() };
    let outcome = channel.invoke(&UNARY_CALL, Request::new(request)).await;
    expect_status(outcome, Code::UNKNOWN, Some(text)).context("UnaryCall")?;

    let mut stream = open(channel, &FULL_DUPLEX_CALL, CallOptions::new()).await?;
    let request =
        StreamingOutputCallRequest { response_status: Some(echo(text)), ..Default::default() };
    send(&mut stream, request).await?;
    stream.close_send();
    expect_status(stream.recv().await, Code::UNKNOWN, Some(text)).context("FullDuplexCall")
}

async fn special_status_message(channel: &Channel) -> Result<()> {
    let text = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n";
    let request = SimpleRequest { response_status: Some(echo(text)), ..Default::default() };
    let outcome = channel.invoke(&UNARY_CALL, Request::new(request)).await;
    expect_status(outcome, Code::UNKNOWN, Some(text))
}

async fn custom_metadata(channel: &Channel) -> Result<()> {
    let mut request = Request::new(large_request());
    add_metadata(request.metadata_mut())?;
    let response = channel.invoke(&UNARY_CALL, request).await;
    let response = response.context("expected UnaryCall to succeed")?;
    check_payload(response.message().payload.as_ref(), LARGE_RESPONSE)?;
    check_metadata(response.metadata(), response.trailers()).context("UnaryCall")?;

    let mut options = CallOptions::new();
    add_metadata(options.metadata_mut())?;
    let mut stream = open(channel, &FULL_DUPLEX_CALL, options).await?;
    send(&mut stream, ping(LARGE_REQUEST, LARGE_RESPONSE)).await?;
    stream.close_send();
    let header = stream.header().await.context("expected initial metadata")?;
    expect_response(&mut stream, LARGE_RESPONSE).await?;
    expect_end(&mut stream).await?;
    let trailer = stream.trailer().context("expected trailers at the end, and there were none")?;
    check_metadata(&header, &trailer).context("FullDuplexCall")
}

/// `unimplemented_method` and `unimplemented_service`.
async fn unimplemented(channel: &Channel, method: &Method<Empty, Empty>) -> Result<()> {
    let outcome = channel.invoke(method, Request::new(Empty {})).await;
    expect_status(outcome, Code::UNIMPLEMENTED, None)
}

/// Opens a stream of a call that is to succeed.
pub(crate) async fn open<Req, Resp, K: Kind>(
    channel: &Channel,
    method: &Method<Req, Resp, K>,
    options: CallOptions,
) -> Result<Streaming<Req, Resp>> {
    let stream = channel.new_stream(method, options).await;
    stream.with_context(|| format!("expected {} to begin", method.path()))
}

/// Sends a message of a call that is to succeed.
pub(crate) async fn send<Req, Resp>(stream: &mut Streaming<Req, Resp>, message: Req) -> Result<()> {
    stream.send(message).await.context("expected a message to be sent")
}

/// The next response must be there, with `size` bytes of payload.
pub(crate) async fn expect_response<Req>(
    stream: &mut Streaming<Req, StreamingOutputCallResponse>,
    size: usize,
) -> Result<()> {
    let expected = || format!("expected a response of {size} bytes");
    let response = stream.recv().await.with_context(expected)?;
    let response = response.with_context(|| format!("{}, got the end of the call", expected()))?;
    check_payload(response.payload.as_ref(), size)
}

/// The server must end the call with OK, and send nothing more before.
pub(crate) async fn expect_end<Req, Resp>(stream: &mut Streaming<Req, Resp>) -> Result<()> {
    let rest = stream.recv().await.context("expected the end of the call, with OK")?;
    ensure!(rest.is_none(), "expected the end of the call, got one more response");
    Ok(())
}

/// The call must have failed with `code` and, where one is due, exactly this message.
pub(crate) fn expect_status<T>(
    outcome: Result<T, Status>,
    code: Code,
    message: Option<&str>,
) -> Result<()> {
    let Err(status) = outcome else { bail!("expected {code}, and the call succeeded") };
    ensure!(status.code() == code, "expected {code}, got {status}");
    if let Some(message) = message {
        let came = status.message();
        ensure!(came == message, "expected the message {message:?}, got {came:?}");
    }
    Ok(())
}

pub(crate) fn check_payload(payload: Option<&Payload>, size: usize) -> Result<()> {
    let payload = payload.with_context(|| format!("expected {size} bytes, got no payload"))?;
    let kind = payload.r#type;
    ensure!(
        kind == PayloadType::Compressable as i32,
        "expected a payload of type COMPRESSABLE, got type {kind}"
    );
    let length = payload.body.len();
    ensure!(length == size, "expected a payload of {size} bytes, got {length}");
    match payload.body.iter().position(|byte| *byte != 0) {
        None => Ok(()),
        Some(at) => bail!("expected zeros, got {} at {at}", payload.body[at]),
    }
}

fn add_metadata(metadata: &mut Metadata) -> Result<()> {
    metadata.insert(ECHO_INITIAL, ECHO_INITIAL_VALUE)?;
    metadata.insert_bin(ECHO_TRAILING, ECHO_TRAILING_VALUE)?;
    Ok(())
}

fn check_metadata(header: &Metadata, trailer: &Metadata) -> Result<()> {
    let initial: Vec<_> = header.get_all(ECHO_INITIAL).collect();
    ensure!(
        initial == [ECHO_INITIAL_VALUE],
        "expected {ECHO_INITIAL_VALUE:?} once in {ECHO_INITIAL}, got {initial:?}"
    );
    let trailing: Vec<_> = trailer.get_all_bin(ECHO_TRAILING).collect();
    ensure!(
        trailing == [ECHO_TRAILING_VALUE],
        "expected {ECHO_TRAILING_VALUE:x?} once in {ECHO_TRAILING}, got {trailing:x?}"
    );
    Ok(())
}

fn large_request() -> SimpleRequest {
    SimpleRequest {
        response_size: number(LARGE_RESPONSE),
        payload: Some(zeros(LARGE_REQUEST)),
        ..Default::default()
    }
}

/// A request of a payload of one size that asks for one of another.
pub(crate) fn ping(request_size: usize, response_size: usize) -> StreamingOutputCallRequest {
    StreamingOutputCallRequest {
        response_parameters: parameters(response_size),
        payload: Some(zeros(request_size)),
        ..Default::default()
    }
}

fn parameters(size: usize) -> Vec<ResponseParameters> {
    vec![ResponseParameters { size: number(size), ..Default::default() }]
}

pub(crate) fn zeros(size: usize) -> Payload {
    Payload { r#type: PayloadType::Compressable as i32, body: vec![0; size] }
}

fn echo(message: &str) -> EchoStatus {
    EchoStatus { code: 2, message: message.to_owned() }
}

/// A size of payload as messages write it.
#[expect(clippy::cast_possible_wrap, reason = "no payload here comes near 2 GiB")]
pub(crate) fn number(size: usize) -> i32 {
    size as i32
}

const LARGE_REQUEST: usize = 271_828;
const LARGE_RESPONSE: usize = 314_159;
const REQUEST_SIZES: [usize; 4] = [27_182, 8, 1_828, 45_904];
const RESPONSE_SIZES: [usize; 4] = [31_415, 9, 2_653, 58_979];

const ECHO_INITIAL: &str = "x-grpc-test-echo-initial";
const ECHO_INITIAL_VALUE: &str = "test_initial_metadata_value";
const ECHO_TRAILING: &str = "x-grpc-test-echo-trailing-bin";
const ECHO_TRAILING_VALUE: &[u8] = &[0xab, 0xab, 0xab];

/// A case takes milliseconds; a machine that is busy with other things gets time all the same.
const CASE_TIME_MAX: Duration = Duration::from_secs(30);
