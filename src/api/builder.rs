//! Building a channel.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tracing::Level;

use super::backoff_table;
use super::channel::{Channel, Defaults};
use super::intercept::Interceptor;
use crate::actors::{Core, HealthChecks, Settings};
use crate::call::RetryLimits;
use crate::observe::{ChannelEntry, Channelz, Log, Observer, Observers};
use crate::policy::backoff::Backoff;
use crate::policy::lb::{LbPolicyBuilder, LbRegistry};
use crate::policy::service_config::{ServiceConfig, ServiceConfigError};
#[cfg(feature = "test-util")]
use crate::transport::Faults;
use crate::transport::resolve::{self, BuildResolver, ResolverOptions};
use crate::transport::{
    Connect, ConnectionOptions, Credentials, CredentialsError, KeepaliveConfig, Proxy,
    RECEIVE_BUFFER_BYTES_MAX, ReceiveBuffer, SocketConnector,
};
use crate::types::{
    Authority, Compression, Foreign, InvalidAuthority, Target, TargetError, untold,
};

/// Builds a [`Channel`]. A builder is a template: it can be cloned and built from many times.
///
/// Nothing happens before [`build`](Self::build), and that neither does I/O nor needs a runtime.
#[derive(Clone)]
pub struct ChannelBuilder {
    target: String,
    credentials: Option<Credentials>,
    default_service_config: Option<String>,
    mistakes: Mistakes,
    resolver_options: ResolverOptions,
    authority: Option<String>,
    user_agent: Option<String>,
    resolvers: BTreeMap<String, Arc<dyn BuildResolver>>,
    lb_registry: LbRegistry,
    connector: Option<Arc<dyn Connect>>,
    proxy: ProxyChoice,
    local_dns_resolution: bool,
    backoff: BackoffConfig,
    min_connect_timeout: Duration,
    dials_max: usize,
    queued_calls_max: usize,
    receive_buffer_max: usize,
    retry_limits: RetryLimits,
    idle_timeout: Option<Duration>,
    keep_connected: bool,
    health_checks: HealthChecks,
    max_connections: usize,
    connections_cap: usize,
    connection: ConnectionOptions,
    runtime: Option<Handle>,
    seed: Option<u64>,
    defaults: Defaults,
    interceptors: Vec<Arc<dyn Interceptor>>,
    observers: Vec<Arc<dyn Observer>>,
    channelz: Place,
    #[cfg(feature = "test-util")]
    allow_injection: bool,
}

impl ChannelBuilder {
    pub(super) fn new(target: impl Into<String>) -> Self {
        Self {
            target: target.into(),
            credentials: None,
            default_service_config: None,
            mistakes: Mistakes::Told,
            resolver_options: ResolverOptions::default(),
            authority: None,
            user_agent: None,
            resolvers: resolve::built_in(),
            lb_registry: LbRegistry::default(),
            connector: None,
            proxy: ProxyChoice::Environment,
            local_dns_resolution: false,
            backoff: BackoffConfig::default(),
            min_connect_timeout: MIN_CONNECT_TIMEOUT,
            dials_max: DIALS_MAX,
            queued_calls_max: QUEUED_CALLS_MAX,
            receive_buffer_max: RECEIVE_BUFFER_BYTES_MAX,
            retry_limits: RetryLimits {
                attempts_cap: CALL_ATTEMPTS_MAX,
                call_buffer_max: RETRY_BUFFER_BYTES_MAX,
                channel_buffer_max: CHANNEL_RETRY_BUFFER_BYTES_MAX,
            },
            idle_timeout: Some(IDLE_TIMEOUT),
            keep_connected: false,
            health_checks: HealthChecks::ByConfig,
            max_connections: 1,
            connections_cap: CONNECTIONS_CAP,
            connection: ConnectionOptions::default(),
            runtime: None,
            seed: None,
            defaults: Defaults::default(),
            interceptors: Vec::new(),
            observers: Vec::new(),
            channelz: Place::Nowhere,
            #[cfg(feature = "test-util")]
            allow_injection: false,
        }
    }

    /// How connections are secured. There is no default: say it, with [`Credentials::tls`] unless
    /// you know better.
    pub fn credentials(mut self, credentials: Credentials) -> Self {
        self.credentials = Some(credentials);
        self
    }

    /// The service config (JSON) for as long as the resolver gives none. Default: `pick_first`.
    ///
    /// What it says without any effect is warned about in the log, once for each channel, with its
    /// place in the config; see [`strict`](Self::strict).
    pub fn default_service_config(mut self, json: impl Into<String>) -> Self {
        self.default_service_config = Some(json.into());
        self
    }

    /// Makes errors of [`build`](Self::build) of what is otherwise a warning in the log: parts of
    /// the default service config that have no effect, such as fields that are not known, names that
    /// match no method, or health checks for a policy that does not go by health. A config that
    /// comes from a resolver may have such parts, as other clients may know them.
    pub fn strict(mut self) -> Self {
        self.mistakes = Mistakes::Refused;
        self
    }

    /// Applies no service config that comes from the resolver, nor its
    /// [`ConfigSelector`](crate::ConfigSelector): they are not looked for where that would cost a
    /// lookup, and not read where they come along. The
    /// [default](Self::default_service_config) is in force throughout.
    pub fn disable_service_config(mut self) -> Self {
        self.resolver_options.disable_service_config = true;
        self
    }

    /// Looks for the service config of a `dns` target in DNS as well (A2): as a TXT record of
    /// `_grpc_config.host`, beside the lookup of the addresses. Default: off, as most names have
    /// none and each lookup would ask for it all the same.
    ///
    /// The record has `grpc_config=` and a JSON list of choices; the first that is meant for this
    /// client counts, whose language is `rust`. A list that is wrong anywhere is a bad service
    /// config; a lookup that fails gives none. Names that a proxy looks up have none either.
    pub fn dns_service_config(mut self, enabled: bool) -> Self {
        self.resolver_options.dns_service_config = enabled;
        self
    }

    /// The name that servers are addressed by, and that their certificates must be for, in place of
    /// the target's endpoint. Where the credentials give one too, the hosts must be the same.
    pub fn authority(mut self, authority: impl Into<String>) -> Self {
        self.authority = Some(authority.into());
        self
    }

    /// What stands before the library's own name in `user-agent`.
    pub fn user_agent(mut self, product: impl Into<String>) -> Self {
        self.user_agent = Some(product.into());
        self
    }

    /// Adds a resolver for targets of `scheme`, or replaces a built-in one. A closure
    /// `Fn(&Target) -> Result<Box<dyn Resolve>, TargetError>` will do.
    pub fn resolver(
        mut self,
        scheme: impl Into<String>,
        resolver: impl BuildResolver + 'static,
    ) -> Self {
        self.resolvers.insert(scheme.into(), Arc::new(resolver));
        self
    }

    /// Adds a load-balancing policy that service configs can name.
    pub fn lb_policy(mut self, policy: impl LbPolicyBuilder + 'static) -> Self {
        self.lb_registry.register_foreign(Arc::new(policy));
        self
    }

    /// Adds an interceptor below those that were added before: the first is the outermost.
    pub fn interceptor(mut self, interceptor: impl Interceptor) -> Self {
        self.interceptors.push(Arc::new(interceptor));
        self
    }

    /// Adds an observer: it sees what becomes of calls, below the interceptors, and of the
    /// channel's connections.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observers.push(Arc::new(observer));
        self
    }

    /// Puts the channels into `channelz`, each from when it is built until it has shut down (A14).
    /// Of this and [`channelz_parent`](Self::channelz_parent) the last said counts.
    pub fn channelz(mut self, channelz: &Channelz) -> Self {
        self.channelz = Place::Top(channelz.clone());
        self
    }

    /// Puts the channels below `parent` in its [`Channelz`], if it is in one: for channels that
    /// another channel needs, such as that of a resolver.
    pub fn channelz_parent(mut self, parent: &Channel) -> Self {
        let entry = parent.core().settings.observers.channelz();
        self.channelz = entry.map_or(Place::Nowhere, |entry| Place::Below(entry.clone()));
        self
    }

    /// Dials connections in place of TCP. The environment's proxy is not used then; one that
    /// [`proxy`](Self::proxy) names is dialled by it.
    pub fn connector(mut self, connector: impl Connect) -> Self {
        self.connector = Some(Arc::new(connector));
        self
    }

    /// Reaches servers through this proxy. Default: that of the environment, as
    /// [`Proxy::from_env`] has it when the channel is built, unless there is a
    /// [`connector`](Self::connector).
    ///
    /// The names of `dns` targets are sent to the proxy, which looks them up: the channel has one
    /// address then, and one connection, whatever the load-balancing policy.
    pub fn proxy(mut self, proxy: Proxy) -> Self {
        self.proxy = ProxyChoice::This(proxy);
        self
    }

    /// Reaches servers without a proxy, whatever the environment says.
    pub fn no_proxy(mut self) -> Self {
        self.proxy = ProxyChoice::None;
        self
    }

    /// Looks up names here although there is a proxy, so that calls are balanced over all their
    /// addresses; each is then reached through the proxy. Default: off.
    pub fn local_dns_resolution(mut self, local: bool) -> Self {
        self.local_dns_resolution = local;
        self
    }

    /// How long is waited between attempts to connect to one address. Default:
    /// [`BackoffConfig::default`].
    pub fn backoff(mut self, backoff: BackoffConfig) -> Self {
        self.backoff = backoff;
        self
    }

    /// The least time that one attempt to connect is given, all handshakes included. Default: 20 s.
    pub fn min_connect_timeout(mut self, timeout: Duration) -> Self {
        self.min_connect_timeout = timeout;
        self
    }

    /// How long the channel keeps its connections when nobody uses it. When its last call has been
    /// over for so long, or it was [connected](Channel::connect) and nobody ever called, it goes
    /// back to IDLE: name resolution stops and the connections are closed. The next call starts
    /// it again, and waits for that; none is lost. `None`, or zero, keeps it up for good. Default:
    /// 30 minutes (A62).
    pub fn idle_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.idle_timeout = timeout.into();
        self
    }

    /// Keeps the channel connected once it was used: it never goes idle, and a connection that is
    /// lost is made again without waiting for a call. For the first, see
    /// [`Channel::connect`]. Default: off.
    pub fn keep_connected(mut self, keep: bool) -> Self {
        self.keep_connected = keep;
        self
    }

    /// Asks no server whether it serves, whatever the service config says (`healthCheckConfig`,
    /// A17): each that is connected to is taken as healthy. Default: servers are asked where the
    /// service config says so and the load-balancing policy goes by it, as `round_robin` does.
    pub fn disable_health_check(mut self) -> Self {
        self.health_checks = HealthChecks::Never;
        self
    }

    /// How many connections to each address are kept open from the start, so that many threads do
    /// not wait for one; a call goes to the one with fewest streams. Default: 1.
    pub fn connections_per_address(mut self, connections: usize) -> Self {
        self.connection.connections_per_address = connections.max(1);
        self
    }

    /// How many connections an address may get when the server takes no more streams on those that
    /// are open, unless the service config says (`connectionScaling`, A105). A call goes to the
    /// oldest that has room. Default: 1.
    pub fn max_connections_per_subchannel(mut self, connections: usize) -> Self {
        self.max_connections = connections.max(1);
        self
    }

    /// How many connections an address may have, whatever the service config and
    /// [`connections_per_address`](Self::connections_per_address) say. Default: 10.
    pub fn connections_cap(mut self, connections: usize) -> Self {
        self.connections_cap = connections;
        self
    }

    /// How many connections are dialled at a time, all handshakes included; further addresses wait
    /// for their turn. Default: 1,000.
    pub fn max_concurrent_dials(mut self, dials: usize) -> Self {
        self.dials_max = dials;
        self
    }

    /// How many calls may wait for the channel to resolve its target and connect, or for their
    /// credentials; one more ends at once with `RESOURCE_EXHAUSTED`. Default: 10,000.
    pub fn max_queued_calls(mut self, calls: usize) -> Self {
        self.queued_calls_max = calls;
        self
    }

    /// How many calls may wait for an address whose connections have as many streams open as the
    /// server allows; one more ends at once with `RESOURCE_EXHAUSTED`. Default: 10,000.
    pub fn max_queued_streams(mut self, streams: usize) -> Self {
        self.connection.queued_streams_max = streams;
        self
    }

    /// The largest list of response headers that is taken, in bytes. Default: 64 KiB.
    pub fn max_header_list_bytes(mut self, bytes: u32) -> Self {
        self.connection.max_header_list_size = bytes;
        self
    }

    /// The largest list of request headers that is sent, in bytes, each field counted with 32 for its
    /// overhead: metadata, what call credentials add, and the protocol's own fields. A call with more
    /// ends with `RESOURCE_EXHAUSTED` before anything of it is queued or sent. A server that says
    /// that it takes less is obeyed. Default: 1 MiB.
    pub fn max_request_header_list_bytes(mut self, bytes: usize) -> Self {
        self.connection.request_fields_max = bytes;
        self
    }

    /// Bounds the memory, in bytes, for what has arrived on all connections of the channel and has
    /// not been read: DATA with what each frame takes beside its bytes, and header fields beyond
    /// 8 KiB a stream. When it is more, the stream that has most of it ends with
    /// `RESOURCE_EXHAUSTED`, and what it had is given up. Default: 256 MiB.
    ///
    /// A message that is being put together is not counted: `max_receive_message_bytes` bounds
    /// each, and it takes no more than four times what has arrived of it.
    ///
    /// Streams that are not read slow down their own servers, each by the window of its stream;
    /// they do not hold up the other streams of their connection.
    pub fn max_receive_buffer_bytes(mut self, bytes: usize) -> Self {
        self.receive_buffer_max = bytes;
        self
    }

    /// How much a server may send before it is read, for each stream and for each connection, in
    /// bytes, for good. The connection's is beside what has arrived and is unread. Default: 2 MiB and 8 MiB, from which they grow, up to 16 MiB and 32 MiB, on
    /// connections where the product of bandwidth and delay is larger.
    pub fn receive_windows(mut self, stream: u32, connection: u32) -> Self {
        self.connection.initial_stream_window = stream;
        self.connection.initial_connection_window = connection;
        self.connection.adaptive_windows = false;
        self
    }

    /// Asks connections that have been silent whether they still live, and gives up those that do
    /// not answer (A8). Default: off. A server that finds it too much says `too_many_pings`; then
    /// the time doubles for the channel's later connections.
    pub fn keepalive(mut self, keepalive: KeepaliveConfig) -> Self {
        self.connection.keepalive = Some(keepalive);
        self
    }

    /// The default of [`CallOptions::compress`](crate::CallOptions::compress): none.
    pub fn compress(mut self, compression: impl Into<Option<Compression>>) -> Self {
        self.defaults.compression = compression.into();
        self
    }

    /// What servers may compress messages with, such as [`Compression::ALL`]; calls that are
    /// compressed themselves take their own encoding back in any case. Messages in other encodings
    /// end their calls with INTERNAL. Default: none, as servers that compress what nobody asked for
    /// spend their time and the client's.
    pub fn accept_compression(mut self, accepted: impl IntoIterator<Item = Compression>) -> Self {
        self.connection.accepted = accepted.into_iter().collect();
        self
    }

    /// How long a unary call may take that says nothing itself, and of whose method the service
    /// config says nothing. It covers everything, as [`CallOptions::timeout`](crate::CallOptions::timeout)
    /// does. Default: no limit.
    pub fn default_timeout(mut self, timeout: Duration) -> Self {
        self.defaults.timeout = Some(timeout);
        self
    }

    /// As [`default_timeout`](Self::default_timeout), for streams: from their opening to their end.
    /// Default: no limit.
    pub fn default_stream_timeout(mut self, timeout: Duration) -> Self {
        self.defaults.stream_timeout = Some(timeout);
        self
    }

    /// How many attempts a call may have at most, whatever the `retryPolicy` of its method says
    /// (A6). What is sent again because no server can have seen it does not count. Default: 5.
    pub fn max_call_attempts(mut self, attempts: u32) -> Self {
        self.retry_limits.attempts_cap = attempts.max(1);
        self
    }

    /// Attempts calls once, whatever the service config says. What no server can have seen is sent
    /// again all the same.
    pub fn disable_retry(self) -> Self {
        self.max_call_attempts(1)
    }

    /// How much of a call's messages is kept to be sent again, in bytes. A call that has sent more
    /// is not attempted again, but for what no server can have seen. Default: 256 KiB.
    pub fn max_retry_buffer_bytes(mut self, bytes: usize) -> Self {
        self.retry_limits.call_buffer_max = bytes;
        self
    }

    /// The same for all streams of the channel together: the stream that would go beyond it is not
    /// attempted again. Default: 64 MiB.
    pub fn max_channel_retry_buffer_bytes(mut self, bytes: usize) -> Self {
        self.retry_limits.channel_buffer_max = bytes;
        self
    }

    /// The default of [`CallOptions::wait_for_ready`](crate::CallOptions::wait_for_ready).
    pub fn wait_for_ready(mut self, wait: bool) -> Self {
        self.defaults.wait_for_ready = wait;
        self
    }

    /// The default of
    /// [`CallOptions::max_receive_message_bytes`](crate::CallOptions::max_receive_message_bytes):
    /// 4 MiB.
    pub fn max_receive_message_bytes(mut self, bytes: usize) -> Self {
        self.defaults.receive_bytes_max = bytes;
        self
    }

    /// The default of
    /// [`CallOptions::max_send_message_bytes`](crate::CallOptions::max_send_message_bytes): no
    /// limit.
    pub fn max_send_message_bytes(mut self, bytes: usize) -> Self {
        self.defaults.send_bytes_max = bytes;
        self
    }

    /// Runs the channel on this runtime. Default: the one on which it is first used.
    ///
    /// Either needs its time driver and, for sockets, its I/O driver; calls fail with UNAVAILABLE
    /// where one is missing, where the runtime has shut down, and while nobody has driven a
    /// runtime of one thread for 5 s after the first use.
    pub fn runtime(mut self, runtime: Handle) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// Makes all that is left to chance (jitter, where rotations begin) repeatable. Default: a
    /// seed of its own for each channel.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Lets each connection have only this many streams of calls, as if its stream ids were used up
    /// then: HTTP/2 has 2^30 of them, more than a test can use. Default: no limit.
    #[cfg(feature = "test-util")]
    pub fn stream_ids_per_connection(mut self, ids: u64) -> Self {
        self.connection.stream_ids = ids;
        self
    }

    /// Lets [`Channel::inject`] do harm to this channel.
    #[cfg(feature = "test-util")]
    #[cfg(feature = "test-util")]
    pub fn allow_injection(mut self) -> Self {
        self.allow_injection = true;
        self
    }

    /// Builds the channel: IDLE, without I/O, on no runtime.
    ///
    /// Fails if the target, the service config or the authority cannot be understood, or if no
    /// credentials were given.
    pub fn build(&self) -> Result<Channel, BuildError> {
        let credentials = self.credentials.clone().ok_or(BuildError::NoCredentials)?;
        let schemes: Vec<&str> = self.resolvers.keys().map(String::as_str).collect();
        let target = Target::parse(&self.target, &schemes, DEFAULT_SCHEME)?;
        let resolver = self.resolvers.get(target.scheme()).cloned();
        let resolver = resolver
            .ok_or_else(|| target.invalid(format!("no resolver for `{}`", target.scheme())))?;
        // A bad endpoint shows here and not at the first call; the resolver itself comes later.
        resolver.build_with(&target, &self.resolver_options)?;
        let mut doubts = Vec::new();
        let default_config = match &self.default_service_config {
            Some(json) => {
                let config = ServiceConfig::parse(json, &self.lb_registry)?;
                doubts = ServiceConfig::doubts(json, &self.lb_registry);
                config
            }
            None => ServiceConfig::default_for(&self.lb_registry),
        };
        if self.mistakes == Mistakes::Refused && !doubts.is_empty() {
            return Err(doubts.swap_remove(0).into());
        }
        let authority = match self.authority_to_use(&credentials)? {
            Some(authority) => authority,
            None => resolver.default_authority(&target),
        };
        let (resolver, proxy) = self.route(resolver, &target);
        let log = Arc::new(Log::new(Some(target.to_string()), runtime_clock));
        let security = credentials.prepare(&authority, &log)?;
        let mut connection = self.connection.clone();
        connection.receive_buffer = ReceiveBuffer::new(self.receive_buffer_max);
        #[cfg(feature = "test-util")]
        {
            connection.faults = self.allow_injection.then(Faults::new);
        }
        connection.user_agent = user_agent(self.user_agent.as_deref())?;
        let connector = self.connector.clone().unwrap_or_else(|| Arc::new(SocketConnector));
        let connector = match proxy {
            Some(proxy) => Arc::new(proxy.over(connector, connection.user_agent.clone())),
            None => connector,
        };
        let backoff = self.backoff.schedule()?;
        for doubt in &doubts {
            let (path, reason) = (&doubt.path(), &doubt.reason());
            log.tell(Level::WARN, "service config has a part without effect", path, Some(reason));
        }
        // From here on nothing can fail: a channel that is not built must not be seen.
        let name = target.to_string();
        let channelz = match &self.channelz {
            Place::Nowhere => None,
            Place::Top(channelz) => Some(ChannelEntry::new(channelz, &name)),
            Place::Below(parent) => Some(parent.nested(&name)),
        };
        connection.keeps_times = channelz.is_some();
        let observers = Observers::new(self.observers.clone(), name, log.clone(), channelz);
        let core = Core::new(Settings {
            target,
            log,
            observers,
            resolver: Foreign::new("the resolver", resolver),
            resolver_options: self.resolver_options,
            lb_registry: self.lb_registry.clone(),
            default_config: Arc::new(default_config),
            backoff,
            min_connect_timeout: self.min_connect_timeout,
            dials_max: self.dials_max,
            queued_calls_max: self.queued_calls_max,
            retry_limits: self.retry_limits,
            idle_timeout: self
                .idle_timeout
                .filter(|timeout| !timeout.is_zero() && !self.keep_connected),
            max_connections: self.max_connections,
            connections_cap: self.connections_cap,
            keep_connected: self.keep_connected,
            health_checks: self.health_checks,
            connector: Foreign::new("the dialler", connector),
            security,
            call_credentials: credentials.call_credentials().clone(),
            authority,
            connection,
            seed: self.seed.unwrap_or_else(fresh_seed),
            runtime: self.runtime.clone(),
        });
        Ok(Channel::new(core, self.defaults, self.interceptors.clone()))
    }
}

impl ChannelBuilder {
    /// The proxy to use, and who resolves the target because of it.
    fn route(
        &self,
        resolver: Arc<dyn BuildResolver>,
        target: &Target,
    ) -> (Arc<dyn BuildResolver>, Option<Proxy>) {
        let proxy = match &self.proxy {
            ProxyChoice::This(proxy) => Some(proxy.clone()),
            ProxyChoice::Environment if self.connector.is_none() => Proxy::from_env(),
            ProxyChoice::Environment | ProxyChoice::None => None,
        };
        if let Some(proxy) = &proxy
            && target.scheme() == "dns"
            && let Ok((host, port)) = resolve::host_and_port(target)
        {
            return match (proxy.is_for(host, port), self.local_dns_resolution) {
                (false, _) => (resolver, None),
                (true, true) => (resolver, Some(proxy.clone())),
                (true, false) => (Arc::new(resolve::Unresolved), Some(proxy.clone())),
            };
        }
        (resolver, proxy)
    }

    /// The authority that the builder says, or else the credentials; both must mean one host.
    fn authority_to_use(&self, credentials: &Credentials) -> Result<Option<Authority>, BuildError> {
        let parse = |text: &str| Authority::parse(text);
        let said = self.authority.as_deref().map(parse).transpose()?;
        let certified = credentials.authority().map(parse).transpose()?;
        match (&said, &certified) {
            (Some(authority), Some(server_name)) if authority.host() != server_name.host() => {
                Err(CredentialsError::AuthorityMismatch {
                    authority: authority.to_string(),
                    server_name: server_name.to_string(),
                }
                .into())
            }
            _ => Ok(said.or(certified)),
        }
    }
}

impl fmt::Debug for ChannelBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelBuilder").field("target", &self.target).finish_non_exhaustive()
    }
}

/// Which proxy a channel uses.
#[derive(Clone)]
enum ProxyChoice {
    /// That of the environment, if it names one.
    Environment,
    /// This.
    This(Proxy),
    None,
}

/// Where in a [`Channelz`] a channel is.
#[derive(Clone)]
enum Place {
    Nowhere,
    Top(Channelz),
    /// Below the channel of this entry.
    Below(ChannelEntry),
}

/// What becomes of what the application says without any effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistakes {
    /// The log tells of it.
    Told,
    /// There is no channel.
    Refused,
}

/// How the wait between attempts to connect to one address grows: the first is `base_delay`, each
/// further one `multiplier` times the one before, up to `max_delay`; all but the first with a
/// random part of `jitter` added or taken away. It starts over once a connection has carried an
/// answer of the server, or has lasted longer than the wait that would follow; one that is lost
/// before counts as a failure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BackoffConfig {
    /// The first wait. Default: 1 s.
    pub base_delay: Duration,
    /// By what each wait grows; at least 1. Default: 1.6.
    pub multiplier: f64,
    /// The share of a wait that is left to chance, from 0 to 1. Default: 0.2.
    pub jitter: f64,
    /// The longest wait, before jitter. Default: 120 s.
    pub max_delay: Duration,
}

impl Default for BackoffConfig {
    fn default() -> Self {
        Self {
            base_delay: Duration::from_secs(1),
            multiplier: 1.6,
            jitter: 0.2,
            max_delay: Duration::from_secs(120),
        }
    }
}

impl BackoffConfig {
    fn schedule(&self) -> Result<Backoff, BuildError> {
        let multiplier_fits = self.multiplier.is_finite() && self.multiplier >= 1.0;
        if !multiplier_fits || !(0.0..=1.0).contains(&self.jitter) {
            return Err(BuildError::InvalidBackoff(*self));
        }
        let intervals = backoff_table::intervals(self.base_delay, self.multiplier, self.max_delay);
        Ok(Backoff::new(intervals, self.jitter))
    }
}

/// A channel cannot be built.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum BuildError {
    /// No credentials were given.
    NoCredentials,
    /// The credentials cannot be used.
    InvalidCredentials(CredentialsError),
    /// The target cannot be understood.
    InvalidTarget(TargetError),
    /// The default service config cannot be used.
    InvalidServiceConfig(ServiceConfigError),
    /// The authority cannot be one.
    InvalidAuthority(InvalidAuthority),
    /// The user agent has characters that a header cannot carry.
    InvalidUserAgent(String),
    /// The backoff has a multiplier below 1, or a jitter outside of 0 to 1.
    InvalidBackoff(BackoffConfig),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCredentials => f.write_str(
                "no credentials: say how connections are secured, for TLS with \
                 .credentials(Credentials::tls()), for plaintext with \
                 .credentials(Credentials::insecure())",
            ),
            Self::InvalidCredentials(error) => write!(f, "credentials: {error}"),
            Self::InvalidTarget(error) => error.fmt(f),
            Self::InvalidServiceConfig(error) => write!(f, "default service config: {error}"),
            Self::InvalidAuthority(error) => error.fmt(f),
            Self::InvalidUserAgent(text) => {
                write!(f, "user agent {text:?}: expected printable ASCII")
            }
            Self::InvalidBackoff(BackoffConfig { multiplier, jitter, .. }) => write!(
                f,
                "backoff with multiplier {multiplier} and jitter {jitter}: expected a multiplier \
                 of at least 1 and a jitter from 0 to 1"
            ),
        }
    }
}

impl std::error::Error for BuildError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        let error: &(dyn std::error::Error + 'static) = match self {
            Self::InvalidCredentials(error) => error,
            Self::InvalidTarget(error) => error,
            Self::InvalidServiceConfig(error) => error,
            Self::InvalidAuthority(error) => error,
            Self::NoCredentials | Self::InvalidUserAgent(_) | Self::InvalidBackoff(_) => {
                return None;
            }
        };
        untold(&self.to_string(), Some(error))
    }
}

impl From<CredentialsError> for BuildError {
    fn from(error: CredentialsError) -> Self {
        Self::InvalidCredentials(error)
    }
}

impl From<TargetError> for BuildError {
    fn from(error: TargetError) -> Self {
        Self::InvalidTarget(error)
    }
}

impl From<ServiceConfigError> for BuildError {
    fn from(error: ServiceConfigError) -> Self {
        Self::InvalidServiceConfig(error)
    }
}

impl From<InvalidAuthority> for BuildError {
    fn from(error: InvalidAuthority) -> Self {
        Self::InvalidAuthority(error)
    }
}

fn user_agent(product: Option<&str>) -> Result<http::HeaderValue, BuildError> {
    let text = match product {
        Some(product) => format!("{product} {USER_AGENT}"),
        None => USER_AGENT.to_owned(),
    };
    let printable = text.bytes().all(|byte| (0x20..=0x7e).contains(&byte));
    match http::HeaderValue::from_str(&text) {
        Ok(value) if printable => Ok(value),
        Ok(_) | Err(_) => Err(BuildError::InvalidUserAgent(text)),
    }
}

/// The standard library seeds each of its hashers from the operating system; an empty hash is such
/// a seed.
pub(super) fn fresh_seed() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(())
}

/// The time by the clock that a runtime's timers go by, which tests can pause.
pub(super) fn runtime_clock() -> std::time::Instant {
    tokio::time::Instant::now().into_std()
}

/// A text without a scheme is a name in DNS, as in gRPC naming.
const DEFAULT_SCHEME: &str = "dns";

/// As in grpc-go: TCP, TLS and HTTP/2 handshakes over a slow network fit in.
const MIN_CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// Enough for any list of addresses that can be reached, and few enough for a process's files.
const DIALS_MAX: usize = 1_000;

/// Beyond that a channel that does not connect is helped by early errors.
const QUEUED_CALLS_MAX: usize = 10_000;

/// As gRPC has it for every client (A6).
const CALL_ATTEMPTS_MAX: u32 = 5;

/// As in grpc-go: large enough for calls of ordinary size, small enough to hold thousands.
const RETRY_BUFFER_BYTES_MAX: usize = 256 * 1024;

/// A few hundred calls that keep all they may.
const CHANNEL_RETRY_BUFFER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// As gRPC has it for every client (A62).
const IDLE_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// As A105 has it.
const CONNECTIONS_CAP: usize = 10;

const USER_AGENT: &str = concat!("grpc-rust-switchboard/", env!("CARGO_PKG_VERSION"));
