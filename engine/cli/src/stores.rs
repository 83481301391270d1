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
    let store = existing(dir)?;
    let timeline = store.timeline(timeline)?;
    Ok((store, timeline))
}

/// Opens a store that exists.
pub(crate) fn existing(dir: &Path) -> Result<Store> {
    let (store, _) = Store::open(dir, Options { create: false, ..options() })?;
    Ok(store)
}

/// As this command opens stores: without a log of the store's own, for what it ingests can be read again.
pub(crate) fn options() -> Options {
    Options { durability: Durability::External, ..Options::default() }
}
