//! What a `dns` target names.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::types::{InvalidIp, Target, TargetError, ip_addr, is_ipv6, socket_addr};

use super::DEFAULT_PORT;
use super::fixed::no_interface;

/// What a target names.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Named<'a> {
    /// An address, which is not looked up.
    Address(SocketAddr),
    /// A host and a port.
    Host(&'a str, u16),
}

/// What `target` names.
pub(super) fn named(target: &Target) -> Result<Named<'_>, TargetError> {
    // With a zone too, which the parts of an endpoint do not have.
    if let Ok(address) = socket_addr(target.endpoint())
        && address.port() != 0
    {
        return Ok(Named::Address(address));
    }
    let (host, port) = host_and_port(target)?;
    match ip_addr(host, port) {
        Ok(address) => Ok(Named::Address(address)),
        Err(InvalidIp::UnknownZone { zone }) => Err(no_interface(target, host, &zone)),
        Err(InvalidIp::Malformed) => Ok(Named::Host(host, port)),
    }
}

/// The host and the port that a target names.
pub(crate) fn host_and_port(target: &Target) -> Result<(&str, u16), TargetError> {
    let text = target.endpoint();
    if text.is_empty() {
        return Err(target.invalid("there is no host; expected dns:host or dns:host:port"));
    }
    // An IPv6 address without brackets is no host and port.
    if is_ipv6(text) {
        return Ok((text, DEFAULT_PORT));
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let split = rest.split_once(']');
            let split = split.filter(|(ip, _)| is_ipv6(ip));
            let Some((ip, port)) = split else {
                return Err(target.invalid(format!(
                    "`{text}` is not an IPv6 address; expected [a::b] or [a::b]:port"
                )));
            };
            (ip, port)
        }
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => DEFAULT_PORT,
        Some("") => {
            return Err(target.invalid("there is no port after the colon; expected host:port"));
        }
        Some(digits) => parse_port(digits).ok_or_else(|| {
            target.invalid(format!("port `{digits}` is not a number from 1 to 65535"))
        })?,
        None => {
            return Err(target.invalid(format!("`{port}` follows the address; expected :port")));
        }
    };
    let host = if host.is_empty() { "localhost" } else { host };
    Ok((host, port))
}

fn parse_port(digits: &str) -> Option<u16> {
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    let port = digits.parse().ok().filter(|port| *port != 0)?;
    is_number.then_some(port)
}

/// Whether nobody but this machine says what `name` is
/// ([RFC 6761](https://www.rfc-editor.org/rfc/rfc6761#section-6.3)).
pub(super) fn is_localhost(name: &str) -> bool {
    let name = without_last_dot(name.as_bytes());
    let Some(rest) = name.len().checked_sub(LOCALHOST.len()) else { return false };
    let (before, last) = name.split_at(rest);
    last.eq_ignore_ascii_case(LOCALHOST) && (before.is_empty() || before.ends_with(b"."))
}

/// What `localhost` is where no hosts file says otherwise.
pub(super) const LOOPBACK: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// A last dot makes no difference to who has a name.
pub(super) fn without_last_dot(name: &[u8]) -> &[u8] {
    name.strip_suffix(b".").unwrap_or(name)
}

const LOCALHOST: &[u8] = b"localhost";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_host_and_a_port() {
        let rows = [
            ("greeter", ("greeter", 443)),
            ("greeter.example:50051", ("greeter.example", 50051)),
            (":50051", ("localhost", 50051)),
            ("10.0.0.7:1", ("10.0.0.7", 1)),
            ("[::1]:65535", ("::1", 65535)),
            ("[::1]", ("::1", 443)),
            ("::1", ("::1", 443)),
        ];
        for (text, expected) in rows {
            let target = Target::parse(text, &["dns"], "dns").unwrap();
            assert_eq!(host_and_port(&target), Ok(expected), "{text}");
        }
    }

    #[test]
    fn localhost_and_what_is_below_it_is_this_machine() {
        for name in ["localhost", "LocalHost.", "a.localhost", "a.b.LOCALHOST."] {
            assert!(is_localhost(name), "{name}");
        }
        for name in ["", ".", "alocalhost", "localhost.example", "localhost.localdomain", "host"] {
            assert!(!is_localhost(name), "{name}");
        }
    }
}
