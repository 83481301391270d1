//! Base backups: the pages of a data directory at rest, or of a copy that was made while its server
//! ran.
//!
//! ```text
//! files (a directory) --+
//! archive (a tar) ------+--> parts --> base_backup (files and pages in key order)
//!                             |            ^
//!         control_file, label +------------+      catalog   which of these files a database names
//! ```
//!
//! | file | what |
//! |---|---|
//! | `base_backup.rs` | the backup, its relation files, its pages |
//! | `files.rs` | which files matter, and where they are; the files of a directory |
//! | `archive.rs` | the files in a tar |
//! | `catalog.rs` | which files the catalog of a database can name |
//! | `control_file.rs` | what a server says of its data directory |
//! | `label.rs` | where a copy of a running server's files starts and ends in the log |
//!
//! **Invariants:** pages come in ascending order of their keys, each once; a page of zeros is a
//! page. Every byte comes through the storage trait, and nothing is unpacked or written.

mod archive;
mod base_backup;
mod catalog;
mod control_file;
mod files;
mod label;

pub use base_backup::{BaseBackup, BasePages, RelationFile};
pub use control_file::{ClusterState, ControlFile};
pub use label::{BackupLabel, backup_ended_by};
