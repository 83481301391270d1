//! [`Scratch`]: the memory that reads work in, so that a warm read allocates nothing.
//!
//! A scratch outlives what reads borrow, so between two reads its list of versions has no honest lifetime. It is kept
//! as `'static` and **emptied before it is lent under another lifetime**; that is this file's one use of `unsafe`.
#![allow(unsafe_code)]

use std::{cell::RefCell, fmt};

use pagestrata_layers::{PageVersion, ScratchArena};

use crate::map::{Found, LayerRef};

/// Working memory of reads: one per thread or task, used again and again.
///
/// What a read returns is borrowed from the scratch as well as from the guard, so one scratch serves one read at a time:
/// the borrow checker sees to it.
#[derive(Default)]
pub struct Scratch {
    arena: ScratchArena,
    found: Found<'static>,
    page: Vec<u8>,
}

/// A scratch made ready for one read.
pub(crate) struct Parts<'s> {
    pub(crate) arena: &'s ScratchArena,
    pub(crate) found: &'s mut Found<'s>,
    pub(crate) page: &'s mut Vec<u8>,
}

impl Scratch {
    /// An empty one. Memory comes with use and stays.
    #[must_use]
    pub fn new() -> Scratch {
        Scratch::default()
    }

    /// What it takes from the allocator, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let Found { versions, sources } = &self.found;
        let lists = versions.capacity() * size_of::<PageVersion<'static>>()
            + sources.capacity() * size_of::<(usize, LayerRef<'static>)>();
        self.arena.bytes() + self.page.capacity() + lists
    }

    /// Empties it and lends its parts.
    pub(crate) fn parts<'s>(&'s mut self) -> Parts<'s> {
        self.arena.reset();
        self.page.clear();
        self.found.clear();
        let found: *mut Found<'static> = &raw mut self.found;
        // SAFETY: the two types differ in a lifetime only, so their layout is the same. The list is empty here, so nothing in
        // it claims to live longer than it does. Whoever holds the result can put in only what lives for `'s`, and
        // `self` stays borrowed for `'s`, so nobody sees these entries under the `'static` of the field: the next one to reach the field is
        // this function, which empties it first (versions and layer references have no drop that would look at them).
        let found: &'s mut Found<'s> = unsafe { &mut *found.cast::<Found<'s>>() };
        Parts { arena: &self.arena, found, page: &mut self.page }
    }
}

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the entries: they are as good as dangling between two reads.
        f.debug_struct("Scratch")
            .field("memory_bytes", &self.memory_bytes())
            .finish_non_exhaustive()
    }
}

/// Runs `read` with a scratch of this thread, or with a new one when that is in use further up the stack.
pub(crate) fn with_thread_scratch<R>(read: impl FnOnce(&mut Scratch) -> R) -> R {
    thread_local! {
        static SCRATCH: RefCell<Scratch> = RefCell::default();
    }
    SCRATCH.with(|scratch| match scratch.try_borrow_mut() {
        Ok(mut scratch) => read(&mut scratch),
        Err(_) => read(&mut Scratch::new()),
    })
}
