//! The storage trait on a [`SimulatedStorage`].

use std::{
    io::{self, ErrorKind, IoSlice},
    ops::Bound::{Excluded, Unbounded},
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

use super::{SimulatedStorage, State, in_memory};
use crate::{
    Result,
    storage::{File, FileMap, Lock, Storage},
    testing::{
        content::Content,
        fault::{FailedSync, Failure},
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
    fn opened(&self, path: &Path, inode: Inode) -> Box<dyn File> {
        Box::new(SimulatedFile { storage: self.clone(), path: path.to_owned(), inode })
    }
}

impl Storage for SimulatedStorage {
    fn create(&self, path: &Path) -> Result<Box<dyn File>> {
        let inode = self.call("create", path, NO_SPAN, |state, _| state.create(path))?;
        Ok(self.opened(path, inode))
    }

    fn open(&self, path: &Path) -> Result<Box<dyn File>> {
        let inode = self.call("open", path, NO_SPAN, |state, _| state.file(path))?;
        Ok(self.opened(path, inode))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        assert_eq!(from.parent(), to.parent(), "within one directory");
        self.call("rename", from, NO_SPAN, |state, _| {
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
        self.call("remove", path, NO_SPAN, |state, _| {
            let inode = state.file(path)?;
            state.unlinked(&inode);
            state.names.change(Change::Unlink(path.into(), inode));
            Ok(())
        })
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>> {
        self.call("list", dir, NO_SPAN, |state, _| {
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
        self.call("create directory", dir, NO_SPAN, |state, _| {
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
        self.call("inspect", path, NO_SPAN, |state, _| {
            Ok(state.names.live.contains_key(dir_named(path)))
        })
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        self.call("sync directory", dir, NO_SPAN, |state, fault| {
            let dir = dir_named(dir);
            must_be(state.names.is_dir(dir), ErrorKind::NotFound)?;
            if fault.is_none() {
                state.names.sync_dir(dir);
            }
            Ok(())
        })
    }

    fn lock(&self, path: &Path) -> Result<Option<Box<dyn Lock>>> {
        self.call("lock", path, NO_SPAN, |state, fault| {
            if state.names.file(path).is_none() {
                state.create(path)?;
            }
            let path: Arc<Path> = path.into();
            if fault.is_some() || !state.locks.insert(path.clone()) {
                return Ok(None);
            }
            Ok(Some(Box::new(SimulatedLock { storage: self.clone(), path }) as Box<dyn Lock>))
        })
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
