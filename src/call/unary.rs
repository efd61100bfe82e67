//! A unary call: one message there, one message back.

use bytes::Bytes;
use tokio::time::Instant;

use super::pick::{Picked, pick};
use super::{CallHead, Shared, status};
use crate::policy::retry::{Verdict, verdict};
use crate::transport::{Connection, Message, Received, StreamError, Trailers};
use crate::types::{Address, Metadata, Seen, Status};

/// The answer to a unary call.
pub(crate) struct Reply {
    pub(crate) headers: Metadata,
    pub(crate) message: Bytes,
    pub(crate) trailers: Metadata,
    pub(crate) peer: Address,
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
        let now = now.take().filter(|_| !waited).unwrap_or_else(Instant::now);
        let failure = match attempt(&connection, call, now, message.clone()).await {
            Ok(answer) => return complete(answer, call.deadline, connection.address()),
            Err(failure) => failure,
        };
        match verdict(failure.seen(), refused, false) {
            Verdict::RetryTransparently => refused |= failure.seen() == Seen::Refused,
            Verdict::Finish => {
                return Err(status::of_stream_error(&failure, call.deadline, connection.address()));
            }
        }
    }
}

/// All that a server sent, up to the second message.
struct Answer {
    headers: Metadata,
    messages: Messages,
    trailers: Option<Trailers>,
}

/// How many messages came; a unary call is to have one.
enum Messages {
    None,
    One(Received),
    Several,
}

async fn attempt(
    connection: &Connection,
    call: &CallHead,
    now: Instant,
    message: Message,
) -> Result<Answer, StreamError> {
    let head = call.request(now);
    let mut stream = connection.open(&head, Some((message, true)), call.deadline).await?;
    let headers = stream.recv.headers().await?.metadata;
    let mut messages = Messages::None;
    loop {
        let next = stream.recv.message(call.receive_bytes_max).await;
        messages = match (next.transpose()?, messages) {
            (None, messages) => {
                let trailers = Some(stream.recv.trailers().await?);
                return Ok(Answer { headers, messages, trailers });
            }
            (Some(message), Messages::None) => Messages::One(message),
            // No need to read on: the stream is dropped here, and that resets it.
            (Some(_), Messages::One(_) | Messages::Several) => {
                return Ok(Answer { headers, messages: Messages::Several, trailers: None });
            }
        };
    }
}

/// The server's status comes before its message, and one message is due with OK.
fn complete(answer: Answer, deadline: Option<Instant>, peer: &Address) -> Result<Reply, Status> {
    let trailers = answer.trailers.map(|it| status::of_trailers(it, deadline, peer)).transpose()?;
    match answer.messages {
        Messages::One(message) if message.compressed => Err(status::compressed(peer)),
        Messages::One(message) => Ok(Reply {
            headers: answer.headers,
            message: message.payload,
            trailers: trailers.unwrap_or_default(),
            peer: peer.clone(),
        }),
        Messages::None => Err(status::cardinality(peer, "none")),
        Messages::Several => Err(status::cardinality(peer, "more than one")),
    }
}
