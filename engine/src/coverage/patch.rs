//! [`Patch`]: how one layer changes one list.
//!
//! A layer changes marks only from its first Lsn to its end. To find the new ones there it is enough to know the layers that
//! begin there and the delta that comes in from below, unless several deltas cover a part of it; then the whole list is
//! swept again. Lists of wide ranges have hundreds of marks and one layer is in dozens of lists, so this decides what an
//! edit costs.

use std::ops::Range;

use super::{
    LayerIndex,
    cover::List,
    marks::{Mark, Span, Sweep},
};

/// Marks to put in the place of others.
#[derive(Clone)]
pub(super) struct Patch {
    /// How many marks of the list decided on the patch: all that are below this Lsn, if there is one.
    pub(super) seen: (usize, Option<u64>),
    /// Which marks of the list go.
    pub(super) cut: Range<usize>,
    /// What comes there.
    pub(super) marks: Vec<Mark>,
}

/// Puts a layer into a list or takes it out. `end_of` says where a delta ends.
pub(super) fn patch_of(
    list: &List<'_>,
    span: Span,
    insert: bool,
    end_of: impl Fn(LayerIndex) -> Option<u64>,
) -> Patch {
    let high = span.end.unwrap_or(span.start.saturating_add(1));
    let to = list.below(high.checked_add(1));
    let cut = list.below(Some(span.start))..to;
    let shared = cut.clone().any(|at| list.get(at).tag.is_shared());
    let incoming = if shared { Err(Shared) } else { incoming(list, cut.start, span.start) };
    let (cut, incoming, low, high) = match incoming {
        Ok(layer) => (cut, layer, span.start, high),
        Err(Shared) => (0..list.len(), None, 0, u64::MAX),
    };
    let members = cut.clone().map(|at| list.get(at)).filter(|mark| mark.tag.is_member());
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
    let before = cut.start.checked_sub(1).map(|at| list.get(at));
    let sweep = Sweep::behind(before, low);
    let marks = sweep.run(&mut spans, incoming.filter(|&(end, _)| end >= low), low, high);
    Patch { seen: (cut.end, high.checked_add(1)), cut, marks }
}

/// Several deltas may come in.
struct Shared;

/// The only delta that began below `low` and may reach it, from the marks in front of `at`.
fn incoming(list: &List<'_>, at: usize, low: u64) -> Result<Option<LayerIndex>, Shared> {
    let mut above = low;
    for mark in (0..at).rev().map(|at| list.get(at)) {
        if !mark.tag.is_image() {
            return match mark.tag {
                tag if tag.is_shared() => Err(Shared),
                tag => Ok(tag.opens_band().then(|| tag.layer())),
            };
        }
        // Between an image and the next mark is nothing, unless that follows directly.
        if mark.lsn + 1 < above {
            return Ok(None);
        }
        above = mark.lsn;
    }
    Ok(None)
}
