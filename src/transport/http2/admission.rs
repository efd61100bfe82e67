//! Which streams may open now, and which wait: first in, first out, within what the server takes.
//!
//! The connections of one address share an admission. A permit of it is a place on one of them.

use std::hint;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockWriteGuard};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, TryAcquireError};
use tokio::time::{Instant, sleep_until};

use super::super::ConnectionOptions;
use super::super::error::StreamError;
use super::connection::Connection;

/// Admits streams to the connections of one address.
pub(super) struct Admission {
    /// A permit for each free place. Closed when the last connection takes no more streams.
    permits: Semaphore,
    /// Permits that are out for places of connections that are gone.
    ghosts: AtomicUsize,
    /// Calls that wait for a permit.
    queued: AtomicUsize,
    /// How many may.
    queued_max: usize,
    /// Whether streams go to the connection that has fewest, and not to the oldest with room.
    spread: bool,
    /// The connections that take streams, oldest first.
    members: RwLock<Arc<[Connection]>>,
    /// Told when a call comes to wait.
    crowded: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// Where the connections were dialled: its timers serve callers that run elsewhere.
    runtime: Handle,
}

/// The free places of one connection. Changed under the lock of the connection, but for being
/// taken.
pub(super) struct Places {
    free: AtomicUsize,
    limit: AtomicUsize,
}

/// What is known of the peer's limit. Lies under the lock of the connection.
#[derive(Default)]
pub(super) struct Quota {
    /// Streams that are open beyond the limit, because it was lowered.
    deficit: usize,
    /// Whether the connection takes no more streams: then places mean nothing any more.
    is_over: bool,
}

/// Why a stream is not admitted.
pub(super) enum Refusal {
    /// No connection takes streams any more.
    Stopped,
    /// It cannot wait any longer, or not at all.
    Failed(StreamError),
}

/// Where a permit leads.
pub(super) enum Place {
    /// To the connection that was asked.
    Own,
    /// To another one of the same address.
    Other(Connection),
    /// Nowhere: the connection is gone that it was for.
    Gone,
}

impl Places {
    pub(super) const fn none() -> Self {
        Self { free: AtomicUsize::new(0), limit: AtomicUsize::new(0) }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// How many are taken.
    fn taken(&self) -> usize {
        self.limit().saturating_sub(self.free.load(Ordering::Relaxed))
    }

    fn take(&self) -> bool {
        let less = |free: usize| free.checked_sub(1);
        self.free.fetch_update(Ordering::AcqRel, Ordering::Relaxed, less).is_ok()
    }
}

impl Admission {
    /// One without connections. Must be called on a tokio runtime.
    pub(super) fn new(options: &ConnectionOptions) -> Arc<Self> {
        Arc::new(Self {
            permits: Semaphore::new(0),
            ghosts: AtomicUsize::new(0),
            queued: AtomicUsize::new(0),
            queued_max: options.queued_streams_max,
            spread: options.connections_per_address > 1,
            members: RwLock::new(Arc::new([])),
            crowded: OnceLock::new(),
            runtime: Handle::current(),
        })
    }

    /// The connections, to which one may be added as long as there is one, or at the very
    /// beginning.
    pub(super) fn members_mut(&self) -> RwLockWriteGuard<'_, Arc<[Connection]>> {
        self.members.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connections that take streams, oldest first.
    pub(super) fn members(&self) -> Arc<[Connection]> {
        self.members.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Calls `crowded` whenever a call comes to wait. The first to say so counts.
    pub(super) fn on_crowded(&self, crowded: impl Fn() + Send + Sync + 'static) {
        self.crowded.get_or_init(|| Box::new(crowded));
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
        if let Some(crowded) = self.crowded.get() {
            crowded();
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

    /// The place that a permit is for, now taken; on `asked` if that is as good as any.
    pub(super) fn place(&self, asked: &Connection) -> Place {
        if !self.spread && asked.places().take() {
            return Place::Own;
        }
        loop {
            let members = self.members();
            let found = if self.spread {
                let mut by_load: Vec<_> = members.iter().collect();
                by_load.sort_by_key(|connection| connection.places().taken());
                by_load.into_iter().find(|connection| connection.places().take())
            } else {
                members.iter().find(|connection| connection.places().take())
            };
            if let Some(connection) = found {
                return Place::Other(connection.clone());
            }
            let less = |ghosts: usize| ghosts.checked_sub(1);
            let is_ghost =
                self.ghosts.fetch_update(Ordering::AcqRel, Ordering::Relaxed, less).is_ok();
            if is_ghost || members.is_empty() {
                return Place::Gone;
            }
            // There are as many places as permits: while this was looking, one was freed on a
            // connection that it had looked at before.
            hint::spin_loop();
        }
    }

    /// Takes the place of a stream that has ended back.
    pub(super) fn give_back(&self, places: &Places, quota: &mut Quota) {
        if quota.is_over {
            return;
        }
        if quota.deficit > 0 {
            quota.deficit -= 1;
        } else {
            self.add(places, 1);
        }
    }

    /// Takes on what the peer says of its limit.
    pub(super) fn set_limit(&self, places: &Places, quota: &mut Quota, limit: usize) {
        if quota.is_over {
            return;
        }
        let limit = limit.min(LIMIT_MAX);
        let before = places.limit.swap(limit, Ordering::Relaxed);
        let raised = limit.saturating_sub(before);
        let lowered = before.saturating_sub(limit);
        let swallowed = raised.min(quota.deficit);
        quota.deficit -= swallowed;
        self.add(places, raised - swallowed);
        quota.deficit += lowered - self.remove(places, lowered);
    }

    /// Takes `connection` out, which takes no more streams; wakes who waits if it was the last.
    pub(super) fn leave(&self, connection: &Places, quota: &mut Quota) {
        if quota.is_over {
            return;
        }
        quota.is_over = true;
        let mut members = self.members_mut();
        let is_other = |member: &&Connection| !std::ptr::eq(member.places(), connection);
        *members = members.iter().filter(is_other).cloned().collect();
        if members.is_empty() {
            self.permits.close();
        }
        self.remove(connection, usize::MAX);
    }

    /// How many calls wait.
    pub(super) fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    fn add(&self, places: &Places, count: usize) {
        if count > 0 {
            // Places first: whoever gets a permit must find one.
            places.free.fetch_add(count, Ordering::AcqRel);
            self.permits.add_permits(count);
        }
    }

    /// Takes up to `count` free places away; says how many there were.
    fn remove(&self, places: &Places, count: usize) -> usize {
        let left = |free: usize| Some(free.saturating_sub(count));
        let before = places.free.fetch_update(Ordering::AcqRel, Ordering::Acquire, left);
        // The closure always gives a value.
        let removed = before.unwrap_or_default().min(count);
        let ghosts = removed - self.permits.forget_permits(removed);
        self.ghosts.fetch_add(ghosts, Ordering::AcqRel);
        removed
    }
}

/// A place in the queue.
struct Queued<'a>(&'a AtomicUsize);

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// More streams than any server takes; those of many connections still add up.
const LIMIT_MAX: usize = Semaphore::MAX_PERMITS / 1024;
