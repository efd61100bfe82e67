//! Methods: a path, how many messages go each way, and the codec.

use std::fmt;

use super::codec::{Codec, Vtable};
use crate::types::{MethodPath, Status};

pub use crate::call::Cardinality;

/// A method of a service, checked once; mostly a constant.
///
/// ```
/// # #[derive(Clone, PartialEq, prost::Message)] struct HelloRequest {}
/// # #[derive(Clone, PartialEq, prost::Message)] struct HelloReply {}
/// use switchboard::Method;
///
/// const SAY_HELLO: Method<HelloRequest, HelloReply> =
///     Method::unary("/helloworld.Greeter/SayHello");
/// ```
///
/// A path that is not `/package.Service/Method` does not compile in a constant, and panics where
/// the constructor runs later; a path that is not known before goes to
/// [`Channel::invoke`](crate::Channel::invoke) as a `&str`.
pub struct Method<Req, Resp> {
    path: &'static str,
    cardinality: Cardinality,
    vtable: Vtable<Req, Resp>,
}

#[cfg(feature = "prost")]
impl<Req, Resp> Method<Req, Resp>
where
    Req: prost::Message + 'static,
    Resp: prost::Message + Default + 'static,
{
    /// One request, one response.
    pub const fn unary(path: &'static str) -> Self {
        Self::with_codec::<super::Prost<Req, Resp>>(path, Cardinality::Unary)
    }

    /// Many requests, one response.
    pub const fn client_streaming(path: &'static str) -> Self {
        Self::with_codec::<super::Prost<Req, Resp>>(path, Cardinality::ClientStreaming)
    }

    /// One request, many responses.
    pub const fn server_streaming(path: &'static str) -> Self {
        Self::with_codec::<super::Prost<Req, Resp>>(path, Cardinality::ServerStreaming)
    }

    /// Many requests, many responses.
    pub const fn bidi_streaming(path: &'static str) -> Self {
        Self::with_codec::<super::Prost<Req, Resp>>(path, Cardinality::BidiStreaming)
    }
}

impl<Req, Resp> Method<Req, Resp> {
    /// A method whose messages another codec than protobuf's encodes.
    ///
    /// # Panics
    ///
    /// Where `path` is not `/package.Service/Method`, or the content type of the codec is none of
    /// gRPC; in a constant that is a compile error.
    pub const fn with_codec<C: Codec<Encode = Req, Decode = Resp>>(
        path: &'static str,
        cardinality: Cardinality,
    ) -> Self {
        assert!(MethodPath::is_valid(path), "a method path is /package.Service/Method");
        Self { path, cardinality, vtable: Vtable::of::<C>() }
    }

    /// The path.
    pub const fn path(&self) -> &'static str {
        self.path
    }

    /// How many messages go each way.
    pub const fn cardinality(&self) -> Cardinality {
        self.cardinality
    }
}

impl<Req, Resp> fmt::Debug for Method<Req, Resp> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Method({} {:?})", self.path, self.cardinality)
    }
}

/// What names a method: a [`Method`], or its path as text for protobuf messages.
pub trait IntoMethod<Req, Resp> {
    /// The method, ready to be called.
    fn prepare(self) -> Result<PreparedMethod<Req, Resp>, Status>;
}

/// A method whose path has been checked.
pub struct PreparedMethod<Req, Resp> {
    pub(crate) path: MethodPath,
    /// `None` where only a path was given: then it is what the call makes of it.
    pub(crate) cardinality: Option<Cardinality>,
    pub(crate) vtable: Vtable<Req, Resp>,
}

impl<Req, Resp> IntoMethod<Req, Resp> for &Method<Req, Resp> {
    fn prepare(self) -> Result<PreparedMethod<Req, Resp>, Status> {
        let path = MethodPath::of_valid(self.path).map_err(|it| bad_path(&it))?;
        Ok(PreparedMethod { path, cardinality: Some(self.cardinality), vtable: self.vtable })
    }
}

#[cfg(feature = "prost")]
impl<Req, Resp> IntoMethod<Req, Resp> for &str
where
    Req: prost::Message + 'static,
    Resp: prost::Message + Default + 'static,
{
    fn prepare(self) -> Result<PreparedMethod<Req, Resp>, Status> {
        let path = MethodPath::parse(self).map_err(|it| bad_path(&it))?;
        let vtable = Vtable::of::<super::Prost<Req, Resp>>();
        Ok(PreparedMethod { path, cardinality: None, vtable })
    }
}

fn bad_path(error: &crate::types::InvalidMethodPath) -> Status {
    Status::internal(error.to_string())
}
