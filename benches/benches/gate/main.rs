//! Runs one hot operation for counters that read no clock: `gate OPERATION [skip|mark]`.
//!
//! `benches/gate.sh` calls it and compares what they count with `benches/gate.txt`. Without an
//! operation it lists them; with `--test` each runs once.
//!
//! Everything that could differ between two runs is fixed: seeds, the store's id, a clock that
//! stands still, no background threads. `skip` leaves the counted calls out, so that two runs of a
//! counter that cannot be switched on and off (of bytes copied) differ by these calls alone. `mark`
//! asks for a missing file before and after each counted call: a trace of system calls shows it.

mod operations;
mod redo;
mod sizes;

use std::{fs, io::Write, path::Path};

use pagestrata_benches::allocations::{Counting, allocations};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Begins and ends a counted call in a trace of system calls.
const MARKS: [&str; 2] = ["/gate/begin", "/gate/end"];

/// How counted calls are run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Count,
    Skip,
    Mark,
}

/// Counts the units and allocations of the calls that an operation consists of.
pub(crate) struct Meter {
    mode: Mode,
    units: u64,
    allocations: u64,
    /// What the operation has found out itself: a name and a figure.
    figures: Vec<(&'static str, f64)>,
}

impl Meter {
    /// Runs a call that does so many units of the operation.
    pub(crate) fn count(&mut self, units: u64, mut work: impl FnMut()) {
        self.units += units;
        match self.mode {
            Mode::Skip => {}
            Mode::Count => {
                let before = allocations();
                counted(&mut work);
                self.allocations += allocations() - before;
            }
            Mode::Mark => {
                fs::exists(Path::new(MARKS[0])).expect("a file that can be asked for");
                counted(&mut work);
                fs::exists(Path::new(MARKS[1])).expect("a file that can be asked for");
            }
        }
    }

    /// Whether the counted calls are left out.
    pub(crate) fn is_skipping(&self) -> bool {
        self.mode == Mode::Skip
    }

    /// Adds a figure that is not counted by calls.
    pub(crate) fn figure(&mut self, name: &'static str, figure: f64) {
        self.figures.push((name, figure));
    }
}

/// The one function that callgrind counts.
#[inline(never)]
fn counted(work: &mut dyn FnMut()) {
    work();
}

/// Each operation, by name.
type Operation = (&'static str, fn(&mut Meter));

const OPERATIONS: [Operation; 14] = [
    ("commit_buffered", operations::commit_buffered),
    ("commit_external", operations::commit_external),
    ("flush", operations::flush),
    ("open", operations::open),
    ("page", operations::page),
    ("pages_32", operations::pages_32),
    ("put", operations::put),
    ("redo", redo::redo),
    ("roll", operations::roll),
    ("size", sizes::sizes),
    ("versions_file", operations::versions_file),
    ("versions_memory", operations::versions_memory),
    ("versions_ten_files", operations::versions_ten_files),
    ("pin", operations::pin),
];

fn run(operation: fn(&mut Meter), mode: Mode) -> Meter {
    let mut meter = Meter { mode, units: 0, allocations: 0, figures: Vec::new() };
    operation(&mut meter);
    meter
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let mut out = std::io::stdout();
    if arguments.iter().any(|argument| argument == "--test") {
        for (name, operation) in OPERATIONS {
            let meter = run(operation, Mode::Count);
            assert!(meter.units > 0 || !meter.figures.is_empty(), "{name} counted nothing");
        }
        return Ok(());
    }
    let Some(name) = arguments.first() else {
        for (name, _) in OPERATIONS {
            writeln!(out, "{name}")?;
        }
        return Ok(());
    };
    let mode = match arguments.get(1).map(String::as_str) {
        None => Mode::Count,
        Some("skip") => Mode::Skip,
        Some("mark") => Mode::Mark,
        Some(other) => return Err(format!("expected skip or mark, found {other}").into()),
    };
    let found = OPERATIONS.iter().find(|(known, _)| known == name);
    let (_, operation) = found.ok_or_else(|| format!("there is no operation {name}"))?;
    let meter = run(*operation, mode);
    writeln!(out, "units {}\nallocations {}", meter.units, meter.allocations)?;
    for (name, figure) in meter.figures {
        writeln!(out, "figure {name} {figure}")?;
    }
    Ok(())
}
