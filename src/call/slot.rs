//! Where calls find the live connection of a subchannel.

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::transport::Connection;
use crate::types::SubchannelId;

/// The place of one subchannel's live connection: filled and emptied by its `AddrConn` and by the
/// connection's own end, read by calls without a lock.
///
/// It outlives its actor, so that a restarted one finds the connection still serving.
pub(crate) struct SubchannelSlot {
    id: SubchannelId,
    live: ArcSwapOption<Connection>,
}

impl SubchannelSlot {
    pub(crate) fn new(id: SubchannelId) -> Self {
        Self { id, live: ArcSwapOption::empty() }
    }

    /// The connection, if there is one that takes new streams.
    pub(crate) fn connection(&self) -> Option<Connection> {
        let live = self.live.load();
        live.as_deref().filter(|connection| connection.is_usable()).cloned()
    }

    /// Puts a connection in. Its siblings, if there are some, are reached through it.
    pub(crate) fn fill(&self, connection: Connection) {
        self.live.store(Some(Arc::new(connection)));
    }

    /// Takes the connection out.
    pub(crate) fn empty(&self) -> Option<Connection> {
        self.live.swap(None).map(|connection| (*connection).clone())
    }

    /// Takes the connection out if it is no longer usable; its oldest sibling takes its place, if
    /// there is one. A newer one stays.
    pub(crate) fn empty_if_unusable(&self) {
        self.live.rcu(|live| {
            let live = live.as_ref()?;
            if live.is_usable() {
                return Some(live.clone());
            }
            live.siblings().iter().find(|it| it.is_usable()).cloned().map(Arc::new)
        });
    }
}

/// The slots of all subchannels, as an array that ids index.
#[derive(Clone, Default)]
pub(crate) struct SlotTable(Arc<[Option<Arc<SubchannelSlot>>]>);

impl SlotTable {
    pub(crate) fn new(slots: impl IntoIterator<Item = Option<Arc<SubchannelSlot>>>) -> Self {
        Self(slots.into_iter().collect())
    }

    /// The slot of `id`, unless that subchannel is gone.
    pub(crate) fn get(&self, id: SubchannelId) -> Option<&SubchannelSlot> {
        self.0.get(id.index())?.as_deref().filter(|slot| slot.id == id)
    }
}
