//! Redo: what a record makes of a page, as PostgreSQL's recovery does it, in this process and
//! without one of PostgreSQL's.
//!
//! ```text
//! base image, or a page of zeros -> for each record
//!     by the block reference that names the page:
//!         an image that is restored | the access method's own change of the page (of few, both)
//!         -> the record's end is stamped
//!     without one: the visibility map bits that it clears
//! ```
//!
//! | file | what | after |
//! |---|---|---|
//! | `versions.rs` | what a record is stored as, under which keys | |
//! | `page_redo.rs` | a page from a base and the records that a store has of it | |
//! | `apply.rs` | one record on one page | |
//! | `managers.rs` | which manager's redo and mask; whose page a page is | |
//! | `heap.rs` | heap, both managers | `access/heap/heapam.c` |
//! | `btree.rs` | B-trees | `access/nbtree/nbtxlog.c` |
//! | `gin.rs` | inverted indexes | `access/gin/ginxlog.c` |
//! | `hash.rs` | hash indexes | `access/hash/hash_xlog.c` |
//! | `brin.rs` | BRIN | `access/brin/brin_xlog.c` |
//! | `gist.rs` | GiST | `access/gist/gistxlog.c` |
//! | `spgist.rs` | SP-GiST | `access/spgist/spgxlog.c` |
//! | `sequence.rs`, `generic.rs` | sequences, pages of extensions | `commands/sequence.c`, `access/transam/generic_xlog.c` |
//! | `visibility_map.rs` | map pages that a record changes without naming them | `access/heap/visibilitymap.c` |
//! | `change.rs`, `problem.rs` | what a manager's redo is given, and returns | |
//! | `mask.rs` | what need not be equal | `access/common/bufmask.c` |
//! | `not_logged.rs` | what a server changes on disk and never logs | |
//! | `page.rs` | line pointers, items, flags | `storage/page/bufpage.c` |
//! | `checksum.rs` | the checksum of a page | `storage/checksum_impl.h` |
//!
//! Imports run from `versions`, `page_redo` and `apply` through `managers` to the managers, and
//! from these to `change`, `mask` and `page`. Records come from the room `wal`.
//!
//! A page is changed by records whose end is above its `pd_lsn`, as there; images are restored and
//! visibility map bits are cleared in any case.
//!
//! **Invariants:** a function of settings, page and record alone: no clock, no file, no other page,
//! and no allocation but where an image in a record is inflated. No bytes of page or record can
//! cause a panic or a write outside the page. What makes no sense is a [`RedoError`], and the
//! page's bytes are then unspecified.

mod apply;
mod brin;
mod btree;
mod change;
mod checksum;
mod generic;
mod gin;
mod gist;
mod hash;
mod heap;
mod managers;
mod mask;
mod not_logged;
mod page;
mod page_redo;
mod problem;
mod sequence;
mod spgist;
mod versions;
pub mod visibility_map;

pub use apply::{RedoError, redo};
pub use change::RedoSettings;
pub use checksum::{page_checksum, stamp_checksum};
pub use managers::{is_known, manager_of, mask_page};
pub use not_logged::{UnloggedChange, is_lost_in_copy, is_map_without_bits, unlogged_change};
pub use page::stamp_lsn;
pub use page_redo::PageRedo;
pub use versions::PageVersions;
