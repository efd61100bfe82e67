//! What a config selector has chosen for a call.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::CallHead;
use crate::types::{CallConfig, Foreign, Metadata, MethodConfig, OnCommit, caught};

/// What a config selector has chosen for a call, beside the config of its method. The hook is called
/// when this goes at the latest.
pub(super) struct Selected {
    /// All of the call's metadata, where some was added.
    metadata: Option<Metadata>,
    attribute: Option<Foreign<Attribute>>,
    on_commit: Mutex<Option<OnCommit>>,
}

type Attribute = Arc<dyn Any + Send + Sync>;

impl Selected {
    pub(super) fn of(call: &CallHead, config: CallConfig) -> (Arc<MethodConfig>, Arc<Self>) {
        let CallConfig { method_config, metadata: added, attribute, on_commit } = config;
        let metadata = (!added.is_empty()).then(|| {
            let mut all = call.metadata.clone();
            all.append_all(added);
            all
        });
        let attribute = attribute.map(|it| Foreign::new("the config selector's attribute", it));
        let selected = Self { metadata, attribute, on_commit: Mutex::new(on_commit) };
        (method_config, Arc::new(selected))
    }

    pub(super) fn metadata(&self) -> Option<&Metadata> {
        self.metadata.as_ref()
    }

    pub(super) fn attribute(&self) -> Option<&(dyn Any + Send + Sync)> {
        self.attribute.as_ref().and_then(|attribute| attribute.call(|it| &**it).ok())
    }

    /// The call is committed, or over.
    pub(super) fn commit(&self) {
        let hook = self.on_commit.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(hook) = hook
            && let Err(panicked) = caught("the config selector's `on_commit` hook", hook)
        {
            tracing::error!(target: "switchboard", %panicked, "the call goes on");
        }
    }
}

impl Drop for Selected {
    fn drop(&mut self) {
        self.commit();
    }
}

impl fmt::Debug for Selected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Selected").field("metadata", &self.metadata).finish_non_exhaustive()
    }
}
