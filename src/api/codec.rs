//! Messages to bytes and back.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::transport::{Message, Run};
use crate::types::{Panicked, Status, caught};

/// Encodes requests and decodes responses of a method. A codec has no state of its own: it is a
/// type, named by [`Method::with_codec`](crate::Method::with_codec).
pub trait Codec: 'static {
    /// What is encoded.
    type Encode;
    /// What is decoded.
    type Decode;

    /// What requests say they are: `application/grpc`, or that with a subtype behind a `+`, as in
    /// `application/grpc+json`. Anything else does not compile where the codec is used in a
    /// constant. Default: `application/grpc`, which servers take for protobuf.
    const CONTENT_TYPE: &'static str = APPLICATION_GRPC;

    /// The length of the encoded message, as far as it is known.
    fn encoded_len(_message: &Self::Encode) -> usize {
        0
    }

    /// Appends the encoded message to `buf`.
    fn encode(message: &Self::Encode, buf: &mut BytesMut) -> Result<(), CodecError>;

    /// Decodes a whole message.
    ///
    /// `bytes` may be a slice of what the socket was read into: a decoded value that keeps a part of
    /// it keeps all of that in memory.
    fn decode(bytes: Bytes) -> Result<Self::Decode, CodecError>;

    /// Decodes a whole message shorter than 4 KiB, from where the socket was read into.
    /// Default: as [`decode`](Self::decode), of a copy.
    fn decode_short(bytes: &[u8]) -> Result<Self::Decode, CodecError> {
        Self::decode(Bytes::copy_from_slice(bytes))
    }
}

/// A message could not be encoded or decoded.
#[derive(Clone, Debug)]
pub struct CodecError(Arc<dyn Error + Send + Sync>);

impl CodecError {
    /// Fails because of `cause`.
    pub fn new(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(Arc::from(cause.into()))
    }
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.to_string().trim() {
            "" => f.write_str("the codec gave no reason"),
            _ => self.0.fmt(f),
        }
    }
}

impl Error for CodecError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

/// The functions of a codec.
pub(crate) struct Vtable<Req, Resp> {
    pub(crate) encoded_len: fn(&Req) -> usize,
    pub(crate) encode: fn(&Req, &mut BytesMut) -> Result<(), CodecError>,
    pub(crate) decode: fn(Bytes) -> Result<Resp, CodecError>,
    pub(crate) decode_short: fn(&[u8]) -> Result<Resp, CodecError>,
    pub(crate) content_type: &'static str,
}

impl<Req, Resp> Clone for Vtable<Req, Resp> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<Req, Resp> Copy for Vtable<Req, Resp> {}

impl<Req, Resp> Vtable<Req, Resp> {
    pub(super) const fn of<C: Codec<Encode = Req, Decode = Resp>>() -> Self {
        assert!(is_content_type(C::CONTENT_TYPE), "a content type is application/grpc[+subtype]");
        Self {
            encoded_len: C::encoded_len,
            encode: C::encode,
            decode: C::decode,
            decode_short: C::decode_short,
            content_type: C::CONTENT_TYPE,
        }
    }

    /// Fails with the status of a call whose response cannot be decoded.
    pub(super) fn decode(&self, bytes: &Bytes) -> Result<Resp, Status> {
        let is_short = bytes.len() < SHORT;
        decoded(|| if is_short { (self.decode_short)(bytes) } else { (self.decode)(bytes.clone()) })
    }

    /// The next message of a run. Fails likewise.
    pub(super) fn decode_next(&self, run: &mut Run) -> Option<Result<Resp, Status>> {
        let first = run.first()?;
        if first.len() < SHORT {
            let message = decoded(|| (self.decode_short)(first));
            run.advance();
            return Some(message);
        }
        let whole = run.take()?;
        Some(decoded(|| (self.decode)(whole)))
    }
}

fn decoded<T>(decode: impl FnOnce() -> Result<T, CodecError>) -> Result<T, Status> {
    caught(THE_CODEC, decode).unwrap_or_else(|it| Err(CodecError::new(it))).map_err(|error| {
        Status::internal(format!("the response cannot be decoded: {error}")).with_source(error)
    })
}

/// A request as its codec has encoded it, which is what interceptors see. Clones share its bytes.
#[derive(Clone, Debug)]
pub struct EncodedMessage {
    message: Message,
    may_compress: bool,
}

impl EncodedMessage {
    /// A message of these bytes, which are copied.
    pub fn new(payload: &[u8]) -> Self {
        let Ok(message) = Message::encode(payload.len(), |buf| {
            buf.extend_from_slice(payload);
            Ok::<(), Infallible>(())
        });
        Self { message, may_compress: true }
    }

    /// A protobuf message, encoded.
    #[cfg(feature = "prost")]
    pub fn of<M: prost::Message>(message: &M) -> Self {
        Self::new(&message.encode_to_vec())
    }

    /// The bytes, not compressed.
    pub fn payload(&self) -> &[u8] {
        self.message.payload()
    }

    /// The protobuf message that this is. Fails where it is none of that type.
    #[cfg(feature = "prost")]
    pub fn decode<M: prost::Message + Default>(&self) -> Result<M, CodecError> {
        M::decode(self.payload()).map_err(CodecError::new)
    }

    /// The only message of a call.
    pub(super) fn encode<Req, Resp>(
        message: &Req,
        vtable: &Vtable<Req, Resp>,
    ) -> Result<Self, Status> {
        let encode = || {
            let capacity = (vtable.encoded_len)(message);
            Message::encode(capacity, |buf| (vtable.encode)(message, buf))
        };
        Self::encoded(caught(THE_CODEC, encode), true)
    }

    /// A message of a stream, whose short ones share the memory of `block`.
    pub(super) fn encode_in<Req, Resp>(
        block: &mut BytesMut,
        message: &Req,
        vtable: &Vtable<Req, Resp>,
        may_compress: bool,
    ) -> Result<Self, Status> {
        let encoded = caught(THE_CODEC, || {
            let capacity = (vtable.encoded_len)(message);
            Message::encode_in(block, capacity, |buf| (vtable.encode)(message, buf))
        });
        if encoded.is_err() {
            // What it has left there is no message.
            *block = BytesMut::new();
        }
        Self::encoded(encoded, may_compress)
    }

    fn encoded(
        encoded: Result<Result<Message, CodecError>, Panicked>,
        may_compress: bool,
    ) -> Result<Self, Status> {
        let encoded = encoded.unwrap_or_else(|panicked| Err(CodecError::new(panicked)));
        let message = encoded.map_err(|error| {
            Status::internal(format!("the request cannot be encoded: {error}")).with_source(error)
        })?;
        Ok(Self { message, may_compress })
    }

    /// The message, and whether it may be compressed.
    pub(super) fn into_parts(self) -> (Message, bool) {
        (self.message, self.may_compress)
    }
}

/// Messages that are bytes already.
#[derive(Clone, Copy, Debug)]
pub enum Raw {}

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;

    fn encoded_len(message: &Bytes) -> usize {
        message.len()
    }

    fn encode(message: &Bytes, buf: &mut BytesMut) -> Result<(), CodecError> {
        buf.extend_from_slice(message);
        Ok(())
    }

    fn decode(bytes: Bytes) -> Result<Bytes, CodecError> {
        Ok(bytes)
    }
}

/// Protobuf messages of `prost`.
#[cfg(feature = "prost")]
pub struct Prost<Req, Resp>(std::marker::PhantomData<fn(Req) -> Resp>);

#[cfg(feature = "prost")]
impl<Req, Resp> Codec for Prost<Req, Resp>
where
    Req: prost::Message + 'static,
    Resp: prost::Message + Default + 'static,
{
    type Encode = Req;
    type Decode = Resp;

    fn encoded_len(message: &Req) -> usize {
        message.encoded_len()
    }

    fn encode(message: &Req, buf: &mut BytesMut) -> Result<(), CodecError> {
        message.encode(buf).map_err(CodecError::new)
    }

    fn decode(bytes: Bytes) -> Result<Resp, CodecError> {
        // From `Bytes`, `bytes` fields share its memory; from a slice, they are copied.
        Resp::decode(bytes).map_err(CodecError::new)
    }

    fn decode_short(bytes: &[u8]) -> Result<Resp, CodecError> {
        Resp::decode(bytes).map_err(CodecError::new)
    }
}

/// Whether `text` is a content type of gRPC.
pub(super) const fn is_content_type(text: &str) -> bool {
    let (bytes, base) = (text.as_bytes(), APPLICATION_GRPC.as_bytes());
    let mut at = 0;
    while at < bytes.len() {
        let is_fine = if at < base.len() {
            bytes[at] == base[at]
        } else if at == base.len() {
            bytes[at] == b'+'
        } else {
            bytes[at].is_ascii_graphic()
        };
        if !is_fine {
            return false;
        }
        at += 1;
    }
    bytes.len() >= base.len() && bytes.len() != base.len() + 1
}

const THE_CODEC: &str = "the codec";

pub(super) const APPLICATION_GRPC: &str = "application/grpc";

/// A message shorter than this is cheaper to copy than to pin a read buffer of 16 KiB with.
const SHORT: usize = 4096;
