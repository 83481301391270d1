//! Opening a store: lock the directory, read the manifest, replay the log, start the threads.

use std::{path::Path, sync::Arc};

use pagestrata_layers::{
    Error as LayersError,
    manifest::{
        CURRENT_NAME, Manifest,
        edit::{State, TimelineState},
    },
    storage::{Lock, SharedStorage, Storage},
};
use pagestrata_wal::ReplayOutcome;

use crate::{
    error::{Error, Result},
    layer_map::file_layers::FileLayer,
    options::Options,
    reports::{OpenProgress, OpenReport, stats::TimelineStats},
    state::{
        store::{StoreShared, TIMELINES_NAME, timeline_dir},
        timeline::{TimelineParts, TimelineShared},
    },
    store::{
        Store,
        leftovers::{Leftovers, NamedFiles, is_of_read_only_file_system},
        recover::replay_log,
        threads::spawn_threads,
    },
};

const LOCK_NAME: &str = "LOCK";

impl Store {
    /// Opens a store, for writing or read-only.
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
        let shared = StoreShared::new(dir, manifest, storage, options, reads_only);
        // From here on dropping `store` releases everything, even if the open fails.
        let mut store = Store { shared, threads: Vec::new(), _lock: lock };
        let shared = &store.shared;
        let mut timelines = Vec::new();
        for (number, state) in std::mem::take(&mut state.timelines) {
            let timeline = shared.open_timeline(number, state)?;
            let stats = TimelineStats::of(&timeline);
            report.timelines += 1;
            report.layer_files += stats.layer_files;
            report.layer_file_bytes += stats.layer_file_bytes;
            timelines.push(timeline);
        }
        let leftovers = Leftovers::find(&*shared.storage, &shared.dir, &named, next_sequence)?;
        let (replayed, damage) =
            replay_log(shared, &timelines, state.log_start, progress, &mut report)?;
        let before = std::mem::replace(&mut *shared.timelines.lock(), timelines);
        assert!(before.is_empty(), "timelines are opened once");
        let replayed = match damage {
            Some(damage) => ReplayOutcome::unusable(&damage),
            None if reads_only => ReplayOutcome::unusable("it was opened to be read only"),
            // Not before this point: an open that fails leaves the store as it was.
            None => {
                shared.remove_leftovers(leftovers, &replayed.strays, &mut report)?;
                replayed
            }
        };
        shared.set_log(replayed);
        if state.log_start.is_some() {
            let _ = shared.log_begun.set(());
        }
        debug_assert!(shared.log.get().is_some(), "from here on there is a log");
        report.read_only = shared.read_only_cause();
        spawn_threads(&store.shared, &mut store.threads)?;
        report.elapsed = store.shared.options.clock.now().saturating_sub(began);
        Ok((store, report))
    }
}

/// An existing store, locked, with its manifest read.
pub(crate) struct ClosedStore {
    /// Storage of its directory.
    pub(crate) storage: SharedStorage,
    pub(crate) id: u128,
    pub(crate) state: State,
    _lock: Box<dyn Lock>,
}

/// Takes the lock of an existing store and reads its manifest.
pub(crate) fn lock_and_read(storage: &SharedStorage, dir: &Path) -> Result<ClosedStore> {
    let options = Options { create: false, ..Options::default() };
    let outside = storage;
    let (storage, lock) = lock_to_read(&**outside, dir)?;
    let (manifest, _) = open_manifest(&storage, &**outside, dir, &options)?;
    let (id, state) = (manifest.store(), manifest.state().clone());
    Leftovers::find(&*storage, dir, &NamedFiles::of(&state), state.next_sequence)?;
    Ok(ClosedStore { storage, id, state, _lock: lock })
}

/// As [`lock_dir`], for an existing store, and without creating the lock file: if it is missing, as
/// in a copy of a store, no process has the store open.
fn lock_to_read(storage: &dyn Storage, dir: &Path) -> Result<(SharedStorage, Box<dyn Lock>)> {
    #[derive(Debug)]
    struct NoLock;
    impl Lock for NoLock {}

    // A dangling link is a name too.
    if storage.exists(&dir.join(CURRENT_NAME))?
        && storage.list(dir)?.iter().all(|name| name != LOCK_NAME)
    {
        return Ok((storage.anchored(dir)?, Box::new(NoLock)));
    }
    lock_dir(storage, dir, &Options { create: false, ..Options::default() })
}

/// Opens a directory that holds a store or may get one, and takes its lock. The store must do
/// everything through the returned storage, which stays in this directory even if that is moved.
fn lock_dir(
    storage: &dyn Storage,
    dir: &Path,
    options: &Options,
) -> Result<(SharedStorage, Box<dyn Lock>)> {
    if options.create {
        storage.create_dir(dir)?;
    }
    let storage = storage.anchored(dir).map_err(|error| match error {
        LayersError::Io { cause, .. } if cause.kind() == std::io::ErrorKind::NotFound => {
            Error::NoStore { path: dir.to_owned() }
        }
        other => other.into(),
    })?;
    if !options.create
        && !storage.exists(&dir.join(LOCK_NAME))?
        && !storage.exists(&dir.join(CURRENT_NAME))?
    {
        // Before the lock is taken: no lock file may be left where there is no store.
        Manifest::open(storage.clone(), dir)?;
        name_in_timelines(&*storage, dir)?;
        return Err(Error::NoStore { path: dir.to_owned() });
    }
    let lock = storage.lock(&dir.join(LOCK_NAME))?;
    let lock = lock.ok_or_else(|| Error::Locked { path: dir.to_owned() })?;
    Ok((storage, lock))
}

/// Opens or creates the manifest of a locked directory. `outside` is the storage that holds the
/// directory's own name.
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
    // All other names are made durable in directories of the store; its own name is in its parent.
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

/// Returns a name in the directory of timelines when there is no CURRENT. A timeline is created
/// only after CURRENT is durable, so if there is one, CURRENT was lost, and this is an error.
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
        let opening = TimelineParts { number, name, start, disk_consistent_lsn, dir, layers };
        Ok(TimelineShared::new(self.clone(), opening))
    }

    /// Removes what an interrupted flush or import has left, and unneeded segments of the log.
    fn remove_leftovers(
        &self,
        leftovers: Leftovers,
        strays: &[String],
        report: &mut OpenReport,
    ) -> Result<()> {
        assert!(!self.reads_only, "a store that is only read removes nothing");
        report.orphans_removed = leftovers.remove(&*self.storage)?;
        for name in strays {
            match self.storage.remove(&self.log_dir().join(name)) {
                Ok(()) => report.orphans_removed.push(name.clone()),
                // A store that cannot be written can still be read.
                Err(error) if is_of_read_only_file_system(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
