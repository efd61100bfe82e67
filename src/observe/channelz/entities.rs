//! The entities, as a tree and by number.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::super::clock;
use super::super::inspection::Probe;
use super::data::{
    ChannelzCalls, ChannelzChannel, ChannelzEvent, ChannelzKind, ChannelzRef, ChannelzSeverity,
    ChannelzSubchannel, ChannelzTrace,
};
use crate::types::ConnectivityState;

/// All entities of a registry.
#[derive(Default)]
pub(super) struct Entities {
    /// The number of the last that was added.
    last: u64,
    by_id: BTreeMap<u64, Entity>,
}

pub(super) struct Entity {
    name: String,
    kind: Kind,
    place: Place,
    /// What is below it.
    children: BTreeSet<u64>,
    /// Whether it has come to its end. It stays while something below it lives.
    is_deleted: bool,
    /// How many events speak of it. It can be found by its number while one does.
    mentions: usize,
}

/// Where an entity is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// At the top.
    Top,
    /// Below this one.
    Below(u64),
    /// Nowhere: it is over, and can be found by its number alone.
    Nowhere,
}

pub(super) enum Kind {
    Channel(Node),
    Subchannel(Node),
    Socket(Arc<dyn Probe>),
}

/// What a channel and a subchannel have in common.
pub(super) struct Node {
    state: ConnectivityState,
    calls: Arc<CallCounts>,
    created: SystemTime,
    logged: u64,
    events: VecDeque<Event>,
}

struct Event {
    description: String,
    severity: ChannelzSeverity,
    at: SystemTime,
    about: Option<u64>,
}

/// Calls, counted as they come and go.
#[derive(Default)]
pub(super) struct CallCounts {
    started: AtomicU64,
    succeeded: AtomicU64,
    failed: AtomicU64,
    /// In nanoseconds since 1970; 0 before the first.
    last_started: AtomicU64,
}

impl Node {
    pub(super) fn new(calls: Arc<CallCounts>) -> Self {
        Self {
            state: ConnectivityState::Idle,
            calls,
            created: clock::now(),
            logged: 0,
            events: VecDeque::new(),
        }
    }
}

impl Entities {
    /// Adds an entity, below `parent` if there is one.
    pub(super) fn add(&mut self, name: String, kind: Kind, parent: Option<u64>) -> u64 {
        self.last += 1;
        let id = self.last;
        let place = match parent {
            Some(parent) => match self.by_id.get_mut(&parent) {
                Some(entity) => {
                    entity.children.insert(id);
                    Place::Below(parent)
                }
                None => Place::Top,
            },
            None => Place::Top,
        };
        let (children, is_deleted, mentions) = (BTreeSet::new(), false, 0);
        self.by_id.insert(id, Entity { name, kind, place, children, is_deleted, mentions });
        id
    }

    /// An entity has come to its end.
    pub(super) fn delete(&mut self, id: u64) {
        if let Some(entity) = self.by_id.get_mut(&id) {
            entity.is_deleted = true;
        }
        self.sweep(vec![id]);
    }

    pub(super) fn set_state(&mut self, id: u64, state: ConnectivityState) {
        if let Some(node) = self.by_id.get_mut(&id).and_then(Entity::node_mut) {
            node.state = state;
        }
    }

    /// Remembers an event of `id`, which may be `about` another entity. The oldest may be forgotten.
    pub(super) fn log(
        &mut self,
        id: u64,
        severity: ChannelzSeverity,
        description: String,
        about: Option<u64>,
    ) {
        let about = about.filter(|about| self.by_id.contains_key(about));
        let Some(node) = self.by_id.get_mut(&id).and_then(Entity::node_mut) else { return };
        let forgotten =
            if node.events.len() == EVENTS_MAX { node.events.pop_front() } else { None };
        node.logged += 1;
        node.events.push_back(Event { description, severity, at: clock::now(), about });
        if let Some(mentioned) = about.and_then(|about| self.by_id.get_mut(&about)) {
            mentioned.mentions += 1;
        }
        if let Some(about) = forgotten.and_then(|event| event.about) {
            self.unmention(about);
            self.sweep(vec![about]);
        }
    }

    /// One event fewer speaks of `id`.
    fn unmention(&mut self, id: u64) {
        if let Some(entity) = self.by_id.get_mut(&id) {
            entity.mentions = entity.mentions.saturating_sub(1);
        }
    }

    /// Takes those of `ids` out of the tree that have come to their ends and have nothing below them,
    /// and forgets those of which nothing speaks either; then whatever had waited for that.
    fn sweep(&mut self, mut ids: Vec<u64>) {
        while let Some(id) = ids.pop() {
            let Some(entity) = self.by_id.get_mut(&id) else { continue };
            if !entity.is_deleted || !entity.children.is_empty() {
                continue;
            }
            let place = mem::replace(&mut entity.place, Place::Nowhere);
            let is_forgotten = entity.mentions == 0;
            if let Place::Below(parent) = place
                && let Some(entity) = self.by_id.get_mut(&parent)
            {
                entity.children.remove(&id);
                ids.push(parent);
            }
            if is_forgotten
                && let Some(Kind::Channel(node) | Kind::Subchannel(node)) =
                    self.by_id.remove(&id).map(|entity| entity.kind)
            {
                for about in node.events.into_iter().filter_map(|event| event.about) {
                    self.unmention(about);
                    ids.push(about);
                }
            }
        }
    }

    /// The numbers of the channels at the top, from `start` on.
    pub(super) fn top_channels(&self, start: u64) -> impl Iterator<Item = u64> {
        let is_one =
            |entity: &Entity| entity.place == Place::Top && matches!(entity.kind, Kind::Channel(_));
        let from = self.by_id.range(start..);
        from.filter(move |(_, entity)| is_one(entity)).map(|(id, _)| *id)
    }

    pub(super) fn channel(&self, id: u64) -> Option<ChannelzChannel> {
        let entity = self.by_id.get(&id)?;
        let Kind::Channel(node) = &entity.kind else { return None };
        let (channels, subchannels) =
            self.below(entity).partition(|below| below.kind == ChannelzKind::Channel);
        Some(ChannelzChannel {
            itself: entity.reference(id),
            target: entity.name.clone(),
            state: node.state,
            calls: node.calls.get(),
            trace: self.trace(node),
            channels,
            subchannels,
        })
    }

    pub(super) fn subchannel(&self, id: u64) -> Option<ChannelzSubchannel> {
        let entity = self.by_id.get(&id)?;
        let Kind::Subchannel(node) = &entity.kind else { return None };
        Some(ChannelzSubchannel {
            itself: entity.reference(id),
            address: entity.name.clone(),
            state: node.state,
            calls: node.calls.get(),
            trace: self.trace(node),
            sockets: self.below(entity).collect(),
        })
    }

    /// A socket, and who knows how it stands.
    pub(super) fn socket(&self, id: u64) -> Option<(ChannelzRef, Arc<dyn Probe>)> {
        let entity = self.by_id.get(&id)?;
        let Kind::Socket(probe) = &entity.kind else { return None };
        Some((entity.reference(id), probe.clone()))
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    fn below(&self, entity: &Entity) -> impl Iterator<Item = ChannelzRef> {
        entity.children.iter().filter_map(|id| self.reference(*id))
    }

    fn reference(&self, id: u64) -> Option<ChannelzRef> {
        Some(self.by_id.get(&id)?.reference(id))
    }

    fn trace(&self, node: &Node) -> ChannelzTrace {
        let events = node.events.iter().map(|event| ChannelzEvent {
            description: event.description.clone(),
            severity: event.severity,
            at: event.at,
            about: event.about.and_then(|id| self.reference(id)),
        });
        ChannelzTrace { created: node.created, logged: node.logged, events: events.collect() }
    }
}

impl Entity {
    fn node_mut(&mut self) -> Option<&mut Node> {
        match &mut self.kind {
            Kind::Channel(node) | Kind::Subchannel(node) => Some(node),
            Kind::Socket(_) => None,
        }
    }

    fn reference(&self, id: u64) -> ChannelzRef {
        let kind = match self.kind {
            Kind::Channel(_) => ChannelzKind::Channel,
            Kind::Subchannel(_) => ChannelzKind::Subchannel,
            Kind::Socket(_) => ChannelzKind::Socket,
        };
        ChannelzRef { kind, id, name: self.name.clone() }
    }
}

impl CallCounts {
    pub(super) fn began(&self) {
        self.started.fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(clock::since_1970().as_nanos()).unwrap_or(u64::MAX);
        self.last_started.fetch_max(nanos, Ordering::Relaxed);
    }

    pub(super) fn ended(&self, is_ok: bool) {
        let count = if is_ok { &self.succeeded } else { &self.failed };
        count.fetch_add(1, Ordering::Release);
    }

    fn get(&self) -> ChannelzCalls {
        let last_started = match self.last_started.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(UNIX_EPOCH + Duration::from_nanos(nanos)),
        };
        // The ends first, so that there are never more of them than beginnings.
        let (succeeded, failed) =
            (self.succeeded.load(Ordering::Acquire), self.failed.load(Ordering::Acquire));
        ChannelzCalls {
            started: self.started.load(Ordering::Relaxed),
            succeeded,
            failed,
            last_started,
        }
    }
}

/// As many as grpc-go keeps of each.
const EVENTS_MAX: usize = 30;
