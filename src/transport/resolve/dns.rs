//! `dns:` targets, over hickory.

use std::fmt;
use std::future;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use hickory_proto::rr::{Name, RData, RecordType};
use tokio::time::timeout;

use crate::types::{Caught, Endpoint, Refresh, Target, TargetError, ip_addr, socket_addr};

use super::super::connect::{BoxFuture, TOKIO, without_io};
use super::super::file::{FileError, Unread, WatchedFile};
use super::endpoint::{LOOPBACK, Named, is_localhost, named};
use super::hostname::hostname;
use super::hosts::Hosts;
use super::lookup::{Family, Found, Late, NotFound, addresses, look_up};
use super::resolv_conf::{DNS_PORT, ResolvConf};
use super::sort::sort;
use super::stub::{NoAnswer, Said, Stub};
use super::{
    BuildResolver, FixedResolver, REFRESH_INTERVAL, Resolution, Resolve, ResolveError,
    ResolverOptions, ServiceConfigChoices, SystemDns,
};

/// The resolver of `dns` targets: `dns:host`, `dns:host:port`, `dns://server/host:port` where the
/// server is the IP address, with or without a port, of the name server to ask.
///
/// Each A and AAAA record is an endpoint of its own, in the order of
/// [RFC 6724](https://www.rfc-editor.org/rfc/rfc6724); the port is the target's, 443 by default.
///
/// What this machine knows is final, and then no name server is asked: IP addresses, names in the
/// hosts file, and `localhost` with all names below it
/// ([RFC 6761](https://www.rfc-editor.org/rfc/rfc6761#section-6.3)).
///
/// # Name servers
///
/// Name servers and search domains come from `/etc/resolv.conf`, which means what it means to glibc
/// ([resolv.conf(5)](https://man7.org/linux/man-pages/man5/resolv.conf.5.html)) and is read anew for
/// every look-up. Servers are asked in their order, one at a time. The next one is asked after
/// silence (`timeout`, 5 s by default), where nobody listens, and after SERVFAIL, REFUSED, NOTIMP,
/// FORMERR and other errors; the list is gone through as often as `attempts` says, twice by default.
/// An answer is final, also that a name does not exist or has no addresses. The options `ndots`,
/// `rotate`, `use-vc`, `edns0` and `no-aaaa` are obeyed. Lines and options that are wrong are
/// ignored, and a file that is missing or names no server means 127.0.0.1. Answers that UDP cuts
/// short are fetched over TCP.
///
/// A whole look-up takes no longer than 30 s. Both families are asked for at once. When one has
/// addresses, the other is waited for no longer than 50 ms
/// ([RFC 8305](https://www.rfc-editor.org/rfc/rfc8305#section-3)); its addresses join when they come.
/// A family that nobody answers for keeps the addresses that it had.
///
/// Where the system has no `resolv.conf`, as Windows has none, and neither the target nor this value
/// names a server, [`SystemDns`] looks names up instead.
///
/// # When names are looked up again
///
/// A channel looks again when the lives (TTL) of the records are over, so that new servers are seen,
/// but not within 30 s ([`refresh_every`](Self::refresh_every)), and no later than after an hour; what
/// the hosts file says is looked up again after 30 s. Up to a tenth is added by chance. A channel
/// that is idle asks nobody.
///
/// It also looks again when a connection is lost or fails, but no sooner than
/// [`min_interval`](Self::min_interval) after the last time. After a look-up that fails or finds no
/// addresses the last ones stay in use, and it is repeated with growing delays.
/// [`Channel::inspect`](crate::Channel::inspect) shows the lives of records and the next look-up.
///
/// # Service configs
///
/// Where [`ChannelBuilder::dns_service_config`](crate::ChannelBuilder::dns_service_config) asks for
/// it, the service config is looked for beside the addresses, as a TXT record of `_grpc_config.host`
/// (A2). The addresses wait for it no longer than 1 s. A look-up that fails or takes longer is given
/// up: the log and [`Channel::inspect`](crate::Channel::inspect) say so, and the config that was
/// found before stays in force. Names that this machine knows have none.
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
#[derive(Clone)]
pub struct Dns {
    name_servers: Vec<SocketAddr>,
    search_domains: Option<Vec<String>>,
    hosts_file: HostsFile,
    resolv_conf: WatchedFile<Vec<u8>>,
    query_timeout: Option<Duration>,
    min_interval: Duration,
    refresh_every: Option<Duration>,
}

/// The hosts file, which clones of a [`Dns`] read together.
#[derive(Clone)]
struct HostsFile {
    file: WatchedFile<Hosts>,
    /// Whether the user named it, who then learns that it cannot be read.
    is_given: bool,
}

impl HostsFile {
    fn new(path: impl Into<PathBuf>, is_given: bool) -> Self {
        let parse = |text| Ok(Hosts::parse(text));
        Self { file: WatchedFile::new(path, HOSTS_BYTES_MAX, parse), is_given }
    }
}

fn resolv_conf_at(path: impl Into<PathBuf>) -> WatchedFile<Vec<u8>> {
    WatchedFile::new(path, RESOLV_CONF_BYTES_MAX, Ok)
}

impl fmt::Debug for Dns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dns")
            .field("name_servers", &self.name_servers)
            .field("search_domains", &self.search_domains)
            .field("hosts_file", &self.hosts_file.file.path())
            .field("resolv_conf", &self.resolv_conf.path())
            .field("query_timeout", &self.query_timeout)
            .field("min_interval", &self.min_interval)
            .field("refresh_every", &self.refresh_every)
            .finish()
    }
}

impl Dns {
    /// A resolver that goes by the system's configuration.
    pub fn new() -> Self {
        Self {
            name_servers: Vec::new(),
            search_domains: None,
            hosts_file: HostsFile::new(HOSTS_FILE, false),
            resolv_conf: resolv_conf_at(RESOLV_CONF),
            query_timeout: None,
            min_interval: REFRESH_INTERVAL,
            refresh_every: Some(REFRESH_INTERVAL),
        }
    }

    /// The operating system's own resolver, for names that only it knows.
    pub fn system() -> SystemDns {
        SystemDns::new()
    }

    /// Asks these name servers, in this order, instead of the system's. A server that the target
    /// names itself takes their place. `resolv.conf` is not read then.
    pub fn name_servers(mut self, servers: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.name_servers = servers.into_iter().collect();
        self
    }

    /// Looks for names in these domains instead of the system's: names with fewer dots than `ndots`,
    /// mostly 1, before they are looked for as they are, others after that. Together with
    /// [`name_servers`](Self::name_servers) or a target that names its server the default is none.
    pub fn search_domains<D: Into<String>>(mut self, domains: impl IntoIterator<Item = D>) -> Self {
        self.search_domains = Some(domains.into_iter().map(Into::into).collect());
        self
    }

    /// Reads this file instead of the system's hosts file. A look-up fails if the file is missing or
    /// cannot be used. A hosts file is read when it has changed; beyond 32 MiB it cannot be used.
    pub fn hosts_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.hosts_file = HostsFile::new(path, true);
        self
    }

    /// Reads this file instead of `/etc/resolv.conf`. A name server may have a port here, as on
    /// OpenBSD: `nameserver [127.0.0.1]:5353`.
    pub fn resolv_conf(mut self, path: impl Into<PathBuf>) -> Self {
        self.resolv_conf = resolv_conf_at(path);
        self
    }

    /// How long one name server may take over one question, before the next is asked. Default: what
    /// the system's configuration says, which is mostly 5 s.
    pub fn query_timeout(mut self, timeout: Duration) -> Self {
        self.query_timeout = Some(timeout);
        self
    }

    /// How long the name servers are left alone after an answer. Default: 30 s.
    pub fn min_interval(mut self, interval: Duration) -> Self {
        self.min_interval = interval;
        self
    }

    /// The least time after which a channel looks again by itself because the lives of the records
    /// are over. `None` turns that off. Default: 30 s.
    pub fn refresh_every(mut self, interval: impl Into<Option<Duration>>) -> Self {
        self.refresh_every = interval.into();
        self
    }

    /// After what time addresses that live for `ttl` are looked up again.
    fn refresh_after(&self, ttl: Duration) -> Option<Duration> {
        self.refresh_every.map(|floor| ttl.min(TTL_MAX).max(floor))
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
        #[cfg(not(unix))]
        if self.name_servers.is_empty() && target.authority().is_empty() {
            // There is no file that says whom the system asks.
            return Self::system().build_with(target, options);
        }
        let server = parse_server(target)?;
        let search = self.search(target)?;
        let (host, port) = match named(target)? {
            Named::Address(address) => return Ok(FixedResolver::boxed(vec![address.into()])),
            Named::Host(host, port) => (host, port),
        };
        let name = dns_name(host).ok_or_else(|| {
            target.invalid(format!(
                "`{host}` is no DNS name: expected labels of at most 63 characters"
            ))
        })?;
        // Nobody but this machine says what `localhost` is (A10).
        let wants_config =
            options.dns_service_config && !options.disable_service_config && !is_localhost(host);
        let query = Query {
            host: host.to_owned(),
            // A name that has no room for the label has no config either.
            config_name: wants_config.then(|| name.prepend_label(CONFIG_LABEL).ok()).flatten(),
            name,
            port,
            servers: server.map_or_else(|| self.name_servers.clone(), |server| vec![server]),
            search,
            settings: self.clone(),
            turn: AtomicUsize::new(0),
        };
        Ok(Box::new(DnsResolver { query, known: Known::default(), late: None, has_news: false }))
    }
}

/// Looks one host up.
struct DnsResolver {
    query: Query,
    known: Known,
    /// A question that is still out, whose answer is waited for when nothing else is done.
    late: Option<Late>,
    /// Whether something is known that was not told: what came late.
    has_news: bool,
}

/// What is looked up, and with whom.
struct Query {
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
    /// Counts look-ups, for `rotate`.
    turn: AtomicUsize,
}

/// What the name servers have said so far.
#[derive(Default)]
struct Known {
    /// Where the name was found.
    name: Name,
    v4: Records,
    v6: Records,
    config: Option<ServiceConfigChoices>,
    /// What was looked for besides the addresses, and given up.
    given_up: Option<String>,
}

/// The addresses of a family, and how long they live.
#[derive(Default)]
struct Records {
    ips: Vec<IpAddr>,
    ttl: Duration,
}

/// The service configs of a name, if there are any; or why that is not known.
type Config = Result<Option<ServiceConfigChoices>, String>;

impl Resolve for DnsResolver {
    fn resolve(&mut self) -> BoxFuture<'_, Result<Resolution, ResolveError>> {
        let looking = Caught::of(TOKIO, Box::pin(self.look_up()));
        Box::pin(async move { looking.await.map_err(|it| ResolveError::new(without_io(&it)))? })
    }

    fn changed(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Some(late) = &mut self.late {
                let said = (&mut late.answer).await;
                let family = late.family;
                self.late = None;
                self.has_news |= self.known.take(family, said);
            }
            if !self.has_news {
                future::pending::<()>().await;
            }
        })
    }

    fn refresh(&self) -> Refresh {
        Refresh::AtMostEvery(self.query.settings.min_interval)
    }
}

impl DnsResolver {
    async fn look_up(&mut self) -> Result<Resolution, ResolveError> {
        // What came late belongs to the look-up before, which need not be done again for it.
        if !self.has_news {
            self.late = None;
            if let Some(ips) = self.query.local().await? {
                return Ok(Resolution {
                    refresh_after: self.query.settings.refresh_after(Duration::ZERO),
                    ..Resolution::new(self.query.endpoints(ips))
                });
            }
            let (found, config) = self.query.ask().await?;
            self.known.enter(found.name);
            for (family, said) in found.said {
                self.known.take(family, said);
            }
            self.late = found.late;
            if let Some((name, config)) = self.query.config_name.as_ref().zip(config) {
                self.known.take_config(name, config);
            }
        }
        self.has_news = false;
        Ok(self.known.resolution(&self.query))
    }
}

impl Known {
    /// What another name had stands for nothing at this one.
    fn enter(&mut self, name: Name) {
        if name != self.name {
            *self = Self { name, config: self.config.take(), ..Self::default() };
        }
    }

    /// Whether the addresses of the family are others now. What was known of it stands in for what
    /// nobody says.
    fn take(&mut self, family: Family, said: Result<Said, NoAnswer>) -> bool {
        let records = match said {
            Ok(Said::Records { data, ttl }) => Records { ips: addresses(&data), ttl },
            Ok(Said::NoData | Said::NoName) => Records::default(),
            Err(error) => {
                let name = &self.name;
                tracing::debug!(target: "switchboard", %name, ?family, %error, "no answer");
                return false;
            }
        };
        let known = match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        };
        let is_new = known.ips != records.ips;
        *known = records;
        is_new
    }

    fn take_config(&mut self, name: &Name, config: Config) {
        self.given_up = match config {
            Ok(choices) => {
                self.config = choices;
                None
            }
            Err(fault) => {
                tracing::info!(target: "switchboard", %name, fault, "no service config from DNS");
                Some(format!("the service config at {name}: {fault}"))
            }
        };
    }

    fn resolution(&self, query: &Query) -> Resolution {
        let lives = [&self.v4, &self.v6].into_iter().filter(|records| !records.ips.is_empty());
        let ttl = lives.map(|records| records.ttl).min();
        Resolution {
            ttl,
            refresh_after: ttl.and_then(|ttl| query.settings.refresh_after(ttl)),
            choices: self.config.clone(),
            given_up: self.given_up.clone(),
            ..Resolution::new(query.endpoints([&*self.v4.ips, &*self.v6.ips].concat()))
        }
    }
}

impl Query {
    /// What this machine knows itself; nobody is asked then.
    async fn local(&self) -> Result<Option<Vec<IpAddr>>, ResolveError> {
        let HostsFile { file, is_given } = &self.settings.hosts_file;
        let hosts = match file.get().await {
            Ok(hosts) => Some(hosts),
            Err(unread) => {
                let (error, last) = last_of(unread);
                if *is_given && last.is_none() && !is_localhost(&self.host) {
                    let (path, cause) = (file.path().display(), error.reason());
                    let text = format!("the hosts file {path}: {cause}");
                    return Err(ResolveError::new(text).with_source(error));
                }
                if !error.is_missing() {
                    tracing::info!(target: "switchboard", %error, "the hosts file is not up to date");
                }
                last
            }
        };
        let found = hosts.map(|hosts| hosts.addresses(&self.host)).unwrap_or_default();
        if found.is_empty() && is_localhost(&self.host) {
            return Ok(Some(LOOPBACK.to_vec()));
        }
        Ok((!found.is_empty()).then_some(found))
    }

    /// Asks for the addresses, and beside them for the service config if that is wanted.
    async fn ask(&self) -> Result<(Found, Option<Config>), ResolveError> {
        let conf = self.conf().await;
        let stub = Arc::new(Stub::new(&conf, &self.turn));
        let finding =
            async { look_up(&stub, &conf, &self.name).await.map_err(|error| self.error(error)) };
        let Some(name) = &self.config_name else { return Ok((finding.await?, None)) };
        let (mut finding, mut config) = (pin!(finding), pin!(config(&stub, &conf, name)));
        // Without addresses nobody waits for the config.
        let (found, config) = tokio::select! {
            biased;
            found = &mut finding => (found?, timeout(CONFIG_GRACE, config).await),
            config = &mut config => (finding.await?, Ok(config)),
        };
        let late =
            |_| Err(format!("no answer within {CONFIG_GRACE:?} after the one for the addresses"));
        Ok((found, Some(config.unwrap_or_else(late))))
    }

    fn endpoints(&self, mut ips: Vec<IpAddr>) -> impl Iterator<Item = Endpoint> {
        sort(&mut ips);
        let port = self.port;
        ips.into_iter().map(move |ip| SocketAddr::new(ip, port).into())
    }

    /// Whom to ask, as that is known now: the system's configuration may have changed since the
    /// last look-up.
    async fn conf(&self) -> ResolvConf {
        let mut conf = if self.servers.is_empty() {
            let text = self.settings.resolv_conf.get().await.unwrap_or_else(|unread| {
                let (error, last) = last_of(unread);
                if !error.is_missing() {
                    tracing::info!(target: "switchboard", %error, "resolv.conf is not up to date");
                }
                last.unwrap_or_default()
            });
            ResolvConf::parse(&text, hostname().as_deref())
        } else {
            ResolvConf { servers: self.servers.clone(), ..ResolvConf::default() }
        };
        if let Some(search) = &self.search {
            conf.search.clone_from(search);
        }
        if let Some(timeout) = self.settings.query_timeout {
            conf.timeout = timeout;
        }
        conf
    }

    fn error(&self, error: NotFound) -> ResolveError {
        let servers: Vec<_> = self.servers.iter().map(ToString::to_string).collect();
        let message = match servers.join(" and ") {
            servers if servers.is_empty() => format!("DNS lookup of `{}`: {error}", self.host),
            servers => format!("DNS lookup of `{}` at {servers}: {error}", self.host),
        };
        ResolveError::new(message).with_source(error)
    }
}

/// What stands in for a file that cannot be read now: what it held before. One that is gone holds
/// nothing.
fn last_of<T>(unread: Unread<T>) -> (FileError, Option<Arc<T>>) {
    let Unread { error, last_good } = unread;
    let last = last_good.filter(|_| !error.is_missing());
    (error, last)
}

/// Looks the service configs of a host up, where `name` is the host behind its label.
async fn config(stub: &Stub, conf: &ResolvConf, name: &Name) -> Config {
    for name in conf.candidates(name) {
        match stub.ask(&name, RecordType::TXT).await {
            Ok(Said::Records { data, .. }) => {
                let records = data.iter().filter_map(|record| match record {
                    RData::TXT(text) => Some(&*text.txt_data),
                    _ => None,
                });
                let list = choices(records)?;
                return Ok(list.map(|list| ServiceConfigChoices { list, hostname: hostname() }));
            }
            // Most names have none.
            Ok(Said::NoData | Said::NoName) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(None)
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

fn parse_server(target: &Target) -> Result<Option<SocketAddr>, TargetError> {
    let text = target.authority();
    if text.is_empty() {
        return Ok(None);
    }
    let server = ip_addr(text, DNS_PORT).or_else(|_| socket_addr(text));
    server.map(Some).map_err(|_| {
        target.invalid(format!(
            "the name server `{text}` is not an IP address; expected dns://ip/name or \
             dns://ip:port/name"
        ))
    })
}

const HOSTS_FILE: &str = "/etc/hosts";
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Five times the longest list of blocked names that is in use.
const HOSTS_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// A thousand times what one needs.
const RESOLV_CONF_BYTES_MAX: u64 = 1024 * 1024;

/// Nobody is believed to know a name's addresses for longer.
const TTL_MAX: Duration = Duration::from_secs(3_600);

/// Where the service configs of a name are, and how they begin (A2).
const CONFIG_LABEL: &str = "_grpc_config";
const CONFIG_PREFIX: &[u8] = b"grpc_config=";

/// 64 KiB: what one message of DNS can hold, and more than any config has.
const CONFIG_BYTES_MAX: usize = 64 * 1024;

/// How long addresses wait for the service config: most answers come within a few milliseconds, and
/// a server that keeps silent about configs must not take the addresses away.
const CONFIG_GRACE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn build(text: &str) -> Result<Box<dyn Resolve>, TargetError> {
        Dns::new().build(&Target::parse(text, &["dns"], "dns").unwrap())
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

    #[test]
    fn addresses_are_looked_up_again_after_their_lives_within_bounds() {
        let seconds = Duration::from_secs;
        let rows = [(0, 30), (5, 30), (30, 30), (300, 300), (3_600, 3_600), (86_400, 3_600)];
        for (ttl, expected) in rows {
            assert_eq!(Dns::new().refresh_after(seconds(ttl)), Some(seconds(expected)), "{ttl}");
        }
        let rarely = Dns::new().refresh_every(seconds(7_200));
        assert_eq!(rarely.refresh_after(seconds(60)), Some(seconds(7_200)));
        assert_eq!(Dns::new().refresh_every(None).refresh_after(seconds(60)), None);
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
