//! The crate against real PostgreSQL output and against damaged copies of it.
//!
//! Captures are found through `PAGESTRATA_CAPTURES`; the sample in the repository is read always, and carries the tests
//! alone where that is not set.
#![allow(clippy::print_stdout)]

mod allocations;
mod backup;
mod bases;
mod captures;
mod damage;
mod events;
mod fuzzed;
mod layout;
mod oracle;
mod synthetic;
mod versions;
