//! The least that a gRPC server can be, over any stream of bytes.

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncWrite};

use super::greeter::HelloReply;

/// How such a server serves.
#[derive(Clone, Copy, Default)]
pub(crate) struct Manner {
    /// How many streams it takes at a time; any number, where there is none.
    pub(crate) max_streams: Option<u32>,
    /// How long an answer takes it.
    pub(crate) service_time: Duration,
    /// Where this is n, only one call in n takes it that long, and the others no time.
    pub(crate) slow_one_in: Option<u32>,
    /// After how many calls a connection says goodbye (GOAWAY); never, where there is none.
    pub(crate) goodbye_after: Option<u32>,
    /// What becomes of watches of its health.
    pub(crate) health: Health,
}

/// What a server does that is asked whether it serves.
#[derive(Clone, Copy, Default)]
pub(crate) enum Health {
    /// Greets, as at any call.
    #[default]
    Greets,
    /// Says that it serves, and nothing more.
    Serves,
    /// Ends the watch with `PERMISSION_DENIED`.
    Refuses,
    /// Sends what is no answer.
    Babbles,
    /// Says that it does not serve and that it does, ten thousand times, and that it does not.
    Flickers,
    /// Nothing, not even headers.
    SaysNothing,
}

/// Answers every call with one greeting once the caller has said all; shows `seen` its head first.
/// Returns when the connection has ended.
pub(crate) async fn answer_all(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    seen: impl FnMut(&http::request::Parts),
) -> Result<(), h2::Error> {
    answer_all_in(Manner::default(), stream, seen).await
}

/// As [`answer_all`], in another manner.
pub(crate) async fn answer_all_in(
    manner: Manner,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    mut seen: impl FnMut(&http::request::Parts),
) -> Result<(), h2::Error> {
    let mut builder = h2::server::Builder::new();
    if let Some(max_streams) = manner.max_streams {
        builder.max_concurrent_streams(max_streams);
    }
    let mut connection = builder.handshake(stream).await?;
    let mut calls = 0_u32;
    while let Some(call) = connection.accept().await {
        let (request, respond) = call?;
        calls = calls.wrapping_add(1);
        if manner.goodbye_after == Some(calls) {
            connection.graceful_shutdown();
        }
        let is_slow = manner.slow_one_in.is_none_or(|n| calls.is_multiple_of(n));
        let service_time = if is_slow { manner.service_time } else { Duration::ZERO };
        let (head, body) = request.into_parts();
        seen(&head);
        let is_watch = head.uri.path().starts_with("/grpc.health.v1.Health/");
        if is_watch && !matches!(manner.health, Health::Greets) {
            tokio::spawn(answer_watch(manner.health, body, respond));
            continue;
        }
        tokio::spawn(answer(service_time, body, respond));
    }
    Ok(())
}

/// The caller may be gone at any of these steps, which is its affair.
async fn answer(
    service_time: Duration,
    mut body: h2::RecvStream,
    mut respond: h2::server::SendResponse<Bytes>,
) {
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
    }
    if !service_time.is_zero() {
        tokio::time::sleep(service_time).await;
    }
    let Ok(mut body) = respond.send_response(headers(), false) else { return };
    let reply = HelloReply { message: "Hello".to_owned() }.encode_to_vec();
    let mut message = vec![0];
    message.extend((reply.len() as u32).to_be_bytes());
    message.extend(reply);
    let ok = ("grpc-status", "0");
    let trailers = [ok].map(|(name, value)| {
        (http::HeaderName::from_static(name), http::HeaderValue::from_static(value))
    });
    let _ = body.send_data(Bytes::from(message), false);
    let _ = body.send_trailers(http::HeaderMap::from_iter(trailers));
}

/// As the health service of a server that is `health`; goes on until the watch ends.
async fn answer_watch(
    health: Health,
    mut body: h2::RecvStream,
    mut respond: h2::server::SendResponse<Bytes>,
) {
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
    }
    let messages = match health {
        Health::Refuses => {
            let mut response = headers();
            let code = http::HeaderValue::from_static("7");
            response.headers_mut().insert("grpc-status", code);
            let _ = respond.send_response(response, true);
            return;
        }
        // A text, where a number is due.
        Health::Babbles => vec![0, 0, 0, 0, 3, 0x0a, 1, 1],
        Health::Serves => SERVES.to_vec(),
        Health::Flickers => {
            let mut messages = [SERVES_NOT, SERVES].concat().repeat(10_000);
            messages.extend(SERVES_NOT);
            messages
        }
        Health::Greets | Health::SaysNothing => {
            let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
            return;
        }
    };
    let Ok(mut body) = respond.send_response(headers(), false) else { return };
    let _ = body.send_data(Bytes::from(messages), false);
    let _ = std::future::poll_fn(|cx| body.poll_reset(cx)).await;
}

fn headers() -> http::Response<()> {
    let mut response = http::Response::new(());
    let grpc = http::HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(http::header::CONTENT_TYPE, grpc);
    response
}

const SERVES: [u8; 7] = [0, 0, 0, 0, 2, 0x08, 1];
const SERVES_NOT: [u8; 7] = [0, 0, 0, 0, 2, 0x08, 2];
