//! The name that a server is addressed by.

use std::fmt;

use super::harmless;

/// The value of `:authority`, and the name that TLS checks: `host`, `host:port` or `[ip]:port`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Authority(http::uri::Authority);

impl Authority {
    /// Parses an authority as it stands in a URI.
    pub fn parse(text: &str) -> Result<Self, InvalidAuthority> {
        if text.is_empty() || text.contains('@') {
            return Err(InvalidAuthority { text: text.into() });
        }
        text.parse().map(Self).map_err(|_| InvalidAuthority { text: text.into() })
    }

    /// The authority of a channel to `endpoint`: a leading `:` gets the host `localhost`, and of a
    /// list of addresses it is the first.
    ///
    /// What may not stand in an authority becomes `-`. gRPC would percent-encode it, which the
    /// `http` crate refuses in a host. Where that leaves no authority it is `localhost`, as for
    /// sockets that have no host. A channel to such a name may set its authority itself.
    pub(crate) fn of_endpoint(endpoint: &str) -> Self {
        let first = endpoint.split(',').next().unwrap_or_default();
        let legal = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()*+;=:[]".contains(c);
        let host = if first.starts_with(':') { "localhost" } else { "" };
        let name: String = first.chars().map(|c| if legal(c) { c } else { '-' }).collect();
        // What stands after a colon is a port, or it is no authority.
        let has_sound_port =
            |it: &Self| it.0.host().len() == it.as_str().len() || it.0.port_u16().is_some();
        let authority = Self::parse(&format!("{host}{name}")).ok().filter(has_sound_port);
        authority.unwrap_or_else(Self::localhost)
    }

    /// The authority of what has no host, such as a Unix socket.
    pub(crate) fn localhost() -> Self {
        Self(http::uri::Authority::from_static("localhost"))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The host alone; an IPv6 address without its brackets.
    pub fn host(&self) -> &str {
        let host = self.0.host();
        host.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(host)
    }

    pub(crate) fn as_http(&self) -> &http::uri::Authority {
        &self.0
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authority({self})")
    }
}

/// The text is no authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidAuthority {
    text: String,
}

impl fmt::Display for InvalidAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = harmless(&self.text);
        write!(f, "`{text}` is no authority: expected host, host:port or [ip]:port")
    }
}

impl std::error::Error for InvalidAuthority {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_becomes_an_authority() {
        let rows = [
            ("greeter.example:50051", "greeter.example:50051"),
            (":50051", "localhost:50051"),
            ("[::1]:80", "[::1]:80"),
            ("a/b", "a-b"),
            ("10.0.0.7:1,10.0.0.8:1", "10.0.0.7:1"),
            ("unix:///run/greeter", "localhost"),
        ];
        for (endpoint, authority) in rows {
            assert_eq!(Authority::of_endpoint(endpoint).as_str(), authority, "{endpoint}");
        }
    }

    #[test]
    fn what_is_no_authority_is_refused_with_its_text() {
        for text in ["", "a b", "user@host", "a/b"] {
            let error = Authority::parse(text).unwrap_err().to_string();
            assert!(error.contains(&format!("`{text}`")), "{error}");
        }
    }
}
