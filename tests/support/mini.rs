//! The least that a gRPC server can be, over any stream of bytes.

use bytes::Bytes;
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncWrite};

use super::greeter::HelloReply;

/// Answers every call with one greeting once the caller has said all; shows `seen` its head first.
/// Returns when the connection has ended.
pub(crate) async fn answer_all(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    mut seen: impl FnMut(&http::request::Parts),
) -> Result<(), h2::Error> {
    let mut connection = h2::server::handshake(stream).await?;
    while let Some(call) = connection.accept().await {
        let (request, respond) = call?;
        let (head, body) = request.into_parts();
        seen(&head);
        tokio::spawn(answer(body, respond));
    }
    Ok(())
}

/// The caller may be gone at any of these steps, which is its affair.
async fn answer(mut body: h2::RecvStream, mut respond: h2::server::SendResponse<Bytes>) {
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
    }
    let response = http::Response::builder().header("content-type", "application/grpc");
    let Ok(mut body) = respond.send_response(response.body(()).unwrap(), false) else { return };
    let reply = HelloReply { message: "Hello".to_owned() }.encode_to_vec();
    let mut message = vec![0, 0, 0, 0, u8::try_from(reply.len()).unwrap()];
    message.extend(reply);
    let ok = ("grpc-status", "0");
    let trailers = [ok].map(|(name, value)| {
        (http::HeaderName::from_static(name), http::HeaderValue::from_static(value))
    });
    let _ = body.send_data(Bytes::from(message), false);
    let _ = body.send_trailers(http::HeaderMap::from_iter(trailers));
}
