//! What this machine knows of names without asking anybody.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The addresses that a hosts file has for `name`, in the order of its lines.
///
/// See [hosts(5)](https://man7.org/linux/man-pages/man5/hosts.5.html). The case of letters and a
/// last dot make no difference. The file is gone through once and nothing else of it is kept: lists
/// of blocked names have hundreds of thousands of lines.
pub(super) fn addresses_in(hosts: &[u8], name: &str) -> Vec<IpAddr> {
    let name = without_last_dot(name.as_bytes());
    let mut found = Vec::new();
    for line in hosts.split(|byte| *byte == b'\n') {
        let line = line.split(|byte| *byte == b'#').next().unwrap_or_default();
        let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        let Some(address) = words.next() else { continue };
        if !words.any(|word| without_last_dot(word).eq_ignore_ascii_case(name)) {
            continue;
        }
        let ip = str::from_utf8(address).ok().and_then(|text| text.parse().ok());
        if let Some(ip) = ip.filter(|ip| !found.contains(ip)) {
            found.push(ip);
        }
    }
    found
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

fn without_last_dot(name: &[u8]) -> &[u8] {
    name.strip_suffix(b".").unwrap_or(name)
}

const LOCALHOST: &[u8] = b"localhost";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_file_has_addresses_for_names_and_aliases() {
        let hosts = b"# 10.0.0.1 greeter\n10.0.0.2 greeter.example greeter # 10.0.0.3 other\n\
                      \t::7\tGreeter.Example.\r\n10.0.0.2 greeter\nnonsense greeter\n10.0.0.4\n\
                      10.0.0.5 \xff\xfe greeter\n10.0.0.6 not-greeter greeter2";
        let rows = [
            ("greeter", "10.0.0.2 10.0.0.5"),
            ("GREETER.", "10.0.0.2 10.0.0.5"),
            ("greeter.example", "10.0.0.2 ::7"),
            ("greeter2", "10.0.0.6"),
            ("other", ""),
            ("10.0.0.4", ""),
            ("", ""),
        ];
        for (name, expected) in rows {
            let found = addresses_in(hosts, name);
            let found: Vec<_> = found.iter().map(ToString::to_string).collect();
            assert_eq!(found.join(" "), expected, "{name}");
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
