//! Builds the tree in one pass, for edits that change much of the index (such as opening a store).
//!
//! O(n log n), and each list is swept once. Nodes are filled to three quarters.

use std::sync::Arc;

use pagestrata_layers::{Key, KeyRange};

use super::{
    child_lists::Cover,
    keys::KeyTable,
    lsn_bands::{Mark, Span, marks_of},
    node::{FILL, Node, covers},
    slots::Slots,
    span_of,
};

/// Builds the list of the layers that cover all keys, and the tree with all others.
pub(super) fn build(slots: &Slots) -> (Cover, Node) {
    let bounds = slots.iter().flat_map(|(_, shape)| {
        let KeyRange { start, end } = shape.key_range;
        [Some(start), end].into_iter().flatten()
    });
    let mut stripes: Vec<Key> = bounds.chain([Key::MIN]).collect();
    stripes.sort_unstable();
    stripes.dedup();
    debug_assert_eq!(stripes.first(), Some(&Key::MIN), "a tree covers all keys");
    let mut root = Frame::over(&stripes);
    let mut whole = Vec::new();
    for (layer, shape) in slots.iter() {
        let span = span_of(layer, &shape);
        if covers(&shape.key_range, Key::MIN, None) {
            whole.push(span);
        } else {
            root.list(&shape.key_range, span, None);
        }
    }
    (Cover::new(vec![marks_of(&mut whole)]), root.finish())
}

/// A node under construction.
struct Frame {
    /// Where each child begins.
    keys: Vec<Key>,
    /// The layers listed for each child.
    lists: Vec<Vec<Span>>,
    /// The children; none in a leaf.
    children: Vec<Frame>,
}

impl Frame {
    /// A node over children that begin at `keys`.
    fn new(keys: Vec<Key>, children: Vec<Frame>) -> Frame {
        Frame { lists: vec![Vec::new(); keys.len()], keys, children }
    }

    /// Builds a tree of even depth over stripes.
    fn over(stripes: &[Key]) -> Frame {
        let mut level: Vec<Frame> =
            pieces(stripes).map(|keys| Frame::new(keys.to_vec(), Vec::new())).collect();
        while level.len() > 1 {
            let keys: Vec<Key> = level.iter().map(|frame| frame.keys[0]).collect();
            let mut children = level.into_iter();
            let node = |keys: &[Key]| {
                Frame::new(keys.to_vec(), children.by_ref().take(keys.len()).collect())
            };
            level = pieces(&keys).map(node).collect();
        }
        level.pop().expect("a first stripe")
    }

    /// Lists a layer that does not cover the whole node, which ends at `end`.
    fn list(&mut self, range: &KeyRange, span: Span, end: Option<Key>) {
        let first = self.keys.partition_point(|&key| key <= range.start).saturating_sub(1);
        for child in first..self.keys.len() {
            let start = self.keys[child];
            if range.end.is_some_and(|bound| bound <= start) {
                break;
            }
            let end = self.keys.get(child + 1).copied().or(end);
            if covers(range, start, end) {
                self.lists[child].push(span);
            } else {
                debug_assert!(!self.children.is_empty(), "layers begin and end where stripes do");
                self.children[child].list(range, span, end);
            }
        }
    }

    /// Finishes the node.
    fn finish(self) -> Node {
        let lists: Vec<Vec<Mark>> =
            self.lists.into_iter().map(|mut spans| marks_of(&mut spans)).collect();
        Node {
            keys: KeyTable::new(&self.keys),
            cover: Cover::new(lists),
            children: self.children.into_iter().map(|child| Arc::new(child.finish())).collect(),
        }
    }
}

/// Splits keys evenly into pieces of at most [`FILL`].
fn pieces(keys: &[Key]) -> impl Iterator<Item = &[Key]> {
    keys.chunks(keys.len().div_ceil(keys.len().div_ceil(FILL)))
}
