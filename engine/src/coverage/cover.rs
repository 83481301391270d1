//! [`Cover`]: the lists of a node, one for each child, in flat arrays.
//!
//! A layer that covers many children is in as many lists. So a cover keeps each distinct [`Mark`] once, sorted, and a list
//! is a run of ascending ranks in that table, two bytes each. A search ranks its Lsn once in the table and then looks for
//! the last lower rank in a short run of small numbers.
//!
//! Complexity: a look-up is O(log marks); a change is one pass over all arrays.

use std::{hint::select_unpredictable, ops::Range};

use super::{
    marks::{Band, Mark, Tag},
    patch::Patch,
    ranking::{Runs, Table},
};

/// Lists of marks, packed.
#[derive(Clone, Debug)]
pub(super) struct Cover {
    /// Lsns of the distinct marks, ascending.
    lsns: Table,
    /// Their tags.
    tags: Box<[Tag]>,
    /// Where each list ends in `ranks`.
    ends: Box<[u32]>,
    /// All lists, one behind the other: places in the table of marks.
    ranks: Runs,
}

impl Default for Cover {
    fn default() -> Cover {
        let lsns = Table::new(std::iter::empty());
        Cover { lsns, tags: Box::default(), ends: Box::default(), ranks: Runs::new(&[], 0) }
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
        Mark { lsn: self.lsns.get(rank), tag: self.tags[rank] }
    }

    /// A list.
    pub(super) fn list(&self, list: usize) -> List<'_> {
        List { cover: self, run: self.run(list) }
    }

    /// What a list says to a read below `ceiling`. Free of branches that depend on the answer: a search asks several lists,
    /// and a wrong guess costs more than all their loads.
    #[inline]
    pub(super) fn band(&self, list: usize, ceiling: u64) -> Band {
        if self.tags.is_empty() {
            return Band::NONE;
        }
        let run = self.run(list);
        let limit = self.lsns.below(ceiling);
        let below = self.ranks.below(run.clone(), limit);
        // Without a mark below, this is some other list's mark, and of no effect.
        let at = (run.start + below).saturating_sub(1);
        let last = self.ranks.get(at);
        let gap = self.tags[last].is_gap();
        let opening = self.ranks.get(at.saturating_sub(gap.into()));
        let (floor, tag) = (self.lsns.get(opening), self.tags[opening]);
        let top = select_unpredictable(gap, self.lsns.get(last), ceiling);
        let top = select_unpredictable(tag.is_image(), floor + 1, top);
        Band { ceiling: select_unpredictable(below == 0, 0, top), floor, tag }
    }

    /// The same cover with `lists` in the place of those in `replaced`.
    pub(super) fn splice(&self, replaced: Range<usize>, lists: &[Vec<Mark>]) -> Cover {
        let cut = |list: usize| if list == 0 { 0 } else { self.ends[list - 1] as usize };
        let (cut_start, cut_end) = (cut(replaced.start), cut(replaced.end));
        let mut parts = vec![Part::Old(0..cut_start)];
        let mut ends = self.ends[..replaced.start].to_vec();
        let mut end = cut_start;
        for list in lists {
            parts.push(Part::New(list));
            end += list.len();
            ends.push(end as u32);
        }
        parts.push(Part::Old(cut_end..cut(self.len())));
        ends.extend(self.ends[replaced.end..].iter().map(|&old| old - cut_end as u32 + end as u32));
        self.assemble(&parts, ends)
    }

    /// The same cover with a patch to each of the lists from `first` on.
    pub(super) fn patch(&self, first: usize, patches: &[Patch]) -> Cover {
        let mut parts = Vec::with_capacity(patches.len() * 4);
        let mut ends = self.ends.to_vec();
        let (mut copied, mut end) = (0, self.run(first).start);
        for (list, patch) in (first..).zip(patches) {
            let run = self.run(list);
            let mut at = run.start + patch.cut.start;
            let (cut_end, mut fresh) = (run.start + patch.cut.end, &*patch.marks);
            end += run.len() + fresh.len() - patch.cut.len();
            ends[list] = end as u32;
            parts.push(Part::Old(copied..at));
            while at < cut_end || !fresh.is_empty() {
                let same = (at..cut_end)
                    .zip(fresh)
                    .take_while(|&(at, &mark)| self.mark(self.ranks.get(at)) == mark);
                let same = same.count();
                parts.push(Part::Old(at..at + same));
                (at, fresh) = (at + same, &fresh[same..]);
                let old = (at < cut_end).then(|| self.mark(self.ranks.get(at)));
                let new =
                    fresh.iter().take_while(|&&mark| old.is_none_or(|old| mark < old)).count();
                parts.push(Part::New(&fresh[..new]));
                fresh = &fresh[new..];
                let new = fresh.first();
                while at < cut_end && new.is_none_or(|&new| self.mark(self.ranks.get(at)) < new) {
                    at += 1;
                }
            }
            copied = cut_end;
        }
        let last = first + patches.len();
        parts.push(Part::Old(copied..self.ends.last().map_or(0, |&end| end as usize)));
        let (old_end, end) = (self.run(last - 1).end as u32, end as u32);
        ends[last..].iter_mut().for_each(|other| *other = *other - old_end + end);
        self.assemble(&parts, ends)
    }

    /// A cover of these ranks and marks, one behind the other, with lists that end at `ends`.
    fn assemble(&self, parts: &[Part<'_>], ends: Vec<u32>) -> Cover {
        let mut used = vec![false; self.lsns.len()];
        let mut fresh: Vec<Mark> = Vec::new();
        let mut found: Vec<Option<usize>> = Vec::new();
        for part in parts {
            match part {
                Part::Old(range) => self.ranks.each(range.clone(), |rank| used[rank] = true),
                Part::New(marks) => found.extend(marks.iter().map(|&mark| {
                    let rank = self.rank(mark);
                    match rank {
                        Some(rank) => used[rank] = true,
                        None => fresh.push(mark),
                    }
                    rank
                })),
            }
        }
        fresh.sort_unstable();
        fresh.dedup();
        let (marks, renamed) = self.merged(&used, &fresh);
        let mut ranks: Vec<u32> = Vec::with_capacity(ends.last().map_or(0, |&end| end as usize));
        let mut found = found.into_iter();
        for part in parts {
            match part {
                Part::Old(range) => {
                    self.ranks.each(range.clone(), |rank| ranks.push(renamed[rank]))
                }
                Part::New(new) => ranks.extend(new.iter().zip(&mut found).map(|(mark, old)| {
                    let place = || marks.partition_point(|other| other < mark) as u32;
                    old.map_or_else(place, |old| renamed[old])
                })),
            }
        }
        debug_assert!(ends.last().is_none_or(|&end| end as usize == ranks.len()));
        Cover {
            lsns: Table::new(marks.iter().map(|mark| mark.lsn)),
            tags: marks.iter().map(|mark| mark.tag).collect(),
            ends: ends.into(),
            ranks: Runs::new(&ranks, marks.len()),
        }
    }

    /// The rank of a mark.
    fn rank(&self, mark: Mark) -> Option<usize> {
        let start = self.lsns.below(mark.lsn);
        let same = self.lsns.as_slice()[start..].partition_point(|&lsn| lsn == mark.lsn);
        let at = self.tags[start..start + same].binary_search(&mark.tag).ok()?;
        Some(start + at)
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
        self.lsns.heap_bytes()
            + size_of_val(&*self.tags)
            + size_of_val(&*self.ends)
            + self.ranks.heap_bytes()
    }
}

/// A piece of a cover to be.
enum Part<'a> {
    /// Ranks of the old one.
    Old(Range<usize>),
    /// Marks, known to the old one or not.
    New(&'a [Mark]),
}

/// One list of a cover.
#[derive(Clone)]
pub(super) struct List<'a> {
    /// Of this cover.
    cover: &'a Cover,
    /// Where in its ranks; from the front on already taken.
    run: Range<usize>,
}

impl List<'_> {
    /// The mark at a place.
    pub(super) fn get(&self, at: usize) -> Mark {
        self.cover.mark(self.cover.ranks.get(self.run.start + at))
    }

    /// The place of the first mark at or above `lsn`.
    pub(super) fn first_from(&self, lsn: u64) -> usize {
        let limit = self.cover.lsns.below(lsn);
        self.cover.ranks.below(self.run.clone(), limit)
    }
}

impl Iterator for List<'_> {
    type Item = Mark;

    fn next(&mut self) -> Option<Mark> {
        self.run.next().map(|at| self.cover.mark(self.cover.ranks.get(at)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.run.size_hint()
    }
}

impl ExactSizeIterator for List<'_> {}
