//! Reading layer files in each way: mapped, from the block cache, past the page cache; one page and many; what it takes of memory.
//!
//! `cargo bench -p pagestrata-benches --bench reads [-- PART ...]`, with the parts `hot`, `many`, `memory`. With `--test`: everything
//! once and small, answers checked, figures without meaning. Stores are in `PAGESTRATA_DISK`.

mod hot;
mod many;
mod memory;
mod pages;

use pagestrata::AccessMode;
use pagestrata_benches::{
    allocations::{Counting, keep_freed_memory},
    measure::Run,
    report::Report,
};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MODES: [AccessMode; 3] = [AccessMode::Mmap, AccessMode::Pread, AccessMode::Direct];

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
    let report = Report::begin("reads", &run);
    let mut context = Context { run, report };
    let parts: [Part; 3] =
        [("hot", hot::measure), ("many", many::measure), ("memory", memory::measure)];
    for (name, measure) in parts {
        if context.run.wants(name) {
            measure(&mut context);
        }
    }
    context.report.end();
}
