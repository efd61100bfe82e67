//! The meaning of `resolv.conf`, as glibc reads it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::rr::Name;

use crate::types::{ip_addr, socket_addr};

/// Whom to ask for names, and how.
///
/// A line that is wrong is ignored, and so is an unknown option: what is left out has its default.
/// See [resolv.conf(5)](https://man7.org/linux/man-pages/man5/resolv.conf.5.html).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ResolvConf {
    /// In the order in which they are asked. Never empty.
    pub(super) servers: Vec<SocketAddr>,
    /// Domains in which names are looked for.
    pub(super) search: Vec<Name>,
    /// A name with at least this many dots is looked for as it is before the search domains.
    pub(super) ndots: usize,
    /// How long one name server may take over one question.
    pub(super) timeout: Duration,
    /// How often the list of name servers is gone through.
    pub(super) attempts: u32,
    /// Whether each look-up begins with another name server.
    pub(super) rotate: bool,
    /// What questions go over.
    pub(super) transport: Transport,
    /// Whether questions say that large answers over UDP are welcome (EDNS0).
    pub(super) edns: bool,
    /// Whether IPv6 addresses are not asked for.
    pub(super) no_aaaa: bool,
}

/// What questions go over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    /// UDP, and TCP where an answer was cut short.
    Udp,
    /// TCP from the start.
    Tcp,
}

impl Default for ResolvConf {
    /// What an empty file means.
    fn default() -> Self {
        Self {
            servers: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, DNS_PORT))],
            search: Vec::new(),
            ndots: 1,
            timeout: Duration::from_secs(5),
            attempts: 2,
            rotate: false,
            transport: Transport::Udp,
            edns: false,
            no_aaaa: false,
        }
    }
}

impl ResolvConf {
    /// Reads `text`. A file that names no search domain means the domain that `hostname`, the name
    /// of this machine, ends with.
    pub(super) fn parse(text: &[u8], hostname: Option<&str>) -> Self {
        let mut conf = Self::default();
        let mut servers = Vec::new();
        let mut search = None;
        for line in String::from_utf8_lossy(text).lines() {
            if line.starts_with(['#', ';']) {
                continue;
            }
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => servers.extend(words.next().and_then(name_server)),
                // Of several such lines the last one counts.
                Some("domain") => search = words.next().map(|word| names([word])).or(search),
                Some("search") => search = Some(names(words)),
                Some("options") => words.for_each(|word| conf.set(word)),
                _ => {}
            }
        }
        servers.truncate(SERVERS_MAX);
        if !servers.is_empty() {
            conf.servers = servers;
        }
        let of_this_machine = || Some(names([hostname?.split_once('.')?.1]));
        conf.search = search.or_else(of_this_machine).unwrap_or_default();
        conf
    }

    fn set(&mut self, option: &str) {
        let (key, value) = option.split_once(':').unwrap_or((option, ""));
        let number = |most: u32| value.parse::<u32>().ok().map(|number| number.min(most));
        match key {
            "ndots" => {
                self.ndots = number(NDOTS_MAX).map_or(self.ndots, |dots| dots as usize);
            }
            "timeout" => {
                let seconds = number(TIMEOUT_MAX_S).map(|seconds| seconds.max(1).into());
                self.timeout = seconds.map_or(self.timeout, Duration::from_secs);
            }
            "attempts" => {
                self.attempts = number(ATTEMPTS_MAX).map_or(self.attempts, |count| count.max(1));
            }
            "rotate" => self.rotate = true,
            "use-vc" => self.transport = Transport::Tcp,
            "edns0" => self.edns = true,
            "no-aaaa" => self.no_aaaa = true,
            _ => {}
        }
    }

    /// The names to look for, in their order, where `name` is what the user wrote.
    pub(super) fn candidates(&self, name: &Name) -> Vec<Name> {
        let mut as_it_is = name.clone();
        as_it_is.set_fqdn(true);
        if name.is_fqdn() {
            return vec![as_it_is];
        }
        let dots = usize::from(name.num_labels()).saturating_sub(1);
        // A name that is too long in a domain does not exist there.
        let searched = self.search.iter().filter_map(|domain| {
            let mut name = name.clone().append_domain(domain).ok()?;
            name.set_fqdn(true);
            Some(name)
        });
        let mut all: Vec<Name> = Vec::with_capacity(self.search.len() + 1);
        let last = if dots >= self.ndots {
            all.push(as_it_is);
            None
        } else {
            Some(as_it_is)
        };
        for name in searched.chain(last) {
            if !all.contains(&name) {
                all.push(name);
            }
        }
        all
    }
}

/// An IP address, or one with a port as OpenBSD has it: `[127.0.0.1]:5353`.
fn name_server(word: &str) -> Option<SocketAddr> {
    if let Ok(server) = ip_addr(word, DNS_PORT).or_else(|_| socket_addr(word)) {
        return Some(server);
    }
    let (ip, port) = word.strip_prefix('[')?.split_once("]:")?;
    Some(SocketAddr::new(ip.parse::<IpAddr>().ok()?, port.parse().ok()?))
}

/// Those of `words` that are domains.
fn names<'a>(words: impl IntoIterator<Item = &'a str>) -> Vec<Name> {
    let names = words.into_iter().filter_map(|word| Name::from_str_relaxed(word).ok());
    names
        .map(|mut name| {
            name.set_fqdn(true);
            name
        })
        .collect()
}

pub(super) const DNS_PORT: u16 = 53;

/// `MAXNS`, `RES_MAXNDOTS`, `RES_MAXRETRANS` and `RES_MAXRETRY` of glibc.
const SERVERS_MAX: usize = 3;
const NDOTS_MAX: u32 = 15;
const TIMEOUT_MAX_S: u32 = 30;
const ATTEMPTS_MAX: u32 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> ResolvConf {
        ResolvConf::parse(text.as_bytes(), None)
    }

    fn texts(names: &[Name]) -> Vec<String> {
        names.iter().map(Name::to_ascii).collect()
    }

    #[test]
    fn what_is_not_said_or_wrong_has_its_default() {
        let rows: [&[u8]; 8] = [
            b"",
            b"\n\n# nameserver 1.2.3.4\n; search example\n",
            b"nameserver\nsearch\noptions\ndomain\n",
            b"nameserver 1.2.3\nnameserver greeter.example\nnameserver ::x\n",
            b"options ndots: timeout:x attempts:-1 ndots:99999999999 unknown unknown:3\n",
            b"nonsense\n\xff\xfe\x00\nNAMESERVER 1.2.3.4\n",
            b"nameserver [127.0.0.1]:99999\nnameserver 127.0.0.1:53\n",
            b"search ..  a..b\n",
        ];
        for text in rows {
            let conf = ResolvConf::parse(text, None);
            assert_eq!(conf, ResolvConf::default(), "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn what_is_right_counts_beside_what_is_wrong() {
        let conf = parse(
            "nameserver one\nnameserver 10.0.0.1 # the first\n nameserver fe80::1%3\n\
             options rotate timeout:x attempts:3\nnameserver [10.0.0.2]:5353\nnameserver 10.0.0.4\n\
             search -- a..b a.example b.example.\n",
        );
        let servers: Vec<_> = conf.servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["10.0.0.1:53", "[fe80::1%3]:53", "10.0.0.2:5353"]);
        assert_eq!(texts(&conf.search), ["a.example.", "b.example."]);
        assert_eq!((conf.rotate, conf.timeout.as_secs(), conf.attempts), (true, 5, 3));
    }

    #[test]
    fn options_are_kept_within_the_bounds_of_glibc() {
        let rows = [
            ("options ndots:5 timeout:2 attempts:4", (5, 2, 4)),
            ("options ndots:99 timeout:99 attempts:99", (15, 30, 5)),
            ("options ndots:0 timeout:0 attempts:0", (0, 1, 1)),
            ("options ndots:2\noptions timeout:3", (2, 3, 2)),
            ("options\tndots:2\tuse-vc", (2, 5, 2)),
        ];
        for (text, expected) in rows {
            let conf = parse(text);
            assert_eq!((conf.ndots, conf.timeout.as_secs(), conf.attempts), expected, "{text}");
        }
        let conf = parse("options use-vc edns0 no-aaaa");
        assert_eq!(conf.transport, Transport::Tcp);
        assert!(conf.edns && conf.no_aaaa && !conf.rotate);
    }

    #[test]
    fn the_last_of_search_and_domain_counts_and_without_them_the_domain_of_this_machine() {
        let rows = [
            ("search a b\ndomain c", "c."),
            ("domain c\nsearch a b", "a. b."),
            ("", "prod.example."),
            ("search", ""),
        ];
        for (text, expected) in rows {
            let conf = ResolvConf::parse(text.as_bytes(), Some("host.prod.example"));
            assert_eq!(texts(&conf.search).join(" "), expected, "{text}");
        }
        assert_eq!(ResolvConf::parse(b"", Some("host")).search, []);
    }

    #[test]
    fn dots_decide_whether_a_name_is_looked_for_as_it_is_first() {
        let cluster = "search ns.svc.cluster.local svc.cluster.local\noptions ndots:5";
        let rows = [
            ("search a.b", "x", "x.a.b. x."),
            ("search a.b", "x.y", "x.y. x.y.a.b."),
            ("search a.b", "x.y.", "x.y."),
            ("", "x", "x."),
            (
                cluster,
                "greeter.ns",
                "greeter.ns.ns.svc.cluster.local. greeter.ns.svc.cluster.local. greeter.ns.",
            ),
            ("search .\noptions ndots:5", "x.y", "x.y."),
            ("search a a\noptions ndots:0", "x", "x. x.a."),
        ];
        for (text, name, expected) in rows {
            let candidates = parse(text).candidates(&Name::from_ascii(name).unwrap());
            assert_eq!(texts(&candidates).join(" "), expected, "{text}: {name}");
        }
        let long = format!("search {}", vec!["x".repeat(60); 4].join("."));
        let name = Name::from_ascii("greeter.example").unwrap();
        assert_eq!(texts(&parse(&long).candidates(&name)), ["greeter.example."]);
    }
}
