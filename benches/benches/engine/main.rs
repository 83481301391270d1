//! The figures of the specification in one run: put, versions, pin, flush, ingest, freeze; each
//! beside a normaliser (copying 8 KiB) and beside the reference, an ordered map behind a lock.
//!
//! `cargo bench -p pagestrata-benches --bench engine [-- PART ...]`, with the parts `put`,
//! `lookup`, `chain`, `threads`, `flush`, `ingest`, `freeze`. With `--test`: everything once and
//! small, answers checked, figures without meaning.

mod chain;
mod flush;
mod freeze;
mod ingest;
mod lookup;
mod put;
mod threads;

use pagestrata_benches::{
    allocations::{Counting, keep_freed_memory},
    measure::Run,
    normalisers::Normalisers,
    report::Report,
};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What the parts share.
struct Context {
    run: Run,
    report: Report,
    normalisers: Normalisers,
}

/// A part's name and what it does.
type Part = (&'static str, fn(&mut Context));

fn main() {
    keep_freed_memory();
    let run = Run::from_args();
    let report = Report::begin("engine", &run);
    let normalisers = Normalisers::new(&run);
    let mut context = Context { run, report, normalisers };
    let parts: [Part; 7] = [
        ("put", put::measure),
        ("lookup", lookup::measure),
        ("chain", chain::measure),
        ("threads", threads::measure),
        ("flush", flush::measure),
        ("ingest", ingest::measure),
        ("freeze", freeze::measure),
    ];
    for (name, measure) in parts {
        if context.run.wants(name) {
            measure(&mut context);
        }
    }
    context.report.end();
}
