//! A steady read allocates nothing per record.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use pagestrata_postgres::{Error, PageVersions, relation_events};

use crate::captures;

/// Counts this thread's allocations.
struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call goes to the system's allocator unchanged; counting touches only a thread-local
// number that needs no allocation and has no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; the pointer came from `alloc`, so from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[test]
fn records_and_versions_are_lent() {
    for capture in captures::all() {
        let (mut reader, mut versions) = (capture.reader(), PageVersions::new());
        let (mut records, mut last_change, mut count) = (0_u64, 0, COUNT.get());
        let mut segments = std::collections::BTreeSet::new();
        while let Some(record) = reader.next_record().unwrap() {
            records += 1;
            versions.versions(&record, |_, _| Ok::<_, Error>(())).unwrap();
            versions.implied(&record, |_, _| Ok::<_, Error>(())).unwrap();
            relation_events(&record, |_| Ok::<_, Error>(())).unwrap();
            let (segment, now) = (record.end().0 >> 20, COUNT.get());
            if now != count {
                last_change += now - count;
            }
            segments.insert(segment);
            count = COUNT.get();
        }
        println!(
            "{}: {last_change} allocations for {records} records over {} MiB",
            capture.name,
            segments.len()
        );
        // Opening a segment takes a few, and so do the buffers as they grow.
        assert!(last_change < 20 * segments.len() as u64 + 60, "{}: {last_change}", capture.name);
    }
}
