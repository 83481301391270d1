//! What a copy of a page costs on this machine, now.

use std::{cell::RefCell, hint::black_box};

use crate::{
    measure::{Run, Sample, Turns, timed},
    random::Random,
};

const PAGE_LEN: usize = 8192;

/// Memory to copy from.
#[derive(Debug)]
pub struct Normalisers {
    pages: Vec<u8>,
    copies: usize,
    state: RefCell<(Random, Vec<u8>)>,
}

impl Normalisers {
    /// As much memory as the size of the run says.
    #[must_use]
    pub fn new(run: &Run) -> Normalisers {
        let len = run.size(1 << 30, 8 << 20);
        // Not zero: every page is touched here.
        let pages = vec![1; len];
        let state = RefCell::new((Random(run.seed), vec![0; PAGE_LEN]));
        Normalisers { pages, copies: run.size(50_000, 100), state }
    }

    /// Adds the two copies as candidates.
    pub fn add_to<'a>(&'a self, turns: &mut Turns<'a>) {
        turns.add("memcpy of 8 KiB, hot", || self.copies(1));
        turns.add("memcpy of 8 KiB, random pages of 1 GiB", || {
            self.copies(self.pages.len() / PAGE_LEN)
        });
    }

    fn copies(&self, pages: usize) -> Sample {
        let (random, target) = &mut *self.state.borrow_mut();
        let at: Vec<usize> =
            (0..self.copies).map(|_| random.below(pages as u64) as usize * PAGE_LEN).collect();
        let ((), sample) = timed(self.copies as u64, || {
            for at in at {
                target.copy_from_slice(&self.pages[at..at + PAGE_LEN]);
                black_box(&mut *target);
            }
        });
        assert!(target.iter().all(|&byte| byte == 1));
        sample
    }
}
