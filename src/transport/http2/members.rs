//! The connections to one address that take streams.

use std::sync::{Arc, PoisonError};

use crate::sync::{RwLock, RwLockWriteGuard};

use super::Connection;

/// The connections that take streams, oldest first. Once the list is empty again, it stays so.
pub(super) struct Members(RwLock<Arc<[Connection]>>);

impl Members {
    pub(super) fn new() -> Self {
        Self(RwLock::new(Arc::new([])))
    }

    /// All of them.
    pub(super) fn all(&self) -> Arc<[Connection]> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The list, to which a connection may be added as long as there is one, or at the very
    /// beginning.
    pub(super) fn lock(&self) -> RwLockWriteGuard<'_, Arc<[Connection]>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes out the connection that `is_leaving`, which `stop` makes known to take no more
    /// streams. Says whether it was the last.
    ///
    /// To others both happen at once: whoever sees that a connection takes no more does not find it
    /// here, and finds nobody here only once all have stopped for good.
    pub(super) fn leave(
        &self,
        is_leaving: impl Fn(&Connection) -> bool,
        stop: impl FnOnce(),
    ) -> bool {
        let mut members = self.lock();
        stop();
        *members = members.iter().filter(|member| !is_leaving(member)).cloned().collect();
        members.is_empty()
    }
}
