//! Crashes at every place of all short sequences of operations, and at some places of long workloads: nothing that was acknowledged
//! is lost. `engine/examples/crash_explorer.rs` does the same for as long as one likes.

use std::sync::atomic::{AtomicU64, Ordering};

use pagestrata::testing::{CrashCounts, CrashExplorer};

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
    println!("{counts}");
    assert!(counts.states > 100_000 && counts.images > 10_000, "{counts}");
    for name in ["deep", "flips_noticed", "imports", "changed_by_opening"] {
        assert!(counts.others.get(name) > 0, "{name}: {counts}");
    }
}

#[test]
fn no_crash_in_a_long_life_loses_what_was_acknowledged() {
    let counts = explore(0..64, |explorer, seed| {
        explorer.seed(seed).unwrap_or_else(|violation| panic!("{violation}"));
    });
    println!("{counts}");
    assert!(counts.states > 50_000 && counts.recovery_states > 10_000, "{counts}");
    for name in ["failed_syncs", "failed_openings", "full_disks", "faults", "log_full"] {
        assert!(counts.others.get(name) > 0, "{name}: {counts}");
    }
}
