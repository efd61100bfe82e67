//! Messages to bytes and back.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

/// Encodes requests and decodes responses of a method. A codec has no state of its own: it is a
/// type, named by [`Method::with_codec`](crate::Method::with_codec).
pub trait Codec: 'static {
    /// What is encoded.
    type Encode;
    /// What is decoded.
    type Decode;

    /// The length of the encoded message, as far as it is known.
    fn encoded_len(_message: &Self::Encode) -> usize {
        0
    }

    /// Appends the encoded message to `buf`.
    fn encode(message: &Self::Encode, buf: &mut BytesMut) -> Result<(), CodecError>;

    /// Decodes a whole message.
    ///
    /// `bytes` is a slice of what the socket was read into: a decoded value that keeps a part of
    /// it keeps the whole read buffer in memory. Copy what is short, as the codecs here do.
    fn decode(bytes: Bytes) -> Result<Self::Decode, CodecError>;
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
        self.0.fmt(f)
    }
}

impl Error for CodecError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
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
        Ok(if bytes.len() < COPIED_BELOW { Bytes::copy_from_slice(&bytes) } else { bytes })
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
        // From a slice, `bytes` fields are copied; from `Bytes`, they share its memory.
        let decoded =
            if bytes.len() < COPIED_BELOW { Resp::decode(&bytes[..]) } else { Resp::decode(bytes) };
        decoded.map_err(CodecError::new)
    }
}

/// A message shorter than this is cheaper to copy than to pin a read buffer of 16 KiB with.
const COPIED_BELOW: usize = 4096;
