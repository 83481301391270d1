//! [`Cover`]: the lists of a node, one for each child, in flat arrays.
//!
//! A layer that covers many children is in as many lists. So a cover keeps each distinct [`Mark`] once, sorted, and a list
//! is a run of ascending ranks in that table, two bytes each. A search ranks its Lsn once in the table and then looks for
//! the last lower rank in a short run of small numbers.
//!
//! Complexity: a look-up is O(log marks); a change is one pass over all arrays.

use std::ops::Range;

use super::marks::{Band, Mark, Tag};

/// Lists of marks, packed.
#[derive(Clone, Debug, Default)]
pub(super) struct Cover {
    /// Lsns of the distinct marks, ascending.
    lsns: Box<[u64]>,
    /// Their tags.
    tags: Box<[Tag]>,
    /// Where each list ends in `ranks`.
    ends: Box<[u32]>,
    /// All lists, one behind the other: places in the table of marks.
    ranks: Ranks,
}

/// Ranks, as narrow as the table of marks allows.
#[derive(Clone, Debug)]
enum Ranks {
    /// Of up to 65,536 marks.
    Short(Box<[u16]>),
    /// Of more.
    Long(Box<[u32]>),
}

impl Default for Ranks {
    fn default() -> Ranks {
        Ranks::Short(Box::default())
    }
}

impl Ranks {
    /// Takes the ranks out of a table of `marks`.
    fn new(ranks: impl Iterator<Item = u32>, marks: usize) -> Ranks {
        if marks <= 1 << 16 {
            Ranks::Short(ranks.map(|rank| rank as u16).collect())
        } else {
            Ranks::Long(ranks.collect())
        }
    }

    /// The rank at a place.
    fn get(&self, at: usize) -> usize {
        match self {
            Ranks::Short(ranks) => ranks[at].into(),
            Ranks::Long(ranks) => ranks[at] as usize,
        }
    }

    /// How many of `run` are below `limit`.
    #[inline]
    fn below(&self, run: Range<usize>, limit: usize) -> usize {
        match self {
            Ranks::Short(ranks) => ranks[run].partition_point(|&rank| usize::from(rank) < limit),
            Ranks::Long(ranks) => ranks[run].partition_point(|&rank| (rank as usize) < limit),
        }
    }
}

impl Cover {
    /// Packs lists.
    pub(super) fn new(lists: &[Vec<Mark>]) -> Cover {
        Cover::default().splice(0..0, lists)
    }

    /// How many lists.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Where a list is in `ranks`.
    #[inline]
    fn run(&self, list: usize) -> Range<usize> {
        let start = if list == 0 { 0 } else { self.ends[list - 1] as usize };
        start..self.ends[list] as usize
    }

    /// The mark of a rank.
    fn mark(&self, rank: usize) -> Mark {
        Mark { lsn: self.lsns[rank], tag: self.tags[rank] }
    }

    /// A list's marks.
    pub(super) fn list(&self, list: usize) -> impl Iterator<Item = Mark> {
        self.run(list).map(|at| self.mark(self.ranks.get(at)))
    }

    /// What a list says to a read at `upper`.
    #[inline]
    pub(super) fn band(&self, list: usize, upper: u64) -> Option<Band> {
        let run = self.run(list);
        if run.is_empty() {
            return None;
        }
        let limit = self.lsns.partition_point(|&lsn| lsn <= upper);
        let below = self.ranks.below(run.clone(), limit);
        let mut at = run.start + below.checked_sub(1)?;
        let mut rank = self.ranks.get(at);
        let mut top = upper;
        if self.tags[rank].is_gap() {
            top = self.lsns[rank] - 1;
            at -= 1;
            rank = self.ranks.get(at);
        }
        let (floor, tag) = (self.lsns[rank], self.tags[rank]);
        let image = tag.is_image();
        let top = if image { floor } else { top };
        Some(Band { top, floor, layer: tag.layer(), image, shared: tag.is_shared() })
    }

    /// The same cover with `lists` in the place of those in `replaced`.
    pub(super) fn splice(&self, replaced: Range<usize>, lists: &[Vec<Mark>]) -> Cover {
        let cut = |list: usize| if list == 0 { 0 } else { self.ends[list - 1] as usize };
        let (cut_start, cut_end, last) = (cut(replaced.start), cut(replaced.end), cut(self.len()));
        let kept = || (0..cut_start).chain(cut_end..last).map(|at| self.ranks.get(at));
        let mut used = vec![false; self.lsns.len()];
        kept().for_each(|rank| used[rank] = true);
        let mut fresh: Vec<Mark> = Vec::new();
        for &mark in lists.iter().flatten() {
            match self.rank(mark) {
                Ok(rank) => used[rank] = true,
                Err(_) => fresh.push(mark),
            }
        }
        fresh.sort_unstable();
        fresh.dedup();
        let (marks, renamed) = self.merged(&used, &fresh);
        let place = |mark: Mark| match self.rank(mark) {
            Ok(rank) => renamed[rank],
            Err(_) => marks.partition_point(|&other| other < mark) as u32,
        };
        let old = |range: Range<usize>| range.map(|at| renamed[self.ranks.get(at)]);
        let middle = lists.iter().flatten().map(|&mark| place(mark));
        let ranks = old(0..cut_start).chain(middle).chain(old(cut_end..last));
        let ranks = Ranks::new(ranks, marks.len());
        let mut ends: Vec<u32> = self.ends[..replaced.start].to_vec();
        let mut end = cut_start;
        ends.extend(lists.iter().map(|list| {
            end += list.len();
            end as u32
        }));
        ends.extend(self.ends[replaced.end..].iter().map(|&old| old + end as u32 - cut_end as u32));
        Cover {
            lsns: marks.iter().map(|mark| mark.lsn).collect(),
            tags: marks.iter().map(|mark| mark.tag).collect(),
            ends: ends.into(),
            ranks,
        }
    }

    /// The rank of a mark, or where it would be.
    fn rank(&self, mark: Mark) -> Result<usize, usize> {
        let start = self.lsns.partition_point(|&lsn| lsn < mark.lsn);
        let same = self.lsns[start..].partition_point(|&lsn| lsn == mark.lsn);
        match self.tags[start..start + same].binary_search(&mark.tag) {
            Ok(at) => Ok(start + at),
            Err(at) => Err(start + at),
        }
    }

    /// The marks still `used` and the `fresh` ones in order, and the new rank of each old mark.
    fn merged(&self, used: &[bool], fresh: &[Mark]) -> (Vec<Mark>, Vec<u32>) {
        let mut marks = Vec::with_capacity(used.len() + fresh.len());
        let mut renamed = Vec::with_capacity(used.len());
        let mut rest = fresh;
        for (rank, &used) in used.iter().enumerate() {
            let mark = self.mark(rank);
            while let Some((&first, others)) =
                rest.split_first().filter(|(first, _)| **first < mark)
            {
                marks.push(first);
                rest = others;
            }
            renamed.push(if used { marks.len() as u32 } else { u32::MAX });
            if used {
                marks.push(mark);
            }
        }
        marks.extend_from_slice(rest);
        (marks, renamed)
    }

    /// Heap bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        let ranks = match &self.ranks {
            Ranks::Short(ranks) => size_of_val(&**ranks),
            Ranks::Long(ranks) => size_of_val(&**ranks),
        };
        size_of_val(&*self.lsns) + size_of_val(&*self.tags) + size_of_val(&*self.ends) + ranks
    }
}
