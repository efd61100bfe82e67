//! Those who observe a channel, as the rest of the library reaches them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::calls::{CallInfo, CallObserver, Observer};
use super::channels::{ChannelEvent, ChannelInfo};
use super::channelz::{ChannelEntry, OwnCall};
use crate::types::{MethodPath, SubchannelId};

/// Those who observe a channel: mostly nobody, which costs a branch an event.
///
/// One that panics is as one that did nothing: the panic is caught and logged, and neither the
/// call, nor an actor, nor the other observers notice.
#[derive(Clone, Default)]
pub(crate) struct Observers(Option<Arc<Present>>);

struct Present {
    observers: Vec<Arc<dyn Observer>>,
    target: String,
    /// What the registry has of the channel, which is one of the observers.
    channelz: Option<ChannelEntry>,
}

impl Observers {
    /// Tells `observers`, and a registry, of the channel to `target`.
    pub(crate) fn new(
        mut observers: Vec<Arc<dyn Observer>>,
        target: String,
        channelz: Option<ChannelEntry>,
    ) -> Self {
        observers.extend(channelz.as_ref().map(ChannelEntry::observer));
        Self((!observers.is_empty()).then(|| Arc::new(Present { observers, target, channelz })))
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
    pub(crate) fn call_began(
        &self,
        method: &MethodPath,
        is_known: bool,
    ) -> Vec<Arc<dyn CallObserver>> {
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
    fn call_began(&self, method: &MethodPath, is_known: bool) -> Vec<Arc<dyn CallObserver>> {
        let call = CallInfo::new(method, is_known, &self.target);
        let observers = self.observers.iter();
        observers.filter_map(|observer| guarded(|| observer.call_began(&call))).collect()
    }

    #[cold]
    fn tell(&self, event: &ChannelEvent<'_>) {
        let channel = ChannelInfo::new(&self.target);
        for observer in &self.observers {
            guarded(|| observer.channel_event(&channel, event));
        }
    }
}

/// What `told` gives, or nothing where it panics.
pub(crate) fn guarded<T: Default>(told: impl FnOnce() -> T) -> T {
    // What the observer leaves behind half done is its own: nothing here is borrowed to be changed.
    catch_unwind(AssertUnwindSafe(told)).unwrap_or_else(|_| {
        tracing::error!(target: "switchboard", "an observer panicked: it goes without what it was told");
        T::default()
    })
}
