//! The pick: from a snapshot to a connection.

use std::sync::Arc;

use tokio::time::Instant;

use super::shared::Elapsed;
use super::{CallHead, Shared, Snapshot, SubchannelSlot, Terms, status};
use crate::observe::CallEvent;
use crate::policy::lb::PickResult;
use crate::transport::Connection;
use crate::types::{ConnectivityState, Generation, Status, SubchannelId};

/// Picks a connection for one attempt, waiting for newer snapshots where the picker says so, the
/// subchannel that it chose has no connection, or the pick failed and the call waits for ready.
/// Where that subchannel has a connection again before anything is published, that ends the wait
/// as well.
///
/// The terms of the call are settled by its first pick; a config selector is asked once, on the
/// first snapshot that has one. Each generation is used at most once, and again for each connection
/// in a slot that was empty.
/// Cancel-safe.
pub(super) async fn pick(
    shared: &Shared,
    call: &CallHead,
    terms: &mut Option<Terms>,
    attempt: u32,
) -> Result<Connection, PickError> {
    let is_settled = terms.is_some();
    let step = look_or_suffer(shared, &shared.cell.load(), call, terms);
    match step {
        Step::Go(chosen) => match chosen.tell(shared, call, attempt) {
            Ok(connection) => Ok(connection),
            Err(injected) => ended(shared, injected).await,
        },
        Step::End(error) => ended(shared, error).await,
        // In a box: most calls never wait, and their futures need no room for it.
        Step::Wait(wait) => {
            let began = Instant::now();
            let later = pick_later(shared, call, terms, is_settled, wait, began, attempt);
            let chosen = Box::pin(later).await?;
            let waited = || began.elapsed();
            call.events.tell(|| CallEvent::PickCompleted { attempt, waited: waited() });
            chosen.tell(shared, call, attempt)
        }
    }
}

/// A call ends without having waited, of which no stream tells.
async fn ended(shared: &Shared, error: PickError) -> Result<Connection, PickError> {
    shared.activity.over_at(Instant::now());
    let_others_run().await;
    Err(error)
}

/// Looks once at `snapshot`, unless an injected fault ends the call.
fn look_or_suffer(
    shared: &Shared,
    snapshot: &Snapshot,
    call: &CallHead,
    terms: &mut Option<Terms>,
) -> Step {
    // The end of the channel befalls all calls.
    if snapshot.connectivity != ConnectivityState::Shutdown
        && let Err(injected) = shared.injected(None, call.path.as_str())
    {
        return Step::End(PickError::Ended(injected));
    }
    look(snapshot, call, terms)
}

/// Whoever calls in a loop and never has to wait must let the actors run all the same: they may
/// share its thread. For calls, and parts of calls, that end without having waited.
pub(super) async fn let_others_run() {
    Box::pin(tokio::task::consume_budget()).await;
}

async fn pick_later(
    shared: &Shared,
    call: &CallHead,
    terms: &mut Option<Terms>,
    is_settled: bool,
    first: Wait,
    began: Instant,
    attempt: u32,
) -> Result<Chosen, PickError> {
    if let Some(status) = status::too_much_metadata(call, shared.request_fields_max) {
        return Err(status.into());
    }
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
        let newer = shared.cell.newer_than(wait.seen, wait.slot.as_deref());
        let deadline = terms.as_ref().and_then(|terms| terms.deadline);
        if let Err(Elapsed) = shared.before(deadline, newer).await {
            return Err(status::deadline_while_waiting(last_error).into());
        }
        if !is_settled && !terms.as_ref().is_some_and(Terms::are_selected) {
            *terms = None;
        }
        let snapshot = shared.cell.load();
        if wait.for_names && snapshot.is_resolved {
            let waited = began.elapsed();
            call.events.tell(|| CallEvent::NamesResolved { attempt, waited });
        }
        let step = look_or_suffer(shared, &snapshot, call, terms);
        drop(snapshot);
        match step {
            Step::Go(chosen) => return Ok(chosen),
            Step::End(error) => return Err(error),
            Step::Wait(next) => wait = next,
        }
    }
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
    Go(Chosen),
    Wait(Wait),
    End(PickError),
}

/// What a look at a snapshot found.
pub(super) struct Chosen {
    subchannel: SubchannelId,
    connection: Connection,
}

impl Chosen {
    fn tell(self, shared: &Shared, call: &CallHead, attempt: u32) -> Result<Connection, PickError> {
        let Self { subchannel, connection } = self;
        call.events.tell(|| CallEvent::SubchannelPicked { attempt, subchannel });
        shared.injected(Some(connection.address()), call.path.as_str())?;
        Ok(connection)
    }
}

pub(super) struct Wait {
    seen: Generation,
    /// The slot of the subchannel that was chosen, which is empty.
    slot: Option<Arc<SubchannelSlot>>,
    demand: bool,
    /// Whether nothing has been resolved yet.
    for_names: bool,
    error: Option<Status>,
}

/// Looks once at `snapshot`, and takes its terms where there are none.
pub(super) fn look(snapshot: &Snapshot, call: &CallHead, terms: &mut Option<Terms>) -> Step {
    let terms = match terms {
        Some(terms) => terms,
        None => match Terms::of(call, &snapshot.config) {
            Ok(settled) => terms.insert(settled),
            Err(status) => return Step::End(PickError::Ended(status)),
        },
    };
    let wait = |slot, error| {
        Step::Wait(Wait {
            seen: snapshot.generation,
            slot,
            // An idle channel connects because a call wants it to.
            demand: snapshot.connectivity == ConnectivityState::Idle,
            for_names: !snapshot.is_resolved,
            error,
        })
    };
    match snapshot.picker.pick(&terms.pick_args(call)) {
        PickResult::Complete(pick) => {
            let subchannel = pick.subchannel();
            let slot = snapshot.slots.get(subchannel);
            match slot.and_then(|slot| slot.connection()) {
                Some(connection) => Step::Go(Chosen { subchannel, connection }),
                None => wait(slot.cloned(), None),
            }
        }
        PickResult::Queue => wait(None, None),
        PickResult::Fail(status) if terms.wait_for_ready => wait(None, Some(status)),
        PickResult::Fail(status) => {
            Step::End(PickError::Failed(status.of_control_part(THE_POLICY)))
        }
        PickResult::Drop(status) => Step::End(PickError::Ended(status.of_control_part(THE_POLICY))),
    }
}

/// How errors name whoever picks.
pub(super) const THE_POLICY: &str = "the load-balancing policy";
