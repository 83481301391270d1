//! Compaction: delta layers that follow each other become fewer.
//!
//! ```text
//! plan   which layers, a pure function of what the manifest knows of them
//! merge  their versions in order of key and Lsn, streamed
//! run    plan, merge, publish; on the store's thread or on a caller's
//! ```
//!
//! A version never replaces an older one, so nothing has to be merged to stay right: a merge only
//! spares reads visits. What is read afterwards is what was read before, version for version.

pub(crate) mod merge;
pub(crate) mod plan;
pub(crate) mod run;
