//! How a call ended.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;

use super::{Address, Harmless, Metadata, MethodPath, harmless};

/// A gRPC status code.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code(u32);

impl Code {
    /// The call succeeded.
    pub const OK: Self = Self(0);
    /// The call was cancelled, usually by the caller.
    pub const CANCELLED: Self = Self(1);
    /// Nothing better is known.
    pub const UNKNOWN: Self = Self(2);
    /// The request cannot be right, whatever the state of the system.
    pub const INVALID_ARGUMENT: Self = Self(3);
    /// The deadline passed before the call ended.
    pub const DEADLINE_EXCEEDED: Self = Self(4);
    /// What the call asked for does not exist.
    pub const NOT_FOUND: Self = Self(5);
    /// What the call wanted to create exists.
    pub const ALREADY_EXISTS: Self = Self(6);
    /// The caller may not do this.
    pub const PERMISSION_DENIED: Self = Self(7);
    /// A limit or quota is used up.
    pub const RESOURCE_EXHAUSTED: Self = Self(8);
    /// The system is not in the state that the call needs.
    pub const FAILED_PRECONDITION: Self = Self(9);
    /// The call was aborted, often by a conflict with another.
    pub const ABORTED: Self = Self(10);
    /// Past the end of what there is.
    pub const OUT_OF_RANGE: Self = Self(11);
    /// The server does not have this method.
    pub const UNIMPLEMENTED: Self = Self(12);
    /// Something that must hold does not.
    pub const INTERNAL: Self = Self(13);
    /// The server cannot be reached now; trying again may help.
    pub const UNAVAILABLE: Self = Self(14);
    /// Data is lost for good.
    pub const DATA_LOSS: Self = Self(15);
    /// The caller is not authenticated.
    pub const UNAUTHENTICATED: Self = Self(16);

    /// The code of this number. Numbers that gRPC does not define are kept as they are.
    pub const fn from_number(number: u32) -> Self {
        Self(number)
    }

    /// The code of this name, such as `UNAVAILABLE`. `CANCELED` will do as well.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        let name = if name == "CANCELED" { "CANCELLED" } else { name };
        let number = NAMES.iter().position(|known| *known == name)?;
        Some(Self(number as u32))
    }

    /// Its number on the wire.
    pub const fn number(self) -> u32 {
        self.0
    }

    /// Its name, such as `UNAVAILABLE`; `None` for a number that gRPC does not define.
    pub fn name(self) -> Option<&'static str> {
        NAMES.get(self.0 as usize).copied()
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => write!(f, "CODE({})", self.0),
        }
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

const NAMES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// Why a call did not succeed: a code, a message that names what failed and the whole cause, and
/// the metadata that the server sent with it.
///
/// One pointer wide, so that results stay small. `source()` is the error that caused it, where
/// one did.
#[derive(Clone)]
pub struct Status(Box<Inner>);

#[derive(Clone)]
struct Inner {
    code: Code,
    message: String,
    headers: Metadata,
    metadata: Metadata,
    details: Bytes,
    /// The call that the server ended, where the status is the server's.
    origin: Option<Origin>,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

/// Where a status of a server comes from.
#[derive(Clone)]
struct Origin {
    method: MethodPath,
    peer: Address,
}

impl Status {
    /// A status of `code` with a message for people.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            code,
            message: message.into(),
            headers: Metadata::new(),
            metadata: Metadata::new(),
            details: Bytes::new(),
            origin: None,
            source: None,
        }))
    }

    /// UNAVAILABLE: the server cannot be reached now.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Code::UNAVAILABLE, message)
    }

    /// INTERNAL: something that must hold does not.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Code::INTERNAL, message)
    }

    /// CANCELLED: the call was given up.
    pub fn cancelled(message: impl Into<String>) -> Self {
        Self::new(Code::CANCELLED, message)
    }

    /// `DEADLINE_EXCEEDED`: the deadline passed first.
    pub fn deadline_exceeded(message: impl Into<String>) -> Self {
        Self::new(Code::DEADLINE_EXCEEDED, message)
    }

    /// `RESOURCE_EXHAUSTED`: a limit is used up.
    pub fn resource_exhausted(message: impl Into<String>) -> Self {
        Self::new(Code::RESOURCE_EXHAUSTED, message)
    }

    /// The same status, with the error that caused it.
    pub fn with_source(mut self, source: impl Error + Send + Sync + 'static) -> Self {
        self.0.source = Some(Arc::new(source));
        self
    }

    /// The same status, with metadata.
    pub fn with_metadata(mut self, metadata: Metadata) -> Self {
        self.0.metadata = metadata;
        self
    }

    /// The same status, with encoded `google.rpc.Status` details.
    pub fn with_details(mut self, details: Bytes) -> Self {
        self.0.details = details;
        self
    }

    /// The same status, with the response headers that came before it.
    pub fn with_headers(mut self, headers: Metadata) -> Self {
        self.0.headers = headers;
        self
    }

    /// The same status, as the server at `peer` ended a call of `method` with it.
    pub(crate) fn sent_by(mut self, method: &MethodPath, peer: &Address) -> Self {
        self.0.origin = Some(Origin { method: method.clone(), peer: peer.clone() });
        self
    }

    /// The same status with this before its message.
    pub(crate) fn with_prefix(mut self, prefix: &str) -> Self {
        self.0.message = format!("{prefix}{}", self.words());
        self
    }

    /// The same status with this behind its message.
    pub(crate) fn with_suffix(mut self, suffix: &str) -> Self {
        self.0.message = format!("{}{suffix}", self.words());
        self
    }

    /// The same status caused by `source`, unless its cause is known.
    pub(crate) fn or_source(self, source: impl Error + Send + Sync + 'static) -> Self {
        if self.0.source.is_some() { self } else { self.with_source(source) }
    }

    /// The code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The message, for people. Empty where a server has sent a status without one; the status
    /// as text (`Display`) then names the server and the method. No status that the channel makes
    /// itself has an empty message.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The headers of the response that ended with this status; empty where the server sent
    /// none before the status.
    pub fn headers(&self) -> &Metadata {
        &self.0.headers
    }

    /// What the server sent with the status: its trailers.
    pub fn metadata(&self) -> &Metadata {
        &self.0.metadata
    }

    /// The encoded `google.rpc.Status` that the server sent in `grpc-status-details-bin`; empty if
    /// it sent none.
    pub fn details(&self) -> &[u8] {
        &self.0.details
    }

    /// Whether a server has sent it.
    pub(crate) fn is_from_server(&self) -> bool {
        self.0.origin.is_some()
    }

    /// In words, with the server that sent it. What the channel says itself names the server in
    /// its message.
    pub(crate) fn at_length(&self) -> String {
        match (&self.0.origin, self.message()) {
            (Some(origin), message) if !message.is_empty() => {
                format!("{} from {}: {message}", self.code(), origin.peer)
            }
            _ => self.to_string(),
        }
    }

    /// The message as it can be shown, which may be a server's.
    pub(crate) fn text(&self) -> Harmless<'_> {
        harmless(self.message()).up_to(MESSAGE_BYTES_MAX)
    }

    /// The message, or what stands for it.
    fn words(&self) -> Cow<'_, str> {
        match (&self.0.origin, self.message()) {
            (Some(origin), "") => Cow::Owned(origin.to_string()),
            (None, "") => Cow::Owned(format!("{} without a message", self.code())),
            (_, message) => Cow::Borrowed(message),
        }
    }

    /// As a status of the control plane (a resolver, a policy) reaches a call (A54): codes that
    /// only a server may use become INTERNAL, the text is kept. One without a text gets one.
    pub(crate) fn from_control_plane(status: Self) -> Self {
        let restricted = matches!(
            status.code(),
            Code::OK
                | Code::INVALID_ARGUMENT
                | Code::NOT_FOUND
                | Code::ALREADY_EXISTS
                | Code::FAILED_PRECONDITION
                | Code::ABORTED
                | Code::OUT_OF_RANGE
                | Code::DATA_LOSS
        );
        if !restricted {
            let is_bare = status.message().is_empty();
            return if is_bare {
                status.with_prefix("the control plane failed with ")
            } else {
                status
            };
        }
        let mut inner = status.0;
        if inner.message.is_empty() {
            "no message was given".clone_into(&mut inner.message);
        }
        inner.message = format!("{} from the control plane: {}", inner.code, inner.message);
        inner.code = Code::INTERNAL;
        Self(inner)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.0.origin, self.message()) {
            (Some(origin), "") => write!(f, "{}: {origin}", self.code()),
            (None, "") => self.code().fmt(f),
            _ => write!(f, "{}: {}", self.code(), self.text()),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} gave no message for {}", self.peer, self.method)
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Status");
        let text = self.text();
        debug.field("code", &self.code()).field("message", &format_args!("\"{text}\""));
        if let Some(Origin { method, peer }) = &self.0.origin {
            debug.field("method", &method.as_str()).field("peer", peer);
        }
        if !self.headers().is_empty() {
            debug.field("headers", self.headers());
        }
        if !self.metadata().is_empty() {
            debug.field("metadata", self.metadata());
        }
        if let Some(source) = &self.0.source {
            let text = format!("{source:?}");
            debug.field("source", &format_args!("{}", harmless(&text).up_to(MESSAGE_BYTES_MAX)));
        }
        debug.finish()
    }
}

impl Error for Status {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

/// So much of a message is shown: room for one within another, each with its own excerpt.
const MESSAGE_BYTES_MAX: usize = 4 * 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_one_pointer_wide() {
        assert_eq!(size_of::<Status>(), size_of::<usize>());
    }

    // spec: A54/restricted-codes
    #[test]
    fn the_control_plane_cannot_speak_for_the_server() {
        for number in 0..=17 {
            let code = Code::from_number(number);
            let rewritten = Status::from_control_plane(Status::new(code, "why"));
            let restricted = matches!(number, 0 | 3 | 5 | 6 | 9 | 10 | 11 | 15);
            assert_eq!(rewritten.code(), if restricted { Code::INTERNAL } else { code });
            assert!(rewritten.message().contains("why"));
            let bare = Status::from_control_plane(Status::new(code, ""));
            assert!(bare.message().contains(&code.to_string()), "{bare}");
        }
    }

    #[test]
    fn a_bare_status_of_a_server_is_shown_with_the_server_and_the_method() {
        let method = MethodPath::parse_static("/helloworld.Greeter/SayHello").unwrap();
        let peer = Address::Socket("10.0.0.7:443".parse().unwrap());
        let bare = Status::new(Code::NOT_FOUND, "").sent_by(&method, &peer);
        assert_eq!(bare.message(), "");
        let shown = "10.0.0.7:443 gave no message for /helloworld.Greeter/SayHello";
        assert_eq!(bare.to_string(), format!("NOT_FOUND: {shown}"));
        assert_eq!(bare.at_length(), bare.to_string());
        assert_eq!(bare.with_prefix("again: ").message(), format!("again: {shown}"));
        let told = Status::new(Code::NOT_FOUND, "no Ada").sent_by(&method, &peer);
        assert_eq!(told.to_string(), "NOT_FOUND: no Ada");
        assert_eq!(told.at_length(), "NOT_FOUND from 10.0.0.7:443: no Ada");
    }

    #[test]
    fn a_status_prints_its_code_message_and_keeps_its_source() {
        let status =
            Status::unavailable("10.0.0.7:443: connection refused")
                .with_source(
                    Arc::new(std::io::Error::other("refused")) as Arc<dyn Error + Send + Sync>
                );
        assert_eq!(status.to_string(), "UNAVAILABLE: 10.0.0.7:443: connection refused");
        assert_eq!(status.source().unwrap().to_string(), "refused");
        assert_eq!(Status::new(Code::from_number(99), "").to_string(), "CODE(99)");
    }
}
