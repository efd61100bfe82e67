//! A global allocator that counts what it is asked for.
//!
//! Every thread counts in a slot of its own with plain loads and stores: a shared counter, or only a locked
//! instruction, would cost a client in proportion to its allocations and so distort the CPU figures beside them.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ops::Sub;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// The system's allocator, counted.
pub(crate) struct Counting;

/// What has been asked of the allocator since the process started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allocated {
    /// Allocations; growing one counts as another.
    pub(crate) count: u64,
    /// Their sizes, summed.
    pub(crate) bytes: u64,
}

impl Sub for Allocated {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self { count: self.count - earlier.count, bytes: self.bytes - earlier.bytes }
    }
}

/// More than any process here has threads; those beyond share the last slot.
const SLOTS: usize = 64;

#[repr(align(128))]
struct Slot {
    count: AtomicU64,
    bytes: AtomicU64,
}

static TABLE: [Slot; SLOTS] =
    [const { Slot { count: AtomicU64::new(0), bytes: AtomicU64::new(0) } }; SLOTS];
static NEXT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    // Constant and without a destructor, so that reading it never allocates.
    static MINE: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// The sum over all threads.
pub(crate) fn allocated() -> Allocated {
    let sum = |of: fn(&Slot) -> &AtomicU64| TABLE.iter().map(|slot| of(slot).load(Relaxed)).sum();
    Allocated { count: sum(|slot| &slot.count), bytes: sum(|slot| &slot.bytes) }
}

#[inline]
fn count(bytes: usize) {
    let index = MINE.get();
    let index = if index < SLOTS { index } else { claim() };
    let slot = &TABLE[index];
    if index == SLOTS - 1 {
        slot.count.fetch_add(1, Relaxed);
        slot.bytes.fetch_add(bytes as u64, Relaxed);
    } else {
        slot.count.store(slot.count.load(Relaxed) + 1, Relaxed);
        let sum = slot.bytes.load(Relaxed) + bytes as u64;
        slot.bytes.store(sum, Relaxed);
    }
}

#[cold]
fn claim() -> usize {
    let index = NEXT.fetch_add(1, Relaxed).min(SLOTS - 1);
    MINE.set(index);
    index
}

// SAFETY: every call is handed on to `System` unchanged, so its guarantees are this allocator's; counting neither
// allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps the contract of `alloc`, which is `System`'s.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps the contract of `alloc_zeroed`, which is `System`'s.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: the caller keeps the contract of `realloc`, and `pointer` came from `System`.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`, and `pointer` came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hint::black_box;

    #[test]
    fn counts_allocations_of_all_threads() {
        let before = allocated();
        black_box(Vec::<u8>::with_capacity(1000));
        std::thread::spawn(|| black_box(Vec::<u8>::with_capacity(2000))).join().unwrap();
        let used = allocated() - before;
        assert!(used.count >= 2);
        assert!(used.bytes >= 3000);
    }
}
