//! The path of a method.

use std::fmt;

use http::uri::PathAndQuery;

use super::harmless;

/// `/package.Service/Method`, checked once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MethodPath(PathAndQuery);

impl MethodPath {
    /// Parses `/package.Service/Method`.
    pub fn parse(text: &str) -> Result<Self, InvalidMethodPath> {
        Self::check(text)?;
        text.parse().map(Self).map_err(|_| InvalidMethodPath { text: text.into() })
    }

    /// As [`MethodPath::parse`], without copying.
    pub fn parse_static(text: &'static str) -> Result<Self, InvalidMethodPath> {
        Self::check(text)?;
        Self::of_valid(text)
    }

    /// As [`MethodPath::parse_static`], of a text that [`MethodPath::is_valid`] is known of.
    pub(crate) fn of_valid(text: &'static str) -> Result<Self, InvalidMethodPath> {
        PathAndQuery::from_maybe_shared(bytes::Bytes::from_static(text.as_bytes()))
            .map(Self)
            .map_err(|_| InvalidMethodPath { text: text.into() })
    }

    /// What stands for a method where there is none.
    pub(crate) fn unnamed() -> Self {
        Self(PathAndQuery::from_static("/"))
    }

    /// As text, with the leading slash.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    pub(crate) fn as_http(&self) -> &PathAndQuery {
        &self.0
    }

    /// Whether `text` is `/service/method`. A `const fn`, so that a method that is a constant is
    /// checked when it is compiled.
    pub(crate) const fn is_valid(text: &str) -> bool {
        let bytes = text.as_bytes();
        if bytes.is_empty() || bytes[0] != b'/' {
            return false;
        }
        let (mut at, mut last_slash) = (1, 0);
        while at < bytes.len() {
            match bytes[at] {
                b'/' => {
                    if at == last_slash + 1 {
                        return false;
                    }
                    last_slash = at;
                }
                b'!'..=b'"' | b'$'..=b'>' | b'@'..=b'~' => {}
                _ => return false,
            }
            at += 1;
        }
        last_slash > 0 && last_slash + 1 < bytes.len()
    }

    fn check(text: &str) -> Result<(), InvalidMethodPath> {
        if Self::is_valid(text) { Ok(()) } else { Err(InvalidMethodPath { text: text.into() }) }
    }
}

impl fmt::Display for MethodPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is no method path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidMethodPath {
    text: String,
}

impl fmt::Display for InvalidMethodPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = harmless(&self.text);
        write!(f, "`{text}` is no method path: expected /package.Service/Method")
    }
}

impl std::error::Error for InvalidMethodPath {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_a_service_and_a_method() {
        for text in ["/helloworld.Greeter/SayHello", "/a/b/c", "/s/m"] {
            assert_eq!(MethodPath::parse(text).unwrap().as_str(), text);
            assert_eq!(MethodPath::parse_static(text).unwrap().as_str(), text);
        }
        for text in ["", "/", "a/b", "/a", "/a/", "//b", "/a b/c", "/a/b?c", "/a/b#c", "/ä/b"] {
            let error = MethodPath::parse(text).unwrap_err();
            assert!(error.to_string().contains(&format!("`{text}`")), "{error}");
        }
    }
}
