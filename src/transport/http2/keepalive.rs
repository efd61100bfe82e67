//! Whether a silent connection still lives (A8): when to ask, and when to give it up.

use std::time::Duration;

use tokio::time::Instant;

/// When a connection that has been silent is asked whether it still lives (A8).
///
/// On Linux the kernel is told to give up unacknowledged data after the same timeout (A18).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepaliveConfig {
    /// How long nothing may arrive before a PING asks; no less than 10 seconds, to which shorter
    /// times are raised: servers close connections that ask too often.
    pub time: Duration,
    /// How long the answer, or anything else, may take before the connection is given up.
    pub timeout: Duration,
    /// Whether to ask while there is no call too.
    pub permit_without_stream: bool,
}

impl KeepaliveConfig {
    /// Asks after `time` of silence, waits 20 seconds, and only while there are calls.
    pub const fn after(time: Duration) -> Self {
        Self { time, timeout: TIMEOUT, permit_without_stream: false }
    }

    /// The time that applies.
    pub(crate) fn time(&self) -> Duration {
        self.time.max(TIME_MIN)
    }
}

/// What is known of a connection's life.
///
/// ```text
///     ┌───────┐   Wake: ask    ┌─────────┐  Wake: give up
///     │ Quiet │ ─────────────► │ Waiting │ ───────────────►
///     └───────┘ ◄───────────── └─────────┘
///       │   ▲        Arrived
///       │   └────────────────── ┌─────────┐
///       └─────────────────────► │ Dormant │
///         Wake, without streams └─────────┘
///                                 Opened: look again at once
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Something arrived at this time, and nothing is awaited.
    Quiet {
        /// When.
        last: Instant,
    },
    /// Nothing arrived for long, but nobody is waiting for anything either.
    Dormant {
        /// When something arrived.
        last: Instant,
    },
    /// The other side was asked.
    Waiting {
        /// When.
        since: Instant,
    },
}

/// What happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Something arrived, whatever it was.
    Arrived,
    /// A stream is open.
    Opened,
    /// The time of `wake_at` has come.
    Wake {
        /// Whether streams are open.
        streams: bool,
    },
}

/// What it wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Send a PING, unless one is under way.
    Ask,
    /// End the connection.
    GiveUp,
}

impl State {
    pub(super) fn step(
        self,
        now: Instant,
        event: Event,
        config: &KeepaliveConfig,
    ) -> (Self, Option<Effect>) {
        match (self, event) {
            (Self::Quiet { .. } | Self::Waiting { .. }, Event::Arrived) => {
                (Self::Quiet { last: now }, None)
            }
            (Self::Dormant { .. }, Event::Arrived) => (Self::Dormant { last: now }, None),
            (Self::Dormant { last }, Event::Opened) => (Self::Quiet { last }, None),
            (Self::Quiet { last }, Event::Wake { streams })
                if is_over(last, config.time(), now) =>
            {
                if streams || config.permit_without_stream {
                    (Self::Waiting { since: now }, Some(Effect::Ask))
                } else {
                    (Self::Dormant { last }, None)
                }
            }
            (Self::Waiting { since }, Event::Wake { .. })
                if is_over(since, config.timeout, now) =>
            {
                (self, Some(Effect::GiveUp))
            }
            (Self::Quiet { .. } | Self::Waiting { .. }, Event::Opened | Event::Wake { .. })
            | (Self::Dormant { .. }, Event::Wake { .. }) => (self, None),
        }
    }

    /// When it next wants [`Event::Wake`].
    pub(super) fn wake_at(&self, config: &KeepaliveConfig) -> Option<Instant> {
        match self {
            Self::Quiet { last } => last.checked_add(config.time()),
            Self::Waiting { since } => since.checked_add(config.timeout),
            Self::Dormant { .. } => None,
        }
    }
}

/// Whether `time` has passed since then. One that the clock cannot count never has.
fn is_over(since: Instant, time: Duration, now: Instant) -> bool {
    since.checked_add(time).is_some_and(|end| now >= end)
}

/// As in grpc-go.
const TIMEOUT: Duration = Duration::from_secs(20);

/// As in grpc-go. Servers allow a PING every five minutes unless they say otherwise.
const TIME_MIN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    /// What happens at which second, then when it wants to look again or what it wants done.
    fn run(permit_without_stream: bool, script: &[(u64, Event, &str)]) {
        let began = Instant::now();
        let config = KeepaliveConfig {
            time: Duration::from_secs(30),
            timeout: Duration::from_secs(5),
            permit_without_stream,
        };
        let mut state = State::Quiet { last: began };
        for (seconds, event, expected) in script {
            let now = began + Duration::from_secs(*seconds);
            let (next, effect) = state.step(now, *event, &config);
            state = next;
            let wake = match state.wake_at(&config) {
                Some(at) => (at - began).as_secs().to_string(),
                None => "never".to_owned(),
            };
            let told = match effect {
                Some(effect) => format!("{effect:?}, {wake}"),
                None => wake,
            };
            assert_eq!(told, *expected, "{event:?} at {seconds}");
        }
    }

    const CALLS: Event = Event::Wake { streams: true };
    const NO_CALLS: Event = Event::Wake { streams: false };
    use Event::{Arrived, Opened};

    // spec: A8/keepalive
    #[test]
    fn silence_is_asked_about_and_an_answer_of_any_kind_will_do() {
        run(false, &[(30, CALLS, "Ask, 35"), (33, Arrived, "63"), (63, CALLS, "Ask, 68")]);
        run(false, &[(30, CALLS, "Ask, 35"), (35, CALLS, "GiveUp, 35")]);
        // What arrives puts the question off, what is opened does not.
        run(false, &[(20, Arrived, "50"), (40, Opened, "50"), (50, CALLS, "Ask, 55")]);
        // Early and late.
        run(false, &[(29, CALLS, "30"), (90, CALLS, "Ask, 95"), (94, CALLS, "95")]);
    }

    // spec: A8/without-calls
    #[test]
    fn without_calls_nothing_is_asked_until_there_is_one() {
        run(false, &[(30, NO_CALLS, "never"), (99, NO_CALLS, "never"), (100, Opened, "30")]);
        run(false, &[(30, NO_CALLS, "never"), (99, Arrived, "never"), (100, Opened, "129")]);
        run(true, &[(30, NO_CALLS, "Ask, 35"), (35, NO_CALLS, "GiveUp, 35")]);
    }

    #[test]
    fn a_time_below_ten_seconds_is_raised() {
        assert_eq!(KeepaliveConfig::after(Duration::ZERO).time().as_secs(), 10);
        assert_eq!(KeepaliveConfig::after(Duration::from_secs(11)).time().as_secs(), 11);
    }
}
