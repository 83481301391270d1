//! System calls on a name in an open directory (`openat` and its kin). The only place that makes
//! them.
//!
//! What an open store does is relative to the directory that it opened: a path is looked up again
//! at every call, and may lead to another directory by then. No call here waits for another
//! process: a name is looked at before it is opened, and what is opened is opened with `O_NONBLOCK`
//! and looked at again.
#![allow(unsafe_code)]

use std::{
    ffi::{CStr, CString, OsStr, OsString},
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::Path,
};

/// Where names are looked up.
pub(super) enum Dir<'d> {
    /// Where the process is: names are whole paths.
    OfProcess,
    Borrowed(BorrowedFd<'d>),
    Owned(OwnedFd),
}

/// A name in a directory.
pub(super) struct At<'d> {
    dir: Dir<'d>,
    name: CString,
    /// Whether a symbolic link is followed; a store has none among its files.
    follows: bool,
}

/// A file that a name leads to, without opening it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FileStat {
    mode: libc::mode_t,
    /// Tells apart all files of a machine.
    pub(super) identity: (u64, u64),
}

impl FileStat {
    fn of(stat: &libc::stat) -> FileStat {
        FileStat { mode: stat.st_mode, identity: (stat.st_dev, stat.st_ino) }
    }

    pub(super) fn is_regular(self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFREG
    }

    /// For people.
    pub(super) fn kind(self) -> &'static str {
        match self.mode & libc::S_IFMT {
            libc::S_IFREG => "a regular file",
            libc::S_IFDIR => "a directory",
            libc::S_IFIFO => "a FIFO",
            libc::S_IFSOCK => "a socket",
            libc::S_IFCHR => "a character device",
            libc::S_IFBLK => "a block device",
            libc::S_IFLNK => "a symbolic link",
            _ => "something unknown",
        }
    }
}

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Calls again as long as a signal interrupts.
fn uninterrupted(mut call: impl FnMut() -> libc::c_int) -> io::Result<libc::c_int> {
    loop {
        match checked(call()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

impl Dir<'_> {
    fn fd(&self) -> RawFd {
        match self {
            Dir::OfProcess => libc::AT_FDCWD,
            Dir::Borrowed(dir) => dir.as_raw_fd(),
            Dir::Owned(dir) => dir.as_raw_fd(),
        }
    }
}

impl<'d> At<'d> {
    /// An error for a name that has a zero byte in it.
    pub(super) fn new(dir: Dir<'d>, name: &OsStr, follows: bool) -> io::Result<At<'d>> {
        let name = CString::new(name.as_bytes())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a zero byte in its name"))?;
        Ok(At { dir, name, follows })
    }

    /// A path as the process sees it.
    pub(super) fn of_process(path: &Path) -> io::Result<At<'static>> {
        At::new(Dir::OfProcess, path.as_os_str(), true)
    }

    /// Looks at what has this name.
    pub(super) fn stat(&self) -> io::Result<FileStat> {
        let flags = if self.follows { 0 } else { libc::AT_SYMLINK_NOFOLLOW };
        let mut stat = MaybeUninit::<libc::stat>::zeroed();
        // SAFETY: the name ends with a zero, and the call fills in one structure, for which all
        // zeros are a value too.
        unsafe {
            checked(libc::fstatat(self.dir.fd(), self.name.as_ptr(), stat.as_mut_ptr(), flags))?;
            Ok(FileStat::of(&stat.assume_init()))
        }
    }

    /// Opens it, without waiting, and without following a link where none is expected.
    pub(super) fn open(&self, flags: libc::c_int) -> io::Result<OwnedFd> {
        let nofollow = if self.follows { 0 } else { libc::O_NOFOLLOW };
        let flags = flags | nofollow | libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY;
        let mode: libc::c_uint = 0o666;
        // SAFETY: the name ends with a zero; the new descriptor has no other owner.
        unsafe {
            let opened =
                uninterrupted(|| libc::openat(self.dir.fd(), self.name.as_ptr(), flags, mode))?;
            Ok(OwnedFd::from_raw_fd(opened))
        }
    }

    /// Opens a directory, also through a link: the user who has set the store up decides where its
    /// directories are.
    pub(super) fn open_dir(&self) -> io::Result<OwnedFd> {
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC | libc::O_NONBLOCK;
        // SAFETY: as in `open`.
        unsafe {
            let opened = uninterrupted(|| libc::openat(self.dir.fd(), self.name.as_ptr(), flags))?;
            Ok(OwnedFd::from_raw_fd(opened))
        }
    }

    pub(super) fn create_dir(&self) -> io::Result<()> {
        // SAFETY: the name ends with a zero.
        checked(unsafe { libc::mkdirat(self.dir.fd(), self.name.as_ptr(), 0o777) }).map(drop)
    }

    pub(super) fn remove(&self) -> io::Result<()> {
        // SAFETY: the name ends with a zero.
        checked(unsafe { libc::unlinkat(self.dir.fd(), self.name.as_ptr(), 0) }).map(drop)
    }

    pub(super) fn rename_to(&self, to: &At<'_>) -> io::Result<()> {
        let (from_dir, to_dir) = (self.dir.fd(), to.dir.fd());
        // SAFETY: both names end with a zero.
        let renamed =
            unsafe { libc::renameat(from_dir, self.name.as_ptr(), to_dir, to.name.as_ptr()) };
        checked(renamed).map(drop)
    }
}

/// Looks at what is open.
pub(super) fn stat(file: &impl AsRawFd) -> io::Result<FileStat> {
    let mut stat = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: the call fills in one structure, for which all zeros are a value too.
    unsafe {
        checked(libc::fstat(file.as_raw_fd(), stat.as_mut_ptr()))?;
        Ok(FileStat::of(&stat.assume_init()))
    }
}

/// The names in a directory, as they come, without `.` and `..`. Takes the descriptor, because its
/// position moves.
pub(super) fn names(dir: OwnedFd) -> io::Result<Vec<OsString>> {
    let fd = dir.into_raw_fd();
    // SAFETY: the descriptor is this function's own; the stream owns it from here on.
    let stream = unsafe { libc::fdopendir(fd) };
    if stream.is_null() {
        let error = io::Error::last_os_error();
        // SAFETY: the stream was not made, so the descriptor is still this function's own.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
        return Err(error);
    }
    let mut names = Vec::new();
    let failed = loop {
        // SAFETY: `errno` is this thread's; the stream is open and no other thread has it. The
        // entry is valid until the next call, and its name ends with a zero.
        let name = unsafe {
            *libc::__errno_location() = 0;
            let entry = libc::readdir(stream);
            if entry.is_null() {
                break *libc::__errno_location();
            }
            CStr::from_ptr((*entry).d_name.as_ptr()).to_bytes()
        };
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name.to_vec()));
        }
    };
    // SAFETY: opened above, closed once; closes the descriptor too.
    unsafe { libc::closedir(stream) };
    if failed == 0 { Ok(names) } else { Err(io::Error::from_raw_os_error(failed)) }
}
