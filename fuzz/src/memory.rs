//! How much memory one thread has in use at most.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, with a count for each thread of what that has taken and given back.
pub struct Counting;

/// Forgets the peak of this thread.
pub(crate) fn begin() -> isize {
    let live = LIVE.get();
    PEAK.set(live);
    live
}

/// The most that this thread has taken since [`begin`], which gave `before`.
pub(crate) fn used_since(before: isize) -> isize {
    PEAK.get() - before
}

fn took(bytes: usize) {
    let live = LIVE.get() + bytes.cast_signed();
    LIVE.set(live);
    PEAK.set(PEAK.get().max(live));
}

// SAFETY: every call is handed on to `System` unchanged, so its guarantees are this allocator's;
// counting neither allocates nor unwinds. The default `realloc` and `alloc_zeroed` use these two.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: the caller keeps the contract of `alloc`, which is `System`'s.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get() - layout.size().cast_signed());
        // SAFETY: the caller keeps the contract of `dealloc`, and `pointer` came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

thread_local! {
    // Constants without destructors: looking them up does not allocate.
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}
