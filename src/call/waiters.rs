//! Those who wait for something new, and how they are woken: in the order in which they came, and
//! a few at a time.
//!
//! A hundred thousand calls that are woken at once are polled before anything else gets its turn,
//! and a resolver that flaps wakes them again before they are through. So whoever has news
//! [announces](Waiters::announce) it, and the waiters are woken in [slices](Turn::wake_slice),
//! between which others run.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use slab::Slab;

use crate::sync::{Mutex, MutexGuard, lock};

/// The waiters, oldest first.
pub(crate) struct Waiters {
    /// Never held while a waker is woken, cloned or dropped: those are foreign code.
    line: Mutex<Line>,
}

/// What somebody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// A newer snapshot.
    Snapshot,
    /// A newer snapshot, or a connection in a slot that has none.
    Connection,
}

/// What there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// A newer snapshot: news for everybody.
    Snapshot,
    /// A connection in a slot: news for those who wait for one.
    Connection,
}

#[derive(Default)]
struct Line {
    waiting: Slab<Entry>,
    /// Waiters for a newer snapshot alone.
    for_snapshots: Queue,
    /// Waiters for a connection as well.
    for_connections: Queue,
    /// Waiters so far; each has the number of those before it.
    joined: u64,
    /// Whether somebody has the turn; then somebody is due.
    is_waking: bool,
}

struct Entry {
    serial: u64,
    /// `None` until it is first polled.
    waker: Option<Waker>,
}

/// Waiters for the same thing, oldest first; those who have left may still be among them.
#[derive(Default)]
struct Queue {
    places: VecDeque<Place>,
    /// All that joined before this one are to be woken.
    due_before: u64,
}

/// A waiter: its key, and its serial, which tells it from later ones with that key.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place {
    key: usize,
    serial: u64,
}

impl Waiters {
    pub(super) fn new() -> Self {
        Self { line: Mutex::new(Line::default()) }
    }

    /// Joins the line. What is announced from now on is not missed: look for what was announced
    /// before after this, then await it.
    pub(super) fn join(&self, wish: Wish) -> Waiting<'_> {
        let mut line = self.lock();
        let serial = line.joined;
        line.joined += 1;
        let place = Place { key: line.waiting.insert(Entry { serial, waker: None }), serial };
        line.queue(wish).places.push_back(place);
        Waiting { waiters: self, place }
    }

    /// Everybody who waits for `news` is to be woken, by whoever has the turn: by the caller, if
    /// this gives it.
    #[must_use = "dropped, it wakes all of them at once"]
    pub(super) fn announce(self: &Arc<Self>, news: News) -> Option<Turn> {
        let mut line = self.lock();
        let joined = line.joined;
        line.for_connections.due_before = joined;
        match news {
            News::Snapshot => line.for_snapshots.due_before = joined,
            News::Connection => {}
        }
        if line.is_waking || !line.has_due() {
            return None;
        }
        line.is_waking = true;
        Some(Turn { waiters: Some(self.clone()) })
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        lock(&self.line)
    }
}

/// The right and the duty to wake those who are due. Dropped before it is over, it wakes all of
/// them at once.
pub(super) struct Turn {
    /// `None` once it is over.
    waiters: Option<Arc<Waiters>>,
}

impl Turn {
    /// Wakes up to [`SLICE_MAX`] of those who are due. Says whether there are more; others are to
    /// run before this is called again.
    pub(super) fn wake_slice(&mut self) -> bool {
        let Some(waiters) = &self.waiters else { return false };
        let mut slice = Vec::new();
        let mut line = waiters.lock();
        while slice.len() < SLICE_MAX
            && let Some(entry) = line.pop_due()
        {
            // One that was never polled looks when it is.
            slice.extend(entry.waker);
        }
        let has_more = line.has_due();
        line.is_waking = has_more;
        drop(line);
        if !has_more {
            self.waiters = None;
        }
        slice.into_iter().for_each(Waker::wake);
        has_more
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        while self.wake_slice() {}
    }
}

impl Line {
    fn queue(&mut self, wish: Wish) -> &mut Queue {
        match wish {
            Wish::Snapshot => &mut self.for_snapshots,
            Wish::Connection => &mut self.for_connections,
        }
    }

    /// Takes the oldest out of those who are due.
    fn pop_due(&mut self) -> Option<Entry> {
        let Self { waiting, for_snapshots, for_connections, .. } = self;
        let due = [for_snapshots, for_connections];
        let oldest = due.into_iter().filter_map(|queue| Some((queue.first_due(waiting)?, queue)));
        let (place, queue) = oldest.min_by_key(|(place, _)| place.serial)?;
        queue.places.pop_front();
        Some(waiting.remove(place.key))
    }

    fn has_due(&mut self) -> bool {
        let Self { waiting, for_snapshots, for_connections, .. } = self;
        for_snapshots.first_due(waiting).is_some() || for_connections.first_due(waiting).is_some()
    }

    fn has(&self, place: Place) -> bool {
        has(&self.waiting, place)
    }

    /// Takes a waiter out that has gone.
    fn leave(&mut self, place: Place) -> Option<Entry> {
        if !self.has(place) {
            return None;
        }
        let left = self.waiting.remove(place.key);
        let Self { waiting, for_snapshots, for_connections, .. } = self;
        for queue in [for_snapshots, for_connections] {
            // Those who have gone must not pile up while nobody is woken.
            if queue.places.len() > 2 * waiting.len() + GONE_MAX {
                queue.places.retain(|place| has(waiting, *place));
            }
        }
        Some(left)
    }
}

impl Queue {
    /// The oldest, if it is due; forgets who has gone before it.
    fn first_due(&mut self, waiting: &Slab<Entry>) -> Option<Place> {
        while let Some(place) = self.places.front().copied() {
            if has(waiting, place) {
                return Some(place).filter(|place| place.serial < self.due_before);
            }
            self.places.pop_front();
        }
        None
    }
}

fn has(waiting: &Slab<Entry>, place: Place) -> bool {
    waiting.get(place.key).is_some_and(|entry| entry.serial == place.serial)
}

/// A place in the line. Ready once it has been woken. Cancel-safe: dropped, it leaves.
pub(super) struct Waiting<'a> {
    waiters: &'a Waiters,
    place: Place,
}

impl Future for Waiting<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let waker = cx.waker().clone();
        let mut line = self.waiters.lock();
        if !line.has(self.place) {
            return Poll::Ready(());
        }
        let before = line.waiting[self.place.key].waker.replace(waker);
        drop(line);
        drop(before);
        Poll::Pending
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let left = self.waiters.lock().leave(self.place);
        drop(left);
    }
}

/// How many are woken before others get their turn: few enough that an actor answers soon, enough
/// that the turns themselves cost little.
pub(super) const SLICE_MAX: usize = 64;

/// So many who have gone may lie in a queue before it is tidied.
const GONE_MAX: usize = 32;

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    impl Count {
        fn get(&self) -> usize {
            self.0.load(Ordering::SeqCst)
        }
    }

    /// So many waiters that have been polled once.
    fn crowd<'a>(
        waiters: &'a Waiters,
        wish: Wish,
        size: usize,
        count: &Arc<Count>,
    ) -> Vec<Pin<Box<Waiting<'a>>>> {
        let waker = Waker::from(count.clone());
        let join = |_| {
            let mut waiting = Box::pin(waiters.join(wish));
            assert!(waiting.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            waiting
        };
        (0..size).map(join).collect()
    }

    #[test]
    fn a_crowd_is_woken_in_slices_of_a_bounded_size() {
        let (waiters, count) = (Arc::new(Waiters::new()), Arc::new(Count::default()));
        let crowd = crowd(&waiters, Wish::Snapshot, 1_000, &count);
        let mut turn = waiters.announce(News::Snapshot).unwrap();
        let mut slices = Vec::new();
        let mut has_more = true;
        while has_more {
            let before = count.get();
            has_more = turn.wake_slice();
            slices.push(count.get() - before);
        }
        assert_eq!(slices.pop(), Some(1_000 % SLICE_MAX));
        assert_eq!(slices, vec![SLICE_MAX; 1_000 / SLICE_MAX]);
        drop(crowd);
        assert!(waiters.lock().waiting.is_empty());
    }

    #[test]
    fn who_joins_after_the_news_is_not_woken_by_it() {
        let (waiters, count) = (Arc::new(Waiters::new()), Arc::new(Count::default()));
        let early = crowd(&waiters, Wish::Snapshot, SLICE_MAX + 1, &count);
        let mut turn = waiters.announce(News::Snapshot).unwrap();
        assert!(turn.wake_slice());
        let late = crowd(&waiters, Wish::Snapshot, 3, &count);
        assert!(!turn.wake_slice());
        assert_eq!(count.get(), early.len());
        // More news while the turn is somebody else's is for that one to tell.
        let mut turn = waiters.announce(News::Snapshot).unwrap();
        assert!(waiters.announce(News::Snapshot).is_none());
        assert!(!turn.wake_slice());
        assert_eq!(count.get(), early.len() + late.len());
    }

    #[test]
    fn a_connection_is_news_for_those_alone_who_wait_for_one() {
        let (waiters, count) = (Arc::new(Waiters::new()), Arc::new(Count::default()));
        let for_snapshots = crowd(&waiters, Wish::Snapshot, 5, &count);
        let for_connections = crowd(&waiters, Wish::Connection, 7, &count);
        drop(waiters.announce(News::Connection));
        assert_eq!(count.get(), for_connections.len());
        drop(waiters.announce(News::Snapshot));
        assert_eq!(count.get(), for_connections.len() + for_snapshots.len());
    }

    #[test]
    fn a_turn_that_is_given_up_wakes_all_who_are_due() {
        let (waiters, count) = (Arc::new(Waiters::new()), Arc::new(Count::default()));
        let early = crowd(&waiters, Wish::Connection, 1_000, &count);
        let mut turn = waiters.announce(News::Snapshot).unwrap();
        assert!(turn.wake_slice());
        drop(turn);
        assert_eq!(count.get(), early.len());
        // The turn is free again.
        let _late = crowd(&waiters, Wish::Connection, 1, &count);
        assert!(waiters.announce(News::Snapshot).is_some());
    }

    #[test]
    fn those_who_leave_are_forgotten_and_do_not_pile_up() {
        let (waiters, count) = (Arc::new(Waiters::new()), Arc::new(Count::default()));
        let stays = crowd(&waiters, Wish::Snapshot, 1, &count);
        for _ in 0..10_000 {
            drop(crowd(&waiters, Wish::Snapshot, 1, &count));
        }
        assert!(waiters.lock().for_snapshots.places.len() <= 2 + GONE_MAX + 1);
        drop(waiters.announce(News::Snapshot));
        assert_eq!(count.get(), stays.len());
    }
}
