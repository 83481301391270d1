//! What the engine takes from the allocator: a binary of its own, because it owns the allocator.
//!
//! Counts of allocations are per thread; live bytes are of the whole process, so the tests take
//! turns.

#![allow(clippy::print_stdout, reason = "figures that a reader of the test run wants to see")]

mod counting;

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use counting::{Counting, allocations_on_this_thread, live_bytes};
use pagestrata::{Guard, Key, Lsn, Options, Reader, Scratch, Store, Timeline, Value, WriteLease};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

const DELTAS: u64 = 10;

/// A chain of an image and ten deltas under each of these keys.
fn put_chains(lease: &mut WriteLease<'_>, keys: &[Key]) {
    let (image, delta) = ([1; 8192], [2; 100]);
    for n in 0..=DELTAS {
        for &key in keys {
            let value = if n == 0 {
                Value::Image(&image)
            } else {
                Value::Delta { bytes: &delta, will_init: false }
            };
            lease.put(key, Lsn(10 + n), value).unwrap();
        }
    }
    lease.commit(Lsn(10 + DELTAS)).unwrap();
}

/// Where the values of a key's chain lie.
fn addresses(guard: Guard<'_>, key: Key, scratch: &mut Scratch) -> Vec<*const u8> {
    let versions = guard.versions(key, Lsn(10 + DELTAS), scratch).unwrap();
    versions.newest_first().map(|version| version.bytes.as_ptr()).collect()
}

/// A warm read allocates nothing, and lends the same bytes whatever scratch it is given: so it
/// copied none.
fn check_warm_read(layer: &str, reader: &mut Reader, keys: &[Key]) {
    let (mut scratch, mut other) = (Scratch::new(), Scratch::new());
    for &key in keys {
        assert_eq!(
            addresses(reader.pin(), key, &mut scratch),
            addresses(reader.pin(), key, &mut other)
        );
    }
    let memory_bytes = scratch.memory_bytes();
    let before = allocations_on_this_thread();
    let mut bytes = 0;
    for _ in 0..100 {
        for &key in keys {
            let versions = reader.pin().versions(key, Lsn(10 + DELTAS), &mut scratch).unwrap();
            bytes += versions.newest_first().map(|version| version.bytes.len()).sum::<usize>();
        }
    }
    assert_eq!(bytes, 100 * keys.len() * (8192 + DELTAS as usize * 100));
    let allocations = allocations_on_this_thread() - before;
    println!("{layer}: {} warm reads, {allocations} allocations", 100 * keys.len());
    assert_eq!((allocations, scratch.memory_bytes()), (0, memory_bytes), "{layer}");
}

#[test]
fn a_warm_read_allocates_and_copies_nothing() {
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path(), Options::default()).unwrap();
    let timeline = store.create_timeline("main", Lsn(1)).unwrap();
    let keys: Vec<_> = (0..50).map(|n| Key::new(u128::from(n % 3), n * 37)).collect();
    let mut lease = timeline.write_lease().unwrap();
    put_chains(&mut lease, &keys);
    let mut reader = timeline.reader();
    check_warm_read("open layer", &mut reader, &keys);
    // A snapshot of the time when it is frozen: the flush may be done before the first read.
    lease.roll().unwrap();
    check_warm_read("frozen or flushed layer", &mut reader, &keys);
    timeline.flush().unwrap();
    assert_eq!((timeline.stats().frozen_layers, timeline.layers().len()), (0, 1));
    check_warm_read("delta layer", &mut reader, &keys);
    drop(lease);
    check_frozen(&timeline, &keys);
}

/// With flushing made to fail, the layer stays frozen for certain.
fn check_frozen(timeline: &Timeline, keys: &[Key]) {
    let layers = timeline.layers()[0].path.parent().unwrap().to_owned();
    let aside = layers.with_extension("aside");
    std::fs::rename(&layers, &aside).unwrap();
    let mut lease = timeline.write_lease().unwrap();
    for n in 0..=DELTAS {
        for &key in keys {
            let value = if n == 0 {
                Value::Image(&[5; 8192])
            } else {
                Value::Delta { bytes: &[6; 100], will_init: false }
            };
            lease.put(key, Lsn(40 + n), value).unwrap();
        }
    }
    lease.commit(Lsn(40 + DELTAS)).unwrap();
    lease.roll().unwrap();
    assert!(timeline.flush().is_err());
    assert_eq!(timeline.stats().frozen_layers, 1);
    let mut reader = timeline.reader();
    let mut scratch = Scratch::new();
    let read = |reader: &mut Reader, scratch: &mut Scratch| {
        for &key in keys {
            assert_eq!(reader.pin().versions(key, Lsn(40 + DELTAS), scratch).unwrap().len(), 11);
        }
    };
    read(&mut reader, &mut scratch);
    let before = allocations_on_this_thread();
    read(&mut reader, &mut scratch);
    let allocations = allocations_on_this_thread() - before;
    println!("frozen layer: {} warm reads, {allocations} allocations", keys.len());
    assert_eq!(allocations, 0);
    std::fs::rename(&aside, &layers).unwrap();
    timeline.flush().unwrap();
}

/// Rolls a layer that holds `bytes` in values and returns what the roll allocated on this thread.
fn allocations_of_a_roll(bytes: u64) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { open_layer_size_max_bytes: 1 << 30, ..Options::default() };
    let (store, _) = Store::open(dir.path(), options).unwrap();
    let timeline = store.create_timeline("main", Lsn(1)).unwrap();
    let mut lease = timeline.write_lease().unwrap();
    for n in 0..bytes / 8192 {
        lease.put(Key::new(1, n as u32), Lsn(n + 1), Value::Image(&[7; 8192])).unwrap();
    }
    lease.commit(Lsn(1 << 40)).unwrap();
    let before = allocations_on_this_thread();
    lease.roll().unwrap();
    let allocations = allocations_on_this_thread() - before;
    drop(lease);
    drop(store);
    allocations
}

#[test]
fn freezing_allocates_the_same_whatever_the_size() {
    let _turn = turn();
    let (small, large) = (allocations_of_a_roll(1 << 20), allocations_of_a_roll(256 << 20));
    println!("a roll of 1 MiB: {small} allocations, of 256 MiB: {large}");
    assert_eq!(small, large);
}

/// What the store says against what the allocator saw, relative to the latter.
fn check_accounting(what: &str, store: &Store, baseline: i64) {
    let (said, seen) = (store.stats().memory_bytes() as f64, (live_bytes() - baseline) as f64);
    println!(
        "{what}: stats say {said}, the allocator saw {seen}: {:+.2} %",
        (said / seen - 1.0) * 100.0
    );
    assert!((said / seen - 1.0).abs() <= 0.05, "{what}: {:?}", store.stats());
}

#[test]
fn the_memory_that_is_reported_is_what_the_allocator_gave() {
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        open_layer_size_max_bytes: 1 << 30,
        pool_retained_max_bytes: 16 << 20,
        ..Options::default()
    };
    let baseline = live_bytes();
    let (store, _) = Store::open(dir.path(), options).unwrap();
    let timeline = store.create_timeline("main", Lsn(1)).unwrap();
    let mut lease = timeline.write_lease().unwrap();
    let mut lsn = 0_u64;
    let mut fill = |lease: &mut WriteLease<'_>, mebibytes: u64| {
        for n in 0..mebibytes * 128 {
            lsn += 1;
            let value = if n % 2 == 0 { &[1; 8192][..] } else { &[2; 100][..] };
            lease
                .put(
                    Key::new(u128::from(lsn % 7), (lsn.wrapping_mul(2_654_435_761) % 9973) as u32),
                    Lsn(lsn),
                    Value::Image(value),
                )
                .unwrap();
        }
        lease.commit(Lsn(lsn)).unwrap().wait().unwrap();
    };
    fill(&mut lease, 20);
    check_accounting("open", &store, baseline);
    let reader = timeline.reader();
    let layers = dir.path().join("timelines/1");
    std::fs::rename(&layers, layers.with_extension("aside")).unwrap();
    lease.roll().unwrap();
    fill(&mut lease, 6);
    assert!(timeline.flush().is_err());
    check_accounting("open and frozen", &store, baseline);
    std::fs::rename(layers.with_extension("aside"), &layers).unwrap();
    timeline.flush().unwrap();
    let stats = timeline.stats();
    assert!(stats.memory.retired_bytes > 10 << 20 && stats.frozen_layers == 0, "{stats:?}");
    check_accounting("open, retired but pinned", &store, baseline);
    drop(reader);
    while timeline.stats().retired_layers > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    check_accounting("open, the rest in the pool", &store, baseline);
}
