//! How long a part of the channel that has failed waits before it is started again.

use std::time::{Duration, Instant};

use super::backoff::Backoff;

/// The failures of one part.
///
/// A part is started again at once where it was sound: it did its work since it last failed, and
/// has lived at least as long as the wait that would follow. Doing its work alone proves nothing: a
/// policy that publishes a picker and then panics would be started hundreds of times a second. A
/// part that was not sound waits, longer each time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Failures {
    /// How many in a row, of a part that was not sound in between.
    in_a_row: u32,
    /// When it was started again after the last one; never where it has not failed before.
    restarted_at: Option<Instant>,
}

impl Failures {
    /// The failures after another at `now`, and how long the part waits. `is_proved` says whether
    /// it did its work since the last.
    pub(crate) fn step(self, now: Instant, is_proved: bool, backoff: &Backoff) -> (Self, Duration) {
        let has_lasted = self.restarted_at.is_none_or(|restarted_at| {
            now.saturating_duration_since(restarted_at) >= backoff.nominal(self.in_a_row)
        });
        let in_a_row = if is_proved && has_lasted { 0 } else { self.in_a_row.saturating_add(1) };
        let wait = match in_a_row.checked_sub(1) {
            None => Duration::ZERO,
            Some(nth) => backoff.nominal(nth),
        };
        (Self { in_a_row, restarted_at: Some(super::later(now, wait)) }, wait)
    }

    /// How many in a row.
    pub(crate) fn in_a_row(self) -> u32 {
        self.in_a_row
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::start;

    #[test]
    fn a_sound_part_is_started_at_once_and_another_after_a_growing_wait() {
        let backoff = Backoff::new([1, 2, 4].map(Duration::from_secs), 0.0);
        // Whether it did its work, how long it lived, and how long it waits then.
        let rows = [
            (true, 0, 0),
            (true, 0, 1),
            (true, 1, 2),
            (false, 0, 4),
            (false, 3_600, 4),
            (true, 3, 4),
            (true, 4, 0),
            (true, 1, 0),
            (false, 5, 1),
            (true, 2, 0),
        ];
        let (mut failures, mut now) = (Failures::default(), start());
        for (nth, (is_proved, lived, expected)) in rows.into_iter().enumerate() {
            now += Duration::from_secs(lived);
            let (next, wait) = failures.step(now, is_proved, &backoff);
            assert_eq!(wait, Duration::from_secs(expected), "row {nth}");
            (failures, now) = (next, now + wait);
        }
    }

    #[test]
    fn a_part_that_does_its_work_and_fails_at_once_is_started_a_bounded_number_of_times() {
        let backoff = Backoff::new([1, 2, 4].map(Duration::from_secs), 0.0);
        let (begun, mut failures) = (start(), Failures::default());
        let mut now = begun;
        let mut restarts = 0;
        while now < begun + Duration::from_secs(60) {
            now += Duration::from_millis(3);
            let (next, wait) = failures.step(now, true, &backoff);
            (failures, now) = (next, now + wait);
            restarts += 1;
        }
        assert!(restarts <= 18, "{restarts} in a minute");
        assert!(failures.in_a_row() > 3);
    }
}
