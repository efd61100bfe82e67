//! The snapshot that calls read, and the cell that it lies in.

use std::sync::Arc;

use super::slot::{SlotTable, SubchannelSlot};
use super::waiters::{News, Turn, Waiters, Wish};
use crate::policy::lb::Picker;
use crate::policy::service_config::ServiceConfig;
use crate::sync::{ArcSwap, Guard, Mutex, lock};
use crate::types::{ConnectivityState, Generation};

/// All that a call needs to know of its channel, published as one: nobody sees the picker of one
/// moment with the config of another.
#[cfg_attr(feature = "test-util", derive(Clone))]
pub(crate) struct Snapshot {
    /// Its number.
    pub(crate) generation: Generation,
    /// The channel's state. IDLE means that a call has to ask for a connection.
    pub(crate) connectivity: ConnectivityState,
    /// Whether names have been resolved since the channel last left IDLE, or could not be.
    pub(crate) is_resolved: bool,
    /// Chooses a subchannel.
    pub(crate) picker: Arc<dyn Picker>,
    /// Finds its connection.
    pub(crate) slots: SlotTable,
    /// The service config in force.
    pub(crate) config: Arc<ServiceConfig>,
}

/// Holds the current snapshot, and those who wait for a newer one. Reading is one load; waiting is
/// a separate path.
///
/// Whoever finds no connection through a snapshot waits until there may be one: until a newer
/// snapshot is [published](Self::publish), or a slot that gave none [gives
/// one](Self::slot_filled). Nothing else makes a pick come out otherwise.
pub(crate) struct SnapshotCell {
    current: ArcSwap<Snapshot>,
    /// Held while a snapshot takes the place of another.
    publishing: Mutex<()>,
    waiters: Arc<Waiters>,
}

impl SnapshotCell {
    pub(crate) fn new(first: Snapshot) -> Self {
        Self {
            current: ArcSwap::from_pointee(first),
            publishing: Mutex::new(()),
            waiters: Arc::new(Waiters::new()),
        }
    }

    /// The current snapshot. The guard is for a short look, not to be held over an await.
    pub(crate) fn load(&self) -> Guard<Arc<Snapshot>> {
        self.current.load()
    }

    /// Replaces the snapshot; its generation is set here. The `ClientConn` alone calls this while
    /// it runs. Nothing follows SHUTDOWN.
    pub(super) fn publish(&self, snapshot: Snapshot) -> Option<Turn> {
        self.replace(|_| snapshot)
    }

    fn replace(&self, by: impl FnOnce(&Snapshot) -> Snapshot) -> Option<Turn> {
        let publishing = lock(&self.publishing);
        let current = self.current.load();
        if current.connectivity == ConnectivityState::Shutdown {
            return None;
        }
        let snapshot = Snapshot { generation: current.generation.next(), ..by(&current) };
        self.current.store(Arc::new(snapshot));
        drop(publishing);
        self.waiters.announce(News::Snapshot)
    }

    /// Has calls that wait look again at what was published last.
    #[cfg(feature = "test-util")]
    pub(super) fn publish_again(&self) -> Option<Turn> {
        self.replace(Snapshot::clone)
    }

    /// A slot gives a connection that may have given none: calls that found it empty look again,
    /// for no snapshot needs to follow.
    pub(super) fn slot_filled(&self) -> Option<Turn> {
        self.waiters.announce(News::Connection)
    }

    /// Returns once there is a snapshot newer than `seen`, or a connection in `slot`, which was
    /// empty. Cancel-safe.
    pub(crate) async fn newer_than(&self, seen: Generation, slot: Option<&SubchannelSlot>) {
        let wish = if slot.is_some() { Wish::Connection } else { Wish::Snapshot };
        loop {
            // Joining comes before looking: what is told in between wakes us.
            let waiting = self.waiters.join(wish);
            if self.current.load().generation > seen
                || slot.is_some_and(SubchannelSlot::has_connection)
            {
                return;
            }
            waiting.await;
        }
    }
}

#[cfg(all(test, not(loom)))]
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
            async move { cell.newer_than(seen, None).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(cell.publish(snapshot(ConnectivityState::Ready)));
        assert_eq!(cell.load().generation, seen.next());
        waiting.await.unwrap();
        cell.newer_than(seen, None).await;
        assert_eq!(cell.load().connectivity, ConnectivityState::Ready);
    }

    #[test]
    fn nothing_is_published_after_the_end() {
        let cell = SnapshotCell::new(snapshot(ConnectivityState::Idle));
        drop(cell.publish(snapshot(ConnectivityState::Shutdown)));
        let last = cell.load().generation;
        drop(cell.publish(snapshot(ConnectivityState::Ready)));
        assert_eq!(cell.load().generation, last);
        assert_eq!(cell.load().connectivity, ConnectivityState::Shutdown);
    }
}
