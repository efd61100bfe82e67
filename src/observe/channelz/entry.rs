//! How channels get in: what observers are told becomes entities, counts and traces.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::super::calls::{CallEvent, CallInfo, CallObserver, Observer};
use super::super::channels::{ChannelEvent, ChannelInfo};
use super::super::inspection::Probe;
use super::Channelz;
use super::data::ChannelzSeverity;
use super::entities::{CallCounts, Kind, Node};
use crate::types::{Address, ConnectivityState, Status, SubchannelId};

/// A channel that is in a registry. It goes out when it has shut down.
#[derive(Clone)]
pub(crate) struct ChannelEntry(Arc<Channel>);

struct Channel {
    registry: Channelz,
    id: u64,
    calls: Arc<CallCounts>,
    /// Those that live.
    subchannels: RwLock<BTreeMap<SubchannelId, Subchannel>>,
}

#[derive(Clone)]
struct Subchannel {
    id: u64,
    calls: Arc<CallCounts>,
}

impl ChannelEntry {
    /// Puts a channel in, at the top.
    pub(crate) fn new(registry: &Channelz, target: &str) -> Self {
        Self::add(registry, target, None)
    }

    /// Puts a channel in below this one.
    pub(crate) fn nested(&self, target: &str) -> Self {
        Self::add(&self.0.registry, target, Some(self.0.id))
    }

    fn add(registry: &Channelz, target: &str, parent: Option<u64>) -> Self {
        let calls = Arc::<CallCounts>::default();
        let kind = Kind::Channel(Node::new(calls.clone()));
        let mut entities = registry.lock();
        let id = entities.add(target.to_owned(), kind, parent);
        entities.log(id, ChannelzSeverity::Info, "channel created".to_owned(), None);
        if let Some(parent) = parent {
            let text = "nested channel created".to_owned();
            entities.log(parent, ChannelzSeverity::Info, text, Some(id));
        }
        drop(entities);
        let (registry, subchannels) = (registry.clone(), RwLock::default());
        Self(Arc::new(Channel { registry, id, calls, subchannels }))
    }

    /// Its number.
    pub(crate) fn id(&self) -> u64 {
        self.0.id
    }

    /// What is to observe the channel.
    pub(crate) fn observer(&self) -> Arc<dyn Observer> {
        Arc::new(self.clone())
    }

    /// Puts a connection of `subchannel` in, until what this gives is dropped. Nothing if the
    /// subchannel is not there any more: then the connection is about to go, too.
    pub(crate) fn opened(
        &self,
        subchannel: SubchannelId,
        probe: Arc<dyn Probe>,
    ) -> Option<SocketEntry> {
        let parent = self.0.subchannel(subchannel)?.id;
        let report = probe.report();
        let end = |end: Option<Address>| end.map_or_else(|| "?".to_owned(), |end| end.to_string());
        let name = format!("{} -> {}", end(report.local_address), end(report.remote_address));
        let registry = self.0.registry.clone();
        let id = registry.lock().add(name, Kind::Socket(probe), Some(parent));
        Some(SocketEntry { registry, id })
    }

    /// Counts a call that the channel makes on its own behalf.
    pub(crate) fn own_call(&self, subchannel: SubchannelId) -> Option<OwnCall> {
        let calls = self.0.subchannel(subchannel)?.calls;
        calls.began();
        Some(OwnCall(Some(calls)))
    }
}

/// A connection that is in a registry.
pub(crate) struct SocketEntry {
    registry: Channelz,
    id: u64,
}

impl Drop for SocketEntry {
    fn drop(&mut self) {
        self.registry.lock().delete(self.id);
    }
}

/// A call that the channel makes on its own behalf. One that is dropped has failed.
pub(crate) struct OwnCall(Option<Arc<CallCounts>>);

impl OwnCall {
    pub(crate) fn ended(mut self, is_ok: bool) {
        if let Some(calls) = self.0.take() {
            calls.ended(is_ok);
        }
    }
}

impl Drop for OwnCall {
    fn drop(&mut self) {
        if let Some(calls) = self.0.take() {
            calls.ended(false);
        }
    }
}

impl Observer for ChannelEntry {
    fn call_began(&self, _: &CallInfo<'_>) -> Option<Arc<dyn CallObserver>> {
        self.0.calls.began();
        Some(Arc::new(Call { channel: self.0.clone(), attempts: Mutex::default() }))
    }

    fn channel_event(&self, _: &ChannelInfo<'_>, event: &ChannelEvent<'_>) {
        self.0.note(event);
    }
}

impl Channel {
    fn note(&self, event: &ChannelEvent<'_>) {
        let (info, warning) = (ChannelzSeverity::Info, ChannelzSeverity::Warning);
        match *event {
            ChannelEvent::StateChanged { state } => self.is_in(state),
            ChannelEvent::Resolved { endpoints } => {
                let text = format!("names resolved, endpoints: {endpoints}");
                self.log(self.id, info, text);
            }
            ChannelEvent::ResolutionFailed { cause } => {
                self.log(self.id, warning, format!("names not resolved: {cause}"));
            }
            ChannelEvent::PolicyChanged { policy } => {
                self.log(self.id, info, format!("load-balancing policy is {policy}"));
            }
            ChannelEvent::SubchannelCreated { subchannel, address } => {
                self.created(subchannel, address);
            }
            ChannelEvent::SubchannelStateChanged { subchannel, to, cause, .. } => {
                self.subchannel_is_in(subchannel, to, cause);
            }
            ChannelEvent::HealthCheckUnimplemented { address, cause, .. } => {
                let text =
                    format!("{address} has no health service and is taken as healthy: {cause}");
                self.log(self.id, ChannelzSeverity::Error, text);
            }
            ChannelEvent::ConnectionAttemptFailed { subchannel, cause, .. } => {
                self.log_of(subchannel, warning, || format!("cannot connect: {cause}"));
            }
            ChannelEvent::Disconnected { subchannel, cause, .. } => {
                self.log_of(subchannel, info, || format!("disconnected: {cause}"));
            }
            ChannelEvent::ConnectionAttemptSucceeded { .. }
            | ChannelEvent::ConnectionOpened { .. }
            | ChannelEvent::ConnectionClosed { .. } => {}
        }
    }

    fn is_in(&self, state: ConnectivityState) {
        let severity = severity(state);
        let mut entities = self.registry.lock();
        entities.set_state(self.id, state);
        entities.log(self.id, severity, format!("channel is {state}"), None);
        if state == ConnectivityState::Shutdown {
            entities.delete(self.id);
        }
    }

    fn created(&self, subchannel: SubchannelId, address: &Address) {
        let calls = Arc::<CallCounts>::default();
        let kind = Kind::Subchannel(Node::new(calls.clone()));
        let mut entities = self.registry.lock();
        let id = entities.add(address.to_string(), kind, Some(self.id));
        entities.log(id, ChannelzSeverity::Info, "subchannel created".to_owned(), None);
        let text = format!("subchannel created for {address}");
        entities.log(self.id, ChannelzSeverity::Info, text, Some(id));
        drop(entities);
        self.write().insert(subchannel, Subchannel { id, calls });
    }

    fn subchannel_is_in(
        &self,
        subchannel: SubchannelId,
        state: ConnectivityState,
        cause: Option<&Status>,
    ) {
        let Some(Subchannel { id, .. }) = self.subchannel(subchannel) else { return };
        let text = match cause {
            Some(cause) => format!("subchannel is {state}: {cause}"),
            None => format!("subchannel is {state}"),
        };
        let mut entities = self.registry.lock();
        entities.set_state(id, state);
        entities.log(id, severity(state), text, None);
        if state == ConnectivityState::Shutdown {
            let text = "subchannel deleted".to_owned();
            entities.log(self.id, ChannelzSeverity::Info, text, Some(id));
            entities.delete(id);
            drop(entities);
            self.write().remove(&subchannel);
        }
    }

    fn log_of(
        &self,
        subchannel: SubchannelId,
        severity: ChannelzSeverity,
        text: impl FnOnce() -> String,
    ) {
        if let Some(Subchannel { id, .. }) = self.subchannel(subchannel) {
            self.log(id, severity, text());
        }
    }

    fn log(&self, id: u64, severity: ChannelzSeverity, text: String) {
        self.registry.lock().log(id, severity, text, None);
    }

    fn subchannel(&self, id: SubchannelId) -> Option<Subchannel> {
        self.read().get(&id).cloned()
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<SubchannelId, Subchannel>> {
        self.subchannels.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<SubchannelId, Subchannel>> {
        self.subchannels.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// That of a change to `state`.
fn severity(state: ConnectivityState) -> ChannelzSeverity {
    match state {
        ConnectivityState::TransientFailure => ChannelzSeverity::Warning,
        ConnectivityState::Idle
        | ConnectivityState::Connecting
        | ConnectivityState::Ready
        | ConnectivityState::Shutdown => ChannelzSeverity::Info,
    }
}

/// A call, which is counted once with the channel, and for each attempt with the subchannel.
struct Call {
    channel: Arc<Channel>,
    /// Those that are under way, and whose they are.
    attempts: Mutex<Vec<(u32, Arc<CallCounts>)>>,
}

impl CallObserver for Call {
    fn event(&self, event: &CallEvent<'_>) {
        match *event {
            CallEvent::SubchannelPicked { attempt, subchannel } => {
                if let Some(Subchannel { calls, .. }) = self.channel.subchannel(subchannel) {
                    calls.began();
                    let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
                    attempts.push((attempt, calls));
                }
            }
            CallEvent::AttemptEnded { attempt, result } => {
                let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(at) = attempts.iter().position(|(number, _)| *number == attempt) {
                    attempts.swap_remove(at).1.ended(result.is_ok());
                }
            }
            CallEvent::Ended { result } => self.channel.calls.ended(result.is_ok()),
            CallEvent::AttemptBegan { .. }
            | CallEvent::NamesResolved { .. }
            | CallEvent::PickCompleted { .. }
            | CallEvent::RequestHeaders { .. }
            | CallEvent::RequestMessage { .. }
            | CallEvent::RequestsEnded
            | CallEvent::MessageSent { .. }
            | CallEvent::ResponseHeaders { .. }
            | CallEvent::ResponseMessage { .. }
            | CallEvent::ResponseTrailers { .. } => {}
        }
    }
}
