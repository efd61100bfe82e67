//! In which order addresses are tried.

use crate::types::{Address, Endpoint, Family, interleaved};

/// The addresses of all endpoints, each once, families taking turns (A61).
pub(super) fn in_order_of_attempts(endpoints: &[Endpoint]) -> Vec<Address> {
    interleaved(endpoints.iter().flat_map(Endpoint::addresses).cloned(), family)
}

fn family(address: &Address) -> Family {
    match address {
        Address::Socket(socket) => Family::of_ip(socket.ip()),
        Address::Unix(_) | Address::UnixAbstract(_) | Address::Name(_) => Family::Other,
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
