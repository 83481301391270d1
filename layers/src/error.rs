//! Errors of this crate: what failed, on which file, and where in it.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use crate::{Key, Lsn};

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of this crate. Its variants say what a caller can do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused an operation on a file or directory. The state of what was
    /// being written is unknown; what was read is unharmed.
    #[error("{}: cannot {operation}: {cause}", .path.display())]
    Io {
        /// What was tried: `"create"`, `"sync"`, ...
        operation: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the operating system said.
        cause: io::Error,
    },
    /// Something that is not a regular file has the name of one. It was not opened.
    #[error(
        "{}: cannot {operation}: expected a regular file, found {found}; put the file back",
        .path.display()
    )]
    NotAFile {
        /// What was tried: `"open"`, ...
        operation: &'static str,
        /// The name.
        path: PathBuf,
        /// What has it: `"a FIFO"`, `"a directory"`, ...
        found: &'static str,
    },
    /// Another directory has taken the place of one that was in use. Nothing was changed in it.
    #[error(
        "{}: expected the directory that was here before, found another; move it back, or close \
         the store and open it again",
        .path.display()
    )]
    DirectoryReplaced {
        /// The directory.
        path: PathBuf,
    },
    /// A file is mapped and must not change, or is being written and must not be mapped. Nothing
    /// was changed.
    #[error(
        "{}: cannot {operation}: this process has the file {found}; wait until it has not",
        .path.display()
    )]
    FileInUse {
        /// What was tried: `"write"`, `"truncate"`, `"map"`, ...
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// What is done with it: `"mapped"`, `"being written"`.
        found: &'static str,
    },
    /// The directory's `CURRENT` is gone or is another store's. The edit was not made.
    #[error(
        "{}: cannot replace it: expected that of store {expected:032X}, found {}; close the store \
         that is not to stay here",
        .path.display(),
        .found.map_or("nothing".to_owned(), |found| format!("that of store {found:032X}"))
    )]
    OtherStore {
        /// The path of `CURRENT`.
        path: PathBuf,
        /// The store that is open.
        expected: u128,
        /// The store that was found; none where there is no `CURRENT`.
        found: Option<u128>,
    },
    /// Bytes on disk are not what was written. Only a copy from elsewhere helps.
    #[error(transparent)]
    Corrupt(Box<Corruption>),
    /// The file was written by another version of the format.
    #[error("{}: format version {found} is not supported, this build reads version {expected}", .path.display())]
    UnsupportedVersion {
        /// Which file.
        path: PathBuf,
        /// The version that this build reads.
        expected: u32,
        /// The version that was found.
        found: u32,
    },
    /// An append or a commit goes back in Lsn; nothing was changed.
    #[error(
        "{found} is out of order: expected an Lsn not below the last append, {last}, and above the \
         last commit, {committed}"
    )]
    LsnOutOfOrder {
        /// The last appended Lsn.
        last: Lsn,
        /// The committed Lsn; appends are above it.
        committed: Lsn,
        /// The Lsn that was refused.
        found: Lsn,
    },
    /// A key has a value at this Lsn already; nothing was changed.
    #[error("{key} has a value at {lsn} already")]
    DuplicateVersion {
        /// Which key.
        key: Key,
        /// At which Lsn.
        lsn: Lsn,
    },
    /// Blocks are to be dropped at an Lsn at which one of them was just put; nothing was changed.
    #[error(
        "cannot drop {key} at {lsn}: it was put at this Lsn; drop before putting, or at a later Lsn"
    )]
    DropAfterPut {
        /// Which key.
        key: Key,
        /// At which Lsn.
        lsn: Lsn,
    },
    /// A value is longer than [`crate::VALUE_LEN_MAX`].
    #[error("a value of {len} bytes is too long: at most {} bytes", crate::VALUE_LEN_MAX)]
    ValueTooLong {
        /// Its length, in bytes.
        len: usize,
    },
    /// Input that had to be sorted was not; nothing was written for it.
    #[error("out of order: expected what comes after {previous}, found {found}")]
    OutOfOrder {
        /// What came before.
        previous: String,
        /// What came now.
        found: String,
    },
    /// An in-memory layer or a file is as large as its format allows; nothing was changed.
    #[error("{what} is full: at most {max}")]
    Full {
        /// What is full.
        what: &'static str,
        /// How much fits, in the unit of `what`.
        max: u64,
    },
    /// A read that may not wait needs bytes of a file that are not in memory.
    #[error(
        "{len} bytes at offset {offset} of a layer file are not in memory; fetch them and retry"
    )]
    NotResident {
        /// Where they begin in the file.
        offset: u64,
        /// How many there are, as far as is known.
        len: usize,
    },
    /// The allocator has no more memory; nothing was changed.
    #[error("out of memory: {bytes} bytes for {what}")]
    OutOfMemory {
        /// What it was for.
        what: &'static str,
        /// How much was asked for, in bytes.
        bytes: usize,
    },
}

/// Where bytes are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corruption {
    /// Which file.
    pub path: PathBuf,
    /// Where in it, in bytes from its start.
    pub offset: u64,
    /// What was looked at.
    pub what: &'static str,
    /// What should be there.
    pub expected: String,
    /// What is there.
    pub found: String,
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Corruption { path, offset, what, expected, found } = self;
        write!(
            f,
            "{}: corrupt {what} at offset {offset}: expected {expected}, found {found}",
            path.display()
        )
    }
}

impl std::error::Error for Corruption {}

impl Error {
    /// Whether the operating system says that it does not do such a thing.
    pub(crate) fn is_invalid_input(&self) -> bool {
        matches!(self, Error::Io { cause, .. } if cause.kind() == std::io::ErrorKind::InvalidInput)
    }

    /// An [`Error::Io`].
    pub fn io(operation: &'static str, path: &Path, cause: io::Error) -> Error {
        Error::Io { operation, path: path.to_owned(), cause }
    }

    /// Of a file or directory that has to be there: that it is not is an [`Error::Corrupt`], for it
    /// is lost. Every other error stays what it is.
    #[must_use]
    pub fn of_required(self, what: &'static str, expected: impl fmt::Display) -> Error {
        match self {
            Error::Io { path, cause, .. }
                if matches!(
                    cause.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Error::corrupt(&path, 0, what, expected, "nothing")
            }
            other => other,
        }
    }

    /// An [`Error::Corrupt`].
    #[cold]
    pub fn corrupt(
        path: &Path,
        offset: u64,
        what: &'static str,
        expected: impl fmt::Display,
        found: impl fmt::Display,
    ) -> Error {
        Error::Corrupt(Box::new(Corruption {
            path: path.to_owned(),
            offset,
            what,
            expected: expected.to_string(),
            found: found.to_string(),
        }))
    }
}
