//! Waiting for a channel to be READY, for those who make no call.

use tokio::time::Instant;

use super::pick::THE_POLICY;
use super::shared::Elapsed;
use super::{Shared, status};
use crate::policy::lb::{PickArgs, PickResult};
use crate::types::{ConnectivityState, Metadata, MethodPath, Status};

/// Why a channel is not READY.
pub(crate) enum NotReady {
    /// It cannot be, or not any more.
    Ended(Status),
    /// The deadline passed first; this is what kept the channel last, where anything did.
    TooLate(Option<Status>),
}

/// Makes the channel connect and waits until it is READY, but not beyond `deadline`. Cancel-safe.
///
pub(crate) async fn until_ready(shared: &Shared, deadline: Instant) -> Result<(), NotReady> {
    let mut last_error = None;
    loop {
        let seen = {
            let snapshot = shared.cell.load();
            match snapshot.connectivity {
                ConnectivityState::Ready => return Ok(()),
                ConnectivityState::Idle => {
                    shared.demand().map_err(|error| NotReady::Ended(status::no_runtime(error)))?;
                }
                ConnectivityState::TransientFailure | ConnectivityState::Shutdown => {
                    // Whatever is picked for: the picker knows why it gives nothing.
                    let (path, metadata) = (MethodPath::unnamed(), Metadata::new());
                    match snapshot.picker.pick(&PickArgs::new(&path, &metadata)) {
                        PickResult::Fail(status) | PickResult::Drop(status) => {
                            last_error = Some(status.of_control_part(THE_POLICY));
                        }
                        PickResult::Complete(_) | PickResult::Queue => {}
                    }
                    if snapshot.connectivity == ConnectivityState::Shutdown {
                        let closed = || Status::cancelled("the channel is closed");
                        return Err(NotReady::Ended(last_error.unwrap_or_else(closed)));
                    }
                }
                ConnectivityState::Connecting => {}
            }
            snapshot.generation
        };
        let newer = shared.cell.newer_than(seen, None);
        if let Err(Elapsed) = shared.before(Some(deadline), newer).await {
            return Err(NotReady::TooLate(last_error));
        }
    }
}
