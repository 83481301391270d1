//! All versions of an in-memory layer in order of (Key, Lsn): what a flush and a scan read.
//!
//! Values lie in the arena in the order they came in, so taking them by key is a walk over random
//! memory. What the next leaves lead to is therefore asked for before it is needed, a step further
//! with each leaf that is done: misses overlap.

use super::{
    MemLayer,
    index::{Entry, Head, LEAF_FANOUT, Leaf, NewestVersion, Object, Run, ValueRef},
    space::prefetch_whole,
};
use crate::{Key, Lsn, PageVersion};

/// How many leaves are looked at ahead of the current one.
const LEAVES_AHEAD: usize = 3;
/// How many values of a key's newest block are asked for ahead.
const VALUES_AHEAD: usize = 4;

/// A cursor over a layer's versions, by key and then Lsn. Its own memory is one list of a chain's
/// blocks.
pub struct SortedVersions<'a> {
    layer: &'a MemLayer,
    upper: Lsn,
    leaves: Leaves<'a>,
    /// The current leaf and those after it.
    ahead: [Option<LeafPlace<'a>>; LEAVES_AHEAD + 1],
    /// The next head of the current leaf to look at.
    slot: usize,
    /// The current key's entries up to this Lsn are still to come, the rest of a block first, then
    /// `blocks` from the last one, then `newest`.
    below: Lsn,
    entries: &'a [Entry],
    blocks: Vec<Run>,
    newest: Option<(Lsn, u64)>,
}

/// A leaf and where its blocks are.
#[derive(Clone, Copy)]
struct LeafPlace<'a> {
    object: u128,
    first_block: u32,
    leaf: &'a Leaf,
}

/// The leaves of all objects, in order.
struct Leaves<'a> {
    layer: &'a MemLayer,
    object: Option<&'a Object>,
    /// Where to go on in the object; above all blocks when it is done.
    from: u64,
}

impl<'a> Iterator for Leaves<'a> {
    type Item = LeafPlace<'a>;

    fn next(&mut self) -> Option<LeafPlace<'a>> {
        let MemLayer { index, nodes, .. } = self.layer;
        loop {
            let object = self.object?;
            let from = u32::try_from(self.from).ok();
            if let Some((first_block, leaf)) =
                from.and_then(|from| index.leaf_from(nodes, object, from))
            {
                self.from = u64::from(first_block) + LEAF_FANOUT as u64;
                return Some(LeafPlace { object: object.object(), first_block, leaf });
            }
            self.object = object.next_in_order(nodes);
            self.from = 0;
        }
    }
}

impl<'a> SortedVersions<'a> {
    pub(super) fn new(layer: &'a MemLayer, from: Key, upper: Lsn) -> SortedVersions<'a> {
        let object = layer.index.first_object_from(&layer.nodes, from.object);
        let from_block =
            object.filter(|object| object.object() == from.object).map_or(0, |_| from.block);
        let mut sorted = SortedVersions {
            layer,
            upper,
            leaves: Leaves { layer, object, from: u64::from(from_block) },
            ahead: [None; LEAVES_AHEAD + 1],
            slot: 0,
            below: upper,
            entries: &[],
            blocks: Vec::new(),
            newest: None,
        };
        (0..=LEAVES_AHEAD).for_each(|_| sorted.next_leaf());
        if let Some(first) = sorted.ahead[0]
            && (first.object, first.first_block) < (from.object, from_block)
        {
            sorted.slot = (from_block - first.first_block) as usize;
            debug_assert!(sorted.slot < LEAF_FANOUT, "the leaf holds the first block");
        }
        sorted
    }

    /// Goes to the next leaf, and has what the ones behind it need brought nearer: of the last one
    /// its own lines; of the next ones what those lines lead to, newest versions and blocks of
    /// older ones; then the values of these.
    fn next_leaf(&mut self) {
        self.slot = 0;
        self.ahead.rotate_left(1);
        self.ahead[LEAVES_AHEAD] = self.leaves.next();
        let MemLayer { nodes, values, .. } = self.layer;
        let [current, next, second, last] = self.ahead.map(|place| place.map(|place| place.leaf));
        let older = |leaf: Option<&'a Leaf>| {
            leaf.into_iter().flat_map(|leaf| leaf.heads.iter().filter_map(Head::older))
        };
        let ask_for_values = |run: Run| {
            // What is not to be seen may be written again just now, for a value that this thread
            // knows nothing of.
            let visible = run.entries(nodes).iter().take_while(|entry| entry.lsn() <= self.upper);
            for entry in visible.take(VALUES_AHEAD) {
                let value = entry.value();
                values.prefetch_bytes(value.position, value.len);
            }
        };
        if let Some(leaf) = last {
            prefetch_whole(leaf);
        }
        if let Some(leaf) = second {
            for head in &leaf.heads {
                if let NewestVersion::Here(_, packed) = head.newest(self.upper) {
                    let value = ValueRef::unpack(packed);
                    values.prefetch_bytes(value.position, value.len);
                }
            }
        }
        older(second).for_each(|run| run.prefetch(nodes));
        for run in older(next) {
            if let Some(before) = run.older(nodes) {
                before.prefetch(nodes);
            }
            ask_for_values(run);
        }
        older(current).filter_map(|run| run.older(nodes)).for_each(ask_for_values);
    }

    /// Goes to the next key that has versions; false at the end.
    fn next_key(&mut self) -> bool {
        debug_assert!(self.entries.is_empty() && self.blocks.is_empty() && self.newest.is_none());
        while let Some(place) = self.ahead[0] {
            while let Some(head) = place.leaf.heads.get(self.slot) {
                self.slot += 1;
                self.below = match head.newest(self.upper) {
                    NewestVersion::None => continue,
                    NewestVersion::Older => self.upper,
                    NewestVersion::Here(lsn, packed) => {
                        self.newest = Some((lsn, packed));
                        lsn.previous()
                    }
                };
                let mut next = head.older();
                while let Some(run) = next {
                    self.blocks.push(run);
                    next = run.older(&self.layer.nodes);
                }
                return true;
            }
            self.next_leaf();
        }
        false
    }

    fn item(&self, lsn: Lsn, value: ValueRef) -> (Key, PageVersion<'a>) {
        let LeafPlace { object, first_block, .. } = self.ahead[0].expect("the key's leaf");
        debug_assert!(lsn <= self.upper && (1..=LEAF_FANOUT).contains(&self.slot));
        let key = Key { object, block: first_block + (self.slot - 1) as u32 };
        #[allow(unsafe_code)]
        // SAFETY: called by `next` alone, for what a head or an entry of this layer says at or
        // below the committed Lsn.
        let version = unsafe { self.layer.page_version(lsn, value) };
        (key, version)
    }
}

impl<'a> Iterator for SortedVersions<'a> {
    type Item = (Key, PageVersion<'a>);

    fn next(&mut self) -> Option<(Key, PageVersion<'a>)> {
        loop {
            if let Some((first, rest)) = self.entries.split_first() {
                self.entries = rest;
                let lsn = first.lsn();
                if lsn <= self.below {
                    return Some(self.item(lsn, first.value()));
                }
                // Later ones of this key are above it too.
                self.entries = &[];
                self.blocks.clear();
            }
            if let Some(run) = self.blocks.pop() {
                self.entries = run.entries(&self.layer.nodes);
            } else if let Some((lsn, packed)) = self.newest.take() {
                return Some(self.item(lsn, ValueRef::unpack(packed)));
            } else if !self.next_key() {
                return None;
            }
        }
    }
}

impl std::fmt::Debug for SortedVersions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SortedVersions")
            .field("layer", &self.layer)
            .field("upper", &self.upper)
            .finish_non_exhaustive()
    }
}
