//! The pick: from a snapshot to a connection.

use tokio::time::Instant;

use super::shared::Elapsed;
use super::{CallHead, Shared, Snapshot, Terms, status};
use crate::policy::lb::{PickArgs, PickResult};
use crate::transport::Connection;
use crate::types::{ConnectivityState, Generation, Status};

/// Picks a connection for one attempt, waiting for newer snapshots where the picker says so, the
/// subchannel that it chose has no connection, or the pick failed and the call waits for ready.
///
/// The terms of the call are `settled` by its first pick. Each generation is used at most once.
/// Cancel-safe.
pub(super) async fn pick(shared: &Shared, call: &CallHead, settled: Option<Terms>) -> Picked {
    let (terms, step) = look(&shared.cell.load(), call, settled);
    match step {
        Step::Go(connection) => Picked { terms, waited: false, outcome: Ok(connection) },
        Step::End(error) => {
            // No stream tells of this call.
            shared.activity.over_at(Instant::now());
            let_others_run().await;
            Picked { terms, waited: false, outcome: Err(error) }
        }
        // In a box: most calls never wait, and their futures need no room for it.
        Step::Wait(wait) => Box::pin(pick_later(shared, call, terms, wait)).await,
    }
}

/// Whoever calls in a loop and never has to wait must let the actors run all the same: they may
/// share its thread. For calls, and parts of calls, that end without having waited.
pub(super) async fn let_others_run() {
    Box::pin(tokio::task::consume_budget()).await;
}

async fn pick_later(shared: &Shared, call: &CallHead, mut terms: Terms, first: Wait) -> Picked {
    let Wait { is_settled, .. } = first;
    let outcome = async {
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
            if let Err(Elapsed) = shared.before(terms.deadline, newer).await {
                return Err(status::deadline_while_waiting(last_error).into());
            }
            let snapshot = shared.cell.load();
            if !is_settled {
                terms = Terms::of(call, &snapshot.config);
            }
            match step(&snapshot, call, &terms, is_settled) {
                Step::Go(connection) => return Ok(connection),
                Step::End(error) => return Err(error),
                Step::Wait(next) => wait = next,
            }
        }
    };
    let outcome = outcome.await;
    Picked { terms, waited: true, outcome }
}

/// What came of a pick.
pub(super) struct Picked {
    /// What the call goes by from now on.
    pub(super) terms: Terms,
    /// Whether it took time.
    pub(super) waited: bool,
    /// A connection for the attempt.
    pub(super) outcome: Result<Connection, PickError>,
}

/// There is no connection for a call.
pub(super) enum PickError {
    /// As of now: another attempt may find one.
    Failed(Status),
    /// It ends the call.
    Ended(Status),
}

/// What the channel itself says ends a call.
impl From<Status> for PickError {
    fn from(status: Status) -> Self {
        Self::Ended(status)
    }
}

pub(super) enum Step {
    Go(Connection),
    Wait(Wait),
    End(PickError),
}

pub(super) struct Wait {
    seen: Generation,
    demand: bool,
    is_settled: bool,
    error: Option<Status>,
}

/// Looks once at `snapshot`.
pub(super) fn look(snapshot: &Snapshot, call: &CallHead, settled: Option<Terms>) -> (Terms, Step) {
    let is_settled = settled.is_some();
    let terms = settled.unwrap_or_else(|| Terms::of(call, &snapshot.config));
    let step = step(snapshot, call, &terms, is_settled);
    (terms, step)
}

fn step(snapshot: &Snapshot, call: &CallHead, terms: &Terms, is_settled: bool) -> Step {
    let wait = |error| {
        Step::Wait(Wait {
            seen: snapshot.generation,
            is_settled,
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
        PickResult::Fail(status) if terms.wait_for_ready => wait(Some(status)),
        PickResult::Fail(status) => {
            Step::End(PickError::Failed(Status::from_control_plane(status)))
        }
        PickResult::Drop(status) => Step::End(PickError::Ended(Status::from_control_plane(status))),
    }
}
