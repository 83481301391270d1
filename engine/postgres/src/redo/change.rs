//! [`Change`]: what a manager's redo is given, and [`RedoSettings`], all that it depends on beside.

use crate::{
    redo::{
        page::PageMut,
        problem::{Checked, Problem},
    },
    wal::{block::BlockRef, record::Record},
};

/// What redo depends on beside page and record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RedoSettings {
    /// Whether hint bits are logged: the cluster has data checksums, or `wal_log_hints` is on. Then
    /// a heap page that becomes all visible is stamped (`XLogHintBitIsNeeded`).
    pub logs_hints: bool,
}

/// A record's change of a page that one of its references names.
pub(super) struct Change<'r, 'p> {
    pub(super) record: &'r Record<'r>,
    pub(super) block: &'r BlockRef<'r>,
    pub(super) settings: RedoSettings,
    pub(super) page: PageMut<'p>,
}

impl<'r> Change<'r, '_> {
    /// The reference with this number, if the record has it.
    pub(super) fn find(&self, id: u8) -> Option<BlockRef<'r>> {
        self.record.blocks().find(|block| block.id == id)
    }

    /// The reference with this number.
    pub(super) fn other(&self, id: u8) -> Checked<BlockRef<'r>> {
        self.find(id).ok_or_else(|| Problem::new("block reference", id, "none"))
    }

    pub(super) fn stamp(&mut self) {
        let end = match cfg!(planted_bug = "redo_start_lsn") {
            true => self.record.lsn(),
            false => self.record.end(),
        };
        self.page.set_lsn(end);
    }

    #[cold]
    pub(super) fn unknown(&self) -> Problem {
        Problem::new(
            "kind of record and block",
            "one that changes this page",
            format_args!("block {}", self.block.id),
        )
    }
}
