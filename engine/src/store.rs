//! [`Store`]: a directory of timelines, opening and closing it.
//!
//! ```text
//! DIR/LOCK                  one process at a time
//! DIR/CURRENT, MANIFEST-n   which timelines and layer files there are
//! DIR/timelines/N/          layer files
//! DIR/log/                  segments of the log
//! ```

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering, fence},
    },
    thread::JoinHandle,
    time::Duration,
};

use pagestrata_layers::{
    ChunkPool, Lsn,
    layer_file::LayerAccess,
    manifest::{
        CURRENT_NAME, Manifest,
        edit::{Edit, State, TimelineState},
    },
    storage::{Lock, ProcessMark, RealStorage, SharedStorage, Storage, major_faults_of_process},
};
use pagestrata_wal::{Log, ReplayOutcome};
use parking_lot::Mutex;

use crate::{
    Background, CloseFuture, Durability, Error, LayersError, MajorFaults, OpenProgress, Options,
    PinInfo, Result, StoreStats, Timeline,
    background::{Wakeup, spawn_threads},
    fetch::Fetchers,
    is_timeline_name,
    leftovers::{Leftovers, NamedFiles, is_of_read_only_file_system},
    map::FileLayer,
    page_cache::PageCache,
    recover::replay_log,
    timeline::{Opening, TimelineShared},
};

const LOCK_NAME: &str = "LOCK";
pub(crate) const TIMELINES_NAME: &str = "timelines";
/// How many sequence numbers are reserved with one edit of the manifest.
const SEQUENCES_RESERVED: u64 = 1024;
/// How long closing sleeps before it looks again whether a commit that is under way has ended.
const COMMIT_NAP: Duration = Duration::from_micros(100);

/// An open store. Only one process can have it open, and only once.
///
/// Dropping it without [`Store::close`] is like a crash of the process that the next opening finds: what was acknowledged is
/// there. Timelines, readers and snapshots that outlive it can still read.
///
/// It belongs to the process that opened it, and stays in the directory that it opened, wherever
/// that is moved. In a child made by `fork`, its copy and all that came from it do nothing: calls
/// that could fail return [`Error::Closed`], the others find nothing, and dropping them changes no
/// file, waits for no thread and gives no lock back. Guards from before the fork can still read. As
/// long as such a child lives and does not `exec`, it keeps the lock from other processes when its
/// parent dies.
pub struct Store {
    shared: Arc<StoreShared>,
    threads: Vec<JoinHandle<()>>,
    /// Given back last.
    _lock: Box<dyn Lock>,
}

/// What the store's timelines and threads share.
pub(crate) struct StoreShared {
    pub(crate) id: u128,
    /// The process that opened it: nothing is done in a forked child.
    pub(crate) owner: ProcessMark,
    pub(crate) dir: PathBuf,
    pub(crate) options: Options,
    /// Opened to be read only: nothing in the directory is written, renamed or removed.
    pub(crate) reads_only: bool,
    pub(crate) storage: SharedStorage,
    /// How layer files are read.
    pub(crate) access: Arc<LayerAccess>,
    /// Pages that redo has made, if these are kept.
    pub(crate) pages: Option<PageCache>,
    pub(crate) pool: Arc<ChunkPool>,
    /// None once the store is closed: from then on the directory may be another store's.
    manifest: Mutex<Option<Manifest>>,
    /// The edit of an import has failed, and may come up after a crash all the same, until another edit has succeeded. Set by
    /// whoever imports, under the write lease, and read by commits under theirs.
    pub(crate) import_in_doubt: AtomicBool,
    timelines: Mutex<Vec<Arc<TimelineShared>>>,
    /// Sequence numbers of layers: the next one, and where those end that the manifest knows to be in use.
    sequences: Mutex<std::ops::Range<u64>>,
    /// Set by the opening, once the log is replayed.
    pub(crate) log: OnceLock<Arc<Log>>,
    /// Set once the manifest says where the log begins.
    pub(crate) log_begun: OnceLock<()>,
    pub(crate) log_beginning: Mutex<()>,
    pub(crate) flusher: Wakeup,
    pub(crate) reclaimer: Wakeup,
    pub(crate) logger: Wakeup,
    pub(crate) preparer: Wakeup,
    pub(crate) fetchers: Fetchers,
    /// Those of the process when the store was opened.
    major_faults_before: u64,
    closed: AtomicBool,
    /// Nobody flushes any more. Ordered by the lock of `timelines`.
    pub(crate) flusher_panicked: AtomicBool,
}

/// What opening a store found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct OpenReport {
    /// Whether there was no store and one was made.
    pub created: bool,
    /// Number of timelines.
    pub timelines: u64,
    /// Number of layer files.
    pub layer_files: u64,
    /// The lengths of all layer files, in bytes.
    pub layer_file_bytes: u64,
    /// Files that an interrupted flush or import has left, and segments of the log that are of no use: removed now, or
    /// left where they are when the store is opened to be read only. What has another name than
    /// the engine gives is left alone.
    pub orphans_removed: Vec<String>,
    /// Segments of the log that were read.
    pub log_segments: u64,
    /// Records that were read, among them those that are in layer files already.
    pub log_records: u64,
    /// The lengths of the records, in bytes.
    pub log_bytes: u64,
    /// Commits that are in memory again, and were not in layer files.
    pub log_commits: u64,
    /// Where the log ended in something that was never acknowledged: segment and offset. It is cut off by the next commit.
    pub log_torn_at: Option<String>,
    /// The length of that, as far as it can be made out, in bytes.
    pub log_cut_bytes: u64,
    /// Why the store is read-only: damage in the log, with [`Options::salvage_log`], or a log that cannot be written.
    pub read_only: Option<String>,
    /// Length of an edit at the end of the manifest that was never acknowledged and is cut off, in bytes.
    pub manifest_cut_bytes: u64,
    /// How long it took.
    pub elapsed: Duration,
}

/// What closing a store did.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct CloseReport {
    /// The disk-consistent Lsn of each timeline, as `X/Y`, by name.
    pub disk_consistent_lsns: Vec<(String, String)>,
    /// Timelines whose open layer could not be flushed because somebody holds the write lease.
    pub leases_held: Vec<String>,
    /// Readers, snapshots and detached versions that are still there. They can go on reading.
    pub pins: Vec<PinInfo>,
}

impl Store {
    /// Opens the store in a directory, or makes one there. What the log holds and no layer file does is in memory again.
    ///
    /// # Errors
    /// [`Error::InvalidOption`], [`Error::Locked`], [`Error::NoStore`], [`Error::NotAStore`],
    /// [`Error::UnexplainedFiles`] when the manifest is older than layer files beside it, and
    /// [`Error::Layers`] for CURRENT, a manifest, a layer file or a segment of the log that is
    /// damaged, missing (both are `Corrupt`), of another format version, or no regular file
    /// (`NotAFile`). What the store holds is left as it was; a long log may have been flushed up to
    /// the damage.
    ///
    /// Of a layer file the header, the footer, the tombstones and the root of the index are read: damage there, or another
    /// length than the manifest says, is an error here. Damage in any other block is not met before a read
    /// touches it: that read fails with `Corrupt`, other pages stay readable, and
    /// [`StoreStats::quarantined`] names the file.
    pub fn open(path: impl AsRef<Path>, options: Options) -> Result<(Store, OpenReport)> {
        Store::open_with(Arc::new(RealStorage), path, options)
    }

    /// As [`Store::open`], on another storage than the operating system's files.
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

    /// As [`Store::open_with`]; `progress` is called now and then while the log is replayed.
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

    /// Opens a store, to be written or to be read only.
    pub(crate) fn open_as(
        storage: SharedStorage,
        path: &Path,
        options: Options,
        reads_only: bool,
        progress: &mut dyn FnMut(OpenProgress),
    ) -> Result<(Store, OpenReport)> {
        options.validate()?;
        let began = options.clock.now();
        let (dir, outside) = (path.to_owned(), storage);
        let (storage, lock) = match reads_only {
            true => lock_to_read(&*outside, &dir)?,
            false => lock_dir(&*outside, &dir, &options)?,
        };
        let (manifest, mut report) = open_manifest(&storage, &*outside, &dir, &options)?;
        let mut state = manifest.state().clone();
        let (next_sequence, named) = (state.next_sequence, NamedFiles::of(&state));
        let pool = usize::try_from(options.pool_retained_max_bytes).unwrap_or(usize::MAX);
        let shared = Arc::new(StoreShared {
            id: manifest.store(),
            owner: ProcessMark::current(),
            dir,
            pool: Arc::new(ChunkPool::new(pool)),
            manifest: Mutex::new(Some(manifest)),
            timelines: Mutex::default(),
            sequences: Mutex::new(next_sequence..next_sequence),
            log: OnceLock::new(),
            log_begun: OnceLock::new(),
            log_beginning: Mutex::default(),
            flusher: Wakeup::default(),
            reclaimer: Wakeup::default(),
            logger: Wakeup::default(),
            preparer: Wakeup::default(),
            fetchers: Fetchers::default(),
            major_faults_before: major_faults_of_process(),
            closed: AtomicBool::new(false),
            flusher_panicked: AtomicBool::new(false),
            import_in_doubt: AtomicBool::new(false),
            pages: PageCache::new(options.page_cache_max_bytes),
            access: LayerAccess::new(storage.clone(), options.of_access()),
            storage,
            options,
            reads_only,
        });
        // From here on, also an opening that fails gives everything back, by the drop of this.
        let mut store = Store { shared, threads: Vec::new(), _lock: lock };
        let shared = &store.shared;
        let mut timelines = Vec::new();
        for (number, state) in std::mem::take(&mut state.timelines) {
            let timeline = shared.open_timeline(number, state)?;
            let stats = crate::TimelineStats::of(&timeline);
            report.timelines += 1;
            report.layer_files += stats.layer_files;
            report.layer_file_bytes += stats.layer_file_bytes;
            timelines.push(timeline);
        }
        let leftovers = Leftovers::find(&*shared.storage, &shared.dir, &named, next_sequence)?;
        let (replayed, damage) =
            replay_log(shared, &timelines, state.log_start, progress, &mut report)?;
        *shared.timelines.lock() = timelines;
        let replayed = match damage {
            Some(damage) => ReplayOutcome::unusable(&damage),
            None if reads_only => ReplayOutcome::unusable("it was opened to be read only"),
            // Only now: an opening that fails leaves the store as it was.
            None => {
                shared.remove_leftovers(leftovers, &replayed.strays, &mut report)?;
                replayed
            }
        };
        shared.set_log(replayed);
        if state.log_start.is_some() {
            let _ = shared.log_begun.set(());
        }
        report.read_only = shared.read_only_cause();
        spawn_threads(&store.shared, &mut store.threads)?;
        report.elapsed = store.shared.options.clock.now().saturating_sub(began);
        Ok((store, report))
    }

    /// Creates a timeline, durably. No value can be below `start`.
    ///
    /// # Errors
    /// [`Error::TimelineExists`], [`Error::InvalidTimelineName`], [`Error::InvalidLsn`], [`Error::Layers`],
    /// [`Error::ReadOnly`].
    pub fn create_timeline(&self, name: &str, start: Lsn) -> Result<Timeline> {
        check_new_timeline(name, start)?;
        self.shared.check_writable()?;
        let mut timelines = self.shared.timelines.lock();
        if timelines.iter().any(|timeline| timeline.name == name) {
            return Err(Error::TimelineExists { name: name.to_owned() });
        }
        self.create_in(&mut timelines, name, start)
    }

    /// Returns the timeline of this name, and creates it as [`Store::create_timeline`] does if
    /// there is none. Threads that call it at the same time get the same timeline.
    ///
    /// A timeline that exists keeps its own start, [`Timeline::start_lsn`], whatever `start` is.
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
    /// Those of [`Store::create_timeline`], without [`Error::TimelineExists`]. A timeline that
    /// exists is returned by a store that is read-only, too.
    pub fn open_or_create_timeline(&self, name: &str, start: Lsn) -> Result<Timeline> {
        check_new_timeline(name, start)?;
        self.shared.check_open()?;
        // Held from the look to the end of the creation.
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
            // So that the first commit does not wait for the first segment. What fails here fails again,
            // with an error, when there is something to commit.
            let _ = shared.begin_log();
        }
        let disk_consistent_lsn = start.previous();
        let name = name.to_owned();
        let opening = Opening { number, name, start, disk_consistent_lsn, dir, layers: Vec::new() };
        let timeline = TimelineShared::new(shared.clone(), opening);
        timelines.push(timeline.clone());
        if shared.flusher_panicked.load(Ordering::Relaxed) {
            timeline.stop_flushing();
        }
        Ok(Timeline(timeline))
    }

    /// A timeline by its name.
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

    /// All timelines.
    #[must_use]
    pub fn timelines(&self) -> Vec<Timeline> {
        if self.shared.is_inherited() {
            return Vec::new();
        }
        self.shared.timelines.lock().iter().cloned().map(Timeline).collect()
    }

    /// Sizes and counts of all timelines together.
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

    /// Flushes everything that was committed, syncs the log, waits up to `grace` for readers and snapshots to go, and closes.
    ///
    /// It never waits longer than that for a reader: those that are left are in the report and can
    /// go on reading. Memory of retired layers is freed; of those that a pin holds, when that pin
    /// goes.
    ///
    /// # Errors
    /// [`Error::FlushFailed`], [`Error::ReadOnly`]: what was acknowledged is in the log; without a log
    /// ([`Durability::External`](crate::Durability::External)) what was not flushed is gone. The store is closed all the same.
    /// [`Error::Closed`] in a forked child: nothing is done.
    pub fn close(mut self, grace: Duration) -> Result<CloseReport> {
        if self.shared.is_inherited() {
            return Err(Error::Closed);
        }
        let mut report = CloseReport::default();
        let mut failed = Ok(());
        // From here on no commit is accepted that would be neither flushed nor reported: one that has found
        // the store open is waited for, see `Committing`.
        self.shared.closed.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
        for timeline in self.timelines() {
            while timeline.0.committing.load(Ordering::Acquire) {
                std::thread::sleep(COMMIT_NAP);
            }
        }
        for timeline in self.timelines() {
            if let Err(error) = timeline.0.flush_now() {
                failed = failed.and(Err(error));
            }
            if timeline.last_record_lsn() > timeline.disk_consistent_lsn().max(timeline.start_lsn())
            {
                report.leases_held.push(timeline.name().to_owned());
            }
            let lsn = timeline.disk_consistent_lsn().to_string();
            report.disk_consistent_lsns.push((timeline.name().to_owned(), lsn));
        }
        // What could not be flushed.
        failed = failed.and(self.shared.log().sync().map_err(Error::from));
        // A flush frees the log last, when those who wait for it may have gone on.
        self.timelines().iter().for_each(|timeline| drop(timeline.0.flushing.lock()));
        self.shared.log().give_back_spares();
        let clock = self.shared.options.clock;
        let (began, nap) = (clock.now(), Duration::from_millis(1).min(grace));
        let mut napped = Duration::ZERO;
        let timelines = self.timelines();
        let is_any_held = || timelines.iter().any(|timeline| timeline.0.pins.is_any_held());
        // Naps count too: the clock is the embedder's and may stand still.
        let waited = |napped: Duration| napped.max(clock.now().saturating_sub(began));
        while is_any_held() && waited(napped) < grace {
            std::thread::sleep(nap);
            napped = napped.saturating_add(nap);
        }
        report.pins = timelines.iter().flat_map(Timeline::pins).collect();
        self.stop();
        failed.map(|()| report)
    }

    /// As [`Store::close`], for a task: a thread that is started for it closes the store, and no
    /// commit is accepted from the call on. Dropping the future does not stop the close; see
    /// [`CloseFuture`].
    ///
    /// ```
    /// # use pagestrata::{CloseReport, Result, Store};
    /// # use std::time::Duration;
    /// async fn shut_down(store: Store) -> Result<CloseReport> {
    ///     store.close_async(Duration::from_secs(5)).await // no runtime of ours is needed
    /// }
    /// ```
    ///
    /// # Errors
    /// As [`Store::close`].
    ///
    /// # Panics
    /// The future panics when closing has panicked, with the same payload.
    pub fn close_async(self, grace: Duration) -> CloseFuture {
        self.shared.closed.store(true, Ordering::Release);
        let is_blocking =
            self.shared.options.background == Background::Callers || self.shared.is_inherited();
        CloseFuture::new(self, is_blocking, grace)
    }

    fn stop(&mut self) {
        let shared = &self.shared;
        if shared.is_inherited() {
            // The threads are the parent's, and so may be the locks. Not even detached: they are
            // not threads of this process.
            self.threads.drain(..).for_each(std::mem::forget);
            return;
        }
        shared.closed.store(true, Ordering::Release);
        shared.flusher.stop();
        shared.reclaimer.stop();
        shared.logger.stop();
        shared.preparer.stop();
        shared.access.stop();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                #[cfg(feature = "tracing")]
                tracing::error!("a background thread of the store panicked");
            }
        }
        // Taken out first: a waker may come back to the store.
        let timelines = std::mem::take(&mut *shared.timelines.lock());
        for timeline in timelines {
            timeline.stop_flushing();
            timeline.waiters.wake_up_to(Lsn::MAX);
            // What was let go of before the reclaimer was told to end. Whatever is let go of later
            // is freed there and then.
            timeline.reclaim();
        }
        shared.pool.close();
        shared.fetchers.stop();
        // These wait for a commit, a sync, an edit that is under way; there are no others before the lock is given back.
        if let Some(log) = shared.log.get() {
            log.close();
        }
        *shared.manifest.lock() = None;
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

/// Whether a timeline can have this name and this start.
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

/// Where a timeline of the store in `dir` has its layer files.
pub(crate) fn timeline_dir(dir: &Path, number: u64) -> PathBuf {
    dir.join(TIMELINES_NAME).join(number.to_string())
}

/// A store that exists, locked, and what its manifest says.
pub(crate) struct Existing {
    /// Of its directory.
    pub(crate) storage: SharedStorage,
    pub(crate) id: u128,
    pub(crate) state: State,
    _lock: Box<dyn Lock>,
}

/// Takes the lock of a store that exists and reads its manifest.
pub(crate) fn lock_and_read(storage: &SharedStorage, dir: &Path) -> Result<Existing> {
    let options = Options { create: false, ..Options::default() };
    let outside = storage;
    let (storage, lock) = lock_to_read(&**outside, dir)?;
    let (manifest, _) = open_manifest(&storage, &**outside, dir, &options)?;
    let (id, state) = (manifest.store(), manifest.state().clone());
    Leftovers::find(&*storage, dir, &NamedFiles::of(&state), state.next_sequence)?;
    Ok(Existing { storage, id, state, _lock: lock })
}

/// As [`lock_dir`], of a store that exists and without making the file that is locked: where it is
/// missing, as in a copy of a store, no process has the store open.
fn lock_to_read(storage: &dyn Storage, dir: &Path) -> Result<(SharedStorage, Box<dyn Lock>)> {
    #[derive(Debug)]
    struct Unlocked;
    impl Lock for Unlocked {}

    // A link that leads nowhere is a name too.
    if storage.exists(&dir.join(CURRENT_NAME))?
        && storage.list(dir)?.iter().all(|name| name != LOCK_NAME)
    {
        return Ok((storage.anchored(dir)?, Box::new(Unlocked)));
    }
    lock_dir(storage, dir, &Options { create: false, ..Options::default() })
}

/// Opens a directory that holds a store or may get one, and takes its lock. All that the store does
/// is done by the storage that this returns: in this directory, wherever it is moved.
fn lock_dir(
    storage: &dyn Storage,
    dir: &Path,
    options: &Options,
) -> Result<(SharedStorage, Box<dyn Lock>)> {
    if options.create {
        storage.create_dir(dir)?;
    }
    let storage = storage.anchored(dir).map_err(|error| match error {
        LayersError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            Error::NoStore { path: dir.to_owned() }
        }
        other => other.into(),
    })?;
    if !options.create
        && !storage.exists(&dir.join(LOCK_NAME))?
        && !storage.exists(&dir.join(CURRENT_NAME))?
    {
        // Without a lock: no lock file is left where there is no store.
        Manifest::open(storage.clone(), dir)?;
        name_in_timelines(&*storage, dir)?;
        return Err(Error::NoStore { path: dir.to_owned() });
    }
    let lock = storage.lock(&dir.join(LOCK_NAME))?;
    let lock = lock.ok_or_else(|| Error::Locked { path: dir.to_owned() })?;
    Ok((storage, lock))
}

/// Opens or creates the manifest of a locked directory. What is `outside` of the directory is its
/// own name.
fn open_manifest(
    storage: &SharedStorage,
    outside: &dyn Storage,
    dir: &Path,
    options: &Options,
) -> Result<(Manifest, OpenReport)> {
    let mut report = OpenReport::default();
    if let Some((manifest, found)) = Manifest::open(storage.clone(), dir)? {
        report.manifest_cut_bytes = found.cut_bytes;
        return Ok((manifest, report));
    }
    let in_timelines = name_in_timelines(&**storage, dir)?;
    if !options.create {
        return Err(Error::NoStore { path: dir.to_owned() });
    }
    if let Some(found) = in_timelines {
        let found = format!("{TIMELINES_NAME}/{found}");
        return Err(Error::NotAStore { path: dir.to_owned(), found });
    }
    // Every other name is made durable in a directory of the store's own; its own name is in its parent.
    if let Some(parent) = dir.parent() {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        outside.sync_dir(parent)?;
    }
    storage.create_dir(&dir.join(TIMELINES_NAME))?;
    storage.sync_dir(dir)?;
    let id = match options.store_id {
        Some(id) => id,
        None => random_id()?,
    };
    report.created = true;
    Ok((Manifest::create(storage.clone(), dir, id)?, report))
}

/// Something in the directory of timelines, where there is no CURRENT. A timeline of a store is not made before CURRENT is
/// durable, so where there is one CURRENT is lost, and this is an error.
fn name_in_timelines(storage: &dyn Storage, dir: &Path) -> Result<Option<String>> {
    let timelines = dir.join(TIMELINES_NAME);
    if !storage.exists(&timelines)? {
        return Ok(None);
    }
    let names = storage.list(&timelines)?;
    match names.iter().find(|name| name.bytes().all(|byte| byte.is_ascii_digit())) {
        None => Ok(names.into_iter().next()),
        Some(number) => {
            let expected = format_args!("a file beside {TIMELINES_NAME}/{number}");
            let current = dir.join(CURRENT_NAME);
            Err(LayersError::corrupt(&current, 0, "CURRENT", expected, "nothing").into())
        }
    }
}

fn random_id() -> Result<u128> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| Error::Entropy(error.to_string()))?;
    Ok(u128::from_le_bytes(bytes))
}

impl StoreShared {
    /// Opens a timeline.
    fn open_timeline(
        self: &Arc<Self>,
        number: u64,
        state: TimelineState,
    ) -> Result<Arc<TimelineShared>> {
        let dir = timeline_dir(&self.dir, number);
        let open = |record| FileLayer::open(&self.access, &dir, record);
        let layers = state.layers.into_values().map(open).collect::<Result<Vec<_>>>()?;
        let TimelineState { name, start, disk_consistent_lsn, .. } = state;
        let opening = Opening { number, name, start, disk_consistent_lsn, dir, layers };
        Ok(TimelineShared::new(self.clone(), opening))
    }

    /// Removes what an interrupted flush or import has left, and segments of the log that are of no use.
    fn remove_leftovers(
        &self,
        leftovers: Leftovers,
        strays: &[String],
        report: &mut OpenReport,
    ) -> Result<()> {
        report.orphans_removed = leftovers.remove(&*self.storage)?;
        for name in strays {
            match self.storage.remove(&self.log_dir().join(name)) {
                Ok(()) => report.orphans_removed.push(name.clone()),
                // What cannot be written can still be read.
                Err(error) if is_of_read_only_file_system(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        match self.closed.load(Ordering::Acquire) || self.is_inherited() {
            true => Err(Error::Closed),
            false => Ok(()),
        }
    }

    /// Whether this is the copy of a store that a forked child has. Then no lock may be taken: a
    /// thread that only the parent has may have held it.
    #[inline]
    pub(crate) fn is_inherited(&self) -> bool {
        !self.owner.is_current()
    }

    /// Adds edits to the manifest, all or none, durably.
    ///
    /// An import can outlive the store, and with it the lock of the directory: it gets [`Error::Closed`].
    pub(crate) fn append_edits(&self, edits: &[Edit]) -> Result<()> {
        let mut manifest = self.manifest.lock();
        manifest.as_mut().ok_or(Error::Closed)?.append(edits)?;
        // What had failed before is undone by now.
        self.import_in_doubt.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// As [`StoreShared::append_edits`], for an import.
    pub(crate) fn append_import(&self, edits: &[Edit]) -> Result<()> {
        let appended = self.append_edits(edits);
        if appended.is_err() {
            self.import_in_doubt.store(true, Ordering::Relaxed);
        }
        appended
    }

    /// Before a commit goes to the log: it follows the commits before it, and not an import that has failed. One that could come up
    /// after a crash is ruled out.
    pub(crate) fn settle_import(&self) -> Result<()> {
        match self.import_in_doubt.load(Ordering::Relaxed) {
            true => self.append_edits(&[]),
            false => Ok(()),
        }
    }

    /// A sequence number that no layer of this store ever had. The manifest knows before it is used, so also a file
    /// that a crash left behind keeps its name for ever.
    pub(crate) fn take_sequence(&self) -> Result<u64> {
        let mut sequences = self.sequences.lock();
        if sequences.is_empty() {
            let end = sequences.end + SEQUENCES_RESERVED;
            self.append_edits(&[Edit::NextSequence(end)])?;
            sequences.end = end;
        }
        sequences.start += 1;
        Ok(sequences.start - 1)
    }

    pub(crate) fn wake_flusher(&self) {
        if !self.is_inherited() {
            let _ = self.flusher.wake();
        }
    }

    /// False: the store is closed, and the caller has to reclaim.
    #[must_use]
    pub(crate) fn wake_reclaimer(&self) -> bool {
        self.is_inherited() || self.reclaimer.wake()
    }

    pub(crate) fn all_timelines(&self) -> Vec<Arc<TimelineShared>> {
        self.timelines.lock().clone()
    }
}
