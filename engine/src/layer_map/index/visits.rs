//! [`Visits`]: the layers that a read of one key visits, newest first, found in one walk down the
//! Lsn axis.
//!
//! A search of the index descends the tree and ranks the Lsn in the list of each level. A read
//! through many layers would repeat that for each of them, although the next answer is nearly
//! always one mark below the last one. `Visits` descends once and keeps, for each list on the path,
//! the current band and the marks below it; a step moves down the lists whose band ends above the
//! new ceiling.
//!
//! **Invariant:** the visits are those that repeated calls of [`LayerIndex::search`] return (the
//! unit tests compare the two).

use pagestrata_layers::{Key, Lsn};

use super::{
    Hit, LayerIndex,
    child_lists::List,
    lsn_bands::{Band, Mark},
    node::Node,
};

/// How many lists of a path are walked mark by mark. A tree of n layers has about log64 n levels,
/// each with a list, and one more list is above the root: six are enough for more than 10^9 layers.
/// Lists of deeper levels, which only an unusual history of edits can make, are searched again for
/// each visit.
const LISTS: usize = 6;

/// One visit of a read: take the versions from `upper` down to `hit.floor`, both inclusive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Visit {
    /// The highest Lsn to read there.
    pub(crate) upper: Lsn,
    /// The layer, and down to which Lsn.
    pub(crate) hit: Hit,
}

/// An iterator over the visits of a read; see [`LayerIndex::visits`].
#[derive(Debug)]
pub(crate) struct Visits<'a, const N: usize = LISTS> {
    /// The lists of the path that have marks below the first ceiling.
    walks: [Option<ListWalk<'a>>; N],
    /// Where the path continues below the lists of `walks`.
    deeper: Option<(&'a Node, Key)>,
    /// The Lsn from which on everything is visited.
    ceiling: u64,
}

/// The position of a walk in one list.
#[derive(Debug)]
struct ListWalk<'a> {
    /// The marks below the band.
    below: List<'a>,
    /// The band of this list alone, not cut at a ceiling.
    band: Band,
    /// Upper bound of the end of the band below this one.
    top: u64,
}

impl<'a> ListWalk<'a> {
    /// Starts at the highest band of a list below `ceiling`, if there is one.
    #[inline]
    fn below(list: List<'a>, ceiling: u64) -> Option<ListWalk<'a>> {
        let mut walk = ListWalk { below: list, band: Band::NONE, top: ceiling };
        walk.step().then_some(walk)
    }

    /// Moves to the next band below; false if there is none.
    #[inline]
    fn step(&mut self) -> bool {
        let Some(mut mark) = self.below.next_back() else { return false };
        if mark.tag.is_gap() {
            self.top = mark.lsn;
            // Below a gap is a band: a gap is never first and never follows another one.
            let Some(opens) = self.below.next_back() else { return false };
            mark = opens;
        }
        let Mark { lsn, tag } = mark;
        let ceiling = if tag.is_image() { lsn + 1 } else { self.top };
        self.band = Band { ceiling, floor: lsn, tag };
        self.top = lsn;
        true
    }

    /// Moves down to the band with an Lsn below `ceiling`; false if there is none.
    #[inline]
    fn go_below(&mut self, ceiling: u64) -> bool {
        while self.band.floor >= ceiling {
            if !self.step() {
                return false;
            }
        }
        true
    }
}

impl LayerIndex {
    /// Returns the layers that a read of `key` visits from `upper`, inclusive, downwards. The read
    /// stops the iteration when it is done. Allocates nothing and writes nothing shared.
    #[inline]
    pub(crate) fn visits(&self, key: Key, upper: Lsn) -> Visits<'_> {
        self.visits_in(key, upper)
    }

    /// As [`LayerIndex::visits`], walking the first `N` lists of the path mark by mark.
    pub(crate) fn visits_in<const N: usize>(&self, key: Key, upper: Lsn) -> Visits<'_, N> {
        // No layer covers the highest Lsn.
        let ceiling = upper.0.saturating_add(1);
        let mut visits = Visits { walks: [const { None }; N], deeper: None, ceiling };
        let version = &*self.version;
        let mut len = 0;
        visits.walk(version.whole.list_below(0, ceiling), &mut len);
        let mut next = Some(&*version.root);
        while let Some(node) = next {
            if len == N {
                visits.deeper = Some((node, key));
                break;
            }
            let child = node.keys.position(key);
            visits.walk(node.cover.list_below(child, ceiling), &mut len);
            next = node.children.get(child).map(|child| &**child);
        }
        visits
    }
}

impl<'a, const N: usize> Visits<'a, N> {
    /// Starts to walk a list, if it has marks below the ceiling. `len` lists are walked already,
    /// fewer than `N`.
    #[inline]
    fn walk(&mut self, list: Option<List<'a>>, len: &mut usize) {
        let walk = list.and_then(|list| ListWalk::below(list, self.ceiling));
        if walk.is_some() {
            self.walks[*len] = walk;
            *len += 1;
        }
    }
}

impl<const N: usize> Iterator for Visits<'_, N> {
    type Item = Visit;

    #[inline]
    fn next(&mut self) -> Option<Visit> {
        let ceiling = self.ceiling;
        let mut best = Band::NONE;
        for walk in &mut self.walks {
            // An empty entry is not the end: one list may end before others.
            let Some(list) = walk else { continue };
            if !list.go_below(ceiling) {
                *walk = None;
                continue;
            }
            let Band { ceiling: top, floor, tag } = list.band;
            let band = Band { ceiling: top.min(ceiling), floor, tag };
            best = if best.ceiling == 0 { band } else { best.over(band) };
        }
        if let Some((node, key)) = self.deeper {
            best = node.search(key, ceiling, best);
        }
        if best.ceiling == 0 {
            return None;
        }
        let Band { floor, tag, .. } = best;
        debug_assert!(floor < ceiling, "each visit is below the one before");
        debug_assert!(!tag.is_gap(), "a gap names no layer");
        let hit = Hit { layer: tag.layer(), floor: Lsn(floor), shared: tag.is_shared() };
        let visit = Visit { upper: Lsn(ceiling - 1), hit };
        self.ceiling = floor;
        Some(visit)
    }
}

/// Compares the visits of searches alone, and of walks with room for one, two and all lists.
#[cfg(test)]
pub(super) fn all_ways(map: &LayerIndex, key: Key, upper: Lsn) -> [Vec<Visit>; 4] {
    // No layer covers the highest Lsn, so walks begin below it.
    let upper = upper.min(Lsn::MAX.previous());
    let mut at = Some(upper);
    let searched = std::iter::from_fn(|| {
        let upper = at?;
        let hit = map.search(key, upper)?;
        at = hit.floor.is_valid().then(|| hit.floor.previous());
        Some(Visit { upper, hit })
    });
    [
        searched.collect(),
        map.visits_in::<1>(key, upper).collect(),
        map.visits_in::<2>(key, upper).collect(),
        map.visits(key, upper).collect(),
    ]
}
