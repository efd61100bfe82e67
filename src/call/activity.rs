//! Whether a channel is in use: how many calls it has, and when the last one ended.

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::Shared;
use crate::policy::idle::Usage;

/// Counts the calls of a channel. Every call writes here twice, so it has a cache line of its own.
#[repr(align(128))]
pub(crate) struct Activity {
    calls: AtomicUsize,
    /// In nanoseconds since `born`; 0 before the first.
    last_end: AtomicU64,
    born: Instant,
}

impl Activity {
    pub(super) fn new() -> Self {
        Self { calls: AtomicUsize::new(0), last_end: AtomicU64::new(0), born: Instant::now() }
    }

    /// How the channel is used at this moment.
    pub(crate) fn usage(&self) -> Usage {
        let calls = self.calls.load(Ordering::Acquire);
        let last_end = match self.last_end.load(Ordering::Acquire) {
            0 => None,
            nanos => Some((self.born + Duration::from_nanos(nanos)).into_std()),
        };
        Usage { calls, last_end }
    }

    fn begin(&self) {
        self.calls.fetch_add(1, Ordering::AcqRel);
    }

    /// Only the end that leaves no other call behind has to read the clock.
    ///
    /// Whoever looks between the two writes takes an earlier end for the last one. A channel may
    /// then go idle right after a call instead of a while later, which costs a connection and
    /// nothing else.
    fn end(&self) {
        if self.calls.fetch_sub(1, Ordering::AcqRel) == 1 {
            let nanos = self.born.elapsed().as_nanos().max(1);
            self.last_end.store(u64::try_from(nanos).unwrap_or(u64::MAX), Ordering::Release);
        }
    }
}

/// A call that has begun and not ended. Its drop is the end.
pub(super) struct Ongoing<S: Deref<Target = Shared>>(S);

impl<S: Deref<Target = Shared>> Ongoing<S> {
    pub(super) fn begin(shared: S) -> Self {
        shared.activity.begin();
        Self(shared)
    }
}

impl<S: Deref<Target = Shared>> Drop for Ongoing<S> {
    fn drop(&mut self) {
        self.0.activity.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_end_of_the_last_call_is_remembered() {
        let activity = Activity::new();
        assert_eq!(activity.usage(), Usage { calls: 0, last_end: None });
        activity.begin();
        activity.begin();
        tokio::time::advance(Duration::from_secs(1)).await;
        activity.end();
        assert_eq!(activity.usage(), Usage { calls: 1, last_end: None });
        tokio::time::advance(Duration::from_secs(1)).await;
        activity.end();
        let ended = activity.born + Duration::from_secs(2);
        assert_eq!(activity.usage(), Usage { calls: 0, last_end: Some(ended.into_std()) });
    }
}
