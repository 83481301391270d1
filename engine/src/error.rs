//! [`Error`]: what the engine's calls return on failure.
//!
//! The text of an error fits on one line and includes its cause. The cause is a field of the
//! variant and is not returned by [`std::error::Error::source`], so a printed error chain repeats
//! nothing. [`Error::kind`] says what the caller should do.

use std::{path::PathBuf, sync::Arc};

use pagestrata_layers::{Key, Lsn};

use crate::reports::{DamagedFile, VerifyReport};

/// The result type of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Error of a call. Unless a method says otherwise, a failed call has changed nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Storage, layer files, the log, the manifest, or memory: see [`pagestrata_layers::Error`].
    #[error(transparent)]
    Layers(pagestrata_layers::Error),
    /// The Lsn of a put, drop or commit is below an earlier one.
    #[error(
        "{found} is out of order: expected an Lsn not below the last append, {last}, and above the \
         last commit, {committed}"
    )]
    LsnOutOfOrder {
        /// The last appended Lsn.
        last: Lsn,
        /// The last committed Lsn.
        committed: Lsn,
        /// The Lsn that was refused.
        found: Lsn,
    },
    /// A key has a value at this Lsn already.
    #[error("{key} has a value at {lsn} already")]
    DuplicateVersion {
        /// The key.
        key: Key,
        /// The Lsn.
        lsn: Lsn,
    },
    /// A call drops blocks at an Lsn at which one of them was put already.
    #[error(
        "cannot drop {key} at {lsn}: it was put at this Lsn; drop before putting, or at a later Lsn"
    )]
    DropAfterPut {
        /// The key that was put.
        key: Key,
        /// The Lsn.
        lsn: Lsn,
    },
    /// A value is longer than [`VALUE_LEN_MAX`](crate::VALUE_LEN_MAX).
    #[error("a value of {len} bytes is too long: at most {} bytes", crate::VALUE_LEN_MAX)]
    ValueTooLong {
        /// Its length, in bytes.
        len: usize,
    },
    /// Keys of an import are not in ascending order.
    #[error("out of order: expected what comes after {previous}, found {found}")]
    OutOfOrder {
        /// The previous key.
        previous: String,
        /// The key that was refused.
        found: String,
    },
    /// An option is outside its range; nothing was opened.
    #[error("option {option}: expected {expected}, found {found}")]
    InvalidOption {
        /// Its name.
        option: &'static str,
        /// The permitted range.
        expected: String,
        /// The value that was refused.
        found: String,
    },
    /// Another process, or another `Store` of this one, has the directory open. Close it first.
    #[error("{}: the store is in use; only one process can open it at a time", .path.display())]
    Locked {
        /// The store's directory.
        path: PathBuf,
    },
    /// The directory holds no store, and the options say not to create one.
    #[error("{}: no store here; check the path, or create one", .path.display())]
    NoStore {
        /// The directory.
        path: PathBuf,
    },
    /// The directory holds no store, but other files lie where a new store would put its timelines.
    #[error("{}: {found} is here but no store; use another directory", .path.display())]
    NotAStore {
        /// The directory.
        path: PathBuf,
        /// What is in it.
        found: String,
    },
    /// The manifest does not name all finished layer files: CURRENT or the manifest is older than
    /// they are, as after a partial restore of a backup. Nothing was changed.
    #[error(
        "{}: cannot open the store: expected layer files that its manifest names, found {} that it does not ({}); \
         CURRENT or the manifest is older than these files: put back the newest CURRENT and MANIFEST of this \
         store, or move the files elsewhere to open it without them",
        .path.display(), .files.len(), listed(.files)
    )]
    UnexplainedFiles {
        /// The store's directory.
        path: PathBuf,
        /// The files.
        files: Vec<PathBuf>,
    },
    /// The store has no timeline of this name.
    #[error("no timeline {name:?}; the store has: {existing}")]
    NoTimeline {
        /// The requested name.
        name: String,
        /// The names of the existing timelines.
        existing: String,
    },
    /// A timeline of this name exists already.
    #[error("timeline {name:?} exists already")]
    TimelineExists {
        /// The name.
        name: String,
    },
    /// The name is not valid for a timeline.
    #[error(
        "{name:?} cannot name a timeline: expected 1 to 255 bytes without control characters, of direction too"
    )]
    InvalidTimelineName {
        /// The name.
        name: String,
    },
    /// The Lsn is zero or the maximum, neither of which is a position in a log.
    #[error("{lsn} is no valid {what}: expected an Lsn above zero and below the maximum")]
    InvalidLsn {
        /// What the Lsn was passed as.
        what: &'static str,
        /// The Lsn.
        lsn: Lsn,
    },
    /// The timeline's write lease is held elsewhere. Wait until it is dropped.
    #[error("timeline {timeline:?}: the write lease is taken")]
    LeaseHeld {
        /// Which timeline.
        timeline: String,
    },
    /// The store is closed. Layers in memory can still be read.
    #[error("the store is closed")]
    Closed,
    /// The lease has uncommitted values; commit or abort them first.
    #[error("timeline {timeline:?}: there are uncommitted values; commit or abort them first")]
    Uncommitted {
        /// Which timeline.
        timeline: String,
    },
    /// Memory is full because flushing fails. Nothing is lost: make room or repair the storage, and
    /// continue.
    #[error("timeline {timeline:?}: memory is full and flushing fails: {cause}")]
    FlushStalled {
        /// Which timeline.
        timeline: String,
        /// Why the last flush failed.
        cause: Arc<Error>,
    },
    /// A flush failed. The frozen layer stays readable in memory and is flushed again later.
    #[error("timeline {timeline:?}: flush failed: {cause}")]
    FlushFailed {
        /// Which timeline.
        timeline: String,
        /// Why the flush failed.
        cause: Arc<Error>,
    },
    /// Merging layer files failed. They stay as they were; in the background it is tried again
    /// later.
    #[error("timeline {timeline:?}: merging layer files failed: {cause}")]
    CompactionFailed {
        /// Which timeline.
        timeline: String,
        /// Why.
        cause: Arc<Error>,
    },
    /// The store takes no writes, because a write or sync of the log failed or because it was
    /// opened read-only. Reads continue, and acknowledged commits are safe. Close the store, repair
    /// the storage, and open it again.
    #[error("the store is read-only: {cause}")]
    ReadOnly {
        /// What failed.
        cause: String,
    },
    /// A commit asked to be synced in a store without a log. Nothing was committed, and the values
    /// still wait for their commit: commit without a sync and flush, or open the store with another
    /// [`Durability`](crate::Durability).
    #[error(
        "timeline {timeline:?}: cannot sync a commit: expected a store with a log, found durability \
         External; commit without a sync and flush, or open the store as Synced or Buffered"
    )]
    NoLogToSync {
        /// Which timeline.
        timeline: String,
    },
    /// There is no space for the log. Nothing was committed, and the values still wait for their
    /// commit: make room, and commit again.
    #[error("no room to commit: {0}")]
    NoSpace(pagestrata_layers::Error),
    /// The log has reached its maximum length, and cannot be freed while the write lease of the
    /// timeline that needs it is held. Nothing was committed, and the values still wait for their
    /// commit.
    #[error(
        "the log has {bytes} bytes, and the leased timeline {timeline:?} keeps it from being freed"
    )]
    LogFull {
        /// Length of the log, in bytes.
        bytes: u64,
        /// The timeline whose open layer must be flushed first.
        timeline: String,
    },
    /// The Lsn is above the last record that this pin sees. Wait, or pin again.
    #[error("{lsn} is above the last record, {last_record_lsn}")]
    NotYet {
        /// The requested Lsn.
        lsn: Lsn,
        /// The Lsn of the last record.
        last_record_lsn: Lsn,
    },
    /// History below the cutoff is not kept.
    #[error("{lsn} is below the cutoff, {cutoff}")]
    BelowCutoff {
        /// The requested Lsn.
        lsn: Lsn,
        /// The lowest readable Lsn.
        cutoff: Lsn,
    },
    /// The page does not exist at this Lsn: it was never written, or it was dropped.
    #[error("no page {key} at {lsn}")]
    NoPage {
        /// The key.
        key: Key,
        /// The Lsn.
        lsn: Lsn,
    },
    /// The page's deltas have no base. `Guard::history` returns them.
    #[error("{key} at {lsn}: {deltas} deltas and no base below them; visited: {visited}")]
    MissingBase {
        /// The key.
        key: Key,
        /// The Lsn.
        lsn: Lsn,
        /// Number of deltas.
        deltas: usize,
        /// The visited layers, newest first.
        visited: String,
    },
    /// The embedder's redo failed.
    #[error("redo of {key} at {lsn}: {cause}")]
    Redo {
        /// The key.
        key: Key,
        /// The Lsn.
        lsn: Lsn,
        /// The error of the redo.
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An import must lie above everything that the timeline holds.
    #[error("cannot import images at {lsn}: the timeline is at {last_record_lsn}")]
    ImportBehind {
        /// The Lsn of the import.
        lsn: Lsn,
        /// The last record of the timeline.
        last_record_lsn: Lsn,
    },
    /// Verification found damaged layer files. Restore them from a copy of the store.
    #[error("{} of {} layer files damaged{}", .damaged.len(), .report.layer_files, first_of(.damaged))]
    Damaged {
        /// What verification read.
        report: VerifyReport,
        /// Each damaged file and the first damage in it.
        damaged: Vec<DamagedFile>,
    },
    /// The operating system gave no random bytes for the id of a new store. Set
    /// [`Options::store_id`](crate::Options::store_id).
    #[error("no random bytes for the store's id: {0}")]
    Entropy(String),
    /// A thread of the store could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

impl From<pagestrata_layers::Error> for Error {
    fn from(error: pagestrata_layers::Error) -> Error {
        use pagestrata_layers::Error as LayersError;
        match error {
            LayersError::LsnOutOfOrder { last, committed, found } => {
                Error::LsnOutOfOrder { last, committed, found }
            }
            LayersError::DuplicateVersion { key, lsn } => Error::DuplicateVersion { key, lsn },
            LayersError::DropAfterPut { key, lsn } => Error::DropAfterPut { key, lsn },
            LayersError::ValueTooLong { len } => Error::ValueTooLong { len },
            LayersError::OutOfOrder { previous, found } => Error::OutOfOrder { previous, found },
            other => Error::Layers(other),
        }
    }
}

impl From<pagestrata_wal::Error> for Error {
    fn from(error: pagestrata_wal::Error) -> Error {
        use pagestrata_wal::Error as LogError;
        match error {
            LogError::Layers(error) => error.into(),
            LogError::NoSpace(error) => Error::NoSpace(error),
            LogError::Closed => Error::Closed,
            LogError::Failed { cause } => Error::ReadOnly { cause: cause.to_string() },
            other => Error::ReadOnly { cause: other.to_string() },
        }
    }
}

/// Lists the first few files, for people.
fn listed(files: &[PathBuf]) -> String {
    const LISTED: usize = 3;
    let mut text: Vec<_> =
        files.iter().take(LISTED).map(|file| file.display().to_string()).collect();
    if files.len() > LISTED {
        text.push(format!("and {} more", files.len() - LISTED));
    }
    text.join(", ")
}

fn first_of(damaged: &[DamagedFile]) -> String {
    damaged.first().map(|first| format!(", the first one: {}", first.error)).unwrap_or_default()
}
