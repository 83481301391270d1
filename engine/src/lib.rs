//! An embeddable, pageserver-style LSM layer engine: it stores every version of every page and
//! answers *GetPage@Lsn*.
//!
//! ```
//! use pagestrata::{Key, Lsn, Options, Scratch, Store, Value};
//!
//! # fn main() -> pagestrata::Result<()> {
//! # let dir = tempfile::tempdir().unwrap();
//! let (store, _) = Store::open(dir.path().join("pages"), Options::default())?;
//! let timeline = store.create_timeline("main", Lsn(0x10))?;
//!
//! let page = Key::new(1, 0); // an object and a block of it
//! let mut lease = timeline.write_lease()?;
//! lease.put(page, Lsn(0x20), Value::Image(b"as it was"))?;
//! lease.put(page, Lsn(0x30), Value::Delta { bytes: b"a change", will_init: false })?;
//! lease.commit(Lsn(0x30))?.wait()?;
//!
//! let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
//! let guard = reader.pin(); // borrows the reader; everything below is borrowed from it
//! let versions = guard.versions(page, Lsn(0x30), &mut scratch)?;
//! let bytes: Vec<&[u8]> = versions.newest_first().map(|version| version.bytes).collect();
//! assert_eq!(bytes, [&b"a change"[..], b"as it was"]);
//! # drop(lease);
//! store.close(std::time::Duration::ZERO)?; // flushes; a reopen serves the same
//! # Ok(())
//! # }
//! ```
//!
//! # Concepts
//!
//! - A [`Store`] is a directory of *timelines*; one process has it open.
//! - A [`Timeline`] is one line of history. Its writes carry an [`Lsn`], a position in your own
//!   log, which only grows.
//! - A [`Key`] names a *page*: an object (128 bits) and a block of it. Its *versions* are images
//!   and deltas ([`Value`]); only your [`Redo`] knows what a delta means.
//! - A [`WriteLease`] is the exclusive right to append to a timeline. A commit makes a batch
//!   visible; its [`CommitTicket`] completes when the batch is durable ([`durability`] says against
//!   what).
//! - A [`Reader`] pins the layers that exist and lends them through a [`Guard`]; a [`Snapshot`]
//!   does so at one Lsn, owned and cloneable, for use across threads and `.await`.
//!
//! # Which read do I call?
//!
//! | you want | from a thread that may wait | from a task or a latency-bound thread |
//! |---|---|---|
//! | one page | [`Guard::page`], [`Guard::with_page`] | [`Guard::page_async`], [`Guard::try_page`] |
//! | one page's versions, without redo | [`Guard::versions`] | [`Guard::try_versions`] |
//! | deltas that have no base, too | [`Guard::history`] | |
//! | many pages | [`Guard::pages`], [`Guard::pages_in`] | [`Timeline::prefetch`], then as on the left |
//! | which pages exist | [`Guard::exists`], [`Guard::scan`] | |
//! | the newest version, while writing | [`WriteLease::newest`], [`WriteLease::exists`] | |
//! | to wait for an Lsn | | [`Timeline::wait_for`] |
//! | a value that outlives the guard | [`DetachedVersion`] | |
//!
//! A call of the left column may block its thread on a device. `try_` calls never do; they return
//! what must be fetched ([`Fetch`]). `async` calls let a thread of the store fetch it, and need no
//! particular executor.
//!
//! # The path of a value
//!
//! ```text
//! WriteLease::put -> open layer (the one copy) -> commit: to the log, visible
//!                                              `-> CommitTicket: durable, the log is synced
//!     -> roll: frozen in place -> flush: delta layer
//! Reader::pin -> Guard::versions: open, frozen, delta, image -> borrowed bytes
//!     -> Guard::page: your redo
//! ```
//!
//! # Threads
//!
//! [`Store`], [`Timeline`] and [`Snapshot`] are `Send + Sync`; clone the handles. A [`Reader`] and
//! a [`Scratch`] belong to one thread or task at a time; a [`WriteLease`] is `Send`. The store has
//! threads that flush, merge, sync, prepare the log and fetch, unless [`Options::background`] makes
//! callers do that work ([`Background::Callers`]). After `fork`, a child's copy of a store does
//! nothing.
//!
//! # Features
//!
//! - `tracing` (default): events of failed flushes and merges, and of background threads.
//! - `metrics`: [`ReadStats`] and [`StoreStats`] can be recorded with the `metrics` crate.
//! - `serde`: options can be read and written, statistics written; durations are text like `100ms`.
//! - `bytes`: a [`DetachedVersion`] becomes a `bytes::Bytes` without a copy.
//! - `verify`: invariants whose check costs more than constant time, for tests and fuzzing.
//! - `testing`: simulated storage, the model and the crash explorer, for tests of embedders too.
//!
//! # Limits
//!
//! | what | limit |
//! |---|---|
//! | a value, image or delta | 16 MiB |
//! | a key | an object of 128 bits and a block of 32 bits |
//! | an Lsn | 64 bits; zero and the maximum are not valid |
//! | versions | one per key and Lsn; one writer appends a timeline's Lsns in order |
//! | a commit | any number of values; a log record holds up to 256 KiB and one value more |
//! | processes | one at a time has a store open; a forked child cannot use it |
//! | a timeline's name | 255 bytes, no control characters, bidirectional ones included |
//! | platform | Linux, 64 bits, little-endian |
//!
//! # Errors
//!
//! [`Error::kind`] says what to do: correct the call, wait, make room, reopen, or restore.
#![deny(unsafe_code)]

/// A check that takes more than constant time: only with the feature `verify`.
macro_rules! verify {
    ($($check:tt)*) => {
        if cfg!(feature = "verify") {
            assert!($($check)*);
        }
    };
}

pub mod durability;
#[cfg(feature = "serde")]
mod duration_text;
mod error;
mod error_kind;
mod jobs;
mod layer_map;
#[cfg(feature = "metrics")]
mod metrics;
mod names;
mod options;
mod read;
mod reports;
mod state;
mod store;
#[cfg(feature = "testing")]
pub mod testing;
mod write;

pub use error::{Error, Result};
pub use error_kind::ErrorKind;
pub use jobs::flush_future::FlushFuture;
pub use names::{is_bidirectional_control, is_timeline_name};
pub use options::{Access, Background, Clock, Compression, Durability, FlushRedo, Options};
pub use pagestrata_layers::{
    Error as LayersError, Key, KeyRange, Kind, Lsn, PageVersion, ParseLsnError, Rebuild, Redo,
    RedoResult, VALUE_LEN_MAX, Value,
    layer_file::{AccessStats, LayerKind},
    storage,
};
pub use pagestrata_wal::LogStats;
pub use read::{
    detached::DetachedVersion,
    fetch::{Extent, Fetch},
    guard::{Guard, Page, Reader, Ready, Versions},
    newest::NewestVersion,
    scratch::Scratch,
    snapshot::Snapshot,
};
pub use reports::{
    CloseReport, DamagedFile, DetachedStats, ImportReport, LayerInfo, OpenProgress, OpenReport,
    PinInfo, PinKind, QuarantinedLayer, VerifyReport,
    read_stats::{PlannedLayer, ReadPlan, ReadStats},
    stats::{CompactionStats, FlushStats, MajorFaults, MemoryStats, StoreStats, TimelineStats},
};
pub use store::{
    Store, close::CloseFuture, read_only::ReadOnlyStore, timeline::Timeline, verify::verify_files,
    wait_for::WaitForLsn,
};
pub use write::{
    commit::{CommitDurability, CommitFuture, CommitTicket},
    import::ImageImport,
    lease::{OwnedWriteLease, WriteLease},
};

/// The program in the README, compiled and run as a doc test.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
