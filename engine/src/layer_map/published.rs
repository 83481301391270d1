//! Publishing, pinning and reclaiming: how one value is replaced by the next while anybody may be
//! reading it.
//!
//! [`Published`] holds the current value and those that were replaced but may still be held. A
//! [`CachedVersion`] keeps one of them for a reader: as long as nothing was published since,
//! pinning is one load of [`Published::number`] and a comparison, with no read-modify-write and no
//! lock.
//!
//! Protocol, checked by `loom` in `tests` (the same code on loom's types):
//!
//! 1. `publish` stores the pointer, then the number with Release. A reader that loads the new
//!    number with Acquire and then the pointer gets this value or a later one.
//! 2. The replaced value goes to the retired list with a count of its own, so no reader ever drops
//!    the last count: dropping is `reclaim`'s alone, on whatever thread calls it.
//! 3. `reclaim` takes a retired value out when its own count is the only one left. Nobody can gain
//!    a new one: the pointer has moved on, and whoever cloned from it did so before.
//! 4. Nobody looks for what is let go: each holder lets go first and wakes the reclaimer then. One
//!    that held the current value need not, which [`Published::is_replaced`] tells; the fences
//!    there and in `publish` see to it that either this holder sees the publication or the
//!    reclaimer, which is woken after it, sees that the hold is gone.
//!
//! arc-swap holds the pointer; this is the one file that names it. Relied on, and documented by it:
//! `load_full` returns a counted pointer, and `swap` the old one with the count that it had. With
//! its read-write-lock strategy, whose documentation prefers a plain `RwLock<Arc<T>>` in
//! production: before 1.9.5 the default strategy had a use after free and a type confusion, and a
//! cached pin takes the pointer only when something was published, so that the lock costs nothing.
//! The model for `loom` below is that plain lock.

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
    //! Loom's types in the same places; a pointer behind a lock is what arc-swap's strategy is.
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
    /// The first published one has number zero.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn value(&self) -> &T {
        &self.value
    }
}

/// The current value, and the replaced ones until they are reclaimed.
pub(crate) struct Published<T> {
    /// On a line that only publications write.
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

    /// The number of the current value.
    #[inline]
    pub(crate) fn number(&self) -> u64 {
        self.number.0.load(Ordering::Acquire)
    }

    /// Whether a value was replaced, for a holder that has just let go of it. No: it will be
    /// replaced later than that.
    pub(crate) fn is_replaced(&self, number: u64) -> bool {
        // A store (of the count) and then a load of another location: nothing weaker keeps them in
        // order. Planted for the model checker: without it neither side may see the other.
        if !cfg!(planted_bug = "not_told") {
            fence(Ordering::SeqCst);
        }
        self.number() != number
    }

    /// The current value, counted.
    pub(crate) fn load(&self) -> Held<T> {
        self.pointer.load()
    }

    /// Replaces the value by what `next` makes of it.
    ///
    /// One publisher at a time: callers hold the lock that orders edits.
    pub(crate) fn publish(&self, next: impl FnOnce(&T) -> T) {
        let current = self.pointer.load();
        let number = current.number + 1;
        let value = next(&current.value);
        drop(current);
        let old = self.pointer.swap(Arc::new(NumberedVersion { number, value }));
        debug_assert!(old.number + 1 == number, "one publishes at a time");
        self.number.0.store(number, Ordering::Release);
        // Pairs with the one of `is_replaced`.
        fence(Ordering::SeqCst);
        // Planted for the model checker: without it a reader drops the last count, in the middle of
        // a pin.
        if !cfg!(planted_bug = "not_retired") {
            self.retired.lock().push(old);
        }
    }

    /// Takes out the retired values that nobody holds any more, for the caller to drop.
    pub(crate) fn reclaim(&self) -> Vec<T> {
        let mut retired = self.retired.lock();
        let mut reclaimed = Vec::new();
        for mut held in std::mem::take(&mut *retired) {
            // Succeeds only with the last count, and then with every holder's reads behind it.
            // `get_mut` says so with a load, which the thread sanitizer understands; `try_unwrap`
            // alone has a fence, which it does not.
            let _ = Arc::get_mut(&mut held);
            match Arc::try_unwrap(held) {
                Ok(numbered) => reclaimed.push(numbered.value),
                Err(held) => retired.push(held),
            }
        }
        reclaimed
    }

    #[cfg(test)]
    /// Calls `visit` for each retired value that somebody still holds, with its number.
    pub(crate) fn for_each_retired(&self, mut visit: impl FnMut(u64, &T)) {
        self.retired.lock().iter().for_each(|retired| visit(retired.number, &retired.value));
    }
}

/// A counted hold on a published value.
pub(crate) type Held<T> = Arc<NumberedVersion<T>>;

/// What a [`CachedVersion`] holds instead of a published value: its number is never current, so the
/// next pin refreshes.
pub(crate) fn never_current<T>(value: T) -> Held<T> {
    Arc::new(NumberedVersion { number: u64::MAX, value })
}

/// A reader's own hold on a published value.
pub(crate) struct CachedVersion<T>(Held<T>);

impl<T> CachedVersion<T> {
    pub(crate) fn new(published: &Published<T>) -> CachedVersion<T> {
        CachedVersion(published.load())
    }

    /// Holds `other`, which nobody minds being held.
    pub(crate) fn of(other: &Held<T>) -> CachedVersion<T> {
        CachedVersion(other.clone())
    }

    /// Whether another value was published since.
    #[inline]
    pub(crate) fn is_stale(&self, published: &Published<T>) -> bool {
        published.number() != self.0.number
    }

    /// The number of the value that is held.
    pub(crate) fn number(&self) -> u64 {
        self.0.number
    }

    /// Holds `other` instead, which nobody minds being held.
    pub(crate) fn let_go(&mut self, other: &Held<T>) {
        self.0 = other.clone();
    }

    /// Takes the current value instead. Returns the number of the one that is held now.
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
