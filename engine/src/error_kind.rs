//! [`ErrorKind`]: what a caller should do about an error.

use std::fmt;

use pagestrata_layers::Error as LayersError;

use crate::error::Error;

/// What a caller should do about an [`Error`]: its [`kind`](Error::kind).
///
/// ```
/// use pagestrata::{ErrorKind, Lsn, Options, Store};
///
/// # let dir = tempfile::tempdir().unwrap();
/// let (store, _) = Store::open(dir.path(), Options::default()).unwrap();
/// let error = store.timeline("main").unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::NotFound);
/// let error = store.create_timeline("main", Lsn(0)).unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::InvalidArgument);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The call cannot succeed as it was made: correct the caller.
    InvalidArgument,
    /// The store, timeline or page does not exist.
    NotFound,
    /// The Lsn is below the history that is kept: ask for a newer one.
    BelowCutoff,
    /// The Lsn is above the last record: wait for it, or pin again.
    NotYet,
    /// The resource is in use, or a limit is reached for now: try again later.
    Busy,
    /// Memory or storage is full: make room, and continue.
    OutOfSpace,
    /// The store takes no writes: close it, repair the storage, and open it again.
    ReadOnly,
    /// Stored bytes differ from what was written: restore them from another copy.
    Corrupt,
    /// The store is closed: open it again.
    Closed,
    /// The operating system or the embedder's redo failed: the error's cause says why.
    Internal,
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ErrorKind::InvalidArgument => "invalid argument",
            ErrorKind::NotFound => "not found",
            ErrorKind::BelowCutoff => "below the cutoff",
            ErrorKind::NotYet => "not yet",
            ErrorKind::Busy => "busy",
            ErrorKind::OutOfSpace => "out of space",
            ErrorKind::ReadOnly => "read-only",
            ErrorKind::Corrupt => "corrupt",
            ErrorKind::Closed => "closed",
            ErrorKind::Internal => "internal",
        })
    }
}

impl Error {
    /// Returns what the caller should do about the error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Layers(error) => kind_of_layers(error),
            Error::LsnOutOfOrder { .. }
            | Error::DuplicateVersion { .. }
            | Error::DropAfterPut { .. }
            | Error::ValueTooLong { .. }
            | Error::OutOfOrder { .. }
            | Error::InvalidOption { .. }
            | Error::NotAStore { .. }
            | Error::InvalidTimelineName { .. }
            | Error::InvalidLsn { .. }
            | Error::TimelineExists { .. }
            | Error::Uncommitted { .. }
            | Error::NoLogToSync { .. }
            | Error::ImportBehind { .. } => ErrorKind::InvalidArgument,
            Error::NoStore { .. }
            | Error::NoTimeline { .. }
            | Error::NoPage { .. }
            | Error::MissingBase { .. } => ErrorKind::NotFound,
            Error::BelowCutoff { .. } => ErrorKind::BelowCutoff,
            Error::NotYet { .. } => ErrorKind::NotYet,
            Error::Locked { .. } | Error::LeaseHeld { .. } | Error::LogFull { .. } => {
                ErrorKind::Busy
            }
            // A failed flush is retried; its cause says what to do.
            Error::FlushStalled { cause, .. }
            | Error::FlushFailed { cause, .. }
            | Error::CompactionFailed { cause, .. } => cause.kind(),
            Error::NoSpace(_) => ErrorKind::OutOfSpace,
            Error::ReadOnly { .. } => ErrorKind::ReadOnly,
            Error::UnexplainedFiles { .. } | Error::Damaged { .. } => ErrorKind::Corrupt,
            Error::Closed => ErrorKind::Closed,
            Error::Redo { .. } | Error::Entropy(_) | Error::Thread(_) => ErrorKind::Internal,
        }
    }
}

fn kind_of_layers(error: &LayersError) -> ErrorKind {
    match error {
        LayersError::UnsupportedVersion { .. } | LayersError::NotAFile { .. } => {
            ErrorKind::InvalidArgument
        }
        LayersError::Corrupt(_)
        | LayersError::DirectoryReplaced { .. }
        | LayersError::OtherStore { .. } => ErrorKind::Corrupt,
        LayersError::FileInUse { .. } | LayersError::NotResident { .. } => ErrorKind::Busy,
        LayersError::Full { .. } | LayersError::OutOfMemory { .. } => ErrorKind::OutOfSpace,
        LayersError::Io { cause, .. } => match cause.kind() {
            std::io::ErrorKind::StorageFull
            | std::io::ErrorKind::QuotaExceeded
            | std::io::ErrorKind::OutOfMemory => ErrorKind::OutOfSpace,
            std::io::ErrorKind::ReadOnlyFilesystem => ErrorKind::ReadOnly,
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::Internal,
        },
        _ => ErrorKind::Internal,
    }
}

#[cfg(test)]
mod tests {
    use std::{io, path::Path};

    use super::*;

    #[test]
    fn the_cause_of_an_operating_systems_error_decides() {
        let error = |kind| {
            let error = LayersError::io("write", Path::new("x"), io::Error::from(kind));
            Error::from(error).kind()
        };
        assert_eq!(error(io::ErrorKind::StorageFull), ErrorKind::OutOfSpace);
        assert_eq!(error(io::ErrorKind::ReadOnlyFilesystem), ErrorKind::ReadOnly);
        assert_eq!(error(io::ErrorKind::PermissionDenied), ErrorKind::Internal);
    }
}
