//! Targets that say all by themselves: `passthrough:`, `ipv4:`, `ipv6:`.

use std::future;
use std::net::SocketAddr;

use crate::types::{
    Address, Endpoint, InvalidIp, Refresh, Target, TargetError, ip_addr, socket_addr,
};

use super::super::connect::BoxFuture;
use super::endpoint::host_and_port;
use super::{
    BuildResolver, DEFAULT_PORT, Resolution, Resolve, ResolveError, refuse_authority, unix,
};

/// Gives the same endpoints at every lookup.
pub(crate) struct FixedResolver {
    endpoints: Vec<Endpoint>,
}

impl FixedResolver {
    /// `passthrough:anything`: one endpoint, whatever the connector makes of it.
    pub(crate) fn passthrough(target: &Target) -> Result<Box<dyn Resolve>, TargetError> {
        refuse_authority(target)?;
        let text = target.endpoint();
        if text.is_empty() {
            return Err(
                target.invalid("there is nothing to connect to; expected passthrough:address")
            );
        }
        let address = match (socket_addr(text), text.strip_prefix("unix:")) {
            (Ok(addr), _) => Address::Socket(addr),
            (Err(InvalidIp::UnknownZone { zone }), _) => {
                return Err(no_interface(target, text, &zone));
            }
            (Err(InvalidIp::Malformed), Some(path)) => {
                unix::path(path.strip_prefix("//").unwrap_or(path))
            }
            (Err(InvalidIp::Malformed), None) => Address::Name(text.into()),
        };
        Ok(Self::boxed(vec![address.into()]))
    }

    /// `ipv4:a.b.c.d:port,..`: an endpoint for each address.
    pub(crate) fn ipv4(target: &Target) -> Result<Box<dyn Resolve>, TargetError> {
        let expected = "an IPv4 address, a.b.c.d or a.b.c.d:port";
        Self::list(target, expected, SocketAddr::is_ipv4)
    }

    /// `ipv6:[address]:port,..`: an endpoint for each address.
    pub(crate) fn ipv6(target: &Target) -> Result<Box<dyn Resolve>, TargetError> {
        let expected = "an IPv6 address, [a::b] or [a::b]:port";
        Self::list(target, expected, SocketAddr::is_ipv6)
    }

    /// These endpoints.
    pub(super) fn boxed(endpoints: Vec<Endpoint>) -> Box<dyn Resolve> {
        Box::new(Self { endpoints })
    }

    fn list(
        target: &Target,
        expected: &str,
        is_of_family: impl Fn(&SocketAddr) -> bool,
    ) -> Result<Box<dyn Resolve>, TargetError> {
        refuse_authority(target)?;
        let endpoint = |text: &str| {
            // With a port it has what an address alone cannot have.
            let parsed = match socket_addr(text) {
                Err(InvalidIp::Malformed) => ip_addr(text, DEFAULT_PORT),
                parsed => parsed,
            };
            match parsed {
                Ok(addr) if is_of_family(&addr) => Ok(Endpoint::from(addr)),
                Ok(_) | Err(InvalidIp::Malformed) => {
                    Err(target.invalid(format!("`{text}` is not {expected}")))
                }
                Err(InvalidIp::UnknownZone { zone }) => Err(no_interface(target, text, &zone)),
            }
        };
        let endpoints: Result<_, _> = target.endpoint().split(',').map(endpoint).collect();
        endpoints.map(Self::boxed)
    }
}

/// The error that `text`, an address in `target`, has a zone that this machine does not have.
pub(super) fn no_interface(target: &Target, text: &str, zone: &str) -> TargetError {
    target.invalid(format!("`{text}`: this machine has no interface `{zone}`"))
}

impl Resolve for FixedResolver {
    fn resolve(&mut self) -> BoxFuture<'_, Result<Resolution, ResolveError>> {
        let resolution = Resolution::new(self.endpoints.clone());
        Box::pin(future::ready(Ok(resolution)))
    }

    fn refresh(&self) -> Refresh {
        Refresh::Never
    }
}

/// The resolver of `dns` targets whose names somebody else looks up: a proxy.
pub(crate) struct Unresolved;

impl BuildResolver for Unresolved {
    fn build(&self, target: &Target) -> Result<Box<dyn Resolve>, TargetError> {
        let (host, port) = host_and_port(target)?;
        let name =
            if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        Ok(FixedResolver::boxed(vec![Address::Name(name.into()).into()]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMES: &[&str] = &["passthrough", "ipv4", "ipv6"];

    async fn resolve(text: &str) -> Result<String, String> {
        let target = Target::parse(text, SCHEMES, "passthrough").unwrap();
        let built = match target.scheme() {
            "ipv4" => FixedResolver::ipv4(&target),
            "ipv6" => FixedResolver::ipv6(&target),
            _ => FixedResolver::passthrough(&target),
        };
        let mut resolver = built.map_err(|error| error.to_string())?;
        assert_eq!(resolver.refresh(), Refresh::Never);
        let resolution = resolver.resolve().await.unwrap();
        let addresses: Vec<_> = resolution
            .endpoints
            .iter()
            .map(|endpoint| match endpoint.addresses() {
                [Address::Socket(addr)] => addr.to_string(),
                [Address::Name(name)] => format!("name {name}"),
                [address] => address.to_string(),
                other => panic!("one address, not {other:?}"),
            })
            .collect();
        Ok(addresses.join(" "))
    }

    #[tokio::test]
    async fn a_fixed_target_gives_its_addresses() {
        let rows = [
            ("passthrough:greeter:80", "name greeter:80"),
            ("passthrough:///unix:///run/x", "unix:/run/x"),
            ("passthrough:10.0.0.7:80", "10.0.0.7:80"),
            ("ipv4:10.0.0.7:80,10.0.0.8", "10.0.0.7:80 10.0.0.8:443"),
            ("ipv6:[::1]:80,[::2],::3", "[::1]:80 [::2]:443 [::3]:443"),
            ("ipv6:[fe80::1%257]:80,fe80::2%257", "[fe80::1%7]:80 [fe80::2%7]:443"),
            ("passthrough:///[fe80::1%257]:80", "[fe80::1%7]:80"),
        ];
        for (text, addresses) in rows {
            assert_eq!(resolve(text).await.as_deref(), Ok(addresses), "{text}");
        }
    }

    #[tokio::test]
    async fn a_bad_fixed_target_is_refused_with_what_is_expected() {
        let rows = [
            ("passthrough:", "expected passthrough:address"),
            ("passthrough://dns/x", "takes no authority, found `dns`"),
            ("ipv4:[::1]:80", "`[::1]:80` is not an IPv4 address"),
            ("ipv4:10.0.0.7,", "`` is not an IPv4 address"),
            ("ipv4:10.0.0.7:99999", "`10.0.0.7:99999` is not"),
            ("ipv4:greeter:80", "a.b.c.d:port"),
            ("ipv6:10.0.0.7:80", "`10.0.0.7:80` is not an IPv6 address"),
            ("ipv6:[::1", "[a::b]:port"),
            ("ipv6:[fe80::1%25nosuch]:80", "no interface `nosuch`"),
            ("passthrough:[fe80::1%25nosuch]:80", "no interface `nosuch`"),
        ];
        for (text, part) in rows {
            let error = resolve(text).await.unwrap_err();
            assert!(error.contains(part) && error.contains(text), "{text}: {error}");
        }
    }
}
