//! The lowest crate of pagestrata: keys, Lsns and values, in-memory layers, layer files, the
//! manifest, and the storage trait through which every file is reached.
//!
//! This crate has no type for an open timeline or the layer map, starts no thread and reads no
//! clock. Timelines appear only as numbers and names in its files.
//!
//! # Rooms
//!
//! ```text
//! memory     in-memory layers, their arenas, a reader's scratch
//! manifest   the durable log of layer edits
//! layer_file delta and image layers on disk
//! storage    files: real, and (feature `testing`) simulated
//! key, lsn, value, redo, error, reserve, prefetch, compress, commit_record
//! ```
//!
//! Imports go down only. `memory` and `manifest` do not know each other.
#![deny(unsafe_code)]

/// Checks an invariant at a cost in proportion to the data: with the feature `verify` only.
macro_rules! verify {
    ($($check:tt)*) => {
        if cfg!(feature = "verify") {
            assert!($($check)*);
        }
    };
}

pub mod commit_record;
mod compress;
mod error;
mod key;
pub mod layer_file;
mod lsn;
pub mod manifest;
mod memory;
mod prefetch;
mod redo;
mod reserve;
pub mod storage;
#[cfg(feature = "testing")]
pub mod testing;
mod value;

pub use error::{Corruption, Error, Result};
pub use key::{Key, KeyRange};
pub use lsn::{Lsn, ParseLsnError};
pub use memory::{
    BlockCounts, ChunkPool, FrozenLayer, KeptBlocks, MemLayer, NewestInLayer, OpenLayer,
    ScratchArena, SortedVersions,
};
pub use redo::{Rebuild, Redo, RedoResult};
pub use reserve::reserve;
pub use value::{Kind, PageVersion, VALUE_LEN_MAX, Value, WalkEnd};
