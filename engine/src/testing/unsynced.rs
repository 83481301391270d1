//! [`UnsyncedStorage`]: real files that are never synced, for tests without crashes.

use std::{io::IoSlice, path::Path, sync::Arc};

use pagestrata_layers::Result;

use crate::storage::{File, FileMap, Lock, RealStorage, SharedStorage, Storage};

/// The operating system's files without any sync: the same bytes, but thousands of times faster on
/// a disk.
#[derive(Clone, Debug)]
pub struct UnsyncedStorage(SharedStorage);

impl UnsyncedStorage {
    /// Returns it in the form that a store takes.
    #[must_use]
    pub fn shared() -> SharedStorage {
        Arc::new(UnsyncedStorage(Arc::new(RealStorage)))
    }
}

#[derive(Debug)]
struct UnsyncedFile(Box<dyn File>);

impl Storage for UnsyncedStorage {
    fn anchored(&self, dir: &Path) -> Result<SharedStorage> {
        Ok(Arc::new(UnsyncedStorage(self.0.anchored(dir)?)))
    }

    fn create(&self, path: &Path) -> Result<Box<dyn File>> {
        Ok(Box::new(UnsyncedFile(self.0.create(path)?)))
    }

    fn open(&self, path: &Path) -> Result<Box<dyn File>> {
        Ok(Box::new(UnsyncedFile(self.0.open(path)?)))
    }

    fn open_direct(&self, path: &Path) -> Result<Option<Box<dyn File>>> {
        Ok(self.0.open_direct(path)?.map(|file| Box::new(UnsyncedFile(file)) as Box<dyn File>))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.0.remove(path)
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>> {
        self.0.list(dir)
    }

    fn create_dir(&self, dir: &Path) -> Result<()> {
        self.0.create_dir(dir)
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        self.0.exists(path)
    }

    fn sync_dir(&self, _: &Path) -> Result<()> {
        Ok(())
    }

    fn lock(&self, path: &Path) -> Result<Option<Box<dyn Lock>>> {
        self.0.lock(path)
    }
}

impl File for UnsyncedFile {
    fn path(&self) -> &Path {
        self.0.path()
    }

    fn len(&self) -> Result<u64> {
        self.0.len()
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.append(bytes)
    }

    fn write_at(&mut self, offset: u64, parts: &[IoSlice<'_>]) -> Result<()> {
        self.0.write_at(offset, parts)
    }

    fn truncate(&mut self, len: u64) -> Result<()> {
        self.0.truncate(len)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.0.read_at(offset, buffer)
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn map(&self) -> Result<FileMap> {
        self.0.map()
    }
}
