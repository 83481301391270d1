//! [`Identity`]: which cluster a timeline holds, kept in the timeline itself.
//!
//! An import puts it, as one image beside the base's pages and with them visible at once, under a key that is no relation's. An
//! ingest reads it and refuses every other cluster's log; it puts another one where the log has the end of the backup, for pages that were
//! copied while the server ran are those of no Lsn before. Whoever reads pages at an Lsn asks for it there ([`Identity::at`]).
//! This file is the one place that knows key and form.
//!
//! | what | is |
//! |---|---|
//! | object | 2^127: objects of relations are below 2^104 |
//! | block | 0 |
//! | value | JSON, an object with the fields of [`Identity`] and `"version": 3` |

use std::ops::RangeTo;

use pagestrata::{Key, Kind, Lsn, Scratch, Timeline};
use pagestrata_postgres::{BaseBackup, PageRedo, RedoSettings};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Where it is. Behind the keys of all relations, so an import comes to it last.
pub const IDENTITY_KEY: Key = Key::new(1 << 127, 0);
/// The objects that relations can have.
pub(crate) const RELATIONS: RangeTo<u128> = ..1 << 104;

const VERSION: u32 = 3;

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
    /// Where the base starts in the log: the images of the import are at it, and the log is read from it.
    pub start_lsn: u64,
    /// Whether the pages are those of one Lsn: not between start and end of a backup that was made while the server ran.
    pub is_consistent: bool,
    /// Whether the cluster's pages have checksums on disk.
    pub data_checksums: bool,
    /// Whether the cluster logs hint bits: it has data checksums, or `wal_log_hints` is on.
    pub logs_hints: bool,
}

impl Identity {
    /// Of a base backup.
    #[must_use]
    pub fn of(base: &BaseBackup) -> Identity {
        let control = base.control();
        Identity {
            version: VERSION,
            system_id: control.system_id,
            wal_timeline: control.timeline,
            wal_segment_size: control.wal_segment_size,
            start_lsn: base.start_lsn().0,
            is_consistent: base.label().is_none(),
            data_checksums: control.data_checksums,
            logs_hints: control.data_checksums || control.wal_log_hints,
        }
    }

    /// Where the base starts in the log.
    #[must_use]
    pub fn start_lsn(&self) -> Lsn {
        Lsn(self.start_lsn)
    }

    /// What makes its pages of records.
    #[must_use]
    pub fn redo(&self) -> PageRedo {
        PageRedo::new(RedoSettings { logs_hints: self.logs_hints })
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
        let newest = Identity::newest(timeline, timeline.last_record_lsn())?;
        Ok(newest.map(|(_, identity)| identity))
    }

    /// What a timeline holds at an Lsn, for whoever reads its pages there.
    ///
    /// # Errors
    /// [`Error::NoBase`]; [`Error::NotConsistent`] before the end of a backup; as [`Identity::read`].
    pub fn at(timeline: &Timeline, lsn: Lsn) -> Result<Identity> {
        let name = || timeline.name().to_owned();
        let found = Identity::newest(timeline, lsn)?;
        let (_, identity) = found.ok_or_else(|| Error::NoBase { timeline: name() })?;
        if identity.is_consistent {
            return Ok(identity);
        }
        let newest = Identity::newest(timeline, timeline.last_record_lsn())?;
        let from = newest.filter(|(_, newest)| newest.is_consistent).map(|(from, _)| from);
        Err(Error::NotConsistent { timeline: name(), lsn, from })
    }

    /// Where the base starts in the log if it was copied while the server ran; its backup ends in the log at or before `lsn`.
    ///
    /// # Errors
    /// As [`Identity::read`].
    pub(crate) fn start_of_running(timeline: &Timeline, lsn: Lsn) -> Result<Option<Lsn>> {
        let ended = Identity::newest(timeline, lsn)?;
        let ended = ended.filter(|(since, identity)| *since > identity.start_lsn());
        Ok(ended.map(|(_, identity)| identity.start_lsn()))
    }

    /// The newest one at an Lsn, and since when it is.
    fn newest(timeline: &Timeline, lsn: Lsn) -> Result<Option<(Lsn, Identity)>> {
        let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
        let versions = reader.pin().history(IDENTITY_KEY, lsn, &mut scratch)?;
        let Some(newest) = versions.newest() else { return Ok(None) };
        let unknown =
            |reason: String| Error::Identity { timeline: timeline.name().to_owned(), reason };
        if newest.kind != Kind::Image {
            return Err(unknown("a delta".to_owned()));
        }
        let identity: Identity =
            serde_json::from_slice(newest.bytes).map_err(|error| unknown(error.to_string()))?;
        match identity.version {
            VERSION => Ok(Some((newest.lsn, identity))),
            other => Err(unknown(format!("version {other}, expected {VERSION}"))),
        }
    }
}
