//! [`MemoryStorage`]: files in memory, to be copied, changed and opened again thousands of times a second.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::Arc,
};

use pagestrata_layers::Result;
use parking_lot::Mutex;

use crate::{
    LayersError,
    storage::{File, FileMap, Lock, SharedStorage, Storage},
};

/// Files in memory. Syncs do nothing, and everybody gets every lock.
#[derive(Clone, Debug, Default)]
pub struct MemoryStorage(Arc<Mutex<Files>>);

#[derive(Debug, Default)]
struct Files {
    files: BTreeMap<PathBuf, Content>,
    dirs: BTreeSet<PathBuf>,
}

type Content = Arc<Mutex<Vec<u8>>>;

impl MemoryStorage {
    /// As a store takes it.
    #[must_use]
    pub fn shared(&self) -> SharedStorage {
        Arc::new(self.clone())
    }

    /// All files and their bytes.
    #[must_use]
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let inner = self.0.lock();
        inner.files.iter().map(|(path, content)| (path.clone(), content.lock().clone())).collect()
    }

    /// Changes the bytes of a file, as no storage does by itself. Whoever has mapped it does not see it.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn change(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let content = self.0.lock().files[path].clone();
        change(&mut content.lock());
    }

    /// A storage with these files, and the directories that they are in.
    #[must_use]
    pub fn of_files(files: impl IntoIterator<Item = (PathBuf, Vec<u8>)>) -> MemoryStorage {
        let mut inner = Files::default();
        for (path, bytes) in files {
            inner.dirs.extend(path.ancestors().skip(1).map(Path::to_owned));
            inner.files.insert(path, Arc::new(Mutex::new(bytes)));
        }
        MemoryStorage(Arc::new(Mutex::new(inner)))
    }
}

fn not_found(operation: &'static str, path: &Path) -> LayersError {
    LayersError::io(operation, path, io::ErrorKind::NotFound.into())
}

#[derive(Debug)]
struct MemoryFile {
    path: PathBuf,
    content: Content,
}

#[derive(Debug)]
struct MemoryLock;

impl Lock for MemoryLock {}

impl Storage for MemoryStorage {
    fn create(&self, path: &Path) -> Result<Box<dyn File>> {
        let mut inner = self.0.lock();
        if inner.files.contains_key(path) {
            return Err(LayersError::io("create", path, io::ErrorKind::AlreadyExists.into()));
        }
        let content = Content::default();
        inner.files.insert(path.to_owned(), content.clone());
        Ok(Box::new(MemoryFile { path: path.to_owned(), content }))
    }

    fn open(&self, path: &Path) -> Result<Box<dyn File>> {
        let content = self.0.lock().files.get(path).cloned();
        let content = content.ok_or_else(|| not_found("open", path))?;
        Ok(Box::new(MemoryFile { path: path.to_owned(), content }))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let mut inner = self.0.lock();
        let content = inner.files.remove(from).ok_or_else(|| not_found("rename", from))?;
        inner.files.insert(to.to_owned(), content);
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<()> {
        let removed = self.0.lock().files.remove(path);
        removed.map(drop).ok_or_else(|| not_found("remove", path))
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>> {
        let inner = self.0.lock();
        if !inner.dirs.contains(dir) {
            return Err(not_found("list", dir));
        }
        let all = inner.files.keys().chain(&inner.dirs);
        let mut names: Vec<_> = all
            .filter(|path| path.parent() == Some(dir))
            .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
            .collect();
        names.sort_unstable();
        Ok(names)
    }

    fn create_dir(&self, dir: &Path) -> Result<()> {
        self.0.lock().dirs.insert(dir.to_owned());
        Ok(())
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        let inner = self.0.lock();
        Ok(inner.files.contains_key(path) || inner.dirs.contains(path))
    }

    fn sync_dir(&self, _: &Path) -> Result<()> {
        Ok(())
    }

    fn lock(&self, _: &Path) -> Result<Option<Box<dyn Lock>>> {
        Ok(Some(Box::new(MemoryLock)))
    }
}

impl File for MemoryFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> Result<u64> {
        Ok(self.content.lock().len() as u64)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.content.lock().extend_from_slice(bytes);
        Ok(())
    }

    fn write_at(&mut self, offset: u64, parts: &[IoSlice<'_>]) -> Result<()> {
        let mut content = self.content.lock();
        let mut at = usize::try_from(offset).expect("an offset in memory");
        for part in parts {
            let end = at + part.len();
            if content.len() < end {
                content.resize(end, 0);
            }
            content[at..end].copy_from_slice(part);
            at = end;
        }
        Ok(())
    }

    fn truncate(&mut self, len: u64) -> Result<()> {
        self.content.lock().truncate(usize::try_from(len).expect("a length in memory"));
        Ok(())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let content = self.content.lock();
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.checked_add(buffer.len());
        match end.and_then(|end| content.get(start..end)) {
            Some(bytes) => buffer.copy_from_slice(bytes),
            None => {
                let error = io::ErrorKind::UnexpectedEof.into();
                return Err(LayersError::io("read", &self.path, error));
            }
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn map(&self) -> Result<FileMap> {
        Ok(FileMap::of_bytes(self.content.lock().clone().into_boxed_slice()))
    }
}
