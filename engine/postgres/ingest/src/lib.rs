//! PostgreSQL into a pagestrata store: imports a base backup, ingests the log behind it from files
//! or from a running server, and writes or compares the files of a data directory as of an Lsn.
//!
//! ```text
//! BaseBackup   -> import ------------------------.
//! WAL segments -> ingest::check, ingest::apply --+-> Applier -> the timeline's write lease
//! a server     -> follow -----------------------'
//! the timeline's guard -> pages, restore, diff
//! oracles of a capture -> check: what a timeline returns, against what PostgreSQL made
//! ```
//!
//! Modules by what they may use, each only those below it:
//!
//! | modules | hold |
//! |---|---|
//! | `import`, [`mod@ingest`], [`mod@follow`], [`mod@restore`], [`mod@diff`], [`check`] | one operation each |
//! | `apply` | one record of the log into the timeline |
//! | `settings` | the cluster's settings, record by record |
//! | [`oracle`], [`sample`], `data_dir`, [`pages`], [`sizes`] | what operations read and write |
//! | [`identity`], `stores` | which cluster a timeline holds; how its store is opened |
//! | `error`, `progress`, `text` | |
//!
//! **Invariants:** input is checked before the first byte of it is written, so that a refused
//! import or ingest leaves the store as it was. What only reads opens a store that exists and
//! writes nothing to it. Nothing is printed: results are returned, and what comes in a stream goes
//! to a callback.
#![deny(unsafe_code)]

mod apply;
pub mod check;
mod data_dir;
pub mod diff;
mod error;
pub mod follow;
pub mod identity;
pub mod import;
pub mod ingest;
pub mod oracle;
pub mod pages;
mod progress;
pub mod restore;
pub mod sample;
mod settings;
pub mod sizes;
mod stores;
pub mod text;

pub use apply::{Applied, consistency::ConsistencyTally};
pub use error::{Error, Inconsistency, Result};
pub use identity::ChecksumSwitch;
pub use pages::page_at;
pub use progress::{Phase, Progress};
pub use stores::{open_existing, open_to_ingest, open_to_write, storage};

/// The program in the README, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
