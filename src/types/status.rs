//! How a call ended.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;

use super::{Address, Harmless, Metadata, MethodPath, harmless};

/// A gRPC status code.
///
/// A call ends with the code of its server, or with one that this library makes. The library makes
/// these, and no others:
///
/// | Code | When the library makes it |
/// |---|---|
/// | [`CANCELLED`](Self::CANCELLED) | The application cancels or drops the call, or closes the channel; the server resets the stream with CANCEL; a message is sent after the server has ended the call with OK |
/// | [`UNKNOWN`](Self::UNKNOWN) | The server gives a status that is not a number, or none and an HTTP status that gRPC does not map; it resets the stream with an error code that HTTP/2 does not define |
/// | [`DEADLINE_EXCEEDED`](Self::DEADLINE_EXCEEDED) | The deadline or timeout of the call passes first |
/// | [`PERMISSION_DENIED`](Self::PERMISSION_DENIED) | The server answers with HTTP status 403 and no status of gRPC, or resets the stream with `INADEQUATE_SECURITY` |
/// | [`RESOURCE_EXHAUSTED`](Self::RESOURCE_EXHAUSTED) | A limit of this side is reached: the size of a message or of the request's header fields, calls that wait, memory for what nobody has read; the server resets the stream with `ENHANCE_YOUR_CALM` |
/// | [`UNIMPLEMENTED`](Self::UNIMPLEMENTED) | The number of requests or responses is not that of the method; the server answers with HTTP status 404 and no status of gRPC |
/// | [`INTERNAL`](Self::INTERNAL) | The server breaks the protocol; a message cannot be encoded, decoded or (de)compressed; a part of the application panics, or fails with a code that is not its to give |
/// | [`UNAVAILABLE`](Self::UNAVAILABLE) | No server can be reached, or the connection is lost; the server refuses the stream, or has not proved the name that the call is addressed to; the server answers with HTTP status 429, 502, 503 or 504 and no status of gRPC; the channel has no runtime to run on |
/// | [`UNAUTHENTICATED`](Self::UNAUTHENTICATED) | The credentials of the call cannot be used, or want more protection than the connection has; the server answers with HTTP status 401 and no status of gRPC |
///
/// `INVALID_ARGUMENT`, `NOT_FOUND`, `ALREADY_EXISTS`, `FAILED_PRECONDITION`, `ABORTED`,
/// `OUT_OF_RANGE` and `DATA_LOSS` come from servers, and from interceptors of the application,
/// only. Where a resolver, a config selector, a load-balancing policy or call credentials give one
/// of them, the call ends with `INTERNAL` and a message that names both.
///
/// The list is that of gRPC's [status codes], with `PERMISSION_DENIED` and `UNAUTHENTICATED` as its
/// mappings of [HTTP statuses] and [HTTP/2 error codes] have it. A service of this library's own
/// for servers, channelz, answers with `NOT_FOUND` where gRPC says so.
///
/// [status codes]: https://github.com/grpc/grpc/blob/master/doc/statuscodes.md
/// [HTTP statuses]: https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md
/// [HTTP/2 error codes]: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#errors
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
/// One pointer wide, so that results stay small. The text (`Display`) is the code and the message.
/// [`cause`](Self::cause) is the error that caused it, where one did; `source()` is what that says
/// beyond the text, so that a report of the whole chain says nothing twice.
#[derive(Clone)]
pub struct Status(Box<Inner>);

#[derive(Clone)]
struct Inner {
    code: Code,
    message: String,
    headers: Metadata,
    metadata: Metadata,
    details: Bytes,
    origin: Origin,
    cause: Option<Arc<dyn Error + Send + Sync>>,
}

/// Who says that the call ended so.
#[derive(Clone)]
enum Origin {
    /// This side, as far as is known of which call, and to which server.
    Here { method: Option<MethodPath>, peer: Option<Address> },
    /// The server at `peer`, to a call of `method`.
    Server { method: MethodPath, peer: Address },
}

impl Status {
    /// A status of `code` with a message for people.
    ///
    /// ```
    /// use switchboard::{Code, Status};
    ///
    /// let status = Status::not_found("there is no tenant `blue`");
    /// assert_eq!(status.code(), Code::NOT_FOUND);
    /// assert_eq!(status.to_string(), "NOT_FOUND: there is no tenant `blue`");
    /// ```
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            code,
            message: message.into(),
            headers: Metadata::new(),
            metadata: Metadata::new(),
            details: Bytes::new(),
            origin: Origin::Here { method: None, peer: None },
            cause: None,
        }))
    }

    /// `CANCELLED`: the call was given up.
    pub fn cancelled(message: impl Into<String>) -> Self {
        Self::new(Code::CANCELLED, message)
    }

    /// `UNKNOWN`: nothing better is known.
    pub fn unknown(message: impl Into<String>) -> Self {
        Self::new(Code::UNKNOWN, message)
    }

    /// `INVALID_ARGUMENT`: the request cannot be right, whatever the state of the system.
    pub fn invalid_argument(message: impl Into<String>) -> Self {
        Self::new(Code::INVALID_ARGUMENT, message)
    }

    /// `DEADLINE_EXCEEDED`: the deadline passed first.
    pub fn deadline_exceeded(message: impl Into<String>) -> Self {
        Self::new(Code::DEADLINE_EXCEEDED, message)
    }

    /// `NOT_FOUND`: what the call asked for does not exist.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Code::NOT_FOUND, message)
    }

    /// `ALREADY_EXISTS`: what the call wanted to create exists.
    pub fn already_exists(message: impl Into<String>) -> Self {
        Self::new(Code::ALREADY_EXISTS, message)
    }

    /// `PERMISSION_DENIED`: the caller may not do this.
    pub fn permission_denied(message: impl Into<String>) -> Self {
        Self::new(Code::PERMISSION_DENIED, message)
    }

    /// `RESOURCE_EXHAUSTED`: a limit is used up.
    pub fn resource_exhausted(message: impl Into<String>) -> Self {
        Self::new(Code::RESOURCE_EXHAUSTED, message)
    }

    /// `FAILED_PRECONDITION`: the system is not in the state that the call needs.
    pub fn failed_precondition(message: impl Into<String>) -> Self {
        Self::new(Code::FAILED_PRECONDITION, message)
    }

    /// `ABORTED`: the call was aborted, often by a conflict with another.
    pub fn aborted(message: impl Into<String>) -> Self {
        Self::new(Code::ABORTED, message)
    }

    /// `OUT_OF_RANGE`: past the end of what there is.
    pub fn out_of_range(message: impl Into<String>) -> Self {
        Self::new(Code::OUT_OF_RANGE, message)
    }

    /// `UNIMPLEMENTED`: the server does not have this method.
    pub fn unimplemented(message: impl Into<String>) -> Self {
        Self::new(Code::UNIMPLEMENTED, message)
    }

    /// `INTERNAL`: something that must hold does not.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Code::INTERNAL, message)
    }

    /// `UNAVAILABLE`: the server cannot be reached now.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Code::UNAVAILABLE, message)
    }

    /// `DATA_LOSS`: data is lost for good.
    pub fn data_loss(message: impl Into<String>) -> Self {
        Self::new(Code::DATA_LOSS, message)
    }

    /// `UNAUTHENTICATED`: the caller is not authenticated.
    pub fn unauthenticated(message: impl Into<String>) -> Self {
        Self::new(Code::UNAUTHENTICATED, message)
    }

    /// The same status, with the error that caused it.
    pub fn with_source(mut self, source: impl Error + Send + Sync + 'static) -> Self {
        self.0.cause = Some(Arc::new(source));
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
        self.0.origin = Origin::Server { method: method.clone(), peer: peer.clone() };
        self
    }

    /// The same status of a call to the server at `address`, where this side makes it.
    pub(crate) fn at(mut self, address: &Address) -> Self {
        if let Origin::Here { peer, .. } = &mut self.0.origin {
            *peer = Some(address.clone());
        }
        self
    }

    /// The same status of a call of `path`, unless its method is known.
    pub(crate) fn of_call(mut self, path: &MethodPath) -> Self {
        if let Origin::Here { method, .. } = &mut self.0.origin {
            method.get_or_insert_with(|| path.clone());
        }
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
        if self.0.cause.is_some() { self } else { self.with_source(source) }
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

    /// The server that the call was with: the one that sent the status, or the one that this side
    /// failed with. `None` where the call had no server yet, or several attempts are to blame, and
    /// for a status that the application makes.
    ///
    /// Clones have the same.
    pub fn peer(&self) -> Option<&Address> {
        match &self.0.origin {
            Origin::Server { peer, .. } => Some(peer),
            Origin::Here { peer, .. } => peer.as_ref(),
        }
    }

    /// The method that was called. `None` for a status that an interceptor or the application
    /// makes, and for a call that ends before the channel has it: its path is not one, or its
    /// request cannot be encoded.
    pub fn method(&self) -> Option<&MethodPath> {
        match &self.0.origin {
            Origin::Server { method, .. } => Some(method),
            Origin::Here { method, .. } => method.as_ref(),
        }
    }

    /// The error that caused it, where one did: to be told by its type. Its text is a part of the
    /// status's, as a rule.
    ///
    /// ```
    /// # use std::io;
    /// # use switchboard::Status;
    /// let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
    /// let status = Status::unavailable("10.0.0.7:443: connection refused").with_source(refused);
    /// let cause = status.cause().and_then(|cause| cause.downcast_ref::<io::Error>());
    /// assert_eq!(cause.map(io::Error::kind), Some(io::ErrorKind::ConnectionRefused));
    /// // The text has told it already.
    /// assert!(std::error::Error::source(&status).is_none());
    /// ```
    pub fn cause(&self) -> Option<&(dyn Error + 'static)> {
        self.0.cause.as_deref().map(|cause| cause as &(dyn Error + 'static))
    }

    /// Whether a server has sent it.
    pub(crate) fn is_from_server(&self) -> bool {
        matches!(self.0.origin, Origin::Server { .. })
    }

    /// In words, with the server that sent it. What the channel says itself names the server in
    /// its message.
    pub(crate) fn at_length(&self) -> String {
        match (&self.0.origin, self.message()) {
            (Origin::Server { peer, .. }, message) if !message.is_empty() => {
                format!("{} from {peer}: {message}", self.code())
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
            (Origin::Server { method, peer }, "") => {
                Cow::Owned(format!("{peer} gave no message for {method}"))
            }
            (Origin::Here { .. }, "") => Cow::Owned(format!("{} without a message", self.code())),
            (_, message) => Cow::Borrowed(message),
        }
    }

    /// As a status of a part of the application reaches a call that it is to end. `part` has its
    /// article: "the interceptor".
    ///
    /// OK is not a failure, so it becomes INTERNAL, and a status without a message gets one that
    /// names the part. What a server has sent stays as it is.
    pub(crate) fn of_part(self, part: &str) -> Self {
        match self.code() {
            Code::OK => self.refused_of(part),
            _ => self.named_after(part),
        }
    }

    /// The same of a part of the control plane (a resolver, a policy, credentials): codes that only
    /// a server may use become INTERNAL too (A54).
    pub(crate) fn of_control_part(self, part: &str) -> Self {
        match self.code() {
            Code::OK
            | Code::INVALID_ARGUMENT
            | Code::NOT_FOUND
            | Code::ALREADY_EXISTS
            | Code::FAILED_PRECONDITION
            | Code::ABORTED
            | Code::OUT_OF_RANGE
            | Code::DATA_LOSS => self.refused_of(part),
            _ => self.named_after(part),
        }
    }

    /// INTERNAL: `part` must not fail with this.
    fn refused_of(mut self, part: &str) -> Self {
        let said = match self.message() {
            "" => " and no message".to_owned(),
            message => format!(": {message}"),
        };
        self.0.message = format!("{part} failed with {}{said}", self.code());
        self.0.code = Code::INTERNAL;
        self
    }

    /// With a message.
    fn named_after(mut self, part: &str) -> Self {
        if self.message().trim().is_empty() && !self.is_from_server() {
            self.0.message = format!("{part} failed with {} and no message", self.code());
        }
        self
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.0.origin, self.message()) {
            (Origin::Server { .. }, "") => write!(f, "{}: {}", self.code(), self.words()),
            (Origin::Here { .. }, "") => self.code().fmt(f),
            _ => write!(f, "{}: {}", self.code(), self.text()),
        }
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Status");
        let text = self.text();
        debug.field("code", &self.code()).field("message", &format_args!("\"{text}\""));
        if let Some(method) = self.method() {
            debug.field("method", &method.as_str());
        }
        if let Some(peer) = self.peer() {
            debug.field("peer", peer);
        }
        if !self.headers().is_empty() {
            debug.field("headers", self.headers());
        }
        if !self.metadata().is_empty() {
            debug.field("metadata", self.metadata());
        }
        if let Some(cause) = &self.0.cause {
            let text = format!("{cause:?}");
            debug.field("cause", &format_args!("{}", harmless(&text).up_to(MESSAGE_BYTES_MAX)));
        }
        debug.finish()
    }
}

impl Error for Status {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        untold(&self.to_string(), self.cause())
    }
}

/// The first of `source` and the errors behind it whose text is not a part of `told`: what a report
/// of the whole chain has still to say.
pub(crate) fn untold<'a>(
    told: &str,
    source: Option<&'a (dyn Error + 'static)>,
) -> Option<&'a (dyn Error + 'static)> {
    let told = told.to_lowercase();
    let mut chain = std::iter::successors(source, |&error| error.source());
    // Texts of the operating system begin with a capital, and stand in a sentence without.
    chain.find(|error| !told.contains(error.to_string().to_lowercase().trim()))
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
            let rewritten = Status::new(code, "why").of_control_part("the picker");
            let restricted = matches!(number, 0 | 3 | 5 | 6 | 9 | 10 | 11 | 15);
            assert_eq!(rewritten.code(), if restricted { Code::INTERNAL } else { code });
            let said = if restricted {
                format!("the picker failed with {code}: why")
            } else {
                "why".to_owned()
            };
            assert_eq!(rewritten.message(), said);
        }
    }

    #[test]
    fn a_part_that_fails_without_a_message_or_with_ok_is_named() {
        for number in 0..=17 {
            let code = Code::from_number(number);
            for text in ["", " "] {
                for of in [Status::of_part, Status::of_control_part] {
                    let named = of(Status::new(code, text), "the picker");
                    let said = format!("the picker failed with {code}");
                    assert!(named.message().starts_with(&said), "{named}");
                    assert_ne!(named.code(), Code::OK);
                }
            }
            let passed = Status::new(code, "why").of_part("the picker");
            let expected = if number == 0 { Code::INTERNAL } else { code };
            assert_eq!(passed.code(), expected);
        }
        // A status of a server that a part passes on stays bare.
        let method = MethodPath::parse_static("/helloworld.Greeter/SayHello").unwrap();
        let peer = Address::Socket("10.0.0.7:443".parse().unwrap());
        let bare = Status::not_found("").sent_by(&method, &peer).of_part("the picker");
        assert_eq!((bare.code(), bare.message()), (Code::NOT_FOUND, ""));
    }

    #[test]
    fn each_code_has_a_constructor() {
        let made = [
            Status::cancelled("why"),
            Status::unknown("why"),
            Status::invalid_argument("why"),
            Status::deadline_exceeded("why"),
            Status::not_found("why"),
            Status::already_exists("why"),
            Status::permission_denied("why"),
            Status::resource_exhausted("why"),
            Status::failed_precondition("why"),
            Status::aborted("why"),
            Status::out_of_range("why"),
            Status::unimplemented("why"),
            Status::internal("why"),
            Status::unavailable("why"),
            Status::data_loss("why"),
            Status::unauthenticated("why"),
        ];
        for (status, number) in made.iter().zip(1..) {
            assert_eq!((status.code(), status.message()), (Code::from_number(number), "why"));
        }
        assert_eq!(made.len() + 1, NAMES.len());
    }

    #[test]
    fn a_status_says_which_call_it_is_of_and_what_the_server_has_said_stays_the_servers() {
        let method = MethodPath::parse_static("/helloworld.Greeter/SayHello").unwrap();
        let other = MethodPath::parse_static("/helloworld.Greeter/SayBye").unwrap();
        let peer = Address::Socket("10.0.0.7:443".parse().unwrap());
        let next = Address::Socket("10.0.0.8:443".parse().unwrap());
        let made = Status::internal("why");
        assert_eq!((made.method(), made.peer()), (None, None));
        let own = made.at(&peer).of_call(&method).of_call(&other);
        assert_eq!((own.method(), own.peer()), (Some(&method), Some(&peer)));
        assert!(!own.is_from_server());
        let sent = Status::internal("why").sent_by(&method, &peer).at(&next).of_call(&other);
        assert_eq!((sent.method(), sent.peer()), (Some(&method), Some(&peer)));
        assert!(sent.is_from_server());
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
    fn a_status_prints_its_code_and_message_and_its_source_says_only_what_is_new() {
        #[derive(Debug)]
        struct Layer(&'static str, Option<std::io::Error>);
        impl fmt::Display for Layer {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.0)
            }
        }
        impl Error for Layer {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                self.1.as_ref().map(|error| error as _)
            }
        }
        let status = |cause: Layer| {
            Status::unavailable("10.0.0.7:443: connection refused").with_source(cause)
        };
        let refused = |text: &'static str| Some(std::io::Error::other(text));
        let rows = [
            (status(Layer("10.0.0.7:443: connection refused", None)), None),
            (status(Layer("Connection refused", refused("Connection refused"))), None),
            (status(Layer("connection refused", refused("by a rule"))), Some("by a rule")),
            (status(Layer("by a rule", refused("refused"))), Some("by a rule")),
            (status(Layer("", None)), None),
        ];
        for (status, source) in rows {
            assert_eq!(status.to_string(), "UNAVAILABLE: 10.0.0.7:443: connection refused");
            assert!(status.cause().unwrap().is::<Layer>());
            assert_eq!(status.source().map(ToString::to_string).as_deref(), source);
        }
        assert_eq!(Status::new(Code::from_number(99), "").to_string(), "CODE(99)");
    }
}
