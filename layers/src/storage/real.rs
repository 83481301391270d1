//! The real file system.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    io::{self, IoSlice, Seek, SeekFrom, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt,
    },
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

use super::{
    DIRECT_ALIGN, File, FileMap, Lock, ProcessMark, SharedStorage, Storage, append_zeros,
    at::{self, At, Dir},
    mapping,
    uses::{Identity, Writing},
};
use crate::{Error, Result};

/// The operating system's files.
///
/// Only regular files are opened, and opening never waits: a FIFO, a socket, a device, or a
/// directory in the place of a file is [`Error::NotAFile`]. Below an [anchor](Storage::anchored) a
/// symbolic link is too.
///
/// A file that is mapped cannot be written to, cut or replaced in its bytes through this type, and
/// one that is being written cannot be mapped ([`Error::FileInUse`]), so that the bytes of a
/// [`FileMap`] never change under its readers:
///
/// ```
/// use pagestrata_layers::{Error, storage::{RealStorage, Storage}};
///
/// # let dir = tempfile::tempdir().unwrap();
/// let path = dir.path().join("file");
/// RealStorage.create(&path)?.append(b"bytes")?;
/// let map = RealStorage.open(&path)?.map()?;
/// let refused = RealStorage.open(&path)?.truncate(0);
/// assert!(matches!(refused, Err(Error::FileInUse { .. })));
/// assert_eq!(map.bytes(), b"bytes");
/// drop(map);
/// RealStorage.open(&path)?.truncate(0)?;
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct RealStorage;

/// The files below one directory, wherever that is moved.
#[derive(Debug)]
struct AnchoredStorage {
    /// As it was named, for errors: what paths begin with.
    path: PathBuf,
    dir: OwnedFd,
    /// The directories below it that were reached, by their paths from it. One that has been
    /// replaced is not taken for what was there before.
    reached: Mutex<BTreeMap<PathBuf, Identity>>,
}

/// How a storage finds the place of a path.
trait Places {
    /// Where the name at the end of a path is looked up, for an operation that an error names.
    fn at(&self, operation: &'static str, path: &Path) -> Result<At<'_>>;

    /// A directory, opened.
    fn dir(&self, operation: &'static str, dir: &Path) -> Result<OwnedFd>;

    /// Learns that a directory was made.
    fn created(&self, dir: &Path) {
        let _ = dir;
    }
}

#[derive(Debug)]
struct RealFile {
    path: PathBuf,
    file: fs::File,
    /// Where the next append goes.
    end: u64,
    /// Where the operating system has the file's own position, unless that is not known.
    cursor: Option<u64>,
    /// Whether it is read with direct I/O, in whole sectors.
    is_direct: bool,
    /// From the first write on: keeps the file from being mapped.
    writing: Option<Writing>,
}

impl RealFile {
    fn new(path: &Path, file: OwnedFd, end: u64) -> Box<RealFile> {
        let (path, file) = (path.to_owned(), file.into());
        Box::new(RealFile { path, file, end, cursor: Some(0), is_direct: false, writing: None })
    }

    /// Before anything of it is changed.
    fn begin_writing(&mut self, operation: &'static str) -> Result<()> {
        if self.writing.is_none() {
            let found = with_path("inspect", &self.path, at::stat(&self.file))?;
            let in_use = |found| Error::FileInUse { operation, path: self.path.clone(), found };
            self.writing = Some(Writing::begin(found.identity).map_err(in_use)?);
        }
        Ok(())
    }

    /// Gathers the parts in one call of the operating system, or as many as it makes of them.
    fn write_gathered(&mut self, offset: u64, parts: &[IoSlice<'_>]) -> io::Result<u64> {
        if self.cursor.take() != Some(offset) {
            self.file.seek(SeekFrom::Start(offset))?;
        }
        let (mut end, mut rest) = (offset, parts.to_vec());
        let mut rest = &mut rest[..];
        // Nothing empty at the front: a write of nothing could not be told from a full disk.
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            match self.file.write_vectored(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    end += written as u64;
                    IoSlice::advance_slices(&mut rest, written);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.cursor = Some(end);
        Ok(end)
    }
}

#[derive(Debug)]
struct RealLock {
    file: fs::File,
    /// The process that took it.
    owner: ProcessMark,
}

impl Drop for RealLock {
    /// Gives the lock back by name: closing alone leaves it with a child process that some other
    /// thread has forked but that has not come to its `exec` yet. A child, whose copy of the file
    /// has the same lock, must not: only closes it.
    fn drop(&mut self) {
        if self.owner.is_current() {
            // An error changes nothing: the lock then ends with the last copy of the file.
            let _ = self.file.unlock();
        }
    }
}

impl Lock for RealLock {}

fn with_path<T>(operation: &'static str, path: &Path, result: io::Result<T>) -> Result<T> {
    result.map_err(|cause| Error::io(operation, path, cause))
}

/// A store on a read-only file system can still be read, and locked; an append will then fail.
fn open_or_read_only(at: &At<'_>, flags: libc::c_int) -> io::Result<OwnedFd> {
    match at.open(libc::O_RDWR | flags) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            at.open(libc::O_RDONLY)
        }
        other => other,
    }
}

/// Opens a regular file and nothing else. It is looked at first, because opening a device may do
/// something to it, and again when it is open, because it may have been replaced in between.
fn open_regular(
    operation: &'static str,
    path: &Path,
    at: &At<'_>,
    open: impl FnOnce(&At<'_>) -> io::Result<OwnedFd>,
) -> io::Result<Result<OwnedFd>> {
    let refused = |found: at::FileStat| {
        Ok(Err(Error::NotAFile { operation, path: path.to_owned(), found: found.kind() }))
    };
    match at.stat() {
        Ok(found) if !found.is_regular() => return refused(found),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = open(at)?;
    let found = at::stat(&file)?;
    if found.is_regular() { Ok(Ok(file)) } else { refused(found) }
}

impl Places for RealStorage {
    fn at(&self, operation: &'static str, path: &Path) -> Result<At<'_>> {
        with_path(operation, path, At::of_process(path))
    }

    fn dir(&self, operation: &'static str, dir: &Path) -> Result<OwnedFd> {
        with_path(operation, dir, At::of_process(dir).and_then(|at| at.open_dir()))
    }
}

impl AnchoredStorage {
    fn new(path: &Path, dir: OwnedFd) -> AnchoredStorage {
        AnchoredStorage { path: path.to_owned(), dir, reached: Mutex::default() }
    }

    /// The way from the anchor to a path below it.
    fn below<'p>(&self, operation: &'static str, path: &'p Path) -> Result<&'p Path> {
        let is_plain =
            |below: &&Path| below.components().all(|part| matches!(part, Component::Normal(_)));
        path.strip_prefix(&self.path).ok().filter(is_plain).ok_or_else(|| {
            let expected = format!("expected a path below {}", self.path.display());
            Error::io(operation, path, io::Error::new(io::ErrorKind::InvalidInput, expected))
        })
    }

    /// Opens a directory below the anchor, one name at a time. Each has to be the one that was
    /// there before.
    fn open_below(&self, below: &Path) -> io::Result<Result<OwnedFd>> {
        let mut opened: Option<OwnedFd> = None;
        let mut reached = PathBuf::new();
        for part in below.components() {
            reached.push(part);
            let above = opened.take().map_or(Dir::Borrowed(self.dir.as_fd()), Dir::Owned);
            let (dir, found) = open_known(above, part.as_os_str())?;
            if *self.reached.lock().entry(reached.clone()).or_insert(found) != found {
                return Ok(Err(Error::DirectoryReplaced { path: self.path.join(&reached) }));
            }
            opened = Some(dir);
        }
        let anchor = || open_known(Dir::Borrowed(self.dir.as_fd()), ".".as_ref());
        Ok(Ok(opened.map_or_else(|| anchor().map(|(dir, _)| dir), Ok)?))
    }
}

/// Opens a directory, and says which one it is.
fn open_known(above: Dir<'_>, name: &OsStr) -> io::Result<(OwnedFd, Identity)> {
    let opened = At::new(above, name, false)?.open_dir()?;
    let found = at::stat(&opened)?;
    Ok((opened, found.identity))
}

impl Places for AnchoredStorage {
    fn at(&self, operation: &'static str, path: &Path) -> Result<At<'_>> {
        let below = self.below(operation, path)?;
        let (dir, name) = match (below.parent(), below.file_name()) {
            (Some(parent), Some(name)) if !parent.as_os_str().is_empty() => {
                (Dir::Owned(with_path(operation, path, self.open_below(parent))??), name)
            }
            (_, name) => (Dir::Borrowed(self.dir.as_fd()), name.unwrap_or(".".as_ref())),
        };
        with_path(operation, path, At::new(dir, name, false))
    }

    fn dir(&self, operation: &'static str, dir: &Path) -> Result<OwnedFd> {
        with_path(operation, dir, self.open_below(self.below(operation, dir)?))?
    }

    fn created(&self, dir: &Path) {
        if let Ok(below) = self.below("create directory", dir) {
            // One of this name that was removed before is not expected any more.
            self.reached.lock().remove(below);
        }
    }
}

/// The storage trait on whatever finds places.
macro_rules! files_of {
    ($storage:ty) => {
        impl Storage for $storage {
            fn anchored(&self, dir: &Path) -> Result<SharedStorage> {
                Ok(Arc::new(AnchoredStorage::new(dir, self.dir("open directory", dir)?)))
            }

            fn create(&self, path: &Path) -> Result<Box<dyn File>> {
                create(&self.at("create", path)?, path)
            }

            fn open(&self, path: &Path) -> Result<Box<dyn File>> {
                open(&self.at("open", path)?, path)
            }

            fn open_direct(&self, path: &Path) -> Result<Option<Box<dyn File>>> {
                open_direct(&self.at("open", path)?, path)
            }

            fn rename(&self, from: &Path, to: &Path) -> Result<()> {
                let (at, to) = (self.at("rename", from)?, self.at("rename", to)?);
                with_path("rename", from, at.rename_to(&to))
            }

            fn remove(&self, path: &Path) -> Result<()> {
                with_path("remove", path, self.at("remove", path)?.remove())
            }

            fn list(&self, dir: &Path) -> Result<Vec<String>> {
                let names = with_path("list", dir, at::names(self.dir("list", dir)?))?;
                // A name that is not UTF-8 is none of ours, but it is shown rather than hidden.
                let shown = names.iter().map(|name| name.to_string_lossy().into_owned());
                let mut names: Vec<_> = shown.collect();
                names.sort_unstable();
                Ok(names)
            }

            fn create_dir(&self, dir: &Path) -> Result<()> {
                if create_dir(&self.at("create directory", dir)?, dir)? {
                    self.created(dir);
                }
                Ok(())
            }

            fn exists(&self, path: &Path) -> Result<bool> {
                match self.at("inspect", path).and_then(|at| with_path("inspect", path, at.stat()))
                {
                    Ok(_) => Ok(true),
                    Err(Error::Io { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => {
                        Ok(false)
                    }
                    Err(error) => Err(error),
                }
            }

            fn sync_dir(&self, dir: &Path) -> Result<()> {
                let opened = fs::File::from(self.dir("open directory", dir)?);
                with_path("sync directory", dir, opened.sync_all())
            }

            fn lock(&self, path: &Path) -> Result<Option<Box<dyn Lock>>> {
                lock(&self.at("open lock", path)?, path)
            }
        }
    };
}

files_of!(RealStorage);
files_of!(AnchoredStorage);

fn create(at: &At<'_>, path: &Path) -> Result<Box<dyn File>> {
    let opened = at.open(libc::O_RDWR | libc::O_CREAT | libc::O_EXCL);
    Ok(RealFile::new(path, with_path("create", path, opened)?, 0))
}

fn open(at: &At<'_>, path: &Path) -> Result<Box<dyn File>> {
    let opened = open_regular("open", path, at, |at| open_or_read_only(at, 0));
    let file = RealFile::new(path, with_path("open", path, opened)??, 0);
    let end = file.len()?;
    Ok(Box::new(RealFile { end, ..*file }))
}

fn open_direct(at: &At<'_>, path: &Path) -> Result<Option<Box<dyn File>>> {
    let opened = open_regular("open", path, at, |at| at.open(libc::O_RDONLY | libc::O_DIRECT));
    match opened {
        Ok(file) => {
            Ok(Some(Box::new(RealFile { is_direct: true, ..*RealFile::new(path, file?, 0) })))
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(None),
        Err(error) => Err(Error::io("open", path, error)),
    }
}

/// Whether it was not there before.
fn create_dir(at: &At<'_>, dir: &Path) -> Result<bool> {
    match at.create_dir() {
        Ok(()) => Ok(true),
        // A link to a directory will do too.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && at.open_dir().is_ok() => {
            Ok(false)
        }
        Err(error) => Err(Error::io("create directory", dir, error)),
    }
}

fn lock(at: &At<'_>, path: &Path) -> Result<Option<Box<dyn Lock>>> {
    let opened = open_regular("open lock", path, at, |at| open_or_read_only(at, libc::O_CREAT));
    let file = fs::File::from(with_path("open lock", path, opened)??);
    match file.try_lock() {
        Ok(()) => Ok(Some(Box::new(RealLock { file, owner: ProcessMark::current() }))),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(error)) => Err(Error::io("lock", path, error)),
    }
}

impl File for RealFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> Result<u64> {
        Ok(with_path("inspect", &self.path, self.file.metadata())?.len())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.begin_writing("append to")?;
        with_path("append to", &self.path, self.file.write_all_at(bytes, self.end))?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    fn reserve(&mut self, len: u64) -> Result<()> {
        self.begin_writing("reserve room in")?;
        let reserved = mapping::reserve(&self.file, len);
        if reserved.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::Unsupported) {
            return append_zeros(self, len);
        }
        with_path("reserve room in", &self.path, reserved)?;
        self.end = self.end.max(len);
        Ok(())
    }

    fn write_at(&mut self, offset: u64, parts: &[IoSlice<'_>]) -> Result<()> {
        self.begin_writing("write")?;
        let written = self.write_gathered(offset, parts);
        self.end = self.end.max(with_path("write", &self.path, written)?);
        Ok(())
    }

    fn truncate(&mut self, len: u64) -> Result<()> {
        self.begin_writing("truncate")?;
        with_path("truncate", &self.path, self.file.set_len(len))?;
        self.end = len;
        Ok(())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        with_path("read", &self.path, self.file.read_exact_at(buffer, offset))
    }

    fn read_up_to(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        debug_assert!(
            !self.is_direct
                || offset.is_multiple_of(DIRECT_ALIGN as u64)
                    && buffer.as_ptr().addr().is_multiple_of(DIRECT_ALIGN),
            "direct I/O is aligned"
        );
        let mut read = 0;
        while read < buffer.len() {
            match self.file.read_at(&mut buffer[read..], offset + read as u64) {
                Ok(0) => break,
                Ok(more) => {
                    read += more;
                    // The part of a sector that is left of the file; what is behind it is not
                    // aligned.
                    if self.is_direct && !read.is_multiple_of(DIRECT_ALIGN) {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("read", &self.path, error)),
            }
        }
        Ok(read)
    }

    fn write_back(&self, offset: u64, len: u64) -> Result<()> {
        with_path("write back", &self.path, mapping::write_back(&self.file, offset, len))
    }

    fn sync(&self) -> Result<()> {
        with_path("sync", &self.path, self.file.sync_data())
    }

    fn map(&self) -> Result<FileMap> {
        FileMap::of_file(&self.path, &self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_keep_what_was_appended() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("first"), dir.path().join("second"));
        let storage = RealStorage;
        let mut file = storage.create(&first).unwrap();
        assert!(storage.create(&first).is_err(), "a name is created once");
        file.append(b"one ").unwrap();
        file.append(b"two").unwrap();
        file.sync().unwrap();
        drop(file);
        assert_eq!(storage.open(&first).unwrap().map().unwrap().bytes(), b"one two");
        storage.rename(&first, &second).unwrap();
        storage.sync_dir(dir.path()).unwrap();
        assert_eq!(storage.list(dir.path()).unwrap(), ["second"]);

        let mut again = storage.open(&second).unwrap();
        again.append(b"!").unwrap();
        let mut bytes = [0; 8];
        again.read_at(0, &mut bytes).unwrap();
        assert_eq!(&bytes, b"one two!");
        assert!(again.read_at(1, &mut bytes).is_err(), "short reads are errors");
        again.truncate(3).unwrap();
        again.append(b"s").unwrap();
        assert_eq!(super::super::read_file(&storage, &second, 4).unwrap(), b"ones");
        assert!(super::super::read_file(&storage, &second, 3).is_err());
        again.write_at(1, &[IoSlice::new(b""), IoSlice::new(b"x"), IoSlice::new(b"")]).unwrap();
        again.write_at(6, &[IoSlice::new(b"yy"), IoSlice::new(b"z")]).unwrap();
        again.append(b"!").unwrap();
        assert_eq!(super::super::read_file(&storage, &second, 99).unwrap(), b"oxes\0\0yyz!");
        storage.remove(&second).unwrap();
        assert!(!storage.exists(&second).unwrap());
    }

    #[test]
    fn a_lock_is_held_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("LOCK");
        let held = RealStorage.lock(&path).unwrap().expect("free");
        assert!(RealStorage.lock(&path).unwrap().is_none());
        drop(held);
        assert!(RealStorage.lock(&path).unwrap().is_some());
    }

    #[test]
    fn a_lock_is_given_back_also_when_a_child_has_inherited_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("LOCK");
        let owner = ProcessMark::current();
        let lock = RealLock { file: fs::File::create(&path).unwrap(), owner };
        lock.file.try_lock().unwrap();
        // The same open file, as a child process has it between `fork` and `exec`.
        let inherited = lock.file.try_clone().unwrap();
        assert!(RealStorage.lock(&path).unwrap().is_none());
        drop(lock);
        assert!(RealStorage.lock(&path).unwrap().is_some());
        drop(inherited);
    }

    #[test]
    fn errors_name_the_file_and_the_operation() {
        let error = RealStorage.open(Path::new("/nonexistent/file")).unwrap_err().to_string();
        assert!(error.starts_with("/nonexistent/file: cannot open: "), "{error}");
    }
}
