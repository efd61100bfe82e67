//! IP addresses as people write them, with zones (RFC 4007): `fe80::1%eth0`.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, ToSocketAddrs as _};

/// Parses an IP address with a port: `10.0.0.7:80`, `[::1]:80`, `[fe80::1%eth0]:80`.
pub(crate) fn socket_addr(text: &str) -> Result<SocketAddr, InvalidIp> {
    if let Ok(addr) = text.parse() {
        return Ok(addr);
    }
    let (host, port) = text.rsplit_once(':').ok_or(InvalidIp::Malformed)?;
    let host = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|_| is_number).ok_or(InvalidIp::Malformed)?;
    let (ip, scope_id) = ipv6(host.ok_or(InvalidIp::Malformed)?)?;
    Ok(SocketAddrV6::new(ip, port, 0, scope_id).into())
}

/// Parses an IP address without a port and gives it this one: `10.0.0.7`, `::1`, `fe80::1%eth0`, the
/// latter two in brackets too.
pub(crate) fn ip_addr(text: &str, port: u16) -> Result<SocketAddr, InvalidIp> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match (text.parse::<IpAddr>(), ipv6(bare.unwrap_or(text))) {
        (Ok(ip), _) => Ok(SocketAddr::new(ip, port)),
        (Err(_), Ok((ip, scope_id))) => Ok(SocketAddrV6::new(ip, port, 0, scope_id).into()),
        (Err(_), Err(error)) => Err(error),
    }
}

/// Whether this is an IPv6 address, perhaps with a zone, which need not exist.
pub(crate) fn is_ipv6(text: &str) -> bool {
    let (ip, zone) = text.split_once('%').unwrap_or((text, "0"));
    ip.parse::<Ipv6Addr>().is_ok() && is_zone(zone)
}

/// An IPv6 address and the number of its zone, which is 0 where there is none.
fn ipv6(text: &str) -> Result<(Ipv6Addr, u32), InvalidIp> {
    let (ip, zone) = match text.split_once('%') {
        Some((ip, zone)) => (ip, Some(zone)),
        None => (text, None),
    };
    let ip = ip.parse().map_err(|_| InvalidIp::Malformed)?;
    match zone {
        None => Ok((ip, 0)),
        Some(zone) if is_zone(zone) => Ok((ip, index_of(zone)?)),
        Some(_) => Err(InvalidIp::Malformed),
    }
}

/// What names an interface: neither blanks nor what ends an address elsewhere.
fn is_zone(zone: &str) -> bool {
    let fits = |c: char| c.is_ascii_graphic() && !matches!(c, '%' | '/' | '[' | ']');
    !zone.is_empty() && zone.chars().all(fits)
}

/// The number of a zone: that of the interface of this name, if it is no number itself.
fn index_of(zone: &str) -> Result<u32, InvalidIp> {
    if let Ok(index) = zone.parse() {
        return Ok(index);
    }
    // The one way to the system's table of interfaces that takes no `unsafe`: an address is no name,
    // so that nobody is asked for it. Some systems take names of zones for link-local ones only.
    let found = (format!("fe80::1%{zone}"), 0).to_socket_addrs();
    let index = found.into_iter().flatten().find_map(|addr| match addr {
        SocketAddr::V6(addr) => Some(addr.scope_id()).filter(|index| *index != 0),
        SocketAddr::V4(_) => None,
    });
    index.ok_or_else(|| InvalidIp::UnknownZone { zone: zone.to_owned() })
}

/// Why a text cannot be taken for an IP address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum InvalidIp {
    /// It is not one.
    Malformed,
    /// No interface of this machine has the name of its zone.
    UnknownZone {
        /// Which.
        zone: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An address with a port, then one without, both with the numbers of their zones.
    fn parsed(text: &str) -> [String; 2] {
        [socket_addr(text), ip_addr(text, 443)].map(|parsed| match parsed {
            Ok(addr) => addr.to_string(),
            Err(InvalidIp::Malformed) => "malformed".to_owned(),
            Err(InvalidIp::UnknownZone { zone }) => format!("no {zone}"),
        })
    }

    #[test]
    fn addresses_are_read_with_and_without_zones() {
        let no = "malformed";
        let rows = [
            ("10.0.0.7:80", "10.0.0.7:80", no),
            ("10.0.0.7", no, "10.0.0.7:443"),
            ("[::1]:80", "[::1]:80", no),
            ("::1", no, "[::1]:443"),
            ("[::1]", no, "[::1]:443"),
            ("[fe80::1%3]:80", "[fe80::1%3]:80", no),
            ("fe80::1%3", no, "[fe80::1%3]:443"),
            ("[fe80::1%3]", no, "[fe80::1%3]:443"),
            ("[fe80::1%no-such-zone]:80", "no no-such-zone", no),
            ("fe80::1%no-such-zone", no, "no no-such-zone"),
            ("10.0.0.7%3", no, no),
            ("[10.0.0.7]:80", no, no),
            ("[10.0.0.7]", no, no),
            ("fe80::1%", no, no),
            ("fe80::1%a%b", no, no),
            ("fe80::1%a b", no, no),
            ("fe80::1%a/b", no, no),
            ("[fe80::1%3]:", no, no),
            ("[fe80::1%3]:+1", no, no),
            ("[fe80::1%3]:99999", no, no),
            ("greeter:80", no, no),
            ("", no, no),
        ];
        for (text, with_port, without) in rows {
            assert_eq!(parsed(text), [with_port, without], "{text}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_zone_is_the_number_of_the_interface_of_its_name() {
        let index = std::fs::read_to_string("/sys/class/net/lo/ifindex").unwrap();
        let index = index.trim();
        let expected = [format!("[fe80::1%{index}]:80"), "malformed".to_owned()];
        assert_eq!(parsed("[fe80::1%lo]:80"), expected);
        // On addresses that need none, too.
        assert_eq!(ip_addr("2001:db8::1%lo", 1), ip_addr(&format!("2001:db8::1%{index}"), 1));
    }

    #[test]
    fn an_ipv6_address_is_known_whatever_its_zone() {
        let rows = [
            ("::1", true),
            ("fe80::1%eth0", true),
            ("fe80::1%", false),
            ("10.0.0.7", false),
            ("10.0.0.7%eth0", false),
            ("greeter", false),
        ];
        for (text, expected) in rows {
            assert_eq!(is_ipv6(text), expected, "{text}");
        }
    }
}
