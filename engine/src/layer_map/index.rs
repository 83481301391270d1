//! Which layer files cover (key, Lsn): an index of rectangles that never changes; an edit makes a
//! new version.
//!
//! A [`LayerIndex`] holds the shape of each layer of a timeline, and lists from which a read finds
//! the layer that it must visit first. Cloning one costs one reference count. [`LayerIndex::edit`]
//! builds the next version and shares all nodes and chunks that it does not write; versions may be
//! dropped in any order. A search writes nothing and allocates nothing.
//!
//! # How a read descends
//!
//! Consider one key. The starts and the ends of the deltas that cover it, and each image's Lsn and
//! the one above, cut the Lsn axis into *bands*; within a band the set of covering deltas is
//! constant. [`LayerIndex::search`] finds the highest covered band that holds an Lsn at or below
//! `upper`, and returns its first Lsn as [`Hit::floor`]:
//!
//! ```text
//! while let Some(hit) = map.search(key, upper) {
//!     if hit.shared { visit each layer of map.deltas_at(key, hit.floor) } else { visit hit.layer }
//!         // takes versions with hit.floor <= lsn <= upper; done at a base (newest first)
//!     if hit.floor == Lsn(0) { break }
//!     upper = hit.floor.previous();
//! }
//! // done: continue in the ancestor, or a missing base
//! ```
//!
//! *No version is missed.* Let a delta cover the key at some Lsn x at or below `upper`, above the
//! newest image. Consider the first hit with `floor` <= x. Its band is the highest covered one not
//! above the `upper` of that round, and x is not above that `upper` either, because the floor
//! before was above x. As x itself is covered, the band lies at or above the band of x, and as its
//! floor is not above x, it is the band of x. So the delta covers all of the band, including its
//! floor: it is the hit's layer, or `shared` is set and it is one of [`LayerIndex::deltas_at`].
//!
//! *No version is visited twice*, because floors decrease strictly. A delta nested in another one
//! costs the outer one two more visits; that is the price of an order in which the first base ends
//! the read. An image is a band of one Lsn and comes before deltas that cover that Lsn: the image
//! includes their changes there, so the read ends with it.
//!
//! # Structure
//!
//! Keys at which a layer begins or ends cut the key axis into stripes, which a B-tree holds. Each
//! node lists, for each of its children, the layers that cover the child but not the node
//! (`node.rs`): a segment tree with a large fan-out. A list consists of marks on the Lsn axis, one
//! or two per layer (`lsn_bands.rs`), packed as bits in columns that the lists of a node share
//! (`child_lists.rs`, `rank_table.rs`). A search reads one list per level and combines the answers;
//! layers that cover all keys are in a separate list above the root.
//!
//! # Complexity
//!
//! With n layers, of which w cross a node: a search is O(log n) levels, each O(log w). A layer
//! crosses at most two nodes of a level, so an edit writes O(log n) nodes, each O(children x w) in
//! the worst case: w random wide layers, in w/3 of the lists of the root. Layers of all keys cost
//! O(their number) per edit. Space is O(n log n) in the worst case. Edits split and join nodes as
//! needed.
//!
//! # Measured
//!
//! `benches/benches/layer_index.rs` on two shared vCPUs (EPYC, Zen 3, load 2 to 5), Rust 1.95, on
//! the recorded maps of 26,690 and 5,651 layers. Under that load the normaliser took 400 to 800 ns,
//! so only figures of one kind can be compared. In parentheses, where different: lists of ranks
//! instead of rows of bits, in runs of the same day.
//!
//! | | 26,690 layers | 5,651 layers |
//! |---|---|---|
//! | search in key order, ns | 76 (90) | 78 (94) |
//! | search shuffled / uniform, ns | 110 / 112 (137 / 139) | 115 / 121 (138 / 144) |
//! | two threads, apart and in lockstep | x1.98, x1.96 | x2.00 |
//! | insert one image layer at the median Lsn, us, median / p99 | 13 / 26 (28 / 34) | 15 / 27 (28 / 34) |
//! | remove the oldest layer (it covers nearly all keys) | 48 / 55 (67 / 86) | 77 / 106 (80 / 140) |
//! | remove any layer | 9 / 23 (13 / 32) | 8 / 68 (10 / 162) |
//! | insert an image between random new keys | 56 / 113 (94 / 203) | 29 / 64 (72 / 284) |
//! | bytes a layer, shapes included | 35 (43) | 69 (81) |
//!
//! A search takes 920 instructions (callgrind), 290 of them in ranking; instructions, not memory,
//! bound the search in key order. A shuffled search takes longer because of first-level cache
//! misses and branch mispredictions, which were not measured separately.
//!
//! Tried and rejected: nodes of 32 and 64 children (searches 40 % and 20 % slower because of one
//! more level; wide edits two times faster); binary search instead of comparing whole blocks (20 %
//! slower); lists of whole entries (twice the memory); counting the objects of a root in steps of
//! four or eight instead of binary search, which predicts better (5 to 10 % slower in key order, 0
//! to 7 % faster shuffled).

mod build;
mod child_lists;
mod keys;
mod lsn_bands;
mod node;
mod patch;
mod rank_table;
#[cfg(any(test, feature = "testing"))]
pub mod recorded;
mod slots;
#[cfg(test)]
mod tests;
mod visits;

use std::{ops::Range, sync::Arc};

use pagestrata_layers::{Key, KeyRange, Lsn};

pub(crate) use self::visits::{Visit, Visits};
use self::{
    build::build,
    child_lists::Cover,
    lsn_bands::{Band, Span},
    node::{Edit, EditOutcome, Node, covers},
    slots::Slots,
};

/// Smallest edit that may rebuild the tree; it does if it changes an eighth of the layers.
const ANEW_MIN: usize = 64;

/// Slot number of a layer: dense, chosen by the caller, reused after the layer's removal. Below
/// 2^29.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LayerSlot(pub u32);

/// Position of a layer on the Lsn axis.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LayerKind {
    /// Deltas, half-open.
    Delta {
        /// The first Lsn.
        start: Lsn,
        /// The first Lsn after it.
        end: Lsn,
    },
    /// Images, all at one Lsn.
    Image {
        /// That Lsn.
        lsn: Lsn,
    },
}

/// A layer's rectangle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LayerShape {
    /// Key range.
    pub key_range: KeyRange,
    /// Kind and Lsns.
    pub kind: LayerKind,
}

/// One step of an edit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Puts a layer into a free slot.
    Insert(LayerSlot, LayerShape),
    /// Takes the layer of a slot out.
    Remove(LayerSlot),
}

/// The layer that a read visits first, and down to which Lsn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hit {
    /// The layer.
    pub layer: LayerSlot,
    /// The lowest Lsn to read there; no version above it is in another layer, unless `shared`.
    pub floor: Lsn,
    /// Whether other delta layers may hold versions from `floor` to `upper` too:
    /// [`LayerIndex::deltas_at`].
    pub shared: bool,
}

/// Index of the layer files of a timeline; one version.
///
/// Any number of threads may search it at once; they share no write.
#[derive(Clone, Debug)]
pub struct LayerIndex {
    /// Everything of one version.
    version: Arc<Version>,
}

/// One version of the map.
#[derive(Clone, Debug)]
struct Version {
    /// The layers that cover all keys: one list.
    whole: Arc<Cover>,
    /// The tree over the key axis with all others.
    root: Arc<Node>,
    /// All shapes.
    slots: Slots,
}

/// Returns the size of an `Arc<T>` allocation: `T` and two counts.
fn shared_bytes<T>() -> usize {
    size_of::<[usize; 2]>() + size_of::<T>()
}

/// Returns a shape in the form that lists use.
fn span_of(layer: LayerSlot, shape: &LayerShape) -> Span {
    match shape.kind {
        LayerKind::Delta { start, end } => Span { start: start.0, end: Some(end.0), layer },
        LayerKind::Image { lsn } => Span { start: lsn.0, end: None, layer },
    }
}

impl LayerShape {
    /// Returns its Lsns, half-open. An image's Lsn must be below [`Lsn::MAX`].
    fn lsn_range(&self) -> Range<Lsn> {
        match self.kind {
            LayerKind::Delta { start, end } => start..end,
            LayerKind::Image { lsn } => lsn..lsn.next(),
        }
    }
}

impl Default for LayerIndex {
    fn default() -> LayerIndex {
        LayerIndex::new()
    }
}

impl LayerIndex {
    /// Creates an index without layers.
    pub fn new() -> LayerIndex {
        let whole = Arc::new(Cover::new(vec![Vec::new()]));
        let version = Version { whole, root: Arc::new(Node::empty()), slots: Slots::default() };
        LayerIndex { version: Arc::new(version) }
    }

    /// Returns the first layer that a read of `key` at `upper`, inclusive, must visit. O(log n),
    /// without allocation or shared write.
    #[cfg_attr(
        not(any(test, feature = "testing")),
        expect(dead_code, reason = "reads take visits, which a search defines; the bench")
    )]
    #[inline(never)]
    pub fn search(&self, key: Key, upper: Lsn) -> Option<Hit> {
        let version = &*self.version;
        // No layer covers the highest Lsn.
        let ceiling = upper.0.saturating_add(1);
        let best = version.root.search(key, ceiling, version.whole.band(0, ceiling));
        let Band { ceiling, floor, tag } = best;
        let hit = Hit { layer: tag.layer(), floor: Lsn(floor), shared: tag.is_shared() };
        (ceiling > 0).then_some(hit)
    }

    /// Returns all delta layers that cover `key` at `lsn`. A read must visit all of them if its
    /// [`Hit`] is shared.
    pub fn deltas_at(&self, key: Key, lsn: Lsn) -> impl Iterator<Item = LayerSlot> {
        let version = &*self.version;
        let whole = version.whole.list(0);
        let first = (&*version.root, version.root.keys.position(key));
        let path = std::iter::successors(Some(first), move |&(node, child)| {
            let next = &**node.children.get(child)?;
            Some((next, next.keys.position(key)))
        });
        let marks = whole.chain(path.flat_map(|(node, child)| node.cover.list(child)));
        marks
            .filter(move |mark| mark.tag.is_member() && !mark.tag.is_image() && mark.lsn <= lsn.0)
            .map(|mark| mark.tag.layer())
            .filter(move |&layer| {
                self.get(layer).is_some_and(|shape| shape.lsn_range().contains(&lsn))
            })
    }

    /// Returns the next version: this one with `changes` applied in order. This one stays as it is.
    ///
    /// O(log n) nodes per change; an edit that changes much of the index rebuilds the tree in O(n
    /// log n).
    ///
    /// # Panics
    /// If a shape is empty, a slot to fill is taken or a slot to empty is free. An image at
    /// [`Lsn::MAX`] is empty, because no half-open range of Lsns can hold it.
    pub fn edit(&self, changes: &[Change]) -> LayerIndex {
        let mut version = Version::clone(&self.version);
        let anew = changes.len() > ANEW_MIN && changes.len() > self.layer_count() / 8;
        for change in changes {
            match *change {
                Change::Insert(layer, shape) => {
                    let lsns = shape.lsn_range();
                    assert!(!shape.key_range.is_empty() && !lsns.is_empty(), "{shape:?} is empty");
                    version.slots.insert(layer, &shape);
                    if !anew {
                        version.apply(layer, &shape, true);
                    }
                }
                Change::Remove(layer) => {
                    let shape = version.slots.get(layer);
                    let shape = shape.unwrap_or_else(|| panic!("slot {} is free", layer.0));
                    if !anew {
                        version.apply(layer, &shape, false);
                    }
                    version.slots.remove(layer);
                }
            }
        }
        if anew {
            let (whole, root) = build(&version.slots);
            (version.whole, version.root) = (Arc::new(whole), Arc::new(root));
        }
        verify!(version.whole.is_sound() && version.root.is_sound(), "marks are in order");
        LayerIndex { version: Arc::new(version) }
    }

    /// Returns a layer's shape.
    pub fn get(&self, layer: LayerSlot) -> Option<LayerShape> {
        self.version.slots.get(layer)
    }

    /// Returns all layers, in order of slot.
    #[cfg_attr(
        not(any(test, feature = "testing")),
        expect(dead_code, reason = "the files list themselves; tests and the bench compare")
    )]
    pub fn iter(&self) -> impl Iterator<Item = (LayerSlot, LayerShape)> {
        self.version.slots.iter()
    }

    /// Returns the number of layers.
    pub fn layer_count(&self) -> usize {
        self.version.slots.len()
    }

    /// Returns the layers that overlap the rectangle `key_range` x `lsn_range`, each once, in no
    /// particular order.
    pub fn layers_overlapping(
        &self,
        key_range: KeyRange,
        lsn_range: Range<Lsn>,
    ) -> impl Iterator<Item = (LayerSlot, LayerShape)> {
        let mut found = Vec::new();
        if !key_range.is_empty() && !lsn_range.is_empty() {
            let mut take = |layer: LayerSlot, start: Key, end: Option<Key>| {
                let shape = self.get(layer).expect("a listed layer has a shape");
                let lsns = shape.lsn_range();
                // Of all lists that contain the layer, take the one with the first requested key
                // that it covers.
                let first = shape.key_range.start.max(key_range.start);
                if first >= start
                    && end.is_none_or(|end| first < end)
                    && lsns.start < lsn_range.end
                    && lsn_range.start < lsns.end
                {
                    found.push((layer, shape));
                }
            };
            let whole = self.version.whole.list(0).filter(|mark| mark.tag.is_member());
            whole.for_each(|mark| take(mark.tag.layer(), Key::MIN, None));
            self.version.root.visit(&key_range, None, &mut take);
        }
        found.into_iter()
    }

    /// Returns its heap memory, in bytes, including memory shared with other versions.
    pub fn memory_bytes(&self) -> usize {
        let Version { whole, root, slots } = &*self.version;
        let lists = shared_bytes::<Cover>() + whole.heap_bytes();
        shared_bytes::<Version>() + lists + root.heap_bytes() + slots.heap_bytes()
    }
}

impl Version {
    /// Adds a layer to the lists or removes it; its slot is taken.
    fn apply(&mut self, layer: LayerSlot, shape: &LayerShape, insert: bool) {
        let edit = Edit {
            slots: &self.slots,
            range: shape.key_range,
            span: span_of(layer, shape),
            insert,
        };
        if covers(&edit.range, Key::MIN, None) {
            self.whole = Arc::new(edit.patched(&self.whole));
            return;
        }
        self.root = match edit.apply(&self.root, None) {
            EditOutcome::Two(halves) => Arc::new(Node::above(*halves)),
            EditOutcome::One(node) => match &*node.children {
                [only] => only.clone(),
                _ => Arc::new(node),
            },
        };
    }
}
