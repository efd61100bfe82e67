//! The header fields of a request.

use std::io::Write as _;
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{PathAndQuery, Uri};
use http::{Method, Request, Version};

use crate::types::{Authority, encode_timeout};

use super::super::error::StreamError;
use super::Identity;

/// What the header fields of one request say beyond what all of a connection's say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestHead<'a> {
    /// `:path`: the method.
    pub(crate) path: &'a PathAndQuery,
    /// `:authority`, where it is not the connection's.
    pub(crate) authority: Option<&'a Authority>,
    /// What is left until the deadline, sent as `grpc-timeout`.
    pub(crate) timeout: Option<Duration>,
    /// Everything else, in this order: the fields of compression and of retries, and the
    /// application's.
    pub(crate) metadata: &'a HeaderMap,
}

impl RequestHead<'_> {
    /// The request, on a connection of `identity`, `waited` after the timeout was taken.
    pub(super) fn to_request(
        self,
        identity: &Identity,
        user_agent: &HeaderValue,
        waited: Duration,
    ) -> Result<Request<()>, StreamError> {
        let timeout = match self.timeout.map(|timeout| timeout.saturating_sub(waited)) {
            Some(Duration::ZERO) => return Err(StreamError::DeadlineExceeded),
            timeout => timeout,
        };
        let too_many = |_| StreamError::TooManyFields;
        let mut fields =
            HeaderMap::try_with_capacity(self.metadata.len() + OWN_FIELDS).map_err(too_many)?;
        fields.insert(header::CONTENT_TYPE, APPLICATION_GRPC);
        fields.insert(header::USER_AGENT, user_agent.clone());
        fields.insert(header::TE, TRAILERS);
        if let Some(timeout) = timeout {
            fields.insert(GRPC_TIMEOUT, timeout_value(timeout));
        }
        for (name, value) in self.metadata {
            fields.try_append(name.clone(), value.clone()).map_err(too_many)?;
        }

        let authority = self.authority.unwrap_or(&identity.authority);
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(identity.scheme.clone());
        parts.authority = Some(authority.as_http().clone());
        parts.path_and_query = Some(self.path.clone());
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        // With all three parts there is nothing that could be missing.
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = fields;
        Ok(request)
    }
}

fn timeout_value(timeout: Duration) -> HeaderValue {
    let mut text = [0; TIMEOUT_LEN_MAX];
    let mut room = &mut text[..];
    // Eight digits and a unit fit, and are legal in a header.
    let _ = write!(room, "{}", encode_timeout(timeout));
    let len = TIMEOUT_LEN_MAX - room.len();
    let mut value =
        HeaderValue::from_bytes(&text[..len]).unwrap_or_else(|_| HeaderValue::from_static("0n"));
    // Not a secret, but different every time: so marked, it does not push useful fields out of
    // the compression tables.
    value.set_sensitive(true);
    value
}

const APPLICATION_GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Fields that every request has at most: content type, user agent, te, timeout.
const OWN_FIELDS: usize = 4;

const TIMEOUT_LEN_MAX: usize = 9;
