//! When a call must have ended, and how the server is told.

use std::fmt;
use std::time::{Duration, Instant};

/// The instant at which a call ends, whatever it is doing: waiting for a name, for a connection,
/// for room to send, or for the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// A deadline at `instant`.
    pub const fn at(instant: Instant) -> Self {
        Self(instant)
    }

    /// The deadline `timeout` after `now`. Where that is further away than the clock can count, as
    /// with [`Duration::MAX`], it is about thirty years away.
    pub fn after(now: Instant, timeout: Duration) -> Self {
        Self(later(now, timeout))
    }

    /// The instant.
    pub const fn instant(self) -> Instant {
        self.0
    }

    /// What is left of it at `now`; zero once it has passed.
    pub fn remaining(self, now: Instant) -> Duration {
        self.0.saturating_duration_since(now)
    }
}

impl From<Instant> for Deadline {
    fn from(instant: Instant) -> Self {
        Self(instant)
    }
}

/// `delay` after `now`; for a delay beyond what the clock can count, as far away as makes no
/// difference.
pub(crate) fn later(now: Instant, delay: Duration) -> Instant {
    now.checked_add(delay).unwrap_or_else(|| now + FAR_AWAY)
}

/// About thirty years: beyond the life of any process, within the range of any clock.
const FAR_AWAY: Duration = Duration::from_secs(1_000_000_000);

/// A timeout as `grpc-timeout` carries it: at most eight digits and a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timeout {
    amount: u32,
    unit: char,
}

impl Timeout {
    /// `timeout` in the smallest unit that fits, rounded up so that the server never gives up
    /// before the client.
    ///
    /// Microseconds are left out: from 100 ms on it is whole milliseconds. What is left of a
    /// timeout differs from call to call by less than one, so calls of the same timeout send the
    /// same value, which HTTP/2 then compresses to one byte.
    pub(crate) fn encode(timeout: Duration) -> Self {
        const UNITS: [(u64, char); 5] = [
            (1, 'n'),
            (1_000_000, 'm'),
            (1_000_000_000, 'S'),
            (60 * 1_000_000_000, 'M'),
            (3_600 * 1_000_000_000, 'H'),
        ];
        // Five centuries are as good as any longer time.
        let nanos = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        let (amount, unit) = UNITS
            .iter()
            .map(|&(size, unit)| (nanos.div_ceil(size), unit))
            .find(|&(amount, _)| amount <= TIMEOUT_MAX)
            .unwrap_or((TIMEOUT_MAX, 'H'));
        Self { amount: amount as u32, unit }
    }
}

impl fmt::Display for Timeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.amount, self.unit)
    }
}

/// Eight digits are all that the protocol allows.
const TIMEOUT_MAX: u64 = 99_999_999;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_takes_the_smallest_unit_that_fits_and_rounds_up() {
        let rows = [
            (Duration::ZERO, "0n"),
            (Duration::from_nanos(1), "1n"),
            (Duration::from_nanos(99_999_999), "99999999n"),
            (Duration::from_millis(100), "100m"),
            (Duration::from_nanos(100_000_001), "101m"),
            (Duration::from_millis(200), "200m"),
            (Duration::from_micros(59_999_987), "60000m"),
            (Duration::from_secs(99_999), "99999000m"),
            (Duration::from_secs(100_000), "100000S"),
            (Duration::from_secs(100_000_000), "1666667M"),
            (Duration::from_secs(6_000_000_000), "1666667H"),
            (Duration::MAX, "5124096H"),
        ];
        for (timeout, text) in rows {
            assert_eq!(Timeout::encode(timeout).to_string(), text, "{timeout:?}");
        }
    }

    #[test]
    fn a_timeout_that_the_clock_cannot_count_is_one_all_the_same() {
        let now = tokio::time::Instant::now().into_std();
        for timeout in [Duration::ZERO, Duration::from_nanos(1), Duration::from_secs(1 << 33)] {
            assert_eq!(Deadline::after(now, timeout).remaining(now), timeout);
        }
        let far = Deadline::after(now, Duration::MAX).remaining(now);
        assert!(far >= Duration::from_secs(20 * 365 * 86_400), "{far:?}");
    }

    #[test]
    fn nothing_is_left_of_a_deadline_that_has_passed() {
        let start = Deadline::at(tokio::time::Instant::now().into_std());
        let later = start.instant() + Duration::from_secs(2);
        assert_eq!(start.remaining(later), Duration::ZERO);
        assert_eq!(Deadline::at(later).remaining(start.instant()), Duration::from_secs(2));
    }
}
