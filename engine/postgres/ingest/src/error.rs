//! Why an operation failed: one line that says what was found. What to do about it is the caller's
//! to say where that depends on how it was called.

use std::{io, path::PathBuf};

use pagestrata::Lsn;
use pagestrata_postgres::{
    ClusterState, Error as PostgresError, RelFork, RelPage, live::Error as LiveError,
};

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an operation failed. The store is as it was, unless the variant says otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The engine, or a file of a store.
    #[error(transparent)]
    Engine(#[from] pagestrata::Error),
    /// A base backup, or a page's records.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    /// The log cannot be read to its end. Nothing of it was ingested.
    #[error("{cause}; nothing was ingested")]
    Wal {
        /// What is wrong with it.
        cause: Box<PostgresError>,
        /// The end of the last good record; none if there is none to ingest.
        good_until: Option<Lsn>,
    },
    /// The ingest stopped on its way. The store holds everything up to its last flush.
    #[error("{cause}; the timeline is good up to its last flush: mend the cause and ingest again")]
    Interrupted {
        /// What went wrong.
        cause: Box<Error>,
    },
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
    /// The pages of a running server, or of one that crashed, are not those of its checkpoint.
    #[error("{}: its pages are not those of one Lsn, for the server was not shut down when this was copied; stop it cleanly and copy it again, or import what pg_basebackup makes", .dir.display())]
    NotShutDown {
        /// The data directory.
        dir: PathBuf,
    },
    /// A server works in a directory that is to be compared.
    #[error("{}: a server runs in it (process {pid}), so its files are those of no one Lsn", .dir.display())]
    ServerRuns {
        /// The data directory.
        dir: PathBuf,
        /// The server's process.
        pid: u32,
    },
    /// The server of a directory that is to be compared has crashed, or it is a copy of a running
    /// one.
    #[error("{}: its control file says \"{state}\", expected \"shut down\": the server has not written all of its pages", .dir.display())]
    NotAtRest {
        /// The data directory.
        dir: PathBuf,
        /// What the control file says.
        state: ClusterState,
    },
    /// A restore was to go where something is.
    #[error("{}: cannot restore into it: there is something in it already; choose a directory that is empty or not there", .dir.display())]
    OutNotEmpty {
        /// The directory.
        dir: PathBuf,
    },
    /// A restore was interrupted, or runs.
    #[error("{}: a restore into it has not finished (RESTORE_INCOMPLETE is in it); remove the directory and restore again", .dir.display())]
    RestoreIncomplete {
        /// The directory.
        dir: PathBuf,
    },
    /// The files of a restore would be larger than they may be. Nothing was written.
    #[error(
        "cannot restore {forks_bytes} bytes, the limit is {limit} bytes{rule}: {rel} alone has {rel_bytes} bytes, {stored_bytes} of them \
         in stored pages; a damaged record can claim such a size, so look at the relation first",
        rule = if *.is_default { " (8 times the stored pages, at least 1 GiB)" } else { "" }
    )]
    RestoreTooLarge {
        /// Bytes of all files.
        forks_bytes: u64,
        /// The most that they may have.
        limit: u64,
        /// Whether the limit is the default.
        is_default: bool,
        /// The fork with the most bytes that no stored page accounts for.
        rel: RelFork,
        /// Bytes of its files.
        rel_bytes: u64,
        /// Bytes of its pages that are stored.
        stored_bytes: u64,
    },
    /// The file system has too little room for a restore. Nothing was written.
    #[error("{}: cannot restore into it: {needed} bytes are to be written, {available} are free; make room or choose another file system", .dir.display())]
    NoRoom {
        /// The directory.
        dir: PathBuf,
        /// Bytes of pages that are not zeros.
        needed: u64,
        /// Bytes that are free.
        available: u64,
    },
    /// The base was copied while the server ran, and its pages are those of no Lsn before the end
    /// of that.
    #[error(
        "timeline {timeline:?} is not consistent at {lsn}: its base was copied while the server ran, {}",
        consistent_from(.from)
    )]
    NotConsistent {
        /// Which timeline.
        timeline: String,
        /// Where it was to be read.
        lsn: Lsn,
        /// Where it is consistent from on; none: the end of the backup has not been ingested.
        from: Option<Lsn>,
    },
    /// A timeline gets one base.
    #[error("timeline {timeline:?} holds the cluster {system_id} already")]
    Imported {
        /// Which timeline.
        timeline: String,
        /// The cluster it holds.
        system_id: u64,
    },
    /// Something else than this command has written to the timeline, or nothing was imported.
    #[error("timeline {timeline:?} has no base backup that was imported")]
    NoBase {
        /// Which timeline.
        timeline: String,
    },
    /// What is kept about the base cannot be read: another version of this command wrote it.
    #[error(
        "timeline {timeline:?}: what is kept about its base is not understood: {reason}; use the pagestrata that imported it"
    )]
    Identity {
        /// Which timeline.
        timeline: String,
        /// What is wrong.
        reason: String,
    },
    /// Reading from here would leave records out.
    #[error(
        "reading the log from {from} on would leave a gap: the timeline ends at {last_record_lsn}; start there or before"
    )]
    Gap {
        /// Where reading was to start.
        from: Lsn,
        /// Where the timeline ends.
        last_record_lsn: Lsn,
    },
    /// The log leaves changes out: PostgreSQL's recovery refuses it, too.
    #[error(
        "the log from {at} on was written at wal_level=minimal, which leaves changes of pages out of it: it cannot be replayed; set wal_level to replica or higher, and take a new base backup"
    )]
    MinimalWal {
        /// The first record of such a log.
        at: Lsn,
    },
    /// Data checksums were switched by `pg_checksums`, which writes no record of it.
    #[error("{proof}: pg_checksums was run while the server was shut down")]
    ChecksumsUnknown {
        /// What shows it.
        proof: String,
        /// Whether they were switched on.
        is_on: bool,
        /// Where the server was shut down.
        shutdowns: String,
    },
    /// Data checksums cannot have been switched there.
    #[error(
        "the server was not shut down at {at}: choose the end of a shutdown checkpoint among the records to ingest ({shutdowns})"
    )]
    NoShutdown {
        /// Where it was to be.
        at: Lsn,
        /// Where the server was shut down.
        shutdowns: String,
    },
    /// The log can be read, and is refused for the settings it was written with. Nothing of it was
    /// ingested.
    #[error("{cause}; nothing was ingested")]
    NotIngested {
        /// Why.
        cause: Box<Error>,
        /// The end of the last good record; none if there is none to ingest.
        good_until: Option<Lsn>,
    },
    /// A server that is followed.
    #[error("{0}")]
    Live(#[from] LiveError),
    /// The server is that of another cluster, or on another timeline.
    #[error(
        "timeline {timeline:?} holds the cluster {} on its timeline {}, the server is {} on {}",
        .expected.0, .expected.1, .found.0, .found.1
    )]
    OtherSystem {
        /// Which timeline.
        timeline: String,
        /// System identifier and timeline of the log, as they were imported.
        expected: (u64, u32),
        /// Those of the server.
        found: (u64, u32),
    },
    /// The server was promoted, or is a standby of one that was.
    #[error(
        "the server's timeline {timeline} ended at {at}, and {next} goes on there: only one is followed; import a base of the new one"
    )]
    WalTimelineEnded {
        /// The timeline that was followed.
        timeline: u32,
        /// The next one.
        next: u32,
        /// Where.
        at: Lsn,
    },
    /// A tar that is compressed, or a directory with such.
    #[error(
        "{what} is compressed; unpack it, with all archives of its tablespaces beside each other"
    )]
    Compressed {
        /// The archive, or what it comes through.
        what: String,
        /// The program that unpacks it, and writes to standard output.
        program: &'static str,
        /// Its argument, with a space behind it, if there is one.
        path: String,
    },
    /// The log is of another timeline of the cluster.
    #[error("{}: the log is of PostgreSQL timeline {found}, the base is of timeline {expected}; supply the log of that timeline", .dir.display())]
    WalTimeline {
        /// The directory of segments.
        dir: PathBuf,
        /// The base's timeline.
        expected: u32,
        /// The log's.
        found: u32,
    },
    /// There is no such page.
    #[error("no page {page} at {lsn}: {why}")]
    NoPage {
        /// Which page.
        page: RelPage,
        /// At which Lsn.
        lsn: Lsn,
        /// Why not.
        why: String,
    },
    /// What is kept as a fork's size is none.
    #[error(
        "size of {rel} at {lsn}: expected 4 bytes, found {found}; use the pagestrata that wrote it"
    )]
    Size {
        /// Which fork.
        rel: RelFork,
        /// Of which Lsn.
        lsn: Lsn,
        /// How many bytes there are.
        found: usize,
    },
    /// Redo made another page than PostgreSQL. The records before it, and itself, are in the
    /// timeline.
    #[error("{0}; this is a defect of pagestrata: please report it with the record")]
    Inconsistent(Box<Inconsistency>),
    /// What was read back is not what the oracle says.
    #[error("{failed} of {checked} checks failed, the first one: {first}")]
    Mismatch {
        /// How many.
        failed: u64,
        /// Of how many.
        checked: u64,
        /// The first one.
        first: String,
    },
    /// A callback failed: what was found cannot be passed on.
    #[error("cannot pass on what was found: {0}")]
    Report(io::Error),
    /// An oracle, or an archive of a capture, cannot be read.
    #[error("{what}: {reason}")]
    Capture {
        /// Which part.
        what: String,
        /// Why.
        reason: String,
    },
}

fn consistent_from(from: &Option<Lsn>) -> String {
    match from {
        Some(from) => format!("up to {from}; choose an Lsn from that one on"),
        None => {
            "and the log up to the end of the backup has not been ingested; ingest it".to_owned()
        }
    }
}

/// A page that redo made otherwise than PostgreSQL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "redo of {record} at {lsn} made another page {page} than PostgreSQL: byte {byte} is {found:#04X}, expected {expected:#04X}"
)]
pub struct Inconsistency {
    /// What the record is called.
    pub record: String,
    /// Its start.
    pub lsn: Lsn,
    /// Which page.
    pub page: RelPage,
    /// The first byte that is not equal, by the masking rules.
    pub byte: usize,
    /// What it should be.
    pub expected: u8,
    /// What it is.
    pub found: u8,
}
