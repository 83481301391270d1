//! The real file system.

use std::{
    fs,
    io::{self, IoSlice, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::{DIRECT_ALIGN, File, FileMap, Lock, Storage};
use crate::{Error, Result};

/// The operating system's files.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealStorage;

#[derive(Debug)]
struct RealFile {
    path: PathBuf,
    file: fs::File,
    /// Where the next append goes.
    end: u64,
    /// Where the operating system has the file's own position, unless that is not known.
    cursor: Option<u64>,
    /// Whether it is read past the page cache, in whole sectors.
    is_direct: bool,
}

impl RealFile {
    fn new(path: &Path, file: fs::File, end: u64) -> Box<RealFile> {
        let path = path.to_owned();
        Box::new(RealFile { path, file, end, cursor: Some(0), is_direct: false })
    }
}

impl RealFile {
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
}

impl Drop for RealLock {
    /// Gives the lock back by name: closing alone leaves it with a child process that some other thread has forked but
    /// that has not come to its `exec` yet.
    fn drop(&mut self) {
        // An error changes nothing: the lock then ends with the last copy of the file.
        let _ = self.file.unlock();
    }
}

impl Lock for RealLock {}

fn with_path<T>(operation: &'static str, path: &Path, result: io::Result<T>) -> Result<T> {
    result.map_err(|source| Error::io(operation, path, source))
}

/// A store on a read-only file system can still be read, and locked; an append will then fail.
fn or_read_only(opened: io::Result<fs::File>, path: &Path) -> io::Result<fs::File> {
    match opened {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            fs::File::open(path)
        }
        other => other,
    }
}

impl Storage for RealStorage {
    fn create(&self, path: &Path) -> Result<Box<dyn File>> {
        let opened = fs::File::options().read(true).write(true).create_new(true).open(path);
        let file = with_path("create", path, opened)?;
        Ok(RealFile::new(path, file, 0))
    }

    fn open(&self, path: &Path) -> Result<Box<dyn File>> {
        let opened = or_read_only(fs::File::options().read(true).write(true).open(path), path);
        let file = with_path("open", path, opened)?;
        let metadata = with_path("inspect", path, file.metadata())?;
        if !metadata.is_file() {
            return Err(Error::io("open", path, io::Error::from(io::ErrorKind::InvalidInput)));
        }
        Ok(RealFile::new(path, file, metadata.len()))
    }

    fn open_direct(&self, path: &Path) -> Result<Option<Box<dyn File>>> {
        let opened = fs::File::options().read(true).custom_flags(libc::O_DIRECT).open(path);
        match opened {
            Ok(file) => {
                Ok(Some(Box::new(RealFile { is_direct: true, ..*RealFile::new(path, file, 0) })))
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(None),
            Err(error) => Err(Error::io("open", path, error)),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        with_path("rename", from, fs::rename(from, to))
    }

    fn remove(&self, path: &Path) -> Result<()> {
        with_path("remove", path, fs::remove_file(path))
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in with_path("list", dir, fs::read_dir(dir))? {
            // A name that is not UTF-8 is none of ours, but it is shown rather than hidden.
            names.push(with_path("list", dir, entry)?.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create_dir(&self, dir: &Path) -> Result<()> {
        match fs::create_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
            other => with_path("create directory", dir, other),
        }
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        with_path("inspect", path, path.try_exists())
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        let opened = with_path("open directory", dir, fs::File::open(dir))?;
        with_path("sync directory", dir, opened.sync_all())
    }

    fn lock(&self, path: &Path) -> Result<Option<Box<dyn Lock>>> {
        let mut options = fs::File::options();
        options.read(true).write(true).create(true).truncate(false);
        let opened = or_read_only(options.open(path), path);
        let file = with_path("open lock", path, opened)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(RealLock { file }))),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(Error::io("lock", path, error)),
        }
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
        with_path("append to", &self.path, self.file.write_all_at(bytes, self.end))?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    fn write_at(&mut self, offset: u64, parts: &[IoSlice<'_>]) -> Result<()> {
        let written = self.write_gathered(offset, parts);
        self.end = self.end.max(with_path("write", &self.path, written)?);
        Ok(())
    }

    fn truncate(&mut self, len: u64) -> Result<()> {
        with_path("truncate", &self.path, self.file.set_len(len))?;
        self.end = len;
        Ok(())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        with_path("read", &self.path, self.file.read_exact_at(buffer, offset))
    }

    fn read_up_to(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let mut read = 0;
        while read < buffer.len() {
            match self.file.read_at(&mut buffer[read..], offset + read as u64) {
                Ok(0) => break,
                Ok(more) => {
                    read += more;
                    // The part of a sector that is left of the file; what is behind it is not aligned.
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
        assert_eq!(file.map().unwrap().bytes(), b"one two");
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
        let lock = RealLock { file: fs::File::create(&path).unwrap() };
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
