//! The head of a key's versions: the newest one itself, and a link to those before it.
//!
//! A look-up of the newest version ends here, on the one cache line that it had to fetch anyway,
//! and a key with one version has nothing but its head.
//!
//! One writer replaces three words that no processor stores at once; readers, who do not wait, must
//! not take one version's Lsn for another's value. Protocol, checked by `loom` in `tests` (the same
//! code on loom's types):
//!
//! 1. The writer links the former newest version among the older ones, then marks the head
//!    [`MOVED`], stores the value, stores the Lsn, each with Release.
//! 2. A reader loads the Lsn, the value, and the Lsn again, each with Acquire. Twice the same Lsn:
//!    the value is its own. Else, or where the Lsn is above what the reader may see, or is the
//!    mark: all it may see is among the older ones, by 1.
//! 3. **Invariant:** an Lsn that a reader may see is in the head once. Taking a version back leaves
//!    the mark, and the one before it stays among the older ones; a version that was never
//!    committed has an Lsn above what readers may see. So "twice the same" is never "changed and
//!    changed back".

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Lsn, Result, memory::PUBLISH};

/// A number that threads share: std's, or loom's in its tests.
pub(in super::super) trait Word {
    fn load(&self, order: Ordering) -> u64;
    fn store(&self, value: u64, order: Ordering);
}

impl Word for AtomicU64 {
    #[inline]
    fn load(&self, order: Ordering) -> u64 {
        AtomicU64::load(self, order)
    }

    #[inline]
    fn store(&self, value: u64, order: Ordering) {
        AtomicU64::store(self, value, order);
    }
}

/// Where an Lsn would be: no version was ever put. No value has Lsn zero.
const NONE: u64 = 0;
/// Where an Lsn would be: all versions are among the older ones. No value has the highest Lsn.
const MOVED: u64 = u64::MAX;

/// The head of a key's versions.
#[repr(C)]
pub(in super::super) struct Head<W = AtomicU64> {
    lsn: W,
    /// The newest value, packed.
    value: W,
    /// The older versions, packed; zero where there are none.
    older: W,
}

/// What a head says of the newest version that a reader may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum NewestVersion {
    /// The key has no version.
    None,
    /// This one, with its packed value; those before it are among the older ones.
    Here(Lsn, u64),
    /// It is among the older ones.
    Older,
}

impl<W: Word> Head<W> {
    /// The newest version at or below `upper`, an Lsn that was committed before the call.
    #[inline]
    pub(in super::super) fn newest(&self, upper: Lsn) -> NewestVersion {
        let lsn = self.lsn.load(Ordering::Acquire);
        if lsn == NONE {
            return NewestVersion::None;
        }
        if lsn <= upper.0 && lsn != MOVED {
            let value = self.value.load(Ordering::Acquire);
            // Acquire: who sees that it changed sees what it moved to.
            if self.lsn.load(Ordering::Acquire) == lsn {
                return NewestVersion::Here(Lsn(lsn), value);
            }
        }
        NewestVersion::Older
    }

    /// The older versions, packed. Loaded after [`Head::newest`], they hold all that it did not
    /// return.
    #[inline]
    pub(super) fn older_packed(&self) -> u64 {
        self.older.load(Ordering::Acquire)
    }

    /// The writer's view: the Lsn of the newest version, unless it is among the older ones.
    #[inline]
    pub(super) fn newest_lsn(&self) -> Option<Lsn> {
        Some(Lsn(self.lsn.load(Ordering::Relaxed))).filter(|lsn| lsn.0 != NONE && lsn.0 != MOVED)
    }

    /// Makes a version the newest. `keep` adds the former newest, its Lsn and value, to the older
    /// ones and says how they are packed now. Nothing is changed if it fails.
    #[inline]
    pub(super) fn push(
        &self,
        lsn: Lsn,
        value: u64,
        keep: impl FnOnce(u64, Lsn, u64) -> Result<u64>,
    ) -> Result<()> {
        debug_assert!(lsn.0 != NONE && lsn.0 != MOVED, "a version at {lsn}");
        if let Some(former) = self.newest_lsn() {
            debug_assert!(former < lsn, "{lsn} comes after {former}");
            let older = self.older.load(Ordering::Relaxed);
            let kept = keep(older, former, self.value.load(Ordering::Relaxed))?;
            self.older.store(kept, PUBLISH);
        }
        if !cfg!(planted_bug = "unmarked_head") {
            self.lsn.store(MOVED, Ordering::Release);
        }
        self.value.store(value, Ordering::Release);
        self.lsn.store(lsn.0, PUBLISH);
        Ok(())
    }

    /// Takes the newest version back, which was never committed, so that no reader looks at it.
    /// `shorten` takes the newest of the older ones off.
    pub(super) fn pop(&self, shorten: impl FnOnce(u64) -> u64) {
        match self.newest_lsn() {
            Some(_) => self.lsn.store(MOVED, PUBLISH),
            None => self.older.store(shorten(self.older.load(Ordering::Relaxed)), PUBLISH),
        }
    }
}

impl Head {
    pub(super) const fn empty() -> Head {
        Head { lsn: AtomicU64::new(NONE), value: AtomicU64::new(0), older: AtomicU64::new(0) }
    }
}

#[cfg(all(test, loom))]
mod tests {
    use super::*;
    use loom::{
        sync::{Arc, atomic::AtomicU64},
        thread,
    };

    impl Word for AtomicU64 {
        fn load(&self, order: Ordering) -> u64 {
            AtomicU64::load(self, order)
        }

        fn store(&self, value: u64, order: Ordering) {
            AtomicU64::store(self, value, order);
        }
    }

    /// Entries of a key's first block of older versions; the second one has room for all.
    const CAPACITY_MIN: u64 = 1;
    const CAPACITY_MAX: u64 = 3;

    /// A key: its head, and blocks of older versions, each an Lsn and a value, that grow by copying
    /// as the index's do. Packed, the older ones are their block's capacity, by which it is known,
    /// and their number.
    struct Key {
        committed: AtomicU64,
        head: Head<AtomicU64>,
        first: [(AtomicU64, AtomicU64); CAPACITY_MIN as usize],
        second: [(AtomicU64, AtomicU64); CAPACITY_MAX as usize],
    }

    fn load(word: &AtomicU64) -> u64 {
        word.load(Ordering::Relaxed)
    }

    impl Key {
        fn new() -> Key {
            let word = || AtomicU64::new(0);
            let head = Head { lsn: word(), value: word(), older: word() };
            let (first, second) = (
                std::array::from_fn(|_| (word(), word())),
                std::array::from_fn(|_| (word(), word())),
            );
            Key { committed: word(), head, first, second }
        }

        fn block(&self, older: u64) -> &[(AtomicU64, AtomicU64)] {
            match older >> 8 {
                0 => &[],
                CAPACITY_MIN => &self.first,
                _ => &self.second,
            }
        }

        fn put(&self, lsn: u64, value: u64) {
            let keep = |older: u64, lsn: Lsn, value: u64| {
                let (former, len) = (self.block(older), older & 0xFF);
                let mut kept = older + 1;
                if len as usize == former.len() {
                    kept = if older == 0 { CAPACITY_MIN } else { CAPACITY_MAX } << 8 | (len + 1);
                    for (to, from) in self.block(kept).iter().zip(former) {
                        to.0.store(load(&from.0), Ordering::Relaxed);
                        to.1.store(load(&from.1), Ordering::Relaxed);
                    }
                }
                let entry = &self.block(kept)[len as usize];
                entry.0.store(lsn.0, Ordering::Relaxed);
                entry.1.store(value, Ordering::Relaxed);
                Ok(kept)
            };
            self.head.push(Lsn(lsn), value, keep).unwrap();
        }

        /// Takes the newest version back; the first one of all never is.
        fn pop(&self) {
            self.head.pop(|older| older - 1);
        }

        fn commit(&self, lsn: u64) {
            self.committed.store(lsn, Ordering::Release);
        }

        /// All visible versions, newest first, as the layer walks them.
        fn read(&self) -> (u64, Vec<(u64, u64)>) {
            let upper = self.committed.load(Ordering::Acquire);
            let mut found = Vec::new();
            let mut below = upper;
            match self.head.newest(Lsn(upper)) {
                NewestVersion::None => return (upper, found),
                NewestVersion::Here(lsn, value) => {
                    found.push((lsn.0, value));
                    below = lsn.0 - 1;
                }
                NewestVersion::Older => {}
            }
            let older = self.head.older_packed();
            let older = &self.block(older)[..older as usize & 0xFF];
            let older = older.iter().rev().filter(|entry| load(&entry.0) <= below);
            found.extend(older.map(|entry| (load(&entry.0), load(&entry.1))));
            (upper, found)
        }
    }

    /// Readers that run beside `write` see exactly what was committed when they began. A value is
    /// ten times its Lsn, and one more for each time that the Lsn was put before.
    fn check(write: fn(&Key), committed: fn(u64) -> Vec<(u64, u64)>) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(move || {
            let key = Arc::new(Key::new());
            key.put(1, 10);
            key.commit(1);
            let reader = {
                let key = key.clone();
                thread::spawn(move || {
                    for _ in 0..2 {
                        let (upper, found) = key.read();
                        assert_eq!(found, committed(upper));
                    }
                })
            };
            write(&key);
            reader.join().unwrap();
        });
    }

    #[test]
    fn readers_see_whole_versions() {
        let write = |key: &Key| {
            key.put(2, 20);
            key.commit(2);
            key.put(3, 30);
            key.commit(3);
        };
        check(write, |upper| (1..=upper).rev().map(|lsn| (lsn, lsn * 10)).collect());
    }

    #[test]
    fn what_is_taken_back_is_never_seen() {
        let write = |key: &Key| {
            key.put(2, 20);
            key.pop();
            key.put(2, 21);
            key.put(3, 30);
            key.pop();
            key.pop();
            key.put(2, 22);
            key.commit(2);
        };
        check(write, |upper| if upper == 1 { vec![(1, 10)] } else { vec![(2, 22), (1, 10)] });
    }

    /// Blocks of older versions grow, shrink and are written again under readers that are on their
    /// way into them.
    #[test]
    fn older_versions_taken_back_are_written_again() {
        let write = |key: &Key| {
            key.put(2, 20);
            key.put(3, 30);
            key.pop();
            key.pop();
            key.put(2, 21);
            key.put(3, 31);
            key.commit(3);
        };
        check(write, |upper| [(3, 31), (2, 21), (1, 10)][3 - upper as usize..].to_vec());
    }
}
