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

#[cfg(test)]
mod tests {
    use hickory_resolver::proto::op::{Message, ResponseCode};
    use hickory_resolver::proto::rr::rdata::{A, AAAA};
    use hickory_resolver::proto::rr::{RData, Record, RecordType};
    use tokio::net::UdpSocket;

    use crate::types::{Address, Refresh};

    use super::*;

    fn build(text: &str) -> Result<Box<dyn Resolve>, TargetError> {
        DnsResolver::build(&Target::parse(text, &["dns"], "dns").unwrap())
    }

    async fn addresses(resolver: &mut Box<dyn Resolve>) -> Result<Vec<String>, ResolveError> {
        let resolution = resolver.resolve().await?;
        let mut addresses = Vec::new();
        for endpoint in resolution.endpoints {
            let [Address::Socket(addr)] = endpoint.addresses() else {
                panic!("one address each, not {endpoint:?}")
            };
            addresses.push(addr.to_string());
        }
        addresses.sort();
        Ok(addresses)
    }

    #[test]
    fn an_endpoint_is_a_host_and_a_port() {
        let rows = [
            ("greeter", ("greeter", 443)),
            ("greeter.example:50051", ("greeter.example", 50051)),
            (":50051", ("localhost", 50051)),
            ("10.0.0.7:1", ("10.0.0.7", 1)),
            ("[::1]:65535", ("::1", 65535)),
            ("[::1]", ("::1", 443)),
            ("::1", ("::1", 443)),
        ];
        let target = Target::parse("dns:x", &["dns"], "dns").unwrap();
        for (text, expected) in rows {
            assert_eq!(split_endpoint(&target, text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn a_bad_target_is_refused_with_what_is_expected() {
        let rows = [
            ("dns:///", "there is no host"),
            ("dns:greeter:", "no port after the colon"),
            ("dns:greeter:99999", "port `99999` is not a number from 1 to 65535"),
            ("dns:greeter:0", "port `0` is not"),
            ("dns:greeter:+1", "port `+1` is not"),
            ("dns:greeter:http", "port `http` is not"),
            ("dns:[::1", "`[::1` is not an IPv6 address"),
            ("dns:[greeter]:1", "expected [a::b]"),
            ("dns:[::1]x", "`x` follows the address"),
            ("dns:a:b:1", "port `b:1` is not"),
            ("dns://ns.example/greeter", "name server `ns.example` is not an IP address"),
            ("dns://1.2.3.4:x/greeter", "`1.2.3.4:x`"),
        ];
        for (text, part) in rows {
            let error = build(text).err().unwrap().to_string();
            assert!(error.contains(part) && error.contains(text), "{error}");
        }
        for text in ["dns://8.8.8.8/a", "dns://8.8.8.8:53/a", "dns://[::1]/a", "dns://[::1]:53/a"] {
            build(text).unwrap();
        }
    }

    #[tokio::test]
    async fn an_ip_address_is_not_looked_up() {
        for (text, address) in [("dns:10.0.0.7", "10.0.0.7:443"), ("dns:[::1]:5", "[::1]:5")] {
            let mut resolver = build(text).unwrap();
            assert_eq!(resolver.refresh(), Refresh::Never);
            assert_eq!(addresses(&mut resolver).await.unwrap(), [address]);
        }
    }

    /// Answers queries for `greeter.example`, the n-th of each type with the n-th of `rounds`, and
    /// others with no such name.
    async fn name_server(rounds: Vec<Vec<IpAddr>>) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut asked = [0, 0];
            let mut buf = [0; 1500];
            loop {
                let (len, from) = socket.recv_from(&mut buf).await.unwrap();
                let query = Message::from_vec(&buf[..len]).unwrap();
                let question = query.queries[0].clone();
                let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
                answer.add_query(question.clone());
                let is_v6 = question.query_type() == RecordType::AAAA;
                let round = asked[usize::from(is_v6)].min(rounds.len() - 1);
                asked[usize::from(is_v6)] += 1;
                if question.name().to_string() == "greeter.example." {
                    for ip in &rounds[round] {
                        let data = match ip {
                            IpAddr::V4(ip) if !is_v6 => RData::A(A(*ip)),
                            IpAddr::V6(ip) if is_v6 => RData::AAAA(AAAA(*ip)),
                            IpAddr::V4(_) | IpAddr::V6(_) => continue,
                        };
                        // A long life, which must not keep a later lookup from asking.
                        let name = question.name().clone();
                        answer.add_answer(Record::from_rdata(name, 86_400, data));
                    }
                } else {
                    answer.metadata.response_code = ResponseCode::NXDomain;
                }
                let bytes = answer.to_vec().unwrap();
                socket.send_to(&bytes, from).await.unwrap();
            }
        });
        addr
    }

    #[tokio::test]
    async fn every_lookup_asks_the_name_server() {
        let [one, two, three] = ["10.0.0.1", "10.0.0.2", "::3"].map(|ip| ip.parse().unwrap());
        let server = name_server(vec![vec![one, three], vec![two]]).await;
        let mut resolver = build(&format!("dns://{server}/greeter.example.:80")).unwrap();
        let floor = std::time::Duration::from_secs(30);
        assert_eq!(resolver.refresh(), Refresh::AtMostEvery(floor));
        let first = addresses(&mut resolver).await.unwrap();
        assert_eq!(first, ["10.0.0.1:80", "[::3]:80"]);
        assert_eq!(addresses(&mut resolver).await.unwrap(), ["10.0.0.2:80"]);
    }

    #[tokio::test]
    async fn an_error_names_the_host_and_the_cause() {
        let server = name_server(vec![vec![]]).await;
        let mut none = build(&format!("dns://{server}/nobody.example.")).unwrap();
        let error = addresses(&mut none).await.unwrap_err();
        let expected =
            format!("DNS lookup of `nobody.example.` at {server}: there is no such name");
        assert_eq!(error.to_string(), expected);
        assert!(error.source().is_some());
        let mut empty = build(&format!("dns://{server}/greeter.example.")).unwrap();
        let error = addresses(&mut empty).await.unwrap_err().to_string();
        assert!(error.contains("the name has no addresses"), "{error}");
    }
}
