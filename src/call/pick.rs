//! The pick: from a snapshot to a connection.

use tokio::time::Instant;

use super::shared::Elapsed;
use super::{CallHead, Shared, Snapshot, status};
use crate::policy::lb::{PickArgs, PickResult};
use crate::transport::Connection;
use crate::types::{ConnectivityState, Generation, Status};

/// Picks a connection for one attempt, waiting for newer snapshots where the picker says so, the
/// subchannel that it chose has no connection, or the pick failed and the call waits for ready.
///
/// Each generation is used at most once. Cancel-safe.
pub(crate) async fn pick(shared: &Shared, call: &CallHead) -> Result<Picked, Status> {
    let step = step(&shared.cell.load(), call);
    match step {
        Step::Go(connection) => Ok(Picked { connection, waited: false }),
        Step::End(status) => {
            // No stream tells of this call.
            shared.activity.over_at(Instant::now());
            let_others_run().await;
            Err(status)
        }
        // In a box: most calls never wait, and their futures need no room for it.
        Step::Wait(wait) => Box::pin(pick_later(shared, call, wait)).await,
    }
}

/// Whoever calls in a loop and never has to wait must let the actors run all the same: they may
/// share its thread. For calls, and parts of calls, that end without having waited.
pub(super) async fn let_others_run() {
    Box::pin(tokio::task::consume_budget()).await;
}

async fn pick_later(shared: &Shared, call: &CallHead, first: Wait) -> Result<Picked, Status> {
    let _waiting = shared.activity.wait().map_err(status::too_many_waiting)?;
    let mut wait = first;
    let mut last_error = None;
    loop {
        if wait.demand {
            shared.demand().map_err(status::no_runtime)?;
        }
        if wait.error.is_some() {
            last_error = wait.error;
        }
        let newer = shared.cell.newer_than(wait.seen);
        if let Err(Elapsed) = shared.before(call.deadline, newer).await {
            return Err(status::deadline_while_waiting(last_error));
        }
        let step = step(&shared.cell.load(), call);
        wait = match step {
            Step::Go(connection) => return Ok(Picked { connection, waited: true }),
            Step::End(status) => return Err(status),
            Step::Wait(wait) => wait,
        };
    }
}

/// A connection for an attempt.
pub(crate) struct Picked {
    pub(crate) connection: Connection,
    /// Whether that took time.
    pub(crate) waited: bool,
}

pub(super) enum Step {
    Go(Connection),
    Wait(Wait),
    End(Status),
}

pub(super) struct Wait {
    seen: Generation,
    demand: bool,
    error: Option<Status>,
}

pub(super) fn step(snapshot: &Snapshot, call: &CallHead) -> Step {
    let wait = |error| {
        Step::Wait(Wait {
            seen: snapshot.generation,
            // An idle channel connects because a call wants it to.
            demand: snapshot.connectivity == ConnectivityState::Idle,
            error,
        })
    };
    match snapshot.picker.pick(&PickArgs::new(&call.path, &call.metadata)) {
        PickResult::Complete(pick) => {
            let connection = snapshot
                .slots
                .get(pick.subchannel())
                .and_then(super::slot::SubchannelSlot::connection);
            match connection {
                Some(connection) => Step::Go(connection),
                None => wait(None),
            }
        }
        PickResult::Queue => wait(None),
        PickResult::Fail(status) if call.wait_for_ready => wait(Some(status)),
        PickResult::Fail(status) | PickResult::Drop(status) => {
            Step::End(Status::from_control_plane(status))
        }
    }
}
