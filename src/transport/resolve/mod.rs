//! Name resolution: from a target to endpoints.
//!
//! A [`BuildResolver`] checks a target, without I/O, and gives the [`Resolve`] that looks it up. The
//! channel picks it by the scheme of the target.

#[cfg(feature = "dns")]
mod dns;
mod endpoint;
mod fixed;
#[cfg(feature = "dns")]
mod hostname;
#[cfg(feature = "dns")]
mod hosts;
#[cfg(feature = "dns")]
mod lookup;
#[cfg(feature = "test-util")]
mod manual;
#[cfg(feature = "dns")]
mod resolv_conf;
#[cfg(feature = "dns")]
mod sort;
#[cfg(feature = "dns")]
mod stub;
mod system;
mod unix;

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::future;
use std::sync::Arc;
use std::time::Duration;

use crate::types::{
    Authority, ConfigSelector, Endpoint, Refresh, Target, TargetError, harmless, untold,
};

use super::connect::BoxFuture;

#[cfg(feature = "dns")]
pub use dns::Dns;
pub(crate) use endpoint::host_and_port;
use fixed::FixedResolver;
pub(crate) use fixed::Unresolved;
#[cfg(feature = "test-util")]
pub use manual::ManualResolver;
pub use system::SystemDns;
use unix::UnixResolver;

/// Looks up one target, again and again.
pub trait Resolve: Send + 'static {
    /// Looks the target up once, from the beginning: the result is everything that is known, and
    /// replaces what an earlier lookup gave.
    ///
    /// Runs on the channel's runtime. The channel may drop the future to give the lookup up.
    fn resolve(&mut self) -> BoxFuture<'_, Result<Resolution, ResolveError>>;

    /// Completes when another lookup is worthwhile, before anybody asks for one.
    ///
    /// Must be cancel-safe: a change is not lost when the future is dropped and made anew. The
    /// default never completes.
    fn changed(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(future::pending())
    }

    /// How often the channel may ask when it has doubts. The default is every 30 seconds at most.
    fn refresh(&self) -> Refresh {
        Refresh::AtMostEvery(REFRESH_INTERVAL)
    }
}

/// Makes the resolver of a target. Implemented by functions of that shape.
pub trait BuildResolver: Send + Sync + 'static {
    /// Checks the target and makes its resolver. Does no I/O and needs no runtime, so that a target
    /// which cannot work fails when the channel is built; [`Target::invalid`] makes the error.
    fn build(&self, target: &Target) -> Result<Box<dyn Resolve>, TargetError>;

    /// As [`build`](Self::build), for a channel with these options, which is what channels call.
    /// The default leaves them unread. A resolver around another hands them on.
    fn build_with(
        &self,
        target: &Target,
        options: &ResolverOptions,
    ) -> Result<Box<dyn Resolve>, TargetError> {
        let _ = options;
        self.build(target)
    }

    /// The name that servers of this target are addressed by, where neither the builder nor the
    /// credentials say another. The default is the endpoint of the target.
    fn default_authority(&self, target: &Target) -> Authority {
        Authority::of_endpoint(target.endpoint())
    }
}

/// The resolvers that every channel has, by scheme.
pub(crate) fn built_in() -> BTreeMap<String, Arc<dyn BuildResolver>> {
    let all: [(&str, Arc<dyn BuildResolver>); 6] = [
        #[cfg(feature = "dns")]
        ("dns", Arc::new(Dns::new())),
        #[cfg(not(feature = "dns"))]
        ("dns", Arc::new(SystemDns::new())),
        ("ipv4", Arc::new(FixedResolver::ipv4)),
        ("ipv6", Arc::new(FixedResolver::ipv6)),
        ("passthrough", Arc::new(FixedResolver::passthrough)),
        ("unix", Arc::new(UnixResolver::Path)),
        ("unix-abstract", Arc::new(UnixResolver::Abstract)),
    ];
    all.into_iter().map(|(scheme, it)| (scheme.to_owned(), it)).collect()
}

impl<F> BuildResolver for F
where
    F: Fn(&Target) -> Result<Box<dyn Resolve>, TargetError> + Send + Sync + 'static,
{
    fn build(&self, target: &Target) -> Result<Box<dyn Resolve>, TargetError> {
        self(target)
    }
}

/// What a channel has settled that its resolver may go by. The default is what it is for a channel
/// of which nothing is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResolverOptions {
    /// Whether the channel applies no service config of its resolver, which then need not look for
    /// one: [`ChannelBuilder::disable_service_config`](crate::ChannelBuilder::disable_service_config).
    pub disable_service_config: bool,
    /// Whether service configs are to be looked for in DNS (A2):
    /// [`ChannelBuilder::dns_service_config`](crate::ChannelBuilder::dns_service_config).
    pub dns_service_config: bool,
}

/// What one lookup found.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Resolution {
    /// The backends.
    pub endpoints: Vec<Endpoint>,
    /// The service config, as JSON, where the resolver has one.
    pub service_config: Option<String>,
    /// What chooses the config of each call in place of the service config's `methodConfig`.
    pub config_selector: Option<Arc<dyn ConfigSelector>>,
    /// For how long this is said to be true, where that is known. It is shown by
    /// [`Channel::inspect`](crate::Channel::inspect), and nothing goes by it.
    pub ttl: Option<Duration>,
    /// After what time the channel looks again by itself, unless it is idle then. Up to a tenth is
    /// added by chance, so that clients which began together do not ask together. With `None` it
    /// looks again only when a connection is lost or fails, or [`Resolve::changed`] says so.
    pub refresh_after: Option<Duration>,
    /// The service configs in DNS, where there are any and `service_config` says nothing.
    pub(crate) choices: Option<ServiceConfigChoices>,
    /// What was looked for besides and given up, and why. It is shown by
    /// [`Channel::inspect`](crate::Channel::inspect).
    pub(crate) given_up: Option<String>,
}

/// Service configs of which the channel chooses one (A2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceConfigChoices {
    /// A list of choices, as JSON that nobody has looked at.
    pub(crate) list: Vec<u8>,
    /// The name of this machine, where it is known.
    pub(crate) hostname: Option<String>,
}

impl Resolution {
    /// These backends, without a service config.
    pub fn new(endpoints: impl IntoIterator<Item = Endpoint>) -> Self {
        Self { endpoints: endpoints.into_iter().collect(), ..Self::default() }
    }

    /// The same with this service config, which the channel will parse.
    pub fn with_service_config(mut self, json: impl Into<String>) -> Self {
        self.service_config = Some(json.into());
        self
    }

    /// The same with this selector: calls go by what it chooses, and not by what the service config
    /// says of their methods.
    pub fn with_config_selector(mut self, selector: Arc<dyn ConfigSelector>) -> Self {
        self.config_selector = Some(selector);
        self
    }

    /// The same, said to be true for `ttl`.
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// The same, to be looked up again after this time.
    pub fn with_refresh_after(mut self, time: Duration) -> Self {
        self.refresh_after = Some(time);
        self
    }
}

/// Selectors are the same where they are one.
impl PartialEq for Resolution {
    fn eq(&self, other: &Self) -> bool {
        let Self {
            endpoints,
            service_config,
            config_selector,
            ttl,
            refresh_after,
            choices,
            given_up,
        } = self;
        let same_selector = match (config_selector, &other.config_selector) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        same_selector
            && (endpoints, service_config) == (&other.endpoints, &other.service_config)
            && (ttl, refresh_after) == (&other.ttl, &other.refresh_after)
            && (choices, given_up) == (&other.choices, &other.given_up)
    }
}

impl Eq for Resolution {}

/// A lookup failed. `source()` is what it failed of, where that says more than the message.
#[derive(Clone, Debug)]
pub struct ResolveError {
    message: Arc<str>,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

impl ResolveError {
    /// A failure with a message that names what was looked up, and why that failed.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into().into(), source: None }
    }

    /// The same with the error that caused it.
    pub fn with_source(mut self, source: impl Error + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }
}

impl fmt::Display for ResolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.message.trim() {
            "" => f.write_str("the resolver gave no reason"),
            _ => harmless(&self.message).up_to(MESSAGE_BYTES_MAX).fmt(f),
        }
    }
}

impl Error for ResolveError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        untold(&self.to_string(), self.source.as_deref().map(|source| source as _))
    }
}

/// A target that names an authority where its scheme knows none.
fn refuse_authority(target: &Target) -> Result<(), TargetError> {
    if target.authority().is_empty() {
        return Ok(());
    }
    Err(target.invalid(format!(
        "the scheme `{0}` takes no authority, found `{1}`; expected {0}:endpoint",
        target.scheme(),
        target.authority()
    )))
}

/// So much of a message is shown: it may have several names and the failure of each.
const MESSAGE_BYTES_MAX: usize = 4 * 1_024;

/// The port of a target that names none: gRPC's default is that of HTTPS.
const DEFAULT_PORT: u16 = 443;

/// As grpc-go: name servers are spared where a flood of failing connections asks for news.
const REFRESH_INTERVAL: Duration = Duration::from_secs(30);
