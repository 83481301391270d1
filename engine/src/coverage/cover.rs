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
        Cover {
            lsns: Table::new(std::iter::empty()),
            tags: Box::default(),
            ends: Box::default(),
            ranks: Runs::new(&[], 0),
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
        self.cut(list)..self.ends[list] as usize
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
    #[inline(always)]
    pub(super) fn band(&self, list: usize, ceiling: u64) -> Band {
        if self.tags.is_empty() {
            return Band::NONE;
        }
        let run = self.run(list);
        let limit = self.lsns.below(ceiling);
        let below = self.ranks.below(run.clone(), |rank| rank < limit);
        // Without a mark below, these are some other list's marks, and of no effect.
        let at = (run.start + below).saturating_sub(1);
        let (last, previous) = (self.ranks.get(at), self.ranks.get(at.saturating_sub(1)));
        let gap = self.tags[last].is_gap();
        let floor = select_unpredictable(gap, self.lsns.get(previous), self.lsns.get(last));
        let tag = select_unpredictable(gap, self.tags[previous], self.tags[last]);
        let top = select_unpredictable(gap, self.lsns.get(last), ceiling);
        let top = select_unpredictable(tag.is_image(), floor + 1, top);
        Band { ceiling: select_unpredictable(below == 0, 0, top), floor, tag }
    }

    /// The same cover with `lists` in the place of those in `replaced`.
    pub(super) fn splice(&self, replaced: Range<usize>, lists: &[Vec<Mark>]) -> Cover {
        let (cut_start, cut_end) = (self.cut(replaced.start), self.cut(replaced.end));
        let mut parts = vec![Part::Old(0..cut_start)];
        let mut ends = self.ends[..replaced.start].to_vec();
        let mut end = cut_start;
        for list in lists {
            parts.push(Part::New(list));
            end += list.len();
            ends.push(end as u32);
        }
        parts.push(Part::Old(cut_end..self.cut(self.len())));
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
        parts.push(Part::Old(copied..self.cut(self.len())));
        let (old_end, end) = (self.run(last - 1).end as u32, end as u32);
        ends[last..].iter_mut().for_each(|other| *other = *other - old_end + end);
        self.assemble(&parts, ends)
    }

    /// A cover of these ranks and marks, one behind the other, with lists that end at `ends`.
    fn assemble(&self, parts: &[Part<'_>], ends: Vec<u32>) -> Cover {
        let mut kept = self.kept(parts);
        let mut fresh: Vec<Mark> = Vec::new();
        let mut found: Vec<Option<usize>> = Vec::new();
        for part in parts {
            if let Part::New(marks) = part {
                found.extend(marks.iter().map(|&mark| {
                    let rank = self.rank(mark);
                    match rank {
                        Some(rank) => kept[rank] = true,
                        None => fresh.push(mark),
                    }
                    rank
                }));
            }
        }
        fresh.sort_unstable();
        fresh.dedup();
        let (marks, names) = self.merged(&kept, &fresh);
        let mut ranks: Vec<u32> = Vec::with_capacity(ends.last().map_or(0, |&end| end as usize));
        let mut found = found.into_iter();
        for part in parts {
            match part {
                Part::Old(run) => self.ranks.rename(run.clone(), &names, &mut ranks),
                Part::New(new) => ranks.extend(new.iter().zip(&mut found).map(|(mark, old)| {
                    let place = || marks.partition_point(|other| other < mark) as u32;
                    old.map_or_else(place, |old| names[old])
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

    /// Which marks some old part still has.
    fn kept(&self, parts: &[Part<'_>]) -> Vec<bool> {
        let old = || {
            parts.iter().filter_map(|part| match part {
                Part::Old(run) => Some(run.clone()),
                Part::New(_) => None,
            })
        };
        let mut cut: Vec<usize> = Vec::new();
        let mut at = 0;
        for run in old().chain(std::iter::once(self.cut(self.len())..0)) {
            cut.extend((at..run.start).map(|at| self.ranks.get(at)));
            at = run.end;
        }
        cut.sort_unstable();
        cut.dedup();
        let mut kept = vec![true; self.lsns.len()];
        for rank in cut {
            kept[rank] = old().any(|run| self.ranks.has(run, rank));
        }
        kept
    }

    /// Where a list begins in the ranks; for the number of lists, where all end.
    fn cut(&self, list: usize) -> usize {
        if list == 0 { 0 } else { self.ends[list - 1] as usize }
    }

    /// The rank of a mark.
    fn rank(&self, mark: Mark) -> Option<usize> {
        let start = self.lsns.below(mark.lsn);
        let same = self.lsns.as_slice()[start..].partition_point(|&lsn| lsn == mark.lsn);
        let at = self.tags[start..start + same].binary_search(&mark.tag).ok()?;
        Some(start + at)
    }

    /// The marks that are `kept` and the `fresh` ones in order, and the new rank of each old mark.
    fn merged(&self, kept: &[bool], fresh: &[Mark]) -> (Vec<Mark>, Vec<u32>) {
        let mut marks = Vec::with_capacity(kept.len() + fresh.len());
        let mut names = Vec::with_capacity(kept.len());
        let mut rest = fresh;
        for (rank, &kept) in kept.iter().enumerate() {
            let mark = self.mark(rank);
            while let Some((&first, others)) =
                rest.split_first().filter(|(first, _)| **first < mark)
            {
                marks.push(first);
                rest = others;
            }
            names.push(if kept { marks.len() as u32 } else { u32::MAX });
            if kept {
                marks.push(mark);
            }
        }
        marks.extend_from_slice(rest);
        (marks, names)
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

    /// How many marks are below `lsn`; all, if there is no limit.
    pub(super) fn below(&self, lsn: Option<u64>) -> usize {
        let Some(lsn) = lsn else { return self.len() };
        let limit = self.cover.lsns.below(lsn);
        self.cover.ranks.below(self.run.clone(), |rank| rank < limit)
    }

    /// Whether the first marks, `count` of them, are those of another list of the same cover.
    pub(super) fn begins_like(&self, other: &List<'_>, count: usize) -> bool {
        let part = |list: &List<'_>| list.run.start..(list.run.start + count).min(list.run.end);
        self.cover.ranks.same(part(self), part(other))
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
