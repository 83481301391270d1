//! Settings of the server that the log depends on, as records tell of them.
//!
//! | record | tells |
//! |---|---|
//! | XLOG PARAMETER_CHANGE (0x60) | main data, 28 bytes: 20 wal_level u32, 24 wal_log_hints u8 |
//! | XLOG CHECKPOINT_SHUTDOWN (0x00) | the server was shut down: only then can `pg_checksums` run |
//! | XLOG FPI_FOR_HINT (0xA0), an image of the heap page in Heap2 VISIBLE (0x40) | hint bits are logged |
//!
//! A server writes PARAMETER_CHANGE when it starts, before any record that the new values govern.
//! It leaves the record out only where `wal_level` is and stays `minimal`. `pg_checksums` writes no
//! record at all.

use std::fmt;

use crate::{
    bytes::u32_at,
    error::{Error, Result},
    manager::ManagerId,
    wal::record::Record,
};

const CHECKPOINT_SHUTDOWN: u8 = 0x00;
const PARAMETER_CHANGE: u8 = 0x60;
const FPI_FOR_HINT: u8 = 0xA0;
const VISIBLE: u8 = 0x40;
/// The number of the heap page among the references of Heap2 VISIBLE.
const VISIBLE_HEAP_BLOCK: u8 = 1;

/// How much the server logs: its setting `wal_level`.
///
/// ```
/// use pagestrata_postgres::WalLevel;
///
/// assert_eq!(WalLevel::from_number(0), Some(WalLevel::Minimal));
/// assert_eq!(WalLevel::Replica.to_string(), "replica");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum WalLevel {
    /// Only what a crash needs: pages of relations that are made in the same transaction are not
    /// logged, so such a log cannot be replayed on a base backup.
    Minimal = 0,
    /// All that replay of a base backup needs.
    Replica = 1,
    /// And what logical decoding needs.
    Logical = 2,
}

impl WalLevel {
    /// The level with PostgreSQL's number for it; `None` for a number that no level has.
    #[must_use]
    pub fn from_number(number: u32) -> Option<WalLevel> {
        match number {
            0 => Some(WalLevel::Minimal),
            1 => Some(WalLevel::Replica),
            2 => Some(WalLevel::Logical),
            _ => None,
        }
    }
}

/// The setting's value, as in `postgresql.conf`.
impl fmt::Display for WalLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WalLevel::Minimal => "minimal",
            WalLevel::Replica => "replica",
            WalLevel::Logical => "logical",
        })
    }
}

/// The settings that a PARAMETER_CHANGE record puts in force for the records behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ParameterChange {
    /// How much the server logs.
    pub wal_level: WalLevel,
    /// Whether the first change of a page by hint bits is logged although there are no checksums.
    pub wal_log_hints: bool,
}

/// Returns the settings that `record` puts in force; `None` for a record of another kind.
///
/// # Errors
/// [`Error::Corrupt`] if its main data is too short, or its `wal_level` is none.
pub fn parameter_change(record: &Record<'_>) -> Result<Option<ParameterChange>> {
    if (record.manager(), record.info() & 0xF0) != (ManagerId::XLOG, PARAMETER_CHANGE) {
        return Ok(None);
    }
    let main = record.main_data();
    let (Some(level), Some(hints)) = (u32_at(main, 20), main.get(24)) else {
        let found = format!("{} bytes", main.len());
        return Err(Error::corrupt(record.place(), "main data", "28 bytes", found));
    };
    let wal_level = WalLevel::from_number(level)
        .ok_or_else(|| Error::corrupt(record.place(), "wal_level", "0 to 2", level))?;
    Ok(Some(ParameterChange { wal_level, wal_log_hints: *hints != 0 }))
}

/// Whether `record` is the checkpoint of a server that was shut down, or that ended its recovery.
#[must_use]
pub fn is_shutdown_checkpoint(record: &Record<'_>) -> bool {
    (record.manager(), record.info() & 0xF0) == (ManagerId::XLOG, CHECKPOINT_SHUTDOWN)
}

/// Whether `record` is one that only a server writes which logs hint bits. It need not write one.
#[must_use]
pub fn shows_logged_hints(record: &Record<'_>) -> bool {
    match (record.manager(), record.info() & 0xF0) {
        (ManagerId::XLOG, FPI_FOR_HINT) => true,
        (ManagerId::HEAP2, VISIBLE) => record
            .blocks()
            .any(|block| block.id == VISIBLE_HEAP_BLOCK && block.applied_image().is_some()),
        _ => false,
    }
}
