//! A unary call: one message there, one message back.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::time::Instant;

use super::credentials::{prove, wants_proof};
use super::pick::{Picked, pick};
use super::{CallHead, Shared, status};
use crate::policy::retry::{Verdict, verdict};
use crate::transport::{
    Connection, Message, Received, RecvHalf, RequestHead, StreamError, Trailers,
};
use crate::types::{Address, Metadata, SecurityLevel, Seen, Status};

/// The answer to a unary call.
pub(crate) struct Reply {
    pub(crate) headers: Metadata,
    pub(crate) message: Bytes,
    pub(crate) trailers: Metadata,
    pub(crate) peer: Address,
    pub(crate) security: SecurityLevel,
}

/// Makes a unary call. Dropping the future cancels it.
pub(crate) async fn unary(
    shared: &Shared,
    call: &CallHead,
    message: Message,
) -> Result<Reply, Status> {
    let mut refused = false;
    // The clock is read again only where time has passed.
    let mut now = Some(call.begun);
    loop {
        let Picked { connection, waited } = pick(shared, call).await?;
        let proof = if wants_proof(shared, call) {
            Some(prove(shared, call, &connection).await?)
        } else {
            None
        };
        let has_waited = waited || proof.is_some();
        let now = now.take().filter(|_| !has_waited).unwrap_or_else(Instant::now);
        let head = call.request(now, proof.as_ref());
        let mut answer = Answer::default();
        let failure = match attempt(&connection, call, &head, message.clone(), &mut answer).await {
            Ok(()) => return answer.complete(call.deadline, &connection),
            Err(failure) => failure,
        };
        match verdict(failure.seen(), refused, false) {
            Verdict::RetryTransparently => refused |= failure.seen() == Seen::Refused,
            Verdict::Finish => {
                let peer = connection.address();
                return Err(status::of_stream_error(&failure, call.deadline, peer));
            }
        }
    }
}

async fn attempt(
    connection: &Connection,
    call: &CallHead,
    head: &RequestHead<'_>,
    message: Message,
    answer: &mut Answer,
) -> Result<(), StreamError> {
    let mut stream = connection.open(head, Some((message, true)), call.deadline).await?;
    poll_fn(|cx| answer.poll_read(&mut stream.recv, call.receive_bytes_max, cx)).await
}

/// All that a server sent, up to the second message. It is filled where it lies: moving it about
/// would cost more than reading it.
#[derive(Default)]
struct Answer {
    headers: Option<Metadata>,
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
    /// Reads to the trailers, or to a message too many: then there is no need to read on, and
    /// dropping the stream resets it.
    fn poll_read(
        &mut self,
        recv: &mut RecvHalf,
        limit: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), StreamError>> {
        if self.headers.is_none() {
            self.headers = Some(ready!(recv.poll_headers(cx))?.metadata);
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

    /// The server's status comes before its message, and one message is due with OK.
    fn complete(self, deadline: Option<Instant>, connection: &Connection) -> Result<Reply, Status> {
        let peer = connection.address();
        let trailers = match self.trailers {
            Some(trailers) => status::of_trailers(trailers, deadline, peer)?,
            None => Metadata::new(),
        };
        match self.messages {
            Messages::One(message) if message.compressed => Err(status::compressed(peer)),
            Messages::One(message) => Ok(Reply {
                headers: self.headers.unwrap_or_default(),
                message: message.payload,
                trailers,
                peer: peer.clone(),
                security: connection.security_level(),
            }),
            Messages::None => Err(status::cardinality(peer, "none")),
            Messages::Several => Err(status::cardinality(peer, "more than one")),
        }
    }
}
