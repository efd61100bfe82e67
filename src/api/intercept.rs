//! Interceptors: what stands between the application and its calls.

use std::fmt;
use std::future::{IntoFuture, ready};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::channel::Channel;
use super::client_stream::{ClientStream, Finishing};
use super::codec::{EncodedMessage, Vtable};
use super::finish::Finish;
use super::method::Cardinality;
use super::request::{CallOptions, Response};
use crate::transport::BoxFuture;
use crate::types::{Caught, Foreign, Metadata, MethodPath, Panicked, Status};

/// Sees the calls of a channel, and may change them.
///
/// Calls pass through the interceptors of their channel on the caller's task, the one that was
/// [registered](crate::ChannelBuilder::interceptor) first being the outermost: it sees a call first
/// and its answer last. What lies below the last one is the channel: it retries and hedges by
/// itself, so interceptors see calls, not attempts.
///
/// All methods have a default, which changes nothing:
///
/// - [`before`](Self::before) sees every call on its way out. It is synchronous and costs nothing
///   but itself; most interceptors need no more. A closure of its shape is an interceptor too.
/// - [`unary`](Self::unary) and [`stream`](Self::stream) decide what becomes of a call: it can be
///   passed on, changed or not, awaited, answered without a server, or made again.
///
/// An interceptor that adds metadata, and one that makes calls again:
///
/// ```
/// use bytes::Bytes;
/// use switchboard::{
///     Answer, Code, EncodedMessage, Interceptor, Next, OutgoingCall, Response, Status,
/// };
///
/// struct Tenant;
///
/// impl Interceptor for Tenant {
///     fn before(&self, call: &mut OutgoingCall) -> Result<(), Status> {
///         Ok(call.metadata_mut().insert("tenant", "blue")?)
///     }
/// }
///
/// struct OnceMore;
///
/// impl Interceptor for OnceMore {
///     fn unary<'a>(
///         &'a self,
///         call: OutgoingCall,
///         message: EncodedMessage,
///         next: Next<'a>,
///     ) -> Answer<'a, Response<Bytes>> {
///         Answer::later(async move {
///             match next.unary(call.clone(), message.clone()).await {
///                 Err(status) if status.code() == Code::ABORTED => {
///                     next.unary(call, message).await
///                 }
///                 answer => answer,
///             }
///         })
///     }
/// }
/// ```
pub trait Interceptor: Send + Sync + 'static {
    /// Sees a call of either kind, before [`unary`](Self::unary) or [`stream`](Self::stream) gets
    /// it. A status ends the call; it becomes the call's as it is, but for OK, which
    /// becomes INTERNAL, and one without a message, which gets one.
    ///
    /// Must not block.
    fn before(&self, call: &mut OutgoingCall) -> Result<(), Status> {
        let _ = call;
        Ok(())
    }

    /// Decides what becomes of a unary call. `next` is what lies below.
    fn unary<'a>(
        &'a self,
        call: OutgoingCall,
        message: EncodedMessage,
        next: Next<'a>,
    ) -> Answer<'a, Response<Bytes>> {
        next.unary(call, message)
    }

    /// Decides what becomes of a stream that is being opened. `next` is what lies below.
    ///
    /// To see its messages, put a [`StreamWrapper`](crate::StreamWrapper) around what it gives.
    fn stream<'a>(
        &'a self,
        call: OutgoingCall,
        next: Next<'a>,
    ) -> Answer<'a, Arc<dyn ClientStream>> {
        next.stream(call)
    }
}

/// A closure that sees every call on its way out, as [`Interceptor::before`] does:
///
/// ```
/// use switchboard::{Channel, OutgoingCall};
///
/// let builder = Channel::builder("dns:///greeter.example:50051")
///     .interceptor(|call: &mut OutgoingCall| Ok(call.metadata_mut().insert("tenant", "blue")?));
/// ```
impl<F> Interceptor for F
where
    F: Fn(&mut OutgoingCall) -> Result<(), Status> + Send + Sync + 'static,
{
    fn before(&self, call: &mut OutgoingCall) -> Result<(), Status> {
        self(call)
    }
}

/// A call on its way to the server.
///
/// A clone is the same call, to be made again: it has the same deadline.
#[derive(Clone)]
pub struct OutgoingCall {
    pub(super) method: MethodPath,
    pub(super) cardinality: Cardinality,
    /// Whether the program knows the method, rather than its path alone.
    pub(super) is_known: bool,
    pub(super) options: CallOptions,
    pub(super) content_type: &'static str,
    pub(super) begun: tokio::time::Instant,
}

impl OutgoingCall {
    /// A call that began at `begun`, of a method whose cardinality is `known`, or else as it is
    /// called.
    pub(super) fn new<Req, Resp>(
        method: MethodPath,
        known: Option<Cardinality>,
        called_as: Cardinality,
        vtable: &Vtable<Req, Resp>,
        options: CallOptions,
        begun: tokio::time::Instant,
    ) -> Self {
        Self {
            method,
            cardinality: known.unwrap_or(called_as),
            is_known: known.is_some(),
            options,
            content_type: vtable.content_type,
            begun,
        }
    }

    /// The method.
    pub fn method(&self) -> &MethodPath {
        &self.method
    }

    /// How many messages go each way.
    pub fn cardinality(&self) -> Cardinality {
        self.cardinality
    }

    /// What the application, and the interceptors so far, want to be done differently from the
    /// defaults.
    pub fn options(&self) -> &CallOptions {
        &self.options
    }

    /// The options, to be changed: `*call.options_mut() = options` replaces them.
    pub fn options_mut(&mut self) -> &mut CallOptions {
        &mut self.options
    }

    /// What is sent along.
    pub fn metadata(&self) -> &Metadata {
        self.options.metadata()
    }

    /// What is sent along, to be changed.
    pub fn metadata_mut(&mut self) -> &mut Metadata {
        self.options.metadata_mut()
    }

    /// When the call ends at the latest, as far as its options say. A default of the channel or of
    /// the service config is not in it. A timeout counts from when the application made the call.
    pub fn deadline(&self) -> Option<Instant> {
        self.options.deadline_from(self.begun.into_std())
    }
}

impl fmt::Debug for OutgoingCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutgoingCall")
            .field("method", &self.method.as_str())
            .field("cardinality", &self.cardinality)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// What lies below an interceptor: the others, and the channel. It can be asked more than once.
#[derive(Clone, Copy)]
pub struct Next<'a> {
    below: &'a [Foreign<Arc<dyn Interceptor>>],
    channel: &'a Channel,
}

impl<'a> Next<'a> {
    pub(super) fn new(below: &'a [Foreign<Arc<dyn Interceptor>>], channel: &'a Channel) -> Self {
        Self { below, channel }
    }

    /// Passes a unary call on. Nothing happens to it before the answer is returned, or awaited.
    pub fn unary(
        self,
        mut call: OutgoingCall,
        message: EncodedMessage,
    ) -> Answer<'a, Response<Bytes>> {
        match self.split() {
            Some((first, next)) => {
                let before = before(first, &mut call);
                let finish = call.options.take_finish();
                let answer = before.and_then(|()| {
                    let answer = first.call(|first| first.unary(call, message, next));
                    answer.map_err(Panicked::into_status)
                });
                answer.unwrap_or_else(|status| Answer::of(Err(status))).and_finish(finish)
            }
            None => Answer::pass((call, message), self.channel),
        }
    }

    /// Passes on a stream that is being opened. Nothing happens before the answer is returned, or
    /// awaited.
    pub fn stream(self, mut call: OutgoingCall) -> Answer<'a, Arc<dyn ClientStream>> {
        match self.split() {
            Some((first, next)) => {
                let before = before(first, &mut call);
                let finish = call.options.take_finish();
                let answer = before.and_then(|()| {
                    let answer = first.call(|first| first.stream(call, next));
                    answer.map_err(Panicked::into_status)
                });
                answer.unwrap_or_else(|status| Answer::of(Err(status))).and_finish(finish)
            }
            None => Answer::pass(call, self.channel),
        }
    }

    fn split(self) -> Option<(&'a Foreign<Arc<dyn Interceptor>>, Self)> {
        let (first, below) = self.below.split_first()?;
        Some((first, Self { below, channel: self.channel }))
    }
}

fn before(
    interceptor: &Foreign<Arc<dyn Interceptor>>,
    call: &mut OutgoingCall,
) -> Result<(), Status> {
    let seen = interceptor.call(|interceptor| interceptor.before(call));
    seen.unwrap_or_else(|panicked| Err(panicked.into_status())).map_err(of_part)
}

fn of_part(status: Status) -> Status {
    status.of_part(AN_INTERCEPTOR)
}

impl fmt::Debug for Next<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Next").field("below", &self.below.len()).finish_non_exhaustive()
    }
}

/// What becomes of a call: of a unary one a [`Response`] of bytes, of a stream a [`ClientStream`].
///
/// It is made by [`Next`] (the call is passed on), [`later`](Self::later) (it takes time) or
/// [`of`](Self::of) (it is known). Awaiting it makes the call.
#[must_use = "nothing happens to a call until its answer is returned or awaited"]
pub struct Answer<'a, T: Outcome> {
    what: What<'a, T>,
    finish: Finish,
}

enum What<'a, T: Outcome> {
    /// What the channel makes of this.
    Pass(T::Call, &'a Channel),
    Later(BoxFuture<'a, Result<T, Status>>),
    Known(Result<T, Status>),
}

impl<'a, T: Outcome> Answer<'a, T> {
    /// What `answer` gives. A status becomes the call's, as that of [`Interceptor::before`] does.
    pub fn later(answer: impl Future<Output = Result<T, Status>> + Send + 'a) -> Self {
        Self { what: What::Later(Box::pin(answer)), finish: Finish::default() }
    }

    /// This, without a server being asked.
    pub fn of(answer: Result<T, Status>) -> Self {
        Self { what: What::Known(answer), finish: Finish::default() }
    }

    fn pass(call: T::Call, channel: &'a Channel) -> Self {
        Self { what: What::Pass(call, channel), finish: Finish::default() }
    }

    /// The call, where it was passed on and nothing else is to be done, or else its answer.
    pub(super) fn into_passed(self) -> Result<T::Call, BoxFuture<'a, Result<T, Status>>> {
        match self {
            Self { what: What::Pass(call, _), finish } if finish.is_empty() => Ok(call),
            answer => Err(answer.into_future()),
        }
    }

    /// Calls `finish` too, when the call is over.
    pub(super) fn and_finish(mut self, finish: Finish) -> Self {
        self.finish.append(finish);
        self
    }
}

impl<'a, T: Outcome> IntoFuture for Answer<'a, T> {
    type Output = Result<T, Status>;
    type IntoFuture = BoxFuture<'a, Result<T, Status>>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { what, finish } = self;
        let answer = match what {
            What::Pass(call, channel) => T::make(call, channel),
            What::Later(answer) => Box::pin(async move {
                let answer = Caught::of(AN_INTERCEPTOR, answer).await;
                answer.unwrap_or_else(|panicked| Err(panicked.into_status())).map_err(of_part)
            }),
            What::Known(answer) => Box::pin(ready(answer.map_err(of_part))),
        };
        if finish.is_empty() {
            return answer;
        }
        Box::pin(async move { T::finish(answer.await, finish) })
    }
}

impl<T: Outcome> fmt::Debug for Answer<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.what {
            What::Pass(..) => "Answer::Pass",
            What::Later(_) => "Answer::Later",
            What::Known(_) => "Answer::Known",
        })
    }
}

/// How errors name one.
pub(super) const AN_INTERCEPTOR: &str = "an interceptor";

/// What a call gives: a [`Response`] of bytes, or a [`ClientStream`]. There are no others.
pub trait Outcome: Sized + Send + sealed::Made + 'static {}

impl Outcome for Response<Bytes> {}
impl Outcome for Arc<dyn ClientStream> {}

pub(super) mod sealed {
    use super::{
        Arc, BoxFuture, Bytes, Channel, ClientStream, EncodedMessage, Finish, Finishing,
        OutgoingCall, Response, Status,
    };

    #[expect(unnameable_types, reason = "nobody else is to implement it")]
    pub trait Made: Sized {
        type Call: Send;

        /// Has the channel make the call.
        fn make(call: Self::Call, channel: &Channel) -> BoxFuture<'_, Result<Self, Status>>;

        /// Calls `finish` when the call that gave `result` is over.
        fn finish(result: Result<Self, Status>, finish: Finish) -> Result<Self, Status>;
    }

    impl Made for Response<Bytes> {
        type Call = (OutgoingCall, EncodedMessage);

        fn make(
            (call, message): Self::Call,
            channel: &Channel,
        ) -> BoxFuture<'_, Result<Self, Status>> {
            Box::pin(channel.make_unary(call, message))
        }

        fn finish(result: Result<Self, Status>, finish: Finish) -> Result<Self, Status> {
            finish.run(result.as_ref().map(drop));
            result
        }
    }

    impl Made for Arc<dyn ClientStream> {
        type Call = OutgoingCall;

        fn make(call: OutgoingCall, channel: &Channel) -> BoxFuture<'_, Result<Self, Status>> {
            Box::pin(async move { Ok(Arc::new(channel.make_stream(call).await?) as Self) })
        }

        fn finish(result: Result<Self, Status>, finish: Finish) -> Result<Self, Status> {
            match result {
                Ok(stream) => Ok(Finishing::around(stream, finish)),
                Err(status) => {
                    finish.run(Err(&status));
                    Err(status)
                }
            }
        }
    }
}
