//! Which streams may open now, and which wait: first in, first out, within the peer's limit.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, TryAcquireError};
use tokio::time::{Instant, sleep_until};

use super::super::error::StreamError;

/// Admits streams to a connection.
pub(super) struct Admission {
    /// A permit for each stream that the peer takes. Closed when no more can be opened.
    permits: Semaphore,
    /// Calls that wait for a permit.
    queued: AtomicUsize,
    /// How many may.
    queued_max: usize,
    /// Where the connection was dialled: its timers serve callers that run elsewhere.
    runtime: Handle,
}

/// What admission knows of the peer's limit. Lies under the lock of the connection.
pub(super) struct Quota {
    /// How many streams the peer takes.
    limit: usize,
    /// Permits that are out beyond `limit`, because it was lowered: swallowed when given back.
    deficit: usize,
}

impl Quota {
    pub(super) fn limit(&self) -> usize {
        self.limit
    }
}

/// Why a stream is not admitted.
pub(super) enum Refusal {
    /// The connection takes no more streams at all.
    Stopped,
    /// It cannot wait any longer, or not at all.
    Failed(StreamError),
}

impl Admission {
    /// Must be called on a tokio runtime.
    pub(super) fn new(limit: usize, queued_max: usize) -> (Self, Quota) {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        let admission = Self {
            permits: Semaphore::new(limit),
            queued: AtomicUsize::new(0),
            queued_max,
            runtime: Handle::current(),
        };
        (admission, Quota { limit, deficit: 0 })
    }

    /// Whether a stream is admitted without waiting. One that is must be given back.
    pub(super) fn admit_now(&self) -> Result<bool, Refusal> {
        match self.permits.try_acquire() {
            Ok(permit) => {
                permit.forget();
                Ok(true)
            }
            Err(TryAcquireError::NoPermits) => Ok(false),
            Err(TryAcquireError::Closed) => Err(Refusal::Stopped),
        }
    }

    /// Waits for admission; says how long that took. Cancel-safe, at the price of the place in the
    /// queue.
    pub(super) async fn admit_later(&self, deadline: Option<Instant>) -> Result<Duration, Refusal> {
        let before = self.queued.fetch_add(1, Ordering::Relaxed);
        let _queued = Queued(&self.queued);
        if before >= self.queued_max {
            let limit = self.queued_max;
            return Err(Refusal::Failed(StreamError::QueueFull { limit }));
        }
        let since = Instant::now();
        let permit = match deadline {
            None => self.permits.acquire().await,
            Some(deadline) => {
                let expired = {
                    // The caller may run outside of any runtime.
                    let _entered = self.runtime.enter();
                    sleep_until(deadline)
                };
                tokio::select! {
                    biased;
                    permit = self.permits.acquire() => permit,
                    () = expired => return Err(Refusal::Failed(StreamError::DeadlineExceeded)),
                }
            }
        };
        permit.map_err(|_closed| Refusal::Stopped)?.forget();
        Ok(since.elapsed())
    }

    /// Takes the admission of a stream that has ended back.
    pub(super) fn give_back(&self, quota: &mut Quota) {
        if quota.deficit > 0 {
            quota.deficit -= 1;
        } else {
            self.permits.add_permits(1);
        }
    }

    /// Takes on what the peer says of its limit.
    pub(super) fn set_limit(&self, quota: &mut Quota, limit: usize) {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        let raised = limit.saturating_sub(quota.limit);
        let lowered = quota.limit.saturating_sub(limit);
        quota.limit = limit;
        if raised > 0 {
            let swallowed = raised.min(quota.deficit);
            quota.deficit -= swallowed;
            self.permits.add_permits(raised - swallowed);
        } else if lowered > 0 {
            quota.deficit += lowered - self.permits.forget_permits(lowered);
        }
    }

    /// Admits no more, and wakes who waits.
    pub(super) fn close(&self) {
        self.permits.close();
    }

    /// How many calls wait.
    pub(super) fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }
}

/// A place in the queue.
struct Queued<'a>(&'a AtomicUsize);

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
