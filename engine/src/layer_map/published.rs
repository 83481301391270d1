//! Publishing, pinning and reclaiming: replaces a value by the next one while readers may hold it.
//!
//! [`Published`] holds the current value, and the replaced ones that may still be held. A
//! [`CachedVersion`] keeps one of them for a reader: as long as nothing was published since,
//! pinning is one load of [`Published::number`] and a comparison, with no read-modify-write and no
//! lock.
//!
//! Protocol, checked by `loom` in `tests` (the same code on loom's types):
//!
//! 1. `publish` stores the pointer, then the number with Release. A reader that loads the new
//!    number with Acquire and then the pointer gets this value or a later one.
//! 2. The retired list keeps a count of each replaced value, so no reader ever drops the last
//!    count. Only `reclaim` does, on the thread that calls it.
//! 3. `reclaim` removes a retired value when the list's count is the only one left. No new count
//!    can appear: the pointer has moved on, and clones of the old pointer were made before that.
//! 4. No thread polls for released values: a holder releases its value first and then wakes the
//!    reclaimer. A holder of the current value need not wake it, which [`Published::is_replaced`]
//!    tells. The fences there and in `publish` ensure that either the holder sees the publication,
//!    or the reclaimer, which is woken after the publication, sees that the hold is gone.
//!
//! arc-swap holds the pointer; only this file names it. The code relies on documented behaviour:
//! `load_full` returns a counted pointer, and `swap` returns the old pointer with its count. It
//! uses arc-swap's read-write-lock strategy, although arc-swap's documentation prefers a plain
//! `RwLock<Arc<T>>` in production: before 1.9.5 the default strategy had a use after free and a
//! type confusion, and because a cached pin takes the pointer only after a publication, the lock
//! costs nothing. The `loom` model below is that plain lock.

#[cfg(not(loom))]
mod primitives {
    pub(super) use std::sync::{
        Arc, RwLock,
        atomic::{AtomicU64, Ordering, fence},
    };

    pub(super) use parking_lot::Mutex;

    /// The current value's pointer.
    pub(super) struct Pointer<T>(arc_swap::ArcSwapAny<Arc<T>, RwLock<()>>);

    impl<T> Pointer<T> {
        pub(super) fn new(value: Arc<T>) -> Pointer<T> {
            Pointer(arc_swap::ArcSwapAny::with_strategy(value, RwLock::new(())))
        }

        pub(super) fn load(&self) -> Arc<T> {
            self.0.load_full()
        }

        pub(super) fn swap(&self, value: Arc<T>) -> Arc<T> {
            self.0.swap(value)
        }
    }
}

#[cfg(loom)]
mod primitives {
    //! Loom's types in the same places. Arc-swap's strategy is a pointer behind a lock.
    pub(super) use loom::sync::{
        Arc, RwLock,
        atomic::{AtomicU64, Ordering, fence},
    };

    pub(super) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(super) fn new(value: T) -> Mutex<T> {
            Mutex(loom::sync::Mutex::new(value))
        }

        pub(super) fn lock(&self) -> loom::sync::MutexGuard<'_, T> {
            self.0.lock().unwrap()
        }
    }

    pub(super) struct Pointer<T>(RwLock<Arc<T>>);

    impl<T> Pointer<T> {
        pub(super) fn new(value: Arc<T>) -> Pointer<T> {
            Pointer(RwLock::new(value))
        }

        pub(super) fn load(&self) -> Arc<T> {
            self.0.read().unwrap().clone()
        }

        pub(super) fn swap(&self, value: Arc<T>) -> Arc<T> {
            std::mem::replace(&mut self.0.write().unwrap(), value)
        }
    }
}

use primitives::{Arc, AtomicU64, Mutex, Ordering, Pointer, fence};

/// A value with its number in the order of publications.
#[derive(Debug)]
pub(crate) struct NumberedVersion<T> {
    number: u64,
    value: T,
}

impl<T> NumberedVersion<T> {
    /// Returns the value's number; the first published one has zero.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn value(&self) -> &T {
        &self.value
    }
}

/// The current value, and the replaced ones until they are reclaimed.
pub(crate) struct Published<T> {
    /// On a cache line that only publications write.
    number: Line,
    pointer: Pointer<NumberedVersion<T>>,
    retired: Mutex<Vec<Arc<NumberedVersion<T>>>>,
}

#[repr(align(128))]
struct Line(AtomicU64);

impl<T> Published<T> {
    pub(crate) fn new(value: T) -> Published<T> {
        Published {
            number: Line(AtomicU64::new(0)),
            pointer: Pointer::new(Arc::new(NumberedVersion { number: 0, value })),
            retired: Mutex::new(Vec::new()),
        }
    }

    /// Returns the number of the current value.
    #[inline]
    pub(crate) fn number(&self) -> u64 {
        self.number.0.load(Ordering::Acquire)
    }

    /// Whether a value was replaced. For a holder that has just released it: if false, the value
    /// can only be replaced after the release.
    pub(crate) fn is_replaced(&self, number: u64) -> bool {
        // A store (of the count) and then a load of another location: nothing weaker keeps them in
        // order. Planted bug for the model checker: without the fence each side may miss the other.
        if !cfg!(planted_bug = "not_told") {
            fence(Ordering::SeqCst);
        }
        self.number() != number
    }

    /// Returns the current value, counted.
    pub(crate) fn load(&self) -> Held<T> {
        self.pointer.load()
    }

    /// Replaces the value by the result of `next`.
    ///
    /// One publisher at a time: callers must hold the lock that orders edits.
    pub(crate) fn publish(&self, next: impl FnOnce(&T) -> T) {
        let current = self.pointer.load();
        let number = current.number + 1;
        let value = next(&current.value);
        drop(current);
        let old = self.pointer.swap(Arc::new(NumberedVersion { number, value }));
        debug_assert!(old.number + 1 == number, "one publishes at a time");
        self.number.0.store(number, Ordering::Release);
        // Pairs with the fence of `is_replaced`.
        fence(Ordering::SeqCst);
        // Planted bug for the model checker: without it a reader drops the last count, in the
        // middle of a pin.
        if !cfg!(planted_bug = "not_retired") {
            self.retired.lock().push(old);
        }
    }

    /// Removes the retired values that have no holder, and returns them for the caller to drop.
    pub(crate) fn reclaim(&self) -> Vec<T> {
        let mut retired = self.retired.lock();
        let mut reclaimed = Vec::new();
        for mut held in std::mem::take(&mut *retired) {
            // Succeeds only with the last count, and after every holder's reads. `get_mut`
            // establishes this with a load, which the thread sanitizer understands; `try_unwrap`
            // alone uses a fence, which it does not.
            let _ = Arc::get_mut(&mut held);
            match Arc::try_unwrap(held) {
                Ok(numbered) => reclaimed.push(numbered.value),
                Err(held) => retired.push(held),
            }
        }
        reclaimed
    }

    #[cfg(test)]
    /// Calls `visit` for each retired value that is still held, with its number.
    pub(crate) fn for_each_retired(&self, mut visit: impl FnMut(u64, &T)) {
        self.retired.lock().iter().for_each(|retired| visit(retired.number, &retired.value));
    }
}

/// A counted hold on a published value.
pub(crate) type Held<T> = Arc<NumberedVersion<T>>;

/// Placeholder that a [`CachedVersion`] holds in place of a published value: its number is never
/// current, so the next pin refreshes.
pub(crate) fn never_current<T>(value: T) -> Held<T> {
    Arc::new(NumberedVersion { number: u64::MAX, value })
}

/// A reader's own hold on a published value.
pub(crate) struct CachedVersion<T>(Held<T>);

impl<T> CachedVersion<T> {
    pub(crate) fn new(published: &Published<T>) -> CachedVersion<T> {
        CachedVersion(published.load())
    }

    /// Holds `other`, a placeholder.
    pub(crate) fn of(other: &Held<T>) -> CachedVersion<T> {
        CachedVersion(other.clone())
    }

    /// Whether another value was published since.
    #[inline]
    pub(crate) fn is_stale(&self, published: &Published<T>) -> bool {
        published.number() != self.0.number
    }

    /// Returns the number of the held value.
    pub(crate) fn number(&self) -> u64 {
        self.0.number
    }

    /// Releases the held value and holds `other`, a placeholder.
    pub(crate) fn let_go(&mut self, other: &Held<T>) {
        self.0 = other.clone();
    }

    /// Takes the current value. Returns its number.
    pub(crate) fn refresh(&mut self, published: &Published<T>) -> u64 {
        let current = published.load();
        debug_assert!(self.0.number == u64::MAX || self.0.number <= current.number);
        self.0 = current;
        self.0.number
    }

    #[inline]
    pub(crate) fn value(&self) -> &T {
        &self.0.value
    }
}

#[cfg(test)]
mod tests;
