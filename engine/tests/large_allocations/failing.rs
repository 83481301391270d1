//! An allocator that refuses one large allocation.
#![allow(unsafe_code)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    ptr,
    sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
};

/// From this size on an allocation counts, in bytes: what is smaller is taken to be there.
pub(crate) const LARGE_BYTES: usize = 256 << 10;

/// The system's allocator, which refuses what it is told to.
pub(crate) struct Failing;

/// How many large allocations come before the one that is refused; negative: none is.
static LEFT: AtomicI64 = AtomicI64::new(-1);
static SEEN: AtomicU64 = AtomicU64::new(0);
static REFUSED: AtomicU64 = AtomicU64::new(0);

/// What happened to large allocations while some work was done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    pub(crate) seen: u64,
    pub(crate) refused: u64,
}

/// Does some work of which the large allocation number `nth` is refused; none, if there are not so
/// many.
pub(crate) fn refusing<R>(nth: i64, work: impl FnOnce() -> R) -> (R, Outcome) {
    SEEN.store(0, Relaxed);
    REFUSED.store(0, Relaxed);
    LEFT.store(nth, Relaxed);
    let done = work();
    LEFT.store(-1, Relaxed);
    (done, Outcome { seen: SEEN.load(Relaxed), refused: REFUSED.load(Relaxed) })
}

fn is_refused(size: usize) -> bool {
    if size < LARGE_BYTES {
        return false;
    }
    SEEN.fetch_add(1, Relaxed);
    let is_armed = LEFT.load(Relaxed) >= 0;
    let is_refused = is_armed && LEFT.fetch_sub(1, Relaxed) == 0;
    if is_refused {
        REFUSED.fetch_add(1, Relaxed);
    }
    is_refused
}

// SAFETY: every call goes to the system's allocator with the same arguments, or answers null, which
// is how an allocator says that it has no memory; then what was to be grown is as it was.
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match is_refused(layout.size()) {
            true => ptr::null_mut(),
            // SAFETY: the caller's promises are passed on.
            false => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match is_refused(layout.size()) {
            true => ptr::null_mut(),
            // SAFETY: as above.
            false => unsafe { System.alloc_zeroed(layout) },
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        match is_refused(new_size) {
            true => ptr::null_mut(),
            // SAFETY: as above.
            false => unsafe { System.realloc(pointer, layout, new_size) },
        }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}
