//! The atomics, locks and cells by which threads hand something to one another without a message.
//!
//! Files that take them from here, and nothing like them from elsewhere, are model-checked: the
//! package in `model` compiles these very files with `cfg(loom)`, under which this module gives
//! what loom watches, and tries every order in which threads can run. (This package itself is never
//! compiled so: tokio takes the same `cfg` for itself.) `tests/layers.rs` names the files.

#[cfg(not(loom))]
pub(crate) use arc_swap::{ArcSwap, ArcSwapOption, Guard};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
#[cfg(not(loom))]
pub(crate) use std::sync::{Mutex, MutexGuard, RwLock, RwLockWriteGuard};
#[cfg(not(loom))]
pub(crate) use tokio::time::Instant;

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
#[cfg(loom)]
pub(crate) use loom::sync::{Mutex, MutexGuard, RwLock, RwLockWriteGuard};
#[cfg(loom)]
pub(crate) use modelled::{ArcSwap, ArcSwapOption, Guard};
/// Time is not modelled.
#[cfg(loom)]
pub(crate) use std::time::Instant;

use std::sync::PoisonError;

/// Locks `mutex`. A panic under a lock is a defect of its own; what it guards stays usable.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Stands in for arc-swap: a cell that is read and replaced as a whole.
///
/// Of arc-swap it takes what its documentation promises: a load sees all that happened before the
/// store that it reads from, and a store, a swap and a compare-and-swap are atomic. A load need not
/// read the newest value, and may in the model read an older one, wherever the memory model of
/// `Acquire` and `AcqRel` on one pointer allows for it. How arc-swap counts references is not
/// modelled: every value lives until the cell is dropped.
#[cfg(loom)]
mod modelled {
    use std::sync::{Arc, Mutex, PoisonError};

    use super::{AtomicUsize, Ordering};

    /// What a load gives.
    pub(crate) type Guard<V> = V;
    pub(crate) type ArcSwap<T> = Cell<Arc<T>>;
    pub(crate) type ArcSwapOption<T> = Cell<Option<Arc<T>>>;

    pub(crate) struct Cell<V> {
        /// Every value so far. The lock is no part of the model: nobody waits for it.
        values: Mutex<Vec<V>>,
        /// Which of them is the current one.
        current: AtomicUsize,
    }

    impl<V: Clone> Cell<V> {
        fn of(first: V) -> Self {
            Self { values: Mutex::new(vec![first]), current: AtomicUsize::new(0) }
        }

        pub(crate) fn load(&self) -> Guard<V> {
            self.value(self.current.load(Ordering::Acquire))
        }

        pub(crate) fn store(&self, value: V) {
            self.swap(value);
        }

        pub(crate) fn swap(&self, value: V) -> V {
            let before = self.current.swap(self.add(value), Ordering::AcqRel);
            self.value(before)
        }

        pub(crate) fn rcu(&self, mut change: impl FnMut(&V) -> V) -> V {
            let mut current = self.current.load(Ordering::Acquire);
            loop {
                let before = self.value(current);
                let after = self.add(change(&before));
                let swapped = self.current.compare_exchange(
                    current,
                    after,
                    Ordering::AcqRel,
                    Ordering::Acquire,
                );
                match swapped {
                    Ok(_) => return before,
                    Err(other) => current = other,
                }
            }
        }

        fn add(&self, value: V) -> usize {
            let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
            values.push(value);
            values.len() - 1
        }

        fn value(&self, nth: usize) -> V {
            self.values.lock().unwrap_or_else(PoisonError::into_inner)[nth].clone()
        }
    }

    impl<T> Cell<Arc<T>> {
        pub(crate) fn from_pointee(first: T) -> Self {
            Self::of(Arc::new(first))
        }
    }

    impl<T> Cell<Option<Arc<T>>> {
        pub(crate) fn empty() -> Self {
            Self::of(None)
        }
    }
}
