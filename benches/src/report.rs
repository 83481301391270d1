//! How figures are printed, and which of them have a goal.

use std::{
    fmt::Display,
    io::{self, Write},
};

use crate::{
    machine,
    measure::{Measured, Run},
};

/// Prints to standard output and remembers the goals.
#[derive(Debug)]
pub struct Report {
    /// Figures mean something.
    is_full: bool,
    goals: Vec<Goal>,
}

#[derive(Debug)]
struct Goal {
    what: String,
    found: f64,
    wanted: Wanted,
    unit: &'static str,
}

/// What a goal asks for.
#[derive(Clone, Copy, Debug)]
pub enum Wanted {
    /// This much or more.
    AtLeast(f64),
    /// This much or less.
    AtMost(f64),
}

impl Wanted {
    fn judge(self, found: f64) -> &'static str {
        let reached = match self {
            Wanted::AtLeast(wanted) => found >= wanted,
            Wanted::AtMost(wanted) => found <= wanted,
        };
        match (found.is_nan(), reached) {
            (true, _) => "not measured",
            (false, true) => "reached",
            (false, false) => "MISSED",
        }
    }
}

impl Report {
    /// Says what runs where.
    #[must_use]
    pub fn begin(bench: &str, run: &Run) -> Report {
        let report = Report { is_full: run.full, goals: Vec::new() };
        report.line(format_args!(
            "{bench}{}",
            run.size("", " (test: sizes are small, figures mean nothing)")
        ));
        report.line(machine::describe(run.seed));
        report
    }

    /// One line.
    pub fn line(&self, text: impl Display) {
        let written = writeln!(io::stdout().lock(), "{text}");
        written.expect("standard output takes lines");
    }

    /// A headline.
    pub fn part(&self, text: impl Display) {
        self.line(format_args!("\n== {text}"));
    }

    /// A table of candidates, each with its ratio to `reference`: above 1 is faster than it.
    pub fn table(&self, title: impl Display, measured: &[Measured], reference: Option<usize>) {
        self.line(format_args!(
            "{title:52} {:>10} {:>10} {:>10} {:>10} {:>9} {:>8}",
            "ns/op", "min", "max", "wall", "allocs/op", "ratio"
        ));
        for candidate in measured {
            let ratio = reference.map_or_else(String::new, |reference| {
                format!("{:.2}", candidate.times_faster_than(&measured[reference]))
            });
            let Measured { name, ns, wall_ns, allocations, .. } = candidate;
            self.line(format_args!(
                "  {name:50} {:10.1} {:10.1} {:10.1} {:10.1} {:9.3} {ratio:>8}",
                ns.median, ns.min, ns.max, wall_ns.median, allocations.median
            ));
        }
    }

    /// Remembers a figure that has a goal.
    pub fn goal(&mut self, what: impl Display, found: f64, wanted: Wanted, unit: &'static str) {
        self.goals.push(Goal { what: what.to_string(), found, wanted, unit });
    }

    /// The table of goals.
    pub fn end(self) {
        if self.goals.is_empty() || !self.is_full {
            return;
        }
        self.part("goals");
        for Goal { what, found, wanted, unit } in &self.goals {
            let reached = wanted.judge(*found);
            let wanted = match wanted {
                Wanted::AtLeast(wanted) => format!(">= {wanted:.2}"),
                Wanted::AtMost(wanted) => format!("<= {wanted:.2}"),
            };
            self.line(format_args!("  {what:66} {found:9.2} {unit:6} {wanted:>9}  {reached}"));
        }
    }
}
