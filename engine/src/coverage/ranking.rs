//! Ranking a number in a short sorted table, at the same pace whatever the answer.
//!
//! A binary search that ends where the table is exhausted guesses its last turns wrong, and a search of the map ranks a
//! dozen times. Here a few halvings, as many for all tables of about one size, leave a stretch of fixed length, in which all
//! numbers are compared. A table is padded so that the stretch may reach over its end.

use std::ops::Range;

/// Numbers of a [`Table`] that are compared in full, and padding behind it.
/// The same for [`Runs`].
const STRETCH: usize = 16;

/// Numbers of a block.
const BLOCK: usize = 16;
/// Samples come in multiples of this.
const LINE: usize = 8;
/// Samples that are compared one by one; more are searched by halving.
const SAMPLES_MAX: usize = 64;
/// Padding, above all numbers that [`count_below`] can compare.
const PADDING: u64 = (1 << 63) - 1;

/// Ascending numbers. In front of them stands the last one of each block, so that a search looks at two stretches of
/// neighbouring memory, each as a whole.
#[derive(Clone, Debug)]
pub(super) struct Table {
    /// The last number of each full block, padded to whole lines; then the numbers, padded to whole blocks.
    words: Box<[u64]>,
    /// How many words are in front of the numbers.
    samples: u32,
    /// How many numbers.
    len: u32,
    /// Whether a number is too high for [`count_below`].
    high: bool,
}

impl Table {
    /// Packs numbers.
    pub(super) fn new(numbers: impl ExactSizeIterator<Item = u64> + Clone) -> Table {
        let len = numbers.len();
        let samples = (len / BLOCK).next_multiple_of(LINE);
        // One block more if the last one is full: all numbers may be below.
        let mut words = Vec::with_capacity(samples + (len / BLOCK + 1) * BLOCK);
        words.extend(numbers.clone().skip(BLOCK - 1).step_by(BLOCK));
        words.resize(samples, PADDING);
        words.extend(numbers);
        words.resize(samples + (len / BLOCK + 1) * BLOCK, PADDING);
        let high = words[samples..samples + len].last().is_some_and(|&last| last >= PADDING);
        Table { words: words.into(), samples: samples as u32, len: len as u32, high }
    }

    /// How many numbers.
    #[inline(always)]
    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    /// The number of a rank.
    #[inline(always)]
    pub(super) fn get(&self, rank: usize) -> u64 {
        self.words[self.samples as usize + rank]
    }

    /// The numbers.
    pub(super) fn as_slice(&self) -> &[u64] {
        &self.words[self.samples as usize..][..self.len()]
    }

    /// How many are below `limit`.
    #[inline(always)]
    pub(super) fn below(&self, limit: u64) -> usize {
        let (samples, numbers) = self.words.split_at(self.samples as usize);
        if self.high || samples.len() > SAMPLES_MAX || limit > PADDING {
            return self.as_slice().partition_point(|&number| number < limit);
        }
        let lines = samples.chunks_exact(LINE);
        let blocks: usize = lines.map(|line| count_below::<LINE>(line, limit)).sum();
        blocks * BLOCK + count_below::<BLOCK>(&numbers[blocks * BLOCK..][..BLOCK], limit)
    }

    /// Heap bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        size_of_val(&*self.words)
    }
}

/// How many of `N` numbers are below `limit`, at most [`PADDING`]; a number at or above 2^63 is not. By operations that
/// the smallest vector units have for 64-bit numbers, which comparison is not.
#[inline(always)]
fn count_below<const N: usize>(numbers: &[u64], limit: u64) -> usize {
    let numbers: &[u64; N] = numbers.try_into().expect("that many");
    numbers.iter().fold(0, |count, &number| count + (number.wrapping_sub(limit) >> 63)) as usize
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
        if limit < 1 << 16 {
            let mut short = Vec::with_capacity(ranks.len() + STRETCH);
            short.extend(ranks.iter().map(|&rank| rank as u16));
            short.resize(ranks.len() + STRETCH, 0);
            Runs::Short(short.into())
        } else {
            let mut long = Vec::with_capacity(ranks.len() + STRETCH);
            long.extend_from_slice(ranks);
            long.resize(ranks.len() + STRETCH, 0);
            Runs::Long(long.into())
        }
    }

    /// The rank at a place.
    #[inline(always)]
    pub(super) fn get(&self, at: usize) -> usize {
        match self {
            Runs::Short(ranks) => ranks[at].into(),
            Runs::Long(ranks) => ranks[at] as usize,
        }
    }

    /// Whether a rank is somewhere in a run.
    pub(super) fn has(&self, run: Range<usize>, rank: usize) -> bool {
        // Without a way out of the loop, so that many are compared at a time.
        match self {
            Runs::Short(ranks) => {
                ranks[run].iter().fold(false, |found, &other| found | (other == rank as u16))
            }
            Runs::Long(ranks) => {
                ranks[run].iter().fold(false, |found, &other| found | (other == rank as u32))
            }
        }
    }

    /// Whether two runs are equal.
    pub(super) fn same(&self, one: Range<usize>, other: Range<usize>) -> bool {
        match self {
            Runs::Short(ranks) => ranks[one] == ranks[other],
            Runs::Long(ranks) => ranks[one] == ranks[other],
        }
    }

    /// Appends what a run's ranks are called now.
    pub(super) fn rename(&self, run: Range<usize>, names: &[u32], renamed: &mut Vec<u32>) {
        match self {
            Runs::Short(ranks) => {
                renamed.extend(ranks[run].iter().map(|&rank| names[usize::from(rank)]));
            }
            Runs::Long(ranks) => {
                renamed.extend(ranks[run].iter().map(|&rank| names[rank as usize]));
            }
        }
    }

    /// How many ranks of a run are `lower`, which those in front are and those behind are not.
    #[inline(always)]
    pub(super) fn below(&self, run: Range<usize>, lower: impl Fn(usize) -> bool) -> usize {
        match self {
            Runs::Short(ranks) => below(ranks, run, |rank| lower(rank.into())),
            Runs::Long(ranks) => below(ranks, run, |rank| lower(rank as usize)),
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

/// How many ranks of a run are `lower`.
#[inline(always)]
fn below<R: Copy>(ranks: &[R], run: Range<usize>, lower: impl Fn(R) -> bool) -> usize {
    if run.is_empty() {
        return 0;
    }
    let (mut start, mut len) = (run.start, run.len());
    while len >= STRETCH {
        let quarter = len / 4;
        start += quarter * quarters_below(|at| lower(ranks[start + at * quarter - 1]));
        len -= 3 * quarter;
    }
    let stretch: &[R; STRETCH] = ranks[start..start + STRETCH].try_into().expect("that long");
    let lower = |at: usize| lower(stretch[at & (STRETCH - 1)]) & (at < len);
    let mut below = 4 * quarters_below(|at| lower(at * 4 - 1));
    below += quarters_below(|at| lower(below + at - 1));
    start + below - run.start
}

/// How many of the three bounds between quarters are below. Asked for all at once, they cost one wait instead of two.
#[inline(always)]
fn quarters_below(lower: impl Fn(usize) -> bool) -> usize {
    usize::from(lower(1)) + usize::from(lower(2)) + usize::from(lower(3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_equal_a_count() {
        for count in 0..150u32 {
            let ranks: Vec<u32> =
                (0..7).chain((0..count).map(|rank| rank * 2)).chain(0..9).collect();
            let run = 7..7 + count as usize;
            let runs = [Runs::new(&ranks, 1 << 16), Runs::new(&ranks, 1 << 17)];
            let table = Table::new((0..count).map(|number| u64::from(number) * 2));
            for limit in 0..310usize {
                let below = limit.div_ceil(2).min(count as usize);
                assert!(runs.iter().all(|it| it.below(run.clone(), |rank| rank < limit) == below));
                assert_eq!(table.below(limit as u64), below);
            }
        }
    }
}
