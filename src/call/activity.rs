//! Whether a channel is in use, apart from the streams that its connections know of.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Counts the calls of a channel that have no stream, because they wait for one; and knows when the
/// last of them was over. Calls that have a stream are counted by its connection: nothing here is
/// on their way.
pub(crate) struct Activity {
    waiting: AtomicUsize,
    /// In nanoseconds since `born`; 0 before the first.
    last: AtomicU64,
    born: Instant,
}

impl Activity {
    pub(super) fn new() -> Self {
        Self { waiting: AtomicUsize::new(0), last: AtomicU64::new(0), born: Instant::now() }
    }

    /// Calls that wait for a stream.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    /// When a call was last known to be over.
    pub(crate) fn last(&self) -> Option<Instant> {
        match self.last.load(Ordering::Acquire) {
            0 => None,
            nanos => Some(self.born + Duration::from_nanos(nanos)),
        }
    }

    /// A call was over at `at`.
    pub(crate) fn over_at(&self, at: Instant) {
        let nanos = at.saturating_duration_since(self.born).as_nanos().max(1);
        self.last.fetch_max(u64::try_from(nanos).unwrap_or(u64::MAX), Ordering::AcqRel);
    }

    /// A call has come to wait, until what this gives is dropped.
    pub(super) fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        Waiting(self)
    }
}

/// A call that waits for a stream.
pub(super) struct Waiting<'a>(&'a Activity);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // The time first: whoever sees nobody waiting sees since when.
        self.0.over_at(Instant::now());
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_end_of_the_last_wait_is_remembered() {
        let activity = Activity::new();
        assert_eq!((activity.waiting(), activity.last()), (0, None));
        let first = activity.wait();
        tokio::time::advance(Duration::from_secs(1)).await;
        let second = activity.wait();
        assert_eq!(activity.waiting(), 2);
        drop(first);
        tokio::time::advance(Duration::from_secs(1)).await;
        drop(second);
        let last = activity.born + Duration::from_secs(2);
        assert_eq!((activity.waiting(), activity.last()), (0, Some(last)));
        activity.over_at(activity.born + Duration::from_secs(1));
        assert_eq!(activity.last(), Some(last), "what is told late changes nothing");
    }
}
