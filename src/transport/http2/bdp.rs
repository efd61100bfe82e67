//! How much a server may send ahead: the product of bandwidth and delay, as it is found out.

use std::time::Duration;

/// The window of a connection that adapts: it grows with what arrives within the time of one round
/// trip, and never shrinks.
///
/// ```text
///     ┌───────┐ a quarter of the window   ┌──────────┐
///     │ Quiet │ has arrived: ask          │ Sampling │
///     │       │ ────────────────────────► │          │
///     └───────┘ ◄──────────────────────── └──────────┘
///                 Answered: grow, if the sample
///                 nearly filled the window
/// ```
///
/// Small calls never come to a quarter of the window, so they cost no PING, and the window they
/// begin with is large enough that they do not wait for it to grow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bdp {
    window: u32,
    /// The most bytes per second that were seen.
    bandwidth: f64,
    round_trip: RoundTrip,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    /// So many bytes have arrived since the last sample.
    Quiet(u64),
    /// So many bytes have arrived since the PING left.
    Sampling(u64),
}

/// The time of a round trip, smoothed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct RoundTrip {
    seconds: f64,
    samples: u32,
}

impl Bdp {
    /// Begins with a window of so many bytes for each stream.
    pub(super) fn new(window: u32) -> Self {
        let round_trip = RoundTrip::default();
        Self { window, bandwidth: 0.0, round_trip, phase: Phase::Quiet(0) }
    }

    /// Bytes have arrived. Says whether a PING should measure the time of a round trip now.
    pub(super) fn arrived(&mut self, bytes: u64) -> bool {
        match &mut self.phase {
            Phase::Sampling(sample) => {
                *sample += bytes;
                false
            }
            Phase::Quiet(since) => {
                *since += bytes;
                self.window < WINDOW_MAX && *since >= u64::from(self.window / 4)
            }
        }
    }

    /// The PING has left.
    pub(super) fn asked(&mut self) {
        self.phase = Phase::Sampling(0);
    }

    /// The answer took `took`. Gives the new window if it has grown.
    #[expect(clippy::cast_precision_loss, reason = "an estimate needs no 53 bits")]
    #[expect(clippy::cast_sign_loss, reason = "none of it is negative")]
    pub(super) fn answered(&mut self, took: Duration) -> Option<u32> {
        let Phase::Sampling(sample) = self.phase else { return None };
        self.phase = Phase::Quiet(0);
        self.round_trip.take(took);
        let (sample, window) = (sample as f64, f64::from(self.window));
        let bandwidth = sample / (self.round_trip.seconds * ROUND_TRIP_SLACK).max(f64::EPSILON);
        let is_fastest = bandwidth > self.bandwidth;
        if is_fastest {
            self.bandwidth = bandwidth;
        }
        if !is_fastest || sample < window * NEARLY_FULL {
            return None;
        }
        let wanted = (2.0 * sample).min(f64::from(WINDOW_MAX)) as u32;
        if wanted <= self.window {
            return None;
        }
        self.window = wanted;
        Some(wanted)
    }
}

impl RoundTrip {
    fn take(&mut self, took: Duration) {
        self.samples += 1;
        let weight = if self.samples < FIRST_SAMPLES { 1.0 / f64::from(self.samples) } else { 0.9 };
        self.seconds += (took.as_secs_f64() - self.seconds) * weight;
    }
}

/// As in grpc-go: more than any common path needs, and no lever for a server that sends what
/// nobody reads.
pub(super) const WINDOW_MAX: u32 = 16 * 1024 * 1024;

/// A sample that fills so much of the window was held up by it. As in grpc-go.
const NEARLY_FULL: f64 = 0.66;

/// The first and the last bytes of a sample are not a whole round trip apart. As in grpc-go.
const ROUND_TRIP_SLACK: f64 = 1.5;

/// So many samples count alike; later ones say more than those before. As in grpc-go.
const FIRST_SAMPLES: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn sampled(bdp: &mut Bdp, bytes: u64, millis: u64) -> Option<u32> {
        assert!(bdp.arrived(WINDOW_MAX.into()), "no sample wanted");
        bdp.asked();
        assert!(!bdp.arrived(bytes));
        bdp.answered(Duration::from_millis(millis))
    }

    #[test]
    fn a_window_that_is_filled_within_a_round_trip_doubles_up_to_the_limit() {
        let mut bdp = Bdp::new(2 * MIB as u32);
        assert_eq!(sampled(&mut bdp, 2 * MIB, 50), Some(4 * MIB as u32));
        assert_eq!(sampled(&mut bdp, 4 * MIB, 50), Some(8 * MIB as u32));
        assert_eq!(sampled(&mut bdp, 8 * MIB, 50), Some(16 * MIB as u32));
        // At the limit nothing more is asked.
        assert!(!bdp.arrived(u64::from(u32::MAX)));
    }

    #[test]
    fn a_sample_that_leaves_room_or_is_no_faster_grows_nothing() {
        let mut bdp = Bdp::new(2 * MIB as u32);
        assert_eq!(sampled(&mut bdp, MIB, 50), None);
        assert_eq!(sampled(&mut bdp, 2 * MIB, 20), Some(4 * MIB as u32));
        // As much, but over a path that has become slow: the queue is full, not the window.
        assert_eq!(sampled(&mut bdp, 3 * MIB, 900), None);
    }

    #[test]
    fn small_answers_cost_no_ping() {
        let mut bdp = Bdp::new(2 * MIB as u32);
        let asked = (0..1_000).filter(|_| bdp.arrived(100)).count();
        assert_eq!(asked, 0);
    }
}
