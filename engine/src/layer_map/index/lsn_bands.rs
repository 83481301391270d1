//! [`Mark`]: the Lsns at which the answer of a list changes.
//!
//! The layers listed for one range of keys cut the Lsn axis into bands with a constant set of
//! covering deltas. A mark opens a band at its Lsn and names one layer to visit for it:
//!
//! - `Start`: this delta begins here, and with it a band;
//! - `Resume`: a band covered by this delta, which began further down (another one ended here, or
//!   an image is just below);
//! - `Gap`: no delta covers what follows; the answer there is the band below;
//! - `Image`: an image at exactly this Lsn. From the next Lsn up to the next mark there is nothing.
//!
//! `Start` and `Resume` also say whether more than one delta covers the band. A delta has one
//! `Start` and an image one `Image` in each list that contains it, so the marks also give the set
//! of the listed layers.
//!
//! **Invariant:** marks of a list ascend by (Lsn, tag); an image comes last at its Lsn; a gap is
//! never first, and never directly after a gap or an image.

use std::hint::select_unpredictable;

use super::LayerSlot;

/// Kinds of mark, in their order at an equal Lsn. The lowest bit says that several deltas cover the
/// band; it is also set for an image, for which it is not read.
#[derive(Clone, Copy)]
enum MarkKind {
    /// Nothing covers what follows.
    Gap = 0,
    /// A band of a delta that began below.
    Resume = 2,
    /// The same, and other deltas cover the band too.
    ResumeShared = 3,
    /// A band of a delta that begins here.
    Start = 4,
    /// The same, and other deltas cover the band too.
    StartShared = 5,
    /// An image at this Lsn.
    Image = 7,
}

/// Kind (upper 3 bits) and layer (lower 29).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Tag(u32);

impl Tag {
    /// Bits of a layer's index.
    const LAYER_BITS: u32 = 29;

    /// A tag.
    fn new(kind: MarkKind, layer: LayerSlot) -> Tag {
        debug_assert!(layer.0 >> Tag::LAYER_BITS == 0);
        Tag((kind as u32) << Tag::LAYER_BITS | layer.0)
    }

    /// The layer.
    #[inline]
    pub(super) fn layer(self) -> LayerSlot {
        LayerSlot(self.0 & ((1 << Tag::LAYER_BITS) - 1))
    }

    /// Whether it is of this kind.
    #[inline]
    fn is(self, kind: MarkKind) -> bool {
        self.0 >> Tag::LAYER_BITS == kind as u32
    }

    /// Whether it is a gap.
    #[inline]
    pub(super) fn is_gap(self) -> bool {
        self.is(MarkKind::Gap)
    }

    /// Whether it is an image.
    #[inline]
    pub(super) fn is_image(self) -> bool {
        self.is(MarkKind::Image)
    }

    /// Whether a band begins here.
    pub(super) fn opens_band(self) -> bool {
        !self.is_gap() && !self.is_image()
    }

    /// Whether it is a band that several deltas cover.
    #[inline]
    pub(super) fn is_shared(self) -> bool {
        self.is(MarkKind::StartShared) || self.is(MarkKind::ResumeShared)
    }

    /// The same, covered by several deltas.
    #[inline]
    fn shared(self) -> Tag {
        Tag(self.0 | 1 << Tag::LAYER_BITS)
    }

    /// Whether it stands for a layer of the list: true for exactly one of the tags that a layer has
    /// in a list.
    pub(super) fn is_member(self) -> bool {
        self.0 >> Tag::LAYER_BITS >= MarkKind::Start as u32
    }
}

/// A position on the Lsn axis where the answer changes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Mark {
    /// Where.
    pub(super) lsn: u64,
    /// What follows.
    pub(super) tag: Tag,
}

/// A layer without its keys, in the form that lists use.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Span {
    /// First Lsn.
    pub(super) start: u64,
    /// First Lsn after a delta; `None` for an image.
    pub(super) end: Option<u64>,
    /// Which layer.
    pub(super) layer: LayerSlot,
}

/// Whether marks keep the invariant of a list.
pub(super) fn are_sound(marks: impl Iterator<Item = Mark>) -> bool {
    let mut before: Option<Mark> = None;
    for mark in marks {
        let follows = match before {
            None => !mark.tag.is_gap(),
            Some(before) => before < mark && (!mark.tag.is_gap() || before.tag.opens_band()),
        };
        if !follows {
            return false;
        }
        before = Some(mark);
    }
    true
}

/// Computes the marks of a set of layers. O(n log n).
pub(super) fn marks_of(spans: &mut [Span]) -> Vec<Mark> {
    Sweep::default().run(spans, None, 0, u64::MAX)
}

/// Sweeps up the Lsn axis over starts, ends and images, and emits marks.
#[derive(Default)]
pub(super) struct Sweep {
    /// So far.
    marks: Vec<Mark>,
    /// Whether the mark before the first of `marks` opens a band.
    from_band: bool,
    /// Whether that mark is an image at the Lsn directly below.
    from_image: bool,
    /// How many deltas cover this Lsn.
    covering: usize,
    /// Of the deltas that have begun, the one that ends last, with its end.
    highest: Option<(u64, LayerSlot)>,
}

impl Sweep {
    /// Starts a sweep at `low`, where `before` is the last mark below.
    pub(super) fn behind(before: Option<Mark>, low: u64) -> Sweep {
        Sweep {
            from_band: before.is_some_and(|mark| mark.tag.opens_band()),
            from_image: before.is_some_and(|mark| mark.tag.is_image() && mark.lsn + 1 == low),
            ..Sweep::default()
        }
    }

    /// Returns the marks from `low` to `high`, both included, of the layers that begin there and of
    /// the delta `incoming` (given with its end), which began below and covers the Lsn before
    /// `low`.
    pub(super) fn run(
        mut self,
        spans: &mut [Span],
        incoming: Option<(u64, LayerSlot)>,
        low: u64,
        high: u64,
    ) -> Vec<Mark> {
        spans.sort_unstable();
        let started = spans.iter().filter_map(|span| span.end);
        let mut ends: Vec<u64> = started.chain(incoming.map(|(end, _)| end)).collect();
        ends.sort_unstable();
        (self.covering, self.highest) = (usize::from(incoming.is_some()), incoming);
        let (mut rest, mut ends) = (&*spans, &*ends);
        let mut after_image = self.from_image.then_some(low);
        loop {
            let next = [rest.first().map(|span| span.start), ends.first().copied(), after_image];
            let next = next.into_iter().flatten().min().filter(|&lsn| lsn <= high);
            let Some(lsn) = next else { return self.marks };
            let ended = ends.iter().take_while(|&&end| end == lsn).count();
            let here = rest.iter().take_while(|span| span.start == lsn).count();
            let image = self.at(lsn, ended, &rest[..here]);
            (rest, ends) = (&rest[here..], &ends[ended..]);
            after_image = image.then(|| lsn.saturating_add(1)).filter(|&after| after != lsn);
        }
    }

    /// Processes everything that happens at `lsn`. Returns whether that includes an image.
    fn at(&mut self, lsn: u64, ended: usize, here: &[Span]) -> bool {
        let deltas = || here.iter().filter_map(|span| Some((span.end?, span.layer)));
        let mut images = here.iter().filter(|span| span.end.is_none()).peekable();
        self.covering = self.covering + deltas().count() - ended;
        self.highest = deltas().fold(self.highest, |highest, delta| highest.max(Some(delta)));
        let shared = self.covering > 1;
        let image = images.peek().is_some();
        let from = self.marks.len();
        let in_band = self.marks.last().map_or(self.from_band, |last| last.tag.opens_band());
        let mut put = |kind, layer| self.marks.push(Mark { lsn, tag: Tag::new(kind, layer) });
        if deltas().next().is_some() {
            let kind = if shared { MarkKind::StartShared } else { MarkKind::Start };
            deltas().for_each(|(_, layer)| put(kind, layer));
        } else if image {
            // A read at this Lsn stops at the image; the delta that covers the Lsn above resumes
            // there.
        } else if let Some((_, layer)) = self.highest.filter(|_| self.covering > 0) {
            put(if shared { MarkKind::ResumeShared } else { MarkKind::Resume }, layer);
        } else if in_band {
            put(MarkKind::Gap, LayerSlot(0));
        }
        images.for_each(|span| put(MarkKind::Image, span.layer));
        self.marks[from..].sort_unstable();
        image
    }
}

/// The answer of one list, or of several together: visit a layer from `floor` to before `ceiling`;
/// nothing lies above.
#[derive(Clone, Copy, Debug)]
pub(super) struct Band {
    /// The first Lsn after the band, or after the requested part of it; zero if there is no band.
    pub(super) ceiling: u64,
    /// The first Lsn of the band.
    pub(super) floor: u64,
    /// The layer, and whether it is an image (a band of one Lsn) or one of several deltas.
    pub(super) tag: Tag,
}

impl Band {
    /// No band.
    pub(super) const NONE: Band = Band { ceiling: 0, floor: 0, tag: Tag(0) };

    /// Combines the answers of two lists: the higher band, down to where the other list changes
    /// nothing.
    #[inline(always)]
    pub(super) fn over(self, other: Band) -> Band {
        let same = self.ceiling == other.ceiling;
        let swap = (other.ceiling > self.ceiling) | (same & other.tag.is_image());
        // Selected one by one: together, the compiler would use a branch, which is mispredicted
        // every other time.
        let [high, low] = [(other, self), (self, other)].map(|(swapped, not)| {
            let floor = select_unpredictable(swap, swapped.floor, not.floor);
            Band { floor, tag: Tag(select_unpredictable(swap, swapped.tag.0, not.tag.0)), ..not }
        });
        // An image is not cut: its floor is one below its ceiling.
        let lower_ceiling = self.ceiling.min(other.ceiling);
        let cut = select_unpredictable(same, low.floor, lower_ceiling);
        let tag = select_unpredictable(same, high.tag.shared().0, high.tag.0);
        let ceiling = self.ceiling.max(other.ceiling);
        Band { ceiling, floor: high.floor.max(cut), tag: Tag(tag) }
    }
}
