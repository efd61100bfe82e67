//! Tokens: few failures take them, many successes bring them back.

use std::sync::atomic::{AtomicU32, Ordering};

/// A bucket of tokens for all calls of a channel. While it is half empty or more, failed attempts
/// are not followed by others (A6).
#[derive(Debug)]
pub(crate) struct Throttle {
    /// In thousandths, as all here.
    tokens: AtomicU32,
    max: u32,
    /// What a success brings.
    ratio: u32,
}

impl Throttle {
    /// A full bucket of `max` tokens (1 to 1,000), to which each success adds `ratio` of one. Of
    /// that, three digits after the point count.
    pub(crate) fn new(max: u32, ratio: f64) -> Self {
        let max = max * ONE;
        #[expect(clippy::cast_sign_loss, reason = "it is positive, and cut to what a bucket holds")]
        let ratio = (ratio * f64::from(ONE)).clamp(0.0, f64::from(max)) as u32;
        Self { tokens: AtomicU32::new(max), max, ratio }
    }

    /// An attempt has failed in a way that would be followed by another. Says whether it may be.
    pub(crate) fn failed(&self) -> bool {
        let take = |tokens: u32| Some(tokens.saturating_sub(ONE));
        // Always has something to put in.
        let before = self.tokens.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        before.unwrap_or_default().saturating_sub(ONE) > self.max / 2
    }

    /// A call has succeeded.
    pub(crate) fn succeeded(&self) {
        // Nearly always it is full: then calls do not contend for it.
        if self.tokens.load(Ordering::Relaxed) < self.max {
            let add = |tokens: u32| Some((tokens + self.ratio).min(self.max));
            let _ = self.tokens.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        }
    }

    /// Whether further attempts may be made.
    pub(crate) fn is_open(&self) -> bool {
        self.tokens.load(Ordering::Relaxed) > self.max / 2
    }

    /// Whether the two differ by nothing but their tokens.
    pub(crate) fn has_rules_of(&self, other: &Self) -> bool {
        (self.max, self.ratio) == (other.max, other.ratio)
    }
}

const ONE: u32 = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    /// In thousandths.
    fn tokens(throttle: &Throttle) -> u32 {
        throttle.tokens.load(Ordering::Relaxed)
    }

    // spec: A6/throttling
    #[test]
    fn failures_take_a_token_and_successes_bring_a_part_of_one() {
        let throttle = Throttle::new(10, 0.5);
        let mut seen = Vec::new();
        for _ in 0..6 {
            seen.push((throttle.failed(), tokens(&throttle)));
        }
        let expected = [9, 8, 7, 6, 5, 4].map(|left| (left > 5, left * ONE));
        assert_eq!(seen, expected);
        for _ in 0..3 {
            throttle.succeeded();
        }
        assert_eq!(tokens(&throttle), 5_500);
        assert!(!throttle.failed());
        for _ in 0..20 {
            throttle.failed();
        }
        assert_eq!(tokens(&throttle), 0);
        for _ in 0..99 {
            throttle.succeeded();
        }
        assert_eq!(tokens(&throttle), 10_000);
    }

    #[test]
    fn three_digits_of_the_ratio_count() {
        let throttle = Throttle::new(1, 0.0019);
        throttle.failed();
        throttle.succeeded();
        assert_eq!(tokens(&throttle), 1);
        let generous = Throttle::new(2, 1e30);
        generous.failed();
        generous.succeeded();
        assert_eq!(tokens(&generous), 2_000);
    }
}
