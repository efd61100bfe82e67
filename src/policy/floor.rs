//! How soon something may happen again that a peer can bring about as often as it likes.

use std::time::{Duration, Instant};

use super::later;

/// When something last happened. The first time may come at once, the next no sooner than an
/// interval later; what comes in between is put off until then, and the last of it counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Floor(Option<Instant>);

impl Floor {
    /// It happens at `at`.
    pub(crate) fn note(&mut self, at: Instant) {
        self.0 = Some(at);
    }

    /// When it may happen next: `now`, or when `interval` has passed since the last time.
    pub(crate) fn next(self, now: Instant, interval: Duration) -> Instant {
        self.0.map_or(now, |last| later(last, interval).max(now))
    }
}

/// The least time between two changes of one endpoint that are acted on: its health, or a
/// connection that is lost right after it was made. Ten a second cost nothing, and no caller sees
/// the delay.
pub(crate) const ENDPOINT_CHANGES: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::start;

    #[test]
    fn the_first_time_is_now_and_the_next_after_the_interval() {
        let (interval, begun) = (Duration::from_millis(100), start());
        let mut floor = Floor::default();
        let wait = |floor: Floor, at: u64| {
            let now = begun + Duration::from_millis(at);
            (floor.next(now, interval) - now).as_millis()
        };
        assert_eq!(wait(floor, 0), 0);
        floor.note(begun);
        for (at, expected) in [(0, 100), (1, 99), (99, 1), (100, 0), (5_000, 0)] {
            assert_eq!(wait(floor, at), expected, "at {at}");
        }
        // A peer that never stops is acted on ten times a second.
        let (mut acted, mut now) = (0, begun);
        while now < begun + Duration::from_secs(10) {
            now = floor.next(now, interval);
            floor.note(now);
            acted += 1;
        }
        assert_eq!(acted, 100);
    }
}
