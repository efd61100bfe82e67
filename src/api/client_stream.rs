//! Streams of encoded messages, as interceptors see them.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;

use super::codec::EncodedMessage;
use super::finish::Finish;
use crate::call::StreamCall;
use crate::transport::BoxFuture;
use crate::types::{Address, Foreign, Metadata, Panicked, SecurityLevel, Status};

/// A stream of encoded messages: what an [`Interceptor`](crate::Interceptor) gets from below, and
/// gives to what lies above.
///
/// To change a part of one, implement [`StreamWrapper`]. One that comes from no server at all, as
/// for a test, implements this. One task may send while another receives.
pub trait ClientStream: Send + Sync + 'static {
    /// As [`Sender::send`](crate::Sender::send).
    fn send(&self, message: EncodedMessage) -> BoxFuture<'_, Result<(), Status>>;

    /// As [`Sender::close_send`](crate::Sender::close_send).
    fn close_send(&self);

    /// As [`Receiver::recv`](crate::Receiver::recv). What the application gets of a method with one
    /// response is held to that in any case: it is received from until `None`, and given then.
    fn recv(&self) -> BoxFuture<'_, Result<Option<Bytes>, Status>>;

    /// As [`Receiver::header`](crate::Receiver::header).
    fn header(&self) -> BoxFuture<'_, Result<Metadata, Status>>;

    /// As [`Receiver::trailer`](crate::Receiver::trailer).
    fn trailer(&self) -> Option<Metadata>;

    /// As [`Receiver::peer`](crate::Receiver::peer).
    fn peer(&self) -> Option<Address>;

    /// As [`Receiver::security_level`](crate::Receiver::security_level).
    fn security_level(&self) -> Option<SecurityLevel>;

    /// As [`Sender::cancel`](crate::Sender::cancel).
    fn cancel(&self);
}

/// A [`ClientStream`] that is another but for what is implemented here.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// use switchboard::{
///     Answer, BoxFuture, ClientStream, EncodedMessage, Interceptor, Next, OutgoingCall, Status,
///     StreamWrapper,
/// };
///
/// /// Counts what is sent on streams.
/// #[derive(Default)]
/// struct Meter(Arc<AtomicU64>);
///
/// impl Interceptor for Meter {
///     fn stream<'a>(
///         &'a self,
///         call: OutgoingCall,
///         next: Next<'a>,
///     ) -> Answer<'a, Arc<dyn ClientStream>> {
///         Answer::later(async move {
///             let stream = next.stream(call).await?;
///             Ok(Arc::new(Metered { stream, sent: self.0.clone() }) as _)
///         })
///     }
/// }
///
/// struct Metered {
///     stream: Arc<dyn ClientStream>,
///     sent: Arc<AtomicU64>,
/// }
///
/// impl StreamWrapper for Metered {
///     fn inner(&self) -> &dyn ClientStream {
///         &*self.stream
///     }
///
///     fn send(&self, message: EncodedMessage) -> BoxFuture<'_, Result<(), Status>> {
///         self.sent.fetch_add(message.payload().len() as u64, Ordering::Relaxed);
///         self.inner().send(message)
///     }
/// }
/// ```
pub trait StreamWrapper: Send + Sync + 'static {
    /// The stream that this one is otherwise.
    fn inner(&self) -> &dyn ClientStream;

    /// As [`ClientStream::send`].
    fn send(&self, message: EncodedMessage) -> BoxFuture<'_, Result<(), Status>> {
        self.inner().send(message)
    }

    /// As [`ClientStream::close_send`].
    fn close_send(&self) {
        self.inner().close_send();
    }

    /// As [`ClientStream::recv`].
    fn recv(&self) -> BoxFuture<'_, Result<Option<Bytes>, Status>> {
        self.inner().recv()
    }

    /// As [`ClientStream::header`].
    fn header(&self) -> BoxFuture<'_, Result<Metadata, Status>> {
        self.inner().header()
    }

    /// As [`ClientStream::trailer`].
    fn trailer(&self) -> Option<Metadata> {
        self.inner().trailer()
    }

    /// As [`ClientStream::cancel`].
    fn cancel(&self) {
        self.inner().cancel();
    }
}

impl<T: StreamWrapper> ClientStream for T {
    fn send(&self, message: EncodedMessage) -> BoxFuture<'_, Result<(), Status>> {
        StreamWrapper::send(self, message)
    }

    fn close_send(&self) {
        StreamWrapper::close_send(self);
    }

    fn recv(&self) -> BoxFuture<'_, Result<Option<Bytes>, Status>> {
        StreamWrapper::recv(self)
    }

    fn header(&self) -> BoxFuture<'_, Result<Metadata, Status>> {
        StreamWrapper::header(self)
    }

    fn trailer(&self) -> Option<Metadata> {
        StreamWrapper::trailer(self)
    }

    fn peer(&self) -> Option<Address> {
        self.inner().peer()
    }

    fn security_level(&self) -> Option<SecurityLevel> {
        self.inner().security_level()
    }

    fn cancel(&self) {
        StreamWrapper::cancel(self);
    }
}

/// A stream of the channel itself.
#[derive(Clone)]
pub(super) struct ChannelStream(pub(super) Arc<StreamCall>);

impl ChannelStream {
    pub(super) async fn send(&self, message: EncodedMessage) -> Result<(), Status> {
        let (message, may_compress) = message.into_parts();
        self.0.send(message, may_compress).await
    }
}

impl ClientStream for ChannelStream {
    fn send(&self, message: EncodedMessage) -> BoxFuture<'_, Result<(), Status>> {
        Box::pin(self.send(message))
    }

    fn close_send(&self) {
        self.0.close_send();
    }

    fn recv(&self) -> BoxFuture<'_, Result<Option<Bytes>, Status>> {
        Box::pin(self.0.receive(None))
    }

    fn header(&self) -> BoxFuture<'_, Result<Metadata, Status>> {
        Box::pin(self.0.headers())
    }

    fn trailer(&self) -> Option<Metadata> {
        self.0.trailers()
    }

    fn peer(&self) -> Option<Address> {
        self.0.peer()
    }

    fn security_level(&self) -> Option<SecurityLevel> {
        self.0.security_level()
    }

    fn cancel(&self) {
        self.0.cancel();
    }
}

/// A stream of a method with one response, which gives that only once it has ended with OK.
///
/// The channel's own streams do so by themselves. This one holds those that interceptors give to
/// the same, and lets every interceptor see the end.
pub(super) struct OneResponse {
    stream: Arc<dyn ClientStream>,
    response: Mutex<OnlyMessage>,
}

/// The message of a [`OneResponse`].
enum OnlyMessage {
    Due,
    /// It is here, and the end of the stream is not.
    Held(Bytes),
    /// It has been given, or will not be.
    Over,
}

impl OneResponse {
    pub(super) fn of(stream: Arc<dyn ClientStream>) -> Arc<dyn ClientStream> {
        Arc::new(Self { stream, response: Mutex::new(OnlyMessage::Due) })
    }

    /// Goes on after `received`; gives what the reader gets, once that is certain.
    fn step(
        &self,
        received: Result<Option<Bytes>, Status>,
    ) -> Option<Result<Option<Bytes>, Status>> {
        let mut response = self.response.lock().unwrap_or_else(PoisonError::into_inner);
        let (next, given) = match (std::mem::replace(&mut *response, OnlyMessage::Over), received) {
            (OnlyMessage::Due, Ok(Some(message))) => (OnlyMessage::Held(message), None),
            (OnlyMessage::Held(message), Ok(None)) => (OnlyMessage::Over, Some(Ok(Some(message)))),
            (OnlyMessage::Over, Ok(None)) => (OnlyMessage::Over, Some(Ok(None))),
            (OnlyMessage::Due, Ok(None)) => (OnlyMessage::Due, Some(Err(cardinality("none")))),
            (OnlyMessage::Held(_) | OnlyMessage::Over, Ok(Some(_))) => {
                (OnlyMessage::Over, Some(Err(cardinality("more than one"))))
            }
            (_, Err(status)) => (OnlyMessage::Over, Some(Err(status))),
        };
        *response = next;
        given
    }
}

impl StreamWrapper for OneResponse {
    fn inner(&self) -> &dyn ClientStream {
        &*self.stream
    }

    fn recv(&self) -> BoxFuture<'_, Result<Option<Bytes>, Status>> {
        Box::pin(async move {
            loop {
                let received = self.inner().recv().await;
                let is_message = matches!(received, Ok(Some(_)));
                if let Some(given) = self.step(received) {
                    if is_message {
                        // One too many: nothing is left to be received.
                        self.inner().cancel();
                    }
                    return given;
                }
            }
        })
    }
}

fn cardinality(came: &str) -> Status {
    Status::unimplemented(format!(
        "the stream of an interceptor: cardinality violation: {came} where one message is due"
    ))
}

/// A stream that interceptors have made, or have put others around. One that panics ends its call
/// with INTERNAL, and is used no more.
pub(super) struct ForeignStream {
    stream: Foreign<Arc<dyn ClientStream>>,
    failed: OnceLock<Status>,
}

impl ForeignStream {
    pub(super) fn new(stream: Arc<dyn ClientStream>) -> Self {
        let stream = Foreign::new(THE_STREAM, stream);
        Self { stream, failed: OnceLock::new() }
    }

    fn fail(&self, panicked: Panicked) -> Status {
        let status = self.failed.get_or_init(|| panicked.into_status()).clone();
        // What lies below is not to go on unseen; a second panic says nothing new.
        let _ = self.stream.call(|stream| stream.cancel());
        status
    }

    async fn run<'a, T>(
        &'a self,
        make: impl FnOnce(&'a Arc<dyn ClientStream>) -> BoxFuture<'a, Result<T, Status>>,
    ) -> Result<T, Status> {
        if let Some(status) = self.failed.get() {
            return Err(status.clone());
        }
        let ended = self.stream.future(make).await;
        ended.map_or_else(
            |panicked| Err(self.fail(panicked)),
            |ended| ended.map_err(|status| status.of_part(THE_STREAM)),
        )
    }

    fn ask<T>(&self, ask: impl FnOnce(&Arc<dyn ClientStream>) -> Option<T>) -> Option<T> {
        self.stream.call(ask).unwrap_or_else(|panicked| {
            self.fail(panicked);
            None
        })
    }
}

impl ClientStream for ForeignStream {
    fn send(&self, message: EncodedMessage) -> BoxFuture<'_, Result<(), Status>> {
        Box::pin(self.run(|stream| stream.send(message)))
    }

    fn close_send(&self) {
        if let Err(panicked) = self.stream.call(|stream| stream.close_send()) {
            self.fail(panicked);
        }
    }

    fn recv(&self) -> BoxFuture<'_, Result<Option<Bytes>, Status>> {
        Box::pin(self.run(|stream| stream.recv()))
    }

    fn header(&self) -> BoxFuture<'_, Result<Metadata, Status>> {
        Box::pin(self.run(|stream| stream.header()))
    }

    fn trailer(&self) -> Option<Metadata> {
        self.ask(|stream| stream.trailer())
    }

    fn peer(&self) -> Option<Address> {
        self.ask(|stream| stream.peer())
    }

    fn security_level(&self) -> Option<SecurityLevel> {
        self.ask(|stream| stream.security_level())
    }

    fn cancel(&self) {
        if let Err(panicked) = self.stream.call(|stream| stream.cancel()) {
            self.failed.get_or_init(|| panicked.into_status());
        }
    }
}

/// How errors name one.
const THE_STREAM: &str = "the stream of an interceptor";

/// A stream at whose end something is to be called.
pub(super) struct Finishing {
    stream: Arc<dyn ClientStream>,
    finish: Mutex<Finish>,
}

impl Finishing {
    pub(super) fn around(stream: Arc<dyn ClientStream>, finish: Finish) -> Arc<dyn ClientStream> {
        Arc::new(Self { stream, finish: Mutex::new(finish) })
    }

    fn over(&self, result: Result<(), &Status>) {
        // Taken out first: what is called may use this stream.
        let finish =
            std::mem::take(&mut *self.finish.lock().unwrap_or_else(PoisonError::into_inner));
        finish.run(result);
    }
}

impl StreamWrapper for Finishing {
    fn inner(&self) -> &dyn ClientStream {
        &*self.stream
    }

    fn recv(&self) -> BoxFuture<'_, Result<Option<Bytes>, Status>> {
        Box::pin(async move {
            let received = self.inner().recv().await;
            match &received {
                Ok(Some(_)) => {}
                Ok(None) => self.over(Ok(())),
                Err(status) => self.over(Err(status)),
            }
            received
        })
    }

    fn header(&self) -> BoxFuture<'_, Result<Metadata, Status>> {
        Box::pin(
            async move { self.inner().header().await.inspect_err(|status| self.over(Err(status))) },
        )
    }

    fn cancel(&self) {
        self.inner().cancel();
        self.over(Err(&Status::cancelled("the application cancelled the call")));
    }
}
