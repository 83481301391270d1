//! What a command fails with, and the exit code that goes with it.

use std::{io, path::PathBuf, process::ExitCode};

use pagestrata_layers::Error as LayersError;
use pagestrata_postgres::Error as PostgresError;
use pagestrata_postgres_ingest::Error as IngestError;

use crate::advice::{described, file_advice, is_missing_part};

/// A result of this crate.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// How the process ends. The help text and README.md say the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum ExitStatus {
    /// 0
    Done = 0,
    /// 1: bad input, damage, a store in use, an error of the operating system.
    Failed = 1,
    /// 2: wrong arguments.
    Usage = 2,
    /// 3: no such store, timeline, file or page, or an Lsn outside of the history.
    NotFound = 3,
    /// 4: a record of the page cannot be redone.
    NeedsRedo = 4,
    /// 5: the log ends in a torn record; everything before it was ingested.
    Torn = 5,
    /// 6: pages that cannot be redone were skipped, as `--skip-unknown` allows; everything else is
    /// done.
    Skipped = 6,
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> ExitCode {
        ExitCode::from(status as u8)
    }
}

/// Why a command failed. The store is as it was, unless the variant says otherwise.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The library, the engine below it, or a file of a store.
    #[error("{}", described(.0))]
    Ingest(IngestError),
    /// A layer file that was named.
    #[error("{0}{advice}", advice = file_advice(.0))]
    LayerFile(#[from] LayersError),
    /// SIGINT and SIGTERM cannot be caught.
    #[error("cannot catch signals: {reason}")]
    Signals {
        /// Why.
        reason: String,
    },
    /// Stdout cannot be written to.
    #[error("cannot write to stdout: {0}")]
    Stdout(io::Error),
    /// A file outside of a store.
    #[error("{}: cannot {operation}: {cause}", .path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the operating system said.
        cause: io::Error,
    },
    /// Layer files are not what was written.
    #[error(
        "{damaged} of {files} layer files damaged, {first}; restore them from a copy of the store"
    )]
    Damaged {
        /// How many.
        damaged: u64,
        /// Of how many.
        files: u64,
        /// What is wrong with the first of them.
        first: String,
    },
    /// The demo keeps its store only where there is none.
    #[error("{}: there is a store here already; choose another directory for the demo", .dir.display())]
    DemoStore {
        /// The directory.
        dir: PathBuf,
    },
}

/// What the library passes on goes to stdout.
impl From<IngestError> for Error {
    fn from(error: IngestError) -> Error {
        match error {
            IngestError::Report(cause) => Error::Stdout(cause),
            error => Error::Ingest(error),
        }
    }
}

impl From<pagestrata::Error> for Error {
    fn from(error: pagestrata::Error) -> Error {
        Error::Ingest(error.into())
    }
}

impl From<PostgresError> for Error {
    fn from(error: PostgresError) -> Error {
        Error::Ingest(error.into())
    }
}

impl Error {
    /// Whether the reader of stdout has gone.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, Error::Stdout(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// The exit code that goes with it.
    pub(crate) fn exit_status(&self) -> ExitStatus {
        match self {
            Error::Ingest(error) => of_ingest(error),
            Error::LayerFile(error) => of_layers(error),
            Error::File { cause, .. } => of_io(cause),
            _ => ExitStatus::Failed,
        }
    }
}

fn of_ingest(error: &IngestError) -> ExitStatus {
    use pagestrata::Error as E;
    match error {
        IngestError::Engine(E::Redo { .. }) => ExitStatus::NeedsRedo,
        IngestError::NoPage { .. }
        | IngestError::NotConsistent { .. }
        | IngestError::Engine(
            E::NoStore { .. }
            | E::NoTimeline { .. }
            | E::NoPage { .. }
            | E::NotYet { .. }
            | E::BelowCutoff { .. },
        ) => ExitStatus::NotFound,
        IngestError::Engine(E::Layers(error)) if is_missing_part(error) => ExitStatus::Failed,
        IngestError::Engine(E::Layers(error))
        | IngestError::Postgres(PostgresError::Storage(error)) => of_layers(error),
        IngestError::Wal { cause, .. } if let PostgresError::Storage(error) = &**cause => {
            of_layers(error)
        }
        IngestError::File { cause, .. } => of_io(cause),
        IngestError::Interrupted { cause } => of_ingest(cause),
        _ => ExitStatus::Failed,
    }
}

fn of_layers(error: &LayersError) -> ExitStatus {
    match error {
        LayersError::Io { cause, .. } => of_io(cause),
        _ => ExitStatus::Failed,
    }
}

fn of_io(error: &io::Error) -> ExitStatus {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => ExitStatus::NotFound,
        _ => ExitStatus::Failed,
    }
}
