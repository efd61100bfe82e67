//! When a token that proves who calls is fetched, sent and given up.

use std::time::{Duration, Instant};

use super::later;
use crate::types::Status;

/// A token that calls are sent with, and how the next one comes (A97).
///
/// ```text
///                       Fetched(Ok)
///            ┌─────────────────────────────────┐
///            ▼                                 │
///      ┌───────────┐  Asked, once it is  ┌──────────┐
///      │ Expected  │ ──────────────────► │ UnderWay │
///      │ (from t)  │  time for it        └──────────┘
///      └───────────┘                      │        ▲ Asked, and it has rested
///                            Fetched(Err) ▼        │
///                                       ┌────────────┐
///                                       │   Failed   │
///                                       └────────────┘
/// ```
///
/// Nothing is fetched before somebody asks, and nothing twice at a time. While the next token is on
/// its way, the last one is sent for as long as it is good.
#[derive(Clone, Debug)]
pub(crate) struct State<T> {
    held: Option<Held<T>>,
    next: Next,
}

/// The token there is.
#[derive(Clone, Debug)]
struct Held<T> {
    token: T,
    /// From when on it is not sent any more; never where it does not expire.
    expires_at: Option<Instant>,
}

/// The next token.
#[derive(Clone, Debug)]
enum Next {
    /// Is fetched when somebody asks after this time; at any time where there is none.
    Expected(Option<Instant>),
    /// Is being fetched.
    UnderWay {
        /// How many fetches in a row have failed.
        failures: u32,
    },
    /// Could not be fetched.
    Failed {
        /// Why.
        status: Status,
        /// How many in a row.
        failures: u32,
        /// When it is tried again.
        until: Instant,
    },
}

/// What happens to it.
#[derive(Clone, Debug)]
pub(crate) enum Event<T> {
    /// A call wants the token.
    Asked,
    /// The fetch has ended: with a token and when it expires, if it does.
    Fetched(Result<(T, Option<Instant>), Status>),
}

/// What it wants done: a fetch, whose outcome is told with [`Event::Fetched`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fetch;

/// What a call that has [asked](Event::Asked) goes on with.
#[derive(Clone, Debug)]
pub(crate) enum Answer<T> {
    /// It sends this.
    Send(T),
    /// It waits until a fetch has ended.
    Wait,
    /// It ends.
    Fail(Status),
}

impl<T> Default for State<T> {
    fn default() -> Self {
        Self { held: None, next: Next::Expected(None) }
    }
}

impl<T: Clone> State<T> {
    /// The state after `event`, and whether to fetch. `rest` is how long to rest after failure
    /// number n (from 0).
    pub(crate) fn step(
        self,
        now: Instant,
        event: Event<T>,
        rest: impl FnOnce(u32) -> Duration,
    ) -> (Self, Option<Fetch>) {
        let Self { held, next } = self;
        let ((held, next), fetch) = match (next, event) {
            (Next::Expected(from), Event::Asked) if from.is_none_or(|from| now >= from) => {
                ((held, Next::UnderWay { failures: 0 }), Some(Fetch))
            }
            (Next::Failed { failures, until, .. }, Event::Asked) if now >= until => {
                ((held, Next::UnderWay { failures }), Some(Fetch))
            }
            (Next::UnderWay { .. }, Event::Fetched(Ok((token, expires_at)))) => {
                // One that lives a moment must not be fetched without a pause: it is sent for as
                // long as that, and the server judges it.
                let floor = later(now, FETCH_FLOOR);
                let expires_at = expires_at.map(|end| end.max(floor));
                let from = when_to_fetch_again(now, expires_at).max(floor);
                let next = Next::Expected(Some(from));
                ((Some(Held { token, expires_at }), next), None)
            }
            (Next::UnderWay { failures }, Event::Fetched(Err(status))) => {
                let until = later(now, rest(failures));
                let failures = failures.saturating_add(1);
                ((held, Next::Failed { status, failures, until }), None)
            }
            (
                next @ (Next::Expected(_) | Next::UnderWay { .. } | Next::Failed { .. }),
                Event::Asked,
            )
            | (next @ (Next::Expected(_) | Next::Failed { .. }), Event::Fetched(_)) => {
                ((held, next), None)
            }
        };
        (Self { held, next }, fetch)
    }

    /// What a call goes on with that has asked at `now`.
    pub(crate) fn answer(&self, now: Instant) -> Answer<T> {
        match (&self.held, &self.next) {
            (Some(held), _) if held.expires_at.is_none_or(|end| now < end) => {
                Answer::Send(held.token.clone())
            }
            (_, Next::Failed { status, .. }) => Answer::Fail(status.clone()),
            (_, Next::Expected(_) | Next::UnderWay { .. }) => Answer::Wait,
        }
    }
}

/// A minute before the end; half-way to it for a token that does not live long, so that not every
/// call has one fetched.
fn when_to_fetch_again(now: Instant, expires_at: Option<Instant>) -> Instant {
    let Some(expires_at) = expires_at else { return later(now, Duration::MAX) };
    let ahead = AHEAD.min(expires_at.saturating_duration_since(now) / 2);
    expires_at.checked_sub(ahead).unwrap_or(now)
}

/// How long before its end a token is fetched again while it still serves (A97).
const AHEAD: Duration = Duration::from_secs(60);

/// The least time between two fetches.
const FETCH_FLOOR: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
