//! [`Change`]: the input of a manager's redo; [`RedoSettings`]: the settings that redo depends on.

use crate::{
    redo::{
        page::{PageMut, short, u16_of, u32_of, u64_of},
        problem::{Checked, Problem},
    },
    wal::{block::BlockRef, record::Record},
};

/// Settings of the cluster that redo depends on, beside page and record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RedoSettings {
    /// Whether hint bits are logged: the cluster has data checksums, or `wal_log_hints` is on. Then
    /// a heap page that becomes all visible is stamped (`XLogHintBitIsNeeded`).
    pub logs_hints: bool,
}

/// A record, and the page of one of its references, which is to be changed.
pub(super) struct Change<'r, 'p> {
    pub(super) record: &'r Record<'r>,
    pub(super) block: &'r BlockRef<'r>,
    pub(super) settings: RedoSettings,
    pub(super) page: PageMut<'p>,
}

impl<'r> Change<'r, '_> {
    /// The reference with this number, if the record has it.
    #[inline]
    pub(super) fn find(&self, id: u8) -> Option<BlockRef<'r>> {
        self.record.blocks().find(|block| block.id == id)
    }

    /// The reference with this number.
    pub(super) fn other(&self, id: u8) -> Checked<BlockRef<'r>> {
        self.find(id).ok_or_else(|| Problem::new("block reference", id, "none"))
    }

    #[inline]
    pub(super) fn stamp(&mut self) {
        let end = match cfg!(planted_bug = "redo_start_lsn") {
            true => self.record.lsn(),
            false => self.record.end(),
        };
        self.page.set_lsn(end);
    }

    /// The number at `at` of the main data.
    #[inline]
    pub(super) fn main_u8(&self, at: usize) -> Checked<u8> {
        let main = self.record.main_data();
        main.get(at).copied().ok_or_else(|| short(main))
    }

    /// The number at `at` of the main data.
    #[inline]
    pub(super) fn main_u16(&self, at: usize) -> Checked<u16> {
        u16_of(self.record.main_data(), at)
    }

    /// The number at `at` of the main data.
    #[inline]
    pub(super) fn main_u32(&self, at: usize) -> Checked<u32> {
        u32_of(self.record.main_data(), at)
    }

    /// The number at `at` of the main data.
    #[inline]
    pub(super) fn main_u64(&self, at: usize) -> Checked<u64> {
        u64_of(self.record.main_data(), at)
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
