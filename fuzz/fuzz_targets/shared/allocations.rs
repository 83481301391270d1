//! An allocator that notes the largest single allocation: what damaged bytes say of lengths must
//! not decide how much is asked for. Included by the targets that check this.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
};

struct Noting;

/// In bytes, since it was last set to zero. Relaxed: a target runs in one thread.
static LARGEST: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Noting = Noting;

fn note(len: usize) {
    LARGEST.fetch_max(len, Ordering::Relaxed);
}

// SAFETY: every call is handed on to `System` as it came; the note beside it allocates nothing.
unsafe impl GlobalAlloc for Noting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller's contract is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller's contract is handed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_len: usize) -> *mut u8 {
        note(new_len);
        // SAFETY: the caller's contract is handed on; `memory` came from `System`.
        unsafe { System.realloc(memory, layout, new_len) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is handed on; `memory` came from `System`.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// Does some work in which no single allocation may be larger than `bound` bytes.
pub fn bounded<R>(bound: usize, work: impl FnOnce() -> R) -> R {
    LARGEST.store(0, Ordering::Relaxed);
    let result = work();
    let largest = LARGEST.load(Ordering::Relaxed);
    assert!(largest <= bound, "{largest} bytes at once, at most {bound} are needed");
    result
}
