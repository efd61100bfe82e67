//! `unix:` and `unix-abstract:` targets.

use std::path::Path;

use crate::types::{Address, Authority, Target, TargetError};

use super::{BuildResolver, FixedResolver, Resolve, refuse_authority};

/// One Unix socket.
#[derive(Clone, Copy)]
pub(super) enum UnixResolver {
    /// In the file system: `unix:relative/path`, `unix:/path` or `unix:///path`.
    Path,
    /// In Linux's abstract namespace: `unix-abstract:name`.
    Abstract,
}

impl BuildResolver for UnixResolver {
    fn build(&self, target: &Target) -> Result<Box<dyn Resolve>, TargetError> {
        refuse_authority(target)?;
        let (name, address) = match self {
            Self::Path => (target.path(), path(target.path())),
            Self::Abstract => (target.endpoint(), Address::UnixAbstract(target.endpoint().into())),
        };
        if target.endpoint().is_empty() {
            return Err(
                target.invalid(format!("there is no socket; expected {}:name", target.scheme()))
            );
        }
        if name.len() > NAME_BYTES_MAX {
            return Err(target
                .invalid(format!("the name of a Unix socket has at most {NAME_BYTES_MAX} bytes")));
        }
        Ok(FixedResolver::boxed(vec![address.into()]))
    }

    /// A socket has no host.
    fn default_authority(&self, _target: &Target) -> Authority {
        Authority::localhost()
    }
}

/// The socket at `path` in the file system.
pub(super) fn path(path: &str) -> Address {
    Address::Unix(Path::new(path).into())
}

/// What fits beside the NUL that ends a path, or begins an abstract name, on Linux.
const NAME_BYTES_MAX: usize = 107;

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMES: &[&str] = &["unix", "unix-abstract"];

    async fn resolve(text: &str) -> Result<Address, String> {
        let target = Target::parse(text, SCHEMES, "unix").map_err(|error| error.to_string())?;
        let scheme = match target.scheme() {
            "unix" => UnixResolver::Path,
            _ => UnixResolver::Abstract,
        };
        let mut resolver = scheme.build(&target).map_err(|error| error.to_string())?;
        assert_eq!(scheme.default_authority(&target).as_str(), "localhost");
        let mut found = resolver.resolve().await.unwrap();
        Ok(found.endpoints.remove(0).addresses()[0].clone())
    }

    #[tokio::test]
    async fn a_socket_is_named_by_a_path_or_an_abstract_name() {
        let rows = [
            ("unix:run/x.sock", "unix:run/x.sock"),
            ("unix:/run/x.sock", "unix:/run/x.sock"),
            ("unix:///run/x.sock", "unix:/run/x.sock"),
            ("unix:///run/a%20b", "unix:/run/a b"),
            ("unix-abstract:greeter", "unix-abstract:greeter"),
            ("unix-abstract:///greeter", "unix-abstract:greeter"),
        ];
        for (text, address) in rows {
            assert_eq!(resolve(text).await.unwrap().to_string(), address, "{text}");
        }
    }

    #[tokio::test]
    async fn what_names_no_socket_is_refused_with_what_is_expected() {
        let long = format!("unix:/{}", "x".repeat(107));
        let rows = [
            ("unix:", "expected unix:name"),
            ("unix:///", "expected unix:name"),
            ("unix-abstract:", "expected unix-abstract:name"),
            ("unix://host/run/x", "takes no authority, found `host`"),
            (long.as_str(), "at most 107 bytes"),
        ];
        for (text, part) in rows {
            let error = resolve(text).await.unwrap_err();
            assert!(error.contains(part) && error.contains(text), "{text}: {error}");
        }
    }
}
