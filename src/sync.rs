//! The atomics, locks and cells of everything by which threads hand something to one another
//! without a message.

pub(crate) use std::sync::{Mutex, MutexGuard};

use std::sync::PoisonError;

/// Locks `mutex`. A panic under a lock is a defect of its own; what it guards stays usable.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
