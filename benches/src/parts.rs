//! Benches of several parts, each of which can be asked for by its name.

use crate::{allocations::keep_freed_memory, measure::Run, report::Report};

/// What the parts share.
#[derive(Debug)]
pub struct Context {
    /// How the bench was called.
    pub run: Run,
    /// Where figures go.
    pub report: Report,
}

/// A part's name and what it does.
pub type Part = (&'static str, fn(&mut Context));

/// Runs the parts that the command line asks for, and prints the goals.
pub fn run_parts(bench: &str, parts: &[Part]) {
    keep_freed_memory();
    let run = Run::from_args();
    let report = Report::begin(bench, &run);
    let mut context = Context { run, report };
    for (name, measure) in parts {
        if context.run.wants(name) {
            measure(&mut context);
        }
    }
    context.report.end();
}
