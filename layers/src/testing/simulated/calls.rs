//! The storage trait on a [`SimulatedStorage`].

use std::{
    io::{self, ErrorKind, IoSlice},
    ops::Bound::{Excluded, Unbounded},
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

use super::{SimulatedStorage, State, in_memory};
use crate::{
    Error, Result,
    storage::{File, FileMap, Lock, SharedStorage, Storage},
    testing::{
        content::Content,
        fault::{FailedSync, Failure, Fault},
        names::{Change, Inode, Node},
    },
};

pub(super) const SYNC: &str = "sync";
const NO_SPAN: (u64, usize) = (0, 0);

#[derive(Debug)]
struct SimulatedFile {
    storage: SimulatedStorage,
    path: PathBuf,
    inode: Inode,
}

#[derive(Debug)]
struct SimulatedLock {
    storage: SimulatedStorage,
    path: Arc<Path>,
}

impl Lock for SimulatedLock {}

impl Drop for SimulatedLock {
    fn drop(&mut self) {
        self.storage.state.lock().locks.remove(&self.path);
    }
}

/// Where relative paths begin is a directory without a name.
fn dir_named(dir: &Path) -> &Path {
    if dir == Path::new(".") { Path::new("") } else { dir }
}

/// Something that is no file has the name of one; directories are all that there is of this here.
fn not_a_file(operation: &'static str, error: Error) -> Error {
    match error {
        Error::Io { path, cause, .. } if cause.kind() == ErrorKind::IsADirectory => {
            Error::NotAFile { operation, path, found: "a directory" }
        }
        other => other,
    }
}

fn must_be(holds: bool, otherwise: ErrorKind) -> io::Result<()> {
    if holds { Ok(()) } else { Err(otherwise.into()) }
}

impl State {
    fn file(&self, path: &Path) -> io::Result<Inode> {
        must_be(!self.names.is_dir(path), ErrorKind::IsADirectory)?;
        Ok(self.names.file(path).ok_or(ErrorKind::NotFound)?.clone())
    }

    fn parent_must_be(&self, path: &Path) -> io::Result<()> {
        must_be(path.parent().is_some_and(|dir| self.names.is_dir(dir)), ErrorKind::NotFound)
    }

    fn create(&mut self, path: &Path) -> io::Result<Inode> {
        must_be(!self.names.live.contains_key(path), ErrorKind::AlreadyExists)?;
        self.parent_must_be(path)?;
        let inode = Arc::new(Mutex::new(Content::default().linked()));
        self.names.change(Change::Link(path.into(), Node::File(inode.clone())));
        Ok(inode)
    }
}

impl SimulatedStorage {
    /// No directory is ever moved or replaced here, so that all there is to an anchor is which
    /// paths it takes.
    fn must_be_below(&self, operation: &'static str, path: &Path) -> Result<()> {
        let is_below = |anchor: &Arc<Path>| {
            let is_plain = |part| matches!(part, Component::Normal(_));
            path.strip_prefix(anchor).is_ok_and(|below| below.components().all(is_plain))
        };
        if self.anchor.as_ref().is_none_or(is_below) {
            return Ok(());
        }
        Err(Error::io(operation, path, ErrorKind::InvalidInput.into()))
    }

    /// As [`SimulatedStorage::call`] with a path.
    fn path_call<T>(
        &self,
        operation: &'static str,
        path: &Path,
        work: impl FnOnce(&mut State, Option<&Fault>) -> io::Result<T>,
    ) -> Result<T> {
        self.must_be_below(operation, path)?;
        self.call(operation, path, NO_SPAN, work)
    }

    fn opened(&self, path: &Path, inode: Inode) -> Box<dyn File> {
        Box::new(SimulatedFile { storage: self.clone(), path: path.to_owned(), inode })
    }
}

impl Storage for SimulatedStorage {
    fn anchored(&self, dir: &Path) -> Result<SharedStorage> {
        self.path_call("open directory", dir, |state, _| {
            must_be(state.names.is_dir(dir_named(dir)), ErrorKind::NotFound)
        })?;
        Ok(Arc::new(SimulatedStorage { anchor: Some(dir.into()), ..self.clone() }))
    }

    fn create(&self, path: &Path) -> Result<Box<dyn File>> {
        let inode = self.path_call("create", path, |state, _| state.create(path))?;
        Ok(self.opened(path, inode))
    }

    fn open(&self, path: &Path) -> Result<Box<dyn File>> {
        let opened = self.path_call("open", path, |state, _| state.file(path));
        let inode = opened.map_err(|error| not_a_file("open", error))?;
        Ok(self.opened(path, inode))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        assert_eq!(from.parent(), to.parent(), "within one directory");
        self.path_call("rename", from, |state, _| {
            let inode = state.file(from)?;
            must_be(!state.names.is_dir(to), ErrorKind::IsADirectory)?;
            if from == to {
                return Ok(());
            }
            if let Some(replaced) = state.names.file(to).cloned() {
                state.unlinked(&replaced);
            }
            state.names.change(Change::Rename(from.into(), to.into(), inode));
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.path_call("remove", path, |state, _| {
            let inode = state.file(path)?;
            state.unlinked(&inode);
            state.names.change(Change::Unlink(path.into(), inode));
            Ok(())
        })
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>> {
        self.path_call("list", dir, |state, _| {
            let (dir, names) = (dir_named(dir), &state.names);
            must_be(names.is_dir(dir), ErrorKind::NotFound)?;
            let behind =
                names.live.range::<Path, _>((Excluded(dir), Unbounded)).map(|(path, _)| path);
            let inside = behind.take_while(|path| path.starts_with(dir));
            let named = inside.filter(|path| path.parent() == Some(dir));
            Ok(named.filter_map(|path| Some(path.file_name()?.to_string_lossy().into())).collect())
        })
    }

    fn create_dir(&self, dir: &Path) -> Result<()> {
        self.path_call("create directory", dir, |state, _| {
            if state.names.is_dir(dir_named(dir)) {
                return Ok(());
            }
            must_be(state.names.file(dir).is_none(), ErrorKind::AlreadyExists)?;
            state.parent_must_be(dir)?;
            state.names.change(Change::Link(dir.into(), Node::Dir));
            Ok(())
        })
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        self.path_call("inspect", path, |state, _| {
            Ok(state.names.live.contains_key(dir_named(path)))
        })
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        self.path_call("sync directory", dir, |state, fault| {
            let dir = dir_named(dir);
            must_be(state.names.is_dir(dir), ErrorKind::NotFound)?;
            if fault.is_none() {
                state.names.sync_dir(dir);
            }
            Ok(())
        })
    }

    fn lock(&self, path: &Path) -> Result<Option<Box<dyn Lock>>> {
        let locked = self.path_call("lock", path, |state, fault| {
            must_be(!state.names.is_dir(path), ErrorKind::IsADirectory)?;
            if state.names.file(path).is_none() {
                state.create(path)?;
            }
            let path: Arc<Path> = path.into();
            if fault.is_some() || !state.locks.insert(path.clone()) {
                return Ok(None);
            }
            Ok(Some(Box::new(SimulatedLock { storage: self.clone(), path }) as Box<dyn Lock>))
        });
        locked.map_err(|error| not_a_file("open lock", error))
    }
}

impl SimulatedFile {
    fn write(&self, operation: &'static str, offset: usize, parts: &[IoSlice<'_>]) -> Result<()> {
        let len = parts.iter().map(|part| part.len()).sum();
        self.storage.call(operation, &self.path, (offset as u64, len), |state, fault| {
            let mut content = self.inode.lock();
            let wanted = if fault.is_some() { len / 2 } else { len };
            let fitting = state.take_room(&content, offset, wanted);
            content.write(offset, parts, fitting);
            if fitting < wanted { Err(Failure::ENOSPC.error()) } else { Ok(()) }
        })
    }
}

impl File for SimulatedFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> Result<u64> {
        self.storage.call("inspect", &self.path, NO_SPAN, |_, _| Ok(self.inode.lock().len() as u64))
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let end = self.inode.lock().len();
        self.write("append to", end, &[IoSlice::new(bytes)])
    }

    fn write_at(&mut self, offset: u64, parts: &[IoSlice<'_>]) -> Result<()> {
        self.write("write", in_memory(offset), parts)
    }

    fn truncate(&mut self, len: u64) -> Result<()> {
        self.storage.call("truncate", &self.path, (len, 0), |state, _| {
            let (mut content, len) = (self.inode.lock(), in_memory(len));
            if content.is_linked {
                state.give_room(content.len().saturating_sub(len));
            }
            content.set_len(len);
            Ok(())
        })
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.storage.call("read", &self.path, (offset, buffer.len()), |_, _| {
            let content = self.inode.lock();
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            let end = start.checked_add(buffer.len());
            let bytes = end.and_then(|end| content.live().get(start..end));
            buffer.copy_from_slice(bytes.ok_or(ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn sync(&self) -> Result<()> {
        self.storage.call(SYNC, &self.path, NO_SPAN, |_, fault| {
            let mut content = self.inode.lock();
            match fault {
                None => content.sync(),
                Some(fault) if fault.failed_sync == FailedSync::DropsDirty => {
                    content.drop_dirty(fault.late);
                }
                Some(_) => {}
            }
            Ok(())
        })
    }

    fn map(&self) -> Result<FileMap> {
        self.storage.call("map", &self.path, NO_SPAN, |_, _| {
            Ok(FileMap::of_shared(self.inode.lock().live().clone()))
        })
    }
}
