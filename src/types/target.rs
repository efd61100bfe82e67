//! What a channel is to reach.

use std::fmt;

use super::harmless;

/// A parsed target: `scheme:[//authority/]endpoint`.
///
/// The scheme picks the resolver; the authority, mostly empty, names who shall resolve; the
/// endpoint is what is resolved. Escapes such as `%20` in the endpoint are decoded, with or without
/// slashes before it; a `%` itself is written `%25`. White space stands in the names of Unix sockets
/// alone. A text without a scheme, such as `greeter.example:50051`, is a
/// `dns` target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    text: String,
    scheme: String,
    authority: String,
    path: String,
}

impl Target {
    /// Parses `text` where `schemes` are known and a text without one is of `default_scheme`.
    ///
    /// Only what is common to all targets is checked here: the resolver of the scheme judges the
    /// endpoint.
    pub fn parse(text: &str, schemes: &[&str], default_scheme: &str) -> Result<Self, TargetError> {
        let fail = |fault| Err(TargetError::new(text, fault));
        if text.is_empty() {
            return fail(Fault::Empty);
        }
        if text.chars().any(char::is_control) || has_blanks(text, schemes, default_scheme) {
            return fail(Fault::Blank);
        }
        if let Some((scheme, rest)) = split_scheme(text) {
            if schemes.contains(&scheme) {
                let (authority, path) = match rest.strip_prefix("//") {
                    Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
                    None => ("", rest),
                };
                return match decoded(path) {
                    Some(path) => Ok(Self {
                        text: text.to_owned(),
                        scheme: scheme.to_owned(),
                        authority: authority.to_owned(),
                        path,
                    }),
                    None => fail(Fault::Escape),
                };
            }
            if matches!(scheme, "http" | "https") {
                let authority = rest.trim_start_matches('/').split('/').next().unwrap_or_default();
                let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
                return fail(Fault::Url { host: host.to_owned() });
            }
            if rest.starts_with('/') {
                let mut known: Vec<_> = schemes.iter().map(ToString::to_string).collect();
                known.sort();
                return fail(Fault::UnknownScheme { scheme: scheme.to_owned(), known });
            }
        }
        Ok(Self {
            text: text.to_owned(),
            scheme: default_scheme.to_owned(),
            authority: String::new(),
            path: format!("/{text}"),
        })
    }

    /// Which resolver: `dns`, `ipv4`, one of your own.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// Who shall resolve, where the target says so; mostly empty.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// What is resolved: the path without the slash that may stand before it.
    pub fn endpoint(&self) -> &str {
        self.path.strip_prefix('/').unwrap_or(&self.path)
    }

    /// What follows the scheme and the authority, as it stands there: `/run/x` for both
    /// `unix:/run/x` and `unix:///run/x`, `x` for `unix:x`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The error that this target's endpoint, which `reason` finds wrong, could not be understood.
    /// For resolvers.
    pub fn invalid(&self, reason: impl Into<String>) -> TargetError {
        TargetError::new(&self.text, Fault::Endpoint(without_secrets(&self.text, &reason.into())))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.scheme)?;
        if self.path.starts_with('/') || !self.authority.is_empty() {
            write!(f, "//{}", self.authority)?;
        }
        f.write_str(&self.path)
    }
}

/// Whether there is white space in `text` where that has no place: it may be in the name of a Unix
/// socket, and nowhere else.
fn has_blanks(text: &str, schemes: &[&str], default_scheme: &str) -> bool {
    let known = split_scheme(text).filter(|(scheme, _)| schemes.contains(scheme));
    let (scheme, rest) = known.unwrap_or((default_scheme, text));
    // An authority ends where the path begins.
    let path_at = match rest.strip_prefix("//") {
        Some(after) => after.find('/').map_or(rest.len(), |at| at + 2),
        None => 0,
    };
    let (authority, path) = rest.split_at(path_at);
    let endpoint = path.strip_prefix('/').unwrap_or(path);
    let names_a_socket = matches!(scheme, "unix" | "unix-abstract")
        || (scheme == "passthrough" && endpoint.starts_with("unix:"));
    let judged = if names_a_socket { authority } else { text };
    judged.contains(char::is_whitespace)
}

fn split_scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once(':')?;
    let mut letters = scheme.bytes();
    let starts_well = letters.next()?.is_ascii_alphabetic();
    let goes_on =
        letters.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    (starts_well && goes_on).then_some((scheme, rest))
}

fn decoded(endpoint: &str) -> Option<String> {
    let decoded = percent_encoding::percent_decode_str(endpoint).decode_utf8().ok()?;
    // Escaped or not, such characters have no place in a name, nor in a line of a log.
    (!decoded.chars().any(char::is_control)).then(|| decoded.into_owned())
}

/// A target that cannot be used; quotes it and says what is expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetError {
    target: String,
    fault: Fault,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Fault {
    Empty,
    Blank,
    Escape,
    Url { host: String },
    UnknownScheme { scheme: String, known: Vec<String> },
    Endpoint(String),
}

impl TargetError {
    fn new(target: &str, fault: Fault) -> Self {
        Self { target: without_secrets(target, target), fault }
    }
}

/// `text`, which is `target` or speaks of it, without the user and the password that stand before
/// an `@` where somebody gave a URL.
fn without_secrets(target: &str, text: &str) -> String {
    // What a resolver quotes has no escapes any more.
    let spellings = [Some(target.to_owned()), decoded(target)];
    let mut hidden = text.to_owned();
    for spelling in spellings.into_iter().flatten() {
        for (before, _) in spelling.split('/').filter_map(|part| part.rsplit_once('@')) {
            let secret = match split_scheme(before) {
                // `scheme:user:password@host`, and not `user:password@host`.
                Some((_, rest)) if rest.contains(':') => rest,
                Some(_) | None => before,
            };
            if !secret.is_empty() {
                hidden = hidden.replace(secret, "***");
            }
        }
    }
    hidden
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = harmless(&self.target);
        match &self.fault {
            Fault::Empty => f.write_str("the target is empty")?,
            Fault::Blank => {
                write!(f, "target `{target}` has white space in it")?;
            }
            Fault::Escape => {
                write!(f, "target `{target}` has percent escapes that are no UTF-8")?;
            }
            Fault::Url { host } => {
                return write!(
                    f,
                    "target `{target}` is a URL: give the name alone, `{}`, and say by the \
                     credentials whether the connection is encrypted",
                    harmless(host),
                );
            }
            Fault::UnknownScheme { scheme, known } => {
                return write!(
                    f,
                    "target `{target}` has the scheme `{scheme}`, which no resolver is registered \
                     for; there are: {}",
                    known.join(", "),
                );
            }
            Fault::Endpoint(reason) => {
                return write!(f, "target `{target}`: {}", harmless(reason));
            }
        }
        f.write_str("; expected scheme:endpoint, scheme://authority/endpoint or host:port")
    }
}

impl std::error::Error for TargetError {}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMES: &[&str] = &["dns", "passthrough", "ipv4", "ipv6", "unix"];

    fn parse(text: &str) -> Result<Target, TargetError> {
        Target::parse(text, SCHEMES, "dns")
    }

    #[test]
    fn targets_are_read_as_grpc_naming_has_them() {
        let rows = [
            ("dns:///greeter.example:50051", ("dns", "", "greeter.example:50051")),
            ("dns://8.8.8.8/greeter", ("dns", "8.8.8.8", "greeter")),
            ("dns:greeter:1", ("dns", "", "greeter:1")),
            ("dns:/greeter", ("dns", "", "greeter")),
            ("greeter:50051", ("dns", "", "greeter:50051")),
            ("a.server.com", ("dns", "", "a.server.com")),
            (":50051", ("dns", "", ":50051")),
            ("[::1]:50051", ("dns", "", "[::1]:50051")),
            ("10.0.0.7:443", ("dns", "", "10.0.0.7:443")),
            ("passthrough:///unix:///p", ("passthrough", "", "unix:///p")),
            ("passthrough:a", ("passthrough", "", "a")),
            ("ipv4:1.2.3.4:5,1.2.3.5:5", ("ipv4", "", "1.2.3.4:5,1.2.3.5:5")),
            ("ipv6:[::1]:5", ("ipv6", "", "[::1]:5")),
            ("ipv6:%5B::1%5D:5", ("ipv6", "", "[::1]:5")),
        ];
        for (text, (scheme, authority, endpoint)) in rows {
            let target = parse(text).unwrap();
            assert_eq!(
                (target.scheme(), target.authority(), target.endpoint()),
                (scheme, authority, endpoint),
                "{text}"
            );
        }
    }

    #[test]
    fn a_path_keeps_the_slash_that_an_endpoint_loses() {
        let rows = [
            ("unix:/run/x", "/run/x", "run/x"),
            ("unix:///run/x", "/run/x", "run/x"),
            ("unix:x", "x", "x"),
            ("unix://x", "", ""),
            ("unix:/run/a b/\u{fc}.sock", "/run/a b/\u{fc}.sock", "run/a b/\u{fc}.sock"),
            ("unix:///run/a b", "/run/a b", "run/a b"),
            ("unix:a b", "a b", "a b"),
            ("unix:///run/a%20b%25", "/run/a b%", "run/a b%"),
            ("unix:/run/100%", "/run/100%", "run/100%"),
            ("unix:///run/\u{a0}\u{3000}x ", "/run/\u{a0}\u{3000}x ", "run/\u{a0}\u{3000}x "),
            ("passthrough:///unix:///run/a b", "/unix:///run/a b", "unix:///run/a b"),
            ("greeter:1", "/greeter:1", "greeter:1"),
        ];
        for (text, path, endpoint) in rows {
            let target = parse(text).unwrap();
            assert_eq!((target.path(), target.endpoint()), (path, endpoint), "{text}");
        }
    }

    #[test]
    fn a_target_that_cannot_be_parsed_is_quoted_with_what_is_expected() {
        let rows = [
            ("", "the target is empty; expected"),
            ("a b", "`a b` has white space"),
            ("dns:///a b", "has white space"),
            ("passthrough:a b", "has white space"),
            ("unix://a b/run/x", "has white space"),
            ("unix:/run/a\nb", "has white space"),
            ("un ix:/run/x", "has white space"),
            ("dns:///%ff", "`dns:///%ff` has percent escapes"),
            ("foo:///x", "`foo:///x` has the scheme `foo`"),
            ("foo:/x", "there are: dns, ipv4, ipv6, passthrough, unix"),
            ("http://greeter.example:80/x", "give the name alone, `greeter.example:80`"),
            ("https://greeter.example", "is a URL"),
        ];
        for (text, part) in rows {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn the_error_of_a_target_shows_neither_password_nor_user() {
        for text in [
            "https://ada:s3cret@greeter.example:443/x",
            "http://ada:s3%63ret@greeter.example",
            "foo://ada:s3cret@greeter.example/x",
            "dns:ada:s3cret@greeter.example/\u{7f}%ff",
            "dns:///ada:s3cret@greeter.example/%ff",
            "ada:s3cret@greeter example",
        ] {
            let error = parse(text).unwrap_err();
            for shown in [error.to_string(), format!("{error:?}")] {
                assert!(!shown.contains("cret") && !shown.contains("ada"), "{shown}");
                assert!(shown.contains("greeter"), "{shown}");
            }
        }
        let target = parse("dns:///ada:s3%63ret@greeter.example").unwrap();
        let error = target.invalid(format!("`{}` is no name", target.endpoint()));
        assert_eq!(
            error.to_string(),
            "target `dns:///***@greeter.example`: `***@greeter.example` is no name"
        );
    }

    #[test]
    fn a_target_prints_in_its_whole_form() {
        let rows = [
            ("greeter:1", "dns:///greeter:1"),
            ("dns://8.8.8.8/greeter", "dns://8.8.8.8/greeter"),
            ("dns:greeter", "dns:greeter"),
            ("unix:/run/x", "unix:///run/x"),
            ("unix:x", "unix:x"),
        ];
        for (text, whole) in rows {
            assert_eq!(parse(text).unwrap().to_string(), whole);
        }
    }
}
