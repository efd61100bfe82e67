//! Where calls find the live connection of a subchannel.

use std::sync::Arc;

use crate::sync::ArcSwapOption;
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

    /// A connection that takes new streams, if there is one: the one that was put in, or once that
    /// takes no more, the oldest of its siblings that does.
    ///
    /// So a slot gives a connection from when it is filled until it is emptied or the last of the
    /// siblings has stopped, with no moment in between when it gives none. After that moment it
    /// gives none until it is filled again: an address that has no connection gets no sibling.
    pub(crate) fn connection(&self) -> Option<Connection> {
        let live = self.live.load();
        let live = live.as_deref()?;
        if live.is_usable() { Some(live.clone()) } else { live.siblings().first().cloned() }
    }

    /// Whether there is one.
    pub(crate) fn has_connection(&self) -> bool {
        self.connection().is_some()
    }

    /// Puts a connection in, and gives what was there. Its siblings, if there are some, are
    /// reached through it. Calls that wait for one have to be [told](super::Shared::slot_filled).
    pub(crate) fn fill(&self, connection: Connection) -> Option<Connection> {
        taken(self.live.swap(Some(Arc::new(connection))))
    }

    /// Takes the connection out.
    pub(crate) fn empty(&self) -> Option<Connection> {
        taken(self.live.swap(None))
    }

    /// Puts the oldest sibling in the place of a connection that takes no more streams, so that it
    /// is found at once; if there is none, lets go of it. Changes nothing about what the slot
    /// gives.
    pub(crate) fn renew(&self) {
        self.live.rcu(|live| {
            let live = live.as_ref()?;
            if live.is_usable() {
                return Some(live.clone());
            }
            live.siblings().first().cloned().map(Arc::new)
        });
    }
}

fn taken(live: Option<Arc<Connection>>) -> Option<Connection> {
    live.map(|connection| (*connection).clone())
}

/// The slots of all subchannels, as an array that ids index.
#[derive(Clone, Default)]
pub(crate) struct SlotTable(Arc<[Option<Arc<SubchannelSlot>>]>);

impl SlotTable {
    pub(crate) fn new(slots: impl IntoIterator<Item = Option<Arc<SubchannelSlot>>>) -> Self {
        Self(slots.into_iter().collect())
    }

    /// The slot of `id`, unless that subchannel is gone.
    pub(crate) fn get(&self, id: SubchannelId) -> Option<&Arc<SubchannelSlot>> {
        self.0.get(id.index())?.as_ref().filter(|slot| slot.id == id)
    }
}
