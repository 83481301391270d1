//! [`Settings`]: what the log's own settings are at each record, and which logs are refused for
//! them.
//!
//! | setting | followed by |
//! |---|---|
//! | `wal_level` | PARAMETER_CHANGE records; `minimal` is refused |
//! | `wal_log_hints` | PARAMETER_CHANGE records |
//! | data checksums | what the caller says ([`ChecksumSwitch`]): `pg_checksums` writes no record |
//!
//! `pg_checksums` runs only while the server is shut down, so data checksums change only at the end
//! of a shutdown checkpoint. Which one cannot be read from the log. So the log is refused, with the
//! shutdowns to choose from, where a record shows that hint bits are logged although they should
//! not be, or where the control file beside the log disagrees at its end. A switch that neither
//! shows goes unnoticed.
//!
//! A timeline keeps the settings in its [`Identity`], one version for each change, so that they are
//! known at each Lsn.
//!
//! **`wal_level=minimal`:** a record that puts it in force is refused, as PostgreSQL's recovery
//! does. A base may have been shut down at `minimal`, although PostgreSQL would refuse that, too:
//! its files are complete, for the shutdown checkpoint has synced them. It is the log behind it
//! that counts: up to the PARAMETER_CHANGE by which the server was started at a higher level it may
//! only have records of the log itself, none that changes a page or ends a transaction.

use std::path::{Path, PathBuf};

use pagestrata::Lsn;
use pagestrata_postgres::{
    ControlFile, ManagerId, Record, WalLevel, is_shutdown_checkpoint, parameter_change,
    shows_logged_hints,
};

use crate::{
    Error, Result,
    identity::{ChecksumSwitch, Identity},
    stores::storage,
};

/// At most so many shutdowns are named in an error: the newest.
const SHUTDOWNS_MAX: usize = 8;

/// What a record does to the settings.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Change {
    /// The identity is another one: a version of it belongs to the record's end.
    pub(crate) is_new_identity: bool,
    /// This record, and those behind it, or those behind it only, are redone otherwise.
    pub(crate) is_new_redo: bool,
}

/// Follows the settings of a cluster, record by record.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    identity: Identity,
    switch: Option<ChecksumSwitch>,
    /// The end of the last record that was looked at.
    position: Lsn,
    /// The ends of the shutdown checkpoints so far, the newest ones.
    shutdowns: Vec<Lsn>,
}

impl Settings {
    /// From a timeline's last record on. A `switch` that its identity has already is ignored.
    pub(crate) fn new(
        identity: Identity,
        position: Lsn,
        switch: Option<ChecksumSwitch>,
    ) -> Settings {
        let switch = switch.filter(|switch| switch.is_on != identity.data_checksums);
        let shutdowns = identity.shut_down_at().into_iter().filter(|lsn| *lsn == position);
        let shutdowns = shutdowns.collect();
        Settings { identity, switch, position, shutdowns }
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(crate) fn identity_mut(&mut self) -> &mut Identity {
        &mut self.identity
    }

    /// Looks at the next record, before it is applied.
    ///
    /// # Errors
    /// [`Error::MinimalWal`], [`Error::ChecksumsUnknown`], [`Error::NoShutdown`], and damage; the
    /// settings are then as before.
    pub(crate) fn observe(&mut self, record: &Record<'_>) -> Result<Change> {
        let mut next = self.identity.clone();
        if let Some(switch) = self.switch {
            if switch.at == self.position && self.shutdowns.last() == Some(&switch.at) {
                next.switch_checksums(switch);
            } else if switch.at < record.end() && !self.awaits(switch.at, record) {
                return Err(self.no_shutdown(switch.at));
            }
        }
        self.observe_level(record, &mut next)?;
        if shows_logged_hints(record) && !next.logs_hints() {
            let proof = format!(
                "the record at {} shows that hint bits are logged, but wal_log_hints and data checksums are off from {} on",
                record.lsn(),
                next.hints_since()
            );
            return Err(self.checksums_unknown(proof, true));
        }
        if is_shutdown_checkpoint(record) {
            next.set_shut_down_at(record.end());
            self.shutdowns.push(record.end());
            let excess = self.shutdowns.len().saturating_sub(SHUTDOWNS_MAX);
            self.shutdowns.drain(..excess);
        }
        let change = Change {
            is_new_identity: next != self.identity,
            is_new_redo: next.changes_redo_of(&self.identity),
        };
        if next.data_checksums != self.identity.data_checksums {
            self.switch = None;
        }
        (self.identity, self.position) = (next, record.end());
        Ok(change)
    }

    /// Whether the shutdown checkpoint that ends at `at` is this record.
    fn awaits(&self, at: Lsn, record: &Record<'_>) -> bool {
        at == record.end() && is_shutdown_checkpoint(record)
    }

    fn observe_level(&self, record: &Record<'_>, next: &mut Identity) -> Result<()> {
        let minimal = Error::MinimalWal { at: record.lsn() };
        match parameter_change(record)? {
            Some(change) if change.wal_level == WalLevel::Minimal => Err(minimal),
            Some(change) => {
                next.change_parameters(change, record.end());
                Ok(())
            }
            None if next.wal_level() > WalLevel::Minimal => Ok(()),
            None if record.manager() == ManagerId::XLOG && record.blocks().len() == 0 => Ok(()),
            None => Err(minimal),
        }
    }

    /// Compares with the control file of the data directory that the log lies in, once all records
    /// have been looked at.
    ///
    /// # Errors
    /// [`Error::NoShutdown`]; [`Error::ChecksumsUnknown`] where it is newer than what was looked
    /// at, and disagrees.
    pub(crate) fn finish(&self, wal: &Path) -> Result<()> {
        let is_at_end = |switch: ChecksumSwitch| {
            self.shutdowns.last() == Some(&switch.at) && switch.at == self.position
        };
        if let Some(switch) = self.switch {
            return match is_at_end(switch) {
                // It holds for the records to come, and has to be said again with them.
                true => Ok(()),
                false => Err(self.no_shutdown(switch.at)),
            };
        }
        let Some((path, control)) = control_beside(wal, self.identity.system_id) else {
            return Ok(());
        };
        let is_read = control.checkpoint < self.position;
        if !is_read || control.data_checksums == self.identity.data_checksums {
            return Ok(());
        }
        let state = |is_on| if is_on { "on" } else { "off" };
        let proof = format!(
            "{} says that data checksums are {} at {}, but in the timeline they are {}",
            path.display(),
            state(control.data_checksums),
            control.checkpoint,
            state(self.identity.data_checksums)
        );
        Err(self.checksums_unknown(proof, control.data_checksums))
    }

    fn checksums_unknown(&self, proof: String, is_on: bool) -> Error {
        Error::ChecksumsUnknown { proof, is_on, shutdowns: self.shutdown_list() }
    }

    fn no_shutdown(&self, at: Lsn) -> Error {
        Error::NoShutdown { at, shutdowns: self.shutdown_list() }
    }

    fn shutdown_list(&self) -> String {
        let shutdowns: Vec<String> = self.shutdowns.iter().map(Lsn::to_string).collect();
        match shutdowns.is_empty() {
            true => "none of these records".to_owned(),
            false => shutdowns.join(", "),
        }
    }
}

/// The control file of the data directory whose `pg_wal` this is; none if it is in none, or in one
/// of another cluster. A server may be writing the file: what cannot be read says nothing.
fn control_beside(wal: &Path, system_id: u64) -> Option<(PathBuf, ControlFile)> {
    if wal.file_name()? != "pg_wal" {
        return None;
    }
    let data = match wal.parent()? {
        parent if parent == Path::new("") => Path::new("."),
        parent => parent,
    };
    let control = ControlFile::read(&*storage(), data).ok()?;
    (control.system_id == system_id).then(|| (data.join("global/pg_control"), control))
}
