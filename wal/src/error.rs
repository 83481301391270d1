//! Errors of the log.

use std::sync::Arc;

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of the log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Damage, or an operation that the storage refused before anything of the log was changed.
    #[error(transparent)]
    Layers(#[from] pagestrata_layers::Error),
    /// There is no room for another segment, or for a frame. Nothing was appended; with room it can
    /// be tried again.
    #[error("no room for the log: {0}")]
    NoSpace(pagestrata_layers::Error),
    /// A write or a sync has failed, now or before. What the log holds beyond its last sync is not
    /// known, so nothing is appended or synced any more.
    #[error("the log failed earlier ({cause}); reopen the store to recover")]
    Failed {
        /// What failed.
        cause: Arc<str>,
    },
    /// The log was closed before this was done.
    #[error("the log is closed")]
    Closed,
}

impl Error {
    /// Of a write into a segment that is there: a full disk can be waited for, all else is the end.
    pub(crate) fn is_no_space(error: &pagestrata_layers::Error) -> bool {
        let pagestrata_layers::Error::Io { cause, .. } = error else { return false };
        matches!(
            cause.kind(),
            std::io::ErrorKind::StorageFull
                | std::io::ErrorKind::QuotaExceeded
                | std::io::ErrorKind::FileTooLarge
        )
    }

    /// Of the preparation of a segment, which changes nothing of the log.
    pub(crate) fn of_preparing(error: pagestrata_layers::Error) -> Error {
        if Error::is_no_space(&error) { Error::NoSpace(error) } else { Error::Layers(error) }
    }
}
