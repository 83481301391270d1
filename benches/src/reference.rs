//! The simplest engine with the same semantics: the reference of the ratios.
//!
//! It is given every advantage that does not change the answers: nothing is logged or flushed,
//! values are lent under the lock and not copied out, and a commit takes the lock once for its
//! whole batch.

use std::{
    collections::BTreeMap,
    sync::{RwLock, RwLockReadGuard},
};

use pagestrata::{Key, Kind, Lsn, PageVersion, Value};

type Map = BTreeMap<(Key, Lsn), (Kind, Box<[u8]>)>;

/// All versions in one ordered map behind one lock.
#[derive(Debug, Default)]
pub struct Reference {
    committed: RwLock<Committed>,
}

#[derive(Debug, Default)]
struct Committed {
    versions: Map,
    lsn: Lsn,
}

/// The one writer of a [`Reference`].
#[derive(Debug)]
pub struct ReferenceWriter<'a> {
    reference: &'a Reference,
    pending: Vec<(Key, Lsn, Kind, Box<[u8]>)>,
    last: Lsn,
}

/// A read under the lock.
#[derive(Debug)]
pub struct ReferenceGuard<'a>(RwLockReadGuard<'a, Committed>);

impl Reference {
    /// An empty one.
    #[must_use]
    pub fn new() -> Reference {
        Reference::default()
    }

    /// The right to append.
    pub fn writer(&self) -> ReferenceWriter<'_> {
        let last = self.committed.read().expect("not poisoned").lsn;
        ReferenceWriter { reference: self, pending: Vec::with_capacity(64), last }
    }

    /// Takes the lock for reading.
    pub fn pin(&self) -> ReferenceGuard<'_> {
        ReferenceGuard(self.committed.read().expect("not poisoned"))
    }
}

impl ReferenceWriter<'_> {
    /// The Lsn of the last append.
    #[must_use]
    pub fn last_lsn(&self) -> Lsn {
        self.last
    }

    /// Appends one value, invisible until it is committed.
    ///
    /// # Panics
    /// When Lsns go back.
    pub fn put(&mut self, key: Key, lsn: Lsn, value: Value<'_>) {
        assert!(lsn >= self.last, "Lsns do not go back");
        self.last = lsn;
        self.pending.push((key, lsn, value.kind(), value.bytes().into()));
    }

    /// Makes everything appended so far visible.
    pub fn commit(&mut self, lsn: Lsn) {
        let mut committed = self.reference.committed.write().expect("not poisoned");
        for (key, lsn, kind, bytes) in self.pending.drain(..) {
            let before = committed.versions.insert((key, lsn), (kind, bytes));
            assert!(before.is_none(), "one value of a key at an Lsn");
        }
        committed.lsn = lsn;
        self.last = lsn;
    }
}

impl ReferenceGuard<'_> {
    /// Gives `out` the versions of `key` from the newest at or below `lsn` back to the first that
    /// needs nothing older.
    #[inline]
    pub fn versions<'a>(&'a self, key: Key, lsn: Lsn, mut out: impl FnMut(PageVersion<'a>)) {
        let upper = lsn.min(self.0.lsn);
        for (&(_, lsn), (kind, bytes)) in self.0.versions.range((key, Lsn(0))..=(key, upper)).rev()
        {
            out(PageVersion { lsn, kind: *kind, bytes });
            if kind.is_base() {
                break;
            }
        }
    }

    /// All versions in order.
    pub fn sorted(&self) -> impl Iterator<Item = (Key, PageVersion<'_>)> {
        self.0
            .versions
            .iter()
            .map(|(&(key, lsn), (kind, bytes))| (key, PageVersion { lsn, kind: *kind, bytes }))
    }
}
