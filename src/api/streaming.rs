//! Streams of messages.

use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use futures_core::Stream;

use super::client_stream::{ChannelStream, ClientStream, ForeignStream};
use super::codec::{EncodedMessage, Vtable};
use super::request::Response;
use crate::transport::{BoxFuture, Run};
use crate::types::{Address, Metadata, SecurityLevel, Status};

/// A call that takes or gives several messages.
///
/// Dropping it cancels the call, unless the server has ended it; so does
/// [`cancel`](Self::cancel). It can be [split](Self::split) to be sent on and received from in
/// different tasks.
pub struct Streaming<Req, Resp> {
    sender: Sender<Req, Resp>,
    receiver: Receiver<Req, Resp>,
}

/// The sending half of a [`Streaming`].
///
/// Dropping it before [`close_send`](Self::close_send) cancels the call, unless that is over: a
/// server must not take requests for complete whose sender has failed or was cancelled. The receiving
/// half is told so, with CANCELLED. While it is neither closed nor dropped the server may wait for
/// more, and the call lasts until its deadline, whose status says that the requests were open.
pub struct Sender<Req, Resp> {
    stream: Messages,
    vtable: Vtable<Req, Resp>,
    /// Whether messages may be compressed.
    compresses: bool,
    /// Where short messages are encoded.
    block: BytesMut,
    /// Whether its end says anything to the server: the requests are not closed.
    is_open: bool,
}

/// The receiving half of a [`Streaming`].
///
/// It is a [`Stream`] too: of messages, then at most one error, then nothing.
pub struct Receiver<Req, Resp> {
    stream: Messages,
    vtable: Vtable<Req, Resp>,
    reading: Reading,
    /// What has come together with the message before.
    run: Run,
}

/// Where the messages go, and come from.
#[derive(Clone)]
enum Messages {
    /// The channel.
    Channel(ChannelStream),
    /// Interceptors that stand before it.
    Wrapped(Arc<dyn ClientStream>),
}

impl Messages {
    fn any(&self) -> &dyn ClientStream {
        match self {
            Self::Channel(stream) => stream,
            Self::Wrapped(stream) => &**stream,
        }
    }
}

/// How far a [`Receiver`] that is used as a `Stream` has come.
enum Reading {
    Messages,
    /// An attempt failed; another is being made.
    Recovering(BoxFuture<'static, Result<(), Status>>),
    /// Interceptors have been asked for a message.
    Waiting(BoxFuture<'static, Result<Option<Bytes>, Status>>),
    Over,
}

impl<Req, Resp> Streaming<Req, Resp> {
    pub(super) fn of_channel(stream: ChannelStream, vtable: Vtable<Req, Resp>) -> Self {
        Self::new(Messages::Channel(stream), vtable)
    }

    pub(super) fn wrapped(stream: Arc<dyn ClientStream>, vtable: Vtable<Req, Resp>) -> Self {
        Self::new(Messages::Wrapped(Arc::new(ForeignStream::new(stream))), vtable)
    }

    fn new(stream: Messages, vtable: Vtable<Req, Resp>) -> Self {
        Self {
            sender: Sender {
                stream: stream.clone(),
                vtable,
                compresses: true,
                block: BytesMut::new(),
                is_open: true,
            },
            receiver: Receiver { stream, vtable, reading: Reading::Messages, run: Run::default() },
        }
    }

    /// As [`Sender::send`].
    pub async fn send(&mut self, message: Req) -> Result<(), Status> {
        self.sender.send(message).await
    }

    /// As [`Sender::compress`].
    pub fn compress(&mut self, compress: bool) {
        self.sender.compress(compress);
    }

    /// As [`Sender::send_all`].
    pub async fn send_all(&mut self, messages: impl Stream<Item = Req>) -> Result<(), Status> {
        self.sender.send_all(messages).await
    }

    /// Sends all of `requests` and then closes the sending side, while the responses are received:
    /// gives these, as a [`Stream`] and by [`Exchange::recv`].
    ///
    /// Use it instead of [`send_all`](Self::send_all) where the server answers before it has read
    /// everything. A server that waits until its responses are received reads no further request,
    /// so a caller that sends first and receives later may wait forever, or until its deadline.
    ///
    /// ```no_run
    /// # #[derive(Clone, PartialEq, prost::Message)] struct Note {}
    /// # async fn run(channel: switchboard::Channel) -> Result<(), switchboard::Status> {
    /// use switchboard::{CallOptions, Method, kind};
    ///
    /// const CHAT: Method<Note, Note, kind::BidiStreaming> = Method::bidi_streaming("/chat.Room/Chat");
    ///
    /// let notes = tokio_stream::iter(vec![Note::default(); 1_000_000]);
    /// let mut replies = channel.new_stream(&CHAT, CallOptions::new()).await?.exchange(notes);
    /// while let Some(reply) = replies.recv().await? {
    ///     // …
    /// }
    /// # Ok(()) }
    /// ```
    pub fn exchange<'a>(
        self,
        requests: impl Stream<Item = Req> + Send + 'a,
    ) -> Exchange<'a, Req, Resp>
    where
        Req: Send + 'a,
        Resp: 'a,
    {
        let (mut sender, receiver) = self.split();
        let sending = Box::pin(async move {
            let sent = sender.send_all(requests).await;
            // Where they could not be sent, that is how the call ends.
            sender.leave();
            sent
        });
        Exchange { sending: Sending::UnderWay(sending), receiver }
    }

    /// As [`Sender::close_send`].
    pub fn close_send(&mut self) {
        self.sender.close_send();
    }

    /// As [`Receiver::recv`].
    pub async fn recv(&mut self) -> Result<Option<Resp>, Status> {
        self.receiver.recv().await
    }

    /// As [`Receiver::header`].
    pub async fn header(&mut self) -> Result<Metadata, Status> {
        self.receiver.header().await
    }

    /// As [`Receiver::trailer`].
    pub fn trailer(&self) -> Option<Metadata> {
        self.receiver.trailer()
    }

    /// As [`Receiver::peer`].
    pub fn peer(&self) -> Option<Address> {
        self.receiver.peer()
    }

    /// As [`Receiver::security_level`].
    pub fn security_level(&self) -> Option<SecurityLevel> {
        self.receiver.security_level()
    }

    /// As [`Sender::cancel`].
    pub fn cancel(&self) {
        self.sender.cancel();
    }

    /// The two halves. The call is cancelled when both are gone and the server has not ended it.
    pub fn split(self) -> (Sender<Req, Resp>, Receiver<Req, Resp>) {
        (self.sender, self.receiver)
    }
}

impl<Req, Resp> Sender<Req, Resp> {
    /// Sends a message: returns when it is on its way, which takes as long as the server lets it
    /// wait.
    ///
    /// Fails with the status of the call where that is over, whether anybody receives or not; with
    /// CANCELLED where the server has ended it with OK; with `RESOURCE_EXHAUSTED` for a
    /// message over its limit (the call goes on then), and with INTERNAL after
    /// [`close_send`](Self::close_send) or for a second message to a method that takes one.
    /// Cancel-safe: a message is sent as a whole or not at all.
    ///
    /// Messages that are sent one right after the other go out together, in frames of up to 16 KiB.
    /// Where a server neither answers nor is known to read (64 short frames without a window update
    /// or a response), a message below 256 bytes waits up to 5 ms for others to go with it: servers
    /// that are built on h2, such as tonic's, end a connection for many short frames that nobody
    /// has read. It waits for nothing that the server does, and not if it is the last one.
    pub async fn send(&mut self, message: Req) -> Result<(), Status> {
        let Self { block, vtable, compresses, .. } = self;
        let message = EncodedMessage::encode_in(block, &message, vtable, *compresses)?;
        match &self.stream {
            Messages::Channel(stream) => stream.send(message).await,
            Messages::Wrapped(stream) => stream.send(message).await,
        }
    }

    /// Whether the messages that are sent from now on are compressed, where the call has a
    /// [compression](crate::CallOptions::compress). At first they are.
    pub fn compress(&mut self, compress: bool) {
        self.compresses = compress;
    }

    /// Sends all messages of a stream, then closes the sending side. What was taken from the
    /// stream when it is cancelled has been sent, but for the last message, which may be lost.
    ///
    /// Nothing is received meanwhile, unless another task does it. Where the server answers before
    /// it has read everything, both may come to wait for each other: use
    /// [`Streaming::exchange`], or the [halves](Streaming::split) in two tasks.
    pub async fn send_all(&mut self, messages: impl Stream<Item = Req>) -> Result<(), Status> {
        let mut messages = pin!(messages);
        while let Some(message) = poll_fn(|cx| messages.as_mut().poll_next(cx)).await {
            self.send(message).await?;
            // Where there is always a message and always room for it.
            tokio::task::consume_budget().await;
        }
        self.close_send();
        Ok(())
    }

    /// Tells the server that no further message follows. Idempotent.
    pub fn close_send(&mut self) {
        self.is_open = false;
        self.stream.any().close_send();
    }

    /// Goes without a word.
    fn leave(mut self) {
        self.is_open = false;
    }

    /// Cancels the call: the server is told, and whoever waits for it here gets CANCELLED, from
    /// both halves. Nothing happens where the call is over.
    pub fn cancel(&self) {
        self.stream.any().cancel();
    }
}

impl<Req, Resp> Drop for Sender<Req, Resp> {
    fn drop(&mut self) {
        if self.is_open {
            match &self.stream {
                Messages::Channel(stream) => stream.0.abandon_requests(),
                Messages::Wrapped(stream) => stream.cancel(),
            }
        }
    }
}

impl<Req, Resp> Receiver<Req, Resp> {
    /// Receives the next message; `None` once the server has ended the call with OK, again and
    /// again.
    ///
    /// Of a method with one response ([unary](crate::Cardinality::Unary) or
    /// [client streaming](crate::Cardinality::ClientStreaming)) the message is given only once the
    /// server has ended the call with OK: the call is over then, and [`trailer`](Self::trailer) has
    /// its trailers. If the server ends it with another status, that is given in place of the
    /// message; two messages, or none, are an error as well.
    ///
    /// Fails with the status of the call, again and again. Cancel-safe.
    pub async fn recv(&mut self) -> Result<Option<Resp>, Status> {
        if let Some(message) = self.next_of_run() {
            return message.map(Some);
        }
        let received = match &self.stream {
            Messages::Channel(stream) => stream.0.receive(Some(&mut self.run)).await,
            Messages::Wrapped(stream) => stream.recv().await,
        };
        received?.map(|message| self.vtable.decode(&message)).transpose()
    }

    /// What has come together with the message before, unless this side has ended the call since.
    fn next_of_run(&mut self) -> Option<Result<Resp, Status>> {
        if self.run.len() == 0 {
            return None;
        }
        match &self.stream {
            Messages::Channel(stream) if !stream.0.is_aborted() => {
                self.vtable.decode_next(&mut self.run)
            }
            Messages::Channel(_) | Messages::Wrapped(_) => {
                self.run = Run::default();
                None
            }
        }
    }

    /// What the server sends before its first message; waits for it. Empty where the server sent
    /// trailers alone. Cancel-safe.
    pub async fn header(&mut self) -> Result<Metadata, Status> {
        self.stream.any().header().await
    }

    /// What the server sent after its last message; `None` until [`recv`](Self::recv) has shown
    /// the end of the call.
    pub fn trailer(&self) -> Option<Metadata> {
        self.stream.any().trailer()
    }

    /// The server that the call is with, or was with at last.
    pub fn peer(&self) -> Option<Address> {
        self.stream.any().peer()
    }

    /// How the connection to that server is protected.
    pub fn security_level(&self) -> Option<SecurityLevel> {
        self.stream.any().security_level()
    }

    /// As [`Sender::cancel`].
    pub fn cancel(&self) {
        self.stream.any().cancel();
    }
}

impl<Req, Resp> Stream for Receiver<Req, Resp> {
    type Item = Result<Resp, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if matches!(this.reading, Reading::Messages)
            && let Some(message) = this.next_of_run()
        {
            return Poll::Ready(Some(message));
        }
        loop {
            let received = match &mut this.reading {
                Reading::Over => return Poll::Ready(None),
                Reading::Recovering(recovery) => match ready!(recovery.as_mut().poll(cx)) {
                    Ok(()) => {
                        this.reading = Reading::Messages;
                        continue;
                    }
                    Err(status) => Err(status),
                },
                Reading::Waiting(message) => {
                    let received = ready!(message.as_mut().poll(cx));
                    this.reading = Reading::Messages;
                    received
                }
                Reading::Messages => match &this.stream {
                    Messages::Channel(stream) => {
                        match ready!(stream.0.poll_receive(cx, Some(&mut this.run))) {
                            Ok(received) => received,
                            Err(failed) => {
                                let call = stream.0.clone();
                                let recovery = async move { call.recover(failed).await };
                                this.reading = Reading::Recovering(Box::pin(recovery));
                                continue;
                            }
                        }
                    }
                    Messages::Wrapped(stream) => {
                        let stream = stream.clone();
                        let message = async move { stream.recv().await };
                        this.reading = Reading::Waiting(Box::pin(message));
                        continue;
                    }
                },
            };
            return Poll::Ready(match received {
                Ok(Some(message)) => Some(this.vtable.decode(&message)),
                Ok(None) => {
                    this.reading = Reading::Over;
                    None
                }
                Err(status) => {
                    this.reading = Reading::Over;
                    Some(Err(status))
                }
            });
        }
    }
}

/// A call that sends a stream of requests while its responses are received; made by
/// [`Streaming::exchange`].
///
/// It does both when it is polled, and nothing otherwise. It is a [`Stream`]: of responses, then at
/// most one error, then nothing. A request that cannot be sent, as it is over its limit, ends the
/// call with that error. Dropping it cancels the call, unless the server has ended that.
#[must_use = "nothing is sent or received unless it is polled"]
pub struct Exchange<'a, Req, Resp> {
    sending: Sending<'a>,
    receiver: Receiver<Req, Resp>,
}

/// How far the requests of an [`Exchange`] have come.
enum Sending<'a> {
    UnderWay(BoxFuture<'a, Result<(), Status>>),
    Done,
    /// Either the call is over, which the receiving half tells, or a request cannot be sent.
    Failed(Status),
}

impl<Req, Resp> Exchange<'_, Req, Resp> {
    /// The one response, with what the server sent around it.
    pub(super) async fn into_response(mut self, message: Resp) -> Result<Response<Resp>, Status> {
        let metadata = self.receiver.header().await?;
        let Self { receiver, .. } = self;
        let (trailers, peer) = (receiver.trailer().unwrap_or_default(), receiver.peer());
        let security = receiver.security_level().unwrap_or(SecurityLevel::None);
        Ok(Response::received(message, metadata, trailers, peer, security))
    }

    /// As [`Receiver::recv`], while the requests are sent. Cancel-safe.
    pub async fn recv(&mut self) -> Result<Option<Resp>, Status> {
        match poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await {
            Some(response) => response.map(Some),
            // The end stays what it was.
            None => self.receiver.recv().await,
        }
    }

    /// As [`Receiver::trailer`].
    pub fn trailer(&self) -> Option<Metadata> {
        self.receiver.trailer()
    }

    /// As [`Receiver::peer`].
    pub fn peer(&self) -> Option<Address> {
        self.receiver.peer()
    }

    /// As [`Sender::cancel`].
    pub fn cancel(&self) {
        self.receiver.cancel();
    }
}

impl<Req, Resp> Stream for Exchange<'_, Req, Resp> {
    type Item = Result<Resp, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { sending, receiver } = self.get_mut();
        if let Sending::UnderWay(work) = sending
            && let Poll::Ready(sent) = work.as_mut().poll(cx)
        {
            *sending = sent.map_or_else(Sending::Failed, |()| Sending::Done);
        }
        let received = Pin::new(&mut *receiver).poll_next(cx);
        // Of a call that is over all is here: there is nothing to wait for.
        if received.is_pending()
            && let Sending::Failed(status) = sending
        {
            let status = status.clone();
            receiver.cancel();
            receiver.reading = Reading::Over;
            return Poll::Ready(Some(Err(status)));
        }
        received
    }
}

impl<Req, Resp> fmt::Debug for Exchange<'_, Req, Resp> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("peer", &self.peer()).finish_non_exhaustive()
    }
}

impl<Req, Resp> Stream for Streaming<Req, Resp> {
    type Item = Result<Resp, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.get_mut().receiver).poll_next(cx)
    }
}

impl<Req, Resp> fmt::Debug for Streaming<Req, Resp> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streaming").field("peer", &self.peer()).finish_non_exhaustive()
    }
}
