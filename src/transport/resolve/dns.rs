//! `dns:` targets, over hickory.

use std::error::Error;
use std::fmt;
use std::fs::File;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{Hosts, Resolver, TokioResolver};

use crate::types::{Address, Caught, Refresh, Target, TargetError};

use super::super::connect::{BoxFuture, TOKIO, without_io};
use super::super::error::in_words;
use super::hostname::hostname;
use super::{
    BuildResolver, DEFAULT_PORT, FixedResolver, REFRESH_INTERVAL, Resolution, Resolve,
    ResolveError, ResolverOptions, ServiceConfigChoices,
};

/// The resolver of `dns` targets: `dns:host`, `dns:host:port`, `dns://server/host:port` where the
/// server is the IP address, with or without a port, of the name server to ask.
///
/// Each A and AAAA record is an endpoint of its own; the port is the target's, 443 by default. The
/// hosts file comes first, then the name servers; UDP gives way to TCP where an answer is too long;
/// a name with few dots is looked for in the search domains. IP addresses and `localhost` are not
/// looked up.
///
/// A channel resolves again when a connection is lost or fails, but no sooner than
/// [`min_interval`](Self::min_interval) after the last time; after a failure with growing waits.
/// The system's configuration is read anew at every lookup. The lives of records do not make
/// it resolve; [`Channel::inspect`](crate::Channel::inspect) tells them.
///
/// Where [`ChannelBuilder::dns_service_config`](crate::ChannelBuilder::dns_service_config) asks for
/// it, the service config is looked for beside the addresses, as a TXT record of `_grpc_config.host`
/// (A2). The addresses wait for that no longer than 10 s; a lookup that fails is logged, and they
/// come without a config.
///
/// Every channel has one for the scheme `dns`. Give one with settings of your own to
/// [`ChannelBuilder::resolver`](crate::ChannelBuilder::resolver):
///
/// ```
/// # use std::time::Duration;
/// use switchboard::{Channel, Credentials, Dns};
///
/// let builder = Channel::builder("dns:greeter:50051")
///     .credentials(Credentials::insecure())
///     .resolver("dns", Dns::new().search_domains(["prod.example"]));
/// # builder.build().unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct Dns {
    name_servers: Vec<SocketAddr>,
    search_domains: Option<Vec<String>>,
    hosts_file: Option<PathBuf>,
    query_timeout: Option<Duration>,
    min_interval: Duration,
}

impl Dns {
    /// A resolver that goes by the system's configuration.
    pub fn new() -> Self {
        Self {
            name_servers: Vec::new(),
            search_domains: None,
            hosts_file: None,
            query_timeout: None,
            min_interval: REFRESH_INTERVAL,
        }
    }

    /// Asks these name servers in place of the system's. A server that the target names itself
    /// takes their place.
    pub fn name_servers(mut self, servers: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.name_servers = servers.into_iter().collect();
        self
    }

    /// Looks for names with fewer dots than `ndots`, mostly 1, in these domains in place of the
    /// system's. Together with [`name_servers`](Self::name_servers) or a target that names its
    /// server the default is none.
    pub fn search_domains<D: Into<String>>(mut self, domains: impl IntoIterator<Item = D>) -> Self {
        self.search_domains = Some(domains.into_iter().map(Into::into).collect());
        self
    }

    /// Reads this file in place of the system's hosts file.
    pub fn hosts_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.hosts_file = Some(path.into());
        self
    }

    /// How long a name server may take before it, or another, is asked again. Default: the
    /// system's, which is mostly 5 s. Three times is asked at most, and a whole lookup takes no
    /// longer than 30 s.
    pub fn query_timeout(mut self, timeout: Duration) -> Self {
        self.query_timeout = Some(timeout);
        self
    }

    /// How long the name servers are left alone after an answer. Default: 30 s.
    pub fn min_interval(mut self, interval: Duration) -> Self {
        self.min_interval = interval;
        self
    }

    fn search(&self, target: &Target) -> Result<Option<Vec<Name>>, TargetError> {
        let parse = |text: &String| {
            dns_name(text)
                .ok_or_else(|| target.invalid(format!("the search domain `{text}` is no name")))
        };
        self.search_domains.as_ref().map(|all| all.iter().map(parse).collect()).transpose()
    }
}

impl Default for Dns {
    fn default() -> Self {
        Self::new()
    }
}

impl BuildResolver for Dns {
    fn build(&self, target: &Target) -> Result<Box<dyn Resolve>, TargetError> {
        self.build_with(target, &ResolverOptions::default())
    }

    fn build_with(
        &self,
        target: &Target,
        options: &ResolverOptions,
    ) -> Result<Box<dyn Resolve>, TargetError> {
        let endpoint = target.endpoint();
        let server = parse_server(target)?;
        let search = self.search(target)?;
        // With a zone too, which the parts of an endpoint do not have.
        if let Ok(address) = endpoint.parse::<SocketAddr>()
            && address.port() != 0
        {
            return Ok(FixedResolver::boxed(vec![address.into()]));
        }
        let (host, port) = host_and_port(target)?;
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(FixedResolver::boxed(vec![SocketAddr::new(ip, port).into()]));
        }
        let name = dns_name(host).ok_or_else(|| {
            target.invalid(format!(
                "`{host}` is no DNS name: expected labels of at most 63 characters"
            ))
        })?;
        // Nobody but this machine says what `localhost` is (A10).
        let wants_config =
            options.dns_service_config && !options.disable_service_config && !name.is_localhost();
        Ok(Box::new(DnsResolver {
            host: host.to_owned(),
            // A name that has no room for the label has no config either.
            config_name: wants_config.then(|| name.prepend_label(CONFIG_LABEL).ok()).flatten(),
            name,
            port,
            servers: server.map_or_else(|| self.name_servers.clone(), |server| vec![server]),
            search,
            settings: self.clone(),
        }))
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

/// Looks one host up.
struct DnsResolver {
    /// As the target has it.
    host: String,
    name: Name,
    /// What is asked for the service config, if anything is.
    config_name: Option<Name>,
    port: u16,
    /// Who is asked; nobody here means whom the system asks.
    servers: Vec<SocketAddr>,
    search: Option<Vec<Name>>,
    settings: Dns,
}

impl Resolve for DnsResolver {
    fn resolve(&mut self) -> BoxFuture<'_, Result<Resolution, ResolveError>> {
        let looking = Caught::of(TOKIO, Box::pin(self.look_up()));
        Box::pin(async move { looking.await.map_err(|it| ResolveError::new(without_io(&it)))? })
    }

    fn refresh(&self) -> Refresh {
        Refresh::AtMostEvery(self.settings.min_interval)
    }
}

impl DnsResolver {
    async fn look_up(&self) -> Result<Resolution, ResolveError> {
        let resolver = self.resolver()?;
        let Some(name) = &self.config_name else { return self.addresses(&resolver).await };
        let config = async { Ok(config(&resolver, name).await) };
        // Without addresses nobody waits for the config.
        let (resolution, choices) = tokio::try_join!(self.addresses(&resolver), config)?;
        Ok(Resolution { choices, ..resolution })
    }

    async fn addresses(&self, resolver: &TokioResolver) -> Result<Resolution, ResolveError> {
        let found = resolver.lookup_ip(self.name.clone()).await;
        let found = found.map_err(|error| self.error(error))?;
        let endpoints = found.iter().map(|ip| SocketAddr::new(ip, self.port).into());
        let ttl = found.as_lookup().answers().iter().map(|record| record.ttl).min();
        let resolution = Resolution::new(endpoints);
        Ok(match ttl {
            Some(seconds) => resolution.with_ttl(Duration::from_secs(seconds.into())),
            None => resolution,
        })
    }

    /// hickory's resolver, made for one lookup: the system's configuration may have changed since
    /// the last.
    fn resolver(&self) -> Result<TokioResolver, ResolveError> {
        let failed = |error| self.error(error);
        let mut builder = if self.servers.is_empty() {
            let (config, options) =
                hickory_resolver::system_conf::read_system_conf().map_err(failed)?;
            let search = self.search.clone().unwrap_or_else(|| config.search().to_vec());
            let domain = config.domain().cloned();
            let config = ResolverConfig::from_parts(domain, search, config.name_servers().to_vec());
            Resolver::builder_with_config(config, TokioRuntimeProvider::default())
                .with_options(options)
        } else {
            let servers = self.servers.iter().copied().map(name_server).collect();
            let search = self.search.clone().unwrap_or_default();
            let config = ResolverConfig::from_parts(None, search, servers);
            Resolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        let options = builder.options_mut();
        // A lookup is asked for when there are doubts about what the last one gave: an answer from
        // a cache would be that same one.
        options.cache_size = 0;
        if let Some(timeout) = self.settings.query_timeout {
            options.timeout = timeout;
        }
        let mut resolver = builder.build().map_err(failed)?;
        if let Some(path) = &self.settings.hosts_file {
            let mut hosts = Hosts::default();
            File::open(path).and_then(|file| hosts.read_hosts_conf(file)).map_err(|error| {
                let cause = in_words(&error);
                ResolveError::new(format!("the hosts file {}: {cause}", path.display()))
                    .with_source(error)
            })?;
            resolver.set_hosts(Arc::new(hosts));
        }
        Ok(resolver)
    }

    fn error(&self, error: NetError) -> ResolveError {
        let cause = Cause(&error);
        let servers: Vec<_> = self.servers.iter().map(ToString::to_string).collect();
        let message = match servers.join(" and ") {
            servers if servers.is_empty() => format!("DNS lookup of `{}`: {cause}", self.host),
            servers => format!("DNS lookup of `{}` at {servers}: {cause}", self.host),
        };
        ResolveError::new(message).with_source(error)
    }
}

/// The service configs at `name`, if there are any and they can be had.
async fn config(resolver: &TokioResolver, name: &Name) -> Option<ServiceConfigChoices> {
    let found = resolver.lookup(name.clone(), RecordType::TXT);
    let fault = match tokio::time::timeout(CONFIG_TIMEOUT, found).await {
        Ok(Ok(found)) => {
            let records = found.answers().iter().filter_map(|record| match &record.data {
                RData::TXT(text) => Some(&*text.txt_data),
                _ => None,
            });
            match choices(records) {
                Ok(list) => {
                    return list.map(|list| ServiceConfigChoices { list, hostname: hostname() });
                }
                Err(fault) => fault,
            }
        }
        // Most names have none.
        Ok(Err(error)) if error.is_nx_domain() || error.is_no_records_found() => return None,
        Ok(Err(error)) => Cause(&error).to_string(),
        Err(_) => format!("no answer within {CONFIG_TIMEOUT:?}"),
    };
    tracing::info!(target: "switchboard", %name, fault, "no service config from DNS");
    None
}

/// What the first record says that has service configs. Strings of a record are parts of one text.
fn choices<'a, S: AsRef<[u8]> + 'a>(
    records: impl Iterator<Item = &'a [S]>,
) -> Result<Option<Vec<u8>>, String> {
    let mut list = None;
    let mut bytes = 0;
    for strings in records {
        bytes += strings.iter().map(|string| string.as_ref().len()).sum::<usize>();
        if bytes > CONFIG_BYTES_MAX {
            return Err(format!("the answer has more than {CONFIG_BYTES_MAX} bytes"));
        }
        let text: Vec<u8> = strings.iter().flat_map(AsRef::as_ref).copied().collect();
        list = list.or_else(|| text.strip_prefix(CONFIG_PREFIX).map(<[u8]>::to_vec));
    }
    Ok(list)
}

/// The name that `text` is: an internationalised one, or one of ASCII, where any characters will do
/// that stand for themselves. Names of services have underscores.
fn dns_name(text: &str) -> Option<Name> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.chars().all(plain) {
        return Name::from_ascii(text).ok();
    }
    Name::from_utf8(text).ok()
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let [mut udp, mut tcp] = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
    udp.port = address.port();
    tcp.port = address.port();
    NameServerConfig::new(address.ip(), true, vec![udp, tcp])
}

/// The host and the port that a target names.
pub(crate) fn host_and_port(target: &Target) -> Result<(&str, u16), TargetError> {
    let text = target.endpoint();
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

/// Where the service configs of a name are, and how they begin (A2).
const CONFIG_LABEL: &str = "_grpc_config";
const CONFIG_PREFIX: &[u8] = b"grpc_config=";

/// 64 KiB: what one message of DNS can hold, and more than any config has.
const CONFIG_BYTES_MAX: usize = 64 * 1024;

/// Two questions that get lost; well within what the whole lookup has, so that a server which keeps
/// silent about configs does not take the addresses away.
const CONFIG_TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn build(text: &str) -> Result<Box<dyn Resolve>, TargetError> {
        Dns::new().build(&Target::parse(text, &["dns"], "dns").unwrap())
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
        for (text, expected) in rows {
            let target = Target::parse(text, &["dns"], "dns").unwrap();
            assert_eq!(host_and_port(&target), Ok(expected), "{text}");
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
            ("dns:a/b", "`a/b` is no DNS name"),
            ("dns:a..b", "`a..b` is no DNS name"),
            ("dns:a:b:1", "port `b:1` is not"),
            ("dns://ns.example/greeter", "name server `ns.example` is not an IP address"),
            ("dns://1.2.3.4:x/greeter", "`1.2.3.4:x`"),
        ];
        for (text, part) in rows {
            let error = build(text).err().unwrap().to_string();
            assert!(error.contains(part) && error.contains(text), "{error}");
        }
        for text in ["my_service:80", "grüße.example", "_a.b-c.d.", "x"] {
            build(text).unwrap();
        }
        for text in ["dns://8.8.8.8/a", "dns://8.8.8.8:53/a", "dns://[::1]/a", "dns://[::1]:53/a"] {
            build(text).unwrap();
        }
    }

    #[tokio::test]
    async fn an_ip_address_is_not_looked_up() {
        let rows = [
            ("dns:10.0.0.7", "10.0.0.7:443"),
            ("dns:[::1]:5", "[::1]:5"),
            ("[fe80::1%3]:5", "[fe80::1%3]:5"),
        ];
        for (text, address) in rows {
            let mut resolver = build(text).unwrap();
            assert_eq!(resolver.refresh(), Refresh::Never);
            let found = resolver.resolve().await.unwrap();
            assert_eq!(found.endpoints[0].addresses()[0].to_string(), address);
        }
    }

    // spec: A2/txt-record
    #[test]
    fn the_strings_of_a_record_are_one_text_and_the_prefix_tells_which_record_it_is() {
        let rows: [(&[&[&str]], Option<&str>); 6] = [
            (&[], None),
            (&[&["v=spf1 -all"], &["grpc_config"]], None),
            (&[&["v=spf1 -all"], &["grpc_config=[1]"]], Some("[1]")),
            (&[&["grpc_", "config=[", "1", "]"]], Some("[1]")),
            (&[&["grpc_config="]], Some("")),
            (&[&["grpc_config=[1]"], &["grpc_config=[2]"]], Some("[1]")),
        ];
        for (records, expected) in rows {
            let found = choices(records.iter().copied()).unwrap();
            assert_eq!(found.as_deref(), expected.map(str::as_bytes), "{records:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_config_is_not_waited_for_longer_than_its_time() {
        let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let servers = vec![name_server(silent.local_addr().unwrap())];
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        let provider = TokioRuntimeProvider::default();
        let mut builder = Resolver::builder_with_config(config, provider);
        builder.options_mut().timeout = 3 * CONFIG_TIMEOUT;
        let resolver = builder.build().unwrap();
        let began = tokio::time::Instant::now();
        let name = dns_name("_grpc_config.greeter.example.").unwrap();
        assert_eq!(super::config(&resolver, &name).await, None);
        assert!(began.elapsed() <= CONFIG_TIMEOUT + Duration::from_millis(1));
    }

    #[test]
    fn an_answer_of_more_than_64_kib_is_refused() {
        let records = |count| vec![["x".repeat(1_024)]; count];
        let refused = |count| choices(records(count).iter().map(<[String; 1]>::as_slice)).is_err();
        assert!(!refused(64));
        assert!(refused(65));
    }

    #[test]
    fn a_search_domain_that_is_no_name_is_refused() {
        let target = Target::parse("dns:greeter", &["dns"], "dns").unwrap();
        let label = "x".repeat(64);
        let error = Dns::new().search_domains([label.clone()]).build(&target).err().unwrap();
        assert!(error.to_string().contains(&format!("search domain `{label}`")), "{error}");
    }
}
