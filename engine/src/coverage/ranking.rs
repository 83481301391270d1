//! Ranking a number in a short sorted table, at the same pace whatever the answer.
//!
//! A binary search that ends where the table is exhausted guesses its last turns wrong, and a search of the map ranks a
//! dozen times. Here a few halvings, as many for all tables of about one size, leave a stretch of fixed length, in which all
//! numbers are compared. A table is padded so that the stretch may reach over its end.

use std::{hint::select_unpredictable, ops::Range};

/// Numbers of a [`Table`] that are compared in full, and padding behind it.
const TABLE_STRETCH: usize = 0;
/// The same for [`Runs`].
const RUNS_STRETCH: usize = 16;

/// Ascending numbers, all below `u64::MAX`.
#[derive(Clone, Debug)]
pub(super) struct Table {
    /// The numbers, and `u64::MAX` as padding.
    padded: Box<[u64]>,
}

impl Table {
    /// Packs numbers.
    pub(super) fn new(numbers: impl ExactSizeIterator<Item = u64>) -> Table {
        let count = numbers.len();
        let mut padded = Vec::with_capacity(count + TABLE_STRETCH);
        padded.extend(numbers);
        padded.resize(count + TABLE_STRETCH, u64::MAX);
        Table { padded: padded.into() }
    }

    /// How many numbers.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.padded.len() - TABLE_STRETCH
    }

    /// The number of a rank.
    #[inline]
    pub(super) fn get(&self, rank: usize) -> u64 {
        self.padded[rank]
    }

    /// The numbers.
    pub(super) fn as_slice(&self) -> &[u64] {
        &self.padded[..self.len()]
    }

    /// How many are below `limit`.
    #[inline]
    pub(super) fn below(&self, limit: u64) -> usize {
        self.as_slice().partition_point(|&number| number < limit)
    }

    /// Heap bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        size_of_val(&*self.padded)
    }
}

/// Runs of ascending ranks, one behind the other, as narrow as the highest rank allows.
#[derive(Clone, Debug)]
pub(super) enum Runs {
    /// Ranks below 65,536, and padding.
    Short(Box<[u16]>),
    /// Any, and padding.
    Long(Box<[u32]>),
}

impl Runs {
    /// Packs ranks, all below `limit`.
    pub(super) fn new(ranks: &[u32], limit: usize) -> Runs {
        let padded = || ranks.iter().copied().chain(std::iter::repeat_n(0, RUNS_STRETCH));
        if limit < 1 << 16 {
            let mut short = Vec::with_capacity(ranks.len() + RUNS_STRETCH);
            short.extend(padded().map(|rank| rank as u16));
            Runs::Short(short.into())
        } else {
            Runs::Long(padded().collect::<Vec<_>>().into())
        }
    }

    /// The rank at a place.
    #[inline]
    pub(super) fn get(&self, at: usize) -> usize {
        match self {
            Runs::Short(ranks) => ranks[at].into(),
            Runs::Long(ranks) => ranks[at] as usize,
        }
    }

    /// Calls `take` with each rank of a run.
    #[inline]
    pub(super) fn each(&self, run: Range<usize>, mut take: impl FnMut(usize)) {
        match self {
            Runs::Short(ranks) => ranks[run].iter().for_each(|&rank| take(rank.into())),
            Runs::Long(ranks) => ranks[run].iter().for_each(|&rank| take(rank as usize)),
        }
    }

    /// How many ranks of a run are below `limit`.
    #[inline]
    pub(super) fn below(&self, run: Range<usize>, limit: usize) -> usize {
        match self {
            Runs::Short(ranks) if limit <= usize::from(u16::MAX) => {
                below_short(ranks, run, limit as u16)
            }
            Runs::Short(_) => run.len(),
            Runs::Long(ranks) => ranks[run].partition_point(|&rank| (rank as usize) < limit),
        }
    }

    /// Heap bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Runs::Short(ranks) => size_of_val(&**ranks),
            Runs::Long(ranks) => size_of_val(&**ranks),
        }
    }
}

/// How many numbers of a short run are below `limit`.
#[inline]
fn below_short(ranks: &[u16], run: Range<usize>, limit: u16) -> usize {
    let (mut start, mut len) = (run.start, run.len());
    while len > RUNS_STRETCH {
        let half = len / 2;
        let lower = ranks[start + half - 1] < limit;
        start = select_unpredictable(lower, start + half, start);
        len -= half;
    }
    let stretch: &[u16; RUNS_STRETCH] =
        ranks[start..start + RUNS_STRETCH].try_into().expect("of that length");
    let len = len as u16;
    let mut lower = 0u16;
    for at in 0..RUNS_STRETCH {
        lower += u16::from(stretch[at] < limit) & u16::from((at as u16) < len);
    }
    start - run.start + usize::from(lower)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_equal_a_count() {
        for count in 0..70u32 {
            let numbers: Vec<u64> = (0..count).map(|number| u64::from(number / 2) * 3).collect();
            let table = Table::new(numbers.iter().copied());
            assert_eq!(table.as_slice(), numbers);
            let ranks: Vec<u32> =
                (0..7).chain((0..count).map(|rank| rank * 2)).chain(0..9).collect();
            let run = 7..7 + count as usize;
            let runs = [Runs::new(&ranks, 1 << 16), Runs::new(&ranks, 1 << 17)];
            for limit in 0..150 {
                let below = numbers.iter().filter(|&&number| number < limit).count();
                assert_eq!(table.below(limit), below);
                for runs in &runs {
                    let below =
                        ranks[run.clone()].iter().filter(|&&rank| rank < limit as u32).count();
                    assert_eq!(runs.below(run.clone(), limit as usize), below);
                }
            }
            assert_eq!(table.below(u64::MAX), numbers.len());
        }
    }
}
