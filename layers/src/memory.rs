//! The in-memory layer: open while it is appended to, then frozen in place.
//!
//! ```text
//! put -> values arena (the one copy) -> pending -> index -> commit(lsn): published
//!                                                                |
//! freeze: the same memory, without a writer <--------------------+
//!    `-> sorted iterator -> delta layer
//! ```
//!
//! One writer ([`OpenLayer`]) and any number of readers ([`MemLayer`], shared) at the same time.
//! Readers take no lock and write nothing: a version is found through links that the writer stored
//! with Release, and everything above the committed Lsn is ignored. Reading and iterating are
//! bounded by [`MemLayer::committed_lsn`], whatever the caller asks for.
//!
//! **Invariant:** there is no "is it still writable?" check: an [`OpenLayer`] is the right to
//! write, and freezing takes it by value.

mod arena;
mod index;
mod mem_layer;
mod newest;
mod open_layer;
mod records;
mod sorted;
mod space;
#[cfg(test)]
mod tests;

use std::sync::atomic::Ordering;

pub use arena::{BlockCounts, ChunkPool, KeptBlocks, ScratchArena};
pub use mem_layer::{FrozenLayer, MemLayer};
pub use newest::NewestInLayer;
pub use open_layer::OpenLayer;
pub use sorted::SortedVersions;

/// How everything that readers follow is stored: they load it with Acquire and see all that was
/// written before. Planted for the thread sanitizer: an order that is too weak.
const PUBLISH: Ordering =
    if cfg!(planted_bug = "relaxed_publish") { Ordering::Relaxed } else { Ordering::Release };
