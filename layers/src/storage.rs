//! The storage trait: every file of a store is created, read, appended, synced, renamed, listed,
//! removed, mapped and locked through it.
//!
//! What a call makes durable is part of its contract, so that a simulated implementation can be
//! exact:
//!
//! | call | durable afterwards |
//! |---|---|
//! | [`Storage::create`], [`Storage::rename`], [`Storage::remove`], [`Storage::create_dir`] | nothing: names are durable only by [`Storage::sync_dir`] of their directory |
//! | [`File::append`], [`File::reserve`], [`File::write_at`], [`File::write_back`] | nothing |
//! | [`File::sync`] | the bytes and the length of this file, not its name |
//! | [`Storage::sync_dir`] | the names in this directory, as they are now; not what the files hold |
//!
//! **Invariant:** no method syncs as a side effect, and none retries what failed.

mod at;
mod mapping;
mod process;
mod real;
#[cfg(all(test, feature = "testing"))]
mod tests;
mod uses;

use std::{fmt, io::IoSlice, path::Path, sync::Arc};

use crate::Result;

#[cfg(any(test, feature = "testing"))]
pub use mapping::evict;
pub use mapping::{FileMap, PAGE_BYTES, major_faults_of_process, major_faults_of_thread};
pub use process::ProcessMark;
pub use real::RealStorage;

/// Alignment of direct I/O in bytes: of offset, length and memory. No device in use needs more.
pub const DIRECT_ALIGN: usize = 4096;

/// So many zeros are written at once where room cannot be taken otherwise.
const RESERVED_PIECE_BYTES: u64 = 256 << 10;

/// A file system, real or simulated. Shared by all threads of a store.
///
/// Paths are as the caller gave them; a directory is created before files in it. Every error
/// carries the operation and the path ([`crate::Error::Io`]). Only regular files are opened, mapped
/// and locked, and no call waits for another process: for anything else that has the name the error
/// is [`crate::Error::NotAFile`].
pub trait Storage: Send + Sync + fmt::Debug + 'static {
    /// Opens a directory and returns a storage of what is below it.
    ///
    /// Paths still begin with `dir`, but they are looked up from the open directory: when that is
    /// moved, or another one takes its place, the storage that this returns goes on in the one that
    /// was opened. Each directory below it has to stay the one that it was when it was first used
    /// ([`crate::Error::DirectoryReplaced`]). A path that is not below `dir` is an error.
    ///
    /// # Errors
    /// [`crate::Error::Io`], also when there is no such directory.
    fn anchored(&self, dir: &Path) -> Result<SharedStorage>;

    /// Creates an empty file for appending. An error if the name exists.
    fn create(&self, path: &Path) -> Result<Box<dyn File>>;

    /// Opens an existing file, for reading and appending.
    fn open(&self, path: &Path) -> Result<Box<dyn File>>;

    /// Opens an existing file for reads with direct I/O, all aligned to [`DIRECT_ALIGN`]. `None`:
    /// the storage has no such thing.
    fn open_direct(&self, path: &Path) -> Result<Option<Box<dyn File>>> {
        let _ = path;
        Ok(None)
    }

    /// Gives a file another name in the same file system, replacing what had it. Atomic for every
    /// observer and for a crash.
    fn rename(&self, from: &Path, to: &Path) -> Result<()>;

    /// Removes a file's name. Open files and mappings of it can still be read.
    fn remove(&self, path: &Path) -> Result<()>;

    /// The names in a directory, sorted, without its subdirectories' contents.
    fn list(&self, dir: &Path) -> Result<Vec<String>>;

    /// Creates a directory; not an error if it exists.
    fn create_dir(&self, dir: &Path) -> Result<()>;

    /// Whether something has this name.
    fn exists(&self, path: &Path) -> Result<bool>;

    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> Result<()>;

    /// Takes the one exclusive lock on a file, created if need be, for as long as the returned
    /// value lives; it ends with the process, and the children that it has forked, at the latest.
    /// Dropped in a forked child, the copy of the value gives nothing back. `None`: it is taken.
    fn lock(&self, path: &Path) -> Result<Option<Box<dyn Lock>>>;
}

/// An open file. Appending and writing need `&mut`, so there is one writer; reading and syncing do
/// not.
pub trait File: Send + Sync + fmt::Debug {
    /// The path it was opened by.
    fn path(&self) -> &Path;

    /// Its length now, in bytes.
    fn len(&self) -> Result<u64>;

    /// Whether it has no bytes.
    fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Appends all of `bytes`. After an error any prefix of them may be there.
    fn append(&mut self, bytes: &[u8]) -> Result<()>;

    /// Makes the file `len` bytes long, if it is shorter, and takes the room for it on the device:
    /// to write there later needs no more. What is new reads as zeros. After an error it may be any
    /// part as long.
    fn reserve(&mut self, len: u64) -> Result<()> {
        append_zeros(self, len)
    }

    /// Writes the parts one behind the other, from `offset` on, over what is there; what goes
    /// beyond the end makes the file longer, and a gap before it reads as zeros. After an error any
    /// of these bytes may be there.
    fn write_at(&mut self, offset: u64, parts: &[IoSlice<'_>]) -> Result<()>;

    /// Cuts the file to `len` bytes.
    fn truncate(&mut self, len: u64) -> Result<()>;

    /// Reads exactly `buffer.len()` bytes from `offset`; an error of kind `UnexpectedEof` if the
    /// file ends before.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()>;

    /// Reads from `offset` on until the buffer is full or the file ends. Returns how much was read.
    fn read_up_to(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let left = usize::try_from(self.len()?.saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = left.min(buffer.len());
        self.read_at(offset, &mut buffer[..len])?;
        Ok(len)
    }

    /// Starts writing `len` bytes from `offset` on to the device, once most of what earlier calls
    /// have started is written: so a large file is written little by little, and its sync is short.
    /// Makes nothing durable.
    ///
    /// # Errors
    /// As [`File::sync`]: after an error nothing is known of what was written since the last sync,
    /// and a later sync may not report it again.
    fn write_back(&self, offset: u64, len: u64) -> Result<()> {
        let _ = (offset, len);
        Ok(())
    }

    /// Makes the file's bytes and length durable. After an error nothing is known of any byte since
    /// the last sync.
    fn sync(&self) -> Result<()>;

    /// Maps the file as it is now, for reading. While the map lives, its bytes must stay what they
    /// are: a storage of files that can change refuses writes ([`crate::Error::FileInUse`]), and
    /// refuses to map what is being written.
    fn map(&self) -> Result<FileMap>;
}

/// Appends zeros until the file is so long.
fn append_zeros(file: &mut (impl File + ?Sized), len: u64) -> Result<()> {
    let mut left = len.saturating_sub(file.len()?);
    let zeros = vec![0; left.min(RESERVED_PIECE_BYTES) as usize];
    while left > 0 {
        let piece = left.min(RESERVED_PIECE_BYTES);
        debug_assert!(piece as usize <= zeros.len());
        file.append(&zeros[..piece as usize])?;
        left -= piece;
    }
    Ok(())
}

/// A held lock; dropping it gives it back.
pub trait Lock: Send + Sync + fmt::Debug {}

/// A storage as its users hold it.
pub type SharedStorage = Arc<dyn Storage>;

/// Reads a whole file of at most `len_max` bytes.
///
/// # Errors
/// [`crate::Error::Corrupt`] when it is longer, [`crate::Error::Io`] when it cannot be read.
pub fn read_file(storage: &dyn Storage, path: &Path, len_max: u64) -> Result<Vec<u8>> {
    let file = storage.open(path)?;
    let len = file.len()?;
    if len > len_max {
        return Err(crate::Error::corrupt(
            path,
            0,
            "file length",
            format_args!("at most {len_max}"),
            len,
        ));
    }
    let mut bytes = vec![0; usize::try_from(len).expect("a file that fits in memory")];
    file.read_at(0, &mut bytes)?;
    Ok(bytes)
}
