//! One stream: a sending half that is used by reference, and a receiving half.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::mem;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream};
use http::HeaderMap;
use http::header::{self, HeaderValue};

use super::super::error::{NotGrpc, StreamError};
use super::super::message::{Deframer, FramingError, Message, Received, Run};
use super::super::response::{self, Headers, Trailers};
use super::connection::{Answers, Entry, Reset, Shared, Table, check_len};
use super::fault;
use super::times::Times;
use super::unread::{Reader, Taken};

/// An open stream. Its halves may be taken apart.
#[derive(Debug)]
pub(crate) struct Stream {
    /// Sends, and keeps the stream open.
    pub(crate) handle: StreamHandle,
    /// Receives.
    pub(crate) recv: RecvHalf,
}

impl Stream {
    pub(super) fn new(
        shared: Arc<Shared>,
        key: usize,
        id: u32,
        response: ResponseFuture,
        answers: Answers,
    ) -> Self {
        let place = Place { shared, key, id };
        Self {
            handle: StreamHandle { place: place.clone() },
            recv: RecvHalf {
                place,
                answers,
                state: State::Head(response),
                headers: None,
                deframer: Deframer::default(),
                hints: None,
                gathered: VecDeque::new(),
                unreleased: 0,
                taken: Taken::default(),
            },
        }
    }
}

/// Where a stream is to be found.
#[derive(Clone)]
struct Place {
    shared: Arc<Shared>,
    key: usize,
    id: u32,
}

impl Place {
    /// Why this side ended the stream, if it did.
    fn ended_here(&self) -> Option<StreamError> {
        let mut table = self.shared.table();
        table.stream(self.key, self.id)?.ended.clone()
    }

    /// Says what has been read, so that it is no longer counted as unread.
    fn tell_taken(&self, taken: &mut Taken) {
        self.shared.watch.unread.read(self.id, taken);
    }
}

/// The sending half of a stream. Dropping it ends the stream: one whose response has not been read
/// to its end is reset with CANCEL.
///
/// An error here says only that nothing can be sent any more. How the stream ended is what the
/// receiving half tells; a server may well answer before it has read everything.
pub(crate) struct StreamHandle {
    place: Place,
}

impl StreamHandle {
    /// Its number on the connection.
    #[cfg(test)]
    pub(crate) fn id(&self) -> u32 {
        self.place.id
    }

    /// Whether messages can be sent on it yet.
    pub(crate) fn is_open(&self) -> bool {
        let mut table = self.place.shared.table();
        self.open_entry(&mut table).is_ok()
    }

    /// Ready when flow control lets something be sent, or nothing can be sent any more: also once
    /// the whole response is here, whether anybody reads it or not.
    ///
    /// Waiting for it before each message bounds what piles up here to one message more than the
    /// peer has room for. Wakes the last task that polled it.
    pub(crate) fn poll_send_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        let mut table = self.place.shared.table();
        let entry = self.open_entry(&mut table)?;
        while !has_room(entry) {
            match entry.send.poll_capacity(cx) {
                // More than before, which may not be enough.
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Err(StreamError::Ended)),
                Poll::Pending => {
                    entry.sender = Some(cx.waker().clone());
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// As [`StreamHandle::poll_send_ready`]. Cancel-safe.
    pub(crate) async fn send_ready(&self) -> Result<(), StreamError> {
        poll_fn(|cx| self.poll_send_ready(cx)).await
    }

    /// Sends `message`, the last one if `is_last`. Does not wait: see
    /// [`StreamHandle::poll_send_ready`].
    pub(crate) fn send(&self, message: Message, is_last: bool) -> Result<(), StreamError> {
        check_len(&message)?;
        let mut table = self.place.shared.table();
        self.open_entry(&mut table)?;
        self.send_frame(&mut table, message.into_frame(), is_last)
    }

    /// As [`StreamHandle::send`], if there is room for something; says whether there was.
    pub(crate) fn send_if_room(
        &self,
        message: &Message,
        is_last: bool,
    ) -> Result<bool, StreamError> {
        check_len(message)?;
        let mut table = self.place.shared.table();
        let entry = self.open_entry(&mut table)?;
        if !has_room(entry) {
            return Ok(false);
        }
        self.send_frame(&mut table, message.clone().into_frame(), is_last)?;
        Ok(true)
    }

    /// Says that no further message follows. Does not wait for flow control. Idempotent.
    pub(crate) fn finish(&self) -> Result<(), StreamError> {
        let mut table = self.place.shared.table();
        let Some(entry) = table.stream(self.place.key, self.place.id) else {
            return Err(StreamError::Ended);
        };
        match &entry.ended {
            Some(ended) => Err(ended.clone()),
            None if entry.is_send_closed => Ok(()),
            None => self.send_frame(&mut table, Bytes::new(), true),
        }
    }

    /// Has `reader` give up what the stream has received, should it be ended for what nobody reads.
    pub(crate) fn read_by(&self, reader: Weak<dyn Reader>) {
        let mut table = self.place.shared.table();
        if let Some(entry) = table.stream(self.place.key, self.place.id) {
            entry.reader = Some(reader);
        }
    }

    /// Ends the stream at once with CANCEL, whatever it is doing.
    pub(crate) fn reset(&self) {
        let Place { shared, key, id } = &self.place;
        shared.table().end(&shared.watch, *key, *id, StreamError::Ended);
        shared.wake_if_stopped();
    }

    fn send_frame(
        &self,
        table: &mut Table,
        frame: Bytes,
        is_last: bool,
    ) -> Result<(), StreamError> {
        let Place { shared, key, id } = &self.place;
        let is_message = !frame.is_empty();
        if table.put(*key, *id, frame, is_last)? {
            shared.driver.wake();
        }
        if is_last {
            shared.send_closed(table, *id);
        }
        if is_message {
            table.messages_sent += 1;
            shared.note(Times::sent);
        }
        Ok(())
    }

    /// The stream, if messages can be sent on it yet.
    fn open_entry<'t>(&self, table: &'t mut Table) -> Result<&'t mut Entry, StreamError> {
        let entry = table.stream(self.place.key, self.place.id).ok_or(StreamError::Ended)?;
        match &entry.ended {
            Some(ended) => Err(ended.clone()),
            None if entry.is_send_closed || entry.is_answered => Err(StreamError::Ended),
            None => Ok(entry),
        }
    }
}

impl Drop for StreamHandle {
    fn drop(&mut self) {
        let Place { shared, key, id } = &self.place;
        shared.remove(*key, *id, Reset::Whole(Reason::CANCEL));
    }
}

impl fmt::Debug for StreamHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamHandle({})", self.place.id)
    }
}

/// The receiving half of a stream: headers, messages, trailers.
///
/// The polls must come from one task at a time. An error is given once by the poll that meets it,
/// and by [`RecvHalf::poll_trailers`] from then on. Dropping this half reads nothing more, and
/// leaves the stream to its handle. The end of the response, or an error, ends the
/// stream and gives up its place on the connection.
pub(crate) struct RecvHalf {
    place: Place,
    answers: Answers,
    state: State,
    /// Headers that were read on the way to a message and that nobody has taken yet.
    headers: Option<Headers>,
    deframer: Deframer,
    /// What the head says of the end, where it is not that of a usual response.
    hints: Option<Box<Hints>>,
    /// What was taken over from the engine before anybody read it.
    gathered: VecDeque<Bytes>,
    /// Bytes that were read and whose room has not been given back to the peer.
    unreleased: usize,
    /// What was read and is still counted as unread.
    taken: Taken,
}

enum State {
    /// The headers are yet to come.
    Head(ResponseFuture),
    /// Messages are coming.
    Body(RecvStream),
    /// What comes is not messages; it becomes part of the error, unless the trailers say better.
    Foreign(RecvStream),
    /// It is over, and nobody has been told yet.
    Ending(Result<Trailers, StreamError>),
    /// It is over.
    Ended(Result<Trailers, StreamError>),
}

/// What is known of the end of a response before that has come, for where it does not say better.
struct Hints {
    /// The response, which is what answered where nobody says how the call ended.
    what: NotGrpc,
    /// The failure that the head already speaks of, before the end.
    said: Option<Trailers>,
    /// The beginning of the body.
    excerpt: BytesMut,
}

impl Hints {
    fn keep(&mut self, chunk: &Bytes) {
        let kept = chunk.len().min(EXCERPT_BYTES - self.excerpt.len());
        self.excerpt.extend_from_slice(&chunk[..kept]);
    }

    fn is_full(&self) -> bool {
        self.excerpt.len() == EXCERPT_BYTES
    }

    /// How the call ended, as far as can be told.
    fn outcome(self) -> Result<Trailers, StreamError> {
        let Self { what, said, excerpt } = self;
        said.ok_or_else(|| {
            StreamError::NotGrpc(Box::new(NotGrpc { body: text_of(&excerpt), ..what }))
        })
    }
}

/// `excerpt`, if it is a text for people.
fn text_of(excerpt: &[u8]) -> String {
    let text = String::from_utf8_lossy(excerpt);
    let is_text = |c: char| !c.is_control() || c.is_ascii_whitespace();
    if text.chars().all(is_text) { text.into_owned() } else { String::new() }
}

impl RecvHalf {
    /// The headers of the response. Once; later calls give empty ones.
    pub(crate) fn poll_headers(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Headers, StreamError>> {
        ready!(self.poll_head(cx))?;
        Poll::Ready(Ok(self.headers.take().unwrap_or_default()))
    }

    /// As [`RecvHalf::poll_headers`]. Cancel-safe.
    #[cfg(test)]
    pub(crate) async fn headers(&mut self) -> Result<Headers, StreamError> {
        poll_fn(|cx| self.poll_headers(cx)).await
    }

    /// The next message, of `limit` bytes at most, or `None` at the end: the trailers are there
    /// then. Headers that nobody has polled for stay to be had.
    pub(crate) fn poll_message(
        &mut self,
        cx: &mut Context<'_>,
        limit: usize,
    ) -> Poll<Option<Result<Received, StreamError>>> {
        if let Err(error) = ready!(self.poll_head(cx)) {
            return Poll::Ready(Some(Err(error)));
        }
        loop {
            let State::Body(body) = &mut self.state else {
                return Poll::Ready(self.tell_end().err().map(Err));
            };
            match self.deframer.next(limit) {
                Ok(Some(received)) => {
                    let count = &self.place.shared.messages_received;
                    count.fetch_add(1, Ordering::Relaxed);
                    self.place.shared.note(Times::received);
                    return Poll::Ready(Some(Ok(received)));
                }
                Ok(None) => {}
                Err(error) => {
                    if self.turn_foreign() {
                        return self.poll_message(cx, limit);
                    }
                    self.end(Err(error.into()), Reset::Whole(Reason::CANCEL));
                    continue;
                }
            }
            if let Some(block) = self.gathered.pop_front() {
                self.taken.block(block.len());
                self.answers.count();
                release(body, &mut self.unreleased);
                self.unreleased = block.len();
                if let Some(hints) = &mut self.hints {
                    hints.keep(&block);
                }
                self.deframer.feed(block);
                continue;
            }
            match body.poll_data(cx) {
                Poll::Ready(Some(Ok(chunk))) => {
                    self.taken.frame(chunk.len());
                    if self.taken.is_much() {
                        self.place.tell_taken(&mut self.taken);
                    }
                    self.answers.count();
                    release(body, &mut self.unreleased);
                    self.unreleased = chunk.len();
                    if let Some(hints) = &mut self.hints {
                        hints.keep(&chunk);
                    }
                    self.deframer.feed(chunk);
                }
                Poll::Ready(Some(Err(error))) => self.fail(&error),
                Poll::Ready(None) => ready!(self.poll_end(cx)),
                Poll::Pending => {
                    // Not before: with the end of a response comes all of its room.
                    release(body, &mut self.unreleased);
                    self.place.tell_taken(&mut self.taken);
                    return Poll::Pending;
                }
            }
        }
    }

    /// The messages that are here as a whole, and those after them are to be polled for.
    pub(crate) fn run(&mut self, limit: usize) -> Run {
        let State::Body(_) = &self.state else { return Run::default() };
        let run = self.deframer.run(limit);
        if run.len() > 0 {
            let shared = &self.place.shared;
            shared.messages_received.fetch_add(run.len(), Ordering::Relaxed);
            shared.note(Times::received);
        }
        run
    }

    /// Bytes that have been read of a message that is not here as a whole.
    pub(crate) fn begun_bytes(&self) -> usize {
        self.deframer.held_bytes()
    }

    /// As [`RecvHalf::poll_message`]. Cancel-safe.
    #[cfg(test)]
    pub(crate) async fn message(&mut self, limit: usize) -> Option<Result<Received, StreamError>> {
        poll_fn(|cx| self.poll_message(cx, limit)).await
    }

    /// The trailers, or why there are none. Messages that have not been read are dropped unseen.
    /// Trailers are given once; later calls give [`StreamError::Ended`].
    pub(crate) fn poll_trailers(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Trailers, StreamError>> {
        loop {
            // An error of the headers is told by the state, too.
            let _ = ready!(self.poll_head(cx));
            let State::Body(body) = &mut self.state else {
                break;
            };
            release(body, &mut self.unreleased);
            // Without its beginning, what follows of a message cannot be told apart.
            self.deframer = Deframer::default();
            while let Some(block) = self.gathered.pop_front() {
                self.taken.block(block.len());
                self.unreleased += block.len();
            }
            release(body, &mut self.unreleased);
            let polled = body.poll_data(cx);
            if polled.is_pending() || self.taken.is_much() {
                self.place.tell_taken(&mut self.taken);
            }
            match ready!(polled) {
                Some(Ok(chunk)) => {
                    self.taken.frame(chunk.len());
                    self.unreleased = chunk.len();
                }
                Some(Err(error)) => self.fail(&error),
                None => ready!(self.poll_end(cx)),
            }
        }
        let later = State::Ended(Err(StreamError::Ended));
        match mem::replace(&mut self.state, later) {
            State::Ending(Ok(trailers)) | State::Ended(Ok(trailers)) => Poll::Ready(Ok(trailers)),
            State::Ending(Err(error)) | State::Ended(Err(error)) => {
                self.state = State::Ended(Err(error.clone()));
                Poll::Ready(Err(error))
            }
            // The loop ends in no other state.
            State::Head(_) | State::Body(_) | State::Foreign(_) => {
                Poll::Ready(Err(StreamError::Ended))
            }
        }
    }

    /// As [`RecvHalf::poll_trailers`]. Cancel-safe.
    #[cfg(test)]
    pub(crate) async fn trailers(&mut self) -> Result<Trailers, StreamError> {
        poll_fn(|cx| self.poll_trailers(cx)).await
    }

    /// Reads the headers, if that is not done.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        ready!(self.read_head(cx));
        Poll::Ready(self.tell_end())
    }

    /// Reads the headers and, where they are not of gRPC, the response to its end.
    fn read_head(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match &mut self.state {
                State::Head(response) => match ready!(Pin::new(response).poll(cx)) {
                    Ok(response) => self.take_head(response, cx),
                    Err(error) => self.fail(&error),
                },
                State::Foreign(body) => match ready!(body.poll_data(cx)) {
                    Some(Ok(chunk)) => {
                        self.taken.frame(chunk.len());
                        self.place.tell_taken(&mut self.taken);
                        release(body, &mut self.unreleased);
                        self.unreleased = chunk.len();
                        let is_full = self.hints.as_mut().is_none_or(|hints| {
                            hints.keep(&chunk);
                            hints.is_full()
                        });
                        if is_full {
                            self.end_foreign(Reset::Whole(Reason::PROTOCOL_ERROR));
                        }
                    }
                    // Whatever ended the body, what it is matters more.
                    Some(Err(_)) => self.end_foreign(Reset::Nothing),
                    None => ready!(self.poll_foreign_end(cx)),
                },
                State::Body(_) | State::Ending(_) | State::Ended(_) => return Poll::Ready(()),
            }
        }
    }

    fn take_head(&mut self, response: http::Response<RecvStream>, cx: &mut Context<'_>) {
        let (head, mut body) = response.into_parts();
        let has_status = response::has_status(&head.headers);
        let is_whole = body.is_end_stream() || (has_status && self.is_cut(&mut body, cx));
        let is_grpc = response::is_grpc(&head.headers);
        // A status that is there counts, whatever the rest of the response looks like.
        if is_whole && (has_status || is_grpc) {
            self.headers = Some(Headers { trailers_only: true, ..Headers::default() });
            let what = (!has_status).then(|| what_answered(&head, is_grpc));
            let trailers = Trailers::parse(head.headers, None, || what.unwrap_or_else(usual));
            self.end(Ok(trailers), Reset::SendHalf);
            return;
        }
        if has_status || !is_grpc || head.status != http::StatusCode::OK {
            let what = what_answered(&head, is_grpc);
            let said = has_status.then(|| Trailers::parse(head.headers.clone(), None, usual));
            // That a call has succeeded shows only at its end.
            let said = said.filter(|said| !said.is_ok());
            self.hints = Some(Box::new(Hints { what, said, excerpt: BytesMut::new() }));
        }
        if is_grpc {
            self.headers = Some(Headers::parse(head.headers));
            self.state = State::Body(body);
        } else {
            self.state = State::Foreign(body);
            if is_whole {
                self.end_foreign(Reset::SendHalf);
            }
        }
    }

    /// Reads on as what is not messages, where the HTTP status says that there are none. Says
    /// whether it does.
    fn turn_foreign(&mut self) -> bool {
        if self.hints.as_ref().is_none_or(|hints| hints.what.http_status == 200) {
            return false;
        }
        let over = State::Ended(Err(StreamError::Ended));
        match mem::replace(&mut self.state, over) {
            State::Body(body) => {
                self.deframer = Deframer::default();
                for block in mem::take(&mut self.gathered) {
                    self.taken.block(block.len());
                    self.unreleased += block.len();
                    if let Some(hints) = &mut self.hints {
                        hints.keep(&block);
                    }
                }
                self.state = State::Foreign(body);
                true
            }
            state => {
                self.state = state;
                false
            }
        }
    }

    /// Whether the server has reset the stream with `NO_ERROR` right after its headers. A server
    /// that answers before it has read the request does so, and the engine then no longer tells
    /// that the headers were the end.
    fn is_cut(&mut self, body: &mut RecvStream, cx: &mut Context<'_>) -> bool {
        match body.poll_data(cx) {
            Poll::Ready(Some(Err(error))) => error.reason() == Some(Reason::NO_ERROR),
            Poll::Ready(Some(Ok(chunk))) => {
                self.taken.frame(chunk.len());
                self.unreleased = chunk.len();
                self.deframer.feed(chunk);
                false
            }
            Poll::Ready(None) | Poll::Pending => false,
        }
    }

    /// Ends what is not messages, and says what it was.
    fn end_foreign(&mut self, reset: Reset) {
        let outcome = self.hint().unwrap_or(Err(StreamError::NoTrailers));
        self.end(outcome, reset);
    }

    /// How the call ended, as far as the head tells, if that tells anything.
    fn hint(&mut self) -> Option<Result<Trailers, StreamError>> {
        self.hints.take().map(|hints| hints.outcome())
    }

    /// Reads the trailers of what is not messages. A failure that the server names there counts;
    /// that the call has succeeded cannot be, as it has no messages.
    fn poll_foreign_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let State::Foreign(body) = &mut self.state else { return Poll::Ready(()) };
        let fields = match ready!(body.poll_trailers(cx)) {
            Ok(fields) => fields.filter(response::has_status),
            Err(_) => None,
        };
        let trailers = fields.map(|fields| self.read_trailers(fields));
        match trailers.filter(|trailers| !trailers.is_ok()) {
            Some(trailers) => {
                if self.headers.is_none() {
                    self.headers = Some(Headers { trailers_only: true, ..Headers::default() });
                }
                self.end(Ok(trailers), Reset::SendHalf);
            }
            None => self.end_foreign(Reset::SendHalf),
        }
        Poll::Ready(())
    }

    /// Reads the trailers behind a body. Where they have no status, the head may.
    fn read_trailers(&mut self, fields: HeaderMap) -> Trailers {
        let Place { shared, id, .. } = &self.place;
        let cut = shared.watch.blocks.are_cut(*id, &fields);
        let hints = self.hints.take_if(|_| !response::has_status(&fields));
        match hints.map(|hints| *hints) {
            Some(Hints { said: Some(said), .. }) => said,
            Some(Hints { what, excerpt, .. }) => {
                Trailers::parse(fields, cut, || NotGrpc { body: text_of(&excerpt), ..what })
            }
            None => Trailers::parse(fields, cut, usual),
        }
    }

    /// Reads the trailers, all DATA being read.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let State::Body(body) = &mut self.state else {
            return Poll::Ready(());
        };
        match ready!(body.poll_trailers(cx)) {
            Ok(Some(fields)) => {
                let trailers = self.read_trailers(fields);
                // The server's own word on a failure says more than the cut message.
                let is_cut = trailers.is_ok() && self.deframer.is_in_message();
                let outcome = if is_cut { Err(StreamError::Truncated) } else { Ok(trailers) };
                self.end(outcome, Reset::SendHalf);
            }
            Ok(None) => {
                let error = if self.deframer.is_in_message() {
                    StreamError::Truncated
                } else {
                    StreamError::NoTrailers
                };
                let outcome = self.hint().unwrap_or(Err(error));
                self.end(outcome, Reset::SendHalf);
            }
            Err(error) => self.fail(&error),
        }
        Poll::Ready(())
    }

    /// Takes what has arrived over from the engine, which keeps each frame by itself. Nothing else
    /// changes: whoever reads finds all of it, and then whatever comes next. `cx` is that of the
    /// task which last polled this half.
    pub(crate) fn gather(&mut self, cx: &mut Context<'_>) {
        // What is not messages is read to its end, and kept by nobody.
        let _ = self.read_head(cx);
        let State::Body(body) = &mut self.state else { return };
        let (mut frames, mut taken) = (Vec::new(), Taken::default());
        // An error, or the end, stays to be polled for.
        while let Poll::Ready(Some(Ok(chunk))) = body.poll_data(cx) {
            taken.frame(chunk.len());
            frames.push(chunk);
        }
        if !frames.is_empty() {
            let block: Vec<u8> = frames.concat();
            self.gathered.push_back(block.into());
            self.place.shared.watch.unread.gathered(self.place.id, &mut taken);
        }
    }

    /// Gives up what has arrived of a stream that was [ended here](StreamError::ReceiveBufferFull),
    /// and tells the next reader so.
    pub(crate) fn discard(&mut self) {
        let ended_here = self.place.ended_here();
        let has_unread = matches!(self.state, State::Head(_) | State::Body(_) | State::Foreign(_));
        if let Some(error) = ended_here.filter(|_| has_unread) {
            self.end(Err(error), Reset::Nothing);
        }
    }

    /// Ends it with what the engine complains of.
    fn fail(&mut self, error: &h2::Error) {
        let ended_here = self.place.ended_here();
        let Place { shared, id, .. } = &self.place;
        let error = fault::of_stream(shared, *id, ended_here.as_ref(), error);
        let outcome = match error {
            // Whatever ended it, what it is matters more.
            StreamError::Reset(_) | StreamError::Malformed(_) => self.hint().unwrap_or(Err(error)),
            error => Err(error),
        };
        self.end(outcome, Reset::Nothing);
    }

    /// Ends it, and gives its place on the connection back. `reset` tells a server that still
    /// reads or writes to stop.
    fn end(&mut self, outcome: Result<Trailers, StreamError>, reset: Reset) {
        let Place { shared, key, id } = &self.place;
        let over = mem::replace(&mut self.state, State::Ending(outcome));
        if !self.gathered.is_empty() {
            self.gathered = VecDeque::new();
        }
        shared.remove(*key, *id, reset);
        // Only now is nothing of the engine's stream left, which a connection that is to close may
        // be waiting for.
        drop(over);
        shared.wake_if_stopped();
    }

    /// Gives the error that ended it, the first time.
    fn tell_end(&mut self) -> Result<(), StreamError> {
        let State::Ending(Err(error)) = &self.state else {
            return Ok(());
        };
        let error = error.clone();
        self.state = State::Ended(Err(error.clone()));
        Err(error)
    }
}

impl Drop for RecvHalf {
    fn drop(&mut self) {
        self.state = State::Ended(Err(StreamError::Ended));
        self.place.shared.wake_if_stopped();
    }
}

impl fmt::Debug for RecvHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecvHalf({})", self.place.id)
    }
}

impl From<FramingError> for StreamError {
    fn from(error: FramingError) -> Self {
        match error {
            FramingError::BadFlag(flag) => Self::BadFlag(flag),
            FramingError::TooLarge { len, limit } => Self::TooLarge { len, limit },
        }
    }
}

/// What answered, by the head of its response.
fn what_answered(head: &http::response::Parts, is_grpc: bool) -> NotGrpc {
    let content_type = head.headers.get(header::CONTENT_TYPE);
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    NotGrpc {
        http_status: head.status.as_u16(),
        content_type: content_type.map(text),
        is_grpc,
        body: String::new(),
    }
}

/// The head of a usual response, of which nothing is kept.
fn usual() -> NotGrpc {
    NotGrpc {
        http_status: 200,
        content_type: Some("application/grpc".to_owned()),
        is_grpc: true,
        body: String::new(),
    }
}

/// Whether flow control lets more be sent than what is gathered already.
///
/// One byte more is asked for, which is mostly there at once: a stream that is not sending must not
/// hold window that others need. Handing a message over asks for what it takes.
fn has_room(entry: &mut Entry) -> bool {
    let gathered = entry.gather.len();
    entry.send.reserve_capacity(gathered + 1);
    entry.send.capacity() > gathered
}

fn release(body: &mut RecvStream, unreleased: &mut usize) {
    let len = mem::take(unreleased);
    if len > 0 {
        // Fails only on a stream that is gone, whose room the engine gives back itself.
        let _ = body.flow_control().release_capacity(len);
    }
}

/// How much of a body that is not gRPC goes into the error.
const EXCERPT_BYTES: usize = 1024;
