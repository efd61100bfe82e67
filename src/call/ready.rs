//! Waiting for a channel to be READY, for those who make no call.

use tokio::time::Instant;

use super::shared::Elapsed;
use super::{Shared, status};
use crate::policy::lb::{PickArgs, PickResult};
use crate::types::{ConnectivityState, Metadata, MethodPath, Status};

/// Makes the channel connect and waits until it is READY, but not beyond `deadline`. Cancel-safe.
///
/// Fails with what kept it from that last, where anything did.
pub(crate) async fn until_ready(
    shared: &Shared,
    deadline: Option<Instant>,
) -> Result<(), Option<Status>> {
    let mut last_error = None;
    loop {
        let seen = {
            let snapshot = shared.cell.load();
            match snapshot.connectivity {
                ConnectivityState::Ready => return Ok(()),
                ConnectivityState::Idle => {
                    shared.demand().map_err(|error| Some(status::no_runtime(error)))?;
                }
                ConnectivityState::TransientFailure | ConnectivityState::Shutdown => {
                    // Whatever is picked for: the picker knows why it gives nothing.
                    let (path, metadata) = (MethodPath::unnamed(), Metadata::new());
                    match snapshot.picker.pick(&PickArgs::new(&path, &metadata)) {
                        PickResult::Fail(status) | PickResult::Drop(status) => {
                            last_error = Some(status);
                        }
                        PickResult::Complete(_) | PickResult::Queue => {}
                    }
                    if snapshot.connectivity == ConnectivityState::Shutdown {
                        return Err(last_error);
                    }
                }
                ConnectivityState::Connecting => {}
            }
            snapshot.generation
        };
        let newer = shared.cell.newer_than(seen, None);
        if let Err(Elapsed) = shared.before(deadline, newer).await {
            return Err(last_error);
        }
    }
}
