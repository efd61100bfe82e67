//! How long to rest after a failure.

use std::sync::Arc;
use std::time::Duration;

use crate::types::Dice;

/// A table of intervals, one for each failure in a row; the last one repeats.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    /// Already capped; growing, as a rule. Empty means no delay at all.
    intervals: Arc<[Duration]>,
    /// How far chance may stretch or shrink an interval, as a part of it: 0.2 is ±20 %.
    jitter: f64,
}

impl Backoff {
    /// Rests by the table `intervals`, each stretched or shrunk at random by up to `jitter` (0 to
    /// 1) of itself.
    pub(crate) fn new(intervals: impl Into<Arc<[Duration]>>, jitter: f64) -> Self {
        Self { intervals: intervals.into(), jitter: jitter.clamp(0.0, 1.0) }
    }

    /// The interval after failure number `attempt` (from 0), without jitter.
    pub(crate) fn nominal(&self, attempt: u32) -> Duration {
        self.intervals
            .get(attempt as usize)
            .or_else(|| self.intervals.last())
            .copied()
            .unwrap_or_default()
    }

    /// How long to rest after failure number `attempt` (from 0).
    ///
    /// The first rest is exact and later ones jitter, after capping, as the connection backoff of
    /// gRPC has it.
    pub(crate) fn delay(&self, attempt: u32, dice: &mut Dice) -> Duration {
        let nominal = self.nominal(attempt);
        if attempt == 0 {
            return nominal;
        }
        let factor = 1.0 + self.jitter * (2.0 * dice.unit() - 1.0);
        Duration::try_from_secs_f64(nominal.as_secs_f64() * factor).unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: [Duration; 3] =
        [Duration::from_secs(1), Duration::from_millis(1_600), Duration::from_secs(120)];

    #[test]
    fn the_last_interval_repeats() {
        let backoff = Backoff::new(TABLE, 0.2);
        let nominal: Vec<_> = [0, 1, 2, 3, u32::MAX].map(|n| backoff.nominal(n).as_millis()).into();
        assert_eq!(nominal, [1_000, 1_600, 120_000, 120_000, 120_000]);
    }

    #[test]
    fn the_first_rest_is_exact_and_later_ones_jitter_around_their_interval() {
        let backoff = Backoff::new(TABLE, 0.2);
        let mut dice = Dice::new(3);
        let (mut least, mut most) = (Duration::MAX, Duration::ZERO);
        for _ in 0..1_000 {
            assert_eq!(backoff.delay(0, &mut dice), TABLE[0]);
            let delay = backoff.delay(9, &mut dice);
            (least, most) = (least.min(delay), most.max(delay));
        }
        // Jitter comes after the cap: a rest may be longer than the longest interval.
        assert!((96..98).contains(&least.as_secs()), "{least:?}");
        assert!((142..144).contains(&most.as_secs()), "{most:?}");
    }

    #[test]
    fn an_empty_table_and_an_endless_interval_do_no_harm() {
        let mut dice = Dice::new(3);
        assert_eq!(Backoff::new([], 0.2).delay(4, &mut dice), Duration::ZERO);
        let endless = Backoff::new([Duration::MAX], 0.2);
        assert!(endless.delay(1, &mut dice) > Duration::from_secs(u64::MAX / 2));
    }
}
