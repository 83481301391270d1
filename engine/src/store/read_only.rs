//! [`ReadOnlyStore`]: a store that is opened for reading and not changed by a byte.

use std::{fmt, path::Path, sync::Arc};

use pagestrata_layers::storage::{RealStorage, SharedStorage};

use crate::{
    error::Result,
    options::Options,
    reports::{OpenReport, stats::StoreStats},
    store::{Store, timeline::Timeline},
};

/// A store opened by [`Store::open_read_only`].
///
/// Its timelines read like those of a [`Store`]; every call that would write fails with
/// [`Error::ReadOnly`](crate::Error::ReadOnly). Timelines, readers and snapshots that outlive it
/// can still read. No other process can open the store while this exists.
pub struct ReadOnlyStore {
    store: Store,
    report: OpenReport,
}

impl Store {
    /// Opens the store in a directory for reading. Nothing in the directory is created, written,
    /// renamed or removed.
    ///
    /// The part of the log that is not in layer files is read into memory, whatever its length.
    /// What a crash has left, such as a torn tail of the log or an unfinished layer file, stays in
    /// place. [`Options::create`] is ignored and taken for false.
    ///
    /// ```
    /// use pagestrata::{Error, Key, Lsn, Options, Scratch, Store, Value};
    ///
    /// # fn main() -> pagestrata::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// let (store, _) = Store::open(dir.path(), Options::default())?;
    /// let main = store.create_timeline("main", Lsn(1))?;
    /// let mut lease = main.write_lease()?;
    /// lease.put(Key::new(1, 0), Lsn(2), Value::Image(b"page"))?;
    /// lease.commit(Lsn(2))?.wait()?;
    /// drop(lease);
    /// drop((main, store));
    ///
    /// let store = Store::open_read_only(dir.path(), Options::default())?;
    /// let main = store.timeline("main")?;
    /// let (mut reader, mut scratch) = (main.reader(), Scratch::new());
    /// let versions = reader.pin().versions(Key::new(1, 0), Lsn(2), &mut scratch)?;
    /// assert_eq!(versions.len(), 1);
    /// assert!(matches!(main.write_lease(), Err(Error::ReadOnly { .. })));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_read_only(path: impl AsRef<Path>, options: Options) -> Result<ReadOnlyStore> {
        Store::open_read_only_with(Arc::new(RealStorage), path, options)
    }

    /// As [`Store::open_read_only`], on a given storage instead of the operating system's files.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_read_only_with(
        storage: SharedStorage,
        path: impl AsRef<Path>,
        options: Options,
    ) -> Result<ReadOnlyStore> {
        let options = Options { create: false, ..options };
        let (store, report) = Store::open_as(storage, path.as_ref(), options, true, &mut |_| {})?;
        Ok(ReadOnlyStore { store, report })
    }
}

impl ReadOnlyStore {
    /// Returns the timeline of this name.
    ///
    /// # Errors
    /// [`Error::NoTimeline`](crate::Error::NoTimeline)
    pub fn timeline(&self, name: &str) -> Result<Timeline> {
        self.store.timeline(name)
    }

    /// Returns all timelines.
    #[must_use]
    pub fn timelines(&self) -> Vec<Timeline> {
        self.store.timelines()
    }

    /// Returns sizes and counts of all timelines together.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        self.store.stats()
    }

    /// Returns the report of the open.
    #[must_use]
    pub fn open_report(&self) -> &OpenReport {
        &self.report
    }
}

impl fmt::Debug for ReadOnlyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadOnlyStore").field("store", &self.store).finish_non_exhaustive()
    }
}
