//! An allocator that records the largest single allocation: lengths in damaged bytes must not
//! decide how much is allocated. Included by the targets that check this.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
};

struct Noting;

/// In bytes, since the last reset. Relaxed: a target runs in one thread.
static LARGEST: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Noting = Noting;

fn note(len: usize) {
    LARGEST.fetch_max(len, Ordering::Relaxed);
}

// SAFETY: every call is passed on to `System` unchanged; recording allocates nothing.
unsafe impl GlobalAlloc for Noting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller's contract is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller's contract is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_len: usize) -> *mut u8 {
        note(new_len);
        // SAFETY: the caller's contract is passed on; `memory` came from `System`.
        unsafe { System.realloc(memory, layout, new_len) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is passed on; `memory` came from `System`.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// Runs `work`, in which no single allocation may be larger than `bound` bytes.
pub fn bounded<R>(bound: usize, work: impl FnOnce() -> R) -> R {
    LARGEST.store(0, Ordering::Relaxed);
    let result = work();
    let largest = LARGEST.load(Ordering::Relaxed);
    assert!(largest <= bound, "{largest} bytes at once, at most {bound} are needed");
    result
}
