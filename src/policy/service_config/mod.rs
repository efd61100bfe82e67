//! The service config: what a service's owner wants of its clients, as JSON that comes with the
//! endpoints.

mod choice;
mod doubts;
mod json;
mod method_config;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::lb::{LbPolicyBuilder, LbPolicyConfig, LbRegistry, pick_first};
use super::retry::Throttle;

use crate::types::{ConfigSelector, MethodConfig, MethodPath, harmless};

use choice::Chosen;
pub(crate) use choice::Client;
pub(crate) use json::optional_bool;
use method_config::MethodConfigs;

/// A service config that has been read and found good (A2).
#[derive(Clone, Debug)]
pub(crate) struct ServiceConfig {
    lb: LbConfig,
    methods: MethodConfigs,
    throttle: Option<Arc<Throttle>>,
    max_connections_per_subchannel: Option<usize>,
    health_service: Option<Arc<str>>,
    /// What the resolver has given to speak in place of `methods`.
    selector: Option<Arc<dyn ConfigSelector>>,
}

impl ServiceConfig {
    /// Reads a config. Every field that is known must be right, or the whole of it is refused;
    /// fields that are not known are ignored (A21).
    pub(crate) fn parse(text: &str, registry: &LbRegistry) -> Result<Self, ServiceConfigError> {
        Self::read(&json::object(text, "service config")?, registry)
    }

    /// What a good config says without any effect, each with its place and what is known there.
    pub(crate) fn doubts(text: &str, registry: &LbRegistry) -> Vec<ServiceConfigError> {
        let config = json::object(text, "service config");
        config.map(|config| doubts::of(&config, registry)).unwrap_or_default()
    }

    /// Reads the config in a list of choices that is meant for `client`, if one is (A2).
    pub(crate) fn choose(
        choices: &[u8],
        client: Client<'_>,
        registry: &LbRegistry,
    ) -> Result<Option<Self>, ServiceConfigError> {
        let Some(Chosen { index, config }) = choice::choose(choices, client)? else {
            return Ok(None);
        };
        let config = Self::read(&config, registry);
        config.map(Some).map_err(|error| error.within(&format!("[{index}].serviceConfig")))
    }

    fn read(
        config: &Map<String, Value>,
        registry: &LbRegistry,
    ) -> Result<Self, ServiceConfigError> {
        let lb = match json::present(config, FIELD) {
            Some(list) => LbConfig::parse(list, registry)?,
            None => LbConfig::by_legacy_name(config, registry)?,
        };
        Ok(Self {
            lb,
            methods: MethodConfigs::parse(config)?,
            throttle: method_config::throttle(config)?,
            max_connections_per_subchannel: max_connections_per_subchannel(config)?,
            health_service: health_service(config)?,
            selector: None,
        })
    }

    /// The config of a channel that was given none.
    pub(crate) fn default_for(registry: &LbRegistry) -> Self {
        Self {
            lb: LbConfig::pick_first(registry),
            methods: MethodConfigs::default(),
            throttle: None,
            max_connections_per_subchannel: None,
            health_service: None,
            selector: None,
        }
    }

    /// Which load-balancing policy, and its config.
    pub(crate) fn lb(&self) -> &LbConfig {
        &self.lb
    }

    /// What chooses the config of each call in place of [`method`](Self::method), if anything.
    pub(crate) fn selector(&self) -> Option<&Arc<dyn ConfigSelector>> {
        self.selector.as_ref()
    }

    /// The same with this selector, or without one.
    pub(crate) fn with_selector(
        self: Arc<Self>,
        selector: Option<Arc<dyn ConfigSelector>>,
    ) -> Arc<Self> {
        if self.selector.is_none() && selector.is_none() {
            return self;
        }
        Arc::new(Self { selector, ..(*self).clone() })
    }

    /// What it says of `method`, if anything.
    pub(crate) fn method(&self, method: &MethodPath) -> Option<&Arc<MethodConfig>> {
        self.methods.get(method)
    }

    /// What keeps attempts beyond the first in bounds, if anything.
    pub(crate) fn throttle(&self) -> Option<&Arc<Throttle>> {
        self.throttle.as_ref()
    }

    /// The same with the tokens of the config before it, where their rules are the same: a resolver
    /// that says the same again does not end a throttling.
    pub(crate) fn go_on_from(self: Arc<Self>, before: Option<&Self>) -> Arc<Self> {
        match (&self.throttle, before.and_then(|before| before.throttle.as_ref())) {
            (Some(throttle), Some(before))
                if throttle.has_rules_of(before) && !Arc::ptr_eq(throttle, before) =>
            {
                Arc::new(Self { throttle: Some(before.clone()), ..(*self).clone() })
            }
            _ => self,
        }
    }

    /// How many connections a subchannel may have, where the config says so (A105).
    pub(crate) fn max_connections_per_subchannel(&self) -> Option<usize> {
        self.max_connections_per_subchannel
    }

    /// Of which service the servers are asked whether they serve it, where the config says so
    /// (A17). The empty name is the server as a whole.
    pub(crate) fn health_service(&self) -> Option<&Arc<str>> {
        self.health_service.as_ref()
    }
}

fn max_connections_per_subchannel(
    config: &Map<String, Value>,
) -> Result<Option<usize>, ServiceConfigError> {
    let Some(scaling) = json::present(config, SCALING) else { return Ok(None) };
    let fields =
        scaling.as_object().ok_or_else(|| ServiceConfigError::new(SCALING, "must be an object"))?;
    let Some(max) = json::present(fields, "maxConnectionsPerSubchannel") else { return Ok(None) };
    let max = max.as_u64().filter(|max| (1..=u64::from(u32::MAX)).contains(max));
    let path = format!("{SCALING}.maxConnectionsPerSubchannel");
    let max = max.ok_or_else(|| ServiceConfigError::new(path, "must be a number of at least 1"))?;
    Ok(usize::try_from(max).ok())
}

fn health_service(config: &Map<String, Value>) -> Result<Option<Arc<str>>, ServiceConfigError> {
    let Some(fields) = json::optional_object(config, HEALTH)? else { return Ok(None) };
    // Without one the server is not asked (A17); grpc-go asks it for itself as a whole.
    if json::present(fields, "serviceName").is_none() {
        return Ok(None);
    }
    let name = json::optional_text(fields, "serviceName").map_err(|error| error.within(HEALTH))?;
    Ok(Some(name.into()))
}

/// A load-balancing policy and its config.
#[derive(Clone)]
pub(crate) struct LbConfig {
    builder: Arc<dyn LbPolicyBuilder>,
    config: LbPolicyConfig,
}

impl LbConfig {
    /// The policy of `builder` with `config`, which must be of the type that it parses to.
    pub(crate) fn new(builder: Arc<dyn LbPolicyBuilder>, config: LbPolicyConfig) -> Self {
        Self { builder, config }
    }

    /// The policy's name.
    pub(crate) fn name(&self) -> &str {
        self.builder.name()
    }

    /// What makes the policy.
    pub(crate) fn builder(&self) -> &Arc<dyn LbPolicyBuilder> {
        &self.builder
    }

    /// The policy's config.
    pub(crate) fn config(&self) -> &LbPolicyConfig {
        &self.config
    }

    /// (A24) The first policy in the list that is registered counts; its config must be right.
    fn parse(list: &Value, registry: &LbRegistry) -> Result<Self, ServiceConfigError> {
        let entries =
            list.as_array().ok_or_else(|| ServiceConfigError::new(FIELD, "must be a list"))?;
        let mut unknown = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            let path = format!("{FIELD}[{index}]");
            let (name, config) = only_key(entry)
                .ok_or_else(|| ServiceConfigError::new(&path, "must be an object with one key"))?;
            if let Some(builder) = registry.get(name) {
                let config = builder
                    .parse_config(config)
                    .map_err(|error| error.within(&format!("{path}.{name}")))?;
                return Ok(Self::new(Arc::clone(builder), config));
            }
            unknown.push(format!("`{name}`"));
        }
        let reason = if unknown.is_empty() {
            "names no policy".to_owned()
        } else {
            let known: Vec<_> = registry.names().collect();
            format!(
                "none of the policies {} is known; there are: {}",
                unknown.join(", "),
                known.join(", ")
            )
        };
        Err(ServiceConfigError::new(FIELD, reason))
    }

    /// The policy of `loadBalancingPolicy`, which is the field of old and has no config;
    /// `pick_first` where that names none that is known.
    fn by_legacy_name(
        config: &Map<String, Value>,
        registry: &LbRegistry,
    ) -> Result<Self, ServiceConfigError> {
        let name = json::optional_text(config, "loadBalancingPolicy")?.to_ascii_lowercase();
        let policy = registry.get(&name).and_then(|builder| {
            let config = builder.parse_config(&Value::Object(Map::new()));
            Some(Self::new(Arc::clone(builder), config.ok()?))
        });
        Ok(policy.unwrap_or_else(|| Self::pick_first(registry)))
    }

    fn pick_first(registry: &LbRegistry) -> Self {
        // Someone may have registered another policy by this name, which then is the default; one
        // that refuses an empty config leaves no choice but ours.
        let registered = registry.get(pick_first::NAME).and_then(|builder| {
            let config = builder.parse_config(&Value::Object(Map::new()));
            Some(Self::new(Arc::clone(builder), config.ok()?))
        });
        registered.unwrap_or_else(|| {
            Self::new(
                Arc::new(pick_first::Builder),
                LbPolicyConfig::new(pick_first::Config::default()),
            )
        })
    }
}

impl fmt::Debug for LbConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LbConfig").field(&self.name()).finish()
    }
}

fn only_key(entry: &Value) -> Option<(&str, &Value)> {
    let mut fields = entry.as_object()?.iter();
    let (name, config) = fields.next()?;
    fields.next().is_none().then_some((name.as_str(), config))
}

const FIELD: &str = "loadBalancingConfig";
const SCALING: &str = "connectionScaling";
const HEALTH: &str = "healthCheckConfig";

/// A service config that cannot be used: which field, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceConfigError {
    path: String,
    reason: String,
}

impl ServiceConfigError {
    /// What is wrong with the field at `path`. A policy's builder counts paths from its own config;
    /// an empty path is the config itself.
    pub fn new(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { path: path.into(), reason: reason.into() }
    }

    /// Where the field is, such as `loadBalancingConfig[0].pick_first.shuffleAddressList`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What is wrong with it.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The same error, seen from further out.
    fn within(self, outer: &str) -> Self {
        let path = match self.path.chars().next() {
            None => outer.to_owned(),
            Some('[') => format!("{outer}{}", self.path),
            Some(_) => format!("{outer}.{}", self.path),
        };
        Self { path, ..self }
    }
}

impl fmt::Display for ServiceConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", harmless(&self.path))?;
        }
        match self.reason.trim() {
            "" => f.write_str("no reason was given"),
            _ => harmless(&self.reason).fmt(f),
        }
    }
}

impl std::error::Error for ServiceConfigError {}
