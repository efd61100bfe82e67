//! One attempt of a streaming call: a stream on a picked connection.

use std::collections::VecDeque;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker, ready};

use tokio::time::Instant;

use super::credentials::{prove, wants_proof};
use super::pick::{PickError, let_others_run, pick};
use super::retry::AttemptError;
use super::{CallHead, Shared, Terms};
use crate::transport::{
    Connection, Headers, Reader, Received, RecvHalf, Run, Stream, StreamError, StreamHandle,
    Trailers,
};
use crate::types::{Address, SecurityLevel, Status};

/// One stream that the call runs on.
pub(super) struct Attempt {
    /// Its place among those of its call that were under way.
    pub(super) place: u32,
    /// Its number, as observers know it.
    pub(super) number: u32,
    pub(super) peer: Peer,
    pub(super) sending: StreamHandle,
    receiving: Mutex<Receiving>,
}

/// The server that an attempt is with.
#[derive(Clone)]
pub(super) struct Peer {
    pub(super) address: Address,
    pub(super) security: SecurityLevel,
}

/// What has come of an attempt, in this order: headers, messages, trailers.
pub(super) enum Arrived {
    Headers(Headers),
    Message(Received),
    Trailers(Trailers),
}

/// A message came where there is one already, and only one is due.
pub(super) struct Second;

struct Receiving {
    half: RecvHalf,
    /// Wakes the task that last polled it.
    waker: Waker,
    head: Head,
    /// The message of a method with one response, until it is known how the call ended.
    held: Option<Received>,
    /// What was read while looking for the status of a stream that took no more messages.
    ahead: VecDeque<Received>,
    /// How the stream ended, if that was read so.
    end: Option<Result<Trailers, StreamError>>,
}

/// The headers of a response.
enum Head {
    Unread,
    /// Read while looking for the status, and not given to anybody.
    Ahead(Headers),
    Given,
}

/// What came of beginning an attempt.
pub(super) enum Begun {
    Attempt(Arc<Attempt>),
    Failed(AttemptError),
    /// There is to be no other.
    Ended(Status),
}

/// Picks, and opens a stream. The terms of the call are settled by its first pick. Attempts before
/// this one have `failed`.
pub(super) async fn begin(
    shared: &Shared,
    head: &CallHead,
    settled: &mut Option<Terms>,
    failed: u32,
    place: u32,
    number: u32,
) -> Begun {
    let picked = pick(shared, head, settled, number).await;
    let terms = settled.get_or_insert_with(|| Terms::of_ended(head));
    let connection = match picked {
        Ok(connection) => connection,
        Err(PickError::Failed(status)) => return Begun::Failed(AttemptError::Pick(status)),
        Err(PickError::Ended(status)) => return Begun::Ended(status),
    };
    let mut proof = None;
    if wants_proof(shared, head) {
        match prove(shared, head, terms, &connection).await {
            Ok(metadata) => proof = Some(metadata),
            Err(error) => {
                return match error.into_attempt_error() {
                    Ok(error) => Begun::Failed(error),
                    Err(status) => Begun::Ended(status),
                };
            }
        }
    }
    let metadata = head.metadata_of_attempt(terms, number, failed, proof);
    let request = head.request(Instant::now(), terms, metadata.as_ref());
    match connection.open(&request, None, terms.deadline).await {
        Ok(stream) => {
            head.tell_of_request(terms, number, &connection, &request, metadata.as_ref());
            let_others_run().await;
            Begun::Attempt(Attempt::new(place, number, &connection, stream))
        }
        Err(error) => Begun::Failed(AttemptError::Stream(error, connection.address().clone())),
    }
}

impl Attempt {
    fn new(place: u32, number: u32, connection: &Connection, stream: Stream) -> Arc<Self> {
        let receiving = Receiving {
            half: stream.recv,
            waker: Waker::noop().clone(),
            head: Head::Unread,
            held: None,
            ahead: VecDeque::new(),
            end: None,
        };
        let peer =
            Peer { address: connection.address().clone(), security: connection.security_level() };
        let attempt = Arc::new(Self {
            place,
            number,
            peer,
            sending: stream.handle,
            receiving: Mutex::new(receiving),
        });
        let reader: Weak<Self> = Arc::downgrade(&attempt);
        attempt.sending.read_by(reader);
        attempt
    }

    /// The headers for whoever reads them first, `None` for everybody else.
    pub(super) fn poll_headers(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Headers>, StreamError>> {
        let mut receiving = self.lock();
        receiving.waker.clone_from(cx.waker());
        receiving.poll_head(cx)
    }

    /// What comes next, and with a message into `run`, if there is one, those that are here as a
    /// whole. One lock for all of it: streams of small messages live by that.
    pub(super) fn poll_next(
        &self,
        cx: &mut Context<'_>,
        limit: usize,
        run: Option<&mut Run>,
    ) -> Poll<Result<Arrived, StreamError>> {
        let receiving = &mut *self.lock();
        // Which does nothing where it is the same.
        receiving.waker.clone_from(cx.waker());
        if let Some(headers) = ready!(receiving.poll_head(cx))? {
            return Poll::Ready(Ok(Arrived::Headers(headers)));
        }
        let message = match receiving.ahead.pop_front() {
            Some(message) => Some(message),
            None => match &receiving.end {
                Some(Ok(_)) => None,
                Some(Err(failure)) => return Poll::Ready(Err(failure.clone())),
                None => ready!(receiving.half.poll_message(cx, limit)).transpose()?,
            },
        };
        if let Some(message) = message {
            if let Some(run) = run
                && receiving.ahead.is_empty()
            {
                *run = receiving.half.run(limit);
            }
            return Poll::Ready(Ok(Arrived::Message(message)));
        }
        let trailers = match &receiving.end {
            Some(end) => end.clone()?,
            None => ready!(receiving.half.poll_trailers(cx))?,
        };
        Poll::Ready(Ok(Arrived::Trailers(trailers)))
    }

    /// Keeps the message of a method with one response, of which there can be no second.
    pub(super) fn hold(&self, message: Received) -> Result<(), Second> {
        match self.lock().held.replace(message) {
            None => Ok(()),
            Some(_) => Err(Second),
        }
    }

    /// Takes out the message that is kept.
    pub(super) fn take_held(&self) -> Option<Received> {
        self.lock().held.take()
    }

    /// Reads to the end of a stream that is over; `None` if it is not.
    pub(super) fn read_ahead(&self, limit: usize) -> Option<Result<Trailers, StreamError>> {
        // Nothing of a stream that is over has to be waited for.
        let cx = &mut Context::from_waker(Waker::noop());
        let receiving = &mut *self.lock();
        if receiving.end.is_none() {
            receiving.end = receiving.poll_to_end(cx, limit);
        }
        receiving.end.clone()
    }

    /// Bytes of messages that have arrived on a stream that is over, and that nobody has received.
    pub(super) fn unread_bytes(&self, limit: usize) -> usize {
        // How the stream ended is known to the caller.
        let _ = self.read_ahead(limit);
        let receiving = self.lock();
        let whole: usize = receiving.ahead.iter().map(Received::frame_len).sum();
        whole + receiving.half.begun_bytes()
    }

    /// Whether the server has answered with more than how the call ended, and nobody has seen it.
    pub(super) fn has_unread(&self) -> bool {
        let receiving = self.lock();
        let is_answer = |head: &Head| matches!(head, Head::Ahead(head) if !head.trailers_only);
        !receiving.ahead.is_empty() || is_answer(&receiving.head)
    }

    fn lock(&self) -> MutexGuard<'_, Receiving> {
        self.receiving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reader for Attempt {
    fn discard(&self) {
        self.lock().half.discard();
    }

    fn gather(&self) {
        let Receiving { half, waker, .. } = &mut *self.lock();
        half.gather(&mut Context::from_waker(waker));
    }
}

impl Receiving {
    /// The headers, once.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Headers>, StreamError>> {
        // Mostly so, and looked at for each message.
        if matches!(self.head, Head::Given) {
            return Poll::Ready(Ok(None));
        }
        let headers = match mem::replace(&mut self.head, Head::Unread) {
            Head::Ahead(headers) => headers,
            Head::Unread | Head::Given => ready!(self.half.poll_headers(cx))?,
        };
        self.head = Head::Given;
        Poll::Ready(Ok(Some(headers)))
    }

    fn poll_to_end(
        &mut self,
        cx: &mut Context<'_>,
        limit: usize,
    ) -> Option<Result<Trailers, StreamError>> {
        if matches!(self.head, Head::Unread) {
            match self.half.poll_headers(cx) {
                Poll::Ready(Ok(headers)) => self.head = Head::Ahead(headers),
                Poll::Ready(Err(failure)) => return Some(Err(failure)),
                Poll::Pending => return None,
            }
        }
        loop {
            match self.half.poll_message(cx, limit) {
                Poll::Ready(Some(Ok(message))) => self.ahead.push_back(message),
                Poll::Ready(Some(Err(failure))) => return Some(Err(failure)),
                Poll::Ready(None) => break,
                Poll::Pending => return None,
            }
        }
        match self.half.poll_trailers(cx) {
            Poll::Ready(end) => Some(end),
            Poll::Pending => None,
        }
    }
}
