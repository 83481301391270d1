//! Which files of this process are mapped and which are being written: none is both at once.
//!
//! The bytes of a mapping are lent as `&[u8]`, so nothing may change them. Through a
//! [`RealStorage`](super::RealStorage) nothing can: a file is told apart by its device and inode,
//! whatever it is called and however often it is open.
//!
//! Each process has a table of its own. A forked child begins with an empty one, for the lock of
//! its parent's may be held by a thread that the child does not have; what it has inherited is the
//! parent's.
#![allow(unsafe_code)]

use std::{
    collections::BTreeMap,
    fmt, ptr,
    sync::atomic::{AtomicPtr, Ordering},
};

use parking_lot::Mutex;

use super::ProcessMark;

/// Tells apart all files of a machine: device and inode.
pub(super) type Identity = (u64, u64);

/// Files in use by a process, each with its number of uses.
struct Table {
    owner: ProcessMark,
    files: Mutex<BTreeMap<Identity, Uses>>,
}

/// This process's table, once it has one; until then its parent's, or none.
static TABLE: AtomicPtr<Table> = AtomicPtr::new(ptr::null_mut());

#[derive(Clone, Copy, Debug)]
enum Uses {
    Mapped(usize),
    Written(usize),
}

/// A use of a file, which ends when this is dropped by the process that has begun it.
struct Use {
    table: &'static Table,
    file: Identity,
}

/// A mapping of a file: as long as it lives, no write to the file begins.
#[derive(Debug)]
pub(super) struct Mapping(#[allow(dead_code, reason = "there to be dropped")] Use);

/// The right to write to a file: as long as it lives, the file is not mapped.
#[derive(Debug)]
pub(super) struct Writing(#[allow(dead_code, reason = "there to be dropped")] Use);

impl Table {
    fn of_this_process() -> &'static Table {
        let found = TABLE.load(Ordering::Acquire);
        // SAFETY: null, or a table that was stored below and is never freed.
        match unsafe { found.as_ref() } {
            Some(table) if table.owner.is_current() => table,
            _ => Table::replace(found),
        }
    }

    /// Puts a new table in the place of one that is not this process's. Without a lock: of two
    /// threads one wins, and what the other has made is freed again.
    #[cold]
    fn replace(found: *mut Table) -> &'static Table {
        let new = Table { owner: ProcessMark::current(), files: Mutex::default() };
        let new = Box::into_raw(Box::new(new));
        match TABLE.compare_exchange(found, new, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: it is in the static now and is never freed.
            Ok(_) => unsafe { &*new },
            Err(others) => {
                // SAFETY: made above, and nothing has learnt of it.
                drop(unsafe { Box::from_raw(new) });
                // SAFETY: as in `of_this_process`. Another thread of this process has stored it, so
                // it is not null.
                unsafe { &*others }
            }
        }
    }
}

impl Mapping {
    /// An error says what the file is used for.
    pub(super) fn begin(file: Identity) -> Result<Mapping, &'static str> {
        let table = Table::of_this_process();
        match table.files.lock().entry(file).or_insert(Uses::Mapped(0)) {
            Uses::Mapped(count) => *count += 1,
            Uses::Written(_) => return Err("being written"),
        }
        Ok(Mapping(Use { table, file }))
    }
}

impl Writing {
    /// An error says what the file is used for.
    pub(super) fn begin(file: Identity) -> Result<Writing, &'static str> {
        let table = Table::of_this_process();
        match table.files.lock().entry(file).or_insert(Uses::Written(0)) {
            Uses::Written(count) => *count += 1,
            Uses::Mapped(_) => return Err("mapped"),
        }
        Ok(Writing(Use { table, file }))
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        if !self.table.owner.is_current() {
            return;
        }
        let mut files = self.table.files.lock();
        if let Some(Uses::Mapped(count) | Uses::Written(count)) = files.get_mut(&self.file) {
            debug_assert!(*count > 0, "a use ends once");
            *count -= 1;
            if *count == 0 {
                files.remove(&self.file);
            }
        }
    }
}

impl fmt::Debug for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Use").field(&self.file).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_mapped_or_written_but_never_both() {
        // No device has this number.
        let (one, other) = ((u64::MAX, 1), (u64::MAX, 2));
        let maps = [Mapping::begin(one).unwrap(), Mapping::begin(one).unwrap()];
        assert_eq!(Writing::begin(one).unwrap_err(), "mapped");
        let writers = [Writing::begin(other).unwrap(), Writing::begin(other).unwrap()];
        assert_eq!(Mapping::begin(other).unwrap_err(), "being written");
        let [first, second] = maps;
        drop(first);
        assert_eq!(Writing::begin(one).unwrap_err(), "mapped");
        drop(second);
        drop(writers);
        Writing::begin(one).unwrap();
        Mapping::begin(other).unwrap();
        let files = Table::of_this_process().files.lock();
        assert!(!files.contains_key(&one) && !files.contains_key(&other));
    }

    #[test]
    fn a_child_waits_for_no_lock_of_its_parents() {
        let file = (u64::MAX, 3);
        let inherited = Mapping::begin(file).unwrap();
        let files = Table::of_this_process().files.lock();
        let ended = super::super::process::forked(|| {
            // SAFETY: the child uses this copy alone.
            drop(unsafe { ptr::read(&inherited) });
            // As if by another process.
            Writing::begin(file).is_ok() && Mapping::begin(file).is_ok()
        });
        assert_eq!(ended, 0);
        drop(files);
        assert_eq!(Writing::begin(file).unwrap_err(), "mapped");
    }
}
