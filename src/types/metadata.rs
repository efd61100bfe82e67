//! Metadata: the headers and trailers of a call that belong to the application.

#[cfg(feature = "prost")]
use std::borrow::Cow;
use std::fmt::{self, Display as _};

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::{Status, harmless};

/// Keys and values that travel with a call.
///
/// A key is lower-case (upper case is lowered) and of the characters `0-9 a-z _ - .`; a value is
/// printable ASCII, unless the key ends in `-bin`: then it is any bytes. A key may have several
/// values, which keep their order. Keys that the protocol itself uses (`:`-prefixed,
/// `content-type`, `te`, `user-agent` and those of `grpc-` that it defines) are refused, and left
/// out of what is received.
///
/// Received metadata never fails a call: a value that cannot be read (base64 that is not valid, or
/// text that is not ASCII) is left out. A received `-bin` field whose value is several base64 texts
/// joined by commas has several values, as [gRPC over HTTP/2] has it; those of them that are not
/// valid base64 are left out.
///
/// [gRPC over HTTP/2]: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#requests
// Most calls carry none, and then it is one word that is moved about and nothing is allocated.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Metadata(Option<Box<HeaderMap>>);

impl Metadata {
    /// No metadata.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a text value to those of `key`.
    ///
    /// Refuses a key that is malformed, reserved or ends in `-bin`, and a value with anything but
    /// printable ASCII.
    pub fn append(&mut self, key: &str, value: impl AsRef<str>) -> Result<(), InvalidMetadata> {
        let (name, value) = ascii(key, value.as_ref())?;
        self.try_append(key, name, value)
    }

    /// Replaces all values of `key` by this text value, as [`Metadata::append`] otherwise.
    pub fn insert(&mut self, key: &str, value: impl AsRef<str>) -> Result<(), InvalidMetadata> {
        let (name, value) = ascii(key, value.as_ref())?;
        self.fields_mut().remove(&name);
        self.try_append(key, name, value)
    }

    /// Marks the values that `key` has now as sensitive; says whether there are any. They are sent
    /// as ever, but neither end remembers them for the compression of headers (RFC 7541, section
    /// 7.1.3), `Debug` does not show them, and a [`BinaryLog`](crate::BinaryLog) leaves them out.
    ///
    /// What call credentials add is marked by the channel. Values of keys that are known to hold
    /// secrets (`authorization`, `cookie`, `set-cookie`, `x-api-key` and the like) are never shown
    /// or logged, marked or not.
    pub fn mark_sensitive(&mut self, key: &str) -> bool {
        let lower = key.to_ascii_lowercase();
        let Some(fields) = self.0.as_mut().filter(|fields| fields.contains_key(&lower)) else {
            return false;
        };
        for (_, value) in fields.iter_mut().filter(|(name, _)| name.as_str() == lower) {
            value.set_sensitive(true);
        }
        true
    }

    /// Whether a value of `key` must not be shown or logged: it is marked, or the key is one of
    /// those that are known to hold secrets.
    pub fn is_sensitive(&self, key: &str) -> bool {
        let lower = key.to_ascii_lowercase();
        let mut values = self.as_fields().into_iter().flat_map(|fields| fields.get_all(&lower));
        holds_secrets(&lower) || values.any(HeaderValue::is_sensitive)
    }

    /// What can be shown or logged of it.
    #[cfg(feature = "prost")]
    pub(crate) fn without_secrets(&self) -> Cow<'_, Self> {
        let mut fields = self.as_fields().into_iter().flatten();
        if !fields.any(|(name, value)| is_secret(name, value)) {
            return Cow::Borrowed(self);
        }
        let mut rest = HeaderMap::new();
        let fields = self.as_fields().into_iter().flatten();
        for (name, value) in fields.filter(|(name, value)| !is_secret(name, value)) {
            // There are no more of them than there were.
            let _ = rest.try_append(name.clone(), value.clone());
        }
        Cow::Owned(Self(Some(Box::new(rest))))
    }

    /// The same with all values marked as sensitive.
    pub(crate) fn into_sensitive(mut self) -> Self {
        let values = self.0.iter_mut().flat_map(|fields| fields.values_mut());
        values.for_each(|value| value.set_sensitive(true));
        self
    }

    /// Adds all values of `other`. What does not fit any more is left out: nobody has so many.
    pub(crate) fn append_all(&mut self, other: Self) {
        let Some(fields) = other.0 else { return };
        let mut name = None;
        for (next, value) in *fields {
            name = next.or(name);
            if let Some(name) = &name {
                let _ = self.fields_mut().try_append(name.clone(), value);
            }
        }
    }

    /// Puts the values of `other` in place of those that its keys have. What does not fit any more
    /// is left out.
    pub(crate) fn insert_all(&mut self, other: Self) {
        for name in other.as_fields().into_iter().flat_map(HeaderMap::keys) {
            self.fields_mut().remove(name);
        }
        self.append_all(other);
    }

    /// Says that so many attempts have failed (A6).
    pub(crate) fn set_previous_attempts(&mut self, attempts: u32) {
        let _ = self.fields_mut().try_insert(PREVIOUS_ATTEMPTS, HeaderValue::from(attempts));
    }

    /// Adds a binary value to those of `key`, which must end in `-bin`.
    pub fn append_bin(&mut self, key: &str, value: &[u8]) -> Result<(), InvalidMetadata> {
        let (name, value) = binary(key, value)?;
        self.try_append(key, name, value)
    }

    /// Replaces all values of `key`, which must end in `-bin`, by this binary value.
    pub fn insert_bin(&mut self, key: &str, value: &[u8]) -> Result<(), InvalidMetadata> {
        let (name, value) = binary(key, value)?;
        self.fields_mut().remove(&name);
        self.try_append(key, name, value)
    }

    /// The first value of a text key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.get_all(key).next()
    }

    /// All values of a text key, in order. A value that is not text is left out.
    pub fn get_all(&self, key: &str) -> impl Iterator<Item = &str> {
        let fields = self.as_fields().filter(|_| !is_binary(key));
        let values = fields.map(|fields| fields.get_all(key).into_iter());
        values.into_iter().flatten().filter_map(|value| value.to_str().ok())
    }

    /// The first value of a `-bin` key, decoded.
    pub fn get_bin(&self, key: &str) -> Option<Bytes> {
        self.get_all_bin(key).next()
    }

    /// All values of a `-bin` key, decoded, in order.
    pub fn get_all_bin(&self, key: &str) -> impl Iterator<Item = Bytes> {
        let fields = self.as_fields().filter(|_| is_binary(key));
        let values = fields.map(|fields| fields.get_all(key).into_iter());
        values.into_iter().flatten().flat_map(decode_bin)
    }

    /// Removes all values of `key`; says whether there were any.
    pub fn remove(&mut self, key: &str) -> bool {
        self.0.as_mut().is_some_and(|fields| fields.remove(key).is_some())
    }

    /// Whether `key` has a value.
    pub fn contains_key(&self, key: &str) -> bool {
        self.as_fields().is_some_and(|fields| fields.contains_key(key))
    }

    /// How many values there are, over all keys.
    pub fn len(&self) -> usize {
        let values = |(name, value): (&HeaderName, &HeaderValue)| {
            if is_binary(name.as_str()) { decode_bin(value).count() } else { 1 }
        };
        self.as_fields().map_or(0, |fields| fields.iter().map(values).sum())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.as_fields().is_none_or(HeaderMap::is_empty)
    }

    /// The keys, each once.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.as_fields().into_iter().flat_map(HeaderMap::keys).map(HeaderName::as_str)
    }

    /// The metadata among received header fields: those of the protocol are taken out, and values
    /// that cannot be read.
    ///
    /// Joined binary values stay joined, since apart they would take many times the memory; they
    /// are split when they are asked for.
    pub(crate) fn from_received(mut fields: HeaderMap) -> Self {
        let (mut own, mut unreadable) = (0, 0);
        for (name, value) in &fields {
            if is_reserved_received(name.as_str()) {
                continue;
            }
            own += 1;
            unreadable += usize::from(!is_readable(name, value));
        }
        // On the path of every call: nothing is looked up where nothing has to be.
        if own == unreadable {
            return Self::default();
        }
        if unreadable > 0 {
            return Self(Some(Box::new(readable(fields))));
        }
        if own < fields.len() {
            for reserved in RESERVED_RECEIVED {
                fields.remove(reserved);
            }
        }
        Self(Some(Box::new(fields)))
    }

    /// Whether a field of a request belongs to the protocol, which writes it itself.
    pub(crate) fn is_reserved(name: &HeaderName) -> bool {
        RESERVED_SENT.contains(&name.as_str())
    }

    /// The fields, if there have been any.
    pub(crate) fn as_fields(&self) -> Option<&HeaderMap> {
        self.0.as_deref()
    }

    fn fields_mut(&mut self) -> &mut HeaderMap {
        self.0.get_or_insert_default()
    }

    fn try_append(
        &mut self,
        key: &str,
        name: HeaderName,
        value: HeaderValue,
    ) -> Result<(), InvalidMetadata> {
        match self.fields_mut().try_append(name, value) {
            Ok(_) => Ok(()),
            Err(_) => Err(InvalidMetadata::new(key, Fault::TooMany)),
        }
    }
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = self.as_fields().into_iter().flatten();
        f.debug_map().entries(fields.map(|(name, value)| (name, ShownValue(name, value)))).finish()
    }
}

/// A value as it can be shown.
struct ShownValue<'a>(&'a HeaderName, &'a HeaderValue);

impl fmt::Debug for ShownValue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(name, value) = self;
        if is_secret(name, value) {
            return f.write_str("(sensitive)");
        }
        harmless(&format!("{value:?}")).fmt(f)
    }
}

/// Whether a value must not be shown or logged.
fn is_secret(name: &HeaderName, value: &HeaderValue) -> bool {
    value.is_sensitive() || holds_secrets(name.as_str())
}

/// Whether a key is known to hold what proves who somebody is.
fn holds_secrets(key: &str) -> bool {
    SECRET_KEYS.contains(&key.strip_suffix("-bin").unwrap_or(key))
}

const SECRET_KEYS: [&str; 12] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
    "api-key",
    "x-api-key",
    "x-goog-api-key",
    "x-auth-token",
    "x-access-token",
    "x-amz-security-token",
    "x-csrf-token",
    "x-forwarded-access-token",
];

/// The values of a `-bin` field, decoded: base64 with or without padding, joined by commas. Those
/// that are not valid base64 are left out.
fn decode_bin(value: &HeaderValue) -> impl Iterator<Item = Bytes> {
    let values = value.as_bytes().split(|byte| *byte == b',');
    values.filter_map(|value| BASE64.decode(value.trim_ascii()).ok().map(Bytes::from))
}

/// Whether the application can read anything of a received value.
fn is_readable(name: &HeaderName, value: &HeaderValue) -> bool {
    if is_binary(name.as_str()) {
        decode_bin(value).next().is_some()
    } else {
        value.to_str().is_ok()
    }
}

/// The received fields that are the application's and can be read.
fn readable(fields: HeaderMap) -> HeaderMap {
    let mut readable = HeaderMap::new();
    let mut name = None;
    for (next, value) in fields {
        name = next.or(name);
        if let Some(name) = &name
            && !is_reserved_received(name.as_str())
            && is_readable(name, &value)
        {
            // There are no more of them than there were.
            let _ = readable.try_append(name.clone(), value);
        }
    }
    readable
}

fn ascii(key: &str, value: &str) -> Result<(HeaderName, HeaderValue), InvalidMetadata> {
    let name = checked_name(key)?;
    if is_binary(name.as_str()) {
        return Err(InvalidMetadata::new(key, Fault::TextForBinary));
    }
    if !value.bytes().all(|byte| (0x20..=0x7e).contains(&byte)) {
        return Err(InvalidMetadata::new(key, Fault::Value));
    }
    let value =
        HeaderValue::from_str(value).map_err(|_| InvalidMetadata::new(key, Fault::Value))?;
    Ok((name, value))
}

fn binary(key: &str, value: &[u8]) -> Result<(HeaderName, HeaderValue), InvalidMetadata> {
    let name = checked_name(key)?;
    if !is_binary(name.as_str()) {
        return Err(InvalidMetadata::new(key, Fault::BinaryForText));
    }
    let value = HeaderValue::from_maybe_shared(Bytes::from(BASE64.encode(value)))
        .map_err(|_| InvalidMetadata::new(key, Fault::Value))?;
    Ok((name, value))
}

fn checked_name(key: &str) -> Result<HeaderName, InvalidMetadata> {
    let lower = key.to_ascii_lowercase();
    if lower.starts_with(':') || RESERVED_SENT.contains(&lower.as_str()) {
        return Err(InvalidMetadata::new(key, Fault::Reserved));
    }
    let legal = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'z' | b'_' | b'-' | b'.');
    if lower.is_empty() || !lower.bytes().all(legal) {
        return Err(InvalidMetadata::new(key, Fault::Key));
    }
    HeaderName::from_bytes(lower.as_bytes()).map_err(|_| InvalidMetadata::new(key, Fault::Key))
}

const PREVIOUS_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");

/// However it is written, as the values of a key are found.
fn is_binary(key: &str) -> bool {
    key.as_bytes().last_chunk().is_some_and(|end: &[u8; 4]| end.eq_ignore_ascii_case(b"-bin"))
}

/// A key or value cannot be metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidMetadata {
    key: String,
    fault: Fault,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Key,
    Reserved,
    Value,
    TextForBinary,
    BinaryForText,
    NotBase64,
    TooMany,
}

impl InvalidMetadata {
    fn new(key: &str, fault: Fault) -> Self {
        Self { key: key.to_owned(), fault }
    }
}

impl fmt::Display for InvalidMetadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "metadata `{}`: ", harmless(&self.key))?;
        f.write_str(match self.fault {
            Fault::Key => "a key is one or more of 0-9 a-z _ - .",
            Fault::Reserved => "this key belongs to the protocol and cannot be set",
            Fault::Value => {
                "a text value is printable ASCII; use a key that ends in -bin for others"
            }
            Fault::TextForBinary => {
                "a key that ends in -bin takes bytes: use append_bin or insert_bin"
            }
            Fault::BinaryForText => "bytes need a key that ends in -bin",
            Fault::NotBase64 => "the value of a key that ends in -bin is base64 in header fields",
            Fault::TooMany => "there is no room for another field",
        })
    }
}

impl std::error::Error for InvalidMetadata {}

/// INTERNAL, for interceptors and call credentials, where `?` ends the call so:
///
/// ```
/// use switchboard::{Metadata, Status};
///
/// fn of_tenant(name: &str) -> Result<Metadata, Status> {
///     let mut metadata = Metadata::new();
///     metadata.insert("tenant", name)?;
///     Ok(metadata)
/// }
///
/// assert_eq!(of_tenant("blue\n").unwrap_err().code(), switchboard::Code::INTERNAL);
/// ```
impl From<InvalidMetadata> for Status {
    fn from(error: InvalidMetadata) -> Self {
        Self::internal(error.to_string()).with_source(error)
    }
}

/// The fields of another library, such as those of an incoming HTTP request, as metadata. Fails at
/// the first field that [`append`](Metadata::append) would refuse: take out the protocol's own
/// before.
///
/// The value of a `-bin` key is base64, as it is on the wire; a text value is printable ASCII. A
/// value that is marked as sensitive stays so.
///
/// ```
/// use http::{HeaderMap, HeaderValue};
/// use switchboard::Metadata;
///
/// let mut fields = HeaderMap::new();
/// fields.insert("tenant", HeaderValue::from_static("blue"));
/// fields.insert("trace-bin", HeaderValue::from_static("AQI="));
/// let metadata = Metadata::try_from(fields)?;
/// assert_eq!(metadata.get("tenant"), Some("blue"));
/// assert_eq!(metadata.get_bin("trace-bin").as_deref(), Some(&[1, 2][..]));
/// assert_eq!(HeaderMap::from(metadata)["trace-bin"], "AQI=");
/// # Ok::<(), switchboard::InvalidMetadata>(())
/// ```
impl TryFrom<HeaderMap> for Metadata {
    type Error = InvalidMetadata;

    fn try_from(fields: HeaderMap) -> Result<Self, InvalidMetadata> {
        for (name, value) in &fields {
            let key = name.as_str();
            checked_name(key)?;
            let is_fine = if is_binary(key) {
                let mut values = value.as_bytes().split(|byte| *byte == b',');
                values.all(|value| BASE64.decode(value.trim_ascii()).is_ok())
            } else {
                value.as_bytes().iter().all(|byte| (0x20..=0x7e).contains(byte))
            };
            if !is_fine {
                let fault = if is_binary(key) { Fault::NotBase64 } else { Fault::Value };
                return Err(InvalidMetadata::new(key, fault));
            }
        }
        Ok(if fields.is_empty() { Self::new() } else { Self(Some(Box::new(fields))) })
    }
}

/// The fields as they are on the wire: the values of `-bin` keys are base64.
impl From<Metadata> for HeaderMap {
    fn from(metadata: Metadata) -> Self {
        metadata.0.map(|fields| *fields).unwrap_or_default()
    }
}

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Fields that the library writes itself. `grpc-previous-rpc-attempts` and
/// `grpc-retry-pushback-ms` pass on purpose: gateways forward them.
const RESERVED_SENT: &[&str] = &[
    "connection",
    "content-length",
    "content-type",
    "grpc-accept-encoding",
    "grpc-encoding",
    "grpc-message",
    "grpc-message-type",
    "grpc-status",
    "grpc-timeout",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
    "user-agent",
];

fn is_reserved_received(name: &str) -> bool {
    RESERVED_RECEIVED.iter().any(|reserved| reserved.as_str() == name)
}

/// Fields of a response that are the protocol's and say nothing to the application.
const RESERVED_RECEIVED: [HeaderName; 6] = [
    HeaderName::from_static("grpc-status"),
    header::CONTENT_TYPE,
    HeaderName::from_static("grpc-message"),
    HeaderName::from_static("grpc-encoding"),
    HeaderName::from_static("grpc-accept-encoding"),
    header::TE,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_a_key_keep_their_order() {
        let mut metadata = Metadata::new();
        metadata.append("K", "1").unwrap();
        metadata.append("k", "2").unwrap();
        assert_eq!(metadata.get_all("k").collect::<Vec<_>>(), ["1", "2"]);
        metadata.insert("k", "3").unwrap();
        assert_eq!(metadata.get_all("k").collect::<Vec<_>>(), ["3"]);
        assert!(metadata.remove("k"));
        assert!(metadata.is_empty());
    }

    #[test]
    fn header_fields_become_metadata_and_back_where_every_field_may_be_sent() {
        type Rows<'a> = &'a [(&'static str, &'static [u8])];
        let fields = |rows: Rows<'_>| {
            let mut fields = HeaderMap::new();
            for (name, value) in rows {
                fields.append(*name, HeaderValue::from_bytes(value).unwrap());
            }
            fields
        };
        let all: [Rows<'_>; 3] = [
            &[],
            &[("k", b"v"), ("k", b"w"), ("a-bin", b"AQI="), ("a-bin", b"AQI,AQ")],
            &[("authorization", b"Bearer x")],
        ];
        for rows in all {
            let metadata = Metadata::try_from(fields(rows)).unwrap();
            assert_eq!(HeaderMap::from(metadata), fields(rows));
        }
        let two = Metadata::try_from(fields(&[("a-bin", b"AQI,AQ")])).unwrap();
        assert_eq!(two.get_all_bin("a-bin").count(), 2);
        for (name, value, fault) in [
            ("te", &b"trailers"[..], Fault::Reserved),
            ("content-type", b"text/html", Fault::Reserved),
            ("k~", b"v", Fault::Key),
            ("k", b"\xff", Fault::Value),
            ("k", b"a\tb", Fault::Value),
            ("a-bin", b"*", Fault::NotBase64),
            ("a-bin", b"AQI,*", Fault::NotBase64),
        ] {
            let refused = Metadata::try_from(fields(&[("fine", b"v"), (name, value)]));
            assert_eq!(refused, Err(InvalidMetadata::new(name, fault)), "{name}");
        }
        let status = Status::from(InvalidMetadata::new("te", Fault::Reserved));
        assert!(status.message().starts_with("metadata `te`: "), "{status}");
    }

    #[test]
    fn binary_values_go_out_as_base64_without_padding_and_come_back() {
        let mut metadata = Metadata::new();
        metadata.append_bin("trace-bin", &[0, 255, 7, 9]).unwrap();
        assert_eq!(metadata.as_fields().unwrap()["trace-bin"], "AP8HCQ");
        assert_eq!(metadata.get_bin("trace-bin").unwrap().as_ref(), [0, 255, 7, 9]);
        assert_eq!(metadata.get("trace-bin"), None);
    }

    #[test]
    fn a_binary_key_may_be_asked_for_in_upper_case_as_it_may_be_set() {
        let mut metadata = Metadata::new();
        metadata.append_bin("Trace-Bin", &[0, 255]).unwrap();
        assert_eq!(metadata.get_bin("TRACE-BIN").unwrap().as_ref(), [0, 255]);
        assert_eq!(metadata.get("TRACE-BIN"), None);
    }

    // spec: grpc/binary-metadata
    #[test]
    fn binary_values_are_read_padded_or_not_and_joined_or_not() {
        let rows: [(&[&str], &[&[u8]]); 12] = [
            (&["AP8HCQ"], &[&[0, 255, 7, 9]]),
            (&["AP8HCQ=="], &[&[0, 255, 7, 9]]),
            (&["AP8HCQ", "AQ"], &[&[0, 255, 7, 9], &[1]]),
            (&["AP8HCQ,AQ"], &[&[0, 255, 7, 9], &[1]]),
            (&["AP8HCQ==,AQ=="], &[&[0, 255, 7, 9], &[1]]),
            (&["AP8HCQ==, AQ"], &[&[0, 255, 7, 9], &[1]]),
            (&["AQ,Ag", "Aw"], &[&[1], &[2], &[3]]),
            // An empty value is one.
            (&[""], &[&[]]),
            (&["AQ,,Ag,"], &[&[1], &[], &[2], &[]]),
            // What is not base64 is left out.
            (&["*"], &[]),
            (&["AQ,*,Ag"], &[&[1], &[2]]),
            (&["*", "AQ"], &[&[1]]),
        ];
        for (values, expected) in rows {
            let mut fields = HeaderMap::new();
            for value in values {
                fields.append("a-bin", HeaderValue::from_static(value));
            }
            let metadata = Metadata::from_received(fields);
            let read: Vec<_> = metadata.get_all_bin("A-bin").collect();
            assert_eq!(read, expected, "{values:?}");
            assert_eq!(metadata.get_bin("a-bin").as_deref(), expected.first().copied());
            assert_eq!(metadata.len(), expected.len(), "{values:?}");
            assert_eq!(metadata.contains_key("a-bin"), !expected.is_empty(), "{values:?}");
            assert_eq!(metadata.is_empty(), expected.is_empty(), "{values:?}");
        }
    }

    // spec: grpc/unreadable-metadata
    #[test]
    fn a_received_value_that_cannot_be_read_is_left_out_and_the_others_stay() {
        let mut fields = HeaderMap::new();
        fields.insert("grpc-status", HeaderValue::from_static("0"));
        for (name, value) in [
            ("b-bin", &b"*"[..]),
            ("text", b"\xc3\xa4"),
            ("text", b"two"),
            ("tags-bin", b"AQ"),
            ("tags-bin", b"="),
            ("one", b"1"),
        ] {
            fields.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        let metadata = Metadata::from_received(fields);
        let mut keys: Vec<_> = metadata.keys().collect();
        keys.sort_unstable();
        assert_eq!(keys, ["one", "tags-bin", "text"]);
        assert_eq!(metadata.get_all("text").collect::<Vec<_>>(), ["two"]);
        assert_eq!(metadata.get_all_bin("tags-bin").collect::<Vec<_>>(), [&[1][..]]);
        assert_eq!(metadata.len(), 3);
    }

    #[test]
    fn joined_values_take_no_more_memory_than_they_took_on_the_wire() {
        let mut fields = HeaderMap::new();
        fields.insert("a-bin", HeaderValue::from_bytes(&vec![b','; 1 << 16]).unwrap());
        let metadata = Metadata::from_received(fields);
        assert_eq!(metadata.as_fields().unwrap().len(), 1);
        assert_eq!(metadata.len(), (1 << 16) + 1);
    }

    #[test]
    fn fields_of_the_protocol_are_not_metadata() {
        let mut fields = HeaderMap::new();
        fields.insert("grpc-status", HeaderValue::from_static("0"));
        fields.insert("content-type", HeaderValue::from_static("application/grpc"));
        assert!(Metadata::from_received(fields.clone()).is_empty());
        fields.insert("own", HeaderValue::from_static("v"));
        let metadata = Metadata::from_received(fields);
        assert_eq!(metadata.keys().collect::<Vec<_>>(), ["own"]);
    }

    #[test]
    fn bad_metadata_is_refused_with_what_to_do() {
        let mut metadata = Metadata::new();
        let rows = [
            (metadata.append("", "v"), "one or more of"),
            (metadata.append("a b", "v"), "one or more of"),
            (metadata.append("ä", "v"), "one or more of"),
            (metadata.append(":path", "v"), "belongs to the protocol"),
            (metadata.append("Grpc-Timeout", "1S"), "belongs to the protocol"),
            (metadata.append("k", "tab\there"), "printable ASCII"),
            (metadata.append("k", "ü"), "printable ASCII"),
            (metadata.append("k-bin", "v"), "append_bin"),
            (metadata.append_bin("k", b"v"), "ends in -bin"),
        ];
        for (outcome, part) in rows {
            let error = outcome.unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        assert!(metadata.is_empty());
        metadata.append("grpc-previous-rpc-attempts", "1").unwrap();
    }

    #[test]
    fn secrets_are_not_shown_whoever_marks_them() {
        let mut metadata = Metadata::new();
        for (key, value) in [
            ("Authorization", "Bearer s3cret"),
            ("cookie", "id=s3cret"),
            ("x-api-key", "s3cret"),
            ("tenant", "s3cret of a tenant"),
            ("trace", "visible"),
        ] {
            metadata.append(key, value).unwrap();
        }
        metadata.append_bin("authorization-bin", b"s3cret").unwrap();
        metadata.append_bin("seal-bin", b"s3cret").unwrap();
        assert!(metadata.mark_sensitive("Tenant") && metadata.mark_sensitive("seal-bin"));
        assert!(!metadata.mark_sensitive("absent") && !metadata.is_sensitive("absent"));
        let shown = format!("{metadata:?}");
        // In base64 as well.
        assert!(!shown.contains("s3cret") && !shown.contains("czNjcmV0"), "{shown}");
        assert!(shown.contains("visible") && shown.contains("tenant"), "{shown}");
        let sensitive = metadata.keys().filter(|key| metadata.is_sensitive(key)).count();
        assert_eq!((sensitive, metadata.is_sensitive("trace")), (6, false));
        // They are there for who asks.
        assert_eq!(metadata.get("tenant"), Some("s3cret of a tenant"));
        assert!(!format!("{:?}", metadata.clone().into_sensitive()).contains("visible"));
    }
}
