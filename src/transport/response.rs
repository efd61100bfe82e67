//! What the header fields of a response say. Pure functions of fields.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode;

use super::error::NotGrpc;
use crate::types::{Code, Compression, Metadata, harmless};

/// The headers of a response.
#[derive(Clone, Debug, Default)]
pub(crate) struct Headers {
    /// The application's fields; none where the response has only trailers.
    pub(crate) metadata: Metadata,
    /// Whether the response ended with these fields: then they are its trailers.
    pub(crate) trailers_only: bool,
    /// How messages are compressed of which their prefix says that they are.
    pub(crate) encoding: Encoding,
}

/// What `grpc-encoding` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// Nothing, or `identity`.
    #[default]
    Identity,
    /// This one.
    Known(Compression),
    /// One that is not built in.
    Unknown(Box<str>),
}

impl Encoding {
    fn of(fields: &HeaderMap) -> Self {
        // By going through them, as [`has_status`] does.
        let mut found = fields.iter().filter(|(name, _)| **name == GRPC_ENCODING);
        let Some((_, value)) = found.next() else { return Self::Identity };
        match String::from_utf8_lossy(value.as_bytes()) {
            name if name == "identity" => Self::Identity,
            name => Compression::of_name(&name)
                .map_or_else(|| Self::Unknown(name.as_ref().into()), Self::Known),
        }
    }
}

impl Headers {
    /// Reads the fields of a gRPC response that goes on.
    pub(crate) fn parse(fields: HeaderMap) -> Self {
        let encoding = Encoding::of(&fields);
        Self { metadata: Metadata::from_received(fields), trailers_only: false, encoding }
    }
}

/// How the server says that the call ended.
#[derive(Clone, Debug)]
pub(crate) struct Trailers {
    /// `grpc-status`.
    pub(crate) code: Code,
    /// `grpc-message`, decoded.
    pub(crate) message: String,
    /// Whether the code and the message are this side's, since those of the server are missing or
    /// make no sense.
    pub(crate) is_made_up: bool,
    /// `grpc-status-details-bin`, decoded: an encoded `google.rpc.Status`. Empty where there is
    /// none that can be used.
    pub(crate) details: Bytes,
    /// The application's fields.
    pub(crate) metadata: Metadata,
}

impl Trailers {
    /// Whether the call succeeded.
    pub(crate) fn is_ok(&self) -> bool {
        self.code == Code::OK
    }

    /// Reads the fields that end a response. `cut` is the limit that they exceed, where the engine
    /// has left out what lies beyond it; `head` gives the rest of the response where they have no
    /// status.
    pub(crate) fn parse(
        fields: HeaderMap,
        cut: Option<usize>,
        head: impl FnOnce() -> NotGrpc,
    ) -> Self {
        let (mut status, mut message, mut has_details) = (None, None, false);
        // One pass over the few fields that trailers have is cheaper than looking each one up.
        for (name, value) in &fields {
            match name.as_str() {
                "grpc-status" => status = status.or_else(|| Some(parse_code(value))),
                "grpc-message" => message = message.or_else(|| Some(decode_message(value))),
                DETAILS => has_details = true,
                _ => {}
            }
        }
        let is_number = matches!(status, Some(Ok(_)));
        let metadata = Metadata::from_received(fields);
        let mut is_made_up = !is_number;
        let (mut code, mut message) = match (status, cut) {
            (Some(Ok(code)), Some(limit)) if code != Code::OK => {
                let message = message.map(|it| it + "; ").unwrap_or_default();
                (code, format!("{message}{}", cut_at(limit)))
            }
            (Some(Ok(code)), _) => (code, message.unwrap_or_default()),
            (Some(Err(text)), _) => (
                Code::UNKNOWN,
                format!(
                    "the server sent the grpc-status `{}`, which is no number",
                    harmless(&text)
                ),
            ),
            (None, Some(limit)) => {
                (Code::INTERNAL, format!("the server's status is lost: {}", cut_at(limit)))
            }
            (None, None) => {
                let head = head();
                let said = message.map(|it| format!("; grpc-message: {it}")).unwrap_or_default();
                (head.code(), format!("{head}{said}"))
            }
        };
        let mut details = Bytes::new();
        if has_details && is_number {
            let mut values = metadata.get_all_bin(DETAILS);
            if let (Some(value), None) = (values.next(), values.next())
                && !value.is_empty()
            {
                match details_code(&value) {
                    Some(inner) if inner == code.number() => details = value,
                    Some(inner) => {
                        message = format!(
                            "the server sent the status {code} and details that say {}",
                            Code::from_number(inner)
                        );
                        code = Code::INTERNAL;
                        is_made_up = true;
                    }
                    None => {}
                }
            }
        }
        Self { code, message, is_made_up, details, metadata }
    }
}

fn cut_at(limit: usize) -> String {
    format!(
        "the trailers exceed the limit of {limit} bytes, and what lies beyond is left out: raise \
         max_header_list_bytes to take it"
    )
}

/// How messages are compressed.
pub(crate) const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// Whether these headers say how the call ended. Most responses have few fields: going through them
/// costs less than to look for one by its hash.
pub(crate) fn has_status(fields: &HeaderMap) -> bool {
    fields.keys().any(|name| *name == GRPC_STATUS)
}

/// Whether a response of this content type is one of gRPC.
pub(crate) fn is_grpc(fields: &HeaderMap) -> bool {
    let Some(value) = fields.get(header::CONTENT_TYPE) else {
        return false;
    };
    let value = value.as_bytes();
    let Some((start, rest)) = value.split_at_checked(CONTENT_TYPE.len()) else {
        return false;
    };
    start.eq_ignore_ascii_case(CONTENT_TYPE.as_bytes())
        && matches!(rest.first(), None | Some(b'+' | b';'))
}

fn parse_code(value: &HeaderValue) -> Result<Code, String> {
    if let [digit @ b'0'..=b'9'] = value.as_bytes() {
        return Ok(Code::from_number(u32::from(digit - b'0')));
    }
    let text = String::from_utf8_lossy(value.as_bytes());
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(number) if digits => Ok(Code::from_number(number)),
        _ => Err(text.into_owned()),
    }
}

/// Escapes that are none stay as they are, and what is no UTF-8 then becomes U+FFFD.
fn decode_message(value: &HeaderValue) -> String {
    percent_decode(value.as_bytes()).decode_utf8_lossy().into_owned()
}

/// Reads `code`, field 1, of an encoded `google.rpc.Status`; `None` if it is not one.
fn details_code(mut encoded: &[u8]) -> Option<u32> {
    let mut code = 0;
    while !encoded.is_empty() {
        let tag = varint(&mut encoded)?;
        let skipped = match tag & 7 {
            0 => {
                let value = varint(&mut encoded)?;
                if tag >> 3 == 1 {
                    code = value as u32;
                }
                0
            }
            1 => 8,
            2 => usize::try_from(varint(&mut encoded)?).ok()?,
            5 => 4,
            _ => return None,
        };
        encoded = encoded.get(skipped..)?;
    }
    Some(code)
}

fn varint(encoded: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..70).step_by(7) {
        let (&byte, rest) = encoded.split_first()?;
        *encoded = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

const CONTENT_TYPE: &str = "application/grpc";

/// The field that ends a response.
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

const DETAILS: &str = "grpc-status-details-bin";

#[cfg(test)]
mod tests {
    use super::*;

    type Fields<'a> = &'a [(&'static str, &'a str)];

    fn fields(rows: Fields<'_>) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for (name, value) in rows {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            fields.append(*name, value);
        }
        fields
    }

    const NO_STATUS: &str = "the server answered with HTTP status 503 and content type \
                             `application/grpc`, and no grpc-status";

    fn parse(fields: HeaderMap) -> Trailers {
        parse_cut(fields, None)
    }

    fn parse_cut(fields: HeaderMap, cut: Option<usize>) -> Trailers {
        Trailers::parse(fields, cut, || NotGrpc {
            http_status: 503,
            content_type: Some("application/grpc".to_owned()),
            is_grpc: true,
            body: String::new(),
        })
    }

    #[test]
    fn trailers_over_the_limit_keep_what_was_decoded_and_name_the_limit() {
        let cut = |rows: Fields<'_>| parse_cut(fields(rows), Some(1_000));
        let limit = "the limit of 1000 bytes";
        let lost = cut(&[("k", "v")]);
        assert_eq!((lost.code, lost.is_made_up), (Code::INTERNAL, true));
        assert!(lost.message.contains(limit), "{}", lost.message);
        let bare = cut(&[("grpc-status", "5")]);
        assert_eq!((bare.code, bare.is_made_up), (Code::NOT_FOUND, false));
        assert!(bare.message.contains(limit), "{}", bare.message);
        let whole = cut(&[("grpc-status", "5"), ("grpc-message", "no Ada")]);
        assert_eq!(whole.code, Code::NOT_FOUND);
        assert!(whole.message.starts_with("no Ada; the trailers exceed"), "{}", whole.message);
        // A call that has succeeded has done so.
        assert!(cut(&[("grpc-status", "0")]).is_ok());
    }

    // spec: grpc/content-type
    #[test]
    fn a_grpc_response_is_told_by_its_content_type() {
        let rows = [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("Application/gRPC", true),
            ("application/grpc-web", false),
            ("application/grp", false),
            ("text/html", false),
            ("", false),
        ];
        for (text, expected) in rows {
            assert_eq!(is_grpc(&fields(&[("content-type", text)])), expected, "{text}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }

    // spec: grpc/status-in-trailers
    #[test]
    fn trailers_are_read_leniently() {
        let rows: &[(Fields<'_>, Code, &str)] = &[
            (&[("grpc-status", "0")], Code::OK, ""),
            (&[("grpc-status", "00")], Code::OK, ""),
            (&[("grpc-status", "14"), ("grpc-message", "a%20b")], Code::UNAVAILABLE, "a b"),
            (&[("grpc-status", "5"), ("grpc-message", "%zz%2")], Code::NOT_FOUND, "%zz%2"),
            (&[("grpc-status", "5"), ("grpc-message", "%ff")], Code::NOT_FOUND, "\u{fffd}"),
            (&[("grpc-status", "99")], Code::from_number(99), ""),
            (&[], Code::UNAVAILABLE, NO_STATUS),
            (
                &[("grpc-message", "lost")],
                Code::UNAVAILABLE,
                "the server answered with HTTP status 503 and content type `application/grpc`, \
                 and no grpc-status; grpc-message: lost",
            ),
            (
                &[("grpc-status", "x"), ("grpc-message", "lost")],
                Code::UNKNOWN,
                "the server sent the grpc-status `x`, which is no number",
            ),
            (
                &[("grpc-status", "+1")],
                Code::UNKNOWN,
                "the server sent the grpc-status `+1`, which is no number",
            ),
        ];
        for (rows, code, message) in rows {
            let trailers = parse(fields(rows));
            assert_eq!((trailers.code, &*trailers.message), (*code, *message), "{rows:?}");
            assert!(trailers.metadata.is_empty());
            assert_eq!(trailers.is_ok(), *code == Code::OK);
        }
    }

    // spec: grpc/status-details
    #[test]
    fn details_count_only_where_they_agree_with_the_status() {
        // code: 5, message: "no"
        let five = "CAUSAm5v";
        let good = parse(fields(&[("grpc-status", "5"), (DETAILS, five)]));
        assert_eq!(good.details.as_ref(), [8, 5, 18, 2, b'n', b'o']);
        assert!(good.metadata.contains_key(DETAILS));
        let other = parse(fields(&[("grpc-status", "6"), (DETAILS, five)]));
        assert_eq!(other.code, Code::INTERNAL);
        assert!(other.message.contains("NOT_FOUND"), "{}", other.message);
        for rows in [
            &[(DETAILS, five), (DETAILS, five)][..],
            &[(DETAILS, "CAUSAm5v,CAUSAm5v")],
            &[(DETAILS, "/////w")],
            &[(DETAILS, "*")],
            &[(DETAILS, "")],
        ] {
            let said = [&[("grpc-status", "6"), ("grpc-message", "there")], rows].concat();
            let ignored = parse(fields(&said));
            assert_eq!(ignored.code, Code::ALREADY_EXISTS, "{rows:?}");
            assert_eq!(ignored.message, "there", "{rows:?}");
            assert!(ignored.details.is_empty());
        }
    }

    #[test]
    fn no_bytes_of_details_panic() {
        let mut seed = 7_u32;
        for len in 0..300 {
            let bytes: Vec<u8> = (0..len % 40)
                .map(|_| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (seed >> 24) as u8
                })
                .collect();
            details_code(&bytes);
        }
        assert_eq!(details_code(&[0x08, 0xff, 0xff, 0xff, 0xff, 0x0f]), Some(u32::MAX));
        assert_eq!(
            details_code(&[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]),
            None
        );
        assert_eq!(details_code(&[0xff; 12]), None);
    }

    // spec: grpc/unreadable-metadata
    #[test]
    fn a_binary_value_that_is_not_base64_is_left_out_of_headers_and_trailers() {
        let bad = fields(&[("grpc-status", "0"), ("trace-bin", "*"), ("k", "v")]);
        let trailers = parse(bad.clone());
        assert!(trailers.is_ok());
        for metadata in [trailers.metadata, Headers::parse(bad).metadata] {
            assert_eq!(metadata.keys().collect::<Vec<_>>(), ["k"]);
        }
    }

    #[test]
    fn the_encoding_is_no_metadata() {
        let headers = Headers::parse(fields(&[("grpc-encoding", "gzip"), ("k", "v")]));
        assert_eq!(headers.metadata.keys().collect::<Vec<_>>(), ["k"]);
    }
}
