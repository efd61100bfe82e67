//! From what went wrong to the `Status` that the application gets; nowhere else.

use tokio::time::Instant;

use super::activity::Full;
use super::{CallHead, NoRuntime};
use crate::transport::{ErrorCode, StreamError, Trailers, fields_len};
use crate::types::{Address, Code, Metadata, MethodPath, SecurityLevel, Status};

/// The status of a call whose stream to `peer` failed for good. A reset with CANCEL where the
/// deadline has passed is the deadline's doing.
pub(super) fn of_stream_error(
    error: &StreamError,
    deadline: Option<Instant>,
    peer: &Address,
) -> Status {
    if *error == StreamError::Reset(ErrorCode::CANCEL) && has_passed(deadline) {
        return of_stream_error(&StreamError::DeadlineExceeded, None, peer);
    }
    let code = code_of(error);
    let text = error.to_string();
    // What a connection says of its end names the address already.
    let message = match error {
        StreamError::Unsent(_) | StreamError::Unprocessed(_) | StreamError::Lost(_) => text,
        StreamError::DeadlineExceeded => format!("{peer}: the deadline passed before it answered"),
        StreamError::Overdue => {
            format!("{peer}: the deadline passed before the request was sent there")
        }
        StreamError::Closed => "the channel is closed".to_owned(),
        StreamError::TooLarge { .. } => {
            format!("{peer}: {text}; raise max_receive_message_bytes to take it")
        }
        StreamError::ReceiveBufferFull { .. } => {
            format!("{peer}: {text}: read faster, or raise max_receive_buffer_bytes")
        }
        StreamError::Refused
        | StreamError::Reset(_)
        | StreamError::Malformed(_)
        | StreamError::HeadTooLarge { .. }
        | StreamError::Ended
        | StreamError::QueueFull { .. }
        | StreamError::NotProved(_)
        | StreamError::TooManyFields
        | StreamError::FieldsTooLarge { .. }
        | StreamError::FieldsOverLimit { .. }
        | StreamError::SendTooLarge { .. }
        | StreamError::NotGrpc(_)
        | StreamError::NoTrailers
        | StreamError::BadFlag(_)
        | StreamError::Truncated => format!("{peer}: {text}"),
    };
    Status::new(code, message).at(peer).with_source(error.clone())
}

/// How the server says that the call ended: its trailers if well.
///
/// A server that gives a call up at its deadline may say CANCELLED, and may be heard before this
/// side has acted on the same deadline: where that has passed, it is the reason, and the status is
/// this side's own, without anything of the server's trailers.
pub(super) fn of_trailers(
    trailers: Trailers,
    deadline: Option<Instant>,
    method: &MethodPath,
    peer: &Address,
) -> Result<Metadata, Status> {
    if trailers.is_ok() {
        return Ok(trailers.metadata);
    }
    if trailers.code == Code::CANCELLED && has_passed(deadline) {
        return Err(of_stream_error(&StreamError::DeadlineExceeded, None, peer));
    }
    let status = if trailers.is_made_up {
        Status::new(trailers.code, format!("{peer}: {}", trailers.message)).at(peer)
    } else {
        Status::new(trailers.code, trailers.message).sent_by(method, peer)
    };
    Err(status.with_details(trailers.details).with_metadata(trailers.metadata))
}

/// `status` of a call of whose attempts `last` is the latest that failed. Where this side's
/// deadline has ended the call, that failure says more of the reason than the deadline does.
pub(super) fn after_failure(status: Status, last: Option<&Status>) -> Status {
    let is_deadline = status.code() == Code::DEADLINE_EXCEEDED && !status.is_from_server();
    match last.filter(|_| is_deadline) {
        Some(last) => status
            .with_suffix(&format!("; the last attempt ended with {}", last.at_length()))
            .or_source(last.clone()),
        None => status,
    }
}

fn has_passed(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| deadline <= Instant::now())
}

/// A compressed message came that cannot be read.
pub(super) fn compressed(peer: &Address, what: &str) -> Status {
    Status::internal(format!("{peer}: the server sent a compressed message, and {what}")).at(peer)
}

/// A compressed message came that is larger than is taken.
pub(super) fn too_large_decompressed(peer: &Address, limit: usize) -> Status {
    Status::resource_exhausted(format!(
        "{peer}: the server sent a compressed message of more than {limit} bytes where {limit} are \
         allowed; raise max_receive_message_bytes to take it"
    ))
    .at(peer)
}

/// A method with one response had another number of them.
pub(super) fn cardinality(peer: &Address, came: &str) -> Status {
    let text = format!("{peer}: cardinality violation: {came} where one message is due");
    Status::unimplemented(text).at(peer)
}

/// A method with one request was given another number of them.
pub(super) fn request_cardinality(method: &MethodPath, given: &str) -> Status {
    let text = format!("cardinality violation: {method} takes one request, and {given} was sent");
    Status::unimplemented(text)
}

/// The deadline passed while a message waited to be sent, and messages of the server to be received.
pub(super) fn deadline_while_unread(peer: &Address, unread: usize) -> Status {
    Status::deadline_exceeded(format!(
        "{peer}: the deadline passed while a message waited to be sent: the server took no more, \
         and {unread} bytes of its own messages had not been received here: receive while sending, \
         as `Streaming::exchange` does"
    ))
    .at(peer)
}

/// The deadline passed while nothing came, and the server may have waited for more requests.
pub(super) fn deadline_while_open(peer: &Address) -> Status {
    Status::deadline_exceeded(format!(
        "{peer}: the deadline passed before it answered; the requests were not closed: if it waits \
         for their end, call `close_send`"
    ))
    .at(peer)
}

/// The deadline passed before the call had a stream.
pub(super) fn deadline_while_waiting(last_error: Option<Status>) -> Status {
    match last_error {
        Some(error) => {
            let text = format!(
                "the deadline passed while the call waited for a connection; last error: {error}"
            );
            Status::deadline_exceeded(text).with_source(error)
        }
        None => {
            Status::deadline_exceeded("the deadline passed while the call waited for a connection")
        }
    }
}

/// The credentials of a call failed. They are a part of the control plane (A54).
pub(super) fn credentials_failed(peer: &Address, failure: Status) -> Status {
    failure
        .of_control_part("they")
        .with_prefix(&format!("{peer}: the call's credentials: "))
        .at(peer)
}

/// The deadline passed while the credentials of the call were made.
pub(super) fn deadline_while_proving() -> Status {
    Status::deadline_exceeded("the deadline passed while the call's credentials were made")
}

/// The deadline passed before the next attempt.
pub(super) fn deadline_while_resting() -> Status {
    Status::deadline_exceeded("the deadline passed before the next attempt")
}

/// `status` of the last of so many attempts, which the policy would have followed by another.
pub(super) fn retries_exhausted(status: Status, attempts: u32) -> Status {
    let times = if attempts == 1 { "attempt" } else { "attempts" };
    status.with_prefix(&format!("max retries exhausted: failed after {attempts} {times}: "))
}

/// A message cannot be compressed.
pub(super) fn cannot_compress(error: std::io::Error) -> Status {
    Status::internal(format!("the request cannot be compressed: {error}")).with_source(error)
}

/// A message is larger than its call may send.
pub(super) fn too_large_to_send(length: usize, bytes_max: usize) -> Status {
    Status::resource_exhausted(format!(
        "the request is {length} bytes long, and {bytes_max} may be sent: raise \
         max_send_message_bytes, or what the service config allows, or send less"
    ))
}

/// A call that is to wait for a connection has more metadata than may be sent.
pub(super) fn too_much_metadata(call: &CallHead, limit: usize) -> Option<Status> {
    let bytes = call.metadata.as_fields().map(fields_len).filter(|bytes| *bytes > limit)?;
    let error = StreamError::FieldsOverLimit { bytes, limit };
    Some(Status::resource_exhausted(error.to_string()).with_source(error))
}

/// As many calls as are allowed wait already.
pub(super) fn too_many_waiting(full: Full) -> Status {
    Status::resource_exhausted(format!(
        "{} calls of this channel wait already for a connection; raise max_queued_calls to let \
         more of them wait",
        full.limit
    ))
}

/// A connection protects less than the credentials of the call want.
pub(super) fn too_little_security(
    peer: &Address,
    level: SecurityLevel,
    wanted: SecurityLevel,
) -> Status {
    let text = format!(
        "{peer}: the call's credentials want {wanted}, and the connection has {level}: use TLS, or, \
         where something else protects the way, say so by min_security_level of the credentials"
    );
    Status::unauthenticated(text).at(peer)
}

/// The channel cannot start where it is used.
pub(super) fn no_runtime(error: NoRuntime) -> Status {
    Status::unavailable(error.to_string()).with_source(error)
}

fn code_of(error: &StreamError) -> Code {
    match error {
        StreamError::Unsent(_)
        | StreamError::Refused
        | StreamError::Unprocessed(_)
        | StreamError::Lost(_)
        | StreamError::NotProved(_) => Code::UNAVAILABLE,
        StreamError::Reset(code) => of_reset(*code),
        StreamError::DeadlineExceeded | StreamError::Overdue => Code::DEADLINE_EXCEEDED,
        StreamError::Closed => Code::CANCELLED,
        StreamError::QueueFull { .. }
        | StreamError::ReceiveBufferFull { .. }
        | StreamError::TooLarge { .. }
        | StreamError::TooManyFields
        | StreamError::FieldsOverLimit { .. }
        | StreamError::SendTooLarge { .. } => Code::RESOURCE_EXHAUSTED,
        StreamError::NotGrpc(what) => what.code(),
        StreamError::Malformed(_)
        | StreamError::HeadTooLarge { .. }
        | StreamError::Ended
        | StreamError::FieldsTooLarge { .. }
        | StreamError::NoTrailers
        | StreamError::BadFlag(_)
        | StreamError::Truncated => Code::INTERNAL,
    }
}

/// `RST_STREAM` codes to gRPC's, as the protocol has it.
fn of_reset(code: ErrorCode) -> Code {
    match code {
        ErrorCode::NO_ERROR
        | ErrorCode::PROTOCOL_ERROR
        | ErrorCode::INTERNAL_ERROR
        | ErrorCode::FLOW_CONTROL_ERROR
        | ErrorCode::SETTINGS_TIMEOUT
        | ErrorCode::STREAM_CLOSED
        | ErrorCode::FRAME_SIZE_ERROR
        | ErrorCode::COMPRESSION_ERROR
        | ErrorCode::CONNECT_ERROR
        | ErrorCode::HTTP_1_1_REQUIRED => Code::INTERNAL,
        ErrorCode::ENHANCE_YOUR_CALM => Code::RESOURCE_EXHAUSTED,
        ErrorCode::REFUSED_STREAM => Code::UNAVAILABLE,
        ErrorCode::CANCEL => Code::CANCELLED,
        ErrorCode::INADEQUATE_SECURITY => Code::PERMISSION_DENIED,
        ErrorCode(_) => Code::UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::transport::NotGrpc;

    // spec: grpc/http-status-mapping
    #[test]
    fn http_statuses_become_codes() {
        let rows = [
            (400, Code::INTERNAL),
            (401, Code::UNAUTHENTICATED),
            (403, Code::PERMISSION_DENIED),
            (404, Code::UNIMPLEMENTED),
            (429, Code::UNAVAILABLE),
            (500, Code::UNKNOWN),
            (502, Code::UNAVAILABLE),
            (503, Code::UNAVAILABLE),
            (504, Code::UNAVAILABLE),
            (200, Code::UNKNOWN),
        ];
        for (http_status, code) in rows {
            let body = String::new();
            let what = NotGrpc { http_status, content_type: None, is_grpc: false, body };
            let status = of_stream_error(&StreamError::NotGrpc(Box::new(what)), None, &peer());
            assert_eq!(status.code(), code, "{http_status}");
            assert!(status.message().contains("10.0.0.7:443"), "{status}");
        }
    }

    // spec: grpc/http2-error-mapping
    #[test]
    fn resets_become_codes() {
        let internal = [0, 1, 2, 3, 4, 5, 6, 9, 10, 13];
        for number in 0..=14 {
            let code = match number {
                _ if internal.contains(&number) => Code::INTERNAL,
                11 => Code::RESOURCE_EXHAUSTED,
                7 => Code::UNAVAILABLE,
                8 => Code::CANCELLED,
                12 => Code::PERMISSION_DENIED,
                _ => Code::UNKNOWN,
            };
            let status = of_stream_error(&StreamError::Reset(ErrorCode(number)), None, &peer());
            assert_eq!(status.code(), code, "{number}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancellation_after_the_deadline_is_the_deadlines() {
        let deadline = Instant::now() + Duration::from_millis(200);
        let mut metadata = Metadata::new();
        metadata.append("k", "v").unwrap();
        let code = || {
            let cancelled = StreamError::Reset(ErrorCode::CANCEL);
            let reset = of_stream_error(&cancelled, Some(deadline), &peer()).code();
            let trailers = Trailers {
                code: Code::CANCELLED,
                message: "Timeout expired".to_owned(),
                is_made_up: false,
                details: bytes::Bytes::new(),
                metadata: metadata.clone(),
            };
            let said = of_trailers(trailers, Some(deadline), &method(), &peer()).unwrap_err();
            assert_eq!(said.code(), reset);
            // What this side says itself has nothing of the server's.
            assert_eq!(said.metadata().is_empty(), reset == Code::DEADLINE_EXCEEDED);
            reset
        };
        tokio::time::advance(Duration::from_millis(199)).await;
        assert_eq!(code(), Code::CANCELLED);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(code(), Code::DEADLINE_EXCEEDED);
    }

    #[test]
    fn a_deadline_names_the_failure_before_it_and_a_servers_own_does_not() {
        let last = Status::unavailable("busy").sent_by(&method(), &peer());
        let own = after_failure(deadline_while_resting(), Some(&last));
        let text = "the deadline passed before the next attempt; the last attempt ended with \
                    UNAVAILABLE from 10.0.0.7:443: busy";
        assert_eq!((own.code(), own.message()), (Code::DEADLINE_EXCEEDED, text));
        assert!(std::error::Error::source(&own).is_some());
        let servers = Status::deadline_exceeded("slow").sent_by(&method(), &peer());
        assert_eq!(after_failure(servers, Some(&last)).message(), "slow");
        assert_eq!(after_failure(Status::internal("bad"), Some(&last)).message(), "bad");
        assert_eq!(
            after_failure(deadline_while_proving(), None).message(),
            deadline_while_proving().message()
        );
    }

    fn method() -> MethodPath {
        MethodPath::parse_static("/helloworld.Greeter/SayHello").unwrap()
    }

    fn peer() -> Address {
        Address::Socket("10.0.0.7:443".parse().unwrap())
    }
}
