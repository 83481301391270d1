//! Random sequences of operations on a store and on the model of `pagestrata::testing`.
//!
//! `PAGESTRATA_SEED=n` runs the one sequence of that seed, `PAGESTRATA_SEQUENCES=n` another number
//! of them. What the comparison is worth is shown by planting bugs; either has to be found. Reads
//! that pass over the tombstones of frozen layers, and memory that is used again while it is held:
//!
//! ```text
//! RUSTFLAGS='--cfg planted_bug="frozen_tombstones"' cargo test -p pagestrata --test all model
//! RUSTFLAGS='--cfg planted_bug="early_reclaim"' cargo test -p pagestrata --test all model
//! ```

use std::{env, path::Path};

use pagestrata::testing::{Counts, Sequence, SimulatedStorage, Size, UnsyncedStorage, run};

/// Each seed is a sequence of its own; of every 1000, 3 are long and 50 are of medium size.
const SEQUENCES: u64 = 10_000;

/// What a run of all sequences has to have done, or it has not tested what it is there for.
const RARE: &[&str] = &[
    "aborts_by_drop",
    "aborts_of_values",
    "batches",
    "batches_refused",
    "chains_cut",
    "cold_fetches",
    "detached",
    "drops",
    "drops_again",
    "flushes",
    "flushes_beside_a_lease",
    "flushes_of_all",
    "guards_held",
    "guards_that_see_more",
    "held_copies_checked",
    "held_detached_checked",
    "held_snapshots_checked",
    "imported_images",
    "imports_abandoned",
    "layer_files_verified",
    "lost_snapshots_checked",
    "max_unflushed_lsns",
    "pages",
    "pages_of_many",
    "puts_at_block_max",
    "puts_at_object_max",
    "reads_of_dropped",
    "refused_below_cutoff",
    "refused_drop",
    "refused_duplicate",
    "refused_import",
    "refused_lsn",
    "refused_missing_base",
    "refused_no_page",
    "refused_not_yet",
    "refused_out_of_order",
    "refused_too_long",
    "refused_uncommitted",
    "reopens_that_lose",
    "rolls",
    "scanned_pages",
    "values_beyond_a_chunk",
];

/// Says which seed to run again.
struct OnPanic(u64);

impl Drop for OnPanic {
    #[allow(clippy::print_stderr)]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "run it again: PAGESTRATA_SEED={} cargo test -p pagestrata --test all model",
                self.0
            );
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    let value = env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable} is no number: {value:?}")))
}

fn size_of(seed: u64) -> Size {
    match seed % 1000 {
        0 | 300 | 600 => Size::Long,
        n if n % 20 == 7 => Size::Medium,
        _ => Size::Short,
    }
}

fn run_seed(dir: &Path, seed: u64) -> Counts {
    let _named = OnPanic(seed);
    let sequence = Sequence::random(&mut fastrand::Rng::with_seed(seed), size_of(seed));
    // Files in memory for two thirds, which saves most of the time; mapped ones for the rest.
    if !seed.is_multiple_of(3) {
        return run(&SimulatedStorage::new().shared(), Path::new("store"), &sequence);
    }
    let dir = dir.join(seed.to_string());
    let counts = run(&UnsyncedStorage::shared(), &dir, &sequence);
    std::fs::remove_dir_all(&dir).unwrap();
    counts
}

#[test]
#[allow(clippy::print_stdout)]
fn the_engine_answers_as_the_model() {
    let dir = tempfile::tempdir().unwrap();
    let one = number("PAGESTRATA_SEED");
    let count = number("PAGESTRATA_SEQUENCES").unwrap_or(SEQUENCES);
    let seeds = one.map_or(0..count, |seed| seed..seed + 1);
    let mut counts = Counts::default();
    for seed in seeds.clone() {
        counts.merge(&run_seed(dir.path(), seed));
    }
    println!("seeds {seeds:?}: {counts}");
    if one.is_none() && count >= SEQUENCES {
        for name in RARE {
            assert!(counts.get(name) > 0, "no {name} in {seeds:?}");
        }
        assert!(counts.get("max_chain") > 1000 && counts.get("max_lsn") > u64::MAX - 1000);
        assert!(counts.get("max_value_bytes") > 1 << 20 && counts.get("max_layer_files") > 20);
    }
}
