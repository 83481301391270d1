//! Stores in directories that go when they are dropped.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use pagestrata::{Durability, Lsn, Options, Store, Timeline};
use tempfile::TempDir;

/// Where a store lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// In memory: `/dev/shm`, where there is one.
    Tmpfs,
    /// `PAGESTRATA_DISK`, or where temporary files go.
    Disk,
}

impl Place {
    /// Its name in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Place::Tmpfs => "tmpfs",
            Place::Disk => "disk",
        }
    }

    /// A new directory there.
    ///
    /// # Panics
    /// When none can be made.
    #[must_use]
    pub fn dir(self) -> TempDir {
        let shared = Path::new("/dev/shm");
        let parent = match self {
            Place::Tmpfs if shared.is_dir() => shared.to_owned(),
            Place::Tmpfs => std::env::temp_dir(),
            Place::Disk => {
                std::env::var_os("PAGESTRATA_DISK").map_or_else(std::env::temp_dir, PathBuf::from)
            }
        };
        tempfile::Builder::new()
            .prefix("pagestrata-bench-")
            .tempdir_in(parent)
            .expect("a directory")
    }
}

/// A store for one bench.
#[derive(Debug)]
pub struct TempStore {
    store: Store,
    /// How many timelines were made.
    timelines: u32,
    /// Behind the store: dropped after it.
    _dir: TempDir,
}

/// Options under which one open layer takes everything and all its memory is kept for the next one.
#[must_use]
pub fn one_layer() -> Options {
    Options { open_layer_size_max_bytes: 2 << 30, pool_retained_max_bytes: 2 << 30, ..unlogged() }
}

/// Options under which no log is written and no layers are merged: for what these are not to be a
/// part of.
#[must_use]
pub fn unlogged() -> Options {
    Options { durability: Durability::External, compaction_fan_in: 0, ..Options::default() }
}

impl TempStore {
    /// A new store.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn new(place: Place, options: Options) -> TempStore {
        let dir = place.dir();
        let (store, _) = Store::open(dir.path().join("store"), options).expect("a new store");
        TempStore { store, timelines: 0, _dir: dir }
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// One more timeline.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn timeline(&mut self) -> Timeline {
        self.timelines += 1;
        self.store.create_timeline(&self.timelines.to_string(), Lsn(1)).expect("a new timeline")
    }

    /// Flushes a timeline that is not needed any more, waits until its memory is in the pool again,
    /// and frees the space of its files by emptying them: they must not be read afterwards.
    ///
    /// # Panics
    /// When the flush fails, or the memory is not back within a minute.
    pub fn recycle(&self, timeline: &Timeline) {
        timeline.flush().expect("a flush");
        let began = Instant::now();
        while timeline.stats().retired_layers > 0 {
            assert!(began.elapsed() < Duration::from_secs(60), "a layer is not reclaimed");
            // Every look at the map (`stats` here, a flush that ends) holds it briefly. If the
            // reclaimer runs just then, it gives up until it is woken again, as by a reader that is
            // dropped.
            drop(timeline.reader());
            std::thread::sleep(Duration::from_millis(1));
        }
        for layer in timeline.layers() {
            let file = fs::File::options().write(true).open(layer.path).expect("a layer file");
            file.set_len(0).expect("an emptied file");
        }
    }
}
