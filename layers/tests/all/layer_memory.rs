//! What layer files allocate: a writer a fixed amount, a warm read nothing.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use pagestrata_layers::{
    Key, KeyRange, Lsn, Value, WalkEnd,
    layer_file::{LayerFile, LayerKind, LayerWriter, WriterOptions},
    storage::RealStorage,
};

use crate::support::{ID, LeakySpace};

/// The system's allocator, counting for each thread.
struct Counting;

thread_local! {
    static CALLS: Cell<usize> = const { Cell::new(0) };
    static LIVE: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes on to the system's allocator as it came. The counters are plain cells
// without a destructor, so touching them neither allocates nor fails.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.set(CALLS.get() + 1);
        LIVE.set(LIVE.get().wrapping_add(layout.size()));
        // What another thread allocated and this one freed makes it negative.
        if LIVE.get() as isize > PEAK.get() as isize {
            PEAK.set(LIVE.get());
        }
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get().wrapping_sub(layout.size()));
        // SAFETY: the caller keeps the contract of `dealloc`, and the pointer came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most that lived at once in `work` above what lived before, in bytes.
pub(crate) fn peak_of(work: impl FnOnce()) -> usize {
    let before = LIVE.get();
    PEAK.set(before);
    work();
    PEAK.get().wrapping_sub(before)
}

#[test]
fn a_writer_takes_the_same_memory_for_any_number_of_keys() {
    let dir = tempfile::tempdir().unwrap();
    let peak = |keys: u32| {
        let path = dir.path().join(format!("{keys}"));
        peak_of(|| {
            let options = WriterOptions::default();
            let mut writer =
                LayerWriter::create(&RealStorage, &path, ID, LayerKind::Delta, options).unwrap();
            for block in 0..keys {
                let value = Value::Delta { bytes: &[9; 100], will_init: false };
                writer.put(Key::new(u128::from(block / 1000), block), Lsn(1), value).unwrap();
            }
            writer.finish(KeyRange::ALL, Lsn(1)..Lsn(2), &[]).unwrap();
        })
    };
    let (some, many) = (peak(50_000), peak(500_000));
    assert!(some < 600 << 10, "{some}");
    // Another level of the index may begin: one page.
    assert!(many <= some + (12 << 10), "{some} {many}");
}

#[test]
fn a_warm_read_allocates_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("delta");
    let mut writer =
        LayerWriter::create(&RealStorage, &path, ID, LayerKind::Delta, WriterOptions::default())
            .unwrap();
    for block in 0..3000 {
        writer.put(Key::new(1, block), Lsn(1), Value::Image(&[1; 512])).unwrap();
        for lsn in 2..12 {
            let value = Value::Delta { bytes: &[2; 50], will_init: false };
            writer.put(Key::new(1, block), Lsn(lsn), value).unwrap();
        }
    }
    writer.finish(KeyRange::ALL, Lsn(1)..Lsn(12), &[]).unwrap();
    let file = LayerFile::open(&RealStorage, &path, None).unwrap();
    let space = LeakySpace::default();
    for is_warm in [false, true, true] {
        let before = CALLS.get();
        for block in 0..3000 {
            let (mut count, key) = (0, Key::new(1, block));
            let walk = file.versions(key, Lsn(20), Lsn(0), &space, &mut |_| count += 1).unwrap();
            assert_eq!((walk, count), (WalkEnd::Base, 11));
        }
        // The first read that asks the filter reads it: its table, the one partition, the lines.
        let allowed = if is_warm { 0 } else { 3 };
        assert!(CALLS.get() - before <= allowed, "{} allocations", CALLS.get() - before);
    }
    assert_eq!(space.calls.get(), 0);
}
