//! The snapshot that calls read, and the cell that it lies in.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::Notify;

use super::slot::SlotTable;
use crate::policy::lb::Picker;
use crate::policy::service_config::ServiceConfig;
use crate::types::{ConnectivityState, Generation};

/// All that a call needs to know of its channel, published as one: nobody sees the picker of one
/// moment with the config of another.
pub(crate) struct Snapshot {
    /// Its number.
    pub(crate) generation: Generation,
    /// The channel's state. IDLE means that a call has to ask for a connection.
    pub(crate) connectivity: ConnectivityState,
    /// Whether names have been resolved, or could not be.
    pub(crate) is_resolved: bool,
    /// Chooses a subchannel.
    pub(crate) picker: Arc<dyn Picker>,
    /// Finds its connection.
    pub(crate) slots: SlotTable,
    /// The service config in force.
    pub(crate) config: Arc<ServiceConfig>,
}

/// Holds the current snapshot. Reading is one load; waiting for a newer one is a separate path.
pub(crate) struct SnapshotCell {
    current: ArcSwap<Snapshot>,
    changed: Notify,
}

impl SnapshotCell {
    pub(crate) fn new(first: Snapshot) -> Self {
        Self { current: ArcSwap::from_pointee(first), changed: Notify::new() }
    }

    /// The current snapshot. The guard is for a short look, not to be held over an await.
    pub(crate) fn load(&self) -> Guard<Arc<Snapshot>> {
        self.current.load()
    }

    /// Replaces the snapshot; its generation is set here. The `ClientConn` alone calls this while
    /// it runs.
    pub(crate) fn publish(&self, mut snapshot: Snapshot) -> Generation {
        let generation = self.current.load().generation.next();
        snapshot.generation = generation;
        self.current.store(Arc::new(snapshot));
        self.changed.notify_waiters();
        generation
    }

    /// Returns once a snapshot newer than `seen` is there. Cancel-safe.
    pub(crate) async fn newer_than(&self, seen: Generation) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Listening comes before looking: what is published in between wakes us.
            changed.as_mut().enable();
            if self.current.load().generation > seen {
                return;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::lb::{self, LbRegistry};

    fn snapshot(connectivity: ConnectivityState) -> Snapshot {
        Snapshot {
            generation: Generation::default(),
            connectivity,
            is_resolved: true,
            picker: lb::queue(),
            slots: SlotTable::default(),
            config: Arc::new(ServiceConfig::default_for(&LbRegistry::default())),
        }
    }

    #[tokio::test]
    async fn whoever_waits_for_a_newer_snapshot_is_woken_by_it_and_not_before() {
        let cell = Arc::new(SnapshotCell::new(snapshot(ConnectivityState::Idle)));
        let seen = cell.load().generation;
        let waiting = tokio::spawn({
            let cell = cell.clone();
            async move { cell.newer_than(seen).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        let published = cell.publish(snapshot(ConnectivityState::Ready));
        assert_eq!(published, seen.next());
        waiting.await.unwrap();
        cell.newer_than(seen).await;
        assert_eq!(cell.load().connectivity, ConnectivityState::Ready);
    }
}
