//! [`Model`]: what a timeline must answer, in the simplest form: a sorted map of all versions and a
//! list of tombstones.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
};

use crate::{Error, Key, Kind, Lsn, VALUE_LEN_MAX};

/// A value in the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Image or delta.
    pub kind: Kind,
    /// Its bytes.
    pub bytes: Arc<[u8]>,
}

/// Why a call is refused: the kinds of [`Error`] that follow from the arguments alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "named as the errors are")]
pub enum Refusal {
    LsnOutOfOrder,
    DuplicateVersion,
    DropAfterPut,
    ValueTooLong,
    OutOfOrder,
    Uncommitted,
    ImportBehind,
    NotYet,
    BelowCutoff,
    MissingBase,
    NoPage,
}

impl Refusal {
    /// Returns the refusal that an error stands for; `None` for errors of storage or memory.
    #[must_use]
    pub fn of(error: &Error) -> Option<Refusal> {
        Some(match error {
            Error::LsnOutOfOrder { .. } => Refusal::LsnOutOfOrder,
            Error::DuplicateVersion { .. } => Refusal::DuplicateVersion,
            Error::DropAfterPut { .. } => Refusal::DropAfterPut,
            Error::ValueTooLong { .. } => Refusal::ValueTooLong,
            Error::OutOfOrder { .. } => Refusal::OutOfOrder,
            Error::Uncommitted { .. } => Refusal::Uncommitted,
            Error::ImportBehind { .. } => Refusal::ImportBehind,
            Error::NotYet { .. } => Refusal::NotYet,
            Error::BelowCutoff { .. } => Refusal::BelowCutoff,
            Error::MissingBase { .. } => Refusal::MissingBase,
            Error::NoPage { .. } => Refusal::NoPage,
            _ => return None,
        })
    }
}

/// The versions that a read finds.
#[derive(Clone, Debug, Default)]
pub struct History<'m> {
    /// Newest first.
    pub versions: Vec<(Lsn, &'m Stored)>,
    /// Whether they lead back to an image or a `will_init`.
    pub has_base: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tombstone {
    object: u128,
    first_block: u32,
    lsn: Lsn,
}

/// The model of a timeline.
#[derive(Clone, Debug)]
pub struct Model {
    start: Lsn,
    deltas_per_page_max: usize,
    committed: Lsn,
    last: Lsn,
    versions: BTreeMap<(Key, Lsn), Stored>,
    tombstones: Vec<Tombstone>,
    pending: BTreeMap<(Key, Lsn), Stored>,
    pending_tombstones: Vec<Tombstone>,
}

impl Model {
    /// Creates an empty timeline that starts at `start`.
    #[must_use]
    pub fn new(start: Lsn) -> Model {
        let committed = start.previous();
        Model {
            start,
            deltas_per_page_max: 0,
            committed,
            last: committed,
            versions: BTreeMap::new(),
            tombstones: Vec::new(),
            pending: BTreeMap::new(),
            pending_tombstones: Vec::new(),
        }
    }

    /// Sets the bound on deltas above which the store's flushes cut a chain; 0: they cut none.
    #[must_use]
    pub fn with_deltas_per_page_max(mut self, deltas: usize) -> Model {
        self.deltas_per_page_max = deltas;
        self
    }

    /// Whether the chain that ends at `lsn` is so long that a flush may materialize its page.
    #[must_use]
    pub fn may_be_cut(&self, key: Key, lsn: Lsn) -> bool {
        let History { versions, has_base } = self.find(key, lsn);
        let deltas = versions.iter().filter(|(_, stored)| stored.kind != Kind::Image).count();
        self.deltas_per_page_max > 0 && has_base && deltas > self.deltas_per_page_max
    }

    /// Returns the start: nothing is below it.
    #[must_use]
    pub fn start(&self) -> Lsn {
        self.start
    }

    /// Returns the Lsn up to which everything is visible.
    #[must_use]
    pub fn committed(&self) -> Lsn {
        self.committed
    }

    /// Returns the Lsn of the last append, committed or not.
    #[must_use]
    pub fn last(&self) -> Lsn {
        self.last
    }

    /// Returns the highest Lsn that can be read.
    #[must_use]
    pub fn last_record(&self) -> Lsn {
        self.committed.max(self.start)
    }

    /// Whether anything is uncommitted.
    #[must_use]
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty() || !self.pending_tombstones.is_empty()
    }

    /// Returns the number of committed versions.
    #[must_use]
    pub fn versions_count(&self) -> usize {
        self.versions.len()
    }

    /// Returns the highest Lsn of a committed version or tombstone, or the Lsn before the start.
    #[must_use]
    pub fn highest_lsn(&self) -> Lsn {
        let versions = self.versions.keys().map(|(_, lsn)| *lsn);
        let all = versions.chain(self.tombstones.iter().map(|tombstone| tombstone.lsn));
        all.max().unwrap_or(self.start.previous())
    }

    /// Returns all keys that have a committed version.
    #[must_use]
    pub fn keys(&self) -> BTreeSet<Key> {
        self.versions.keys().map(|(key, _)| *key).collect()
    }

    /// Returns the Lsns of the committed versions of a key, ascending.
    #[must_use]
    pub fn lsns_of(&self, key: Key) -> Vec<Lsn> {
        self.versions.range((key, Lsn(0))..=(key, Lsn::MAX)).map(|((_, lsn), _)| *lsn).collect()
    }

    fn check_lsn(&self, lsn: Lsn) -> Result<(), Refusal> {
        match lsn >= self.last && lsn > self.committed && lsn < Lsn::MAX {
            true => Ok(()),
            false => Err(Refusal::LsnOutOfOrder),
        }
    }

    /// Appends a value.
    ///
    /// # Errors
    /// The refusal; nothing is changed.
    pub fn put(&mut self, key: Key, lsn: Lsn, value: Stored) -> Result<(), Refusal> {
        self.check_lsn(lsn)?;
        if value.bytes.len() > VALUE_LEN_MAX {
            return Err(Refusal::ValueTooLong);
        }
        if self.pending.contains_key(&(key, lsn)) {
            return Err(Refusal::DuplicateVersion);
        }
        self.pending.insert((key, lsn), value);
        self.last = lsn;
        Ok(())
    }

    /// Appends several values, all or none.
    ///
    /// # Errors
    /// The refusal of the first refused value; nothing is changed.
    pub fn put_batch(
        &mut self,
        batch: impl IntoIterator<Item = (Key, Lsn, Stored)>,
    ) -> Result<(), Refusal> {
        let (mut added, last) = (Vec::new(), self.last);
        for (key, lsn, value) in batch {
            if let Err(refusal) = self.put(key, lsn, value) {
                for version in added {
                    self.pending.remove(&version);
                }
                self.last = last;
                return Err(refusal);
            }
            added.push((key, lsn));
        }
        Ok(())
    }

    /// Drops the blocks of an object from `first_block` on.
    ///
    /// # Errors
    /// The refusal; nothing is changed.
    pub fn drop_blocks(&mut self, object: u128, first_block: u32, lsn: Lsn) -> Result<(), Refusal> {
        self.check_lsn(lsn)?;
        let tombstone = Tombstone { object, first_block, lsn };
        if self.pending.keys().any(|(key, put)| *put == lsn && tombstone.covers(*key)) {
            return Err(Refusal::DropAfterPut);
        }
        self.pending_tombstones.push(tombstone);
        self.last = lsn;
        Ok(())
    }

    /// Makes everything appended visible.
    ///
    /// # Errors
    /// The refusal; nothing is changed.
    pub fn commit(&mut self, lsn: Lsn) -> Result<(), Refusal> {
        if lsn < self.last || lsn < self.committed || lsn == Lsn::MAX {
            return Err(Refusal::LsnOutOfOrder);
        }
        self.versions.append(&mut self.pending);
        self.tombstones.append(&mut self.pending_tombstones);
        (self.committed, self.last) = (lsn, lsn);
        Ok(())
    }

    /// Discards what was not committed.
    pub fn abort(&mut self) {
        self.pending.clear();
        self.pending_tombstones.clear();
        self.last = self.committed;
    }

    /// Checks whether images can be imported at `lsn`.
    ///
    /// # Errors
    /// The refusal.
    pub fn check_import(&self, lsn: Lsn) -> Result<(), Refusal> {
        if self.has_pending() {
            return Err(Refusal::Uncommitted);
        }
        if lsn <= self.last || lsn == Lsn::MAX {
            return Err(Refusal::ImportBehind);
        }
        Ok(())
    }

    /// Adds images at an Lsn that [`Model::check_import`] accepted, and commits it.
    pub fn import(&mut self, lsn: Lsn, images: impl IntoIterator<Item = (Key, Arc<[u8]>)>) {
        let image = |bytes| Stored { kind: Kind::Image, bytes };
        self.versions.extend(images.into_iter().map(|(key, bytes)| ((key, lsn), image(bytes))));
        (self.committed, self.last) = (lsn, lsn);
    }

    /// Discards everything above `lsn`, as a reopened store does that lost unflushed commits.
    pub fn cut_to(&mut self, lsn: Lsn) {
        self.abort();
        self.versions.retain(|(_, of), _| *of <= lsn);
        self.tombstones.retain(|tombstone| tombstone.lsn <= lsn);
        (self.committed, self.last) = (lsn, lsn);
    }

    fn check_read(&self, lsn: Lsn, upper: Lsn) -> Result<(), Refusal> {
        match () {
            () if lsn > upper => Err(Refusal::NotYet),
            () if lsn < self.start => Err(Refusal::BelowCutoff),
            () => Ok(()),
        }
    }

    /// Returns what a read of `key` at `lsn` finds, if the reader sees everything up to `upper`.
    ///
    /// # Errors
    /// The refusal of the read.
    pub fn history(&self, key: Key, lsn: Lsn, upper: Lsn) -> Result<History<'_>, Refusal> {
        self.check_read(lsn, upper)?;
        Ok(self.find(key, lsn))
    }

    fn find(&self, key: Key, lsn: Lsn) -> History<'_> {
        let covering = self.tombstones.iter().filter(|tombstone| tombstone.covers(key));
        let dropped = covering.map(|tombstone| tombstone.lsn).filter(|at| *at <= lsn).max();
        let mut history = History::default();
        for ((_, at), value) in self.versions.range((key, Lsn(0))..=(key, lsn)).rev() {
            if dropped.is_some_and(|dropped| *at < dropped) {
                break;
            }
            history.versions.push((*at, value));
            if matches!(value.kind, Kind::Image | Kind::Delta { will_init: true }) {
                history.has_base = true;
                break;
            }
        }
        history
    }

    /// Whether a version of `key` at or below `lsn` is hidden by a tombstone.
    #[must_use]
    pub fn is_hidden(&self, key: Key, lsn: Lsn) -> bool {
        let put = self.versions.range((key, Lsn(0))..=(key, lsn)).next().is_some();
        put && self.find(key, lsn).versions.is_empty()
    }

    /// Returns the pages of a range of objects, each with the Lsn of its newest version.
    ///
    /// # Errors
    /// The refusal of the scan.
    pub fn scan(
        &self,
        objects: Range<u128>,
        to_the_end: bool,
        lsn: Lsn,
        upper: Lsn,
    ) -> Result<Vec<(Key, Lsn)>, Refusal> {
        let within =
            |key: &Key| key.object >= objects.start && (to_the_end || key.object < objects.end);
        if !to_the_end && objects.is_empty() {
            return Ok(Vec::new());
        }
        self.check_read(lsn, upper)?;
        let newest = |key| Some((key, self.find(key, lsn).versions.first()?.0));
        Ok(self.keys().into_iter().filter(within).filter_map(newest).collect())
    }
}

impl Tombstone {
    fn covers(&self, key: Key) -> bool {
        key.object == self.object && key.block >= self.first_block
    }
}
