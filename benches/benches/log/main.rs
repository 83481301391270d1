//! The log beside the bare machine, in one run: synced commits, group commit, replay.
//!
//! `cargo bench -p pagestrata-benches --bench log [-- PART ...]`, with the parts `commit`, `group`, `source`, `replay`. With `--test`: everything
//! once and small, answers checked, figures without meaning.

mod commit;
mod group;
mod replay;
mod source;

use pagestrata_benches::{
    allocations::{Counting, keep_freed_memory},
    measure::Run,
    report::Report,
};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What the parts share.
struct Context {
    run: Run,
    report: Report,
}

/// A part's name and what it does.
type Part = (&'static str, fn(&mut Context));

fn main() {
    keep_freed_memory();
    let run = Run::from_args();
    let report = Report::begin("log", &run);
    let mut context = Context { run, report };
    let parts: [Part; 4] = [
        ("commit", commit::measure),
        ("group", group::measure),
        ("source", source::measure),
        ("replay", replay::measure),
    ];
    for (name, measure) in parts {
        if context.run.wants(name) {
            measure(&mut context);
        }
    }
    context.report.end();
}
