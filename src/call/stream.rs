//! A streaming call: messages both ways, over one attempt or, as long as nothing is committed,
//! another.
//!
//! Both halves of a split stream share the [`StreamCall`]. The attempt in it is replaced by
//! whichever half meets its failure first; the other waits for that and goes on with the new one.
//! What was sent is kept for that in the [`Replay`], until the server has answered.

use std::future::poll_fn;
use std::ops::{Deref, DerefMut};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::sync::Notify;

use super::attempt::{Arrived, Attempt, Begun, Peer, Second, begin};
use super::compression::{compressed, decompressed};
use super::replay::Replay;
use super::retry::{AttemptError, Attempts, FailedAttempt, Next};
use super::{CallHead, Events, Shared, Terms, status};
use crate::observe::{AttemptKind, CallEvent};
use crate::transport::{Encoding, Headers, Message, Received, Run, StreamError, Trailers};
use crate::types::{Address, Metadata, SecurityLevel, Status};

/// How many messages go each way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cardinality {
    /// One request, one response.
    Unary,
    /// Many requests, one response.
    ClientStreaming,
    /// One request, many responses.
    ServerStreaming,
    /// Many requests, many responses.
    BidiStreaming,
}

impl Cardinality {
    fn has_many_requests(self) -> bool {
        matches!(self, Self::ClientStreaming | Self::BidiStreaming)
    }

    pub(crate) fn has_many_responses(self) -> bool {
        matches!(self, Self::ServerStreaming | Self::BidiStreaming)
    }
}

/// One streaming call.
pub(crate) struct StreamCall {
    shared: Arc<Shared>,
    head: CallHead,
    terms: Terms,
    cardinality: Cardinality,
    state: Mutex<State>,
    /// Whether this side has ended the call: what was received ahead is void then.
    is_aborted: AtomicBool,
    /// Held by the half that replaces the attempt.
    restarting: tokio::sync::Mutex<()>,
    /// Told when the call is over.
    over: Notify,
}

struct State {
    phase: Phase,
    replay: Replay,
    /// How many messages have been sent.
    sent: u64,
    attempts: Attempts,
    /// What follows the live attempt, which has failed. Kept so that whoever gives up waiting for
    /// that can come back to it.
    next: Option<Next>,
    /// What the server sent before its messages, once it has.
    headers: Option<Metadata>,
    /// How those are compressed that are.
    encoding: Encoding,
}

/// A call whose first attempt has a stream.
struct First {
    attempt: Arc<Attempt>,
    attempts: Attempts,
    terms: Terms,
}

enum Phase {
    Live(Arc<Attempt>),
    Ended(Outcome),
}

/// How the call ended.
#[derive(Clone)]
struct Outcome {
    result: Result<(), Status>,
    trailers: Metadata,
    peer: Option<Peer>,
}

/// An attempt that failed, and how.
pub(crate) struct Failed {
    attempt: Arc<Attempt>,
    failure: Failure,
}

/// How an attempt failed.
enum Failure {
    /// Its stream did.
    Stream(StreamError),
    /// The server has answered with no more than this.
    Answered(Status),
}

impl From<StreamError> for Failure {
    fn from(error: StreamError) -> Self {
        Self::Stream(error)
    }
}

enum Sent {
    Done,
    /// The server takes no more on this attempt for now.
    NoRoom(Arc<Attempt>),
    Failed(Arc<Attempt>, StreamError),
}

impl StreamCall {
    /// Picks a connection and opens the stream. Cancel-safe.
    pub(crate) async fn open(
        shared: Arc<Shared>,
        head: CallHead,
        cardinality: Cardinality,
    ) -> Result<Arc<Self>, Status> {
        let opened = Self::first(&shared, &head).await;
        let First { attempt, attempts, terms } =
            opened.inspect_err(|status| head.events.ended(Err(status)))?;
        let state = State {
            phase: Phase::Live(attempt),
            replay: Replay::new(shared.retrying.clone(), shared.retrying.buffer_max(&head)),
            sent: 0,
            attempts,
            next: None,
            headers: None,
            encoding: Encoding::Identity,
        };
        Ok(Arc::new(Self {
            shared,
            head,
            terms,
            cardinality,
            state: Mutex::new(state),
            is_aborted: AtomicBool::new(false),
            restarting: tokio::sync::Mutex::new(()),
            over: Notify::new(),
        }))
    }

    /// The first attempt that gets a stream.
    async fn first(shared: &Shared, head: &CallHead) -> Result<First, Status> {
        let (mut attempts, mut settled) = (Attempts::default(), None);
        let mut kind = AttemptKind::First;
        loop {
            let number = head.events.attempt_began(kind);
            let begun = begin(shared, head, &mut settled, attempts.failed(), 0, number).await;
            let terms = settled.take().unwrap_or_else(|| Terms::of_ended(head));
            let error = match begun {
                Begun::Attempt(attempt) => return Ok(First { attempt, attempts, terms }),
                Begun::Ended(status) => return Err(attempts.end(status, head)),
                Begun::Failed(error) => error,
            };
            let failed = FailedAttempt { number, error, committed: false };
            let next = attempts.judge(failed, shared, head, &terms, true);
            kind = next.kind();
            next.wait(shared, &terms).await.map_err(|status| attempts.end(status, head))?;
            settled = Some(terms);
        }
    }

    /// Sends a message, waiting while the server takes no more. Cancel-safe: a message is either
    /// on its way as a whole or not at all.
    ///
    /// Fails with the status of the call where that is over.
    pub(crate) async fn send(&self, plain: Message, may_compress: bool) -> Result<(), Status> {
        let compressed = if may_compress { compressed(&plain, &self.head)? } else { None };
        let message = compressed.as_ref().unwrap_or(&plain);
        let length = message.payload_len();
        if length > self.terms.send_bytes_max {
            return Err(status::too_large_to_send(length, self.terms.send_bytes_max));
        }
        loop {
            let (failure, attempt) = match self.send_now(&plain, message)? {
                Sent::Done => return Ok(()),
                Sent::NoRoom(attempt) => match attempt.sending.send_ready().await {
                    Ok(()) => continue,
                    Err(failure) => (self.while_sending(&attempt, failure), attempt),
                },
                Sent::Failed(attempt, failure) => (failure.into(), attempt),
            };
            self.after(&attempt, failure).await?;
        }
    }

    /// Says that no further message follows. Idempotent.
    pub(crate) fn close_send(&self) {
        let mut state = self.lock();
        if state.replay.is_half_closed() {
            return;
        }
        if state.sent == 0 && !self.cardinality.has_many_requests() {
            self.abort(&mut state, status::request_cardinality(&self.head.path, "none"));
        }
        state.replay.half_close();
        if let Phase::Live(attempt) = &state.phase {
            // Where the stream has failed, receiving says so.
            let _ = attempt.sending.finish();
            state.say(|| Word::RequestsEnded);
        }
    }

    /// What the server sent before its messages. Cancel-safe.
    pub(crate) async fn headers(&self) -> Result<Metadata, Status> {
        loop {
            let (attempt, has_failed) = {
                let state = self.lock();
                if let Some(headers) = &state.headers {
                    return Ok(headers.clone());
                }
                match &state.phase {
                    Phase::Live(attempt) => (attempt.clone(), state.next.is_some()),
                    Phase::Ended(outcome) => {
                        outcome.result.clone()?;
                        return Ok(Metadata::new());
                    }
                }
            };
            let read = if has_failed {
                Err(StreamError::Ended.into())
            } else {
                poll_fn(|cx| self.poll_read_headers(&attempt, cx)).await
            };
            if let Err(failure) = read {
                self.after(&attempt, failure).await?;
            }
        }
    }

    /// Receives the next message; `None` once the server has ended the call with OK. Of a method
    /// with one response the message is given only once the server has ended the call with OK: a
    /// status that follows it takes its place.
    ///
    /// Messages that are here behind it go into `run`, if there is one: whoever gives one reads it
    /// to its end before the next call, unless this side [has ended](Self::is_aborted) the call.
    /// Cancel-safe.
    pub(crate) async fn receive(&self, mut run: Option<&mut Run>) -> Result<Option<Bytes>, Status> {
        loop {
            match poll_fn(|cx| self.poll_receive(cx, run.as_deref_mut())).await {
                Ok(received) => return received,
                Err(failed) => self.recover(failed).await?,
            }
        }
    }

    /// As [`receive`](Self::receive), up to a failed attempt; after that [`recover`](Self::recover)
    /// and poll again.
    pub(crate) fn poll_receive(
        &self,
        cx: &mut Context<'_>,
        run: Option<&mut Run>,
    ) -> Poll<Result<Result<Option<Bytes>, Status>, Failed>> {
        let (attempt, has_failed) = {
            let state = self.look();
            match &state.phase {
                Phase::Live(attempt) => (attempt.clone(), state.next.is_some()),
                Phase::Ended(outcome) => {
                    return Poll::Ready(Ok(outcome.result.clone().map(|()| None)));
                }
            }
        };
        if has_failed {
            return Poll::Ready(Err(Failed { attempt, failure: StreamError::Ended.into() }));
        }
        Poll::Ready(match ready!(self.poll_receive_on(&attempt, cx, run)) {
            Ok(received) => Ok(received),
            Err(failure) => Err(Failed { attempt, failure }),
        })
    }

    /// Goes on after an attempt has failed: with another in its place, or with the status of the
    /// call. Cancel-safe.
    pub(crate) async fn recover(&self, failed: Failed) -> Result<(), Status> {
        self.after(&failed.attempt, failed.failure).await
    }

    /// Whether this side has ended the call.
    pub(crate) fn is_aborted(&self) -> bool {
        self.is_aborted.load(Ordering::Acquire)
    }

    /// The trailers, once the call has ended.
    pub(crate) fn trailers(&self) -> Option<Metadata> {
        match &self.lock().phase {
            Phase::Ended(outcome) => Some(outcome.trailers.clone()),
            Phase::Live(_) => None,
        }
    }

    /// The server that the call is with, or was with at last.
    pub(crate) fn peer(&self) -> Option<Address> {
        self.lock().peer().map(|peer| peer.address)
    }

    /// How the connection to it is protected.
    pub(crate) fn security_level(&self) -> Option<SecurityLevel> {
        self.lock().peer().map(|peer| peer.security)
    }

    /// Ends the call from this side, unless it is over.
    pub(crate) fn cancel(&self) {
        let status = Status::cancelled("the application cancelled the call");
        self.abort(&mut self.lock(), status);
    }

    /// Ends the call since nobody can send or close its requests any more, unless it is over, or its
    /// server has answered, which may not have been read yet.
    pub(crate) fn abandon_requests(&self) {
        let mut state = self.lock();
        if let Phase::Live(attempt) = &state.phase
            && attempt.sending.is_open()
        {
            let status = Status::cancelled("the sending half was dropped before `close_send`");
            self.abort(&mut state, status);
        }
    }

    fn poll_receive_on(
        &self,
        attempt: &Attempt,
        cx: &mut Context<'_>,
        run: Option<&mut Run>,
    ) -> Poll<Result<Result<Option<Bytes>, Status>, Failure>> {
        let has_many = self.cardinality.has_many_responses();
        let mut run = run.filter(|_| has_many && self.head.events.are_unseen());
        loop {
            let limit = self.terms.receive_bytes_max;
            let next = ready!(attempt.poll_next(cx, limit, run.as_deref_mut()));
            let result = match next.map_err(|failure| self.while_receiving(attempt, failure))? {
                Arrived::Headers(headers) => {
                    self.headers_arrived(attempt, headers)?;
                    continue;
                }
                Arrived::Message(message) if has_many => self
                    .read_message(attempt, message)
                    .map(Some)
                    .map_err(|fault| self.abort(&mut self.lock(), fault)),
                Arrived::Message(message) => {
                    let Err(Second) = attempt.hold(message) else { continue };
                    let status = status::cardinality(&attempt.peer.address, "more than one");
                    Err(self.abort(&mut self.lock(), status))
                }
                Arrived::Trailers(trailers) => {
                    self.ended(attempt, self.read_trailers(trailers, attempt))
                }
            };
            return Poll::Ready(Ok(result));
        }
    }

    /// Reads the headers, if nobody has.
    fn poll_read_headers(
        &self,
        attempt: &Attempt,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Failure>> {
        Poll::Ready(match ready!(attempt.poll_headers(cx))? {
            Some(headers) => self.headers_arrived(attempt, headers),
            None => Ok(()),
        })
    }

    /// Headers commit the call, as the server has answered, unless they are its end as well.
    fn headers_arrived(&self, attempt: &Attempt, headers: Headers) -> Result<(), Failure> {
        if headers.trailers_only
            && let Some(Ok(trailers)) = attempt.read_ahead(self.terms.receive_bytes_max)
            && let Err(status) = self.read_trailers(trailers, attempt)
        {
            self.head.events.trailers(attempt.number, Err(&status));
            return Err(Failure::Answered(status));
        }
        let mut state = self.lock();
        if !headers.trailers_only {
            state.replay.commit();
            state.say(|| Word::ResponseHeaders(attempt.number, headers.metadata.clone()));
        }
        state.headers = Some(headers.metadata);
        state.encoding = headers.encoding;
        Ok(())
    }

    fn read_trailers(&self, trailers: Trailers, attempt: &Attempt) -> Result<Metadata, Status> {
        let peer = &attempt.peer.address;
        status::of_trailers(trailers, self.terms.deadline, &self.head.path, peer)
    }

    /// Sends on the live attempt, if that has room.
    fn send_now(&self, plain: &Message, message: &Message) -> Result<Sent, Status> {
        let mut state = self.lock();
        let has_many = self.cardinality.has_many_requests();
        if state.sent > 0 && !has_many {
            let status = status::request_cardinality(&self.head.path, "a second");
            return Err(self.abort(&mut state, status));
        }
        if state.replay.is_half_closed() {
            let text = "a message was sent after the sending side was closed";
            return Err(self.abort(&mut state, Status::internal(text)));
        }
        let attempt = match &state.phase {
            Phase::Live(attempt) => attempt,
            Phase::Ended(outcome) => return Err(outcome.status_for_sender()),
        };
        let number = attempt.number;
        match attempt.sending.send_if_room(message, !has_many) {
            Ok(true) => {}
            Ok(false) => return Ok(Sent::NoRoom(attempt.clone())),
            Err(failure) => return Ok(Sent::Failed(attempt.clone(), failure)),
        }
        state.say(|| Word::RequestMessage(plain.clone()));
        state.say(|| Word::MessageSent(number, message.frame_len()));
        state.replay.push(message);
        if !has_many {
            state.replay.half_close();
            state.say(|| Word::RequestsEnded);
        }
        state.sent += 1;
        Ok(Sent::Done)
    }

    /// Decompresses a message, and tells observers of it.
    fn read_message(&self, attempt: &Attempt, message: Received) -> Result<Bytes, Status> {
        let (wire_bytes, events) = (message.frame_len(), &self.head.events);
        let payload = if message.compressed {
            let encoding = self.look().encoding.clone();
            let Self { head, shared, terms, .. } = self;
            let peer = &attempt.peer.address;
            decompressed(&message.payload, &encoding, head, shared, terms, peer)?
        } else {
            message.payload
        };
        let attempt = attempt.number;
        events.tell(|| CallEvent::ResponseMessage { attempt, payload: &payload, wire_bytes });
        Ok(payload)
    }

    /// The server has ended the call. Gives the message of a method with one response, if that is
    /// here and the call ended with OK.
    fn ended(
        &self,
        attempt: &Attempt,
        trailers: Result<Metadata, Status>,
    ) -> Result<Option<Bytes>, Status> {
        // The server's status comes before its message; what is told, in the order of the wire.
        let held = attempt.take_held().filter(|_| trailers.is_ok());
        let message = held.map(|message| self.read_message(attempt, message)).transpose();
        self.head.events.trailers(attempt.number, trailers.as_ref());
        let has_many = self.cardinality.has_many_responses();
        let (result, message) = match (trailers, message) {
            (Ok(_), Ok(None)) if !has_many => {
                (Err(status::cardinality(&attempt.peer.address, "none")), None)
            }
            (Ok(trailers), Ok(message)) => (Ok(trailers), message),
            (Err(status), _) | (Ok(_), Err(status)) => (Err(status), None),
        };
        let mut state = self.lock();
        // This side may have ended the call meanwhile.
        if let Phase::Ended(outcome) = &state.phase {
            return outcome.result.clone().map(|()| None);
        }
        if result.is_ok() {
            self.terms.succeeded();
        }
        let outcome = result.as_ref().map(drop).map_err(Clone::clone);
        state.say(|| Word::AttemptEnded(attempt.number, outcome));
        state.end(result).map(|()| message)
    }

    /// Goes on after `attempt` has failed: with another in its place, or with the status of the
    /// call, which the other half may end meanwhile. Cancel-safe.
    async fn after(&self, attempt: &Arc<Attempt>, failure: Failure) -> Result<(), Status> {
        let mut over = pin!(self.over.notified());
        // From here on, so that an end between the look and the wait is not missed.
        over.as_mut().enable();
        if let Phase::Ended(outcome) = &self.look().phase {
            return outcome.result.clone();
        }
        tokio::select! {
            biased;
            went_on = self.go_on(attempt, failure) => went_on,
            () = over => match &self.look().phase {
                Phase::Ended(outcome) => outcome.result.clone(),
                Phase::Live(_) => Ok(()),
            },
        }
    }

    /// As [`after`](Self::after), without an ear for the other half.
    async fn go_on(&self, attempt: &Arc<Attempt>, failure: Failure) -> Result<(), Status> {
        let _restarting = self.restarting.lock().await;
        let mut next = {
            let mut state = self.lock();
            match &state.phase {
                Phase::Live(live) if live.place == attempt.place => {}
                // The other half has been here.
                Phase::Live(_) => return Ok(()),
                Phase::Ended(outcome) => return outcome.result.clone(),
            }
            if let Some(next) = &state.next {
                // Somebody has been here, and went before it was time.
                next.clone()
            } else {
                let peer = || attempt.peer.address.clone();
                let error = match failure {
                    Failure::Stream(StreamError::Ended) => self.why_ended(attempt, &mut state)?,
                    Failure::Stream(error) => AttemptError::Stream(error, peer()),
                    Failure::Answered(status) => AttemptError::Answered(status),
                };
                state.judge(error, self, attempt.number)
            }
        };
        loop {
            let kind = next.kind();
            let waited = next.wait(&self.shared, &self.terms).await;
            let failed = match waited {
                Ok(()) => self.lock().attempts.failed(),
                Err(status) => return Err(self.end_with(status)),
            };
            let mut terms = Some(self.terms.clone());
            let Self { shared, head, .. } = self;
            let (place, number) = (attempt.place + 1, head.events.attempt_began(kind));
            let error = match begin(shared, head, &mut terms, failed, place, number).await {
                Begun::Attempt(attempt) => {
                    return self.lock().go_on_with(attempt);
                }
                Begun::Ended(status) => return Err(self.end_with(status)),
                Begun::Failed(error) => error,
            };
            next = self.lock().judge(error, self, number);
        }
    }

    fn end_with(&self, status: Status) -> Status {
        let mut state = self.lock();
        // This side may have ended the call meanwhile.
        if let Phase::Ended(outcome) = &state.phase {
            return outcome.result.clone().err().unwrap_or(status);
        }
        state.end(Err(status.clone())).err().unwrap_or(status)
    }

    /// A stream took no message because it is over; the receiving side knows why. What came before
    /// its end is put aside for whoever receives: all of it is in memory already.
    ///
    /// Gives the failure of the attempt, or fails with the status for the sender.
    fn why_ended(&self, attempt: &Attempt, state: &mut Locked<'_>) -> Result<AttemptError, Status> {
        match attempt.read_ahead(self.terms.receive_bytes_max) {
            Some(Err(failure)) => Ok(AttemptError::Stream(failure, attempt.peer.address.clone())),
            Some(Ok(trailers)) => match self.read_trailers(trailers, attempt) {
                Ok(_) => Err(no_more_wanted()),
                Err(status) if attempt.has_unread() => Err(status),
                Err(status) if state.replay.is_committed() => {
                    state.say(|| Word::Trailers(attempt.number, status.clone()));
                    Err(state.end(Err(status.clone())).err().unwrap_or(status))
                }
                Err(status) => {
                    state.say(|| Word::Trailers(attempt.number, status.clone()));
                    Ok(AttemptError::Answered(status))
                }
            },
            None => Err(no_more_wanted()),
        }
    }

    /// What became of an attempt that a message waited for. At the deadline: whether the server
    /// may have waited in turn for its own messages to be received.
    fn while_sending(&self, attempt: &Attempt, failure: StreamError) -> Failure {
        if failure == StreamError::DeadlineExceeded {
            let unread = attempt.unread_bytes(self.terms.receive_bytes_max);
            if unread > 0 {
                let peer = &attempt.peer.address;
                return Failure::Answered(status::deadline_while_unread(peer, unread));
            }
        }
        Failure::Stream(failure)
    }

    /// What became of an attempt whose next message was waited for. At the deadline: whether the
    /// server may have waited in turn for the end of the requests.
    fn while_receiving(&self, attempt: &Attempt, failure: StreamError) -> Failure {
        if failure == StreamError::DeadlineExceeded
            && self.cardinality.has_many_requests()
            && !self.look().replay.is_half_closed()
        {
            return Failure::Answered(status::deadline_while_open(&attempt.peer.address));
        }
        Failure::Stream(failure)
    }

    /// This side ends the call, unless it is over.
    fn abort(&self, state: &mut Locked<'_>, status: Status) -> Status {
        if let Phase::Live(attempt) = &state.phase {
            self.is_aborted.store(true, Ordering::Release);
            attempt.sending.reset();
            return state.end(Err(status.clone())).err().unwrap_or(status);
        }
        status
    }

    /// For a look that commits nothing, and ends nothing.
    fn look(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> Locked<'_> {
        let state = self.look();
        let hook = Hook(self.terms.are_selected().then_some(&self.terms));
        let told = Told { call: self, words: Vec::new(), is_over: false };
        Locked { state, hook, told }
    }
}

/// The state, and who is told once that is free again: the code of the application that is called
/// then (observers, hooks, wakers) may use this very call.
struct Locked<'a> {
    // Dropped in this order.
    state: MutexGuard<'a, State>,
    hook: Hook<'a>,
    told: Told<'a>,
}

/// What happened under the lock.
struct Told<'a> {
    call: &'a StreamCall,
    /// For observers, in order.
    words: Vec<Word>,
    /// Whether the call has ended, which a half may wait for.
    is_over: bool,
}

/// What observers are told; attempts by their numbers.
enum Word {
    RequestMessage(Message),
    MessageSent(u32, usize),
    RequestsEnded,
    ResponseHeaders(u32, Metadata),
    /// Trailers with a status that is not OK.
    Trailers(u32, Status),
    AttemptEnded(u32, Result<(), Status>),
    Ended(Result<(), Status>),
}

impl Word {
    fn tell(&self, events: &Events) {
        match self {
            Self::RequestMessage(message) => {
                events.tell(|| CallEvent::RequestMessage { payload: message.payload() });
            }
            Self::MessageSent(attempt, wire_bytes) => {
                let (attempt, wire_bytes) = (*attempt, *wire_bytes);
                events.tell(|| CallEvent::MessageSent { attempt, wire_bytes });
            }
            Self::RequestsEnded => events.tell(|| CallEvent::RequestsEnded),
            Self::ResponseHeaders(attempt, metadata) => {
                let attempt = *attempt;
                events.tell(|| CallEvent::ResponseHeaders { attempt, metadata });
            }
            Self::Trailers(attempt, status) => events.trailers(*attempt, Err(status)),
            Self::AttemptEnded(attempt, result) => {
                events.attempt_ended(*attempt, result.as_ref().map(drop));
            }
            Self::Ended(result) => events.ended(result.as_ref().map(drop)),
        }
    }
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        self.words.iter().for_each(|word| word.tell(&self.call.head.events));
        if self.is_over {
            self.call.over.notify_waiters();
        }
    }
}

impl Locked<'_> {
    /// Has observers told, once the lock is free.
    fn say(&mut self, word: impl FnOnce() -> Word) {
        if !self.told.call.head.events.are_unseen() {
            self.told.words.push(word());
        }
    }

    /// Ends the call, and tells a half that waits for another attempt. Gives its end.
    fn end(&mut self, result: Result<Metadata, Status>) -> Result<(), Status> {
        let outcome = self.state.end(result, &self.told.call.head);
        self.say(|| Word::Ended(outcome.clone()));
        self.told.is_over = true;
        outcome
    }

    /// What follows the failure of the attempt of this `number`.
    fn judge(&mut self, error: AttemptError, call: &StreamCall, number: u32) -> Next {
        let StreamCall { shared, terms, .. } = call;
        let committed = self.replay.is_committed();
        let (failure, status) = error.told(terms);
        self.say(|| Word::AttemptEnded(number, Err(status.clone())));
        let next = self.attempts.judge_untold(failure, status, committed, shared, terms, true);
        self.next = Some(next.clone());
        next
    }

    /// Puts `next` in the place of an attempt that failed, unless this side has ended the call
    /// meanwhile.
    fn go_on_with(&mut self, next: Arc<Attempt>) -> Result<(), Status> {
        if let Phase::Ended(outcome) = &self.phase {
            return outcome.result.clone();
        }
        self.next = None;
        // A failure shows to whoever uses the attempt next.
        let _ = self.replay_on(&next);
        self.phase = Phase::Live(next);
        Ok(())
    }

    /// Sends on a new attempt what was sent on the one before.
    fn replay_on(&mut self, attempt: &Attempt) -> Result<(), StreamError> {
        let half_closed = self.replay.is_half_closed();
        let messages = self.replay.messages().to_vec();
        for (nth, message) in messages.iter().enumerate() {
            let last = half_closed && nth + 1 == messages.len();
            attempt.sending.send(message.clone(), last)?;
            self.say(|| Word::MessageSent(attempt.number, message.frame_len()));
        }
        if half_closed && messages.is_empty() { attempt.sending.finish() } else { Ok(()) }
    }
}

/// What a config selector wants called: code of the application, so not under the lock.
struct Hook<'a>(Option<&'a Terms>);

impl Deref for Locked<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        if self.hook.0.is_some() && !self.state.is_committed_or_over() {
            self.hook.0 = None;
        }
    }
}

impl Drop for Hook<'_> {
    fn drop(&mut self) {
        if let Some(terms) = self.0 {
            terms.committed();
        }
    }
}

impl State {
    fn is_committed_or_over(&self) -> bool {
        self.replay.is_committed() || matches!(self.phase, Phase::Ended(_))
    }

    /// Ends `call`; gives its end, which says more than `result` where attempts have failed or
    /// the server has sent headers.
    fn end(&mut self, result: Result<Metadata, Status>, call: &CallHead) -> Result<(), Status> {
        let result = result.map_err(|status| {
            let status = self.attempts.end(status, call);
            match &self.headers {
                Some(headers) => status.with_headers(headers.clone()),
                None => status,
            }
        });
        let (result, trailers) = match result {
            Ok(trailers) => (Ok(()), trailers),
            Err(status) => {
                let trailers = status.metadata().clone();
                (Err(status), trailers)
            }
        };
        let peer = self.peer();
        self.phase = Phase::Ended(Outcome { result: result.clone(), trailers, peer });
        result
    }

    fn peer(&self) -> Option<Peer> {
        match &self.phase {
            Phase::Live(attempt) => Some(attempt.peer.clone()),
            Phase::Ended(outcome) => outcome.peer.clone(),
        }
    }
}

impl Outcome {
    /// What a sender is told that comes after the end.
    fn status_for_sender(&self) -> Status {
        match &self.result {
            Ok(()) => no_more_wanted(),
            Err(status) => status.clone(),
        }
    }
}

fn no_more_wanted() -> Status {
    Status::cancelled("the server ended the call with OK before this message; receive the rest")
}
