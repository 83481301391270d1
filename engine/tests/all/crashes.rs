//! Crashes at every place of all short sequences of operations, and at some places of long
//! workloads: nothing that was acknowledged is lost. `engine/rigs/crash_explorer.rs` does the
//! same for as long as one likes.

use std::sync::atomic::{AtomicU64, Ordering};

use pagestrata::{
    Background, CommitTicket, Key, Lsn, Options, Store, Value,
    testing::{CrashCounts, CrashExplorer, Failing, SimulatedStorage, none_kept},
};

use crate::support::open_in;

/// Sequences at a time on a thread, which share images.
const CHUNK: u64 = 32;
const THREADS: u64 = 2;

/// Runs `work` for all numbers, in chunks, on all threads.
#[track_caller]
fn explore(
    numbers: std::ops::Range<u64>,
    work: impl Fn(&mut CrashExplorer, u64) + Sync,
) -> CrashCounts {
    let next = AtomicU64::new(numbers.start);
    let explored = || {
        let mut explorer = CrashExplorer::new();
        loop {
            let from = next.fetch_add(CHUNK, Ordering::Relaxed);
            if from >= numbers.end {
                return explorer.counts();
            }
            (from..(from + CHUNK).min(numbers.end)).for_each(|number| work(&mut explorer, number));
        }
    };
    let mut total = CrashCounts::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(explored)).collect();
        threads.into_iter().for_each(|thread| total.merge(&thread.join().unwrap()));
    });
    total
}

#[test]
fn no_crash_in_a_short_sequence_loses_what_was_acknowledged() {
    let counts = explore(0..CrashExplorer::sequences_of(2), |explorer, number| {
        explorer.sequence(number).unwrap_or_else(|violation| panic!("{violation}"));
    });
    assert!(counts.states > 100_000 && counts.images > 10_000, "{counts}");
    for name in ["deep", "flips_noticed", "imports", "changed_by_opening", "commits_of_parts"] {
        assert!(counts.others.get(name) > 0, "{name}: {counts}");
    }
}

#[test]
fn no_crash_in_a_long_life_loses_what_was_acknowledged() {
    let counts = explore(0..24, |explorer, seed| {
        explorer.seed(seed).unwrap_or_else(|violation| panic!("{violation}"));
    });
    assert!(counts.states > 50_000 && counts.recovery_states > 10_000, "{counts}");
    for name in
        ["failed_syncs", "failed_openings", "full_disks", "faults", "log_full", "commits_of_parts"]
    {
        assert!(counts.others.get(name) > 0, "{name}: {counts}");
    }
}

fn options() -> Options {
    Options {
        background: Background::Callers,
        store_id: Some(7),
        log_segment_size_bytes: 4 << 10,
        log_size_max_bytes: 64 << 10,
        ..Options::default()
    }
}

/// The timeline `main`, made if need be, with one more image at `lsn`.
fn put(store: &Store, lsn: u64, len: usize) -> pagestrata::Result<CommitTicket> {
    let timeline = store.timeline("main").or_else(|_| store.create_timeline("main", Lsn(1)))?;
    let mut lease = timeline.write_lease()?;
    lease.put(Key::new(1, 0), Lsn(lsn), Value::Image(&vec![lsn as u8; len]))?;
    lease.commit(Lsn(lsn))
}

/// Where the timeline ends in what a crash has left.
fn end_of(storage: &SimulatedStorage) -> Lsn {
    let store = open_in(storage, options()).unwrap_or_else(|error| panic!("{error}"));
    store.timeline("main").unwrap().last_record_lsn()
}

/// What follows the last sync is a mark, and no sync writes it: found by the explorer as
/// `the log was synced up to`.
#[test]
fn a_mark_that_a_crash_takes_is_not_missed_by_the_next_process() {
    // So that the mark and what follows are in different sectors some time.
    for len in (8..560).step_by(8) {
        let storage = SimulatedStorage::new();
        let store = open_in(&storage, options()).unwrap();
        put(&store, 10, len).unwrap().wait().unwrap();
        drop(store);
        let store = open_in(&storage, options()).unwrap();
        let ticket = put(&store, 20, 600).unwrap();
        for (choices, left) in storage.crash_states(1 << 12).unwrap() {
            let end = end_of(&left);
            assert!(end == Lsn(10) || end == Lsn(20), "{len} {choices:?}: {end}");
        }
        drop(ticket);
    }
}

/// Of a segment's first record a crash may leave any sectors, and then of the one that takes its
/// place: found by the explorer as `first Lsn`.
#[test]
fn the_first_record_of_a_segment_is_lost_twice() {
    let storage = SimulatedStorage::new();
    let store = open_in(&storage, options()).unwrap();
    put(&store, 10, 900).unwrap();
    for (first, left) in storage.crash_states(1 << 12).unwrap() {
        let store = open_in(&left, options()).unwrap();
        let was = store.timeline("main").unwrap().last_record_lsn();
        put(&store, 30, 500).unwrap();
        for (second, left) in left.crash_states(1 << 12).unwrap() {
            let end = end_of(&left);
            assert!(end == was || end == Lsn(30), "{first:?} {second:?}: {end}");
        }
    }
}

/// A process that ends between a new segment's rename and the sync of its directory: found by the
/// explorer as a missing segment.
#[test]
fn a_prepared_segment_has_a_durable_name_before_the_next_process_uses_it() {
    let storage = SimulatedStorage::new();
    let store = open_in(&storage, options()).unwrap();
    put(&store, 10, 2600).unwrap().wait().unwrap();
    storage.set_failing(Some(Failing { operation: "sync directory", at: "log", panics: false }));
    assert!(put(&store, 20, 2600).is_err());
    let killed = storage.killed();
    let store = open_in(&killed, options()).unwrap();
    put(&store, 20, 2600).unwrap().wait().unwrap();
    assert_eq!(end_of(&killed.crash(&mut none_kept)), Lsn(20));
}

/// An import whose edit of the manifest is in doubt, and commits that were acknowledged after it.
#[test]
fn commits_after_an_import_in_doubt_are_there() {
    let storage = SimulatedStorage::new();
    let store = open_in(&storage, options()).unwrap();
    put(&store, 10, 100).unwrap().wait().unwrap();
    let failing = Failing { operation: "sync directory", at: "store", panics: false };
    let timeline = store.timeline("main").unwrap();
    let mut lease = timeline.write_lease().unwrap();
    let mut import = lease.import_images(Lsn(15)).unwrap();
    import.put(Key::new(3, 0), b"imported").unwrap();
    storage.set_failing(Some(failing));
    import.finish().unwrap_err();
    storage.set_failing(None);
    drop(lease);
    put(&store, 20, 100).unwrap().wait().unwrap();
    assert_eq!(end_of(&storage.killed()), Lsn(20));
    for (choices, left) in storage.crash_states(1 << 12).unwrap() {
        assert_eq!(end_of(&left), Lsn(20), "{choices:?}");
    }
}
