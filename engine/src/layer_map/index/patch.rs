//! [`Patch`]: how one layer changes one list.
//!
//! A layer changes marks only from its first Lsn to its end. To compute the new ones there, it is
//! enough to know the layers that begin there and the one delta that comes in from below. If
//! several come in, the sweep begins further down, where at most one does. Lists of wide ranges
//! have hundreds of marks and one layer is in dozens of lists, so this decides what an edit costs.

use std::ops::Range;

use super::{
    LayerSlot,
    child_lists::{Cover, List},
    lsn_bands::{Mark, Span, Sweep},
};

/// Marks that replace others.
pub(super) struct Patch {
    /// The columns whose marks the patch depends on.
    pub(super) seen: Range<usize>,
    /// The columns whose marks are removed: all or none of an Lsn.
    pub(super) cut: Range<usize>,
    /// The marks that replace them.
    pub(super) marks: Vec<Mark>,
}

impl Patch {
    /// Returns a patch that fills an empty list.
    pub(super) fn list(marks: Vec<Mark>) -> Patch {
        Patch { seen: 0..0, cut: 0..0, marks }
    }
}

/// Returns the patch that adds a layer to a list or removes it. `end_of` returns where a delta
/// ends.
pub(super) fn patch_of(
    cover: &Cover,
    list: usize,
    span: Span,
    insert: bool,
    end_of: impl Fn(LayerSlot) -> Option<u64>,
) -> Patch {
    debug_assert!(span.end.is_none_or(|end| span.start < end), "a layer has an Lsn");
    let list = cover.list(list);
    let high = span.end.unwrap_or(span.start.saturating_add(1));
    let to = cover.columns_below(high.checked_add(1));
    let below = list.within(0..cover.columns_below(Some(span.start)));
    let (low, incoming, from) = incoming(below, span.start);
    let cut = cover.columns_below(Some(low))..to;
    let members = list.within(cut.clone()).filter(|mark| mark.tag.is_member());
    let mut spans: Vec<Span> = members
        .map(|Mark { lsn, tag }| Span {
            start: lsn,
            end: if tag.is_image() { None } else { end_of(tag.layer()) },
            layer: tag.layer(),
        })
        .filter(|other| other.layer != span.layer)
        .collect();
    if insert {
        spans.push(span);
    }
    let incoming = incoming.and_then(|layer| Some((end_of(layer)?, layer)));
    let sweep = Sweep::behind(list.within(0..cut.start).next_back(), low);
    let marks = sweep.run(&mut spans, incoming.filter(|&(end, _)| end >= low), low, high);
    debug_assert!(from <= cut.start && cut.end <= to, "what is cut out was looked at");
    debug_assert!(marks.is_sorted_by_key(|mark| mark.lsn), "marks ascend");
    Patch { seen: from..to, cut, marks }
}

/// Returns the highest Lsn from `low` down where at most one delta comes in from below, that delta,
/// and the lowest column that was read for this. `below` holds the marks of the list below `low`.
fn incoming(mut below: List<'_>, mut low: u64) -> (u64, Option<LayerSlot>, usize) {
    let mut above = low;
    let mut marks = below.clone();
    while let Some(mark) = marks.next_back() {
        if mark.tag.is_shared() {
            // Several come in at `low`: continue at the next lower Lsn with a mark.
            let next = below.next_back().map_or(low, |mark| mark.lsn);
            while below.clone().next_back().is_some_and(|mark| mark.lsn == next) {
                below.next_back();
            }
            (low, above, marks) = (next, next, below.clone());
        } else if !mark.tag.is_image() {
            return (low, mark.tag.opens_band().then(|| mark.tag.layer()), marks.end());
        } else if mark.lsn + 1 < above {
            // Between an image and the next mark is nothing, unless that follows directly.
            return (low, None, marks.end());
        } else {
            above = mark.lsn;
        }
    }
    (low, None, 0)
}
