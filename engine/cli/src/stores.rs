//! Opening stores: to read what is there, or to write.

use std::{path::Path, sync::Arc};

use pagestrata::{
    Durability, Options, Store, Timeline,
    storage::{RealStorage, SharedStorage},
};

use crate::Result;

/// The operating system's files.
#[must_use]
pub fn storage() -> SharedStorage {
    Arc::new(RealStorage)
}

/// Opens a store that exists, and one of its timelines. Nothing is written by that; the store is open as long as the
/// first of the two is kept.
///
/// # Errors
/// No such store or timeline, a store in use, a damaged one.
pub fn open_existing(dir: &Path, timeline: &str) -> Result<(Store, Timeline)> {
    open_to_ingest(dir, timeline, 0)
}

/// As [`open_existing`], for what is going to write: flushes make a page where more deltas than this would have to be applied; 0: none.
///
/// # Errors
/// As [`open_existing`].
pub fn open_to_ingest(
    dir: &Path,
    timeline: &str,
    deltas_per_page_max: u32,
) -> Result<(Store, Timeline)> {
    let options = Options { create: false, deltas_per_page_max, ..options() };
    let (store, _) = Store::open(dir, options)?;
    let timeline = store.timeline(timeline)?;
    Ok((store, timeline))
}

/// As this command opens stores: without a log of the store's own, for what it ingests can be read again.
pub(crate) fn options() -> Options {
    Options { durability: Durability::External, ..Options::default() }
}
