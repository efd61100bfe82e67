//! Which calls are logged, and how much of them.

use std::collections::BTreeMap;

use crate::types::harmless;
use std::error::Error;
use std::fmt;

/// How much of a call is logged, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// Of the keys and values of each metadata.
    pub(super) header: u64,
    /// Of each message.
    pub(super) message: u64,
}

/// Which calls are logged, and how much of them: the grammar of `GRPC_BINARY_LOG_FILTER` (A16).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Filter {
    /// By `service/method`; `None` where one is not logged.
    methods: BTreeMap<String, Option<Extent>>,
    services: BTreeMap<String, Extent>,
    all: Option<Extent>,
}

impl Filter {
    /// Reads a list with commas of `*`, `service/*`, `service/method` and `-service/method`; all
    /// but the last may have `{h:bytes;m:bytes}` behind them.
    pub(super) fn parse(text: &str) -> Result<Self, InvalidFilter> {
        let mut filter = Self::default();
        for rule in text.split(',').map(str::trim).filter(|rule| !rule.is_empty()) {
            filter.add(rule).map_err(|reason| InvalidFilter { rule: rule.to_owned(), reason })?;
        }
        Ok(filter)
    }

    fn add(&mut self, rule: &str) -> Result<(), &'static str> {
        let twice = "the same was said before";
        if let Some(excluded) = rule.strip_prefix('-') {
            let Some((service, method)) = excluded.split_once('/') else {
                return Err("expected -service/method");
            };
            if method.contains(['*', '{']) || !is_name(service) || !is_name(method) {
                return Err("expected -service/method");
            }
            let before = self.methods.insert(excluded.to_owned(), None);
            return if before.is_some() { Err(twice) } else { Ok(()) };
        }
        let (name, extent) = match rule.find('{') {
            Some(at) => (&rule[..at], extent(&rule[at..])?),
            None => (rule, EVERYTHING),
        };
        let is_new = match name.split_once('/') {
            None if name == "*" => self.all.replace(extent).is_none(),
            Some((service, "*")) if is_name(service) => {
                self.services.insert(service.to_owned(), extent).is_none()
            }
            Some((service, method)) if is_name(service) && is_name(method) => {
                self.methods.insert(name.to_owned(), Some(extent)).is_none()
            }
            Some(_) | None => {
                return Err("expected *, service/*, service/method or -service/method");
            }
        };
        if is_new { Ok(()) } else { Err(twice) }
    }

    /// How much of calls to `path` is logged, if they are: what is said of the method comes before
    /// what is said of its service, and that before what is said of all.
    pub(super) fn extent(&self, path: &str) -> Option<Extent> {
        let name = path.strip_prefix('/').unwrap_or(path);
        if let Some(extent) = self.methods.get(name) {
            return *extent;
        }
        let (service, _) = name.split_once('/').unwrap_or((name, ""));
        self.services.get(service).copied().or(self.all)
    }
}

/// `{h}`, `{m}`, `{h;m}`, each with a colon and a number of bytes behind it or not.
fn extent(text: &str) -> Result<Extent, &'static str> {
    let wrong = "expected {h:bytes;m:bytes}, {h:bytes} or {m:bytes}";
    let parts = text.strip_prefix('{').and_then(|it| it.strip_suffix('}')).ok_or(wrong)?;
    let read = |part: &str, letter: char| {
        let rest = part.strip_prefix(letter)?;
        match rest.strip_prefix(':') {
            Some(bytes) => bytes.parse().ok(),
            None => rest.is_empty().then_some(u64::MAX),
        }
    };
    let (header, message) = match parts.split_once(';') {
        Some((header, message)) => (read(header, 'h'), read(message, 'm')),
        None if parts.starts_with('h') => (read(parts, 'h'), Some(0)),
        None => (Some(0), read(parts, 'm')),
    };
    Ok(Extent { header: header.ok_or(wrong)?, message: message.ok_or(wrong)? })
}

fn is_name(text: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.';
    !text.is_empty() && text.bytes().all(legal)
}

const EVERYTHING: Extent = Extent { header: u64::MAX, message: u64::MAX };

/// A binary log filter cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidFilter {
    rule: String,
    reason: &'static str,
}

impl fmt::Display for InvalidFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "binary log filter: `{}`: {}", harmless(&self.rule), self.reason)
    }
}

impl Error for InvalidFilter {}

#[cfg(test)]
mod tests {
    use super::*;

    // spec: A16/filter
    #[test]
    fn a_rule_says_how_much_of_headers_and_messages_is_logged() {
        let all = u64::MAX;
        for (rule, header, message) in [
            ("*", all, all),
            ("*{h}", all, 0),
            ("*{m}", 0, all),
            ("*{h:256}", 256, 0),
            ("*{m:7}", 0, 7),
            ("*{h;m}", all, all),
            ("*{h:1;m}", 1, all),
            ("*{h;m:2}", all, 2),
            ("*{h:3;m:4}", 3, 4),
            ("*{h:0;m:0}", 0, 0),
        ] {
            let extent = Filter::parse(rule).unwrap().extent("/a.B/C");
            assert_eq!(extent, Some(Extent { header, message }), "{rule}");
        }
    }

    // spec: A16/precedence
    #[test]
    fn a_method_goes_before_its_service_and_that_before_all() {
        let filter = Filter::parse("*{h},a.B/*{m:1},a.B/C{m:2}, -a.B/D,-e.F/G").unwrap();
        let message = |path| filter.extent(path).map(|extent| extent.message);
        assert_eq!(message("/a.B/C"), Some(2));
        assert_eq!(message("/a.B/D"), None);
        assert_eq!(message("/a.B/E"), Some(1));
        assert_eq!(message("/e.F/G"), None);
        assert_eq!(message("/e.F/H"), Some(0));
        assert_eq!(Filter::parse("a.B/*").unwrap().extent("/e.F/H"), None);
        assert_eq!(Filter::parse("").unwrap(), Filter::default());
    }

    #[test]
    fn a_rule_that_makes_no_sense_or_comes_twice_is_refused_by_name() {
        for rule in [
            "a",
            "a/",
            "/b",
            "*/b",
            "*/*",
            "a/*b",
            "a b/c",
            "a/b{",
            "a/b{}",
            "a/b{x}",
            "a/b{h:}",
            "a/b{h:-1}",
            "a/b{h;m",
            "a/b{m;h}",
            "a/b{h:1;m:x}",
            "a/b{h:99999999999999999999}",
            "-*",
            "-a/*",
            "-a/b{h}",
            "-a",
            "--a/b",
            "*{h}x",
        ] {
            let error = Filter::parse(&format!("x.Y/Z,{rule}")).unwrap_err().to_string();
            assert!(error.contains(&format!("`{rule}`")), "{error}");
        }
        for twice in ["*,*{h}", "a/b,a/b", "a/*,a/*", "a/b,-a/b", "-a/b,-a/b"] {
            let error = Filter::parse(twice).unwrap_err().to_string();
            assert!(error.contains("the same was said before"), "{error}");
        }
    }
}
