//! What goes wrong on the network, by culprit. Turning it into a `Status` happens above.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::observe::DisconnectReason;
use crate::types::{Address, Authority, Code, Seen, harmless};

use super::credentials::SecurityError;

/// A connection did not come up: to which address, and whose fault it was.
#[derive(Clone, Debug)]
pub(crate) struct ConnectError {
    address: Address,
    fault: ConnectFault,
}

impl ConnectError {
    pub(crate) fn new(address: Address, fault: ConnectFault) -> Self {
        Self { address, fault }
    }

    /// What went wrong there.
    #[cfg(test)]
    pub(crate) fn fault(&self) -> &ConnectFault {
        &self.fault
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.address, self.fault)
    }
}

impl Error for ConnectError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.fault.source()
    }
}

/// Why a connection did not come up.
#[derive(Clone, Debug)]
pub(crate) enum ConnectFault {
    /// The connector failed.
    Dial(Arc<io::Error>),
    /// The connection could not be secured.
    NotSecured(SecurityError),
    /// What the server said first is no HTTP/2; the text says what it looks like.
    NotHttp2(String),
    /// The server began HTTP/2 and broke its rules.
    Protocol(String),
    /// The server began HTTP/2 with a goodbye.
    Goaway(Goaway),
    /// The connection ended before the server's SETTINGS were taken on; the text says how.
    Closed(String),
    /// The connect deadline passed.
    TimedOut(ConnectPhase),
    /// Whatever dialled is gone: its task panicked or was dropped.
    Abandoned,
}

impl fmt::Display for ConnectFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dial(error) => f.write_str(&in_words(error)),
            Self::NotSecured(error) => error.fmt(f),
            Self::NotHttp2(what) => write!(f, "the server does not speak HTTP/2: {what}"),
            Self::Protocol(what) => write!(f, "the server broke the HTTP/2 protocol: {what}"),
            Self::Goaway(goaway) => write!(f, "the server began with {goaway}"),
            Self::Closed(how) => write!(f, "before HTTP/2 was under way, {how}"),
            Self::TimedOut(phase) => write!(f, "the connect deadline passed while {phase}"),
            Self::Abandoned => f.write_str("the task that dials is gone"),
        }
    }
}

impl Error for ConnectFault {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Dial(error) => Some(&**error),
            Self::NotSecured(error) => error.source(),
            Self::NotHttp2(_)
            | Self::Protocol(_)
            | Self::Goaway(_)
            | Self::Closed(_)
            | Self::TimedOut(_)
            | Self::Abandoned => None,
        }
    }
}

/// How far an attempt to connect had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectPhase {
    /// The connector was at work.
    Connecting,
    /// The credentials were at work.
    Handshaking,
    /// HTTP/2 had begun, and the server had not.
    AwaitingSettings,
}

impl fmt::Display for ConnectPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connecting => "connecting",
            Self::Handshaking => "securing the connection",
            Self::AwaitingSettings => "waiting for the server's SETTINGS",
        })
    }
}

/// Why a connection takes no more streams, or has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Disconnect {
    address: Address,
    cause: DisconnectCause,
    /// The GOAWAY that came before, where `cause` is something else.
    prior: Option<Goaway>,
}

impl Disconnect {
    pub(crate) fn new(address: Address, cause: DisconnectCause) -> Self {
        Self { address, cause, prior: None }
    }

    /// The same after a GOAWAY, if there was one and it is not the cause itself.
    pub(crate) fn after(self, goaway: Option<Goaway>) -> Self {
        let prior = goaway.filter(|_| !matches!(self.cause, DisconnectCause::Goaway(_)));
        Self { prior, ..self }
    }

    /// The cause in short, as those are told who observe the channel (A94).
    pub(crate) fn reason(&self) -> DisconnectReason {
        match &self.cause {
            DisconnectCause::Goaway(goaway) => {
                let name = ERROR_CODE_NAMES.get(goaway.code.0 as usize).copied();
                // As RFC 9113 has it for codes that it does not define.
                DisconnectReason::Goaway { code: name.unwrap_or("INTERNAL_ERROR") }
            }
            DisconnectCause::Lost(loss) => match loss.kind {
                Some(io::ErrorKind::ConnectionReset) => DisconnectReason::ConnectionReset,
                Some(io::ErrorKind::ConnectionAborted) => DisconnectReason::ConnectionAborted,
                Some(io::ErrorKind::TimedOut) => DisconnectReason::ConnectionTimedOut,
                Some(_) => DisconnectReason::SocketError,
                None => DisconnectReason::Unknown,
            },
            DisconnectCause::NoSignOfLife { .. } | DisconnectCause::Stalled { .. } => {
                DisconnectReason::ConnectionTimedOut
            }
            DisconnectCause::Local => DisconnectReason::SubchannelShutdown,
            DisconnectCause::Protocol(_)
            | DisconnectCause::StreamIdsUsedUp
            | DisconnectCause::NoWindow { .. }
            | DisconnectCause::Abandoned => DisconnectReason::Unknown,
        }
    }

    /// The cause alone.
    pub(crate) fn cause(&self) -> &DisconnectCause {
        &self.cause
    }
}

impl fmt::Display for Disconnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.address, self.cause)?;
        match &self.prior {
            Some(goaway) => write!(f, "; received before: {goaway}"),
            None => Ok(()),
        }
    }
}

impl Error for Disconnect {}

/// What ended a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DisconnectCause {
    /// The server asked for it.
    Goaway(Goaway),
    /// The connection broke or was closed by the server.
    Lost(Loss),
    /// The server broke the rules of HTTP/2; the text says which.
    Protocol(String),
    /// The server was asked whether it lives, and nothing arrived for so long.
    NoSignOfLife {
        /// How long.
        timeout: Duration,
    },
    /// The server has taken nothing of what was to be sent, for so long.
    Stalled {
        /// How long.
        after: Duration,
    },
    /// So many calls have ended that the server gave no window for.
    NoWindow {
        /// How many.
        calls: usize,
    },
    /// All stream ids of the connection are used up.
    StreamIdsUsedUp,
    /// This side wanted it.
    Local,
    /// Whatever kept the connection alive is gone: its task was dropped.
    Abandoned,
}

impl DisconnectCause {
    /// Whether this side has given the connection up, which lives as yet.
    pub(crate) fn is_of_this_side(&self) -> bool {
        match self {
            Self::Local | Self::Stalled { .. } | Self::NoWindow { .. } | Self::StreamIdsUsedUp => {
                true
            }
            Self::Goaway(_)
            | Self::Lost(_)
            | Self::Protocol(_)
            | Self::NoSignOfLife { .. }
            | Self::Abandoned => false,
        }
    }
}

impl fmt::Display for DisconnectCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Goaway(goaway) => goaway.fmt(f),
            Self::Lost(loss) => f.write_str(&loss.how),
            Self::Protocol(what) => write!(f, "the server broke the HTTP/2 protocol: {what}"),
            Self::NoSignOfLife { timeout } => {
                write!(f, "keepalive: the server has not answered a PING within {timeout:?}")
            }
            Self::Stalled { after } => {
                write!(f, "the server has taken nothing of what was to be sent for {after:?}")
            }
            Self::NoWindow { calls } => write!(
                f,
                "the server gives no window: {calls} calls have ended that could not send their \
                 messages"
            ),
            Self::StreamIdsUsedUp => f.write_str("the stream ids of the connection are used up"),
            Self::Local => f.write_str("closed by this side"),
            Self::Abandoned => f.write_str("the task that drives the connection is gone"),
        }
    }
}

/// How a stream of bytes ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Loss {
    /// In words.
    pub(crate) how: String,
    /// The error of the socket; none where the other side closed it.
    pub(crate) kind: Option<io::ErrorKind>,
}

/// A GOAWAY of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Goaway {
    /// The last stream that the server may still answer.
    pub(crate) last_stream: u32,
    /// Its error code.
    pub(crate) code: ErrorCode,
    /// What the server added, escaped where it is not printable ASCII and cut where it is long.
    pub(crate) debug_data: String,
}

impl Goaway {
    /// One with this code and debug data, which the caller has bounded.
    pub(crate) fn new(last_stream: u32, code: u32, debug_data: &[u8]) -> Self {
        let debug_data = debug_data.escape_ascii().to_string();
        Self { last_stream, code: ErrorCode(code), debug_data }
    }

    /// Whether the server says that it is sent too many PINGs (A8).
    pub(crate) fn is_too_many_pings(&self) -> bool {
        self.code == ErrorCode::ENHANCE_YOUR_CALM && self.debug_data == "too_many_pings"
    }
}

impl fmt::Display for Goaway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GOAWAY {}", self.code)?;
        if self.debug_data.is_empty() {
            return Ok(());
        }
        write!(f, ", debug data \"{}\"", self.debug_data)
    }
}

/// An error code of HTTP/2, as `RST_STREAM` and GOAWAY carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ErrorCode(pub(crate) u32);

impl ErrorCode {
    pub(crate) const NO_ERROR: Self = Self(0);
    pub(crate) const PROTOCOL_ERROR: Self = Self(1);
    pub(crate) const INTERNAL_ERROR: Self = Self(2);
    pub(crate) const FLOW_CONTROL_ERROR: Self = Self(3);
    pub(crate) const SETTINGS_TIMEOUT: Self = Self(4);
    pub(crate) const STREAM_CLOSED: Self = Self(5);
    pub(crate) const FRAME_SIZE_ERROR: Self = Self(6);
    pub(crate) const REFUSED_STREAM: Self = Self(7);
    pub(crate) const CANCEL: Self = Self(8);
    pub(crate) const COMPRESSION_ERROR: Self = Self(9);
    pub(crate) const CONNECT_ERROR: Self = Self(10);
    pub(crate) const ENHANCE_YOUR_CALM: Self = Self(11);
    pub(crate) const INADEQUATE_SECURITY: Self = Self(12);
    pub(crate) const HTTP_1_1_REQUIRED: Self = Self(13);
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match ERROR_CODE_NAMES.get(self.0 as usize) {
            Some(name) => f.write_str(name),
            None => write!(f, "error code {}", self.0),
        }
    }
}

/// Why a stream did not open, or did not end with the server's trailers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StreamError {
    /// Nothing of it left this process.
    Unsent(Arc<Disconnect>),
    /// The server says that it has not looked at it: `REFUSED_STREAM`.
    Refused,
    /// The server says that it will not look at it: GOAWAY with a lower last stream.
    Unprocessed(Arc<Disconnect>),
    /// The server reset it.
    Reset(ErrorCode),
    /// The response breaks the rules of HTTP/2, or its header fields exceed the limit.
    Malformed(ErrorCode),
    /// The header fields before the messages exceed the limit.
    HeadTooLarge {
        /// Bytes that are allowed, each field counted with 32 for its overhead.
        limit: usize,
    },
    /// The connection ended under it.
    Lost(Arc<Disconnect>),
    /// The deadline passed while the stream was open.
    DeadlineExceeded,
    /// The deadline passed before anything was sent.
    Overdue,
    /// This side closed the connection.
    Closed,
    /// This side has ended the stream, or has seen its end; the receiving half knows how it ended.
    Ended,
    /// As many calls as are allowed wait already for the server to take more streams.
    QueueFull {
        /// How many may wait.
        limit: usize,
    },
    /// More has arrived on the channel that nobody has read than is allowed, and this stream had
    /// most of it.
    ReceiveBufferFull {
        /// Bytes that are allowed.
        limit: usize,
    },
    /// The server has not proved to be who the request is addressed to; nothing was sent.
    NotProved(Arc<NotProved>),
    /// The request has more header fields than can be sent.
    TooManyFields,
    /// The request has more header fields than the server takes.
    FieldsTooLarge {
        /// Their bytes, each counted with 32 for its overhead.
        bytes: usize,
        /// Bytes that the server takes.
        limit: usize,
    },
    /// The request has more header fields than the channel sends.
    FieldsOverLimit {
        /// Their bytes, each counted with 32 for its overhead.
        bytes: usize,
        /// Bytes that are allowed.
        limit: usize,
    },
    /// A message to be sent is longer than HTTP/2 can count.
    SendTooLarge {
        /// Its bytes.
        len: usize,
    },
    /// The response is none of gRPC.
    NotGrpc(Box<NotGrpc>),
    /// The response ended without trailers.
    NoTrailers,
    /// A received message is longer than allowed.
    TooLarge {
        /// Bytes announced.
        len: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// A received message has a flag that is neither 0 nor 1.
    BadFlag(u8),
    /// The response ended in the middle of a message.
    Truncated,
}

/// A server is not called by a name that it has not proved to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NotProved {
    /// What the request is addressed to.
    pub(crate) authority: Authority,
    /// What the connection was secured for.
    pub(crate) secured_for: Authority,
    /// Why the server is not the one, as a sentence.
    pub(crate) reason: Arc<str>,
}

/// A response that does not say how the call ended: mostly, something else answered than a gRPC
/// server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NotGrpc {
    /// The HTTP status.
    pub(crate) http_status: u16,
    /// The content type, where there is one.
    pub(crate) content_type: Option<String>,
    /// Whether that is one of gRPC.
    pub(crate) is_grpc: bool,
    /// The beginning of the body, where it is a text.
    pub(crate) body: String,
}

impl NotGrpc {
    /// The code for its HTTP status, as [gRPC maps] them.
    ///
    /// [gRPC maps]: https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md
    pub(crate) fn code(&self) -> Code {
        match self.http_status {
            400 => Code::INTERNAL,
            401 => Code::UNAUTHENTICATED,
            403 => Code::PERMISSION_DENIED,
            404 => Code::UNIMPLEMENTED,
            429 | 502 | 503 | 504 => Code::UNAVAILABLE,
            _ => Code::UNKNOWN,
        }
    }
}

impl StreamError {
    /// What the server may have seen: the fact that decides on transparent retries.
    pub(crate) fn seen(&self) -> Seen {
        match self {
            Self::Unsent(_) => Seen::Never,
            Self::Refused | Self::Unprocessed(_) => Seen::Refused,
            Self::Reset(_)
            | Self::Malformed(_)
            | Self::HeadTooLarge { .. }
            | Self::Lost(_)
            | Self::DeadlineExceeded
            // Nothing has seen it, and there is no time for another.
            | Self::Overdue
            | Self::Closed
            | Self::Ended
            | Self::QueueFull { .. }
            | Self::ReceiveBufferFull { .. }
            // Nothing left, but the same would happen again at once.
            | Self::NotProved(_)
            | Self::TooManyFields
            | Self::FieldsTooLarge { .. }
            | Self::FieldsOverLimit { .. }
            | Self::SendTooLarge { .. }
            | Self::NotGrpc(_)
            | Self::NoTrailers
            | Self::TooLarge { .. }
            | Self::BadFlag(_)
            | Self::Truncated => Seen::Maybe,
        }
    }
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsent(cause) => write!(f, "{cause}; the request was not sent"),
            Self::Refused => f.write_str("the server refused the stream (REFUSED_STREAM)"),
            Self::Unprocessed(cause) => {
                write!(f, "{cause}; the server has not processed the request")
            }
            Self::Reset(code) => write!(f, "the server reset the stream: {code}"),
            Self::Malformed(code) => write!(
                f,
                "the response breaks the HTTP/2 protocol or its headers are too large: {code}"
            ),
            Self::HeadTooLarge { limit } => write!(
                f,
                "the response has more than {limit} bytes of header fields: raise \
                 max_header_list_bytes to take them"
            ),
            Self::Lost(cause) => cause.fmt(f),
            Self::DeadlineExceeded => f.write_str("the deadline passed"),
            Self::Overdue => f.write_str("the deadline passed before the request was sent"),
            Self::Closed => f.write_str("the connection was closed by this side"),
            Self::Ended => f.write_str("the stream has ended"),
            Self::QueueFull { limit } => {
                write!(f, "{limit} calls wait already for the server to take more streams")
            }
            Self::ReceiveBufferFull { limit } => write!(
                f,
                "the channel holds more than {limit} bytes that nobody has read, and this stream \
                 most of them"
            ),
            Self::NotProved(what) => what.fmt(f),
            Self::TooManyFields => f.write_str("the request has too many header fields"),
            Self::FieldsTooLarge { bytes, limit } => write!(
                f,
                "the request has {bytes} bytes of header fields, and the server takes {limit}: send \
                 less metadata"
            ),
            Self::FieldsOverLimit { bytes, limit } => write!(
                f,
                "the request has {bytes} bytes of header fields, and {limit} may be sent: send less \
                 metadata, or raise max_request_header_list_bytes"
            ),
            Self::SendTooLarge { len } => {
                write!(f, "a message of {len} bytes is longer than HTTP/2 can carry in one piece")
            }
            Self::NotGrpc(what) => what.fmt(f),
            Self::NoTrailers => f.write_str("the server ended the stream without trailers"),
            Self::TooLarge { len, limit } => {
                write!(f, "the server sent a message of {len} bytes where {limit} are allowed")
            }
            Self::BadFlag(flag) => write!(
                f,
                "the server sent a message with the flag {flag}, which is neither 0 nor 1"
            ),
            Self::Truncated => {
                f.write_str("the server ended the stream in the middle of a message")
            }
        }
    }
}

impl Error for StreamError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Unsent(cause) | Self::Unprocessed(cause) | Self::Lost(cause) => Some(&**cause),
            _ => None,
        }
    }
}

impl fmt::Display for NotProved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { authority, secured_for, reason } = self;
        write!(
            f,
            "the call's authority is `{authority}`, and the connection is secured for \
             `{secured_for}`: {reason}"
        )
    }
}

impl fmt::Display for NotGrpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server answered with HTTP status {}", self.http_status)?;
        match &self.content_type {
            Some(content_type) => {
                write!(f, " and content type `{}`", harmless(content_type))?;
            }
            None => f.write_str(" and no content type")?,
        }
        f.write_str(if self.is_grpc { ", and no grpc-status" } else { ", which is not gRPC" })?;
        if self.body.is_empty() {
            return Ok(());
        }
        write!(f, ": {}", harmless(&self.body))
    }
}

/// `error` as it stands within a sentence: the operating system begins its texts with a capital.
pub(crate) fn in_words(error: &io::Error) -> String {
    #[cfg(feature = "_tls")]
    if let Some(text) = super::tls::of_io_error(error) {
        return text;
    }
    let text = harmless(&error.to_string()).to_string();
    if text.trim().is_empty() {
        return error.kind().to_string();
    }
    let mut letters = text.chars();
    match letters.next() {
        // "I/O error" and the like stay.
        Some(first) if letters.clone().next().is_some_and(char::is_lowercase) => {
            first.to_lowercase().chain(letters).collect()
        }
        _ => text,
    }
}

const ERROR_CODE_NAMES: [&str; 14] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn address() -> Address {
        Address::Socket("10.0.0.7:443".parse().unwrap())
    }

    #[test]
    fn a_connect_error_names_the_address_and_the_whole_cause() {
        let refused = io::Error::from_raw_os_error(111);
        let error = ConnectError::new(address(), ConnectFault::Dial(Arc::new(refused)));
        assert_eq!(error.to_string(), "10.0.0.7:443: connection refused (os error 111)");
        let source = error.source().unwrap().downcast_ref::<io::Error>();
        assert_eq!(source.unwrap().kind(), io::ErrorKind::ConnectionRefused);
        let phase = ConnectFault::TimedOut(ConnectPhase::AwaitingSettings);
        assert_eq!(
            ConnectError::new(address(), phase).to_string(),
            "10.0.0.7:443: the connect deadline passed while waiting for the server's SETTINGS"
        );
    }

    #[test]
    fn a_disconnect_tells_of_the_goaway_before() {
        let goaway = Goaway::new(0, ErrorCode::ENHANCE_YOUR_CALM.0, b"too_many_pings");
        let cause = DisconnectCause::Goaway(goaway.clone());
        let told = Disconnect::new(address(), cause).after(Some(goaway.clone()));
        assert_eq!(
            told.to_string(),
            "10.0.0.7:443: GOAWAY ENHANCE_YOUR_CALM, debug data \"too_many_pings\""
        );
        let lost = Disconnect::new(
            address(),
            DisconnectCause::Lost(Loss { how: "it broke".into(), kind: None }),
        );
        let lost = lost.after(Some(goaway));
        assert_eq!(
            lost.to_string(),
            "10.0.0.7:443: it broke; received before: GOAWAY ENHANCE_YOUR_CALM, debug data \
             \"too_many_pings\""
        );
    }

    // spec: A94/disconnect-reason
    #[test]
    fn what_ended_a_connection_is_told_in_short() {
        let goaway = |code| DisconnectCause::Goaway(Goaway::new(0, code, b""));
        let lost = |kind| DisconnectCause::Lost(Loss { how: "it broke".into(), kind });
        let timeout = Duration::from_secs(1);
        for (cause, reason) in [
            (goaway(11), DisconnectReason::Goaway { code: "ENHANCE_YOUR_CALM" }),
            (goaway(4711), DisconnectReason::Goaway { code: "INTERNAL_ERROR" }),
            (lost(Some(io::ErrorKind::ConnectionReset)), DisconnectReason::ConnectionReset),
            (lost(Some(io::ErrorKind::ConnectionAborted)), DisconnectReason::ConnectionAborted),
            (lost(Some(io::ErrorKind::TimedOut)), DisconnectReason::ConnectionTimedOut),
            (lost(Some(io::ErrorKind::BrokenPipe)), DisconnectReason::SocketError),
            (lost(None), DisconnectReason::Unknown),
            (DisconnectCause::NoSignOfLife { timeout }, DisconnectReason::ConnectionTimedOut),
            (DisconnectCause::Local, DisconnectReason::SubchannelShutdown),
            (DisconnectCause::Stalled { after: timeout }, DisconnectReason::ConnectionTimedOut),
            (DisconnectCause::NoWindow { calls: 5 }, DisconnectReason::Unknown),
            (DisconnectCause::StreamIdsUsedUp, DisconnectReason::Unknown),
        ] {
            assert_eq!(Disconnect::new(address(), cause).reason(), reason);
        }
    }

    #[test]
    fn an_error_without_a_text_is_told_by_its_kind() {
        assert_eq!(in_words(&io::Error::new(io::ErrorKind::TimedOut, "")), "timed out");
    }

    #[test]
    fn a_stream_error_is_small() {
        assert!(size_of::<StreamError>() <= 3 * size_of::<usize>());
    }
}
