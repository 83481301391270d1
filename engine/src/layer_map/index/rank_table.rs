//! Ranking a number in a short sorted table, in constant time whatever the answer; and packed
//! positions in a table.
//!
//! A binary search that ends where the table is exhausted mispredicts its last branches, and a
//! search of the map ranks four times. Here a number is compared with the last number of each
//! block, and then with all numbers of one block, without branches.

use std::ops::Range;

/// Numbers per block.
const BLOCK: usize = 16;
/// The number of samples is a multiple of this.
const LINE: usize = 8;
/// Up to this many samples are compared one by one; more are searched by bisection.
const SAMPLES_MAX: usize = 64;
/// Padding, above all numbers that [`count_below`] can compare.
const PADDING: u64 = (1 << 63) - 1;

/// Ascending numbers. The last number of each block is stored before them, so that a search reads
/// two runs of adjacent memory, each as a whole.
#[derive(Clone, Debug)]
pub(super) struct Table {
    /// The last number of each full block, padded to whole cache lines; then the numbers, padded to
    /// whole blocks.
    words: Box<[u64]>,
    /// Number of words before the numbers.
    samples: u32,
    /// How many numbers.
    len: u32,
    /// Whether a number is too high for [`count_below`].
    high: bool,
}

impl Table {
    /// Packs numbers.
    pub(super) fn new(numbers: &[u64]) -> Table {
        debug_assert!(numbers.is_sorted(), "a table is ascending");
        let len = numbers.len();
        let samples = (len / BLOCK).next_multiple_of(LINE);
        // One block more if the last one is full: all numbers may be below the limit.
        let mut words = Vec::with_capacity(samples + (len / BLOCK + 1) * BLOCK);
        words.extend(numbers.chunks_exact(BLOCK).map(|block| block[BLOCK - 1]));
        words.resize(samples, PADDING);
        words.extend_from_slice(numbers);
        words.resize(samples + (len / BLOCK + 1) * BLOCK, PADDING);
        debug_assert!(words.len() > samples + len, "a number is not below the last one");
        let high = numbers.last().is_some_and(|&last| last >= PADDING);
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
        debug_assert!(rank < self.words.len() - self.samples as usize);
        self.words[self.samples as usize + rank]
    }

    /// The numbers.
    pub(super) fn as_slice(&self) -> &[u64] {
        &self.words[self.samples as usize..][..self.len()]
    }

    /// Returns how many are below `limit`.
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

    /// Returns how many are not above `number`.
    #[inline(always)]
    pub(super) fn not_above(&self, number: u64) -> usize {
        if self.high {
            return self.as_slice().partition_point(|&other| other <= number);
        }
        // What is above all numbers is still below the padding.
        self.below(number.min(PADDING - 1) + 1)
    }

    /// Heap bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        size_of_val(&*self.words)
    }
}

/// Returns how many of `N` numbers are below `limit`, which must be at most [`PADDING`]; a number
/// at or above 2^63 does not count. Uses operations that baseline vector units have for 64-bit
/// numbers; a comparison is not one of them.
#[inline(always)]
fn count_below<const N: usize>(numbers: &[u64], limit: u64) -> usize {
    let numbers: &[u64; N] = numbers.try_into().expect("that many");
    numbers.iter().fold(0, |count, &number| count + (number.wrapping_sub(limit) >> 63)) as usize
}

/// A table of at most this length has positions of one byte.
const BYTES_MAX: usize = 1 << 8;
/// A table of at most this length has positions of two bytes.
const SHORT_MAX: usize = 1 << 16;

/// With more moves than this, positions are looked up one by one; up to here, one vectorized pass
/// per move is faster.
const PASSES_MAX: usize = 8;

/// A run of a table's positions that stay together when the table changes.
#[derive(Debug, PartialEq)]
pub(super) struct MovedRun {
    /// Where they were.
    pub(super) old: Range<usize>,
    /// Where the first of them is now.
    pub(super) new: usize,
}

/// A piece of [`Indices`] under construction.
pub(super) enum Part<'a> {
    /// A run of old positions.
    Old(Range<usize>),
    /// New positions.
    New(&'a [u32]),
}

impl Part<'_> {
    /// Appends a run of old positions, to the last part if the run continues it.
    pub(super) fn append(parts: &mut Vec<Part<'_>>, run: Range<usize>) {
        match parts.last_mut() {
            Some(Part::Old(last)) if last.end == run.start => last.end = run.end,
            _ if run.is_empty() => {}
            _ => parts.push(Part::Old(run)),
        }
    }
}

/// A position in a table.
trait Place: Copy + PartialOrd {
    /// Number of positions.
    const COUNT: usize;
    /// Converts a position that is known to fit.
    fn new(place: usize) -> Self;
    /// Converts to an index.
    fn get(self) -> usize;
    /// Adds, modulo the type's range.
    fn plus(self, other: Self) -> Self;
}

macro_rules! places {
    ($($number:ty)*) => {$(
        impl Place for $number {
            const COUNT: usize = 1 << <$number>::BITS;

            fn new(place: usize) -> $number {
                place as $number
            }

            fn get(self) -> usize {
                self as usize
            }

            fn plus(self, other: $number) -> $number {
                self.wrapping_add(other)
            }
        }
    )*};
}

places!(u8 u16 u32);

/// Concatenates the parts; all positions must be below `limit` afterwards.
fn assembled<P: Place>(old: &[P], parts: &[Part<'_>], moved: &[MovedRun], limit: usize) -> Vec<P> {
    let len = |part: &Part<'_>| match part {
        Part::Old(run) => run.len(),
        Part::New(places) => places.len(),
    };
    let mut places = Vec::with_capacity(parts.iter().map(len).sum());
    for part in parts {
        match part {
            Part::Old(run) => {
                let from = places.len();
                places.extend_from_slice(&old[run.clone()]);
                rename(&mut places[from..], moved, limit);
                debug_assert!(places[from..].iter().all(|place| place.get() < limit));
            }
            Part::New(new) => places.extend(new.iter().map(|&place| P::new(place as usize))),
        }
    }
    places
}

/// Renames positions to what they are now, all below `limit`.
///
/// The passes apply the moves from the last one on. After some of them, a position is what it would
/// be in a table of which only the end was changed, so it can be higher than before and after, by
/// as many as were removed before it. With 256 positions of one byte that may exceed a byte, and
/// then positions are looked up instead.
fn rename<P: Place>(places: &mut [P], moved: &[MovedRun], limit: usize) {
    let lost = moved.iter().map(|moved| moved.old.start.saturating_sub(moved.new)).max();
    let fits = limit + lost.unwrap_or(0) <= P::COUNT;
    if moved.len() > PASSES_MAX || !fits {
        let mut names: Vec<P> = Vec::new();
        for MovedRun { old, new } in moved {
            names.resize(old.start, P::new(0));
            names.extend((0..old.len()).map(|at| P::new(new + at)));
        }
        places.iter_mut().for_each(|place| *place = names[place.get()]);
        return;
    }
    // From the last one down, so that a moved position is not moved again.
    for (at, MovedRun { old, new }) in moved.iter().enumerate().rev() {
        let shift = |moved: &MovedRun| moved.new.wrapping_sub(moved.old.start);
        let before = moved[..at].last().map_or(0, shift);
        let more = new.wrapping_sub(old.start).wrapping_sub(before);
        if more != 0 {
            let (start, more, zero) = (P::new(old.start), P::new(more), P::new(0));
            for place in &mut *places {
                *place = place.plus(if *place >= start { more } else { zero });
            }
        }
    }
}

/// Positions in a table, as narrow as its length allows.
#[derive(Clone, Debug)]
pub(super) enum Indices {
    /// Below 256.
    Bytes(Box<[u8]>),
    /// Below 65,536.
    Short(Box<[u16]>),
    /// Any.
    Long(Box<[u32]>),
}

impl Indices {
    /// Packs positions, all below `limit`.
    pub(super) fn new(places: &[u32], limit: usize) -> Indices {
        debug_assert!(places.iter().all(|&place| (place as usize) < limit));
        if limit <= BYTES_MAX {
            Indices::Bytes(places.iter().map(|&place| place as u8).collect())
        } else if limit <= SHORT_MAX {
            Indices::Short(places.iter().map(|&place| place as u16).collect())
        } else {
            Indices::Long(places.into())
        }
    }

    /// How many.
    pub(super) fn len(&self) -> usize {
        match self {
            Indices::Bytes(places) => places.len(),
            Indices::Short(places) => places.len(),
            Indices::Long(places) => places.len(),
        }
    }

    /// One of them.
    #[inline(always)]
    pub(super) fn get(&self, at: usize) -> usize {
        match self {
            Indices::Bytes(places) => places[at].into(),
            Indices::Short(places) => places[at].into(),
            Indices::Long(places) => places[at] as usize,
        }
    }

    /// Whether two runs are equal.
    pub(super) fn same(&self, one: Range<usize>, other: Range<usize>) -> bool {
        match self {
            Indices::Bytes(places) => places[one] == places[other],
            Indices::Short(places) => places[one] == places[other],
            Indices::Long(places) => places[one] == places[other],
        }
    }

    /// Whether a part of old positions contains a position.
    pub(super) fn has(&self, part: &Part<'_>, place: usize) -> bool {
        let Part::Old(run) = part else { return false };
        // Without an early exit, so that the compiler vectorizes the loop.
        match self {
            Indices::Bytes(places) => {
                places[run.clone()].iter().fold(false, |has, &at| has | (at == place as u8))
            }
            Indices::Short(places) => {
                places[run.clone()].iter().fold(false, |has, &at| has | (at == place as u16))
            }
            Indices::Long(places) => {
                places[run.clone()].iter().fold(false, |has, &at| has | (at == place as u32))
            }
        }
    }

    /// Marks the positions that occur in a run.
    pub(super) fn note(&self, run: Range<usize>, used: &mut [bool]) {
        match self {
            Indices::Bytes(places) => {
                places[run].iter().for_each(|&place| used[usize::from(place)] = true);
            }
            Indices::Short(places) => {
                places[run].iter().for_each(|&place| used[usize::from(place)] = true);
            }
            Indices::Long(places) => {
                places[run].iter().for_each(|&place| used[place as usize] = true);
            }
        }
    }

    /// Concatenates old positions, renamed by `moved`, and new ones, all below `limit`.
    pub(super) fn assemble(&self, parts: &[Part<'_>], moved: &[MovedRun], limit: usize) -> Indices {
        match self {
            Indices::Bytes(old) if limit <= BYTES_MAX => {
                Indices::Bytes(assembled(old, parts, moved, limit).into())
            }
            Indices::Short(old) if (BYTES_MAX + 1..=SHORT_MAX).contains(&limit) => {
                Indices::Short(assembled(old, parts, moved, limit).into())
            }
            _ => {
                let old: Vec<u32> = (0..self.len()).map(|at| self.get(at) as u32).collect();
                Indices::new(&assembled(&old, parts, moved, limit), limit)
            }
        }
    }

    /// Heap bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Indices::Bytes(places) => size_of_val(&**places),
            Indices::Short(places) => size_of_val(&**places),
            Indices::Long(places) => size_of_val(&**places),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_equal_a_count() {
        for count in 0..150u32 {
            let table =
                Table::new(&(0..count).map(|number| u64::from(number) * 2).collect::<Vec<_>>());
            for limit in 0..310usize {
                let below = limit.div_ceil(2).min(count as usize);
                assert_eq!(table.below(limit as u64), below);
            }
        }
    }
    /// Compares with a look-up position by position, around the sizes at which positions get wider.
    #[test]
    fn places_follow_their_table() {
        let mut random = fastrand::Rng::with_seed(9);
        for round in 0..4000 {
            let size = if round % 20 == 0 { SHORT_MAX } else { BYTES_MAX };
            let (old_len, mut moved) = (size - random.usize(..3), Vec::<MovedRun>::new());
            // Runs that stay, some positions lost between them, some new ones.
            let (mut at, mut new) = (random.usize(..2), random.usize(..2));
            while at < old_len {
                let end = (at + random.usize(1..=size / 3)).min(old_len);
                moved.push(MovedRun { old: at..end, new });
                new += end - at;
                at = end + random.usize(..3);
                new += random.usize(..3);
            }
            let places: Vec<u32> =
                moved.iter().flat_map(|moved| moved.old.clone()).map(|at| at as u32).collect();
            let expected: Vec<usize> = moved
                .iter()
                .flat_map(|moved| (0..moved.old.len()).map(|at| moved.new + at))
                .collect();
            let old = Indices::new(&places, old_len);
            let assembled = old.assemble(&[Part::Old(0..places.len())], &moved, new);
            let found: Vec<usize> = (0..assembled.len()).map(|at| assembled.get(at)).collect();
            assert!(found == expected, "{moved:?} of {old_len}, {new} then");
        }
    }
}
