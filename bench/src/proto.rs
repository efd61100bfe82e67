//! The messages and methods of the service that is called, written by hand so that no protoc is needed.

use bytes::{BufMut, Bytes};
use prost::Message;

/// The full name of the service.
pub(crate) const SERVICE: &str = "bench.Bench";
/// One request, one response.
pub(crate) const UNARY: &str = "/bench.Bench/Unary";
/// One response to each request, in both directions on one stream.
pub(crate) const STREAM: &str = "/bench.Bench/Stream";
/// One request, many responses.
pub(crate) const DOWN: &str = "/bench.Bench/Down";
/// Many requests, one response.
pub(crate) const UP: &str = "/bench.Bench/Up";

/// A request.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Req {
    /// How many bytes the body of each response is to have.
    #[prost(int32, tag = "1")]
    pub(crate) response_size: i32,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) body: Bytes,
}

/// A response.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Resp {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) body: Bytes,
}

/// Bytes before each message on the wire: whether it is compressed, and its length.
pub(crate) const PREFIX: usize = 5;

/// Appends a message as gRPC frames it, uncompressed.
pub(crate) fn frame(message: &impl Message, out: &mut impl BufMut) {
    out.put_u8(0);
    out.put_u32(message.encoded_len() as u32);
    message.encode_raw(out);
}

/// The length of the whole framed message that starts here, once its prefix is there.
pub(crate) fn framed_len(bytes: &[u8]) -> Option<usize> {
    let (prefix, _) = bytes.split_first_chunk::<PREFIX>()?;
    let [_, length @ ..] = *prefix;
    Some(PREFIX + u32::from_be_bytes(length) as usize)
}
