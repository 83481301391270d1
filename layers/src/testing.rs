//! A simulated storage for tests, fuzzing and benches (feature `testing`): files in memory that
//! know what is durable, fail on demand and can be looked at as a crash would leave them.
//!
//! ```text
//! Storage and File calls -> live image, and beside it every older version since the last sync
//!                             |-> killed(): the same, for the next process
//!                             `-> crash(choices): one of the images that a power failure may leave
//! ```
//!
//! # What a crash may keep
//!
//! | what | when it is durable | before that, a crash leaves |
//! |---|---|---|
//! | a sector (512 bytes of a file, from a multiple of 512) | [`File::sync`] | any one content that it had since then, each sector by itself: the synced one, that of any later write, the last |
//! | a file's length | [`File::sync`] | any one that it had since then |
//! | a sector that the synced file did not reach | [`File::sync`] | the same, and zeros; never another file's bytes |
//! | a cut ([`File::truncate`]) | [`File::sync`] | as it chooses the length: with one from before it, the cut-off sectors hold what they held before; with one from after it, zeros or what was written after |
//! | a creation, removal, rename, new directory | [`Storage::sync_dir`] of its directory | done or not, each whole and by itself; but not without the earlier ones of the same name or file |
//! | what is in a directory | that, and the directory's own name | nothing, if the directory's name is gone |
//!
//! The reasons:
//! - A device writes sectors whole and in any order, and the page cache is written back whenever
//!   the kernel likes: POSIX promises nothing before `fsync` returns. So bytes may be there long
//!   before the sync, in part and out of order.
//! - With delayed allocation (ext4, XFS) a file's length and its bytes become durable apart from
//!   each other; what was never written reads as zeros.
//! - A new file's `fsync` does not promise its name (POSIX; `fsync(2)` on Linux says to sync the
//!   directory). Names are journaled, so that each change is whole and those of one name are in
//!   order: a temporary that is renamed is there under its first name, its second, or not at all,
//!   and who had the second name before is replaced and never lost.
//! - A failed `fsync` on Linux marks the pages clean: the next one succeeds although the bytes
//!   never came to the disk, and readers see them until then. This is what PostgreSQL was told of
//!   in 2018 ("fsyncgate"). [`FailedSync::DropsDirty`] does so.
//!
//! # Limits
//!
//! - Renames are within a directory and of files; there are no hard links, and directories are
//!   never removed.
//! - A sector is never half written, no bytes rot but by [`SimulatedStorage::flip`] and
//!   [`SimulatedStorage::change`], and a sync that succeeded is never a lie.
//! - After a failed sync with dropped sectors a reader goes on seeing them; that the kernel may
//!   forget them at any time is not simulated. The file's length is not dropped: it is journaled
//!   with the names.
//! - A removed file's bytes are given back to a full disk at once, also while it is open.
//! - Every version since the last sync is kept in memory: who writes much and never syncs needs
//!   much.
//!
//! **Invariants:** no clock, no random numbers of its own, no threads: the same calls and choices
//! give the same images. A storage that comes out of [`SimulatedStorage::crash`] or
//! [`SimulatedStorage::killed`] shares no state with the one it was taken from (only bytes that
//! neither changes), holds no locks and has no faults set.
//!
//! [`File::sync`]: crate::storage::File::sync
//! [`File::truncate`]: crate::storage::File::truncate
//! [`Storage::sync_dir`]: crate::storage::Storage::sync_dir
//!
//! ```
//! use std::path::Path;
//! use pagestrata_layers::{storage::Storage, testing::{SimulatedStorage, all_kept, none_kept}};
//!
//! let storage = SimulatedStorage::new();
//! storage.create(Path::new("/file"))?.append(b"bytes")?;
//! assert!(storage.crash(&mut none_kept).files().is_empty());
//! assert_eq!(storage.crash(&mut all_kept).bytes(Path::new("/file")), b"bytes");
//! // No name; the name with no length; the length with zeros; all of it.
//! assert_eq!(storage.crash_states(100).unwrap().count(), 4);
//! # Ok::<(), pagestrata_layers::Error>(())
//! ```

mod choices;
mod content;
mod crash;
mod fault;
mod names;
mod simulated;

pub use choices::{Choices, Decision, Script, all_kept, none_kept};
pub use crash::CrashStates;
pub use fault::{FailedSync, Failing, Failure, Fault};
pub use simulated::{Operation, SimulatedStorage};

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_of_faults;
