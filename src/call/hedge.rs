//! A unary call that several servers are asked, and the first answers.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::task::Poll;

use tokio::time::Instant;

use super::pick::{PickError, pick};
use super::retry::{AttemptError, FailedAttempt};
use super::shared::Elapsed;
use super::unary::{Answer, Reply, attempt};
use super::{CallHead, Shared, Terms, status};
use crate::observe::AttemptKind;
use crate::policy::hedging::{Action, Event, Rules, State};
use crate::policy::retry::HedgingPolicy;
use crate::transport::{Connection, Message};
use crate::types::{Address, Code, Status};

/// Goes on with a call that is hedged by `policy`, whose first pick was `first`, for the attempt
/// of that number.
///
/// All attempts run on the caller's task. The first whose server begins to answer is the call's, and
/// so is one that fails for good; the others are dropped at once, which resets them.
pub(super) async fn hedged(
    shared: &Shared,
    call: &CallHead,
    terms: &Terms,
    policy: &HedgingPolicy,
    first: (Connection, u32),
    message: &Message,
) -> Result<Reply, Status> {
    let mut last = None;
    let reply = with_hedges(shared, call, terms, policy, first, message, &mut last).await;
    reply.map_err(|status| status::after_failure(status, last.as_ref()))
}

/// Leaves the failure of the latest attempt in `last` where the call ends with another status.
async fn with_hedges(
    shared: &Shared,
    call: &CallHead,
    terms: &Terms,
    policy: &HedgingPolicy,
    first: (Connection, u32),
    message: &Message,
    last: &mut Option<Status>,
) -> Result<Reply, Status> {
    let attempts_cap = shared.retrying.limits.attempts_cap;
    let rules = Rules { policy, attempts_cap, throttle: terms.throttle.as_deref() };
    let joint = Joint::default();
    let mut first = Some(first);
    let mut live = Vec::new();
    let mut unseen = None;
    let (mut state, mut action) = State::default().step(now(), Event::Begin, rules);
    loop {
        match action {
            Action::End => {
                let ended = || status::deadline_while_waiting(None);
                return Err(last.take().unwrap_or_else(ended));
            }
            Action::Send | Action::SendAgain => {
                let (kind, before) = match unseen.take().filter(|_| action == Action::SendAgain) {
                    Some(before) => (AttemptKind::TransparentRetry, before),
                    None => (AttemptKind::Hedge, state.sent() - 1),
                };
                let first = first.take();
                let one = one(shared, call, terms, &joint, kind, before, first, message.clone());
                live.push(Box::pin(one));
            }
            Action::Wait => {}
        }
        let mut failed = None;
        let event = match next(shared, terms, &joint, &mut live, state.wake_at()).await {
            Next::Due => Event::Wake,
            Next::Committed(number) => {
                call.events.committed_to(number);
                Event::Committed
            }
            Next::DeadlinePassed => {
                return Err(status::deadline_while_resting());
            }
            Next::Closed if live.is_empty() => {
                // There is nothing to rest for: the pick that follows says how the call ends.
                action = Action::Send;
                continue;
            }
            Next::Closed => closed(&live),
            // Those that have a stream may be answered yet.
            Next::Ended(Err(status)) if !live.is_empty() && shared.states.is_closed() => {
                *last = Some(status);
                closed(&live)
            }
            Next::Ended(outcome) => match outcome? {
                Outcome::Done(reply) => {
                    terms.succeeded();
                    return Ok(reply);
                }
                Outcome::Failed(FailedAttempt { number, error, committed }, before) => {
                    let (failure, status) = error.told(terms);
                    call.events.attempt_ended(number, Err(&status));
                    // After the deadline there is no other, whatever the policy says of that code.
                    let is_late = status.code() == Code::DEADLINE_EXCEEDED
                        && terms.deadline.is_some_and(|deadline| deadline <= Instant::now());
                    if committed || is_late {
                        return Err(status);
                    }
                    failed = Some((status, before));
                    Event::Failed(failure)
                }
            },
        };
        (state, action) = state.step(now(), event, rules);
        if let Some((status, before)) = failed {
            *last = Some(status);
            unseen = (action == Action::SendAgain).then_some(before);
        }
    }
}

/// What the attempts of a call know of one another.
#[derive(Default)]
struct Joint {
    /// The servers that are asked.
    asked: Mutex<Vec<Address>>,
    /// The attempt that the call is committed to, as observers number it.
    committed: OnceLock<u32>,
}

impl Joint {
    /// Adds a server; says whether it is asked for the first time.
    fn ask(&self, address: &Address) -> bool {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = !asked.contains(address);
        if is_new {
            asked.push(address.clone());
        }
        is_new
    }
}

/// One attempt, on a connection to a server that is not asked yet, if the picker gives one.
#[expect(clippy::too_many_arguments, reason = "all of it differs from attempt to attempt")]
async fn one(
    shared: &Shared,
    call: &CallHead,
    terms: &Terms,
    joint: &Joint,
    kind: AttemptKind,
    before: u32,
    first: Option<(Connection, u32)>,
    message: Message,
) -> Result<Outcome, Status> {
    let mut settled = Some(terms.clone());
    let (mut chosen, number) = match first {
        Some((connection, number)) => (Some(connection), number),
        None => (None, call.events.attempt_began(kind)),
    };
    let mut tries = 0;
    let connection = loop {
        let connection = match chosen.take() {
            Some(connection) => connection,
            None => match pick(shared, call, &mut settled, number).await {
                Ok(connection) => connection,
                Err(PickError::Failed(status)) => {
                    let error = AttemptError::Pick(status);
                    let failed = FailedAttempt { number, error, committed: false };
                    return Ok(Outcome::Failed(failed, before));
                }
                Err(PickError::Ended(status)) => return Err(status),
            },
        };
        tries += 1;
        if joint.ask(connection.address()) || tries == PICKS_MAX {
            break connection;
        }
    };
    let mut answer = Answer::default();
    let begun = || {
        joint.committed.get_or_init(|| number);
        terms.committed();
    };
    let ended =
        attempt(shared, call, terms, &connection, number, before, message, &begun, &mut answer);
    let ended = ended.await?;
    Ok(match answer.end(ended, shared, call, terms, &connection, number) {
        Ok(reply) => Outcome::Done(reply),
        Err(failed) => Outcome::Failed(failed, before),
    })
}

/// What came of one attempt.
enum Outcome {
    Done(Reply),
    /// With how many the server was told were before it.
    Failed(FailedAttempt, u32),
}

enum Next {
    /// One has ended.
    Ended(Result<Outcome, Status>),
    /// The server of this attempt has begun to answer; the others are dropped.
    Committed(u32),
    /// It is time for another.
    Due,
    DeadlinePassed,
    /// The channel is closed, and one was to follow.
    Closed,
}

/// What happens first.
async fn next<F: Future<Output = Result<Outcome, Status>>>(
    shared: &Shared,
    terms: &Terms,
    joint: &Joint,
    live: &mut Vec<Pin<Box<F>>>,
    due: Option<std::time::Instant>,
) -> Next {
    // Without one that waits for the server, nobody else says that the call is under way.
    let _busy = live.is_empty().then(|| shared.activity.stay());
    let has_live = !live.is_empty();
    let was_committed = joint.committed.get().is_some();
    let mut timer = pin!(async {
        match due.map(Instant::from_std) {
            // Those that are under way meet the deadline too, and can say of whom they waited for it.
            Some(at) if has_live && terms.deadline.is_some_and(|deadline| deadline <= at) => {
                std::future::pending().await
            }
            Some(at) => tokio::select! {
                biased;
                () = shared.states.closed() => Next::Closed,
                rested = shared.rest_until(terms.deadline, at) => match rested {
                    Ok(()) => Next::Due,
                    Err(Elapsed) => Next::DeadlinePassed,
                },
            },
            None => std::future::pending().await,
        }
    });
    poll_fn(|cx| {
        for place in 0..live.len() {
            if let Poll::Ready(outcome) = live[place].as_mut().poll(cx) {
                drop(live.swap_remove(place));
                return Poll::Ready(Next::Ended(outcome));
            }
            // Whoever was polled last has begun to be answered.
            if !was_committed && let Some(number) = joint.committed.get() {
                let committed = live.swap_remove(place);
                *live = vec![committed];
                return Poll::Ready(Next::Committed(*number));
            }
        }
        timer.as_mut().poll(cx)
    })
    .await
}

/// No other joins these.
fn closed<F>(live: &[F]) -> Event {
    Event::Closed { live: u32::try_from(live.len()).unwrap_or(u32::MAX) }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// How often the picker is asked for a server that is not asked yet.
const PICKS_MAX: u32 = 8;
