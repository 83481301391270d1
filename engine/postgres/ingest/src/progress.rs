//! [`Progress`]: how far a long operation is.

/// What a long operation is doing, and how far it is.
///
/// The callback that gets it is called once per record or page, so it should return at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// What it is doing.
    pub phase: Phase,
    /// How many bytes are done.
    pub bytes: u64,
    /// Of how many, where that is known before.
    pub total_bytes: Option<u64>,
}

/// A part of an operation that takes long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Phase {
    /// Pages of a base backup are written.
    Import,
    /// The log is read, and nothing is written.
    Check,
    /// The log is written to the timeline.
    Ingest,
    /// Files of a data directory are written.
    Restore,
}
