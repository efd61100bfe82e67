//! Which servers are reached without the proxy.

use std::net::IpAddr;

use super::ProxyError;

/// Some servers, as `NO_PROXY` lists them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Bypass {
    entries: Vec<Entry>,
}

/// One entry of the list. A port where it is for that alone.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    All,
    Ip(IpAddr, Option<u16>),
    /// All addresses that have the first so many bits of this one.
    Range(IpAddr, u8),
    /// The name without a dot before it, and whether it stands for itself or for names below it
    /// alone.
    Domain {
        name: String,
        itself: bool,
        port: Option<u16>,
    },
    /// What no other machine can reach.
    ThisMachine,
}

impl Bypass {
    /// The same servers and those of `list`.
    pub(super) fn with(mut self, list: &str) -> Result<Self, ProxyError> {
        for text in entries(list) {
            let entry = Entry::parse(&text.to_ascii_lowercase());
            let invalid = || ProxyError::InvalidBypass { entry: text.to_owned() };
            self.entries.push(entry.ok_or_else(invalid)?);
        }
        Ok(self)
    }

    /// The servers of `list`, and the entries of it that name none.
    pub(super) fn understood(list: &str) -> (Self, Vec<String>) {
        let mut unknown = Vec::new();
        let entries = entries(list).filter_map(|text| {
            let entry = Entry::parse(&text.to_ascii_lowercase());
            if entry.is_none() {
                unknown.push(text.to_owned());
            }
            entry
        });
        (Self { entries: entries.collect() }, unknown)
    }

    /// The same servers and those on this machine.
    pub(super) fn with_this_machine(mut self) -> Self {
        self.entries.push(Entry::ThisMachine);
        self
    }

    /// Whether `host`, a name or an IP address without brackets, is one of them.
    pub(super) fn covers(&self, host: &str, port: u16) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let ip = host.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
        self.entries.iter().any(|entry| entry.covers(&host, ip, port))
    }
}

impl Entry {
    fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::All);
        }
        if let Some((ip, bits)) = text.split_once('/') {
            let ip: IpAddr = ip.parse().ok()?;
            let bits = bits.parse().ok().filter(|bits| *bits <= width(ip))?;
            return Some(Self::Range(ip, bits));
        }
        let (host, port) = match text.parse::<IpAddr>() {
            Ok(_) => (text, None),
            Err(_) => match text.rsplit_once(':') {
                Some((host, port)) => (host, Some(port.parse().ok()?)),
                None => (text, None),
            },
        };
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        if let Ok(ip) = bare.parse::<IpAddr>() {
            return Some(Self::Ip(ip.to_canonical(), port));
        }
        let below = host.strip_prefix("*.").or_else(|| host.strip_prefix('.'));
        let name = below.unwrap_or(host).trim_end_matches('.');
        let plain = |c: char| !matches!(c, '*' | '[' | ']' | ':' | '/' | '@') && !c.is_whitespace();
        (!name.is_empty() && name.chars().all(plain)).then(|| Self::Domain {
            name: name.to_owned(),
            itself: below.is_none(),
            port,
        })
    }

    fn covers(&self, host: &str, ip: Option<IpAddr>, port: u16) -> bool {
        let port_fits = |wanted: &Option<u16>| wanted.is_none_or(|wanted| wanted == port);
        match self {
            Self::All => true,
            Self::Ip(wanted, wanted_port) => ip == Some(*wanted) && port_fits(wanted_port),
            Self::Range(first, bits) => ip.is_some_and(|ip| share_bits(ip, *first, *bits)),
            Self::Domain { name, itself, port: wanted_port } => {
                let below =
                    host.strip_suffix(name.as_str()).is_some_and(|rest| rest.ends_with('.'));
                (below || *itself && host == name) && port_fits(wanted_port)
            }
            Self::ThisMachine => host == "localhost" || ip.is_some_and(|ip| ip.is_loopback()),
        }
    }
}

fn entries(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|text| !text.is_empty())
}

fn width(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

/// Whether the two begin with the same `bits`, and are of one family.
fn share_bits(a: IpAddr, b: IpAddr, bits: u8) -> bool {
    let differ = match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => u128::from(a.to_bits() ^ b.to_bits()) << 96,
        (IpAddr::V6(a), IpAddr::V6(b)) => a.to_bits() ^ b.to_bits(),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return false,
    };
    differ.leading_zeros() >= bits.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_covers_what_its_entries_name_and_no_more() {
        let rows: [(&str, &[&str], &[&str]); 10] = [
            ("", &[], &["example.com:1", "10.0.0.1:1"]),
            ("*", &["example.com:1", "10.0.0.1:1"], &[]),
            (
                "example.com",
                &["example.com:1", "a.b.example.com:1", "EXAMPLE.com.:1"],
                &["badexample.com:1", "example.com.org:1", "com:1"],
            ),
            (".example.com", &["a.example.com:1"], &["example.com:1", "badexample.com:1"]),
            ("*.Example.com", &["a.example.com:1"], &["example.com:1"]),
            ("example.com:80", &["example.com:80", "a.example.com:80"], &["example.com:81"]),
            ("10.0.0.7, [::1]:5", &["10.0.0.7:9", "::1:5"], &["10.0.0.8:9", "::1:6"]),
            ("10.0.0.7:1", &["10.0.0.7:1", "::ffff:10.0.0.7:1"], &["10.0.0.7:2"]),
            ("10.0.0.0/9", &["10.127.1.1:1"], &["10.128.0.0:1", "11.0.0.0:1", "a.b:1"]),
            ("2001:db8::/32", &["2001:db8:1::5:1"], &["2001:db9::1:1", "1.2.3.4:1"]),
        ];
        for (list, covered, others) in rows {
            let bypass = Bypass::default().with(list).unwrap();
            let covers = |server: &&str| {
                let (host, port) = server.rsplit_once(':').unwrap();
                bypass.covers(host, port.parse().unwrap())
            };
            assert!(covered.iter().all(covers), "`{list}` does not cover one of {covered:?}");
            assert!(!others.iter().any(covers), "`{list}` covers one of {others:?}");
        }
        let all = Bypass::default().with("0.0.0.0/0").unwrap();
        assert!(all.covers("9.9.9.9", 1) && !all.covers("::1", 1));
    }

    #[test]
    fn an_entry_that_names_nothing_is_refused_by_its_text() {
        for entry in ["10.0.0.0/33", "::/129", "a/8", "a:b", "a.b:99999", "a*b", ".", "[::1", "a b"]
        {
            let error = Bypass::default().with(&format!("a, {entry}")).unwrap_err();
            assert_eq!(error, ProxyError::InvalidBypass { entry: entry.to_owned() });
        }
    }
}
