//! PostgreSQL's pages by redo: each type of record, chains of them, pages read from a store, and the ingest of a log.
//!
//! `cargo bench -p pagestrata-benches --bench redo [-- PART ...]`, with the parts `records`, `chains`, `pages`, `ingest`. With `--test`:
//! everything once and small, figures without meaning. `PAGESTRATA_CAPTURES` names the directory of captures, whose `pgbench/main` and
//! `pgbench/fpwoff` are read; without it the sample in `engine/postgres` is. Stores are in `PAGESTRATA_DISK`.

mod capture;
mod chains;
mod ingest;
mod pages;
mod records;

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
    let report = Report::begin("redo", &run);
    let mut context = Context { run, report };
    let parts: [Part; 4] = [
        ("records", records::measure),
        ("chains", chains::measure),
        ("pages", pages::measure),
        ("ingest", ingest::measure),
    ];
    for (name, measure) in parts {
        if context.run.wants(name) {
            measure(&mut context);
        }
    }
    context.report.end();
}
