//! [`ProcessMark`]: which process made something, told apart across `fork`.
//!
//! A process id is not enough: ids are used again, and a descendant may get that of an ancestor
//! that has ended. The mark is a word in a page that the kernel empties in every forked child
//! (`MADV_WIPEONFORK`, Linux 4.14), however the child was forked. A process writes a number into
//! its own page when it first needs one, and numbers only grow along a line of descent, so no
//! process ever has the number of one that it descends from. `vfork` and threads share the page,
//! and the mark with it.
#![allow(unsafe_code)]

use std::{
    ptr,
    sync::atomic::{AtomicPtr, AtomicU64, Ordering},
};

use super::mapping::kernel_page_bytes;

/// The process that made something, as long as that is not forked.
///
/// [`ProcessMark::is_current`] is false in a child that `fork` made, whose memory holds a copy of
/// whatever has the mark. It costs two loads.
///
/// ```
/// let mark = pagestrata_layers::storage::ProcessMark::current();
/// assert!(mark.is_current());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProcessMark(u64);

/// The page, once there is one.
static PAGE: AtomicPtr<AtomicU64> = AtomicPtr::new(ptr::null_mut());
/// Stands in for the page where the kernel empties none: then the process id is the mark.
static NO_PAGE: AtomicU64 = AtomicU64::new(0);
/// The highest number that this process or one that it descends from has given itself.
static LAST: AtomicU64 = AtomicU64::new(0);

impl ProcessMark {
    /// The mark of this process.
    #[must_use]
    pub fn current() -> ProcessMark {
        let word = word();
        if ptr::eq(word, &raw const NO_PAGE) {
            return ProcessMark(std::process::id().into());
        }
        let found = word.load(Ordering::Relaxed);
        if found != 0 {
            return ProcessMark(found);
        }
        let new = LAST.fetch_add(1, Ordering::Relaxed) + 1;
        match word.compare_exchange(0, new, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => ProcessMark(new),
            Err(others) => ProcessMark(others),
        }
    }

    /// Whether this process is the one that [`ProcessMark::current`] was called in.
    #[must_use]
    #[inline]
    pub fn is_current(self) -> bool {
        let word = word();
        word.load(Ordering::Relaxed) == self.0
            || ptr::eq(word, &raw const NO_PAGE) && u64::from(std::process::id()) == self.0
    }
}

#[inline]
fn word() -> &'static AtomicU64 {
    let word = PAGE.load(Ordering::Acquire);
    if word.is_null() {
        return make_page();
    }
    // SAFETY: not null, so `make_page` has stored it: a page that is never unmapped and holds zeros
    // or what was stored through this type, or a static.
    unsafe { &*word }
}

/// Maps the page. Without a lock, which a child could inherit locked: of two threads one wins.
#[cold]
fn make_page() -> &'static AtomicU64 {
    let len = kernel_page_bytes();
    // SAFETY: a new private mapping that touches no memory that is in use.
    let page = unsafe {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        libc::mmap(ptr::null_mut(), len, access, kind, -1, 0)
    };
    let is_mapped = page != libc::MAP_FAILED;
    // SAFETY: an advice on the whole of the new mapping, which nothing else knows yet.
    let is_wiped = is_mapped && unsafe { libc::madvise(page, len, libc::MADV_WIPEONFORK) } == 0;
    let word = if is_wiped { page.cast() } else { (&raw const NO_PAGE).cast_mut() };
    debug_assert!(word.is_aligned() && !word.is_null());
    let stored = PAGE.compare_exchange(ptr::null_mut(), word, Ordering::AcqRel, Ordering::Acquire);
    if is_mapped && (stored.is_err() || !is_wiped) {
        // SAFETY: mapped above, and nothing has learnt of it.
        unsafe { libc::munmap(page, len) };
    }
    // SAFETY: as in `word`; a page is aligned for a word, and an `AtomicU64` may be changed through
    // a shared reference.
    unsafe { &*stored.err().unwrap_or(word) }
}

/// Runs `child` in a forked process. Returns its exit status, 0 for true.
#[cfg(test)]
pub(super) fn forked(child: impl FnOnce() -> bool) -> libc::c_int {
    // SAFETY: the child ends at once, without unwinding, and glibc's allocator can be used in it.
    match unsafe { libc::fork() } {
        -1 => panic!("{}", std::io::Error::last_os_error()),
        0 => {
            let status = i32::from(!child());
            // SAFETY: ends the process at once.
            unsafe { libc::_exit(status) }
        }
        pid => {
            let mut status = 0;
            // SAFETY: waits for the child and stores its status.
            assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
            status
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_child_has_a_mark_of_its_ancestors() {
        let mark = ProcessMark::current();
        assert!(mark.is_current() && mark == ProcessMark::current());
        assert_eq!(forked(|| !mark.is_current()), 0, "a child has its parent's mark");
        let of_the_child = || {
            let own = ProcessMark::current();
            own != mark && own.is_current() && !mark.is_current()
        };
        assert_eq!(forked(of_the_child), 0);
        let of_the_grandchild = || {
            let own = ProcessMark::current();
            let below = forked(|| !own.is_current() && !mark.is_current());
            below == 0 && own.is_current() && !mark.is_current()
        };
        assert_eq!(forked(of_the_grandchild), 0);
        assert!(mark.is_current(), "what children do changes nothing here");
    }

    #[test]
    fn threads_have_the_mark_of_their_process() {
        let mark = ProcessMark::current();
        assert!(std::thread::spawn(move || mark.is_current()).join().unwrap());
    }
}
