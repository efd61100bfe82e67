//! The subchannels of a channel.

use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::addr_conn;
use super::core::Record;
use super::mailbox::Mailbox;
use crate::call::{SlotTable, SubchannelSlot};
use crate::observe::{ChannelEvent, Observers};
use crate::policy::connection::Proof;
use crate::policy::floor::{ENDPOINT_CHANGES, Floor};
use crate::policy::lb::SubchannelState;
use crate::policy::{connection, health};
use crate::transport::{Connection, Disconnect};
use crate::types::{Address, ConnectivityState, Status, SubchannelId};

/// All subchannels, by id. Only the Balancer adds and removes; everybody reads.
pub(super) struct Registry {
    table: Mutex<Table>,
    observers: Observers,
}

#[derive(Default)]
struct Table {
    entries: Vec<Option<Arc<Subchannel>>>,
    free: Vec<u32>,
    made: u32,
    /// The slots as calls are given them; none after a change until they are asked for.
    slots: Option<SlotTable>,
}

/// One subchannel: what outlives its `AddrConn`.
pub(crate) struct Subchannel {
    pub(super) id: SubchannelId,
    pub(super) address: Address,
    /// Where calls find its connection.
    pub(super) slot: Arc<SubchannelSlot>,
    /// Reaches its `AddrConn`.
    pub(super) mailbox: Mailbox<addr_conn::Msg>,
    /// The lives of its `AddrConn` so far.
    pub(super) lives: Record,
    /// Whether its policy wants it connected and its `AddrConn` has not begun to.
    wanted: AtomicBool,
    /// Whether its `AddrConn` has been told that calls wait and has not looked.
    crowded: AtomicBool,
    /// Whether its policy wants to know whether its server serves.
    watched: AtomicBool,
    /// Whether the Balancer has been told that this has changed and has not looked.
    health_told: AtomicBool,
    /// Whether its policy has given it up.
    retired: AtomicBool,
    /// The state of its `AddrConn`'s machine.
    machine: Mutex<connection::State>,
    health: Mutex<Health>,
    /// The dials that led to a connection.
    dialled: Mutex<Floor>,
    /// What is known of the connections since there was none.
    record: Mutex<ConnectionRecord>,
    /// Who is told of its states.
    observers: Observers,
}

/// What the connections of a subchannel leave behind, from the first that there is to the last.
#[derive(Clone, Default)]
pub(super) struct ConnectionRecord {
    /// What the server has done for the calls of those that were lost.
    pub(super) proof: Proof,
    /// How the last one was lost.
    pub(super) loss: Option<Disconnect>,
}

/// What is known of the server's health.
#[derive(Clone, Default)]
pub(super) struct Health {
    /// The state of its machine.
    pub(super) machine: health::State,
    /// What the server is asked for; nothing if it is not asked.
    pub(super) service: Option<Arc<str>>,
    /// Why it does not serve, or cannot be asked.
    pub(super) error: Option<Status>,
    /// Since when it is in this state.
    pub(super) since: Option<Instant>,
}

impl Health {
    /// As its policy is told.
    pub(super) fn state(&self) -> SubchannelState {
        let connectivity = self.machine.connectivity();
        let is_failing = connectivity == ConnectivityState::TransientFailure;
        SubchannelState { connectivity, error: self.error.clone().filter(|_| is_failing) }
    }
}

impl Registry {
    /// An empty one, of whose subchannels `observers` are told.
    pub(super) fn new(observers: Observers) -> Self {
        Self { table: Mutex::default(), observers }
    }

    /// Makes a subchannel, IDLE.
    pub(super) fn add(&self, address: &Address) -> Arc<Subchannel> {
        let mut table = self.lock();
        let index = table.free.pop().unwrap_or_else(|| {
            table.entries.push(None);
            table.entries.len() as u32 - 1
        });
        table.made += 1;
        let id = SubchannelId::new(index, table.made);
        let subchannel = Arc::new(Subchannel {
            id,
            address: address.clone(),
            slot: Arc::new(SubchannelSlot::new(id)),
            mailbox: Mailbox::new(),
            lives: Record::default(),
            wanted: AtomicBool::new(false),
            crowded: AtomicBool::new(false),
            watched: AtomicBool::new(false),
            health_told: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            machine: Mutex::default(),
            health: Mutex::default(),
            dialled: Mutex::default(),
            record: Mutex::default(),
            observers: self.observers.clone(),
        });
        table.entries[id.index()] = Some(subchannel.clone());
        table.slots = None;
        drop(table);
        self.observers.tell(|| ChannelEvent::SubchannelCreated { subchannel: id, address });
        subchannel
    }

    pub(super) fn get(&self, id: SubchannelId) -> Option<Arc<Subchannel>> {
        let table = self.lock();
        table.entries.get(id.index())?.clone().filter(|subchannel| subchannel.id == id)
    }

    /// Takes a subchannel out and tells its `AddrConn` to end.
    pub(super) fn retire(&self, id: SubchannelId) {
        let Some(subchannel) = self.get(id) else { return };
        let mut table = self.lock();
        table.entries[id.index()] = None;
        table.free.push(id.index() as u32);
        table.slots = None;
        drop(table);
        subchannel.retired.store(true, Ordering::Release);
        // Its AddrConn may be dead, and is not started again.
        subchannel.drain();
        subchannel.mailbox.tell(addr_conn::Msg::Retire);
    }

    /// Forgets all subchannels; their `AddrConn`s are dead.
    pub(super) fn clear(&self) {
        let all = mem::take(&mut *self.lock());
        // Not under the lock: observers are told of their ends.
        drop(all);
    }

    /// Every subchannel, oldest first.
    pub(super) fn all(&self) -> Vec<Arc<Subchannel>> {
        let mut all: Vec<_> = self.lock().entries.iter().flatten().cloned().collect();
        all.sort_by_key(|subchannel| subchannel.id.serial());
        all
    }

    pub(super) fn tell_all(&self, message: impl Fn() -> addr_conn::Msg) {
        for subchannel in self.all() {
            subchannel.mailbox.tell(message());
        }
    }

    /// Whether any subchannel has a connection that takes calls.
    pub(super) fn any_live(&self) -> bool {
        self.lock().entries.iter().flatten().any(|it| it.slot.has_connection())
    }

    /// The slots of all subchannels, for a snapshot.
    pub(super) fn slots(&self) -> SlotTable {
        let mut table = self.lock();
        if let Some(slots) = &table.slots {
            return slots.clone();
        }
        let slots =
            SlotTable::new(table.entries.iter().map(|entry| Some(entry.as_ref()?.slot.clone())));
        table.slots = Some(slots.clone());
        slots
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subchannel {
    /// Orders its `AddrConn` to connect. Written down first: one that is being restarted reads it.
    pub(super) fn connect(&self) {
        self.wanted.store(true, Ordering::Release);
        self.mailbox.tell(addr_conn::Msg::Connect);
    }

    /// Tells its `AddrConn` that calls wait for room; once until it has looked.
    pub(super) fn is_crowded(&self) {
        if !self.crowded.swap(true, Ordering::AcqRel) {
            self.mailbox.tell(addr_conn::Msg::Crowded);
        }
    }

    /// From now on that can be told again.
    pub(super) fn look(&self) {
        self.crowded.store(false, Ordering::Release);
    }

    /// Orders its `AddrConn` to have the server asked whether it serves, where the service config
    /// says so. Written down first, as above.
    pub(super) fn watch_health(&self) {
        self.watched.store(true, Ordering::Release);
        self.mailbox.tell(addr_conn::Msg::MindConfig);
    }

    /// The policy that has it now does not go by what its server says of itself.
    pub(super) fn ignore_health(&self) {
        self.watched.store(false, Ordering::Release);
        self.mailbox.tell(addr_conn::Msg::MindConfig);
    }

    pub(super) fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Acquire)
    }

    /// Whether the Balancer is to be told that the health has changed: only if it is not about to
    /// look anyway. A server may change its mind faster than policies can follow.
    pub(super) fn tells_health(&self) -> bool {
        !self.health_told.swap(true, Ordering::AcqRel)
    }

    /// The health, for the Balancer; from now on it can be told of another.
    pub(super) fn look_at_health(&self) -> SubchannelState {
        self.health_told.store(false, Ordering::Release);
        self.health().state()
    }

    /// Its number and address, for people.
    pub(super) fn name(&self) -> String {
        format!("{} {}", self.id, self.address)
    }

    /// Whether an order to connect has not been obeyed; it is taken as obeyed from now on.
    pub(super) fn take_order(&self) -> bool {
        self.wanted.swap(false, Ordering::AcqRel)
    }

    /// Takes its connections from the calls; they close when their streams have ended.
    pub(super) fn drain(&self) {
        if let Some(connection) = self.slot.empty() {
            connection.siblings().iter().for_each(Connection::drain);
        }
    }

    /// A connection comes up where there was none.
    pub(super) fn begin_record(&self) {
        *self.record_mut() = ConnectionRecord::default();
    }

    /// A connection takes no more calls.
    pub(super) fn note_loss(&self, loss: &Disconnect, proof: Proof) {
        let mut record = self.record_mut();
        record.proof = record.proof.max(proof);
        record.loss = Some(loss.clone());
    }

    /// What is known of the connections since there was none.
    pub(super) fn record(&self) -> ConnectionRecord {
        self.record_mut().clone()
    }

    fn record_mut(&self) -> MutexGuard<'_, ConnectionRecord> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A dial that began at `at` has led to a connection.
    pub(super) fn has_dialled(&self, at: Instant) {
        self.dialled.lock().unwrap_or_else(PoisonError::into_inner).note(at.into_std());
    }

    /// When the next dial may begin. A server that ends each connection as soon as it is made must
    /// not be dialled without a pause.
    pub(super) fn next_dial(&self) -> Instant {
        let dialled = *self.dialled.lock().unwrap_or_else(PoisonError::into_inner);
        Instant::from_std(dialled.next(Instant::now().into_std(), ENDPOINT_CHANGES))
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    /// The state of its `AddrConn`'s machine.
    pub(super) fn machine(&self) -> connection::State {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Writes the state of its machine down, and tells observers of another connectivity.
    pub(super) fn set_machine(&self, machine: connection::State) {
        let SubchannelState { connectivity, error } = machine.reported();
        let mut current = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
        let from = mem::replace(&mut *current, machine).connectivity();
        drop(current);
        self.tell_of_change(from, connectivity, error.as_ref());
    }

    fn tell_of_change(
        &self,
        from: ConnectivityState,
        to: ConnectivityState,
        cause: Option<&Status>,
    ) {
        if from != to {
            let (subchannel, address) = (self.id, &self.address);
            self.observers.tell(|| ChannelEvent::SubchannelStateChanged {
                subchannel,
                address,
                from,
                to,
                cause,
            });
        }
    }

    pub(super) fn health(&self) -> Health {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_health(&self, health: Health) {
        *self.health.lock().unwrap_or_else(PoisonError::into_inner) = health;
    }
}

impl Drop for Subchannel {
    /// Its `AddrConn` may have been killed before it came to that.
    fn drop(&mut self) {
        let from = self.machine().connectivity();
        self.tell_of_change(from, ConnectivityState::Shutdown, None);
    }
}
