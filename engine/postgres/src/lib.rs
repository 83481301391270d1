//! PostgreSQL 15 WAL and base backups as page versions.
//!
//! ```text
//! WAL segments -> WalReader -> Record -> PageVersions -> (Key, Value) at the record's end Lsn
//!                                    \-> relation_events -> ranges of blocks that are gone
//! base backup  -> BaseBackup -> (Key, image) at the checkpoint Lsn that ControlFile names
//! ```
//!
//! Nothing here knows the engine: keys, Lsns, values and the storage trait come from the ground floor, and the caller puts
//! what is yielded wherever it wants. Redo of the deltas is the caller's, too; a delta is the whole record, and
//! [`decode_record`] reads it again.
//!
//! **Invariants:** no byte of input can cause a panic, and no length is used before it is checked. What is not
//! understood is an error that says where; the log is never silently shorter than what lies in the directory
//! ([`WalEnd`] against [`Error`]).
//!
//! A record names pages by block references; [`PageVersions`] turns these into values. Redo also changes pages that no
//! block reference names: visibility map bits ([`visibility_map`]), whole ranges of blocks ([`relation_events`]), and the free
//! space map, which is not logged at all.
#![deny(unsafe_code)]

mod backup;
mod block;
mod bytes;
mod control;
mod error;
mod events;
mod image;
mod pages;
mod pglz;
mod reader;
mod record;
mod rel;
mod segments;
mod start;
mod survey;
mod versions;
pub mod visibility_map;

pub use backup::{BaseBackup, BasePages, RelationFile};
pub use block::{BlockImage, BlockRef, Blocks, Compression};
pub use control::ControlFile;
pub use error::{Error, LogCorruption, Result};
pub use events::{RelationEvent, relation_events};
pub use image::{ImageDecoder, PAGE_SIZE, Page, restore_image, stamp_lsn};
pub use pglz::decompress as pglz_decompress;
pub use reader::WalReader;
pub use record::{ManagerId, Record, decode_record};
pub use rel::{Fork, ParseRelPageError, RelFork, RelPage, page_key};
pub use start::first_record;
pub use survey::WalEnd;
pub use versions::PageVersions;
