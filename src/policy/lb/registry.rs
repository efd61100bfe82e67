//! Which policies there are, by name.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use super::foreign::ForeignBuilder;
use super::{LbPolicy, LbPolicyConfig, pick_first, round_robin};
use crate::policy::service_config::ServiceConfigError;

/// Makes policies of one kind.
pub trait LbPolicyBuilder: Send + Sync + 'static {
    /// The name that service configs know the policy by. Case matters.
    fn name(&self) -> &str;

    /// Reads the policy's config out of a service config. A field that is known must be right;
    /// others are ignored. Paths in errors count from this config.
    fn parse_config(&self, json: &Value) -> Result<LbPolicyConfig, ServiceConfigError>;

    /// Makes a policy. Its config comes with the first update.
    fn build(&self) -> Box<dyn LbPolicy>;
}

/// The policies that one channel knows.
#[derive(Clone)]
pub(crate) struct LbRegistry {
    builders: BTreeMap<String, Arc<dyn LbPolicyBuilder>>,
}

impl LbRegistry {
    /// Adds a policy of the application, likewise.
    pub(crate) fn register_foreign(&mut self, builder: Arc<dyn LbPolicyBuilder>) {
        self.register(Arc::new(ForeignBuilder::new(builder)));
    }

    /// Adds a policy; one of the same name gives way.
    pub(crate) fn register(&mut self, builder: Arc<dyn LbPolicyBuilder>) {
        self.builders.insert(builder.name().to_owned(), builder);
    }

    /// The policy of this name.
    pub(crate) fn get(&self, name: &str) -> Option<&Arc<dyn LbPolicyBuilder>> {
        self.builders.get(name)
    }

    /// All names, in order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.builders.keys().map(String::as_str)
    }
}

/// The policies that come with the library.
impl Default for LbRegistry {
    fn default() -> Self {
        let mut registry = Self { builders: BTreeMap::new() };
        registry.register(Arc::new(pick_first::Builder));
        registry.register(Arc::new(round_robin::Builder));
        registry
    }
}

impl fmt::Debug for LbRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}
