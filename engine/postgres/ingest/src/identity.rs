//! [`Identity`]: which cluster a timeline holds, kept in the timeline itself.
//!
//! An import puts it, as one image beside the base's pages and with them visible at once, under a
//! key that is no relation's. An ingest reads it and refuses every other cluster's log. It puts
//! another one where the log has the end of the backup, for pages that were copied while the server
//! ran are those of no Lsn before, where the server was shut down, and where settings change that
//! redo or restored files depend on. Commands that read pages at an Lsn ask for it there
//! ([`Identity::at`]), and so use what held then. This file is the one place that knows key and
//! form.
//!
//! | what | is |
//! |---|---|
//! | object | 2^127: objects of relations are below 2^104 |
//! | block | 0 |
//! | value | JSON, an object with the fields of [`Identity`] and `"version": 4` |

use std::ops::RangeTo;

use pagestrata::{Key, Kind, Lsn, Scratch, Timeline};
use pagestrata_postgres::{BaseBackup, PageRedo, ParameterChange, RedoSettings, WalLevel};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Where it is. Behind the keys of all relations, so an import comes to it last.
pub const IDENTITY_KEY: Key = Key::new(1 << 127, 0);
/// The objects that relations can have.
pub const RELATIONS: RangeTo<u128> = ..1 << 104;

const VERSION: u32 = 4;

/// That `pg_checksums` switched data checksums on or off while the server was shut down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChecksumSwitch {
    /// The end of the shutdown checkpoint, where the log goes on when the server is started.
    pub at: Lsn,
    /// Whether they were switched on.
    pub is_on: bool,
}

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
    /// Where the base starts in the log: the images of the import are at it, and the log is read
    /// from it.
    pub start_lsn: u64,
    /// From where on the pages are those of one Lsn: the start, or the end of a backup that was
    /// made while the server ran; none before the log up to there was ingested.
    consistent_from: Option<u64>,
    /// Whether the cluster's pages have checksums on disk.
    pub data_checksums: bool,
    wal_log_hints: bool,
    /// PostgreSQL's number for it.
    wal_level: u32,
    /// The end of the checkpoint with which the server was shut down last, where one was ingested.
    shut_down_at: Option<u64>,
    /// From where on hint bits are logged, or not; the first of these is the base's.
    hints: Vec<HintsLogged>,
}

/// That hint bits are logged, or not, in the records that end behind an Lsn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HintsLogged {
    since: u64,
    is_on: bool,
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
            consistent_from: base.label().is_none().then(|| base.start_lsn().0),
            data_checksums: control.data_checksums,
            wal_log_hints: control.wal_log_hints,
            wal_level: control.wal_level as u32,
            shut_down_at: None,
            hints: vec![HintsLogged {
                since: 0,
                is_on: control.data_checksums || control.wal_log_hints,
            }],
        }
    }

    /// Whether the pages are those of one Lsn.
    #[must_use]
    pub fn is_consistent(&self) -> bool {
        self.consistent_from.is_some()
    }

    /// The pages are those of one Lsn from here on.
    pub(crate) fn set_consistent_from(&mut self, lsn: Lsn) {
        self.consistent_from = Some(lsn.0);
    }

    /// How much the server logs. A number that is no level, which none is kept with, counts as the
    /// lowest.
    pub(crate) fn wal_level(&self) -> WalLevel {
        WalLevel::from_number(self.wal_level).unwrap_or(WalLevel::Minimal)
    }

    /// Whether the cluster logs hint bits: it has data checksums, or `wal_log_hints` is on.
    #[must_use]
    pub fn logs_hints(&self) -> bool {
        self.data_checksums || self.wal_log_hints
    }

    /// Since when hint bits are logged, or are not.
    pub(crate) fn hints_since(&self) -> Lsn {
        let since = self.hints.last().map_or(0, |hints| hints.since);
        Lsn(since.max(self.start_lsn))
    }

    /// Where the server was shut down last.
    pub(crate) fn shut_down_at(&self) -> Option<Lsn> {
        self.shut_down_at.map(Lsn)
    }

    pub(crate) fn set_shut_down_at(&mut self, lsn: Lsn) {
        self.shut_down_at = Some(lsn.0);
    }

    /// The settings behind the record that ends at `end`.
    pub(crate) fn change_parameters(&mut self, change: ParameterChange, end: Lsn) {
        self.wal_level = change.wal_level as u32;
        self.wal_log_hints = change.wal_log_hints;
        self.note_hints(end);
    }

    pub(crate) fn switch_checksums(&mut self, switch: ChecksumSwitch) {
        self.data_checksums = switch.is_on;
        self.note_hints(switch.at);
    }

    fn note_hints(&mut self, since: Lsn) {
        let is_on = self.logs_hints();
        if self.hints.last().is_none_or(|newest| newest.is_on != is_on) {
            self.hints.push(HintsLogged { since: since.0, is_on });
        }
    }

    /// Whether some record is redone otherwise than with `other`.
    pub(crate) fn changes_redo_of(&self, other: &Identity) -> bool {
        self.hints != other.hints
    }

    /// Where the base starts in the log.
    #[must_use]
    pub fn start_lsn(&self) -> Lsn {
        Lsn(self.start_lsn)
    }

    /// What makes its pages of records: each is redone with the settings that held where it was
    /// written.
    #[must_use]
    pub fn redo(&self) -> PageRedo {
        let settings = |hints: &HintsLogged| RedoSettings { logs_hints: hints.is_on };
        let first =
            RedoSettings { logs_hints: self.hints.first().is_some_and(|hints| hints.is_on) };
        let changes = self.hints.iter().map(|hints| (Lsn(hints.since), settings(hints)));
        PageRedo::with_changes(first, changes)
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

    /// Returns what a timeline holds at an Lsn, for reads of its pages there.
    ///
    /// # Errors
    /// [`Error::NoBase`]; [`Error::NotConsistent`] before the end of a backup; as
    /// [`Identity::read`].
    pub fn at(timeline: &Timeline, lsn: Lsn) -> Result<Identity> {
        let name = || timeline.name().to_owned();
        let found = Identity::newest(timeline, lsn)?;
        let (_, identity) = found.ok_or_else(|| Error::NoBase { timeline: name() })?;
        if identity.is_consistent() {
            return Ok(identity);
        }
        let newest = Identity::newest(timeline, timeline.last_record_lsn())?;
        let from = newest.and_then(|(_, newest)| newest.consistent_from).map(Lsn);
        Err(Error::NotConsistent { timeline: name(), lsn, from })
    }

    /// Where the base starts in the log if it was copied while the server ran; its backup ends in
    /// the log at or before `lsn`.
    ///
    /// # Errors
    /// As [`Identity::read`].
    pub(crate) fn start_of_running(timeline: &Timeline, lsn: Lsn) -> Result<Option<Lsn>> {
        let ended = Identity::newest(timeline, lsn)?.map(|(_, identity)| identity);
        let ended = ended.filter(|identity| identity.consistent_from > Some(identity.start_lsn));
        Ok(ended.map(|identity| identity.start_lsn()))
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
