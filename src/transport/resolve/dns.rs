//! `dns:` targets, over hickory.

use std::error::Error;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::{Resolver, TokioResolver};

use crate::types::{Target, TargetError};

use super::super::connect::BoxFuture;
use super::{DEFAULT_PORT, FixedResolver, Resolution, Resolve, ResolveError};

/// Looks up the A and AAAA records of a host; each address is an endpoint of its own.
pub(crate) struct DnsResolver {
    host: String,
    port: u16,
    /// Who is asked, where it is not whom the system asks.
    server: Option<SocketAddr>,
    /// Made at the first lookup, since it needs a runtime, and anew after a failed one, so that
    /// a changed system configuration is noticed.
    resolver: Option<TokioResolver>,
}

impl DnsResolver {
    /// `dns:host:port` or `dns://server/host:port`, where the server is an IP address.
    pub(crate) fn build(target: &Target) -> Result<Box<dyn Resolve>, TargetError> {
        let (host, port) = split_endpoint(target, target.endpoint())?;
        let server = parse_server(target)?;
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(FixedResolver::boxed(vec![SocketAddr::new(ip, port).into()]));
        }
        Ok(Box::new(Self { host: host.to_owned(), port, server, resolver: None }))
    }

    async fn look_up(&mut self) -> Result<Resolution, ResolveError> {
        let resolver = match self.resolver.take() {
            Some(resolver) => resolver,
            None => new_resolver(self.server).map_err(|error| self.error(error))?,
        };
        let found =
            resolver.lookup_ip(self.host.as_str()).await.map_err(|error| self.error(error))?;
        self.resolver = Some(resolver);
        let port = self.port;
        let endpoints = found.iter().map(|ip| SocketAddr::new(ip, port).into());
        Ok(Resolution::new(endpoints))
    }

    fn error(&self, error: NetError) -> ResolveError {
        let cause = Cause(&error);
        let message = match self.server {
            Some(server) => format!("DNS lookup of `{}` at {server}: {cause}", self.host),
            None => format!("DNS lookup of `{}`: {cause}", self.host),
        };
        ResolveError::new(message).with_source(error)
    }
}

impl Resolve for DnsResolver {
    fn resolve(&mut self) -> BoxFuture<'_, Result<Resolution, ResolveError>> {
        Box::pin(self.look_up())
    }
}

fn new_resolver(server: Option<SocketAddr>) -> Result<TokioResolver, NetError> {
    let mut builder = match server {
        None => TokioResolver::builder_tokio()?,
        Some(server) => {
            let [mut udp, mut tcp] = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
            udp.port = server.port();
            tcp.port = server.port();
            let server = NameServerConfig::new(server.ip(), true, vec![udp, tcp]);
            let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
            Resolver::builder_with_config(config, TokioRuntimeProvider::default())
        }
    };
    // A lookup is asked for when there are doubts about what the last one gave: an answer from a
    // cache would be that same one.
    builder.options_mut().cache_size = 0;
    builder.build()
}

/// The host and the port of an endpoint.
fn split_endpoint<'a>(target: &Target, text: &'a str) -> Result<(&'a str, u16), TargetError> {
    if text.is_empty() {
        return Err(target.invalid("there is no host; expected dns:host or dns:host:port"));
    }
    // An IPv6 address without brackets is no host and port.
    if text.parse::<Ipv6Addr>().is_ok() {
        return Ok((text, DEFAULT_PORT));
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let split = rest.split_once(']');
            let split = split.filter(|(ip, _)| ip.parse::<Ipv6Addr>().is_ok());
            let Some((ip, port)) = split else {
                return Err(target.invalid(format!(
                    "`{text}` is not an IPv6 address; expected [a::b] or [a::b]:port"
                )));
            };
            (ip, port)
        }
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => DEFAULT_PORT,
        Some("") => {
            return Err(target.invalid("there is no port after the colon; expected host:port"));
        }
        Some(digits) => parse_port(digits).ok_or_else(|| {
            target.invalid(format!("port `{digits}` is not a number from 1 to 65535"))
        })?,
        None => {
            return Err(target.invalid(format!("`{port}` follows the address; expected :port")));
        }
    };
    let host = if host.is_empty() { "localhost" } else { host };
    Ok((host, port))
}

fn parse_port(digits: &str) -> Option<u16> {
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    let port = digits.parse().ok().filter(|port| *port != 0)?;
    is_number.then_some(port)
}

fn parse_server(target: &Target) -> Result<Option<SocketAddr>, TargetError> {
    let text = target.authority();
    if text.is_empty() {
        return Ok(None);
    }
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let ip = bare.unwrap_or(text).parse::<IpAddr>();
    let server = ip.map(|ip| SocketAddr::new(ip, DNS_PORT)).or_else(|_| text.parse::<SocketAddr>());
    server.map(Some).map_err(|_| {
        target.invalid(format!(
            "the name server `{text}` is not an IP address; expected dns://ip/name or \
             dns://ip:port/name"
        ))
    })
}

/// An error with the errors that caused it.
struct Cause<'a>(&'a NetError);

impl fmt::Display for Cause<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_nx_domain() {
            return f.write_str("there is no such name");
        }
        if self.0.is_no_records_found() {
            return f.write_str("the name has no addresses");
        }
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

const DNS_PORT: u16 = 53;
