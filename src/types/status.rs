//! How a call ended.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;

use super::Metadata;

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
    metadata: Metadata,
    details: Bytes,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

impl Status {
    /// A status of `code` with a message for people.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            code,
            message: message.into(),
            metadata: Metadata::new(),
            details: Bytes::new(),
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

    /// The same status with this before its message.
    pub(crate) fn with_prefix(mut self, prefix: &str) -> Self {
        self.0.message.insert_str(0, prefix);
        self
    }

    /// The code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The message, for people.
    pub fn message(&self) -> &str {
        &self.0.message
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

    /// As a status of the control plane (a resolver, a policy) reaches a call (A54): codes that
    /// only a server may use become INTERNAL, the text is kept.
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
            return status;
        }
        let mut inner = status.0;
        inner.message = format!("{} from the control plane: {}", inner.code, inner.message);
        inner.code = Code::INTERNAL;
        Self(inner)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.message() {
            "" => self.code().fmt(f),
            message => write!(f, "{}: {message}", self.code()),
        }
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Status");
        debug.field("code", &self.code()).field("message", &self.message());
        if !self.metadata().is_empty() {
            debug.field("metadata", self.metadata());
        }
        if let Some(source) = &self.0.source {
            debug.field("source", source);
        }
        debug.finish()
    }
}

impl Error for Status {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

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
        }
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
