//! Data directories of PostgreSQL: whether a server works in one, and one that `restore` writes.
//!
//! | in the directory | says |
//! |---|---|
//! | `postmaster.pid` | the process of the server; stale after a crash |
//! | `global/pg_control` | what the server was doing when it wrote it |
//! | `RESTORE_INCOMPLETE` | `restore` began to write the directory and has not finished |
//!
//! **Invariant:** [`OutDir`] writes its marker, synced, before any other file, and removes it after
//! every file and directory is synced. After a crash at any moment a directory without the marker
//! is empty or complete.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use pagestrata::Lsn;
use pagestrata_layers::storage::read_file;
use pagestrata_postgres::ControlFile;

use crate::{Error, Result, stores::storage};

/// The file that tells a directory whose restore has not finished.
const MARKER: &str = "RESTORE_INCOMPLETE";
const PID_FILE: &str = "postmaster.pid";
/// As initdb makes them: a server refuses a data directory that others can write to or read.
const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// PostgreSQL's has eight short lines.
const PID_FILE_LEN_MAX: u64 = 1 << 16;

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |cause| Error::File { operation, path, cause }
}

/// Refuses a directory that a server works in.
///
/// # Errors
/// [`Error::ServerRuns`]
pub(crate) fn check_not_running(dir: &Path) -> Result<()> {
    match running_server(dir) {
        Some(pid) => Err(Error::ServerRuns { dir: dir.to_owned(), pid }),
        None => Ok(()),
    }
}

/// Refuses a directory of which not all pages were written.
///
/// # Errors
/// [`Error::NotAtRest`]
pub(crate) fn check_at_rest(dir: &Path, control: &ControlFile) -> Result<()> {
    match control.state {
        state if state.is_at_rest() => Ok(()),
        state => Err(Error::NotAtRest { dir: dir.to_owned(), state }),
    }
}

/// The process of the server that works in a data directory.
///
/// A server's working directory is its data directory, so that a process that only has the number
/// of one that crashed is not taken for a server. Where `/proc` does not let us look, the process
/// counts as one.
fn running_server(dir: &Path) -> Option<u32> {
    let bytes = read_file(&*storage(), &dir.join(PID_FILE), PID_FILE_LEN_MAX).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    // A server in single-user mode writes its number with a minus.
    let pid: u32 = text.lines().next()?.trim().trim_start_matches('-').parse().ok()?;
    let same = |a: fs::Metadata, b: fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    match fs::metadata(format!("/proc/{pid}/cwd")) {
        Ok(found) => same(found, fs::metadata(dir).ok()?).then_some(pid),
        Err(error) => (error.kind() == io::ErrorKind::PermissionDenied).then_some(pid),
    }
}

/// Refuses a directory that `restore` has not finished.
///
/// # Errors
/// [`Error::RestoreIncomplete`]
pub(crate) fn check_complete(dir: &Path) -> Result<()> {
    match fs::symlink_metadata(dir.join(MARKER)) {
        Ok(_) => Err(Error::RestoreIncomplete { dir: dir.to_owned() }),
        Err(_) => Ok(()),
    }
}

/// Refuses anything but an empty directory, or a path where nothing is.
///
/// # Errors
/// [`Error::OutNotEmpty`], [`Error::RestoreIncomplete`], [`Error::File`].
pub(crate) fn check_empty(dir: &Path) -> Result<()> {
    match fs::read_dir(dir) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => {
                check_complete(dir)?;
                Err(Error::OutNotEmpty { dir: dir.to_owned() })
            }
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("restore into", dir)(error)),
    }
}

/// How many bytes can be written to the file system that a directory is in, or will be.
///
/// # Errors
/// [`Error::File`]
pub(crate) fn available_bytes(dir: &Path) -> Result<u64> {
    let absolute = std::path::absolute(dir).map_err(failed("find", dir))?;
    let there = absolute.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
    let of = rustix::fs::statvfs(there)
        .map_err(|error| failed("ask for free space in", there)(error.into()))?;
    Ok(of.f_bavail.saturating_mul(of.f_frsize))
}

/// A directory that is written from nothing.
#[derive(Debug)]
pub(crate) struct OutDir {
    dir: PathBuf,
    /// Those that have entries which are not synced.
    dirs: BTreeSet<PathBuf>,
}

impl OutDir {
    /// Creates the directory, unless it is there and empty, and marks it as incomplete.
    ///
    /// # Errors
    /// As [`check_empty`].
    pub(crate) fn create(dir: &Path, lsn: Lsn) -> Result<OutDir> {
        check_empty(dir)?;
        let mut out = OutDir { dir: dir.to_owned(), dirs: BTreeSet::new() };
        out.create_dirs(dir)?;
        let path = dir.join(MARKER);
        let text = format!(
            "pagestrata restore --lsn {lsn} writes this directory and has not finished.\n\
             If no such process runs, remove the directory and restore again.\n"
        );
        let write = || {
            let mut file = create_new(&path)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()
        };
        write().map_err(failed("write", &path))?;
        out.sync_dirs()?;
        Ok(out)
    }

    /// Creates a file in it, by its path within, and the directories that it is in.
    ///
    /// # Errors
    /// [`Error::File`]
    pub(crate) fn create_file(&mut self, within: &Path) -> Result<(File, PathBuf)> {
        let path = self.dir.join(within);
        if let Some(parent) = path.parent() {
            self.create_dirs(parent)?;
        }
        let file = create_new(&path).map_err(failed("create", &path))?;
        Ok((file, path))
    }

    /// Creates a directory in it, by its path within.
    ///
    /// # Errors
    /// [`Error::File`]
    pub(crate) fn create_dir(&mut self, within: &str) -> Result<()> {
        self.create_dirs(&self.dir.join(within))
    }

    /// Syncs all directories, and takes the mark away. Files are synced by who writes them.
    ///
    /// # Errors
    /// [`Error::File`]
    pub(crate) fn finish(self) -> Result<()> {
        self.sync_dirs()?;
        let path = self.dir.join(MARKER);
        fs::remove_file(&path).map_err(failed("remove", &path))?;
        sync_dir(&self.dir)
    }

    /// Creates a directory and those above it, and notes which have a new entry.
    fn create_dirs(&mut self, dir: &Path) -> Result<()> {
        if self.dirs.contains(dir) {
            return Ok(());
        }
        let above = dir.parent().map(|above| match above.as_os_str().is_empty() {
            true => Path::new("."),
            false => above,
        });
        if let Some(above) = above.filter(|above| !above.is_dir()) {
            self.create_dirs(above)?;
        }
        // Directories above it hold no data.
        let mode = if dir.starts_with(&self.dir) { DIR_MODE } else { 0o777 };
        match DirBuilder::new().mode(mode).create(dir) {
            Ok(()) => self.dirs.extend(above.map(Path::to_owned)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
            Err(error) => return Err(failed("create", dir)(error)),
        }
        self.dirs.insert(dir.to_owned());
        Ok(())
    }

    fn sync_dirs(&self) -> Result<()> {
        self.dirs.iter().try_for_each(|dir| sync_dir(dir))
    }
}

fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path)
}

fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|open| open.sync_all()).map_err(failed("sync", dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_a_server_only_in_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(running_server(dir.path()), None);
        let here = std::env::current_dir().unwrap();
        let pid = std::process::id();
        for text in [format!("{pid}\n{}\n", here.display()), format!("-{pid}\n"), String::new()] {
            fs::write(dir.path().join(PID_FILE), text).unwrap();
            assert_eq!(running_server(dir.path()), None, "this process works elsewhere");
        }
    }

    #[test]
    fn a_directory_is_marked_until_it_is_complete() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("a/b");
        let mut out = OutDir::create(&dir, Lsn(0x10)).unwrap();
        out.create_file(Path::new("base/5/7")).unwrap();
        assert!(matches!(check_complete(&dir), Err(Error::RestoreIncomplete { .. })));
        assert!(matches!(check_empty(&dir), Err(Error::RestoreIncomplete { .. })));
        // What a crash leaves is not taken for anything else by the next restore.
        assert!(matches!(OutDir::create(&dir, Lsn(0x10)), Err(Error::RestoreIncomplete { .. })));
        let mut noted: Vec<_> = out.dirs.iter().cloned().collect();
        noted.sort();
        let expected = ["a", "a/b", "a/b/base", "a/b/base/5"].map(|dir| parent.path().join(dir));
        assert_eq!(noted, [vec![parent.path().to_owned()], expected.to_vec()].concat());
        out.finish().unwrap();
        check_complete(&dir).unwrap();
        assert!(matches!(check_empty(&dir), Err(Error::OutNotEmpty { .. })));
    }
}
