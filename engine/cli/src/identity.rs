//! [`Identity`]: which cluster a timeline holds, kept in the timeline itself.
//!
//! An import puts it, as one image beside the base's pages and with them visible at once, under a key that is no relation's. An
//! ingest reads it and refuses every other cluster's log. This file is the one place that knows key and form.
//!
//! | what | is |
//! |---|---|
//! | object | 2^127: objects of relations are below 2^104 |
//! | block | 0 |
//! | value | JSON, an object with the fields of [`Identity`] and `"version": 2` |

use std::ops::RangeTo;

use pagestrata::{Key, Kind, Lsn, Scratch, Timeline};
use pagestrata_postgres::{ControlFile, PageRedo, RedoSettings};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Where it is. Behind the keys of all relations, so an import comes to it last.
pub const IDENTITY_KEY: Key = Key::new(1 << 127, 0);
/// The objects that relations can have.
pub(crate) const RELATIONS: RangeTo<u128> = ..1 << 104;

const VERSION: u32 = 2;

/// Which cluster a timeline holds, and from where on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    version: u32,
    /// The cluster's system identifier.
    pub system_id: u64,
    /// The timeline of its log.
    pub wal_timeline: u32,
    /// Bytes of a segment of its log.
    pub wal_segment_size: u32,
    /// The Lsn of the base's checkpoint: the images of the import are at it, and the log is read from it.
    pub checkpoint: u64,
    /// Whether the cluster's pages have checksums on disk.
    pub data_checksums: bool,
    /// Whether the cluster logs hint bits: it has data checksums, or `wal_log_hints` is on.
    pub logs_hints: bool,
}

impl Identity {
    /// Of a base backup.
    #[must_use]
    pub fn of(control: &ControlFile) -> Identity {
        Identity {
            version: VERSION,
            system_id: control.system_id,
            wal_timeline: control.timeline,
            wal_segment_size: control.wal_segment_size,
            checkpoint: control.checkpoint.0,
            data_checksums: control.data_checksums,
            logs_hints: control.data_checksums || control.wal_log_hints,
        }
    }

    /// Where the base is.
    #[must_use]
    pub fn checkpoint(&self) -> Lsn {
        Lsn(self.checkpoint)
    }

    /// What makes its pages of records.
    #[must_use]
    pub fn redo(&self) -> PageRedo {
        PageRedo::new(RedoSettings { logs_hints: self.logs_hints })
    }

    /// What makes the pages of a timeline.
    ///
    /// # Errors
    /// [`Error::NoBase`], and as [`Identity::read`].
    pub fn redo_of(timeline: &Timeline) -> Result<PageRedo> {
        let no_base = || Error::NoBase { timeline: timeline.name().to_owned() };
        Ok(Identity::read(timeline)?.ok_or_else(no_base)?.redo())
    }

    /// The value that is put under [`IDENTITY_KEY`].
    ///
    /// # Panics
    /// Never: numbers can be written as JSON.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("numbers")
    }

    /// What a timeline holds; `None` before an import.
    ///
    /// # Errors
    /// [`Error::Identity`], and what reading fails with.
    pub fn read(timeline: &Timeline) -> Result<Option<Identity>> {
        let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
        let guard = reader.pin();
        let versions = guard.history(IDENTITY_KEY, guard.last_record_lsn(), &mut scratch)?;
        let Some(newest) = versions.newest() else { return Ok(None) };
        let unknown =
            |reason: String| Error::Identity { timeline: timeline.name().to_owned(), reason };
        if newest.kind != Kind::Image {
            return Err(unknown("a delta".to_owned()));
        }
        let identity: Identity =
            serde_json::from_slice(newest.bytes).map_err(|error| unknown(error.to_string()))?;
        match identity.version {
            VERSION => Ok(Some(identity)),
            other => Err(unknown(format!("version {other}, expected {VERSION}"))),
        }
    }
}
