//! The four kinds of methods, as types: which a [`Method`](crate::Method) is, is known when it is
//! compiled, and a call of another kind does not compile.

use super::method::Cardinality;

/// One request, one response: [`Channel::invoke`](crate::Channel::invoke).
#[derive(Clone, Copy, Debug)]
pub enum Unary {}

/// Many requests, one response:
/// [`Channel::client_streaming`](crate::Channel::client_streaming).
#[derive(Clone, Copy, Debug)]
pub enum ClientStreaming {}

/// One request, many responses:
/// [`Channel::server_streaming`](crate::Channel::server_streaming).
#[derive(Clone, Copy, Debug)]
pub enum ServerStreaming {}

/// Many requests, many responses: [`Channel::bidi_streaming`](crate::Channel::bidi_streaming).
#[derive(Clone, Copy, Debug)]
pub enum BidiStreaming {}

/// One of the four.
pub trait Kind: sealed::Sealed {
    /// The same as a value.
    const CARDINALITY: Cardinality;
}

impl Kind for Unary {
    const CARDINALITY: Cardinality = Cardinality::Unary;
}

impl Kind for ClientStreaming {
    const CARDINALITY: Cardinality = Cardinality::ClientStreaming;
}

impl Kind for ServerStreaming {
    const CARDINALITY: Cardinality = Cardinality::ServerStreaming;
}

impl Kind for BidiStreaming {
    const CARDINALITY: Cardinality = Cardinality::BidiStreaming;
}

mod sealed {
    #[expect(unnameable_types, reason = "so that there are four kinds and no more")]
    pub trait Sealed {}

    impl Sealed for super::Unary {}
    impl Sealed for super::ClientStreaming {}
    impl Sealed for super::ServerStreaming {}
    impl Sealed for super::BidiStreaming {}
}
