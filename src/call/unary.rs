//! A unary call: one message there, one message back.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::time::Instant;

use super::compression::{compressed, decompressed};
use super::credentials::{prove, wants_proof};
use super::hedge::hedged;
use super::pick::{PickError, pick};
use super::retry::{AttemptError, Attempts, FailedAttempt};
use super::{CallHead, Events, Shared, Terms, status};
use crate::observe::{AttemptKind, CallEvent};
use crate::transport::{
    Connection, Encoding, Headers, Message, Received, RecvHalf, StreamError, Trailers,
};
use crate::types::{Address, Metadata, SecurityLevel, Status};

/// The answer to a unary call.
pub(crate) struct Reply {
    pub(crate) headers: Metadata,
    pub(crate) message: Bytes,
    pub(crate) trailers: Metadata,
    pub(crate) peer: Address,
    pub(crate) security: SecurityLevel,
}

/// Makes a unary call, whose message is not compressed yet. Dropping the future cancels it.
pub(crate) async fn unary(
    shared: &Shared,
    call: &CallHead,
    message: &Message,
) -> Result<Reply, Status> {
    call.events.tell(|| CallEvent::RequestMessage { payload: message.payload() });
    call.events.tell(|| CallEvent::RequestsEnded);
    let compressed = compressed(message, call)?;
    let message = compressed.as_ref().unwrap_or(message);
    let mut attempts = Attempts::default();
    let reply = with_attempts(shared, call, message, &mut attempts).await;
    reply.map_err(|status| attempts.end(status, call))
}

async fn with_attempts(
    shared: &Shared,
    call: &CallHead,
    message: &Message,
    attempts: &mut Attempts,
) -> Result<Reply, Status> {
    let mut settled = None;
    let mut kind = AttemptKind::First;
    let is_kept = message.frame_len() <= shared.retrying.buffer_max(call);
    loop {
        let number = call.events.attempt_began(kind);
        let picked = pick(shared, call, &mut settled, number).await;
        let terms = settled.get_or_insert_with(|| Terms::of_ended(call));
        let failed = match picked {
            Ok(connection) => {
                if let Some(policy) = terms.hedging_policy().filter(|_| is_kept) {
                    let first = (connection, number);
                    let hedged = hedged(shared, call, terms, policy, first, message);
                    return Box::pin(hedged).await;
                }
                let (sent, before) = (message.clone(), attempts.failed());
                let mut answer = Answer::default();
                let begun = || terms.committed();
                let attempt = attempt(
                    shared,
                    call,
                    terms,
                    &connection,
                    number,
                    before,
                    sent,
                    &begun,
                    &mut answer,
                );
                let ended = attempt.await?;
                match answer.end(ended, shared, call, terms, &connection, number) {
                    Ok(reply) => {
                        terms.succeeded();
                        return Ok(reply);
                    }
                    Err(failed) => failed,
                }
            }
            Err(PickError::Failed(status)) => {
                FailedAttempt { number, error: AttemptError::Pick(status), committed: false }
            }
            Err(PickError::Ended(status)) => return Err(status),
        };
        let next = attempts.judge(failed, shared, call, terms, is_kept);
        kind = next.kind();
        next.wait(shared, terms).await?;
    }
}

/// Makes an attempt, and fills `answer`; calls `begun` once the server has begun to answer. Fails
/// with a status where there is to be no other.
#[expect(clippy::too_many_arguments, reason = "all of it differs from attempt to attempt")]
pub(super) async fn attempt(
    shared: &Shared,
    call: &CallHead,
    terms: &Terms,
    connection: &Connection,
    number: u32,
    failed_before: u32,
    message: Message,
    begun: &(dyn Fn() + Sync),
    answer: &mut Answer,
) -> Result<Result<(), AttemptError>, Status> {
    let (length, wire_bytes) = (message.payload_len(), message.frame_len());
    if length > terms.send_bytes_max {
        return Err(status::too_large_to_send(length, terms.send_bytes_max));
    }
    let mut proof = None;
    if wants_proof(shared, call) {
        match prove(shared, call, terms, connection).await {
            Ok(metadata) => proof = Some(metadata),
            Err(error) => return error.into_attempt_error().map(Err),
        }
    }
    let metadata = call.metadata_of_attempt(terms, number, failed_before, proof);
    let head = call.request(Instant::now(), terms, metadata.as_ref());
    let mut stream = match connection.open(&head, Some((message, true)), terms.deadline).await {
        Ok(stream) => stream,
        Err(error) => return Ok(Err(AttemptError::Stream(error, connection.address().clone()))),
    };
    call.tell_of_request(terms, number, connection, &head, metadata.as_ref());
    call.events.tell(|| CallEvent::MessageSent { attempt: number, wire_bytes });
    let read = |cx: &mut Context<'_>| {
        let limit = terms.receive_bytes_max;
        let read = answer.poll_read(&mut stream.recv, limit, &call.events, number, cx);
        if answer.has_begun() {
            begun();
        }
        read
    };
    let read = poll_fn(read).await;
    Ok(read.map_err(|error| AttemptError::Stream(error, connection.address().clone())))
}

/// All that a server sent, up to the second message. It is filled where it lies: moving it about
/// would cost more than reading it.
#[derive(Default)]
pub(super) struct Answer {
    headers: Option<Headers>,
    messages: Messages,
    trailers: Option<Trailers>,
}

/// How many messages came; a unary call is to have one.
#[derive(Default)]
enum Messages {
    #[default]
    None,
    One(Received),
    Several,
}

impl Answer {
    /// Whether there is more to it than how the call ended.
    pub(super) fn has_begun(&self) -> bool {
        self.headers.as_ref().is_some_and(|headers| !headers.trailers_only)
    }

    /// Reads to the trailers, or to a message too many: then there is no need to read on, and
    /// dropping the stream resets it.
    fn poll_read(
        &mut self,
        recv: &mut RecvHalf,
        limit: usize,
        events: &Events,
        attempt: u32,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), StreamError>> {
        if self.headers.is_none() {
            let headers = self.headers.insert(ready!(recv.poll_headers(cx))?);
            if !headers.trailers_only {
                let metadata = &headers.metadata;
                events.tell(|| CallEvent::ResponseHeaders { attempt, metadata });
            }
        }
        while let Some(message) = ready!(recv.poll_message(cx, limit)) {
            let message = message?;
            match self.messages {
                Messages::None => self.messages = Messages::One(message),
                Messages::One(_) | Messages::Several => {
                    self.messages = Messages::Several;
                    return Poll::Ready(Ok(()));
                }
            }
        }
        self.trailers = Some(ready!(recv.poll_trailers(cx))?);
        Poll::Ready(Ok(()))
    }

    /// What an attempt comes to that `ended` so. What the server sent before it failed goes with
    /// the failure.
    pub(super) fn end(
        mut self,
        ended: Result<(), AttemptError>,
        shared: &Shared,
        call: &CallHead,
        terms: &Terms,
        connection: &Connection,
        number: u32,
    ) -> Result<Reply, FailedAttempt> {
        let committed = self.has_begun();
        let peer = connection.address();
        let Headers { metadata: headers, encoding, .. } = self.headers.take().unwrap_or_default();
        let error = match ended {
            Ok(()) => match self.into_message(&encoding, shared, call, terms, peer, number) {
                Ok((message, trailers)) => {
                    call.events.attempt_ended(number, Ok(()));
                    let (peer, security) = (peer.clone(), connection.security_level());
                    return Ok(Reply { headers, message, trailers, peer, security });
                }
                Err(status) => AttemptError::Answered(status),
            },
            Err(error) => error,
        };
        let error = if committed {
            // There is no other attempt, whatever the server has seen of this one.
            AttemptError::Answered(error.into_status(terms).with_headers(headers))
        } else {
            error
        };
        Err(FailedAttempt { number, error, committed })
    }

    /// The message and the trailers. The server's status comes before its message, and one message
    /// is due with OK.
    fn into_message(
        self,
        encoding: &Encoding,
        shared: &Shared,
        call: &CallHead,
        terms: &Terms,
        peer: &Address,
        attempt: u32,
    ) -> Result<(Bytes, Metadata), Status> {
        let trailers = match self.trailers {
            Some(trailers) => {
                if !trailers.is_ok() {
                    call.events.trailers(attempt, Ok(&trailers.metadata));
                }
                status::of_trailers(trailers, terms.deadline, &call.path, peer)?
            }
            None => Metadata::new(),
        };
        match self.messages {
            Messages::One(message) => {
                let wire_bytes = message.frame_len();
                let message = if message.compressed {
                    decompressed(&message.payload, encoding, call, shared, terms, peer)?
                } else {
                    message.payload
                };
                // In the order of the wire.
                let payload = &message;
                call.events.tell(|| CallEvent::ResponseMessage { attempt, payload, wire_bytes });
                call.events.trailers(attempt, Ok(&trailers));
                Ok((message, trailers))
            }
            Messages::None => Err(status::cardinality(peer, "none")),
            Messages::Several => Err(status::cardinality(peer, "more than one")),
        }
    }
}
