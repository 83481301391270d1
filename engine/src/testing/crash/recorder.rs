//! [`Recorder`]: a [`SimulatedStorage`] that copies itself before each call that changes anything.

use std::{io::IoSlice, path::Path, sync::Arc};

use pagestrata_layers::Result;
use parking_lot::Mutex;

use crate::{
    storage::{File, FileMap, Lock, SharedStorage, Storage},
    testing::SimulatedStorage,
};

/// The storage before one of its calls.
#[derive(Debug)]
pub(super) struct Point {
    pub(super) call: u64,
    pub(super) storage: SimulatedStorage,
}

/// Passes calls through and keeps copies, from which crashes are simulated.
#[derive(Clone, Debug)]
pub(super) struct Recorder {
    storage: SimulatedStorage,
    recording: Arc<Mutex<CrashPoints>>,
}

#[derive(Debug)]
struct CrashPoints {
    points: Vec<Point>,
    /// One call in so many is kept; 0: none.
    one_in: u64,
    random: fastrand::Rng,
}

#[derive(Debug)]
struct RecordedFile {
    file: Box<dyn File>,
    recorder: Recorder,
}

impl Recorder {
    pub(super) fn new(storage: SimulatedStorage, one_in: u64, seed: u64) -> Recorder {
        let random = fastrand::Rng::with_seed(seed);
        let recording = CrashPoints { points: Vec::new(), one_in, random };
        Recorder { storage, recording: Arc::new(Mutex::new(recording)) }
    }

    /// Returns it in the form that a store takes.
    pub(super) fn shared(&self) -> SharedStorage {
        Arc::new(self.clone())
    }

    pub(super) fn storage(&self) -> &SimulatedStorage {
        &self.storage
    }

    pub(super) fn set_one_in(&self, one_in: u64) {
        self.recording.lock().one_in = one_in;
    }

    /// Returns what was kept since the last call.
    pub(super) fn take(&self) -> Vec<Point> {
        std::mem::take(&mut self.recording.lock().points)
    }

    fn changes(&self) {
        let mut recording = self.recording.lock();
        let one_in = recording.one_in;
        if one_in > 0 && recording.random.u64(..one_in) == 0 {
            let point = Point { call: self.storage.calls(), storage: self.storage.killed() };
            recording.points.push(point);
        }
    }

    fn recorded(&self, file: Box<dyn File>) -> Box<dyn File> {
        Box::new(RecordedFile { file, recorder: self.clone() })
    }
}

impl Storage for Recorder {
    fn anchored(&self, dir: &Path) -> Result<SharedStorage> {
        // What is below is recorded too. The directory exists, which is all that an anchor is on a
        // simulated storage.
        self.storage.anchored(dir)?;
        Ok(self.shared())
    }

    fn create(&self, path: &Path) -> Result<Box<dyn File>> {
        self.changes();
        Ok(self.recorded(self.storage.create(path)?))
    }

    fn open(&self, path: &Path) -> Result<Box<dyn File>> {
        Ok(self.recorded(self.storage.open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.changes();
        self.storage.rename(from, to)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.changes();
        self.storage.remove(path)
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>> {
        self.storage.list(dir)
    }

    fn create_dir(&self, dir: &Path) -> Result<()> {
        self.changes();
        self.storage.create_dir(dir)
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        self.storage.exists(path)
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        self.changes();
        self.storage.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> Result<Option<Box<dyn Lock>>> {
        self.changes();
        self.storage.lock(path)
    }
}

impl File for RecordedFile {
    fn path(&self) -> &Path {
        self.file.path()
    }

    fn len(&self) -> Result<u64> {
        self.file.len()
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.recorder.changes();
        self.file.append(bytes)
    }

    fn write_at(&mut self, offset: u64, parts: &[IoSlice<'_>]) -> Result<()> {
        self.recorder.changes();
        self.file.write_at(offset, parts)
    }

    fn truncate(&mut self, len: u64) -> Result<()> {
        self.recorder.changes();
        self.file.truncate(len)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.file.read_at(offset, buffer)
    }

    fn sync(&self) -> Result<()> {
        self.recorder.changes();
        self.file.sync()
    }

    fn map(&self) -> Result<FileMap> {
        self.file.map()
    }
}
