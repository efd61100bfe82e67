//! The data plane: one call, on the caller's own task.
//!
//! A call reads the channel's [`Snapshot`] (one atomic load), lets the picker
//! in it choose a subchannel, finds that subchannel's live connection in its
//! [slot](slot::SubchannelSlot), and speaks to the server there. No actor, no queue and no lock of
//! ours stands between; a call that cannot go on waits for the next snapshot.
//!
//! ```text
//! snapshot ── picker ── slot ── connection ── stream ── verdict ── Status
//!     ▲          │        │                      │          │
//!     └─ newer ──┴─ queue ┴─ empty               └── again ─┘
//! ```

mod activity;
mod attempt;
mod compression;
mod credentials;
mod events;
mod health;
mod hedge;
mod pick;
mod ready;
mod replay;
mod retry;
#[cfg(feature = "test-util")]
mod rig;
mod selected;
mod shared;
mod slot;
mod snapshot;
mod states;
mod status;
mod stream;
mod terms;
mod unary;
mod waiters;

pub(crate) use activity::Activity;
pub(crate) use events::Events;
pub(crate) use health::{HealthWatch, WatchEnd};
pub(crate) use ready::{NotReady, until_ready};
pub(crate) use retry::RetryLimits;
use retry::Retrying;
#[cfg(feature = "test-util")]
pub use rig::{EventRig, PickRig};
pub(crate) use shared::{Conduct, NoRuntime, Shared};
pub(crate) use slot::{SlotTable, SubchannelSlot};
pub(crate) use snapshot::{Snapshot, SnapshotCell};
pub(crate) use states::StateBoard;
pub use states::{StateChange, StateChanges};
pub use stream::Cardinality;
pub(crate) use stream::StreamCall;
pub(crate) use terms::{Defaults, Terms};
pub(crate) use unary::{Reply, unary};

use std::sync::Arc;

use tokio::time::Instant;

use crate::observe::CallEvent;
use crate::transport::{AllCallCredentials, Connection, RequestHead};
use crate::types::{Authority, Compression, Metadata, MethodPath};

/// What one call asks of the channel, apart from its messages.
pub(crate) struct CallHead {
    /// The method.
    pub(crate) path: MethodPath,
    /// What its messages are.
    pub(crate) content_type: &'static str,
    /// What the application sends along.
    pub(crate) metadata: Metadata,
    /// When the call began.
    pub(crate) begun: Instant,
    /// When the call ends at the latest, where it says so itself.
    pub(crate) deadline: Option<Instant>,
    /// Whether failing picks are waited out.
    pub(crate) wait_for_ready: Option<bool>,
    /// The largest message that is taken, in bytes.
    pub(crate) receive_bytes_max: Option<usize>,
    /// The largest message that is sent, in bytes.
    pub(crate) send_bytes_max: Option<usize>,
    /// What it goes by otherwise.
    pub(crate) defaults: Defaults,
    /// How its messages are compressed, or may be.
    pub(crate) compression: Option<Compression>,
    /// What few calls ask for.
    pub(crate) extras: Option<Box<Extras>>,
    /// The name to address the server by, where the call overrides the channel's.
    pub(crate) authority: Option<Authority>,
    /// What proves who calls, beside the channel's.
    pub(crate) credentials: AllCallCredentials,
    /// Who is told what happens to it.
    pub(crate) events: Events,
}

/// What few calls ask of the channel: apart, so that the others have less to move about.
#[derive(Clone, Debug, Default)]
pub(crate) struct Extras {
    /// What is kept of the call to be sent again, in bytes.
    pub(crate) retry_buffer_max: Option<usize>,
    /// What the server may compress its messages with.
    pub(crate) accepted: Option<Arc<[Compression]>>,
}

impl CallHead {
    /// What the server may compress its messages with, where that is not as for all calls.
    fn accepted(&self) -> Option<&[Compression]> {
        self.extras.as_ref()?.accepted.as_deref()
    }

    /// The head of a request that is sent at `now`, with `metadata` in place of its own.
    fn request<'a>(
        &'a self,
        now: Instant,
        terms: &'a Terms,
        metadata: Option<&'a Metadata>,
    ) -> RequestHead<'a> {
        RequestHead {
            path: self.path.as_http(),
            authority: self.authority.as_ref(),
            content_type: self.content_type,
            encoding: self.compression,
            accepted: self.accepted(),
            timeout: terms.deadline.map(|deadline| deadline.saturating_duration_since(now)),
            metadata: metadata.unwrap_or_else(|| terms.metadata(self)).as_fields(),
        }
    }

    /// Tells of `head`, which is on its way on `connection`.
    fn tell_of_request(
        &self,
        terms: &Terms,
        attempt: u32,
        connection: &Connection,
        head: &RequestHead<'_>,
        metadata: Option<&Metadata>,
    ) {
        self.events.tell(|| CallEvent::RequestHeaders {
            attempt,
            peer: connection.address(),
            authority: self.authority.as_ref().unwrap_or_else(|| connection.authority()).as_str(),
            metadata: metadata.unwrap_or_else(|| terms.metadata(self)),
            timeout: head.timeout,
        });
    }

    /// What an attempt sends in place of the call's metadata: `proof`, which has that too, how many
    /// attempts there have been before, and what observers want the server to know of this one.
    fn metadata_of_attempt(
        &self,
        terms: &Terms,
        number: u32,
        failed: u32,
        proof: Option<Metadata>,
    ) -> Option<Metadata> {
        let propagated = self.events.propagated(number);
        if failed == 0 && propagated.is_empty() {
            return proof;
        }
        let mut metadata = match proof {
            Some(proof) => proof,
            None if failed == 0 && terms.metadata(self).is_empty() => return Some(propagated),
            None => terms.metadata(self).clone(),
        };
        if failed > 0 {
            metadata.set_previous_attempts(failed);
        }
        metadata.insert_all(propagated);
        Some(metadata)
    }
}
