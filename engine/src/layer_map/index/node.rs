//! [`Node`]: the tree over the key axis.
//!
//! The keys at which some layer begins or ends cut the key axis into stripes. The children of a
//! leaf are stripes, those of other nodes are nodes. A node lists a layer for each child whose keys
//! the layer covers in full, unless the layer covers the whole node (then it is listed further up):
//! a segment tree with the shape of a B-tree. A key's layers are in the lists on its path from the
//! root, each layer once.
//!
//! **Invariants:** a layer is in a child's list if and only if it covers the child and not the
//! whole node. All leaves have the same depth. A node has at most [`CHILDREN_MAX`] children;
//! neighbours with few children together are joined. A leaf does not keep for long a boundary at
//! which no layer begins or ends.
//!
//! Complexity, with n layers: a key's path has O(log n) nodes. A layer partly covers at most two
//! nodes of each depth, so an edit writes O(log n) nodes. Writing one costs as much as it has list
//! entries: children times layers that cross it.

use std::sync::Arc;

use pagestrata_layers::{Key, KeyRange};

use super::{
    LayerSlot,
    child_lists::{Cover, Row},
    keys::KeyTable,
    lsn_bands::{Band, Mark, Span, marks_of},
    patch::{Patch, patch_of},
    slots::Slots,
    span_of,
};

/// A node with more children is split.
const CHILDREN_MAX: usize = 128;
/// Two neighbours with at most this many children together are joined, if one of them has less than
/// half of this. Rebuilt nodes have this many.
pub(super) const FILL: usize = CHILDREN_MAX * 3 / 4;

/// A range of keys, its parts, and the layers that cover some of the parts but not all.
#[derive(Debug)]
pub(super) struct Node {
    /// Where each child begins; the first is where the node begins.
    pub(super) keys: KeyTable,
    /// A list of layers for each child.
    pub(super) cover: Cover,
    /// The children; none in a leaf.
    pub(super) children: Box<[Arc<Node>]>,
}

/// Result of changing a node.
pub(super) enum EditOutcome {
    /// One node.
    One(Node),
    /// Two nodes, each with the layers that cover all of it and were listed inside.
    Two(Box<[(Node, Vec<Span>); 2]>),
}

/// The addition or removal of one layer.
pub(super) struct Edit<'a> {
    /// Shapes of all layers, including this one.
    pub(super) slots: &'a Slots,
    /// The layer's keys.
    pub(super) range: KeyRange,
    /// Its Lsns and slot.
    pub(super) span: Span,
    /// Whether it is added.
    pub(super) insert: bool,
}

/// Whether `range` covers all keys from `start` to before `end`.
pub(super) fn covers(range: &KeyRange, start: Key, end: Option<Key>) -> bool {
    range.start <= start && range.end.is_none_or(|bound| end.is_some_and(|end| end <= bound))
}

/// Whether `range` contains keys from `start` to before `end`.
fn meets(range: &KeyRange, start: Key, end: Option<Key>) -> bool {
    range.end.is_none_or(|bound| start < bound) && end.is_none_or(|end| range.start < end)
}

impl Node {
    /// A leaf of one stripe, all keys, without layers.
    pub(super) fn empty() -> Node {
        Node::leaf(&[Key::MIN], Cover::new(vec![Vec::new()]))
    }

    /// Whether the lists from this node down are sound. O(marks).
    pub(super) fn is_sound(&self) -> bool {
        let is_leaf = self.children.is_empty();
        self.keys.len() == self.cover.len()
            && self.keys.len() <= CHILDREN_MAX
            && (is_leaf || self.children.len() == self.cover.len())
            && self.cover.is_sound()
            && self
                .children
                .iter()
                .enumerate()
                .all(|(at, child)| child.keys.get(0) == self.keys.get(at))
            && self.children.iter().all(|child| child.is_sound())
    }

    /// Returns the band of `key` below `ceiling` in the lists from this node down, or `best` if
    /// that is above it.
    pub(super) fn search(&self, key: Key, ceiling: u64, mut best: Band) -> Band {
        let mut node = self;
        loop {
            let child = node.keys.position(key);
            best = best.over(node.cover.band(child, ceiling));
            match node.children.get(child) {
                Some(next) => node = next,
                None => return best,
            }
        }
    }

    /// A leaf.
    fn leaf(keys: &[Key], cover: Cover) -> Node {
        Node { keys: KeyTable::new(keys), cover, children: Box::default() }
    }

    /// Makes a root above the two halves of a split node.
    pub(super) fn above([left, right]: [(Node, Vec<Span>); 2]) -> Node {
        let keys = [left.0.keys.get(0), right.0.keys.get(0)];
        let [(left, mut left_spans), (right, mut right_spans)] = [left, right];
        Node {
            keys: KeyTable::new(&keys),
            cover: Cover::new(vec![marks_of(&mut left_spans), marks_of(&mut right_spans)]),
            children: Box::new([Arc::new(left), Arc::new(right)]),
        }
    }

    /// Returns the heap memory, including the node itself and its two reference counts.
    pub(super) fn heap_bytes(&self) -> usize {
        let below: usize = self.children.iter().map(|child| child.heap_bytes()).sum();
        super::shared_bytes::<Node>()
            + self.keys.heap_bytes()
            + self.cover.heap_bytes()
            + size_of_val(&*self.children)
            + below
    }

    /// Calls `take` for every entry of the lists of children that meet `range`, with the layer and
    /// the child's keys.
    pub(super) fn visit(
        &self,
        range: &KeyRange,
        end: Option<Key>,
        take: &mut impl FnMut(LayerSlot, Key, Option<Key>),
    ) {
        for child in self.keys.position(range.start.max(self.keys.get(0)))..self.keys.len() {
            let (start, end) = (self.keys.get(child), self.child_end(child, end));
            if !meets(range, start, end) {
                break;
            }
            let members = self.cover.list(child).filter(|mark| mark.tag.is_member());
            members.for_each(|mark| take(mark.tag.layer(), start, end));
            if let Some(node) = self.children.get(child) {
                node.visit(range, end, take);
            }
        }
    }

    /// Returns where a child ends, in a node that ends at `end`.
    fn child_end(&self, child: usize, end: Option<Key>) -> Option<Key> {
        if child + 1 < self.keys.len() { Some(self.keys.get(child + 1)) } else { end }
    }
}

/// A node being changed.
struct Draft {
    /// Where each child begins.
    keys: Vec<Key>,
    /// Where the node ends.
    end: Option<Key>,
    /// The lists.
    cover: Cover,
    /// The children; none in a leaf.
    children: Vec<Arc<Node>>,
}

impl Draft {
    /// Returns where a child ends.
    fn child_end(&self, child: usize) -> Option<Key> {
        self.keys.get(child + 1).copied().or(self.end)
    }

    /// Adds a boundary at `key` to a leaf that is to have the lists `rows`, if `key` is inside of
    /// it.
    fn cut_at(&mut self, key: Key, rows: &mut Vec<Row>) {
        if key < self.keys[0] || self.end.is_some_and(|end| end <= key) {
            return;
        }
        debug_assert_eq!(self.keys.len(), rows.len());
        if let Err(at) = self.keys.binary_search(&key) {
            debug_assert!(at > 0, "the first key is not above what the node covers");
            self.keys.insert(at, key);
            rows.insert(at, rows[at - 1]);
        }
    }

    /// Removes a leaf's boundaries at `keys` if no layer begins or ends there.
    fn join_at(&mut self, keys: impl Iterator<Item = Key>) {
        let members = |list| self.cover.list(list).filter(|mark| mark.tag.is_member());
        let layers = |list| members(list).map(|mark| mark.tag.layer());
        let place = |key| self.keys.binary_search(&key).ok().filter(|&at| at > 0);
        let idle: Vec<usize> =
            keys.filter_map(place).filter(|&at| layers(at - 1).eq(layers(at))).collect();
        if !idle.is_empty() {
            let stay = |at: &usize| !idle.contains(at);
            self.cover = self.cover.select((0..self.keys.len()).filter(stay));
            self.keys = (0..self.keys.len()).filter(stay).map(|at| self.keys[at]).collect();
        }
    }

    /// Finishes the node.
    fn finish(self) -> Node {
        debug_assert_eq!(self.cover.len(), self.keys.len(), "a list for each child");
        debug_assert!(self.keys.len() <= CHILDREN_MAX, "a node that grew beyond was split");
        debug_assert!(self.children.is_empty() || self.children.len() == self.keys.len());
        Node { keys: KeyTable::new(&self.keys), cover: self.cover, children: self.children.into() }
    }
}

impl Edit<'_> {
    /// Returns the layers of a list.
    fn spans(&self, list: impl Iterator<Item = Mark>) -> Vec<Span> {
        list.filter(|mark| mark.tag.is_member())
            .map(|mark| {
                let layer = mark.tag.layer();
                span_of(layer, &self.slots.get(layer).expect("a listed layer has a shape"))
            })
            .collect()
    }

    /// Returns a cover of one list with the layer added or removed.
    pub(super) fn patched(&self, cover: &Cover) -> Cover {
        let mut rows = [Row::kept(0)];
        let patches = self.patches(cover, &mut rows);
        cover.remap(&rows, &patches)
    }

    /// Returns the patches that add the layer to old lists of a cover, or remove it.
    fn patches(&self, cover: &Cover, rows: &mut [Row]) -> Vec<Patch> {
        let end_of = |layer| self.slots.get(layer).and_then(|shape| span_of(layer, &shape).end);
        let mut patches: Vec<Patch> = Vec::new();
        let mut before = None;
        for row in rows {
            let Some(list) = row.old else { continue };
            // Neighbouring lists of a wide layer often have the same layers below it.
            let same = before.zip(patches.last()).is_some_and(|(before, patch): (_, &Patch)| {
                cover.list(list).is_like(&cover.list(before), patch.seen.clone())
            });
            if !same {
                patches.push(patch_of(cover, list, self.span, self.insert, end_of));
            }
            before = Some(list);
            row.patch = patches.len().checked_sub(1);
        }
        patches
    }

    /// Returns the marks of a list with more layers.
    fn extended(&self, list: impl Iterator<Item = Mark>, more: &[Span]) -> Vec<Mark> {
        let mut spans = self.spans(list);
        spans.extend_from_slice(more);
        marks_of(&mut spans)
    }

    /// Returns the marks of a list without those of `fewer`, which must be sorted.
    fn reduced(&self, list: impl Iterator<Item = Mark>, fewer: &[Span]) -> Vec<Mark> {
        let mut spans = self.spans(list);
        spans.retain(|span| fewer.binary_search(span).is_err());
        marks_of(&mut spans)
    }

    /// Changes a node that ends at `end` and that the layer does not cover in full.
    pub(super) fn apply(&self, node: &Node, end: Option<Key>) -> EditOutcome {
        let mut draft = Draft {
            keys: node.keys.to_vec(),
            end,
            cover: Cover::default(),
            children: node.children.to_vec(),
        };
        let leaf = node.children.is_empty();
        let bounds = || [Some(self.range.start), self.range.end].into_iter().flatten();
        let mut rows: Vec<Row> = (0..node.cover.len()).map(Row::kept).collect();
        if leaf && self.insert {
            bounds().for_each(|key| draft.cut_at(key, &mut rows));
        }
        let covered =
            |&child: &usize| covers(&self.range, draft.keys[child], draft.child_end(child));
        let mut children = 0..draft.keys.len();
        let patches = children.find(covered).map_or_else(Vec::new, |first| {
            let last = children.take_while(covered).last().unwrap_or(first);
            self.patches(&node.cover, &mut rows[first..last + 1])
        });
        draft.cover = if patches.is_empty() && rows.len() == node.cover.len() {
            node.cover.clone()
        } else {
            node.cover.remap(&rows, &patches)
        };
        if !leaf {
            self.descend(&mut draft);
        } else if !self.insert {
            draft.join_at(bounds());
        }
        if draft.keys.len() > CHILDREN_MAX {
            return EditOutcome::Two(Box::new(self.halves(draft)));
        }
        EditOutcome::One(draft.finish())
    }

    /// Changes the children that the layer covers in part; there are at most two.
    fn descend(&self, draft: &mut Draft) {
        let in_part: Vec<usize> = (0..draft.keys.len())
            .filter(|&child| {
                let (start, end) = (draft.keys[child], draft.child_end(child));
                meets(&self.range, start, end) && !covers(&self.range, start, end)
            })
            .collect();
        for &child in in_part.iter().rev() {
            match self.apply(&draft.children[child], draft.child_end(child)) {
                EditOutcome::One(node) => {
                    draft.children[child] = Arc::new(node);
                }
                EditOutcome::Two(halves) => {
                    let [(left, left_spans), (right, right_spans)] = *halves;
                    let list = || draft.cover.list(child);
                    let lists = vec![
                        self.extended(list(), &left_spans),
                        self.extended(list(), &right_spans),
                    ];
                    draft.cover = draft.cover.splice(child..child + 1, lists);
                    draft.keys.insert(child + 1, right.keys.get(0));
                    draft.children[child] = Arc::new(left);
                    draft.children.insert(child + 1, Arc::new(right));
                }
            }
        }
        if !self.insert {
            in_part.into_iter().rev().for_each(|child| self.join(draft, child));
        }
    }

    /// Splits a node. A layer that covers one of the halves leaves its lists.
    fn halves(&self, draft: Draft) -> [(Node, Vec<Span>); 2] {
        let (middle, count) = (draft.keys.len() / 2, draft.keys.len());
        debug_assert!(count > CHILDREN_MAX && count - middle <= CHILDREN_MAX, "halves fit");
        [(0..middle, draft.keys.get(middle).copied()), (middle..count, draft.end)].map(
            |(part, end)| {
                let keys = &draft.keys[part.clone()];
                let mut cover = draft.cover.select(part.clone());
                let mut spans = self.spans(cover.list(0));
                spans.retain(|span| {
                    let shape = self.slots.get(span.layer).expect("a listed layer has a shape");
                    covers(&shape.key_range, keys[0], end)
                });
                if !spans.is_empty() {
                    spans.sort_unstable();
                    let reduce = |list| self.reduced(cover.list(list), &spans);
                    let lists: Vec<_> = (0..cover.len()).map(reduce).collect();
                    cover = Cover::new(lists);
                }
                let children = draft.children.get(part).unwrap_or_default().into();
                (Node { keys: KeyTable::new(keys), cover, children }, spans)
            },
        )
    }

    /// Joins a child that has few children with a neighbour, if together they have few enough. A
    /// layer that covered only one of them enters its lists.
    fn join(&self, draft: &mut Draft, child: usize) {
        let count =
            |child: usize| draft.children.get(child).map_or(usize::MAX / 2, |it| it.keys.len());
        if count(child) >= FILL / 2 {
            return;
        }
        let Some(left) = [child.wrapping_sub(1), child]
            .into_iter()
            .find(|&left| left < child + 1 && count(left) + count(left + 1) <= FILL)
        else {
            return;
        };
        debug_assert!(left + 1 < draft.children.len());
        let [left_spans, mut right_only] =
            [left, left + 1].map(|child| self.spans(draft.cover.list(child)));
        right_only.sort_unstable();
        let (mut both, left_only): (Vec<Span>, Vec<Span>) =
            left_spans.iter().partition(|span| right_only.binary_search(span).is_ok());
        both.sort_unstable();
        right_only.retain(|span| both.binary_search(span).is_err());
        let mut joined = Draft {
            keys: Vec::new(),
            end: draft.child_end(left + 1),
            cover: Cover::default(),
            children: Vec::new(),
        };
        let mut lists = Vec::new();
        for (node, only) in [(left, left_only), (left + 1, right_only)] {
            let node = &draft.children[node];
            joined.keys.extend(node.keys.to_vec());
            joined.children.extend_from_slice(&node.children);
            lists.extend(
                (0..node.cover.len()).map(|list| self.extended(node.cover.list(list), &only)),
            );
        }
        joined.cover = Cover::new(lists);
        let seam = draft.keys.remove(left + 1);
        if joined.children.is_empty() {
            joined.join_at([seam].into_iter());
        }
        draft.cover = draft.cover.splice(left..left + 2, vec![marks_of(&mut both)]);
        draft.children[left] = Arc::new(joined.finish());
        draft.children.remove(left + 1);
    }
}
