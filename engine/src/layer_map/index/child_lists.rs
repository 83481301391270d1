//! [`Cover`]: the lists of a node, one for each child, in flat arrays.
//!
//! The lists of a node share their Lsns: layers that are created together end at one Lsn, and a
//! layer that covers many children is in as many lists. So a cover stores each Lsn once, as a
//! *column*, and a list is a row of bits: the columns in which it has a mark. A word of a row holds
//! 32 such bits and, above them, the number of marks before it, in all lists together. A search
//! ranks its Lsn once among the columns; one word then gives the last mark below that Lsn, and the
//! position of its tag.
//!
//! **Invariants:** an Lsn has as many columns as the list with the most marks at it needs; a list's
//! marks at an Lsn are in the first of these columns, one each. Each column and each tag is used by
//! some list.
//!
//! Complexity: a look-up is O(log columns); a change is one pass over all arrays. A column costs at
//! most 8 bytes and a quarter byte per list, whatever its lists hold.

use std::{hint::select_unpredictable, ops::Range};

use super::{
    lsn_bands::{Band, Mark, Tag, are_sound},
    patch::Patch,
    rank_table::{Indices, MovedRun, Part, Table},
};

/// Columns of a word.
const WORD: usize = 32;

/// The half of a word that holds the bits of the columns.
const BITS: u64 = u32::MAX as u64;
/// Up to this many tags are each searched for among many marks at a time; with more tags, each mark
/// is looked up.
const SCANS_MAX: usize = 8;

/// Lists of marks, packed.
#[derive(Clone, Debug)]
pub(super) struct Cover {
    /// Lsns of the columns, ascending.
    lsns: Table,
    /// [`Cover::width`] words for each list and one more. Lower half: columns with a mark, lowest
    /// first; upper half: number of marks before the word.
    words: Box<[u64]>,
    /// For each mark, list by list, the position of its tag.
    places: Indices,
    /// The distinct tags.
    tags: Box<[Tag]>,
    /// How many lists.
    len: u32,
    /// Words of a list.
    width: u32,
}

/// A list of a cover under construction.
#[derive(Clone, Copy)]
pub(super) struct Row {
    /// The list of the old cover that it takes over.
    pub(super) old: Option<usize>,
    /// The patch that changes it.
    pub(super) patch: Option<usize>,
}

impl Row {
    /// An old list, unchanged.
    pub(super) fn kept(list: usize) -> Row {
        Row { old: Some(list), patch: None }
    }
}

impl Default for Cover {
    fn default() -> Cover {
        Cover {
            lsns: Table::new(&[]),
            words: Box::new([0]),
            places: Indices::new(&[], 0),
            tags: Box::default(),
            len: 0,
            width: 0,
        }
    }
}

impl Cover {
    /// Packs lists.
    pub(super) fn new(lists: Vec<Vec<Mark>>) -> Cover {
        Cover::default().splice(0..0, lists)
    }

    /// How many lists.
    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether the marks of each list are as [`lsn_bands`](super::lsn_bands) wants them. O(marks).
    pub(super) fn is_sound(&self) -> bool {
        (0..self.len()).all(|list| are_sound(self.list(list)))
    }

    /// Returns the number of columns.
    pub(super) fn columns(&self) -> usize {
        self.lsns.len()
    }

    /// Returns how many columns are below `lsn`; all, if there is no limit.
    pub(super) fn columns_below(&self, lsn: Option<u64>) -> usize {
        lsn.map_or(self.columns(), |lsn| self.lsns.below(lsn))
    }

    /// A list.
    pub(super) fn list(&self, list: usize) -> List<'_> {
        debug_assert!(list < self.len());
        let row = list * self.width as usize;
        List { cover: self, row, columns: 0..self.columns(), marks: self.marks(list) }
    }

    /// Returns the marks of a list below `ceiling`; none if there are none.
    #[inline]
    pub(super) fn list_below(&self, list: usize, ceiling: u64) -> Option<List<'_>> {
        if self.tags.is_empty() {
            return None;
        }
        let (row, columns) = (list * self.width as usize, self.lsns.below(ceiling));
        let marks = front(self.words[row])..self.mark_at(row, columns);
        (!marks.is_empty()).then_some(List { cover: self, row, columns: 0..columns, marks })
    }

    /// The first mark of a row at or behind a column.
    #[inline(always)]
    fn mark_at(&self, row: usize, column: usize) -> usize {
        let word = self.words[row + column / WORD];
        front(word) + ((word as u32) & ((1 << (column % WORD)) - 1)).count_ones() as usize
    }

    /// A list's marks.
    fn marks(&self, list: usize) -> Range<usize> {
        let width = self.width as usize;
        front(self.words[list * width])..front(self.words[(list + 1) * width])
    }

    /// The words of a list.
    fn row(&self, list: usize) -> &[u64] {
        let width = self.width as usize;
        &self.words[list * width..][..width]
    }

    /// The tag of a mark.
    #[inline(always)]
    fn tag(&self, mark: usize) -> Tag {
        self.tags[self.places.get(mark)]
    }

    /// Returns the band of a list below `ceiling`. It has no branch that depends on the answer: a
    /// search reads several lists, and a misprediction costs more than all their loads.
    #[inline(always)]
    pub(super) fn band(&self, list: usize, ceiling: u64) -> Band {
        if self.tags.is_empty() {
            return Band::NONE;
        }
        let limit = self.lsns.below(ceiling);
        let row = list * self.width as usize;
        let at = row + limit / WORD;
        let word = self.words[at];
        let lower = word & ((1 << (limit % WORD)) - 1);
        let end = front(word) + (lower as u32).count_ones() as usize;
        let below = end - front(self.words[row]);
        // Without a mark below, these are marks of another list, and have no effect.
        let tags = [self.tag(end.saturating_sub(1)), self.tag(end.saturating_sub(2))];
        // The columns from the preceding word on. They nearly always contain the last two marks, so
        // this condition comes first: it is predictable.
        let word = select_unpredictable(
            at == row,
            self.words[row] & !BITS,
            self.words[at.saturating_sub(1)],
        );
        let near = lower << WORD | word & BITS;
        let farther = front(word) > front(self.words[row]);
        let [last, previous] = if farther && near & near.wrapping_sub(1) == 0 {
            self.last_two(row, at, lower)
        } else {
            let last = highest(near);
            [last, highest(near & !(1 << last))]
                .map(|bit| (limit / WORD * WORD + bit).saturating_sub(WORD))
        };
        let gap = tags[0].is_gap();
        let floor = self.lsns.get(select_unpredictable(gap, previous, last));
        let tag = select_unpredictable(gap, tags[1], tags[0]);
        let top = select_unpredictable(gap, self.lsns.get(last), ceiling);
        let top = select_unpredictable(tag.is_image(), floor + 1, top);
        Band { ceiling: select_unpredictable(below == 0, 0, top), floor, tag }
    }

    /// Returns the last two columns of a row in the words up to `at`, counting only the bits
    /// `lower` of that word; zero if there are none.
    #[cold]
    fn last_two(&self, row: usize, at: usize, lower: u64) -> [usize; 2] {
        let mut found = [0; 2];
        let (mut at, mut bits) = (at, lower);
        for column in &mut found {
            while bits == 0 && at > row {
                at -= 1;
                bits = self.words[at] & BITS;
            }
            *column = (at - row) * WORD + highest(bits);
            bits &= !(1 << highest(bits));
        }
        found
    }

    /// Returns the same cover with `lists` in place of those in `replaced`.
    pub(super) fn splice(&self, replaced: Range<usize>, lists: Vec<Vec<Mark>>) -> Cover {
        let patches: Vec<Patch> = lists.into_iter().map(Patch::list).collect();
        let new = |patch| Row { old: None, patch: Some(patch) };
        let rows = (0..replaced.start).map(Row::kept).chain((0..patches.len()).map(new));
        let rows: Vec<Row> = rows.chain((replaced.end..self.len()).map(Row::kept)).collect();
        self.remap(&rows, &patches)
    }

    /// Returns a cover of these lists only, each as often as it is named.
    pub(super) fn select(&self, lists: impl Iterator<Item = usize>) -> Cover {
        let rows: Vec<Row> = lists.map(Row::kept).collect();
        self.remap(&rows, &[])
    }

    /// Returns a cover of lists of this one and of patched and new ones. Each of the `patches`
    /// belongs to a row.
    pub(super) fn remap(&self, rows: &[Row], patches: &[Patch]) -> Cover {
        let marks: Vec<[Range<usize>; 2]> =
            rows.iter().map(|row| self.kept_marks(row, patches)).collect();
        let lost = self.lost(rows, &marks);
        let columns = self.merged_columns(rows, patches, lost.is_empty());
        let (tags, moved) = self.merged_tags(patches, &marks, &lost);
        let place = |mark: &Mark| tags.partition_point(|&tag| tag < mark.tag) as u32;
        let fresh: Vec<Vec<u32>> =
            patches.iter().map(|patch| patch.marks.iter().map(place).collect()).collect();
        let mut parts: Vec<Part<'_>> = Vec::with_capacity(rows.len());
        for (row, [head, tail]) in rows.iter().zip(marks) {
            Part::append(&mut parts, head);
            parts.extend(row.patch.map(|patch| Part::New(&fresh[patch])));
            Part::append(&mut parts, tail);
        }
        let places = self.places.assemble(&parts, &moved, tags.len());
        let words = self.assembled_words(rows, patches, &columns);
        debug_assert!(words.last().is_some_and(|&last| front(last) == places.len()));
        debug_assert!(tags.is_sorted() && columns.lsns.is_sorted(), "both are searched by halving");
        Cover {
            width: columns.lsns.len().div_ceil(WORD) as u32,
            lsns: Table::new(&columns.lsns),
            words: words.into(),
            places,
            tags: tags.into(),
            len: rows.len() as u32,
        }
    }

    /// Returns the words of a cover of these rows and columns.
    fn assembled_words(&self, rows: &[Row], patches: &[Patch], columns: &Columns) -> Vec<u64> {
        let fresh: Vec<Vec<usize>> = patches.iter().map(|patch| columns.of(&patch.marks)).collect();
        let width = columns.lsns.len().div_ceil(WORD);
        let mut words = vec![0; rows.len() * width + 1];
        // The number may be the same although some columns are gone and as many are new.
        let all = MovedRun { old: 0..self.columns(), new: 0 };
        let same = *columns.moved == [all] && columns.lsns.len() == self.columns();
        let mut marks = 0_u64;
        for (at, row) in rows.iter().enumerate() {
            let bits = &mut words[at * width..][..width];
            if let (true, Some(old), None) = (same, row.old, row.patch) {
                // As before, except for the number of marks before each word.
                let old = &self.words[old * width..][..width + 1];
                let more = (marks << 32).wrapping_sub(old[0] & !BITS);
                bits.iter_mut().zip(old).for_each(|(bits, old)| *bits = old.wrapping_add(more));
                marks += (old[width] >> 32) - (old[0] >> 32);
                continue;
            }
            if let Some(old) = row.old {
                let old = &self.words[old * self.width as usize..];
                for kept in self.kept(row, patches) {
                    columns.copy(old, kept, bits);
                }
            }
            let fresh = row.patch.map_or(&[][..], |patch| &fresh[patch]);
            fresh.iter().for_each(|column| bits[column / WORD] |= 1 << (column % WORD));
            for bits in bits {
                let count = (*bits as u32).count_ones();
                *bits |= marks << 32;
                marks += u64::from(count);
            }
        }
        words[rows.len() * width] = marks << 32;
        words
    }

    /// Returns the columns that a row keeps of its old list: those before a patch and those after
    /// it.
    fn kept(&self, row: &Row, patches: &[Patch]) -> [Range<usize>; 2] {
        let all = self.columns();
        let cut = row.patch.map_or(all..all, |patch| patches[patch].cut.clone());
        [0..cut.start, cut.end..all]
    }

    /// Returns the marks that a row keeps of its old list.
    fn kept_marks(&self, row: &Row, patches: &[Patch]) -> [Range<usize>; 2] {
        let Some(old) = row.old else { return [0..0, 0..0] };
        let (row_start, all) = (old * self.width as usize, self.marks(old));
        let Some(patch) = row.patch else { return [all.clone(), all.end..all.end] };
        let cut = &patches[patch].cut;
        [all.start..self.mark_at(row_start, cut.start), self.mark_at(row_start, cut.end)..all.end]
    }

    /// Returns the marks that no row keeps: those that a patch cuts, and those of lists without a
    /// row. May include some that a row keeps.
    fn lost(&self, rows: &[Row], marks: &[[Range<usize>; 2]]) -> Vec<Range<usize>> {
        let mut absent = vec![true; self.len()];
        let mut lost = Vec::new();
        for (row, [head, tail]) in rows.iter().zip(marks) {
            if let Some(old) = row.old {
                absent[old] = false;
                lost.push(head.end..tail.start);
            }
        }
        lost.extend((0..self.len()).filter(|&list| absent[list]).map(|list| self.marks(list)));
        lost.retain(|run| !run.is_empty());
        lost
    }

    /// Returns the columns of a cover of these rows. A column can be unused only if a mark is lost.
    fn merged_columns(&self, rows: &[Row], patches: &[Patch], all: bool) -> Columns {
        let mut used = vec![true; self.columns()];
        if !all {
            let mut bits = vec![0; self.width as usize];
            for row in rows {
                let words = bits.iter_mut().zip(row.old.map_or(&[][..], |old| self.row(old)));
                if row.patch.is_none() {
                    words.for_each(|(bits, word)| *bits |= word);
                } else {
                    let [head, tail] = self.kept(row, patches);
                    let kept = |at| low_bits(head.end, at) | !low_bits(tail.start, at);
                    words.enumerate().for_each(|(at, (bits, word))| *bits |= word & kept(at));
                }
            }
            for (at, used) in used.iter_mut().enumerate() {
                *used = bits[at / WORD] >> (at % WORD) & 1 == 1;
            }
        }
        let mut fresh: Vec<(u64, usize)> = Vec::new();
        for marks in patches.iter().flat_map(|patch| patch.marks.chunk_by(|a, b| a.lsn == b.lsn)) {
            let lsn = marks[0].lsn;
            let first = self.lsns.below(lsn);
            let same = self.lsns.as_slice()[first..].iter().take(marks.len());
            let same = same.take_while(|&&other| other == lsn).count();
            used[first..first + same].fill(true);
            fresh.extend((same..marks.len()).map(|copy| (lsn, copy)));
        }
        fresh.sort_unstable();
        fresh.dedup();
        let fresh: Vec<u64> = fresh.into_iter().map(|(lsn, _)| lsn).collect();
        let (lsns, moved) = merged(self.lsns.as_slice(), &used, &fresh);
        Columns { lsns, moved }
    }

    /// Returns the tags of a cover with old marks and those of patches, and where the old tags
    /// move.
    fn merged_tags(
        &self,
        patches: &[Patch],
        marks: &[[Range<usize>; 2]],
        lost: &[Range<usize>],
    ) -> (Vec<Tag>, Vec<MovedRun>) {
        let note = |runs: &mut dyn Iterator<Item = &Range<usize>>| {
            let mut noted = vec![false; self.tags.len()];
            runs.for_each(|run| self.places.note(run.clone(), &mut noted));
            noted
        };
        let mut lost = note(&mut lost.iter());
        let mut fresh = Vec::new();
        for mark in patches.iter().flat_map(|patch| &patch.marks) {
            match self.tags.binary_search(&mark.tag) {
                Ok(at) => lost[at] = false,
                Err(_) => fresh.push(mark.tag),
            }
        }
        fresh.sort_unstable();
        fresh.dedup();
        let rare = lost.iter().filter(|&&lost| lost).count();
        if rare > SCANS_MAX {
            let kept = note(&mut marks.iter().flatten());
            lost.iter_mut().zip(kept).for_each(|(lost, kept)| *lost &= !kept);
        } else {
            let mut runs = Vec::new();
            marks.iter().flatten().for_each(|run| Part::append(&mut runs, run.clone()));
            for (place, lost) in lost.iter_mut().enumerate().filter(|(_, lost)| **lost) {
                *lost = !runs.iter().any(|run| self.places.has(run, place));
            }
        }
        let used: Vec<bool> = lost.iter().map(|lost| !lost).collect();
        merged(&self.tags, &used, &fresh)
    }

    /// Returns its heap memory, in bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        self.lsns.heap_bytes()
            + size_of_val(&*self.words)
            + self.places.heap_bytes()
            + size_of_val(&*self.tags)
    }
}

/// Returns how many marks are before a word.
#[inline(always)]
fn front(word: u64) -> usize {
    (word >> 32) as usize
}

/// Returns the highest bit of a number; 0 for 0.
#[inline(always)]
fn highest(bits: u64) -> usize {
    (63 - (bits | 1).leading_zeros()) as usize
}

/// Returns the bits of a row's word for columns below `column`.
fn low_bits(column: usize, word: usize) -> u64 {
    let bits = column.saturating_sub(word * WORD).min(WORD);
    (1 << bits) - 1
}

/// Merges the `old` items that are `used` with the `fresh` ones, in order. Returns also where the
/// used ones move. A fresh item comes after its equals.
fn merged<T: Copy + Ord>(old: &[T], used: &[bool], fresh: &[T]) -> (Vec<T>, Vec<MovedRun>) {
    let mut items = Vec::with_capacity(old.len() + fresh.len());
    let mut moved: Vec<MovedRun> = Vec::new();
    let next_unused = |from: usize| {
        used[from..].iter().position(|used| !used).map_or(old.len(), |more| from + more)
    };
    let (mut at, mut unused, mut rest) = (0, next_unused(0), fresh);
    loop {
        let behind = |item| at + old[at..].partition_point(|other| other <= item);
        let end = rest.first().map_or(old.len(), behind).min(unused);
        match moved.last_mut() {
            _ if at == end => {}
            Some(last) if last.old.end == at && last.new + last.old.len() == items.len() => {
                last.old.end = end;
            }
            _ => moved.push(MovedRun { old: at..end, new: items.len() }),
        }
        items.extend_from_slice(&old[at..end]);
        at = end;
        if end == unused && end < old.len() {
            at += 1;
            unused = next_unused(at);
        } else if let Some((&first, others)) = rest.split_first() {
            items.push(first);
            rest = others;
        } else {
            return (items, moved);
        }
    }
}

/// The columns of a cover under construction.
struct Columns {
    /// Their Lsns.
    lsns: Vec<u64>,
    /// Where the old ones move.
    moved: Vec<MovedRun>,
}

impl Columns {
    /// Returns the columns of a list's marks; the first mark must be the first at its Lsn.
    fn of(&self, marks: &[Mark]) -> Vec<usize> {
        let mut columns: Vec<usize> = Vec::with_capacity(marks.len());
        for (at, mark) in marks.iter().enumerate() {
            columns.push(match marks[..at].last() {
                Some(before) if before.lsn == mark.lsn => columns[at - 1] + 1,
                _ => self.lsns.partition_point(|&lsn| lsn < mark.lsn),
            });
        }
        columns
    }

    /// Sets the bits that an old row, which is before `row`, has in a range of columns.
    fn copy(&self, row: &[u64], range: Range<usize>, bits: &mut [u64]) {
        for MovedRun { old, new } in &self.moved {
            let mut from = old.start.max(range.start);
            let end = old.end.min(range.end);
            while from < end {
                let to = new + from - old.start;
                let count = (WORD - to % WORD).min(end - from);
                let two = row[from / WORD] & BITS | row[from / WORD + 1] << WORD;
                bits[to / WORD] |= (two >> (from % WORD) & ((1 << count) - 1)) << (to % WORD);
                from += count;
            }
        }
    }
}

/// One list of a cover.
#[derive(Clone, Debug)]
pub(super) struct List<'a> {
    /// The cover that it belongs to.
    cover: &'a Cover,
    /// Where its words begin.
    row: usize,
    /// The columns not taken yet.
    columns: Range<usize>,
    /// The marks not taken yet.
    marks: Range<usize>,
}

impl<'a> List<'a> {
    /// Returns the marks in some of the columns.
    pub(super) fn within(&self, columns: Range<usize>) -> List<'a> {
        let marks =
            self.cover.mark_at(self.row, columns.start)..self.cover.mark_at(self.row, columns.end);
        List { cover: self.cover, row: self.row, columns, marks }
    }

    /// Whether it has the same marks as another list of the same cover in some of the columns.
    pub(super) fn is_like(&self, other: &List<'_>, columns: Range<usize>) -> bool {
        let words = columns.start / WORD..columns.end.div_ceil(WORD);
        let differ = words.fold(0, |differ, at| {
            let mask = low_bits(columns.end, at) & !low_bits(columns.start, at);
            let [one, other] = [self, other].map(|list| list.cover.words[list.row + at]);
            differ | (one ^ other) & mask
        });
        let places = &self.cover.places;
        differ == 0 && places.same(self.within(columns.clone()).marks, other.within(columns).marks)
    }

    /// Returns the column of the mark that `next_back` returned last.
    pub(super) fn end(&self) -> usize {
        self.columns.end
    }

    /// Returns the bits of the word of a column.
    fn bits(&self, column: usize) -> u64 {
        self.cover.words[self.row + column / WORD] & BITS
    }
}

impl Iterator for List<'_> {
    type Item = Mark;

    fn next(&mut self) -> Option<Mark> {
        let mark = self.marks.next()?;
        let mut column = self.columns.start;
        let mut bits = self.bits(column) >> (column % WORD);
        while bits == 0 {
            column = column / WORD * WORD + WORD;
            bits = self.bits(column);
        }
        column += bits.trailing_zeros() as usize;
        self.columns.start = column + 1;
        Some(Mark { lsn: self.cover.lsns.get(column), tag: self.cover.tag(mark) })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.marks.size_hint()
    }
}

impl DoubleEndedIterator for List<'_> {
    #[inline]
    fn next_back(&mut self) -> Option<Mark> {
        let mark = self.marks.next_back()?;
        let mut end = self.columns.end;
        let mut bits = self.bits(end - 1) & low_bits(end, (end - 1) / WORD);
        while bits == 0 {
            end = (end - 1) / WORD * WORD;
            bits = self.bits(end - 1);
        }
        let column = (end - 1) / WORD * WORD + highest(bits);
        self.columns.end = column;
        Some(Mark { lsn: self.cover.lsns.get(column), tag: self.cover.tag(mark) })
    }
}

impl ExactSizeIterator for List<'_> {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::{
            LayerSlot,
            lsn_bands::{Span, marks_of},
        },
        *,
    };

    /// Marks of some layers; few layers with many Lsns, or many with few.
    fn list() -> impl Strategy<Value = Vec<Mark>> {
        let span =
            |lsns: u64| {
                (0..lsns, prop::option::of(1..lsns), 0..400u32).prop_map(|(start, len, layer)| {
                    Span { start, end: len.map(|len| start + len), layer: LayerSlot(layer) }
                })
            };
        let spans = |lsns, most| prop::collection::btree_set(span(lsns), 0..most);
        prop_oneof![spans(4, 12), spans(400, 4), spans(400, 60)].prop_map(|spans| {
            let mut layers = std::collections::BTreeSet::new();
            let fresh = |span: &Span| layers.insert(span.layer);
            marks_of(&mut spans.into_iter().filter(fresh).collect::<Vec<_>>())
        })
    }

    /// Compares a cover with its lists, in every way.
    fn check(cover: &Cover, lists: &[Vec<Mark>]) -> Result<(), TestCaseError> {
        prop_assert_eq!(cover.len(), lists.len());
        let marks = || lists.iter().flatten();
        let tags: std::collections::BTreeSet<Tag> = marks().map(|mark| mark.tag).collect();
        prop_assert_eq!(&*cover.tags, &*tags.into_iter().collect::<Vec<_>>());
        let lsns: std::collections::BTreeSet<u64> = marks().map(|mark| mark.lsn).collect();
        for (at, list) in lists.iter().enumerate() {
            prop_assert_eq!(&cover.list(at).collect::<Vec<_>>(), list);
            let mut back: Vec<Mark> = cover.list(at).rev().collect();
            back.reverse();
            prop_assert_eq!(&back, list);
            for &lsn in &lsns {
                let below = cover.list(at).within(0..cover.columns_below(Some(lsn)));
                let expected = list.iter().filter(|mark| mark.lsn < lsn);
                prop_assert!(below.eq(expected.copied()));
            }
            for (other, marks) in lists.iter().enumerate() {
                let same = cover.list(at).is_like(&cover.list(other), 0..cover.columns());
                prop_assert_eq!(same, list == marks);
            }
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn lists_equal_what_they_are_made_of(
            mut lists in prop::collection::vec(list(), 1..12),
            more in prop::collection::vec(list(), 0..4),
            (one, two) in any::<(prop::sample::Index, prop::sample::Index)>(),
            low in 0..400u64,
        ) {
            let cover = Cover::new(lists.clone());
            check(&cover, &lists)?;
            let (one, two) = (one.index(lists.len()), two.index(lists.len()));
            let (start, end) = (one.min(two), one.max(two));
            // Each list from one on takes over what another list has from an Lsn on.
            let cut = cover.columns_below(Some(low))..cover.columns();
            let tail = lists[two].iter().copied().filter(|mark| mark.lsn >= low);
            let patch = Patch { seen: 0..0, cut, marks: tail.collect() };
            let mut patched = lists.clone();
            let mut rows: Vec<Row> = (0..lists.len()).map(Row::kept).collect();
            for (row, list) in rows[start..].iter_mut().zip(&mut patched[start..]) {
                row.patch = Some(0);
                list.retain(|mark| mark.lsn < low);
                list.extend_from_slice(&patch.marks);
            }
            check(&cover.remap(&rows, &[patch]), &patched)?;
            let twice = (0..=end).chain(start..lists.len());
            let expected: Vec<_> = twice.clone().map(|list| lists[list].clone()).collect();
            check(&cover.select(twice), &expected)?;
            check(&cover.select(start..end), &lists[start..end])?;
            let spliced = cover.splice(start..end, more.clone());
            lists.splice(start..end, more);
            check(&spliced, &lists)?;
        }
    }
}
