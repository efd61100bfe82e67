//! The order of addresses: [RFC 6724](https://www.rfc-editor.org/rfc/rfc6724#section-6).

use std::cmp::Reverse;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};

/// Sorts `addresses` as the operating system does: the likeliest to be reached first.
pub(super) fn sort(addresses: &mut Vec<IpAddr>) {
    if addresses.len() < 2 {
        return;
    }
    let mut pairs: Vec<_> = addresses.iter().map(|ip| (*ip, source_for(*ip))).collect();
    sort_pairs(&mut pairs);
    *addresses = pairs.into_iter().map(|(destination, _)| destination).collect();
}

/// The address that packets to `destination` would leave from, if there is a way to it. Nothing is
/// sent: connecting a UDP socket only looks a route up.
fn source_for(destination: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = match destination {
        IpAddr::V4(_) => [0; 4].into(),
        IpAddr::V6(_) => [0; 16].into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).ok()?;
    // Any port will do but 0, which some systems refuse.
    socket.connect(SocketAddr::new(destination, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// Sorts destinations, each with the source address that would be used for it.
///
/// Of the rules of the RFC four are left out, as in Go: whether a source is deprecated (3), at home
/// (4) or tunnelled (7) is not known, and the longest prefix (9) is compared for IPv6 only, as
/// IPv4's has no meaning and would undo what name servers do to spread load. Destinations that no
/// rule tells apart keep their order (10).
fn sort_pairs(pairs: &mut [(IpAddr, Option<IpAddr>)]) {
    pairs.sort_by_cached_key(|(destination, source)| {
        let to = Class::of(*destination);
        let from = source.map(Class::of);
        let destination_is_v6 = matches!(destination, IpAddr::V6(_));
        let common = match source.filter(|_| destination_is_v6) {
            Some(source) => common_prefix(*destination, source),
            None => 0,
        };
        (
            // Rule 1: avoid destinations that cannot be used.
            source.is_none(),
            // Rule 2: prefer a matching scope.
            from.as_ref().is_none_or(|from| from.scope != to.scope),
            // Rule 5: prefer a matching label.
            from.as_ref().is_none_or(|from| from.label != to.label),
            // Rule 6: prefer the higher precedence.
            Reverse(to.precedence),
            // Rule 8: prefer the smaller scope.
            to.scope,
            // Rule 9: prefer the longer common prefix.
            Reverse(common),
        )
    });
}

/// What the rules compare of an address.
struct Class {
    scope: u8,
    precedence: u8,
    label: u8,
}

impl Class {
    fn of(ip: IpAddr) -> Self {
        let mapped = match ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let bits = mapped.to_bits();
        let matches = |prefix: Ipv6Addr, length: u32| {
            length == 0 || (bits ^ prefix.to_bits()) >> (128 - length) == 0
        };
        let row = POLICY.iter().find(|(prefix, length, ..)| matches(*prefix, *length));
        let (precedence, label) =
            row.map_or((40, 1), |(_, _, precedence, label)| (*precedence, *label));
        Self { scope: scope(ip), precedence, label }
    }
}

/// Section 3.1 and 3.2 of the RFC.
fn scope(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(ip) if ip.is_loopback() || ip.is_link_local() => LINK_LOCAL,
        IpAddr::V4(_) => GLOBAL,
        IpAddr::V6(ip) => {
            if let Some(ip) = ip.to_ipv4_mapped() {
                return scope(ip.into());
            }
            let first = ip.segments()[0];
            if ip.is_multicast() {
                (first & 0xf) as u8
            } else if ip.is_loopback() || first & 0xffc0 == 0xfe80 {
                LINK_LOCAL
            } else if first & 0xffc0 == 0xfec0 {
                SITE_LOCAL
            } else {
                GLOBAL
            }
        }
    }
}

/// How many bits `one` and `other` begin with in common, where both are IPv6; no more than 64, the
/// length of a prefix.
fn common_prefix(one: IpAddr, other: IpAddr) -> u32 {
    match (one, other) {
        (IpAddr::V6(one), IpAddr::V6(other)) => {
            (one.to_bits() ^ other.to_bits()).leading_zeros().min(64)
        }
        (IpAddr::V4(_), _) | (_, IpAddr::V4(_)) => 0,
    }
}

const LINK_LOCAL: u8 = 0x2;
const SITE_LOCAL: u8 = 0x5;
const GLOBAL: u8 = 0xe;

/// The default policy table (section 2.1), longest prefixes first: prefix, its length, precedence,
/// label. What no other row has is of the last.
const POLICY: [(Ipv6Addr, u32, u8, u8); 9] = [
    (Ipv6Addr::LOCALHOST, 128, 50, 0),
    (Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96, 35, 4),
    (Ipv6Addr::UNSPECIFIED, 96, 1, 3),
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32, 5, 5),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16, 30, 2),
    (Ipv6Addr::new(0x3ffe, 0, 0, 0, 0, 0, 0, 0), 16, 1, 12),
    (Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10, 1, 11),
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7, 3, 13),
    (Ipv6Addr::UNSPECIFIED, 0, 40, 1),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Sorts `destination source`, where `-` is a destination that cannot be reached.
    fn sorted(pairs: &[&str]) -> Vec<String> {
        let mut pairs: Vec<_> = pairs
            .iter()
            .map(|pair| {
                let (destination, source) = pair.split_once(' ').unwrap();
                (destination.parse().unwrap(), source.parse().ok())
            })
            .collect();
        sort_pairs(&mut pairs);
        pairs.iter().map(|(destination, _)| destination.to_string()).collect()
    }

    #[test]
    fn destinations_are_in_the_order_of_the_examples_of_the_rfc() {
        // Section 10.2, but for those of deprecated and home addresses; then one for each rule.
        let rows: &[(&str, &[&str], &[&str])] = &[
            (
                "prefer a matching scope: IPv6",
                &["198.51.100.121 169.254.13.78", "2001:db8:1::1 2001:db8:1::2"],
                &["2001:db8:1::1", "198.51.100.121"],
            ),
            (
                "prefer a matching scope: IPv4",
                &["2001:db8:1::1 fe80::1", "198.51.100.121 198.51.100.117"],
                &["198.51.100.121", "2001:db8:1::1"],
            ),
            (
                "prefer the higher precedence",
                &["10.1.2.3 10.1.2.4", "2001:db8:1::1 2001:db8:1::2"],
                &["2001:db8:1::1", "10.1.2.3"],
            ),
            (
                "prefer the smaller scope",
                &["2001:db8:1::1 2001:db8:1::2", "fe80::1 fe80::2"],
                &["fe80::1", "2001:db8:1::1"],
            ),
            (
                "prefer a matching label",
                &["2001:db8:1::1 2002:c633:6401::2", "2002:c633:6401::1 2002:c633:6401::2"],
                &["2002:c633:6401::1", "2001:db8:1::1"],
            ),
            (
                "prefer the higher precedence of native addresses to 6to4",
                &["2002:c633:6401::1 2002:c633:6401::2", "2001:db8:1::1 2001:db8:1::2"],
                &["2001:db8:1::1", "2002:c633:6401::1"],
            ),
            (
                "avoid what cannot be reached",
                &["2001:db8:1::1 -", "10.0.0.1 10.0.0.2"],
                &["10.0.0.1", "2001:db8:1::1"],
            ),
            (
                "prefer the longer common prefix",
                &["2001:db8:3ffe::1 2001:db8:1::2", "2001:db8:1::1 2001:db8:1::2"],
                &["2001:db8:1::1", "2001:db8:3ffe::1"],
            ),
            (
                "compare no prefixes of IPv4, and none beyond 64 bits",
                &["10.9.0.1 10.0.0.2", "10.0.0.1 10.0.0.2", "10.0.0.3 10.0.0.2"],
                &["10.9.0.1", "10.0.0.1", "10.0.0.3"],
            ),
            (
                "compare no more than the prefix of a network",
                &["2001:db8:1::f000 2001:db8:1::2", "2001:db8:1::1 2001:db8:1::2"],
                &["2001:db8:1::f000", "2001:db8:1::1"],
            ),
            (
                "prefer IPv6 on this machine",
                &["127.0.0.1 127.0.0.1", "::1 ::1"],
                &["::1", "127.0.0.1"],
            ),
            (
                "prefer IPv4 to unique local addresses",
                &["fd00::1 fd00::2", "10.0.0.1 10.0.0.2"],
                &["10.0.0.1", "fd00::1"],
            ),
            (
                "leave the order of what cannot be reached",
                &["10.0.0.2 -", "10.0.0.1 -"],
                &["10.0.0.2", "10.0.0.1"],
            ),
        ];
        for (rule, pairs, expected) in rows {
            assert_eq!(sorted(pairs), *expected, "{rule}");
        }
    }

    #[test]
    fn this_machine_is_reached_from_itself() {
        assert_eq!(source_for([127, 0, 0, 7].into()), Some([127, 0, 0, 1].into()));
        let mut one = vec![IpAddr::from([192, 0, 2, 1])];
        sort(&mut one);
        assert_eq!(one, [IpAddr::from([192, 0, 2, 1])]);
    }
}
