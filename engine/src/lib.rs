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
//! # The way of a value
//!
//! ```text
//! WriteLease::put -> open layer (the one copy) -> commit: to the log, visible
//!     -> roll: frozen in place -> flush: delta layer
//!                                                   `-> CommitTicket: durable, the log is synced
//! Reader::pin -> Guard::versions: open, frozen, delta, image -> borrowed bytes
//!     -> Guard::page: your redo
//! ```
//!
//! A lease can be owned ([`Timeline::write_lease_owned`]), be asked for what it has put
//! ([`WriteLease::newest`]), and flush ([`WriteLease::flush`]). Tasks await a commit
//! ([`CommitTicket`]), a flush ([`Timeline::flush_async`]), a close ([`Store::close_async`]) and
//! reads ([`Guard::page_async`]), each on any executor.
//!
//! What an acknowledged commit survives is in [`durability`]. The log that this takes is read back
//! when the store is opened, and freed as layers are flushed.
#![deny(unsafe_code)]

pub mod durability;
#[cfg(feature = "serde")]
mod duration_text;
mod error;
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
pub use jobs::flush_future::FlushFuture;
pub use names::{is_bidirectional_control, is_timeline_name};
pub use options::{AccessMode, Background, Clock, Compression, Durability, FlushRedo, Options};
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
    stats::{FlushStats, MajorFaults, MemoryStats, StoreStats, TimelineStats},
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

/// The program in the README, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
