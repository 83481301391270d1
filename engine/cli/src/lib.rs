//! What the `pagestrata` command does, as functions: its tests call them too.
//!
//! ```text
//! args -> run -> import, ingest (check, apply)      -> the engine's write lease
//!             -> follow                             -> the same, from a running server
//!             -> pages, layers, verify              -> the engine's guard
//!             -> demo: sample -> import, ingest -> check against its oracle
//! run -> Output: lines for people, or JSON; Progress: stderr, only on a terminal
//! ```
//!
//! **Invariants:** a command that only reads opens a store that exists and writes nothing to it. Input is checked
//! before the first byte of it is written, so a refused import or ingest leaves the store as it was. Only `main`
//! ends the process.
#![deny(unsafe_code)]

mod apply;
pub mod args;
pub mod check;
mod consistency;
mod data_dir;
mod demo;
pub mod diff;
mod error;
pub mod follow;
pub mod identity;
pub mod import;
pub mod ingest;
mod lag;
mod layers;
mod made_pages;
pub mod oracle;
mod output;
mod pages;
mod progress;
mod record_name;
pub mod restore;
mod run;
pub mod sample;
mod settings;
pub mod sizes;
mod stores;
mod verify;

pub use apply::Applied;
pub use consistency::{ConsistencyTally, Inconsistency};
pub use error::{Error, ExitStatus, Result};
pub use output::{Output, printable, tell};
pub use pages::page_at;
pub use progress::Progress;
pub use record_name::record_name;
pub use run::run;
pub use settings::ChecksumSwitch;
pub use stores::{open_existing, open_to_ingest, storage};
