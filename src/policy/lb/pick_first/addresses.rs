//! In which order addresses are tried.

use std::collections::{HashSet, VecDeque};
use std::net::IpAddr;

use crate::types::{Address, Endpoint};

/// The addresses of all endpoints, each once, families taking turns (A61).
///
/// An address family that does not work here then costs one attempt, not half of them. The family
/// that comes first keeps its place; within a family, order stays.
pub(super) fn in_order_of_attempts(endpoints: &[Endpoint]) -> Vec<Address> {
    let mut seen = HashSet::new();
    let mut families: Vec<(Family, VecDeque<Address>)> = Vec::new();
    for address in endpoints.iter().flat_map(Endpoint::addresses) {
        if !seen.insert(address) {
            continue;
        }
        let family = Family::of(address);
        if let Some((_, members)) = families.iter_mut().find(|(known, _)| *known == family) {
            members.push_back(address.clone());
        } else {
            families.push((family, VecDeque::from([address.clone()])));
        }
    }
    let mut ordered = Vec::with_capacity(seen.len());
    while ordered.len() < seen.len() {
        let round = families.iter_mut().filter_map(|(_, members)| members.pop_front());
        ordered.extend(round);
    }
    ordered
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
    Other,
}

impl Family {
    fn of(address: &Address) -> Self {
        match address {
            // `::ffff:10.0.0.7` goes out over IPv4.
            Address::Socket(socket) => match socket.ip().to_canonical() {
                IpAddr::V4(_) => Self::V4,
                IpAddr::V6(_) => Self::V6,
            },
            Address::Unix(_) | Address::UnixAbstract(_) | Address::Name(_) => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        match text.parse::<std::net::SocketAddr>() {
            Ok(socket) => socket.into(),
            Err(_) => Address::Name(text.into()),
        }
    }

    fn ordered(endpoints: &[&[&str]]) -> Vec<String> {
        let endpoints: Vec<_> = endpoints
            .iter()
            .map(|addresses| Endpoint::new(addresses.iter().map(|text| address(text))))
            .collect();
        in_order_of_attempts(&endpoints).iter().map(Address::to_string).collect()
    }

    // spec: A61/interleave
    #[test]
    fn families_take_turns_in_the_order_in_which_they_appear() {
        type Row<'a> = (&'a str, &'a [&'a [&'a str]], &'a [&'a str]);
        let rows: [Row<'_>; 6] = [
            (
                "v4 first",
                &[&["1.0.0.1:1", "1.0.0.2:1", "1.0.0.3:1", "[::1]:1", "[::2]:1"]],
                &["1.0.0.1:1", "[::1]:1", "1.0.0.2:1", "[::2]:1", "1.0.0.3:1"],
            ),
            (
                "v6 first",
                &[&["[::1]:1", "[::2]:1"], &["1.0.0.1:1", "1.0.0.2:1"]],
                &["[::1]:1", "1.0.0.1:1", "[::2]:1", "1.0.0.2:1"],
            ),
            (
                "names are a family",
                &[&["[::1]:1", "[::2]:1"], &["a:1", "b:1"], &["1.0.0.1:1"]],
                &["[::1]:1", "a:1", "1.0.0.1:1", "[::2]:1", "b:1"],
            ),
            (
                "mapped addresses are v4",
                &[&["[::ffff:1.0.0.1]:1", "1.0.0.2:1", "[::1]:1"]],
                &["[::ffff:1.0.0.1]:1", "[::1]:1", "1.0.0.2:1"],
            ),
            (
                "duplicates count once, at their first place",
                &[&["1.0.0.1:1", "1.0.0.2:1"], &["1.0.0.1:1"], &["[::1]:1"]],
                &["1.0.0.1:1", "[::1]:1", "1.0.0.2:1"],
            ),
            ("nothing", &[&[], &[]], &[]),
        ];
        for (name, endpoints, expected) in rows {
            assert_eq!(ordered(endpoints), expected, "{name}");
        }
    }
}
