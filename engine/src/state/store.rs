//! [`StoreShared`]: what the timelines and threads of a store share.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use pagestrata_layers::{
    ChunkPool,
    layer_file::LayerAccess,
    manifest::{Manifest, edit::Edit},
    storage::{ProcessMark, SharedStorage, major_faults_of_process},
};
use pagestrata_wal::Log;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use crate::{
    error::{Error, Result},
    options::Options,
    state::{
        fetch_threads::FetchThreads, page_cache::PageCache, timeline::TimelineShared,
        wakeup::Wakeup,
    },
};

pub(crate) const TIMELINES_NAME: &str = "timelines";
/// How many sequence numbers are reserved with one edit of the manifest.
const SEQUENCES_RESERVED: u64 = 1024;

/// State that the store's timelines and threads share.
pub(crate) struct StoreShared {
    pub(crate) id: u128,
    /// The process that opened it: in a forked child nothing is done.
    pub(crate) owner: ProcessMark,
    pub(crate) dir: PathBuf,
    pub(crate) options: Options,
    /// The store is open read-only: nothing in the directory is written, renamed or removed.
    pub(crate) reads_only: bool,
    pub(crate) storage: SharedStorage,
    /// Access to layer files.
    pub(crate) access: Arc<LayerAccess>,
    /// Cache of materialized pages, if any.
    pub(crate) pages: Option<PageCache>,
    pub(crate) pool: Arc<ChunkPool>,
    /// `None` once the store is closed: from then on the directory may belong to another store.
    pub(crate) manifest: Mutex<Option<Manifest>>,
    /// The edit of an import has failed, but may still be found after a crash until another edit
    /// has succeeded. Set by an import and read by commits, both under the write lease.
    pub(crate) edits_in_doubt: AtomicBool,
    pub(crate) timelines: Mutex<Vec<Arc<TimelineShared>>>,
    /// Sequence numbers of layers: the next one, and the end of those that are reserved in the
    /// manifest.
    pub(crate) sequences: Mutex<std::ops::Range<u64>>,
    /// Set by open, once the log is replayed.
    pub(crate) log: OnceLock<Arc<Log>>,
    /// Set once the manifest records where the log begins.
    pub(crate) log_begun: OnceLock<()>,
    pub(crate) log_beginning: Mutex<()>,
    pub(crate) flusher: Wakeup,
    pub(crate) reclaimer: Wakeup,
    /// The thread that merges layer files.
    pub(crate) compactor: Wakeup,
    pub(crate) logger: Wakeup,
    pub(crate) preparer: Wakeup,
    pub(crate) fetchers: FetchThreads,
    /// Major page faults of the process when the store was opened.
    pub(crate) major_faults_before: u64,
    pub(crate) closed: AtomicBool,
    /// Whether the directory still belongs to this store. Work that may outlive the store holds the
    /// read lock while it makes or removes a name in the directory.
    pub(crate) owns_directory: RwLock<bool>,
    /// The flush thread has panicked: nothing is flushed any more. Ordered by the lock of
    /// `timelines`.
    pub(crate) flusher_panicked: AtomicBool,
}

/// Returns the directory of a timeline's layer files, in the store at `dir`.
pub(crate) fn timeline_dir(dir: &Path, number: u64) -> PathBuf {
    dir.join(TIMELINES_NAME).join(number.to_string())
}

impl StoreShared {
    /// Creates the state of a store whose manifest was read and whose timelines are not open yet.
    pub(crate) fn new(
        dir: PathBuf,
        manifest: Manifest,
        storage: SharedStorage,
        options: Options,
        reads_only: bool,
    ) -> Arc<StoreShared> {
        let next_sequence = manifest.state().next_sequence;
        let pool = usize::try_from(options.pool_retained_max_bytes).unwrap_or(usize::MAX);
        Arc::new(StoreShared {
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
            compactor: Wakeup::default(),
            logger: Wakeup::default(),
            preparer: Wakeup::default(),
            fetchers: FetchThreads::default(),
            major_faults_before: major_faults_of_process(),
            closed: AtomicBool::new(false),
            owns_directory: RwLock::new(true),
            flusher_panicked: AtomicBool::new(false),
            edits_in_doubt: AtomicBool::new(false),
            pages: PageCache::new(options.page_cache_max_bytes),
            access: LayerAccess::new(storage.clone(), options.of_access()),
            storage,
            options,
            reads_only,
        })
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        match self.closed.load(Ordering::Acquire) || self.is_inherited() {
            true => Err(Error::Closed),
            false => Ok(()),
        }
    }

    /// Whether this is the copy of a store in a forked child. Then no lock may be taken: a thread
    /// that exists only in the parent may have held it.
    #[inline]
    pub(crate) fn is_inherited(&self) -> bool {
        !self.owner.is_current()
    }

    /// Ensures that the directory belongs to this store for as long as the guard lives. A caller's
    /// flush and an import can outlive the store; they must hold this while they make or remove a
    /// name in the directory.
    ///
    /// # Errors
    /// [`Error::Closed`]: the directory may belong to another store by now.
    pub(crate) fn lock_directory(&self) -> Result<RwLockReadGuard<'_, bool>> {
        let owned = self.owns_directory.read();
        if *owned { Ok(owned) } else { Err(Error::Closed) }
    }

    /// Appends edits to the manifest, all or none, durably.
    ///
    /// An import can outlive the store, and with it the lock of the directory: it gets
    /// [`Error::Closed`] then.
    pub(crate) fn append_edits(&self, edits: &[Edit]) -> Result<()> {
        debug_assert!(!self.is_inherited(), "a forked child writes nothing");
        debug_assert!(!self.reads_only, "a store that is only read is not written");
        let mut manifest = self.manifest.lock();
        manifest.as_mut().ok_or(Error::Closed)?.append(edits)?;
        // This edit has undone one that failed before.
        self.edits_in_doubt.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// As [`StoreShared::append_edits`], for an import.
    pub(crate) fn append_in_doubt(&self, edits: &[Edit]) -> Result<()> {
        let appended = self.append_edits(edits);
        if appended.is_err() {
            self.edits_in_doubt.store(true, Ordering::Relaxed);
        }
        appended
    }

    /// Called before a commit goes to the log, which must follow the commits before it and not a
    /// failed import. Ensures that such an import cannot be found after a crash.
    pub(crate) fn settle_edits(&self) -> Result<()> {
        match self.edits_in_doubt.load(Ordering::Relaxed) {
            true => self.append_edits(&[]),
            false => Ok(()),
        }
    }

    /// Returns a sequence number that no layer of this store ever had. The manifest reserves it
    /// before it is used, so the name of a file that a crash left is not used again either.
    pub(crate) fn take_sequence(&self) -> Result<u64> {
        let mut sequences = self.sequences.lock();
        if sequences.is_empty() {
            let end = sequences.end + SEQUENCES_RESERVED;
            self.append_edits(&[Edit::NextSequence(end)])?;
            sequences.end = end;
        }
        assert!(sequences.start < sequences.end, "the manifest knows a number before it is used");
        sequences.start += 1;
        Ok(sequences.start - 1)
    }

    pub(crate) fn wake_flusher(&self) {
        if !self.is_inherited() {
            let _ = self.flusher.wake();
        }
    }

    /// Returns false if the store is closed: the caller must reclaim.
    #[must_use]
    pub(crate) fn wake_reclaimer(&self) -> bool {
        self.is_inherited() || self.reclaimer.wake()
    }

    pub(crate) fn all_timelines(&self) -> Vec<Arc<TimelineShared>> {
        self.timelines.lock().clone()
    }
}
