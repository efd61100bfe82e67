//! The header fields of a request.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{PathAndQuery, Uri};
use http::{Method, Request, Version};

use crate::types::{Authority, Timeout};

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
    pub(crate) metadata: Option<&'a HeaderMap>,
}

impl RequestHead<'_> {
    /// The request, on a connection of `identity`, `waited` after the timeout was taken.
    pub(super) fn to_request(
        self,
        identity: &Identity,
        user_agent: &HeaderValue,
        timeouts: &TimeoutField,
        waited: Duration,
    ) -> Result<Request<()>, StreamError> {
        let timeout = match self.timeout.map(|timeout| timeout.saturating_sub(waited)) {
            Some(Duration::ZERO) => return Err(StreamError::DeadlineExceeded),
            timeout => timeout,
        };
        let too_many = |_| StreamError::TooManyFields;
        let metadata_len = self.metadata.map_or(0, HeaderMap::len);
        let mut fields =
            HeaderMap::try_with_capacity(metadata_len + OWN_FIELDS).map_err(too_many)?;
        fields.insert(header::CONTENT_TYPE, APPLICATION_GRPC);
        fields.insert(header::USER_AGENT, user_agent.clone());
        fields.insert(header::TE, TRAILERS);
        if let Some(timeout) = timeout {
            fields.insert(GRPC_TIMEOUT, timeouts.value(timeout));
        }
        for (name, value) in self.metadata.into_iter().flatten() {
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

/// Makes the values of `grpc-timeout`, and the last one again without making it.
#[derive(Debug, Default)]
pub(super) struct TimeoutField {
    last: Mutex<Option<(Timeout, HeaderValue)>>,
}

impl TimeoutField {
    fn value(&self, timeout: Duration) -> HeaderValue {
        let timeout = Timeout::encode(timeout);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((same, value)) = &*last
            && *same == timeout
        {
            return value.clone();
        }
        // Digits and a letter are legal in a header.
        let value = HeaderValue::from_maybe_shared(Bytes::from(timeout.to_string()))
            .unwrap_or_else(|_| HeaderValue::from_static("0n"));
        *last = Some((timeout, value.clone()));
        let mut value = value;
        // No secret, but perhaps not to come again: so marked, it does not push useful fields out
        // of the compression tables. One that does come again is sent unmarked, and then kept there.
        value.set_sensitive(true);
        value
    }
}

const APPLICATION_GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Fields that every request has at most: content type, user agent, te, timeout.
const OWN_FIELDS: usize = 4;
