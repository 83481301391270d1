//! The log beside the bare machine, in one run: synced commits, group commit, replay.
//!
//! `cargo bench -p pagestrata-benches --bench log [-- PART ...]`, with the parts `commit`, `group`,
//! `source`, `replay` and `stall`. With `--test`: everything once and small, answers checked,
//! figures without meaning.

mod commit;
mod group;
mod replay;
mod source;
mod stall;

use pagestrata_benches::{
    allocations::Counting,
    parts::{Context, run_parts},
};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() {
    run_parts(
        "log",
        &[
            ("commit", commit::measure),
            ("group", group::measure),
            ("source", source::measure),
            ("replay", replay::measure),
            ("stall", stall::measure),
        ],
    );
}
