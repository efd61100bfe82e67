//! Whether a channel is in use, apart from the streams that its connections know of.

use std::time::Duration;

use crate::sync::{AtomicU64, AtomicUsize, Instant, Ordering};

/// Counts the calls of a channel that have no stream, because they wait for one; and knows when the
/// last of them was over. Calls that have a stream are counted by its connection: nothing here is
/// on their way.
pub(crate) struct Activity {
    waiting: AtomicUsize,
    waiting_max: usize,
    /// In nanoseconds since `born`; 0 before the first.
    last: AtomicU64,
    born: Instant,
}

impl Activity {
    /// For a channel of which so many calls may wait.
    pub(super) fn new(waiting_max: usize) -> Self {
        let (waiting, last) = (AtomicUsize::new(0), AtomicU64::new(0));
        Self { waiting, waiting_max, last, born: Instant::now() }
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

    /// A call has come to wait, until what this gives is dropped; or must not, as too many do.
    pub(super) fn wait(&self) -> Result<Waiting<'_>, Full> {
        let before = self.waiting.fetch_add(1, Ordering::AcqRel);
        let waiting = Waiting(self);
        if before < self.waiting_max { Ok(waiting) } else { Err(Full { limit: self.waiting_max }) }
    }

    /// A call that is under way has no stream for now, until what this gives is dropped.
    pub(super) fn stay(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        Waiting(self)
    }
}

/// As many calls wait as may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full {
    pub(super) limit: usize,
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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_end_of_the_last_wait_is_remembered() {
        let activity = Activity::new(2);
        assert_eq!((activity.waiting(), activity.last()), (0, None));
        let first = activity.wait().unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
        let second = activity.wait().unwrap();
        assert!(matches!(activity.wait(), Err(Full { limit: 2 })));
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
