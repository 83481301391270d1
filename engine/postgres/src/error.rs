//! Errors of reading logs and base backups, each with its place.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use pagestrata_layers::Lsn;

use crate::{manager::ManagerId, rel::RelPage};

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong; its variants say what a caller can do about it. Nothing was yielded for what
/// the error is about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read, or a base backup's file is not what PostgreSQL writes; it says which
    /// and where.
    #[error(transparent)]
    Storage(#[from] pagestrata_layers::Error),
    /// The log is damaged at a place behind which it goes on, or a record with a good checksum
    /// makes no sense. Only another copy of the segment helps.
    #[error(transparent)]
    Corrupt(Box<LogCorruption>),
    /// A segment is missing between others. Supply it.
    #[error("{}: WAL segment {missing} is missing: the log continues at {at} in it, and {later} is there", .dir.display())]
    MissingSegment {
        /// The directory.
        dir: PathBuf,
        /// The name of the file that is not there.
        missing: String,
        /// Where the log continues in it.
        at: Lsn,
        /// A later segment that is there.
        later: String,
    },
    /// A tar of a base backup has an entry that cannot be there. Nothing of it was used.
    #[error("{}: entry {name:?} at offset {offset}: {wrong}", .archive.display())]
    ArchiveEntry {
        /// The archive.
        archive: PathBuf,
        /// Where the entry starts, in bytes.
        offset: u64,
        /// What it is called.
        name: Box<str>,
        /// What should be there, and what is.
        wrong: &'static str,
    },
    /// A base backup has pages in a tablespace that is not there. Supply it.
    #[error("{}: the files of tablespace {tablespace} are not here", .base.display())]
    MissingTablespace {
        /// The directory, or the archive.
        base: PathBuf,
        /// The tablespace's oid.
        tablespace: u32,
    },
    /// A backup of a standby: its log does not say where it ends.
    #[error("{}: this is a backup of a standby, whose end is not in the log", .label.display())]
    StandbyBackup {
        /// The label.
        label: PathBuf,
    },
    /// A directory without a single WAL segment.
    #[error("{}: no WAL segment in it", .dir.display())]
    NoSegments {
        /// The directory.
        dir: PathBuf,
    },
    /// A file's name is that of no segment of this size.
    #[error("{}: not the name of a WAL segment of {segment_size} bytes", .segment.display())]
    SegmentName {
        /// The file.
        segment: PathBuf,
        /// The segment size that other segments state, in bytes.
        segment_size: u64,
    },
    /// A segment of another cluster lies among the others. Take it away.
    #[error("{}: page {lsn} belongs to the cluster with system identifier {found}, expected {expected}", .segment.display())]
    OtherCluster {
        /// The file.
        segment: PathBuf,
        /// The page.
        lsn: Lsn,
        /// The system identifier that was expected.
        expected: u64,
        /// The system identifier in the file.
        found: u64,
    },
    /// A segment or page of another timeline: the log branched here, and this reader follows one
    /// timeline.
    #[error("{}: page {lsn} is of timeline {found}, expected {expected}", .segment.display())]
    OtherTimeline {
        /// The file.
        segment: PathBuf,
        /// The page.
        lsn: Lsn,
        /// The timeline that is read.
        expected: u32,
        /// The timeline that was found.
        found: u32,
    },
    /// The segment was written by another PostgreSQL version.
    #[error("{}: this log is of PostgreSQL {version}, page magic {magic:#06X} at {lsn}; this build reads 15", .segment.display())]
    OtherVersion {
        /// The file.
        segment: PathBuf,
        /// The page.
        lsn: Lsn,
        /// The page magic.
        magic: u16,
        /// The versions that write it.
        version: &'static str,
    },
    /// A data directory of another PostgreSQL version.
    #[error("{}: this is a PostgreSQL {version} cluster; this build reads 15", .path.display())]
    ClusterVersion {
        /// The file that says so, or the archive that it is in.
        path: PathBuf,
        /// The version.
        version: Box<str>,
    },
    /// The place to start from is not where a record starts, or is not in the log that is here.
    #[error("{}: cannot start at {from}: {reason}", .dir.display())]
    Start {
        /// The directory.
        dir: PathBuf,
        /// The Lsn that was asked for.
        from: Lsn,
        /// Why not.
        reason: String,
    },
    /// The log ends before the Lsn up to which it was to be read. Everything before `end` was
    /// yielded.
    #[error("{}: the log ends at {end}, before {to}, up to which it was to be read", .dir.display())]
    EndsBefore {
        /// The directory.
        dir: PathBuf,
        /// How far it was to be read.
        to: Lsn,
        /// How far it goes.
        end: Lsn,
    },
    /// A piece of the log that does not start where the one before ended. Nothing of it was taken.
    #[error("WAL stream: expected the bytes at {expected}, found {len} bytes at {found}")]
    Discontinuous {
        /// Where the one before ended.
        expected: Lsn,
        /// Where this one starts.
        found: Lsn,
        /// Bytes of it.
        len: usize,
    },
    /// A record on a page cannot be redone here.
    #[error("{lsn}: redo of {manager} is not known here, and this record changes page {page}")]
    UnknownRedo {
        /// Whose record it is.
        manager: ManagerId,
        /// The record's start.
        lsn: Lsn,
        /// A page that it changes.
        page: RelPage,
    },
    /// What a page is to be made from is no page.
    #[error("base of page {page}: expected 8192 bytes, found {found}")]
    BaseLength {
        /// Which page.
        page: RelPage,
        /// Bytes of the base.
        found: usize,
    },
    /// A key's object is not a relation fork.
    #[error(
        "object {object:#034X} is no relation fork: expected at most 104 bits and a fork of 0 to 3"
    )]
    NotARelation {
        /// The object.
        object: u128,
    },
}

/// Where the log is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogCorruption {
    /// The segment file, where there is one.
    pub segment: Option<PathBuf>,
    /// The start of the record or page.
    pub lsn: Lsn,
    /// What was looked at.
    pub what: &'static str,
    /// What should be there.
    pub expected: String,
    /// What is there.
    pub found: String,
    /// Where the log is known to go on, which makes it damage and no torn tail.
    pub later: Option<Lsn>,
}

impl fmt::Display for LogCorruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LogCorruption { segment, lsn, what, expected, found, later } = self;
        if let Some(segment) = segment {
            write!(f, "{}: ", segment.display())?;
        }
        write!(f, "corrupt {what} at {lsn}: expected {expected}, found {found}")?;
        match later {
            Some(later) => write!(f, "; the log goes on at {later}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for LogCorruption {}

impl LogCorruption {
    /// Damage that nothing is known of but itself.
    #[cold]
    pub(crate) fn new(
        lsn: Lsn,
        what: &'static str,
        expected: impl fmt::Display,
        found: impl fmt::Display,
    ) -> Box<LogCorruption> {
        Box::new(LogCorruption {
            segment: None,
            lsn,
            what,
            expected: expected.to_string(),
            found: found.to_string(),
            later: None,
        })
    }
}

impl Error {
    /// An [`Error::Corrupt`] without a file.
    #[cold]
    pub(crate) fn corrupt(
        lsn: Lsn,
        what: &'static str,
        expected: impl fmt::Display,
        found: impl fmt::Display,
    ) -> Error {
        Error::Corrupt(LogCorruption::new(lsn, what, expected, found))
    }

    /// Says in which file, where that is not known yet.
    #[cold]
    pub(crate) fn in_segment(mut self, path: &Path) -> Error {
        if let Error::Corrupt(corruption) = &mut self {
            corruption.segment.get_or_insert_with(|| path.to_owned());
        }
        self
    }
}
