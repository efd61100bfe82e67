//! Methods: a path, how many messages go each way, and the codec.

use std::fmt;
use std::marker::PhantomData;

use super::codec::{Codec, Vtable};
use super::kind::{self, Kind};
use crate::types::{MethodPath, Status};

pub use crate::call::Cardinality;

/// A method of a service, checked once; mostly a constant. `K` is its [kind], unary unless said.
///
/// ```
/// # #[derive(Clone, PartialEq, prost::Message)] struct HelloRequest {}
/// # #[derive(Clone, PartialEq, prost::Message)] struct HelloReply {}
/// use switchboard::{Method, kind};
///
/// const SAY_HELLO: Method<HelloRequest, HelloReply> =
///     Method::unary("/helloworld.Greeter/SayHello");
/// const CHAT: Method<HelloRequest, HelloReply, kind::BidiStreaming> =
///     Method::bidi_streaming("/helloworld.Greeter/Chat");
/// ```
///
/// A method is called by what its kind has, or as a [stream](crate::Channel::new_stream). This does
/// not compile:
///
/// ```compile_fail,E0277
/// # #[derive(Clone, PartialEq, prost::Message)] struct Note {}
/// # async fn run(channel: switchboard::Channel) -> Result<(), switchboard::Status> {
/// use switchboard::{Method, Request, kind};
///
/// const CHAT: Method<Note, Note, kind::BidiStreaming> = Method::bidi_streaming("/chat.Room/Chat");
/// channel.invoke(CHAT, Request::new(Note {})).await?;
/// # Ok(()) }
/// ```
///
/// A path that is not `/package.Service/Method` does not compile in a constant, and panics where
/// the constructor runs later; a path that is not known before goes to
/// [`Channel::invoke`](crate::Channel::invoke) and the others as a `&str`.
pub struct Method<Req, Resp, K = kind::Unary> {
    path: &'static str,
    vtable: Vtable<Req, Resp>,
    kind: PhantomData<fn() -> K>,
}

impl<Req, Resp, K> Clone for Method<Req, Resp, K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<Req, Resp, K> Copy for Method<Req, Resp, K> {}

#[cfg(feature = "prost")]
impl<Req, Resp> Method<Req, Resp, kind::Unary>
where
    Req: prost::Message + 'static,
    Resp: prost::Message + Default + 'static,
{
    /// One request, one response.
    pub const fn unary(path: &'static str) -> Self {
        Self::with_codec::<super::Prost<Req, Resp>>(path)
    }
}

#[cfg(feature = "prost")]
impl<Req, Resp> Method<Req, Resp, kind::ClientStreaming>
where
    Req: prost::Message + 'static,
    Resp: prost::Message + Default + 'static,
{
    /// Many requests, one response.
    pub const fn client_streaming(path: &'static str) -> Self {
        Self::with_codec::<super::Prost<Req, Resp>>(path)
    }
}

#[cfg(feature = "prost")]
impl<Req, Resp> Method<Req, Resp, kind::ServerStreaming>
where
    Req: prost::Message + 'static,
    Resp: prost::Message + Default + 'static,
{
    /// One request, many responses.
    pub const fn server_streaming(path: &'static str) -> Self {
        Self::with_codec::<super::Prost<Req, Resp>>(path)
    }
}

#[cfg(feature = "prost")]
impl<Req, Resp> Method<Req, Resp, kind::BidiStreaming>
where
    Req: prost::Message + 'static,
    Resp: prost::Message + Default + 'static,
{
    /// Many requests, many responses.
    pub const fn bidi_streaming(path: &'static str) -> Self {
        Self::with_codec::<super::Prost<Req, Resp>>(path)
    }
}

impl<Req, Resp, K: Kind> Method<Req, Resp, K> {
    /// A method whose messages another codec than protobuf's encodes.
    ///
    /// # Panics
    ///
    /// Where `path` is not `/package.Service/Method`, or the content type of the codec is none of
    /// gRPC; in a constant that is a compile error.
    pub const fn with_codec<C: Codec<Encode = Req, Decode = Resp>>(path: &'static str) -> Self {
        assert!(MethodPath::is_valid(path), "a method path is /package.Service/Method");
        Self { path, vtable: Vtable::of::<C>(), kind: PhantomData }
    }

    /// The path.
    pub const fn path(&self) -> &'static str {
        self.path
    }

    /// How many messages go each way.
    pub const fn cardinality(&self) -> Cardinality {
        K::CARDINALITY
    }
}

impl<Req, Resp, K: Kind> fmt::Debug for Method<Req, Resp, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Method({} {:?})", self.path, self.cardinality())
    }
}

/// What names a method: a [`Method`], or its path as text for protobuf messages.
#[diagnostic::on_unimplemented(
    message = "`{Self}` names no method with requests `{Req}` and responses `{Resp}`",
    note = "give a `Method`, or for protobuf messages its path as a `&str`"
)]
pub trait IntoMethod<Req, Resp> {
    /// The method, ready to be called.
    fn prepare(self) -> Result<PreparedMethod<Req, Resp>, Status>;
}

/// What names a method of the [kind] `K`. A path as text may be of any.
#[diagnostic::on_unimplemented(
    message = "`{Self}` names no method of the kind `{K}` with requests `{Req}` and responses \
               `{Resp}`",
    note = "a unary method is called with `invoke`, the others with `client_streaming`, \
            `server_streaming` and `bidi_streaming`, and any with `new_stream`"
)]
pub trait IntoMethodOf<Req, Resp, K>: IntoMethod<Req, Resp> {}

impl<Req, Resp, K: Kind> IntoMethodOf<Req, Resp, K> for Method<Req, Resp, K> {}

impl<Req, Resp, K: Kind> IntoMethodOf<Req, Resp, K> for &Method<Req, Resp, K> {}

#[cfg(feature = "prost")]
impl<Req, Resp, K> IntoMethodOf<Req, Resp, K> for &str
where
    Req: prost::Message + 'static,
    Resp: prost::Message + Default + 'static,
{
}

/// A method whose path has been checked.
pub struct PreparedMethod<Req, Resp> {
    pub(crate) path: MethodPath,
    /// `None` where only a path was given: then it is what the call makes of it.
    pub(crate) cardinality: Option<Cardinality>,
    pub(crate) vtable: Vtable<Req, Resp>,
}

impl<Req, Resp, K: Kind> IntoMethod<Req, Resp> for Method<Req, Resp, K> {
    fn prepare(self) -> Result<PreparedMethod<Req, Resp>, Status> {
        let path = MethodPath::of_valid(self.path).map_err(|it| bad_path(&it))?;
        Ok(PreparedMethod { path, cardinality: Some(K::CARDINALITY), vtable: self.vtable })
    }
}

impl<Req, Resp, K: Kind> IntoMethod<Req, Resp> for &Method<Req, Resp, K> {
    fn prepare(self) -> Result<PreparedMethod<Req, Resp>, Status> {
        (*self).prepare()
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
