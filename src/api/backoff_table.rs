//! The table of connection backoff intervals.
//!
//! The `backoff` crate computes it, once per builder, and nothing else here knows that crate: the
//! rest of the library sees plain durations, with jitter from seeded dice.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;

/// The intervals from `base` on, each `multiplier` times the one before, up to `max`, which then
/// repeats.
pub(super) fn intervals(base: Duration, multiplier: f64, max: Duration) -> Vec<Duration> {
    let mut schedule = ExponentialBackoff {
        current_interval: base.min(max),
        initial_interval: base.min(max),
        // The jitter is added where the interval is used.
        randomization_factor: 0.0,
        multiplier,
        max_interval: max,
        max_elapsed_time: None,
        ..ExponentialBackoff::default()
    };
    let mut intervals = Vec::new();
    while let Some(interval) = schedule.next_backoff() {
        let grows = intervals.last().is_none_or(|last| *last < interval);
        if !grows || intervals.len() == INTERVALS_MAX {
            break;
        }
        intervals.push(interval);
    }
    intervals
}

/// A multiplier just above one reaches its maximum late; what lies beyond so many stays equal.
const INTERVALS_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_intervals_grow_from_one_second_to_two_minutes() {
        let table = intervals(Duration::from_secs(1), 1.6, Duration::from_secs(120));
        assert_eq!(table[0], Duration::from_secs(1));
        assert_eq!(table[1].as_millis(), 1600);
        assert_eq!(table[2].as_millis(), 2560);
        assert_eq!(table.last(), Some(&Duration::from_secs(120)));
        assert_eq!(table.len(), 12);
    }

    #[test]
    fn a_constant_schedule_has_one_interval() {
        let second = Duration::from_secs(1);
        assert_eq!(intervals(second, 1.0, second * 9), [second]);
        assert_eq!(intervals(second * 9, 2.0, second), [second]);
    }
}
