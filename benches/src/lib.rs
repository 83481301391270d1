//! What the benches share: how they measure, what they measure against, and the workloads.
//!
//! The rules, for every figure of every bench:
//! - candidates take turns, round by round, in one process and on the same data: a figure is a
//!   ratio within one run;
//! - a figure is the median of the rounds, with the lowest and the highest beside it;
//! - what runs on one thread and waits for nothing is timed in that thread's CPU time, because the
//!   machine may be shared; what waits (for a device, for another thread) is timed by the wall;
//! - every bench checks its answers, and with `--test` does only that, once and small.

pub mod allocations;
pub mod chains;
pub mod machine;
pub mod measure;
pub mod normalisers;
pub mod parts;
pub mod random;
pub mod reference;
pub mod report;
pub mod stacks;
pub mod stores;
pub mod updates;
