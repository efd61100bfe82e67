//! Looking at a channel from the inside.

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;

use super::channel::Channel;
use crate::actors::{Core, Part};
use crate::observe::{ActorAnswer, ActorKind, ChannelEntry, Inspection};

impl Channel {
    /// Asks every actor of the channel how it stands. An actor that does not answer within half a
    /// second is shown as such. Cancel-safe.
    pub async fn inspect(&self) -> Inspection {
        self.core().inspect().await
    }

    /// Its number in the [`Channelz`](crate::Channelz) that it is in, if it is in one.
    pub fn channelz_id(&self) -> Option<u64> {
        self.core().settings.observers.channelz().map(ChannelEntry::id)
    }

    /// The actors of the channel as of now: Supervisor, `ClientConn`, Resolver, Balancer, then one
    /// `AddrConn` for each address. None before the channel's first use, and after its end.
    pub fn actors(&self) -> Vec<ActorHandle> {
        let core = self.core();
        let handle = |part| ActorHandle { core: core.clone(), part };
        core.parts().into_iter().map(handle).collect()
    }

    /// Inspects the channel now, and again whenever something about it is new.
    pub fn watch_inspection(&self) -> InspectionChanges {
        let core = self.core().clone();
        let news = Some(core.news.listen());
        InspectionChanges { core, news, is_first: true }
    }
}

/// One actor of a channel, whichever life of it is at work. It does not keep the channel open.
#[derive(Clone)]
pub struct ActorHandle {
    pub(super) core: Arc<Core>,
    pub(super) part: Part,
}

impl ActorHandle {
    /// Which kind of actor it is.
    pub fn kind(&self) -> ActorKind {
        self.part.kind()
    }

    /// Which of its kind: of an `AddrConn` its number and address.
    pub fn id(&self) -> Option<String> {
        self.part.id()
    }

    /// Asks it alone how it stands, as [`Channel::inspect`] does. Cancel-safe.
    pub async fn inspect(&self) -> ActorAnswer {
        self.core.inspect_part(&self.part).await
    }
}

impl fmt::Debug for ActorHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActorHandle")
            .field("kind", &self.kind())
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}

/// Inspections of a channel, one after each change; made by [`Channel::watch_inspection`]. It does
/// not keep the channel open.
pub struct InspectionChanges {
    core: Arc<Core>,
    /// `None` once the last inspection has been given.
    news: Option<watch::Receiver<u64>>,
    is_first: bool,
}

impl InspectionChanges {
    /// How the channel stands: at once for the first time, then after it has changed. Changes that
    /// come while nobody waits, or all at once, are one. `None` after the end of the channel has
    /// been shown. Cancel-safe.
    ///
    /// What a connection counts is no change by itself.
    pub async fn next(&mut self) -> Option<Inspection> {
        let news = self.news.as_mut()?;
        if self.is_first {
            news.mark_unchanged();
        } else if !self.core.has_ended() {
            // The sender is in `core`, so it is there for as long as this waits.
            let _ = news.changed().await;
        }
        let has_ended = self.core.has_ended();
        let inspection = self.core.inspect().await;
        self.is_first = false;
        if has_ended {
            self.news = None;
        }
        Some(inspection)
    }
}

impl fmt::Debug for InspectionChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InspectionChanges").finish_non_exhaustive()
    }
}
