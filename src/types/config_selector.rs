//! Configs of calls that a resolver chooses call by call.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use super::{Foreign, Metadata, MethodConfig, MethodPath, Status};

/// Chooses what each call goes by, in place of the `methodConfig` of the service config: its
/// timeout, sizes and policies, metadata to add, and what the load-balancing policy is to know of it
/// (A31).
///
/// A resolver gives one with its result,
/// [`Resolution::with_config_selector`](crate::Resolution::with_config_selector), and the next result
/// takes its place, or takes it away by having none. Calls that were chosen for stay as they are.
/// While a result is refused the last one goes on, and so does its selector. A channel that goes
/// idle forgets it.
///
/// Implemented by functions of the shape of [`select`](Self::select).
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
/// use switchboard::{CallConfig, Code, ConfigSelector, MethodConfig, SelectArgs, Status};
///
/// /// Sends the calls of one tenant elsewhere, with more time.
/// struct Tenants {
///     usual: Arc<MethodConfig>,
///     patient: Arc<MethodConfig>,
///     /// What the load-balancing policy reads by `PickArgs::attribute::<Cluster>()`.
///     large: Arc<Cluster>,
/// }
///
/// struct Cluster(&'static str);
///
/// impl ConfigSelector for Tenants {
///     fn select(&self, call: &SelectArgs<'_>) -> Result<CallConfig, Status> {
///         match call.metadata.get("tenant") {
///             Some("acme") => {
///                 Ok(CallConfig::new(self.patient.clone()).with_attribute(self.large.clone()))
///             }
///             Some(_) => Ok(CallConfig::new(self.usual.clone())),
///             None => {
///                 let text = format!("{}: say who you are, in `tenant`", call.method);
///                 Err(Status::new(Code::UNAUTHENTICATED, text))
///             }
///         }
///     }
/// }
///
/// let selector = Tenants {
///     usual: Arc::new(MethodConfig::new().timeout(Duration::from_secs(1))),
///     patient: Arc::new(MethodConfig::from_json(
///         r#"{"timeout": "60s", "retryPolicy": {"maxAttempts": 3, "initialBackoff": "0.1s",
///             "maxBackoff": "1s", "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}}"#,
///     )?),
///     large: Arc::new(Cluster("large")),
/// };
/// let resolution = switchboard::Resolution::new([]).with_config_selector(Arc::new(selector));
/// # Ok::<(), switchboard::ServiceConfigError>(())
/// ```
pub trait ConfigSelector: Send + Sync + 'static {
    /// Chooses for one call. Asked once per call, on the task of the caller, before the first pick;
    /// it must not block. A panic ends the call with INTERNAL.
    ///
    /// A status ends the call, which is not attempted and does not wait for ready. Codes that are a
    /// server's alone, such as `NOT_FOUND`, become `INTERNAL` (A54).
    fn select(&self, call: &SelectArgs<'_>) -> Result<CallConfig, Status>;
}

impl<F> ConfigSelector for F
where
    F: Fn(&SelectArgs<'_>) -> Result<CallConfig, Status> + Send + Sync + 'static,
{
    fn select(&self, call: &SelectArgs<'_>) -> Result<CallConfig, Status> {
        self(call)
    }
}

/// A selector of the application, whose panics end calls with INTERNAL.
pub(crate) struct ForeignSelector(Foreign<Arc<dyn ConfigSelector>>);

impl ForeignSelector {
    pub(crate) fn new(selector: Arc<dyn ConfigSelector>) -> Self {
        Self(Foreign::new("the config selector", selector))
    }
}

impl ConfigSelector for ForeignSelector {
    fn select(&self, call: &SelectArgs<'_>) -> Result<CallConfig, Status> {
        self.0.call(|selector| selector.select(call)).unwrap_or_else(|it| Err(it.into_status()))
    }
}

impl fmt::Debug for dyn ConfigSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConfigSelector")
    }
}

/// What a selector may look at.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct SelectArgs<'a> {
    /// The method that is called.
    pub method: &'a MethodPath,
    /// The metadata that the application sends.
    pub metadata: &'a Metadata,
}

impl<'a> SelectArgs<'a> {
    /// The arguments for a call of `method` with `metadata`.
    pub const fn new(method: &'a MethodPath, metadata: &'a Metadata) -> Self {
        Self { method, metadata }
    }
}

/// What a [`ConfigSelector`] has chosen for a call.
#[must_use]
pub struct CallConfig {
    pub(crate) method_config: Arc<MethodConfig>,
    pub(crate) metadata: Metadata,
    pub(crate) attribute: Option<Arc<dyn Any + Send + Sync>>,
    pub(crate) on_commit: Option<OnCommit>,
}

/// What is called when a call is committed or over.
pub(crate) type OnCommit = Box<dyn FnOnce() + Send>;

impl CallConfig {
    /// The call goes by `method_config`, and by nothing that the service config says of methods.
    pub fn new(method_config: impl Into<Arc<MethodConfig>>) -> Self {
        Self {
            method_config: method_config.into(),
            metadata: Metadata::new(),
            attribute: None,
            on_commit: None,
        }
    }

    /// Adds this metadata to the application's, on every attempt. Policies see it too.
    pub fn with_metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = metadata;
        self
    }

    /// Attaches a value for the load-balancing policy, which reads it by its type:
    /// [`PickArgs::attribute`](crate::PickArgs::attribute).
    pub fn with_attribute(mut self, attribute: Arc<dyn Any + Send + Sync>) -> Self {
        self.attribute = Some(attribute);
        self
    }

    /// Calls `hook` once: when the call is committed, as its server has begun to answer or no other
    /// attempt is possible, or when it is over without that, be it that it failed before any attempt
    /// or was dropped. From then on the call needs nothing that the selector chose for its picks.
    ///
    /// It runs on the task of the caller, and must not block. A panic in it is logged.
    pub fn on_commit(mut self, hook: impl FnOnce() + Send + 'static) -> Self {
        self.on_commit = Some(Box::new(hook));
        self
    }
}

impl fmt::Debug for CallConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallConfig")
            .field("method_config", &self.method_config)
            .field("metadata", &self.metadata)
            .field("has_attribute", &self.attribute.is_some())
            .field("has_on_commit", &self.on_commit.is_some())
            .finish()
    }
}
