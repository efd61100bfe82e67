//! What proves to a server who calls.

use std::fmt;
use std::sync::Arc;

use tokio::runtime::Handle;

use crate::types::{Authority, Foreign, Metadata, MethodPath, SecurityLevel, Status};

use super::connect::BoxFuture;

/// Makes the metadata that proves to a server who calls, for each attempt of a call anew.
///
/// Give one to a channel with [`Credentials::with_call_credentials`](crate::Credentials::with_call_credentials),
/// to a call with [`CallOptions::credentials`](crate::CallOptions::credentials), or to both; all of
/// them are sent, the channel's first. [`BearerToken`], [`JwtFile`](crate::JwtFile) and
/// [`OAuth2`](crate::OAuth2) are such.
///
/// ```
/// use switchboard::{BoxFuture, CallContext, CallCredentials, Metadata, Status};
///
/// struct Signature(u64);
///
/// impl CallCredentials for Signature {
///     fn metadata<'a>(
///         &'a self,
///         call: &'a CallContext<'_>,
///     ) -> BoxFuture<'a, Result<Metadata, Status>> {
///         Box::pin(async move {
///             let mut metadata = Metadata::new();
///             let signature = format!("{:x}/{}", self.0, call.audience());
///             metadata
///                 .insert("signature", signature)
///                 .map_err(|error| Status::internal(error.to_string()))?;
///             Ok(metadata)
///         })
///     }
/// }
/// ```
pub trait CallCredentials: Send + Sync + 'static {
    /// The metadata for one attempt. Its values are taken as secrets: header compression does not
    /// remember them, and they are neither shown nor logged.
    ///
    /// It lies under the call's deadline, at which the future is dropped. A status that it fails
    /// with ends the attempt: the retry or hedging policy of the method judges its code, and it
    /// becomes the call's where no other attempt follows. One of a code that would blame the application (`OK`,
    /// `INVALID_ARGUMENT`, `NOT_FOUND`, `ALREADY_EXISTS`, `FAILED_PRECONDITION`, ABORTED,
    /// `OUT_OF_RANGE`, `DATA_LOSS`) becomes INTERNAL (A54).
    fn metadata<'a>(&'a self, call: &'a CallContext<'_>)
    -> BoxFuture<'a, Result<Metadata, Status>>;

    /// How well a connection must be protected that this travels on (L62). On a lesser one the call
    /// ends with UNAUTHENTICATED and nothing is sent. The default is the highest. The credentials of
    /// this crate have a method of the same name by which it can be said.
    fn min_security_level(&self) -> SecurityLevel {
        SecurityLevel::PrivacyAndIntegrity
    }
}

/// What call credentials are for.
#[derive(Clone, Copy, Debug)]
pub struct CallContext<'a> {
    method: &'a MethodPath,
    authority: &'a Authority,
    security: SecurityLevel,
    runtime: &'a Handle,
}

impl<'a> CallContext<'a> {
    pub(crate) const fn new(
        method: &'a MethodPath,
        authority: &'a Authority,
        security: SecurityLevel,
        runtime: &'a Handle,
    ) -> Self {
        Self { method, authority, security, runtime }
    }

    /// The method that is called.
    pub const fn method(&self) -> &'a MethodPath {
        self.method
    }

    /// The name that the credentials are for: the authority that the call sets, where the server has
    /// proved to be that, or else the channel's. So on connections that prove nothing it is the
    /// channel's, whatever the call is addressed to.
    pub const fn authority(&self) -> &'a Authority {
        self.authority
    }

    /// How the connection is protected.
    pub const fn security_level(&self) -> SecurityLevel {
        self.security
    }

    /// Where the channel's tasks run.
    pub(crate) const fn runtime(&self) -> &'a Handle {
        self.runtime
    }

    /// For whom a token is to be: `https://`, the authority without the port 443, and the service.
    pub fn audience(&self) -> String {
        let authority = self.authority.as_str();
        let host = authority.strip_suffix(":443").unwrap_or(authority);
        let service = self.method.as_str().rsplit_once('/').map_or("", |(service, _)| service);
        format!("https://{host}{service}")
    }
}

/// A token that does not change: `authorization: Bearer …`.
#[derive(Clone)]
pub struct BearerToken {
    metadata: Metadata,
    level: SecurityLevel,
}

impl BearerToken {
    /// Sends `token`. Fails with INTERNAL if it has characters that a header cannot carry; the
    /// status does not show it.
    pub fn new(token: impl AsRef<str>) -> Result<Self, Status> {
        let mut metadata = Metadata::new();
        let refused = |_| {
            Status::internal("the token has characters that a header cannot carry: expected ASCII")
        };
        let value = format!("Bearer {}", token.as_ref());
        metadata.insert("authorization", value).map_err(refused)?;
        let level = SecurityLevel::PrivacyAndIntegrity;
        Ok(Self { metadata: metadata.into_sensitive(), level })
    }

    /// Sends it on connections that are protected so or better. Default:
    /// [`SecurityLevel::PrivacyAndIntegrity`], which TLS has, and Unix sockets with
    /// [`Credentials::local`](crate::Credentials::local). Below that whoever sits on the network can
    /// take the token: say [`SecurityLevel::None`] only where something else protects the way, such
    /// as the proxy of a service mesh on this machine, or a loopback address.
    #[must_use]
    pub fn min_security_level(mut self, level: SecurityLevel) -> Self {
        self.level = level;
        self
    }
}

impl BearerToken {
    /// What it is sent as.
    pub(crate) fn into_metadata(self) -> Metadata {
        self.metadata
    }
}

impl CallCredentials for BearerToken {
    fn metadata<'a>(&'a self, _: &'a CallContext<'_>) -> BoxFuture<'a, Result<Metadata, Status>> {
        Box::pin(std::future::ready(Ok(self.metadata.clone())))
    }

    fn min_security_level(&self) -> SecurityLevel {
        self.level
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BearerToken(..)")
    }
}

/// Some call credentials, of which each is sent.
#[derive(Clone, Default)]
pub(crate) struct AllCallCredentials(Option<Arc<[ForeignCredential]>>);

/// A call credential, whose panics are caught.
type ForeignCredential = Foreign<Arc<dyn CallCredentials>>;

impl AllCallCredentials {
    pub(crate) fn with(&self, one: Arc<dyn CallCredentials>) -> Self {
        let one = Foreign::new("a call credential", one);
        Self(Some(self.iter().cloned().chain([one]).collect()))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &ForeignCredential> {
        self.0.iter().flat_map(|all| all.iter())
    }
}

impl fmt::Debug for AllCallCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} call credentials", self.iter().count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_audience_is_the_service_at_its_host() {
        let method = MethodPath::parse("/helloworld.Greeter/SayHello").unwrap();
        for (authority, audience) in [
            ("greeter.example", "https://greeter.example/helloworld.Greeter"),
            ("greeter.example:443", "https://greeter.example/helloworld.Greeter"),
            ("[::1]:50051", "https://[::1]:50051/helloworld.Greeter"),
        ] {
            let authority = Authority::parse(authority).unwrap();
            let runtime = Handle::current();
            let call = CallContext::new(&method, &authority, SecurityLevel::None, &runtime);
            assert_eq!(call.audience(), audience);
        }
    }

    #[test]
    fn a_token_is_not_shown() {
        let token = BearerToken::new("secret").unwrap();
        assert!(!format!("{token:?} {:?}", token.metadata).contains("secret"));
        let error = BearerToken::new("sécret").unwrap_err();
        assert!(!error.to_string().contains("cret"), "{error}");
    }
}
