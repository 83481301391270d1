//! [`Store`]: a directory of timelines, opening and closing it.
//!
//! ```text
//! DIR/LOCK                  one process at a time
//! DIR/CURRENT, MANIFEST-n   which timelines and layer files there are
//! DIR/timelines/N/          layer files
//! DIR/log/                  segments of the log
//! ```

use crate::{
    reports::OpenReport,
    state::store::{StoreShared, TIMELINES_NAME, timeline_dir},
};

pub(crate) mod close;
mod leftovers;
mod open;
pub(crate) mod read_only;
pub(crate) mod recover;
mod stats;
mod threads;
pub(crate) mod timeline;
pub(crate) mod verify;
pub(crate) mod wait_for;

use std::{
    fmt,
    path::Path,
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
};

use pagestrata_layers::{
    Lsn,
    manifest::edit::Edit,
    storage::{Lock, RealStorage, SharedStorage, major_faults_of_process},
};

use crate::{
    error::{Error, Result},
    names::is_timeline_name,
    options::{Durability, Options},
    reports::{
        OpenProgress,
        stats::{MajorFaults, StoreStats},
    },
    state::{
        page_cache::PageCache,
        timeline::{TimelineParts, TimelineShared},
    },
    store::timeline::Timeline,
};

/// An open store. Only one process can have it open, and only once.
///
/// Dropping it without [`Store::close`] is like a crash of the process: the next open finds
/// everything acknowledged. Timelines, readers and snapshots that outlive it can still read.
///
/// It belongs to the process that opened it, and stays in the directory that it opened, even if
/// that is moved. In a child made by `fork`, its copy and everything derived from it do nothing:
/// fallible calls return [`Error::Closed`], other calls return nothing, and dropping them changes
/// no file, waits for no thread and releases no lock. Guards from before the fork can still read.
/// As long as such a child lives and does not `exec`, it holds the lock, even after its parent has
/// died.
pub struct Store {
    shared: Arc<StoreShared>,
    threads: Vec<JoinHandle<()>>,
    /// Released last.
    _lock: Box<dyn Lock>,
}

impl Store {
    /// Opens the store in a directory, or creates one there. Replays the part of the log that is
    /// not in layer files into memory.
    ///
    /// # Errors
    /// [`Error::InvalidOption`], [`Error::Locked`], [`Error::NoStore`], [`Error::NotAStore`],
    /// [`Error::UnexplainedFiles`] if the manifest is older than layer files beside it, and
    /// [`Error::Layers`] if CURRENT, a manifest, a layer file or a log segment is damaged or
    /// missing (`Corrupt`), of another format version, or not a regular file (`NotAFile`). The
    /// store is left as it was, except that a long log may have been flushed up to the damage.
    ///
    /// Open reads the header, footer, tombstones and index root of each layer file: damage there,
    /// or another length than the manifest records, is an error. Damage in another block is found
    /// when a read touches it: that read fails with `Corrupt`, other pages stay readable, and
    /// [`StoreStats::quarantined`] names the file.
    pub fn open(path: impl AsRef<Path>, options: Options) -> Result<(Store, OpenReport)> {
        Store::open_with(Arc::new(RealStorage), path, options)
    }

    /// As [`Store::open`], on a given storage instead of the operating system's files.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_with(
        storage: SharedStorage,
        path: impl AsRef<Path>,
        options: Options,
    ) -> Result<(Store, OpenReport)> {
        Store::open_with_progress(storage, path, options, &mut |_| {})
    }

    /// As [`Store::open_with`]; calls `progress` repeatedly while the log is replayed.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_with_progress(
        storage: SharedStorage,
        path: impl AsRef<Path>,
        options: Options,
        progress: &mut dyn FnMut(OpenProgress),
    ) -> Result<(Store, OpenReport)> {
        Store::open_as(storage, path.as_ref(), options, false, progress)
    }

    /// Creates a timeline, durably. No value may be below `start`.
    ///
    /// # Errors
    /// [`Error::TimelineExists`], [`Error::InvalidTimelineName`], [`Error::InvalidLsn`],
    /// [`Error::Layers`], [`Error::ReadOnly`].
    pub fn create_timeline(&self, name: &str, start: Lsn) -> Result<Timeline> {
        check_new_timeline(name, start)?;
        self.shared.check_writable()?;
        let mut timelines = self.shared.timelines.lock();
        if timelines.iter().any(|timeline| timeline.name == name) {
            return Err(Error::TimelineExists { name: name.to_owned() });
        }
        self.create_in(&mut timelines, name, start)
    }

    /// Returns the timeline of this name; creates it as [`Store::create_timeline`] does if there is
    /// none. Threads that call it at the same time get the same timeline.
    ///
    /// An existing timeline keeps its own start, [`Timeline::start_lsn`], whatever `start` is.
    ///
    /// ```
    /// # use pagestrata::{Lsn, Options, Store};
    /// # fn main() -> pagestrata::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// let (store, _) = Store::open(dir.path().join("pages"), Options::default())?;
    /// let created = store.open_or_create_timeline("main", Lsn(0x10))?;
    /// let opened = store.open_or_create_timeline("main", Lsn(0x99))?;
    /// assert_eq!(opened.start_lsn(), created.start_lsn());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`Store::create_timeline`], without [`Error::TimelineExists`]. A read-only store
    /// returns existing timelines too.
    pub fn open_or_create_timeline(&self, name: &str, start: Lsn) -> Result<Timeline> {
        check_new_timeline(name, start)?;
        self.shared.check_open()?;
        // Held from the check to the end of the creation.
        let mut timelines = self.shared.timelines.lock();
        if let Some(timeline) = timelines.iter().find(|timeline| timeline.name == name) {
            return Ok(Timeline(timeline.clone()));
        }
        self.shared.check_writable()?;
        self.create_in(&mut timelines, name, start)
    }

    /// Creates a timeline whose name is not in the list yet.
    fn create_in(
        &self,
        timelines: &mut Vec<Arc<TimelineShared>>,
        name: &str,
        start: Lsn,
    ) -> Result<Timeline> {
        let shared = &self.shared;
        let number = timelines.iter().map(|timeline| timeline.number + 1).max().unwrap_or(1);
        let all = shared.dir.join(TIMELINES_NAME);
        let dir = timeline_dir(&shared.dir, number);
        shared.storage.create_dir(&dir)?;
        shared.storage.sync_dir(&all)?;
        let edit = Edit::CreateTimeline { timeline: number, name: name.to_owned(), start };
        shared.append_edits(&[edit])?;
        if shared.options.durability != Durability::External {
            // So that the first commit does not wait for the first segment. A failure is ignored
            // here: it recurs, with an error, at the first commit.
            let _ = shared.begin_log();
        }
        let disk_consistent_lsn = start.previous();
        let name = name.to_owned();
        let opening =
            TimelineParts { number, name, start, disk_consistent_lsn, dir, layers: Vec::new() };
        let timeline = TimelineShared::new(shared.clone(), opening);
        timelines.push(timeline.clone());
        if shared.flusher_panicked.load(Ordering::Relaxed) {
            timeline.stop_flushing();
        }
        Ok(Timeline(timeline))
    }

    /// Returns the timeline of this name.
    ///
    /// # Errors
    /// [`Error::NoTimeline`], [`Error::Closed`]
    pub fn timeline(&self, name: &str) -> Result<Timeline> {
        self.shared.check_open()?;
        let timelines = self.shared.timelines.lock();
        if let Some(timeline) = timelines.iter().find(|timeline| timeline.name == name) {
            return Ok(Timeline(timeline.clone()));
        }
        Err(no_timeline(name, timelines.iter().map(|timeline| &*timeline.name)))
    }

    /// Returns all timelines.
    #[must_use]
    pub fn timelines(&self) -> Vec<Timeline> {
        if self.shared.is_inherited() {
            return Vec::new();
        }
        self.shared.timelines.lock().iter().cloned().map(Timeline).collect()
    }

    /// Returns sizes and counts of all timelines together.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        if self.shared.is_inherited() {
            return StoreStats::default();
        }
        let pool_retained_bytes = self.shared.pool.retained_bytes() as u64;
        let mut stats = StoreStats { pool_retained_bytes, ..StoreStats::default() };
        for timeline in self.timelines() {
            let of = timeline.stats();
            stats.timelines += 1;
            stats.layer_files += of.layer_files;
            stats.layer_file_bytes += of.layer_file_bytes;
            stats.memory.open_bytes += of.memory.open_bytes;
            stats.memory.frozen_bytes += of.memory.frozen_bytes;
            stats.memory.retired_bytes += of.memory.retired_bytes;
            stats.memory.map_bytes += of.memory.map_bytes;
            stats.quarantined.extend(of.quarantined);
        }
        stats.access = self.shared.access.stats();
        stats.major_faults = MajorFaults {
            process: major_faults_of_process().saturating_sub(self.shared.major_faults_before),
            fetching: self.shared.fetchers.major_faults(),
        };
        stats.page_cache_bytes = self.shared.pages.as_ref().map_or(0, PageCache::bytes);
        stats.log = self.shared.log().stats();
        stats
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("dir", &self.shared.dir).finish_non_exhaustive()
    }
}

/// Checks the name and the start of a new timeline.
fn check_new_timeline(name: &str, start: Lsn) -> Result<()> {
    if !is_timeline_name(name) {
        return Err(Error::InvalidTimelineName { name: name.to_owned() });
    }
    if !start.is_valid() || start == Lsn::MAX {
        return Err(Error::InvalidLsn { what: "start of a timeline", lsn: start });
    }
    Ok(())
}

pub(crate) fn no_timeline<'n>(name: &str, names: impl Iterator<Item = &'n str>) -> Error {
    let names: Vec<_> = names.collect();
    let existing = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    Error::NoTimeline { name: name.to_owned(), existing }
}
