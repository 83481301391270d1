//! [`Waiters`]: tasks that wait for a timeline to reach an Lsn.

use std::{
    sync::atomic::{AtomicU64, Ordering, fence},
    task::Waker,
};

use pagestrata_layers::Lsn;
use parking_lot::Mutex;

/// Tasks that wait for a timeline to reach an Lsn, or, with any Lsn, for another event.
///
/// A waiter enters the list and then checks the timeline's Lsn. A commit stores the timeline's Lsn
/// and then checks for waiters. Each puts a fence between the two, so at least one of them sees the
/// other.
pub(crate) struct Waiters {
    /// The lowest Lsn that a task waits for; `Lsn::MAX` if there is none. A commit reads only this.
    lowest: AtomicU64,
    list: Mutex<List>,
}

#[derive(Default)]
struct List {
    waiting: Vec<(u64, Lsn, Waker)>,
    next_id: u64,
}

impl Default for Waiters {
    fn default() -> Waiters {
        Waiters { lowest: AtomicU64::new(Lsn::MAX.0), list: Mutex::default() }
    }
}

impl Waiters {
    /// Called after the timeline has reached `lsn`.
    #[inline]
    pub(crate) fn reached(&self, lsn: Lsn) {
        fence(Ordering::SeqCst);
        if self.lowest.load(Ordering::Relaxed) <= lsn.0 {
            self.wake_up_to(lsn);
        }
    }

    /// Wakes the tasks that wait for `lsn` or less.
    #[cold]
    pub(crate) fn wake_up_to(&self, lsn: Lsn) {
        let mut list = self.list.lock();
        let woken: Vec<_> = list.waiting.extract_if(.., |(_, wanted, _)| *wanted <= lsn).collect();
        self.set_lowest(&list);
        debug_assert!(list.waiting.iter().all(|(_, wanted, _)| *wanted > lsn));
        drop(list);
        woken.into_iter().for_each(|(.., waker)| waker.wake());
    }

    fn set_lowest(&self, list: &List) {
        let lowest = list.waiting.iter().map(|(_, lsn, _)| lsn.0).min().unwrap_or(Lsn::MAX.0);
        self.lowest.store(lowest, Ordering::Relaxed);
    }

    pub(crate) fn enter(&self, id: &mut Option<u64>, lsn: Lsn, waker: &Waker) {
        let waker = waker.clone();
        let mut list = self.list.lock();
        let old = self.remove(&mut list, *id);
        debug_assert!(list.waiting.iter().all(|(other, ..)| Some(*other) != *id), "waits once");
        list.next_id += 1;
        *id = Some(list.next_id);
        let entry = (list.next_id, lsn, waker);
        list.waiting.push(entry);
        self.set_lowest(&list);
        drop(list);
        // Dropped last: a waker may be the last owner of a task that waits here too.
        drop(old);
        fence(Ordering::SeqCst);
    }

    pub(crate) fn leave(&self, id: Option<u64>) {
        if id.is_some() {
            let mut list = self.list.lock();
            let old = self.remove(&mut list, id);
            drop(list);
            drop(old);
        }
    }

    fn remove(&self, list: &mut List, id: Option<u64>) -> Option<Waker> {
        let at = list.waiting.iter().position(|(other, ..)| Some(*other) == id)?;
        let (.., waker) = list.waiting.swap_remove(at);
        self.set_lowest(list);
        Some(waker)
    }
}
