//! Opening stores: to read what is there, or to write.

use std::{path::Path, sync::Arc};

use pagestrata::{
    Durability, Options, ReadOnlyStore, Store, Timeline,
    storage::{RealStorage, SharedStorage},
};

use crate::Result;

/// The operating system's files.
#[must_use]
pub fn storage() -> SharedStorage {
    Arc::new(RealStorage)
}

/// Opens a store that exists to read it, and one of its timelines. Nothing in its directory is
/// written or removed; the store is open as long as the first of the two is kept.
///
/// # Errors
/// No such store or timeline, a store in use, a damaged one.
pub fn open_existing(dir: &Path, timeline: &str) -> Result<(ReadOnlyStore, Timeline)> {
    let store = Store::open_read_only(dir, options())?;
    let timeline = store.timeline(timeline)?;
    Ok((store, timeline))
}

/// Opens a store that exists to write to it, and one of its timelines. Flushes make a page where
/// more deltas than this would have to be applied; 0: none.
///
/// # Errors
/// As [`open_existing`].
pub fn open_to_ingest(
    dir: &Path,
    timeline: &str,
    deltas_per_page_max: u32,
) -> Result<(Store, Timeline)> {
    open_with(dir, timeline, Options { deltas_per_page_max, ..options() })
}

/// Opens a store that exists to write to it, and one of its timelines.
///
/// # Errors
/// As [`open_existing`].
pub fn open_to_write(dir: &Path, timeline: &str) -> Result<(Store, Timeline)> {
    open_with(dir, timeline, options())
}

fn open_with(dir: &Path, timeline: &str, options: Options) -> Result<(Store, Timeline)> {
    let (store, _) = Store::open(dir, Options { create: false, ..options })?;
    let timeline = store.timeline(timeline)?;
    Ok((store, timeline))
}

/// As this command opens stores: without a log of the store's own, for what it ingests can be read
/// again.
pub(crate) fn options() -> Options {
    Options { durability: Durability::External, ..Options::default() }
}
