//! The hosts file.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hasher as _};
use std::net::IpAddr;

use super::endpoint::without_last_dot;

/// A hosts file.
///
/// Lists of blocked names have hundreds of thousands of lines, so an entry takes 16 bytes beside
/// the text, and the file is gone through once.
pub(super) struct Hosts {
    text: Vec<u8>,
    /// Each name, hashed, with the place where its line begins. Sorted.
    names: Vec<(u64, usize)>,
}

impl Hosts {
    /// Reads a file. What is wrong in it is ignored.
    /// See [hosts(5)](https://man7.org/linux/man-pages/man5/hosts.5.html).
    pub(super) fn parse(text: Vec<u8>) -> Self {
        let mut names = Vec::new();
        let mut place = 0;
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            names.extend(words(line).skip(1).map(|name| (hash(name), place)));
            place += line.len();
        }
        names.sort_unstable();
        Self { text, names }
    }

    /// The addresses of `name`, in the order of the lines. The case of letters and a last dot make
    /// no difference.
    pub(super) fn addresses(&self, name: &str) -> Vec<IpAddr> {
        let name = without_last_dot(name.as_bytes());
        let wanted = hash(name);
        let first = self.names.partition_point(|(hash, _)| *hash < wanted);
        let of_hash = self.names[first..].iter().take_while(|(hash, _)| *hash == wanted);
        let mut seen = BTreeSet::new();
        let addresses = of_hash.filter_map(|(_, place)| {
            let line = self.text[*place..].split(|byte| *byte == b'\n').next()?;
            let mut words = words(line);
            let ip: IpAddr = str::from_utf8(words.next()?).ok()?.parse().ok()?;
            let is_name = words.any(|word| without_last_dot(word).eq_ignore_ascii_case(name));
            (is_name && seen.insert(ip)).then_some(ip)
        });
        addresses.collect()
    }
}

fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let line = line.split(|byte| *byte == b'#').next().unwrap_or_default();
    line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty())
}

fn hash(name: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for byte in without_last_dot(name) {
        hasher.write_u8(byte.to_ascii_lowercase());
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_file_has_addresses_for_names_and_aliases() {
        let hosts = Hosts::parse(
            b"# 10.0.0.1 greeter\n10.0.0.2 greeter.example greeter # 10.0.0.3 other\n\
                      \t::7\tGreeter.Example.\r\n10.0.0.2 greeter\nnonsense greeter\n10.0.0.4\n\
                      10.0.0.5 \xff\xfe greeter\n10.0.0.6 not-greeter greeter2"
                .to_vec(),
        );
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
            let found = hosts.addresses(name);
            let found: Vec<_> = found.iter().map(ToString::to_string).collect();
            assert_eq!(found.join(" "), expected, "{name}");
        }
    }

    #[test]
    fn a_long_list_of_blocked_names_takes_little_beside_its_text() {
        let lines = (0..200_000).map(|nth| format!("0.0.0.0 ads{nth}.example\n"));
        let text: String = lines.chain(["10.0.0.1 greeter\n".to_owned()]).collect();
        let hosts = Hosts::parse(text.into_bytes());
        assert_eq!(hosts.names.len(), 200_001);
        assert!(size_of_val(&*hosts.names) <= 200_001 * 16);
        assert_eq!(hosts.addresses("greeter"), [IpAddr::from([10, 0, 0, 1])]);
        assert_eq!(hosts.addresses("ads77.example"), [IpAddr::from([0, 0, 0, 0])]);
    }
}
