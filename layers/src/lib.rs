//! The ground floor of pagestrata: the words (key, Lsn, value), in-memory layers, layer files, and the storage trait
//! through which every file is reached.
//!
//! Nothing here knows of timelines, maps of layers, threads or clocks; that is the engine's floor.
#![deny(unsafe_code)]

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
pub use value::{Kind, PageVersion, VALUE_LEN_MAX, Value, Walk};
