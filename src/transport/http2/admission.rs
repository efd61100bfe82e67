//! Which streams may open now, and which wait: first in, first out, within what the server takes.
//!
//! The connections of one address share an admission: a call that finds no place waits for one on
//! any of them. As long as nobody waits, taking a place and giving it back touch one counter each.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use crate::sync::RwLockWriteGuard;

use super::super::ConnectionOptions;
use super::super::error::StreamError;
use super::connection::{Admitted, Connection};
use super::members::Members;
use crate::types::Authority;

/// Admits streams to the connections of one address.
pub(super) struct Admission {
    /// Calls that wait for a place. Nobody takes one past them.
    queued: AtomicUsize,
    /// How many may.
    queued_max: usize,
    /// Those calls, the first one first. Some may have gone.
    queue: Mutex<VecDeque<Waiter>>,
    /// Whether streams go to the connection that has fewest, and not to the oldest with room.
    spread: bool,
    /// The connections that take streams.
    members: Members,
    /// Told when a call comes to wait.
    crowded: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// Where the connections were dialled: its timers serve callers that run elsewhere.
    runtime: Handle,
}

/// A call that waits for a place.
struct Waiter {
    granted: oneshot::Sender<Admitted>,
    /// On which connections, where not any will do; never none.
    only: Option<Only>,
}

/// The connections that a call can use whose server has to be of a certain name.
pub(super) struct Only {
    /// The name.
    authority: Authority,
    /// Those of which the server has proved it, of all that there were.
    proved: Vec<Connection>,
    /// All that there were.
    of: Arc<[Connection]>,
}

/// The places of one connection. All but taking happens under the lock of the connection.
#[derive(Default)]
pub(super) struct Places {
    free: AtomicUsize,
    limit: AtomicUsize,
    /// Whether none is to be taken for now, free or not.
    withheld: AtomicBool,
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
    /// The connections are others than those that the call was judged by.
    Changed,
    /// It cannot wait any longer, or not at all.
    Failed(StreamError),
}

impl Places {
    pub(super) fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// How many are taken.
    fn taken(&self) -> usize {
        self.limit().saturating_sub(self.free.load(Ordering::Relaxed))
    }

    /// Has none be taken from now on, or some again. Who gives them again has to
    /// [serve](Admission::serve_if_queued) those who wait.
    pub(super) fn withhold(&self, withheld: bool) {
        self.withheld.store(withheld, Ordering::SeqCst);
    }

    /// Whether none is to be taken for now.
    pub(super) fn are_withheld(&self) -> bool {
        self.withheld.load(Ordering::SeqCst)
    }

    /// Whether one could be taken.
    fn has_room(&self) -> bool {
        !self.are_withheld() && self.free.load(Ordering::SeqCst) > 0
    }

    fn take(&self) -> bool {
        if self.are_withheld() {
            return false;
        }
        let less = |free: usize| free.checked_sub(1);
        self.free.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok()
    }

    fn take_all(&self, count: usize) -> usize {
        let left = |free: usize| Some(free.saturating_sub(count));
        // The closure always gives a value.
        let before = self.free.fetch_update(Ordering::SeqCst, Ordering::SeqCst, left);
        before.unwrap_or_default().min(count)
    }
}

impl Admission {
    /// One without connections. Must be called on a tokio runtime.
    pub(super) fn new(options: &ConnectionOptions) -> Arc<Self> {
        Arc::new(Self {
            queued: AtomicUsize::new(0),
            queued_max: options.queued_streams_max,
            queue: Mutex::default(),
            spread: options.connections_per_address > 1,
            members: Members::new(),
            crowded: OnceLock::new(),
            runtime: Handle::current(),
        })
    }

    /// The connections, to which one may be added as long as there is one, or at the very
    /// beginning.
    pub(super) fn members_mut(&self) -> RwLockWriteGuard<'_, Arc<[Connection]>> {
        self.members.lock()
    }

    /// The connections that take streams, oldest first.
    pub(super) fn members(&self) -> Arc<[Connection]> {
        self.members.all()
    }

    /// Calls `crowded` whenever a call comes to wait. The first to say so counts.
    pub(super) fn on_crowded(&self, crowded: impl Fn() + Send + Sync + 'static) {
        self.crowded.get_or_init(|| Box::new(crowded));
    }

    /// A place on a connection that `fits`, if there is one and nobody waits for it; on `asked` if
    /// that is as good as any.
    pub(super) fn admit_now(
        &self,
        asked: &Connection,
        fits: impl Fn(&Connection) -> bool,
    ) -> Option<Admitted> {
        if self.queued.load(Ordering::SeqCst) > 0 {
            return None;
        }
        if !self.spread && fits(asked) && asked.places().take() {
            return Some(Admitted::new(asked));
        }
        self.any_place(fits)
    }

    /// Which of the connections have proved to be the host of `authority`; says why the first has
    /// not, where none has. The verifier may be the application's, so no lock is held.
    pub(super) fn only(&self, authority: &Authority) -> Result<Only, StreamError> {
        let of = self.members();
        let mut only = Only { authority: authority.clone(), proved: Vec::new(), of: of.clone() };
        let mut first_error = None;
        for connection in &*of {
            match connection.check_own(authority) {
                Ok(()) => only.proved.push(connection.clone()),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        match first_error {
            Some(error) if only.proved.is_empty() => Err(error),
            _ => Ok(only),
        }
    }

    /// Waits for a place, where there is an `only` on one of those connections, and on any that
    /// joins them with the same name proved. Cancel-safe, at the price of the place in the queue.
    pub(super) async fn admit_later(
        &self,
        deadline: Option<Instant>,
        only: Option<Only>,
    ) -> Result<Admitted, Refusal> {
        let before = self.queued.fetch_add(1, Ordering::SeqCst);
        let _queued = Queued(self);
        if before >= self.queued_max {
            let limit = self.queued_max;
            return Err(Refusal::Failed(StreamError::QueueFull { limit }));
        }
        let is_choosy = only.is_some();
        let (sender, granted) = oneshot::channel();
        {
            let mut queue = self.queue();
            // From here on whoever leaves or joins the connections looks into the queue.
            if let Some(only) = &only
                && !Arc::ptr_eq(&only.of, &self.members())
            {
                return Err(Refusal::Changed);
            }
            queue.push_back(Waiter { granted: sender, only });
        }
        // A place may have become free before this call was seen to wait, or the last connection
        // may have gone.
        self.serve();
        if let Some(crowded) = self.crowded.get() {
            crowded();
        }
        let granted = match deadline {
            None => granted.await,
            Some(deadline) => {
                let expired = {
                    // The caller may run outside of any runtime.
                    let _entered = self.runtime.enter();
                    sleep_until(deadline)
                };
                tokio::select! {
                    biased;
                    granted = granted => granted,
                    () = expired => return Err(Refusal::Failed(StreamError::Overdue)),
                }
            }
        };
        granted.map_err(|_gone| {
            let is_over = !is_choosy || self.members().is_empty();
            if is_over { Refusal::Stopped } else { Refusal::Changed }
        })
    }

    /// Has calls that wait for a server of a certain name wait for `connection` too, which has
    /// joined the others, where its server has proved that name.
    pub(super) fn has_joined(&self, connection: &Connection) {
        let mut wanted: Vec<Authority> = Vec::new();
        for only in self.queue().iter().filter_map(|waiter| waiter.only.as_ref()) {
            if !wanted.contains(&only.authority) {
                wanted.push(only.authority.clone());
            }
        }
        // Without the lock: the verifier may be the application's.
        wanted.retain(|authority| connection.check_own(authority).is_ok());
        if wanted.is_empty() {
            return;
        }
        let mut queue = self.queue();
        // If it has left again, whoever waits must not wait for it.
        if !self.members().iter().any(|member| is_same(member, connection)) {
            return;
        }
        for only in queue.iter_mut().filter_map(|waiter| waiter.only.as_mut()) {
            let is_known = only.proved.iter().any(|it| is_same(it, connection));
            if !is_known && wanted.contains(&only.authority) {
                only.proved.push(connection.clone());
            }
        }
    }

    /// Takes the place of a stream that has ended back. What waits is served by
    /// [`serve_if_queued`](Self::serve_if_queued), without the lock of the connection.
    pub(super) fn give_back(places: &Places, quota: &mut Quota) {
        if quota.is_over {
            return;
        }
        if quota.deficit > 0 {
            quota.deficit -= 1;
        } else {
            places.free.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Gives free places to those who wait.
    pub(super) fn serve_if_queued(&self) {
        if self.queued.load(Ordering::SeqCst) > 0 {
            self.serve();
        }
    }

    /// Takes on what the peer says of its limit. Says whether there is more room now.
    pub(super) fn set_limit(places: &Places, quota: &mut Quota, limit: usize) -> bool {
        if quota.is_over {
            return false;
        }
        let before = places.limit.swap(limit, Ordering::Relaxed);
        let raised = limit.saturating_sub(before);
        let lowered = before.saturating_sub(limit);
        let swallowed = raised.min(quota.deficit);
        quota.deficit -= swallowed;
        places.free.fetch_add(raised - swallowed, Ordering::SeqCst);
        quota.deficit += lowered - places.take_all(lowered);
        raised > swallowed
    }

    /// Takes a connection out that takes no more streams, which `stop` makes known; wakes who
    /// waits if it was the last.
    pub(super) fn leave(&self, places: &Places, quota: &mut Quota, stop: impl FnOnce()) {
        if quota.is_over {
            return;
        }
        quota.is_over = true;
        places.take_all(usize::MAX);
        let is_leaving = |member: &Connection| std::ptr::eq(member.places(), places);
        let waiting = if self.members.leave(is_leaving, stop) {
            std::mem::take(&mut *self.queue())
        } else {
            self.take_stranded(is_leaving)
        };
        self.dismiss(waiting);
    }

    /// Takes those out of the queue that no connection is left for, as one `is_leaving`.
    fn take_stranded(&self, is_leaving: impl Fn(&Connection) -> bool) -> VecDeque<Waiter> {
        let mut queue = self.queue();
        let mut is_any_stranded = false;
        for only in queue.iter_mut().filter_map(|waiter| waiter.only.as_mut()) {
            only.proved.retain(|connection| !is_leaving(connection));
            is_any_stranded |= only.proved.is_empty();
        }
        if !is_any_stranded {
            return VecDeque::new();
        }
        let is_stranded =
            |waiter: &Waiter| waiter.only.as_ref().is_some_and(|only| only.proved.is_empty());
        let (stranded, rest) = std::mem::take(&mut *queue).into_iter().partition(is_stranded);
        *queue = rest;
        stranded
    }

    /// How many calls wait.
    pub(super) fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    /// Hands places out in the order of the queue, as long as there are both. Calls that no free
    /// place is good for stay where they are, and those behind them have it.
    fn serve(&self) {
        let (mut granted, mut passed) = (Vec::new(), Vec::new());
        let mut queue = self.queue();
        let members = self.members();
        if members.is_empty() {
            let waiting = std::mem::take(&mut *queue);
            drop(queue);
            return self.dismiss(waiting);
        }
        while let Some(first) = queue.pop_front() {
            if first.granted.is_closed() {
                continue;
            }
            let fits = |connection: &Connection| {
                first
                    .only
                    .as_ref()
                    .is_none_or(|only| only.proved.iter().any(|it| is_same(it, connection)))
            };
            if let Some(place) = self.any_place(fits) {
                granted.push((first, place));
            } else if members.iter().any(|member| member.places().has_room()) {
                passed.push(first);
            } else {
                queue.push_front(first);
                break;
            }
        }
        for waiter in passed.into_iter().rev() {
            queue.push_front(waiter);
        }
        drop(queue);
        // Without the lock: whoever is woken may come here at once.
        for (first, place) in granted {
            // One that nobody wants any more is given back by its drop, which serves again.
            let _ = first.granted.send(place);
        }
    }

    /// Tells those who wait that no connection takes their streams any more: a few at a time, so that
    /// the others on the runtime have their turns, and apart, as the caller holds locks.
    fn dismiss(&self, mut waiting: VecDeque<Waiter>) {
        if waiting.is_empty() {
            return;
        }
        // Dropped, they tell. If the runtime is gone, that is now.
        self.runtime.spawn(async move {
            while !waiting.is_empty() {
                drop(waiting.drain(..waiting.len().min(SLICE_MAX)));
                tokio::task::yield_now().await;
            }
        });
    }

    fn any_place(&self, fits: impl Fn(&Connection) -> bool) -> Option<Admitted> {
        let members = self.members();
        let fitting = || members.iter().filter(|connection| fits(connection));
        let idlest = || fitting().min_by_key(|connection| connection.places().taken());
        let found = match self.spread.then(idlest).flatten() {
            Some(idlest) if idlest.places().take() => Some(idlest),
            _ => fitting().find(|connection| connection.places().take()),
        };
        found.map(Admitted::new)
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Waiter>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_same(one: &Connection, other: &Connection) -> bool {
    std::ptr::eq(one.places(), other.places())
}

/// A place in the queue.
struct Queued<'a>(&'a Admission);

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        let left = self.0.queued.fetch_sub(1, Ordering::SeqCst) - 1;
        let mut queue = self.0.queue();
        // Those who have gone must not pile up while nobody is served.
        if queue.len() > 2 * left + GONE_MAX {
            queue.retain(|waiting| !waiting.granted.is_closed());
        }
    }
}

/// How many are told at a time that they wait in vain.
const SLICE_MAX: usize = 64;

/// So many that have gone may lie in a queue before it is tidied.
const GONE_MAX: usize = 32;
