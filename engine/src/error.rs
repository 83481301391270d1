//! What the engine's calls fail with. The variants say what a caller can do.
//!
//! One line of text says all of an error, its cause included. A cause that is in the text is a
//! field of its variant, and is not returned by [`std::error::Error::source`] as well, so that
//! nothing is printed twice where a whole chain is printed.

use std::{path::PathBuf, sync::Arc};

use pagestrata_layers::{Key, Lsn};

use crate::reports::{DamagedFile, VerifyReport};

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call failed. Unless a method says otherwise, a failed call has changed nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Storage, layer files, the log, the manifest, or memory: see [`pagestrata_layers::Error`].
    #[error(transparent)]
    Layers(pagestrata_layers::Error),
    /// A put, drop or commit goes back in Lsn.
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
    /// Blocks are to be dropped at an Lsn at which one of them was just put.
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
    /// The keys of an import do not ascend.
    #[error("out of order: expected what comes after {previous}, found {found}")]
    OutOfOrder {
        /// What came before.
        previous: String,
        /// What came now.
        found: String,
    },
    /// An option is outside its range; nothing was opened.
    #[error("option {option}: expected {expected}, found {found}")]
    InvalidOption {
        /// Its name.
        option: &'static str,
        /// The documented range.
        expected: String,
        /// What was given.
        found: String,
    },
    /// Another process, or another `Store` of this one, has the directory open. Close it first.
    #[error("{}: the store is in use; only one process can open it at a time", .path.display())]
    Locked {
        /// The store's directory.
        path: PathBuf,
    },
    /// There is no store in this directory, and the options say not to create one.
    #[error("{}: no store here; check the path, or create one", .path.display())]
    NoStore {
        /// The directory.
        path: PathBuf,
    },
    /// No store is here, but something where a new one would put its timelines.
    #[error("{}: {found} is here but no store; use another directory", .path.display())]
    NotAStore {
        /// The directory.
        path: PathBuf,
        /// What is in it.
        found: String,
    },
    /// The manifest does not name layer files that were finished, so CURRENT or the manifest is
    /// older than they are, as after a partial restore of a backup. Nothing was changed.
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
        /// The name that was asked for.
        name: String,
        /// Those that exist.
        existing: String,
    },
    /// A timeline of this name exists already.
    #[error("timeline {name:?} exists already")]
    TimelineExists {
        /// The name.
        name: String,
    },
    /// A name that no timeline can have.
    #[error(
        "{name:?} cannot name a timeline: expected 1 to 255 bytes without control characters, of direction too"
    )]
    InvalidTimelineName {
        /// The name.
        name: String,
    },
    /// Zero, or the highest Lsn: no position in a log.
    #[error("{lsn} is no valid {what}: expected an Lsn above zero and below the maximum")]
    InvalidLsn {
        /// What it was meant for.
        what: &'static str,
        /// What was given.
        lsn: Lsn,
    },
    /// Somebody holds the timeline's write lease. Wait until it is dropped.
    #[error("timeline {timeline:?}: the write lease is taken")]
    LeaseHeld {
        /// Which timeline.
        timeline: String,
    },
    /// The store was closed; what is in memory can still be read.
    #[error("the store is closed")]
    Closed,
    /// Values are waiting for their commit; commit or abort them first.
    #[error("timeline {timeline:?}: there are uncommitted values; commit or abort them first")]
    Uncommitted {
        /// Which timeline.
        timeline: String,
    },
    /// Memory is full because layers cannot be written. Nothing is lost; make room or mend the
    /// storage, and go on.
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
        /// Why.
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
    /// A write or sync of the log has failed, or the store was opened to be read only: nothing is
    /// written any more, and reads go on. What was acknowledged is safe. Close the store, mend the
    /// storage, and open it again.
    #[error("the store is read-only: {cause}")]
    ReadOnly {
        /// What has failed.
        cause: String,
    },
    /// A commit was to be synced in a store that writes no log. Nothing was committed, and what was
    /// put still waits for its commit: commit it without, and flush; or open the store with another
    /// [`Durability`](crate::Durability).
    #[error(
        "timeline {timeline:?}: cannot sync a commit: expected a store with a log, found durability \
         External; commit without a sync and flush, or open the store as Synced or Buffered"
    )]
    NoLogToSync {
        /// Which timeline.
        timeline: String,
    },
    /// There is no room for the log. Nothing was committed, and what was put still waits for its
    /// commit: make room, and commit again.
    #[error("no room to commit: {0}")]
    NoSpace(pagestrata_layers::Error),
    /// The log is as long as it may be, and cannot be freed while somebody holds the write lease of
    /// a timeline that keeps it. Nothing was committed, and what was put still waits for its
    /// commit.
    #[error(
        "the log has {bytes} bytes, and the leased timeline {timeline:?} keeps it from being freed"
    )]
    LogFull {
        /// Its length.
        bytes: u64,
        /// The timeline whose open layer has to be flushed first.
        timeline: String,
    },
    /// The Lsn is above the last record that this pin sees. Wait, or pin again.
    #[error("{lsn} is above the last record, {last_record_lsn}")]
    NotYet {
        /// The Lsn that was asked for.
        lsn: Lsn,
        /// The last one.
        last_record_lsn: Lsn,
    },
    /// History below the cutoff is not kept.
    #[error("{lsn} is below the cutoff, {cutoff}")]
    BelowCutoff {
        /// The Lsn that was asked for.
        lsn: Lsn,
        /// The lowest that can be read.
        cutoff: Lsn,
    },
    /// There is no such page at this Lsn: it was never written, or dropped.
    #[error("no page {key} at {lsn}")]
    NoPage {
        /// The key.
        key: Key,
        /// The Lsn.
        lsn: Lsn,
    },
    /// The deltas of a page lead back to no base. They can be had from `Guard::history`.
    #[error("{key} at {lsn}: {deltas} deltas and no base below them; visited: {visited}")]
    MissingBase {
        /// The key.
        key: Key,
        /// The Lsn.
        lsn: Lsn,
        /// How many deltas there are.
        deltas: usize,
        /// The layers that were asked, newest first.
        visited: String,
    },
    /// The embedder's redo failed.
    #[error("redo of {key} at {lsn}: {cause}")]
    Redo {
        /// The key.
        key: Key,
        /// The Lsn.
        lsn: Lsn,
        /// What it said.
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Images can only be imported above everything that the timeline holds.
    #[error("cannot import images at {lsn}: the timeline is at {last_record_lsn}")]
    ImportBehind {
        /// Where they should go.
        lsn: Lsn,
        /// Where the timeline is.
        last_record_lsn: Lsn,
    },
    /// A verification has found layer files that are damaged. Restore them from a copy of the
    /// store.
    #[error("{} of {} layer files damaged{}", .damaged.len(), .report.layer_files, first_of(.damaged))]
    Damaged {
        /// What was read all the same.
        report: VerifyReport,
        /// Each damaged file and the first damage in it.
        damaged: Vec<DamagedFile>,
    },
    /// The operating system gave no random bytes for the id of a new store; choose one in the
    /// options.
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

/// The first few files, for people.
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
