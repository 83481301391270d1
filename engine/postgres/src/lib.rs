//! PostgreSQL 15 WAL and base backups as page versions.
//!
//! ```text
//! WAL segments   -> WalReader     -> Record -> PageVersions -> (Key, Value) at the record's end
//! pieces of them -> StreamDecoder -> Record \-> relation_events -> ranges of blocks that are gone
//! base backup, a directory or a tar -> BaseBackup -> (Key, image) at the Lsn that its BackupLabel
//!     or ControlFile names
//! running server -> live::Replication (feature `live`) -> pieces of segments
//! image, deltas -> PageRedo -> the page as PostgreSQL's recovery leaves it
//! ```
//!
//! Nothing here knows the engine: keys, Lsns, values, redo and the storage trait come from the
//! ground floor, and the caller puts what is yielded wherever it wants. A delta is the whole
//! record: [`PageRedo`] applies it, and [`decode_record`] reads it again for whoever wants to look.
//!
//! **Invariants:** no byte of input can cause a panic, and no length is used before it is checked.
//! What is not understood is an error that says where; the log is never silently shorter than what
//! lies in the directory ([`WalEnd`] against [`Error`]).
//!
//! A record names pages by block references; [`PageVersions`] turns these into values. Redo also
//! changes pages that no block reference names: visibility map bits ([`visibility_map`]), whole
//! ranges of blocks ([`relation_events`]), and the free space map, which is not logged at all.
#![deny(unsafe_code)]

mod backup;
mod block;
mod bytes;
mod checksum;
mod control;
mod error;
mod events;
mod image;
mod keys;
mod layout;
#[cfg(feature = "live")]
pub mod live;
mod manager;
mod not_logged;
mod pages;
mod pglz;
mod reader;
mod record;
mod record_name;
mod records;
mod redo;
mod rel;
mod segments;
mod settings;
mod start;
mod stream;
mod survey;
mod versions;
pub mod visibility_map;

pub use backup::{BackupLabel, BaseBackup, BasePages, RelationFile, backup_ended_by};
pub use block::{BlockImage, BlockRef, Blocks, Compression};
pub use checksum::{page_checksum, stamp_checksum};
pub use control::{ClusterState, ControlFile};
pub use error::{Error, LogCorruption, Result};
pub use events::{RelationEvent, relation_events};
pub use image::{ImageDecoder, restore_image};
pub use keys::page_key;
pub use layout::{PAGE_SIZE, Page};
pub use manager::ManagerId;
pub use not_logged::{UnloggedChange, is_lost_in_copy, is_map_without_bits, unlogged_change};
pub use pages::LogIdentity;
pub use pglz::decompress as pglz_decompress;
pub use reader::WalReader;
pub use record::{Record, decode_record};
pub use record_name::record_name;
pub use redo::{
    PageRedo, RedoError, RedoSettings, is_known, manager_of, mask_page, redo, stamp_lsn,
};
pub use rel::{Fork, ParseRelPageError, RelFork, RelPage};
pub use settings::{
    ParameterChange, WalLevel, is_shutdown_checkpoint, parameter_change, shows_logged_hints,
};
pub use start::first_record;
pub use stream::StreamDecoder;
pub use survey::WalEnd;
pub use versions::PageVersions;
