//! One attempt of a streaming call: a stream on a picked connection.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker, ready};

use tokio::time::Instant;

use super::credentials::{prove, wants_proof};
use super::pick::{Picked, let_others_run, pick};
use super::{CallHead, Shared, status};
use crate::policy::retry::{Verdict, verdict};
use crate::transport::{
    Connection, Discard, Headers, Received, RecvHalf, Stream, StreamError, StreamHandle, Trailers,
};
use crate::types::{Address, SecurityLevel, Seen, Status};

/// One stream that the call runs on.
pub(super) struct Attempt {
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

struct Receiving {
    half: RecvHalf,
    headers_read: bool,
    /// What was read while looking for the status of a stream that took no more messages.
    ahead: VecDeque<Received>,
    /// How the stream ended, if that was read so.
    end: Option<Result<Trailers, StreamError>>,
}

/// Picks until a stream opens.
pub(super) async fn begin(
    shared: &Shared,
    head: &CallHead,
    refused: &mut bool,
    number: u32,
) -> Result<Arc<Attempt>, Status> {
    loop {
        let Picked { connection, .. } = pick(shared, head).await?;
        let proof = if wants_proof(shared, head) {
            Some(prove(shared, head, &connection).await?)
        } else {
            None
        };
        let request = head.request(Instant::now(), proof.as_ref());
        let failure = match connection.open(&request, None, head.deadline).await {
            Ok(stream) => {
                let_others_run().await;
                return Ok(Attempt::new(number, &connection, stream));
            }
            Err(failure) => failure,
        };
        match verdict(failure.seen(), *refused, false) {
            Verdict::RetryTransparently => *refused |= failure.seen() == Seen::Refused,
            Verdict::Finish => {
                return Err(status::of_stream_error(&failure, head.deadline, connection.address()));
            }
        }
    }
}

impl Attempt {
    fn new(number: u32, connection: &Connection, stream: Stream) -> Arc<Self> {
        let receiving =
            Receiving { half: stream.recv, headers_read: false, ahead: VecDeque::new(), end: None };
        let peer =
            Peer { address: connection.address().clone(), security: connection.security_level() };
        let attempt = Arc::new(Self {
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
        if receiving.headers_read {
            return Poll::Ready(Ok(None));
        }
        let headers = ready!(receiving.half.poll_headers(cx))?;
        receiving.headers_read = true;
        Poll::Ready(Ok(Some(headers)))
    }

    pub(super) fn poll_message(
        &self,
        cx: &mut Context<'_>,
        limit: usize,
    ) -> Poll<Option<Result<Received, StreamError>>> {
        let mut receiving = self.lock();
        if let Some(message) = receiving.ahead.pop_front() {
            return Poll::Ready(Some(Ok(message)));
        }
        match &receiving.end {
            Some(Ok(_)) => Poll::Ready(None),
            Some(Err(failure)) => Poll::Ready(Some(Err(failure.clone()))),
            None => receiving.half.poll_message(cx, limit),
        }
    }

    pub(super) fn poll_trailers(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Trailers, StreamError>> {
        let mut receiving = self.lock();
        match &receiving.end {
            Some(end) => Poll::Ready(end.clone()),
            None => receiving.half.poll_trailers(cx),
        }
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

    /// Whether messages were put aside that nobody has received.
    pub(super) fn has_unread(&self) -> bool {
        !self.lock().ahead.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Receiving> {
        self.receiving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Discard for Attempt {
    fn discard(&self) {
        self.lock().half.discard();
    }
}

impl Receiving {
    fn poll_to_end(
        &mut self,
        cx: &mut Context<'_>,
        limit: usize,
    ) -> Option<Result<Trailers, StreamError>> {
        if !self.headers_read {
            match self.half.poll_headers(cx) {
                Poll::Ready(Ok(_)) => self.headers_read = true,
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
