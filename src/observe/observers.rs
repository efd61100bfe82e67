//! Those who observe a channel, as the rest of the library reaches them.

use std::sync::Arc;

use tracing::Level;

use super::calls::{CallInfo, CallObserver, Observer};
use super::channels::{ChannelEvent, ChannelInfo};
use super::channelz::{ChannelEntry, OwnCall};
use super::log::Log;
use crate::types::{Foreign, MethodPath, SubchannelId};

/// Those who observe a channel: mostly nobody, which costs a branch an event.
///
/// One that panics is as one that did nothing: the panic is caught and logged, and neither the
/// call, nor an actor, nor the other observers notice.
#[derive(Clone, Default)]
pub(crate) struct Observers(Option<Arc<Present>>);

struct Present {
    observers: Vec<Foreign<Arc<dyn Observer>>>,
    target: String,
    log: Arc<Log>,
    /// What the registry has of the channel, which is one of the observers.
    channelz: Option<ChannelEntry>,
}

impl Observers {
    /// Tells `observers`, and a registry, of the channel to `target`.
    pub(crate) fn new(
        mut observers: Vec<Arc<dyn Observer>>,
        target: String,
        log: Arc<Log>,
        channelz: Option<ChannelEntry>,
    ) -> Self {
        observers.extend(channelz.as_ref().map(ChannelEntry::observer));
        if observers.is_empty() {
            return Self(None);
        }
        let foreign = |observer| Foreign::new(AN_OBSERVER, observer);
        let observers = observers.into_iter().map(foreign).collect();
        Self(Some(Arc::new(Present { observers, target, log, channelz })))
    }

    /// What a registry has of the channel, if it is in one.
    pub(crate) fn channelz(&self) -> Option<&ChannelEntry> {
        self.0.as_ref()?.channelz.as_ref()
    }

    /// Counts a call that the channel makes on its own behalf; no observer sees it.
    pub(crate) fn own_call(&self, subchannel: SubchannelId) -> Option<OwnCall> {
        self.channelz()?.own_call(subchannel)
    }

    /// Those who want to see this call.
    #[inline]
    pub(crate) fn call_began(&self, method: &MethodPath, is_known: bool) -> Vec<Watching> {
        self.0.as_ref().map_or_else(Vec::new, |present| present.call_began(method, is_known))
    }

    /// Tells of what `event` makes.
    #[inline]
    pub(crate) fn tell<'a>(&self, event: impl FnOnce() -> ChannelEvent<'a>) {
        if let Some(present) = &self.0 {
            present.tell(&event());
        }
    }
}

impl Present {
    #[cold]
    fn call_began(&self, method: &MethodPath, is_known: bool) -> Vec<Watching> {
        let call = CallInfo::new(method, is_known, &self.target);
        let began = |observer: &Foreign<Arc<dyn Observer>>| {
            let watching = tell(observer, &self.log, |observer| observer.call_began(&call))??;
            Some(Watching::new(watching, self.log.clone()))
        };
        self.observers.iter().filter_map(began).collect()
    }

    #[cold]
    fn tell(&self, event: &ChannelEvent<'_>) {
        let channel = ChannelInfo::new(&self.target);
        for observer in &self.observers {
            tell(observer, &self.log, |observer| observer.channel_event(&channel, event));
        }
    }
}

/// Who observes one call.
pub(crate) struct Watching {
    observer: Foreign<Arc<dyn CallObserver>>,
    log: Arc<Log>,
}

impl Watching {
    pub(crate) fn new(observer: Arc<dyn CallObserver>, log: Arc<Log>) -> Self {
        Self { observer: Foreign::new(AN_OBSERVER, observer), log }
    }

    /// Tells it something.
    pub(crate) fn tell(&self, told: impl FnOnce(&dyn CallObserver)) {
        tell(&self.observer, &self.log, |observer| told(&**observer));
    }
}

/// What `told` gives, or nothing where the observer panics.
fn tell<'a, O: ?Sized, T>(
    observer: &'a Foreign<Arc<O>>,
    log: &Log,
    told: impl FnOnce(&'a Arc<O>) -> T,
) -> Option<T> {
    observer
        .call(told)
        .inspect_err(|panicked| {
            let cause = Some(panicked as &dyn std::fmt::Display);
            log.tell(
                Level::ERROR,
                "an observer goes without what it was told",
                &AN_OBSERVER,
                cause,
            );
        })
        .ok()
}

const AN_OBSERVER: &str = "an observer";
