//! What secures a connection: the step between a dialled stream of bytes and HTTP/2.

use crate::types::Authority;

use super::connect::Io;
use super::error::ConnectFault;

/// How connections are secured, for all calls of a channel.
#[derive(Clone, Debug)]
pub struct Credentials(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Insecure,
}

impl Credentials {
    /// No security: whoever sits on the network reads and changes everything.
    pub fn insecure() -> Self {
        Self(Kind::Insecure)
    }

    /// The `:scheme` of requests on such connections.
    pub(crate) fn scheme(&self) -> http::uri::Scheme {
        match self.0 {
            Kind::Insecure => http::uri::Scheme::HTTP,
        }
    }

    /// Secures `io`, whose other end must prove to be `authority`.
    ///
    /// The caller bounds it by the connect deadline.
    #[expect(
        clippy::unused_async,
        reason = "a handshake waits for the peer; the insecure one has nothing to wait for"
    )]
    pub(crate) async fn handshake(
        &self,
        io: Io,
        _authority: &Authority,
    ) -> Result<Io, ConnectFault> {
        match self.0 {
            Kind::Insecure => Ok(io),
        }
    }
}
