//! The crate against real PostgreSQL output and against damaged copies of it.
//!
//! Captures are found through `PAGESTRATA_CAPTURES`; the sample in the repository is read always,
//! and carries the tests alone where that is not set. Redo is tried on what `captures/make.sh`
//! made, too, where `PAGESTRATA_MADE_CAPTURES` names a directory of it.
#![allow(clippy::print_stdout)]

mod allocations;
mod backup;
mod bases;
mod being_written;
mod captures;
mod damage;
mod events;
mod fuzzed;
mod layout;
#[cfg(feature = "live")]
mod live;
mod oracle;
mod redo;
mod redo_damage;
mod stream;
mod synthetic;
mod versions;
