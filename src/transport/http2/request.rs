//! The header fields of a request.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{PathAndQuery, Uri};
use http::{Method, Request, Version};

use crate::types::{Authority, Compression, Metadata, Timeout};

use super::super::error::StreamError;
use super::super::response;
use super::Identity;

/// What the header fields of one request say beyond what all of a connection's say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestHead<'a> {
    /// `:path`: the method.
    pub(crate) path: &'a PathAndQuery,
    /// `:authority`, where it is not the connection's.
    pub(crate) authority: Option<&'a Authority>,
    /// What its messages are: `application/grpc`, or a subtype of that.
    pub(crate) content_type: &'static str,
    /// What is left until the deadline, sent as `grpc-timeout`.
    pub(crate) timeout: Option<Duration>,
    /// How its messages are compressed.
    pub(crate) encoding: Option<Compression>,
    /// What the server may compress its messages with, where it is not the connection's.
    pub(crate) accepted: Option<&'a [Compression]>,
    /// Everything else: the field of retries, and the application's. What belongs to the protocol
    /// is not sent: received metadata that an application passes on may have a `host`.
    pub(crate) metadata: Option<&'a HeaderMap>,
}

impl RequestHead<'_> {
    /// The request, on a connection of `identity` whose requests have so many bytes of fields at
    /// most, `waited` after the timeout was taken.
    pub(super) fn to_request(
        self,
        identity: &Identity,
        template: &Template,
        waited: Duration,
        limits: FieldLimits,
    ) -> Result<Request<()>, StreamError> {
        let timeout = match self.timeout.map(|timeout| timeout.saturating_sub(waited)) {
            Some(Duration::ZERO) => return Err(StreamError::Overdue),
            timeout => timeout,
        };
        let too_many = |_| StreamError::TooManyFields;
        let mut fields = template.fields(timeout);
        if self.content_type != APPLICATION_GRPC {
            let value = HeaderValue::from_static(self.content_type);
            fields.try_insert(header::CONTENT_TYPE, value).map_err(too_many)?;
        }
        if let Some(accepted) = self.accepted {
            fields.remove(&GRPC_ACCEPT_ENCODING);
            if let Some(names) = names_of(accepted) {
                fields.try_insert(GRPC_ACCEPT_ENCODING, names).map_err(too_many)?;
            }
        }
        if let Some(encoding) = self.encoding {
            let name = HeaderValue::from_static(encoding.name());
            if !fields.contains_key(&GRPC_ACCEPT_ENCODING) {
                // Servers may answer in the encoding that they are asked in.
                fields.try_insert(GRPC_ACCEPT_ENCODING, name.clone()).map_err(too_many)?;
            }
            fields.try_insert(response::GRPC_ENCODING, name).map_err(too_many)?;
        }
        if let Some(metadata) = self.metadata {
            fields.try_reserve(metadata.len()).map_err(too_many)?;
            let own = |(name, _): &(&HeaderName, _)| !Metadata::is_reserved(name);
            for (name, value) in metadata.iter().filter(own) {
                fields.try_append(name.clone(), value.clone()).map_err(too_many)?;
            }
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
        // Without metadata and long names no request comes near to what servers take at least.
        let names = self.path.as_str().len() + authority.as_http().as_str().len();
        if self.metadata.is_some() || names > LEAST_TAKEN / 2 || limits.least() < LEAST_TAKEN {
            limits.check(size(&request))?;
        }
        Ok(request)
    }
}

/// How many bytes of header fields a request may have, each field counted with 32 for its overhead.
#[derive(Clone, Copy, Debug)]
pub(super) struct FieldLimits {
    /// What the channel sends at most.
    pub(super) own: usize,
    /// What the server takes, as far as it has said.
    pub(super) server: usize,
}

impl FieldLimits {
    fn least(self) -> usize {
        self.own.min(self.server)
    }

    /// Refuses what the server would, which may do so by ending the connection, and what would hold
    /// up the others there.
    pub(super) fn check(self, bytes: usize) -> Result<(), StreamError> {
        if bytes > self.server {
            Err(StreamError::FieldsTooLarge { bytes, limit: self.server })
        } else if bytes > self.own {
            Err(StreamError::FieldsOverLimit { bytes, limit: self.own })
        } else {
            Ok(())
        }
    }
}

/// The size of header fields, as HTTP/2 counts them.
pub(crate) fn fields_len(fields: &HeaderMap) -> usize {
    let fields = fields.iter().map(|(name, value)| name.as_str().len() + value.len());
    fields.map(|bytes| bytes + FIELD_OVERHEAD).sum()
}

fn size(request: &Request<()>) -> usize {
    let uri = request.uri();
    let parts = [
        (":method", request.method().as_str().len()),
        (":scheme", uri.scheme_str().map_or(0, str::len)),
        (":authority", uri.authority().map_or(0, |authority| authority.as_str().len())),
        (":path", uri.path_and_query().map_or(0, |path| path.as_str().len())),
    ];
    let parts = parts.into_iter().map(|(name, len)| name.len() + len);
    parts.map(|bytes| bytes + FIELD_OVERHEAD).sum::<usize>() + fields_len(request.headers())
}

/// The fields that requests of one connection have in common, made once and then copied.
#[derive(Debug)]
pub(super) struct Template {
    fields: HeaderMap,
    /// The same with the last timeout that was asked for.
    timed: Mutex<Option<(Timeout, HeaderMap)>>,
}

impl Template {
    pub(super) fn new(user_agent: HeaderValue, accepted: &[Compression]) -> Self {
        let mut fields = HeaderMap::new();
        fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(APPLICATION_GRPC));
        fields.insert(header::USER_AGENT, user_agent);
        fields.insert(header::TE, TRAILERS);
        if let Some(names) = names_of(accepted) {
            fields.insert(GRPC_ACCEPT_ENCODING, names);
        }
        Self { fields, timed: Mutex::default() }
    }

    fn fields(&self, timeout: Option<Duration>) -> HeaderMap {
        let Some(timeout) = timeout.map(Timeout::encode) else { return self.fields.clone() };
        let mut timed = self.timed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((same, fields)) = &*timed
            && *same == timeout
        {
            return fields.clone();
        }
        // Digits and a letter are legal in a header.
        let mut value = HeaderValue::from_maybe_shared(Bytes::from(timeout.to_string()))
            .unwrap_or_else(|_| HeaderValue::from_static("0n"));
        let mut fields = self.fields.clone();
        fields.insert(GRPC_TIMEOUT, value.clone());
        *timed = Some((timeout, fields.clone()));
        // No secret, but perhaps not to come again: so marked, it does not push useful fields out
        // of the compression tables. One that does come again is sent unmarked, and kept there.
        value.set_sensitive(true);
        fields.insert(GRPC_TIMEOUT, value);
        fields
    }
}

/// The names of `accepted`, which are legal in a header; without any there is nothing to say.
fn names_of(accepted: &[Compression]) -> Option<HeaderValue> {
    let names: Vec<_> = accepted.iter().map(|compression| compression.name()).collect();
    HeaderValue::from_str(&names.join(",")).ok().filter(|names| !names.is_empty())
}

/// What HTTP/2 adds to the size of each field.
const FIELD_OVERHEAD: usize = 32;

/// The smallest limit that servers have in earnest is 8 KiB; this is far below it.
const LEAST_TAKEN: usize = 4 * 1024;

const APPLICATION_GRPC: &str = "application/grpc";
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");
const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
