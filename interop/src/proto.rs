//! The messages and methods of `grpc.testing` that the cases use, by the numbers of the official
//! definition. Fields that no case sets or reads are left out; a decoder skips them.

use switchboard::{Method, kind};

pub(crate) const EMPTY_CALL: Method<Empty, Empty> =
    Method::unary("/grpc.testing.TestService/EmptyCall");

pub(crate) const UNARY_CALL: Method<SimpleRequest, SimpleResponse> =
    Method::unary("/grpc.testing.TestService/UnaryCall");

pub(crate) const STREAMING_INPUT_CALL: Method<
    StreamingInputCallRequest,
    StreamingInputCallResponse,
    kind::ClientStreaming,
> = Method::client_streaming("/grpc.testing.TestService/StreamingInputCall");

pub(crate) const STREAMING_OUTPUT_CALL: Method<
    StreamingOutputCallRequest,
    StreamingOutputCallResponse,
    kind::ServerStreaming,
> = Method::server_streaming("/grpc.testing.TestService/StreamingOutputCall");

pub(crate) const FULL_DUPLEX_CALL: Method<
    StreamingOutputCallRequest,
    StreamingOutputCallResponse,
    kind::BidiStreaming,
> = Method::bidi_streaming("/grpc.testing.TestService/FullDuplexCall");

/// Defined, and implemented by no server.
pub(crate) const UNIMPLEMENTED_METHOD: Method<Empty, Empty> =
    Method::unary("/grpc.testing.TestService/UnimplementedCall");

pub(crate) const UNIMPLEMENTED_SERVICE: Method<Empty, Empty> =
    Method::unary("/grpc.testing.UnimplementedService/UnimplementedCall");

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Empty {}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum PayloadType {
    Compressable = 0,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Payload {
    #[prost(enumeration = "PayloadType", tag = "1")]
    pub(crate) r#type: i32,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) body: Vec<u8>,
}

/// The status that the server is to end a call with.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct EchoStatus {
    #[prost(int32, tag = "1")]
    pub(crate) code: i32,
    #[prost(string, tag = "2")]
    pub(crate) message: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SimpleRequest {
    #[prost(enumeration = "PayloadType", tag = "1")]
    pub(crate) response_type: i32,
    #[prost(int32, tag = "2")]
    pub(crate) response_size: i32,
    #[prost(message, optional, tag = "3")]
    pub(crate) payload: Option<Payload>,
    /// Whether the server is to compress what it sends.
    #[prost(message, optional, tag = "6")]
    pub(crate) response_compressed: Option<BoolValue>,
    #[prost(message, optional, tag = "7")]
    pub(crate) response_status: Option<EchoStatus>,
}

/// A truth that may be left out.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct BoolValue {
    #[prost(bool, tag = "1")]
    pub(crate) value: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SimpleResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) payload: Option<Payload>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct StreamingInputCallRequest {
    #[prost(message, optional, tag = "1")]
    pub(crate) payload: Option<Payload>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct StreamingInputCallResponse {
    #[prost(int32, tag = "1")]
    pub(crate) aggregated_payload_size: i32,
}

/// One response that the server is to send.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ResponseParameters {
    #[prost(int32, tag = "1")]
    pub(crate) size: i32,
    /// How long the server waits before it sends it, in microseconds.
    #[prost(int32, tag = "2")]
    pub(crate) interval_us: i32,
    #[prost(message, optional, tag = "3")]
    pub(crate) compressed: Option<BoolValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct StreamingOutputCallRequest {
    #[prost(enumeration = "PayloadType", tag = "1")]
    pub(crate) response_type: i32,
    #[prost(message, repeated, tag = "2")]
    pub(crate) response_parameters: Vec<ResponseParameters>,
    #[prost(message, optional, tag = "3")]
    pub(crate) payload: Option<Payload>,
    #[prost(message, optional, tag = "7")]
    pub(crate) response_status: Option<EchoStatus>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct StreamingOutputCallResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) payload: Option<Payload>,
}
