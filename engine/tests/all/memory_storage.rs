//! A storage in memory that knows what is durable, fails on demand and crashes.
//!
//! Names are durable by `sync_dir`, bytes by `sync`, as the trait says and no earlier: a crash keeps any of the changes
//! of names that were not synced, each rename whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use pagestrata::{Options, Store};
use pagestrata_layers::{
    Error, Result,
    storage::{File, FileMap, Lock, Storage},
};

/// Where the store is.
pub(crate) const STORE_DIR: &str = "/store";

#[derive(Clone, Debug, Default)]
pub(crate) struct MemoryStorage(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    files: Vec<Content>,
    live: BTreeMap<PathBuf, Node>,
    durable: BTreeMap<PathBuf, Node>,
    /// Changes of names since the last sync of their directory, in order.
    unsynced: Vec<Change>,
    locks: BTreeSet<PathBuf>,
    calls: u64,
    fault: Option<Fault>,
    failing: Option<Failing>,
}

/// An operation that fails wherever the path ends like this.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failing {
    pub(crate) operation: &'static str,
    /// The end of the path, or of that of its directory.
    pub(crate) at: &'static str,
    /// It panics, which is a defect of a storage.
    pub(crate) panics: bool,
}

impl Failing {
    fn is(self, operation: &str, path: &Path) -> bool {
        let ends = |path: &Path| path.to_string_lossy().ends_with(self.at);
        operation == self.operation && (ends(path) || path.parent().is_some_and(ends))
    }
}

#[derive(Clone, Debug, Default)]
struct Content {
    live: Vec<u8>,
    durable: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Node {
    Dir,
    File(usize),
}

#[derive(Clone, Debug)]
enum Change {
    Link(PathBuf, Node),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf, Node),
}

/// Which calls fail.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    /// The first.
    pub(crate) call: u64,
    /// And all that follow.
    pub(crate) for_good: bool,
    /// It fails only after it has done its work, an append after half of it; syncs do none.
    pub(crate) late: bool,
}

impl Change {
    fn dir(&self) -> Option<&Path> {
        match self {
            Change::Link(path, _) | Change::Unlink(path) | Change::Rename(_, path, _) => {
                path.parent()
            }
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, Node>) {
        match self {
            Change::Link(path, node) => drop(names.insert(path.clone(), *node)),
            Change::Unlink(path) => drop(names.remove(path)),
            Change::Rename(from, to, node) => {
                if names.get(from) == Some(node) {
                    names.remove(from);
                }
                names.insert(to.clone(), *node);
            }
        }
    }
}

fn failure(operation: &'static str, path: &Path, kind: io::ErrorKind) -> Error {
    Error::io(operation, path, kind.into())
}

impl State {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.live);
        self.unsynced.push(change);
    }

    fn file(&self, operation: &'static str, path: &Path) -> Result<usize> {
        match self.live.get(path) {
            Some(Node::File(file)) => Ok(*file),
            _ => Err(failure(operation, path, io::ErrorKind::NotFound)),
        }
    }
}

impl MemoryStorage {
    pub(crate) fn new() -> MemoryStorage {
        let storage = MemoryStorage::default();
        storage.0.lock().unwrap().live.insert(PathBuf::from("/"), Node::Dir);
        storage.0.lock().unwrap().durable.insert(PathBuf::from("/"), Node::Dir);
        storage
    }

    /// Opens the store that it holds, or makes it.
    pub(crate) fn open(&self, options: Options) -> pagestrata::Result<Store> {
        Ok(Store::open_with(Arc::new(self.clone()), STORE_DIR, options)?.0)
    }

    /// How many calls there were.
    pub(crate) fn calls(&self) -> u64 {
        self.0.lock().unwrap().calls
    }

    pub(crate) fn set_fault(&self, fault: Option<Fault>) {
        self.0.lock().unwrap().fault = fault;
    }

    pub(crate) fn set_failing(&self, failing: Option<Failing>) {
        self.0.lock().unwrap().failing = failing;
    }

    /// What a process finds that is started after the last one was killed.
    pub(crate) fn killed(&self) -> MemoryStorage {
        let state = self.0.lock().unwrap();
        let copy = State {
            files: state.files.clone(),
            live: state.live.clone(),
            durable: state.durable.clone(),
            unsynced: state.unsynced.clone(),
            ..State::default()
        };
        MemoryStorage(Arc::new(Mutex::new(copy)))
    }

    /// What is left when the power fails. `keep` chooses, by number, among the changes of names that were not synced.
    pub(crate) fn powered_off(&self, keep: impl Fn(usize) -> bool) -> MemoryStorage {
        let state = self.0.lock().unwrap();
        let mut names = state.durable.clone();
        for (n, change) in state.unsynced.iter().enumerate() {
            if keep(n) {
                change.apply(&mut names);
            }
        }
        let all = names.clone();
        names.retain(|path, _| path.ancestors().all(|path| all.contains_key(path)));
        let files = state
            .files
            .iter()
            .map(|Content { durable, .. }| Content {
                live: durable.clone(),
                durable: durable.clone(),
            })
            .collect();
        let copy = State { files, live: names.clone(), durable: names, ..State::default() };
        MemoryStorage(Arc::new(Mutex::new(copy)))
    }

    /// Does one call, or fails it.
    fn call<T>(
        &self,
        operation: &'static str,
        path: &Path,
        work: impl FnOnce(&mut State, bool) -> Result<T>,
    ) -> Result<T> {
        let mut state = self.0.lock().unwrap();
        let call = state.calls;
        state.calls += 1;
        let fails = state.fault.is_some_and(|fault| match fault.for_good {
            true => call >= fault.call,
            false => call == fault.call,
        });
        if let Some(failing) = state.failing.filter(|failing| failing.is(operation, path)) {
            drop(state);
            assert!(!failing.panics, "planted");
            return Err(failure(operation, path, io::ErrorKind::Other));
        }
        if fails {
            if state.fault.is_some_and(|fault| fault.late) {
                let _ = work(&mut state, true);
            }
            return Err(failure(operation, path, io::ErrorKind::Other));
        }
        work(&mut state, false)
    }
}

impl Storage for MemoryStorage {
    fn create(&self, path: &Path) -> Result<Box<dyn File>> {
        let file = self.call("create", path, |state, _| {
            if state.live.contains_key(path) {
                return Err(failure("create", path, io::ErrorKind::AlreadyExists));
            }
            if path.parent().is_none_or(|dir| state.live.get(dir) != Some(&Node::Dir)) {
                return Err(failure("create", path, io::ErrorKind::NotFound));
            }
            let file = state.files.len();
            state.files.push(Content::default());
            state.change(Change::Link(path.to_owned(), Node::File(file)));
            Ok(file)
        })?;
        Ok(Box::new(MemoryFile { storage: self.clone(), path: path.to_owned(), file }))
    }

    fn open(&self, path: &Path) -> Result<Box<dyn File>> {
        let file = self.call("open", path, |state, _| state.file("open", path))?;
        Ok(Box::new(MemoryFile { storage: self.clone(), path: path.to_owned(), file }))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        assert_eq!(from.parent(), to.parent(), "within one directory");
        self.call("rename", from, |state, _| {
            let file = Node::File(state.file("rename", from)?);
            state.change(Change::Rename(from.to_owned(), to.to_owned(), file));
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.call("remove", path, |state, _| {
            state.file("remove", path)?;
            state.change(Change::Unlink(path.to_owned()));
            Ok(())
        })
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>> {
        self.call("list", dir, |state, _| {
            if state.live.get(dir) != Some(&Node::Dir) {
                return Err(failure("list", dir, io::ErrorKind::NotFound));
            }
            let inside = state.live.keys().filter(|path| path.parent() == Some(dir));
            Ok(inside
                .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
                .collect())
        })
    }

    fn create_dir(&self, dir: &Path) -> Result<()> {
        self.call("create directory", dir, |state, _| {
            if !state.live.contains_key(dir) {
                state.change(Change::Link(dir.to_owned(), Node::Dir));
            }
            Ok(())
        })
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        self.call("inspect", path, |state, _| Ok(state.live.contains_key(path)))
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        self.call("sync directory", dir, |state, late| {
            if !late {
                let State { unsynced, durable, .. } = state;
                unsynced.retain(|change| {
                    let is_here = change.dir() == Some(dir);
                    if is_here {
                        change.apply(durable);
                    }
                    !is_here
                });
            }
            Ok(())
        })
    }

    fn lock(&self, path: &Path) -> Result<Option<Box<dyn Lock>>> {
        self.call("lock", path, |state, late| {
            if late || !state.locks.insert(path.to_owned()) {
                return Ok(None);
            }
            let lock = MemoryLock { storage: self.clone(), path: path.to_owned() };
            Ok(Some(Box::new(lock) as Box<dyn Lock>))
        })
    }
}

#[derive(Debug)]
struct MemoryLock {
    storage: MemoryStorage,
    path: PathBuf,
}

impl Lock for MemoryLock {}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        self.storage.0.lock().unwrap().locks.remove(&self.path);
    }
}

#[derive(Debug)]
struct MemoryFile {
    storage: MemoryStorage,
    path: PathBuf,
    file: usize,
}

impl File for MemoryFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> Result<u64> {
        let len = |state: &mut State, _| Ok(state.files[self.file].live.len() as u64);
        self.storage.call("inspect", &self.path, len)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.storage.call("append to", &self.path, |state, late| {
            let len = if late { bytes.len() / 2 } else { bytes.len() };
            state.files[self.file].live.extend_from_slice(&bytes[..len]);
            Ok(())
        })
    }

    fn write_at(&mut self, offset: u64, parts: &[io::IoSlice<'_>]) -> Result<()> {
        self.storage.call("write", &self.path, |state, _| {
            let live = &mut state.files[self.file].live;
            let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
            let end = offset as usize + bytes.len();
            live.resize(live.len().max(end), 0);
            live[offset as usize..end].copy_from_slice(&bytes);
            Ok(())
        })
    }

    fn truncate(&mut self, len: u64) -> Result<()> {
        self.storage.call("truncate", &self.path, |state, _| {
            state.files[self.file].live.truncate(len as usize);
            Ok(())
        })
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.storage.call("read", &self.path, |state, _| {
            let from = state.files[self.file].live.get(offset as usize..);
            let bytes = from.and_then(|bytes| bytes.get(..buffer.len()));
            let error = || failure("read", &self.path, io::ErrorKind::UnexpectedEof);
            buffer.copy_from_slice(bytes.ok_or_else(error)?);
            Ok(())
        })
    }

    fn sync(&self) -> Result<()> {
        self.storage.call("sync", &self.path, |state, late| {
            let content = &mut state.files[self.file];
            if !late {
                content.durable = content.live.clone();
            }
            Ok(())
        })
    }

    fn map(&self) -> Result<FileMap> {
        let bytes = |state: &mut State, _| Ok(state.files[self.file].live.clone());
        Ok(FileMap::of_bytes(self.storage.call("map", &self.path, bytes)?.into()))
    }
}
