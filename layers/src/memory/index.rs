//! The index of an in-memory layer: from a key to its versions, and all keys in order.
//!
//! ```text
//! objects:  hash table (point look-ups) and skip list (order) over Object nodes
//! Object -> root -> Directory[64] -> ... -> Leaf[16] of heads: newest version, older ones
//!                                              `-> Versions (newest block) -> older block -> ...
//! ```
//!
//! A page table: blocks are dense numbers under few objects, so each level takes six bits of the
//! block, and a root is only as high as the blocks that were written need. The newest version of a
//! key is in its [`Head`]; those before it lie in a block that grows, 3, 15, 63 entries, then in
//! several of 63, the newest first: a chain costs one wait for memory per block and not per
//! version.
//!
//! Why this index (`benches/benches/index_candidates`, 100-byte values, two shared vCPUs of an EPYC
//! Zen 3; ns a put, a newest look-up, an ordered iteration, each a version; bytes of index a
//! version):
//!
//! | | dense: 1.06 M blocks | 100,000 objects of 10 blocks | 500,000 sparse blocks |
//! |---|---|---|---|
//! | this | 101 / 175 / 66, 37.8 B | 455 / 289 / 73, 49.2 B | 530 / 715 / 401, 314 B |
//! | the same, all versions in blocks, no entries made together | 257 / 206 / 182, 38.5 B | 556 / 270 / 270, 55.8 B | 800 / 894 / 683, 241 B |
//! | hash table to leaves of 64, sorted when needed | 273 / 178 / 184, 39.0 B | 400 / 216 / 259, 53.2 B | 459 / 216 / 630, 180 B |
//! | `BTreeMap<(Key, Lsn), place>` | 832 / 1,116 / 92, 98.2 B | 900 / 1,279 / 118, 98.2 B | 681 / 922 / 94, 98.2 B |
//!
//! The others run on one thread and without what lets readers in. Pages are dense under few
//! objects, and there this one puts more than twice as fast, and iterates, as every flush does,
//! faster than what is sorted already. It pays with memory and look-ups where blocks are sparse.
//!
//! One writer changes it, through [`IndexWriter`]; readers walk it at any time and see each
//! publication whole. **Invariant:** nothing is ever unlinked while a reader may be under way to
//! it: a taken-back version only marks its head, or shortens its block or restores the link to the
//! older block, and the memory stays until the layer goes.

use std::sync::atomic::{AtomicU64, Ordering};

use super::space::{Appender, Id, Link, Node, POSITION_BITS, Position, Space};
use crate::{Error, Kind, Lsn, Result, VALUE_LEN_MAX};

mod head;
mod nodes;

pub(super) use head::{Head, NewestVersion};
use nodes::{
    Directory, FANOUT, LEAF_BITS, LEVEL_BITS, ObjectTable, Root, Subtree, TOWER, Tombstone,
    Versions, mix, table_slots,
};
pub(super) use nodes::{Entry, LEAF_FANOUT, Leaf, Object, Run};

/// The roots of the index; shared by writer and readers.
pub(super) struct Index {
    table: Link<ObjectTable>,
    first: [Link<Object>; TOWER],
}

/// Where a value is and what it is; heads and entries hold it packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ValueRef {
    pub(super) position: Position,
    pub(super) len: usize,
    pub(super) kind: Kind,
}

const KIND_BITS: u32 = 2;
const LEN_BITS: u32 = 25;
const _: () = assert!(VALUE_LEN_MAX < 1 << LEN_BITS && KIND_BITS + LEN_BITS + POSITION_BITS <= 64);

impl ValueRef {
    #[inline]
    pub(super) fn pack(self) -> u64 {
        debug_assert!(self.len <= VALUE_LEN_MAX && self.position.raw() >> POSITION_BITS == 0);
        u64::from(self.kind.to_bits())
            | (self.len as u64) << KIND_BITS
            | self.position.raw() << (KIND_BITS + LEN_BITS)
    }

    #[inline]
    pub(super) fn unpack(packed: u64) -> ValueRef {
        ValueRef {
            kind: Kind::from_bits(packed as u8 & 3).expect("packed from a kind"),
            len: (packed >> KIND_BITS) as usize & ((1 << LEN_BITS) - 1),
            position: Position::from_raw(packed >> (KIND_BITS + LEN_BITS)),
        }
    }
}

impl Index {
    pub(super) fn new() -> Index {
        Index { table: Link::empty(), first: [const { Link::empty() }; TOWER] }
    }

    /// The node of an object, if anything was ever written to it.
    #[inline]
    pub(super) fn object<'a>(&self, space: &'a Space, object: u128) -> Option<&'a Object> {
        self.object_id(space, object).map(|id| space.node(id))
    }

    #[inline]
    pub(super) fn object_id(&self, space: &Space, object: u128) -> Option<Id<Object>> {
        let table = self.table.load()?;
        let slots = table_slots(space, table);
        debug_assert!(slots.len().is_power_of_two());
        let mut at = mix(object) as usize & (slots.len() - 1);
        // The table is never full, so the probe ends.
        loop {
            let id = slots[at].load()?;
            if space.node(id).object() == object {
                return Some(id);
            }
            at = (at + 1) & (slots.len() - 1);
        }
    }

    /// The first object at or after `object`, in order.
    pub(super) fn first_object_from<'a>(
        &self,
        space: &'a Space,
        object: u128,
    ) -> Option<&'a Object> {
        let mut links = &self.first;
        for level in (0..TOWER).rev() {
            while let Some(next) = links[level].load().map(|id| space.node(id))
                && next.object() < object
            {
                links = &next.next;
            }
        }
        links[0].load().map(|id| space.node(id))
    }

    /// The head of a block of `object`.
    #[inline]
    #[allow(unsafe_code)]
    pub(super) fn head<'a>(
        &self,
        space: &'a Space,
        object: &Object,
        block: u32,
    ) -> Option<&'a Head> {
        let root = object.root();
        if !root.covers(block) {
            return None;
        }
        let mut node = root.node?;
        let mut shift = LEAF_BITS + LEVEL_BITS * root.height;
        while shift > LEAF_BITS {
            shift -= LEVEL_BITS;
            // SAFETY: so many levels above the leaves as `shift` has left: a directory.
            let directory = space.node(unsafe { node.as_directory() });
            node = directory.children[(block >> shift) as usize % FANOUT].load()?;
        }
        // SAFETY: no level is left: a leaf.
        let leaf = unsafe { node.as_leaf() };
        Some(&space.node(leaf).heads[slot_of(block, 0)])
    }

    /// The first leaf at or after `block` with its first block; `None` behind the last one.
    pub(super) fn leaf_from<'a>(
        &self,
        space: &'a Space,
        object: &Object,
        block: u32,
    ) -> Option<(u32, &'a Leaf)> {
        let root = object.root();
        let from = u64::from(block).max(root.first_block());
        if from > root.last_block() {
            return None;
        }
        #[allow(unsafe_code)]
        // SAFETY: a root is as many levels above the leaves as its height says.
        unsafe {
            first_leaf(space, root.node?, root.height, from as u32)
        }
    }
}

impl Head {
    /// The newest block of older versions.
    #[inline]
    #[allow(unsafe_code)]
    pub(super) fn older(&self) -> Option<Run> {
        // SAFETY: the word of a head, into which `IndexWriter::push` and `pop` alone store.
        unsafe { Run::unpack(self.older_packed()) }
    }
}

/// The first leaf at or after `block` below a node, and the leaf's first block.
///
/// # Safety
/// - The node is `level` levels above the leaves: a leaf at level 0, else a directory.
#[allow(unsafe_code)]
unsafe fn first_leaf(
    space: &Space,
    node: Id<Subtree>,
    level: u32,
    block: u32,
) -> Option<(u32, &Leaf)> {
    if level == 0 {
        // SAFETY: the caller's promise.
        let leaf = unsafe { node.as_leaf() };
        return Some((block & !(LEAF_FANOUT as u32 - 1), space.node(leaf)));
    }
    // SAFETY: the caller's promise.
    let children = &space.node(unsafe { node.as_directory() }).children;
    let (shift, first) = (shift_of(level), slot_of(block, level));
    let above = u64::from(block) >> (shift + LEVEL_BITS) << (shift + LEVEL_BITS);
    (first..FANOUT).find_map(|slot| {
        let child = children[slot].load()?;
        let start = if slot == first { block } else { (above | (slot as u64) << shift) as u32 };
        // SAFETY: a child is one level nearer to the leaves.
        unsafe { first_leaf(space, child, level - 1, start) }
    })
}

/// Bits of the block number below those that a level decides.
fn shift_of(level: u32) -> u32 {
    if level == 0 { 0 } else { LEAF_BITS + LEVEL_BITS * (level - 1) }
}

#[inline]
fn slot_of(block: u32, level: u32) -> usize {
    match level {
        0 => block as usize % LEAF_FANOUT,
        // Shifts of 28 and less: five levels above the leaf, the highest uses four bits.
        _ => (block >> shift_of(level)) as usize % FANOUT,
    }
}

impl Object {
    /// The newest tombstone that a read of `block` at `upper` sees.
    #[inline]
    pub(super) fn dropped_at(&self, space: &Space, block: u32, upper: Lsn) -> Option<Lsn> {
        let mut next = self.drops.load();
        while let Some(tombstone) = next.map(|id| space.node(id)) {
            if tombstone.first_block <= block && tombstone.lsn <= upper {
                return Some(tombstone.lsn);
            }
            next = tombstone.older.load();
        }
        None
    }

    /// The object after it, in order.
    pub(super) fn next_in_order<'a>(&self, space: &'a Space) -> Option<&'a Object> {
        self.next[0].load().map(|id| space.node(id))
    }

    /// Its tombstones at or below `upper`, newest first.
    pub(super) fn drops<'a>(
        &'a self,
        space: &'a Space,
        upper: Lsn,
    ) -> impl Iterator<Item = (u32, Lsn)> + 'a {
        let mut next = self.drops.load();
        std::iter::from_fn(move || {
            let tombstone = space.node(next?);
            next = tombstone.older.load();
            Some((tombstone.first_block, tombstone.lsn))
        })
        .filter(move |&(_, lsn)| lsn <= upper)
    }
}

/// The writer's side: the appender of the nodes, and where the last key was, for the next one is
/// often near it.
pub(super) struct IndexWriter {
    nodes: Appender,
    objects: usize,
    last_object: Option<(u128, Id<Object>)>,
    last_leaf: Option<(Id<Object>, u32, Id<Leaf>)>,
}

/// Where the head of a key's versions is, as the writer found or made it.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct HeadPlace {
    leaf: Id<Leaf>,
    slot: u32,
}

impl HeadPlace {
    #[inline]
    fn head(self, space: &Space) -> &Head {
        &space.node(self.leaf).heads[self.slot as usize]
    }

    /// Prefetches the head.
    #[inline]
    pub(super) fn prefetch(self, space: &Space) {
        let start = self.slot as usize * size_of::<Head>();
        space.prefetch_node(self.leaf, start);
        space.prefetch_node(self.leaf, start + size_of::<Head>() - 1);
    }

    /// Prefetches the place that the newest version will move to.
    #[inline]
    pub(super) fn prefetch_older(self, space: &Space) {
        if let Some(run) = self.head(space).older() {
            run.prefetch_next_place(space);
        }
    }
}

impl IndexWriter {
    pub(super) fn new(nodes: Appender) -> IndexWriter {
        IndexWriter { nodes, objects: 0, last_object: None, last_leaf: None }
    }

    /// Bytes that its nodes take.
    #[inline]
    pub(super) fn used_bytes(&self) -> u64 {
        self.nodes.used_bytes()
    }

    /// The node of an object, made if need be.
    #[inline]
    pub(super) fn object(
        &mut self,
        space: &Space,
        index: &Index,
        object: u128,
    ) -> Result<Id<Object>> {
        if let Some((last, id)) = self.last_object
            && last == object
        {
            return Ok(id);
        }
        let id = match index.object_id(space, object) {
            Some(id) => id,
            None => self.add_object(space, index, object)?,
        };
        self.last_object = Some((object, id));
        Ok(id)
    }

    fn add_object(&mut self, space: &Space, index: &Index, object: u128) -> Result<Id<Object>> {
        self.reserve_table(space, index)?;
        let mut before: [&[Link<Object>; TOWER]; TOWER] = [&index.first; TOWER];
        let mut links = &index.first;
        for level in (0..TOWER).rev() {
            while let Some(next) = links[level].load().map(|id| space.node(id))
                && next.object() < object
            {
                links = &next.next;
            }
            before[level] = links;
        }
        let node = Object::new(object, |level| before[level][level].load());
        let after = before[0][0].load().map(|id| space.node(id).object());
        debug_assert!(after.is_none_or(|after| object < after), "objects are linked in order");
        let height = node.tower_height();
        let id = self.nodes.append_node(node)?;
        for (level, links) in before.iter().enumerate().take(height) {
            links[level].publish(Some(id));
        }
        let table = index.table.load().expect("reserved");
        insert_into(table_slots(space, table), space, id);
        self.objects += 1;
        Ok(id)
    }

    /// Room for one more object in the hash table, at most three quarters full. Readers of the old
    /// table miss only objects that are newer than what they may read.
    fn reserve_table(&mut self, space: &Space, index: &Index) -> Result<()> {
        let old = index.table.load();
        let bits = old.map_or(0, |table| space.node(table).bits());
        if bits > 0 && self.objects < (3 << bits) / 4 {
            return Ok(());
        }
        let bits = if bits == 0 { ObjectTable::BITS_MIN } else { bits + 1 };
        if bits > ObjectTable::BITS_MAX {
            return Err(Error::Full {
                what: "an in-memory layer's objects",
                max: (3 << ObjectTable::BITS_MAX) / 4,
            });
        }
        let table = ObjectTable::append(&mut self.nodes, bits)?;
        let slots = table_slots(space, table);
        for id in old.iter().flat_map(|&old| table_slots(space, old)).filter_map(Link::load) {
            insert_into(slots, space, id);
        }
        debug_assert!(self.objects < slots.len(), "a table is never full");
        index.table.publish(Some(table));
        Ok(())
    }

    /// Where the head of a block's versions is, made if need be.
    #[inline]
    #[allow(unsafe_code)]
    pub(super) fn head(
        &mut self,
        space: &Space,
        object_id: Id<Object>,
        block: u32,
    ) -> Result<HeadPlace> {
        let (group, slot) = (block >> LEAF_BITS, slot_of(block, 0) as u32);
        if let Some((last_object, last_group, leaf)) = self.last_leaf
            && last_object == object_id
            && last_group == group
        {
            return Ok(HeadPlace { leaf, slot });
        }
        let object = space.node(object_id);
        let root = self.root_over(space, object, block)?;
        let mut node = root.node.expect("a root with nodes");
        for level in (1..=root.height).rev() {
            // SAFETY: a root is as many levels above the leaves as its height says: a directory.
            let directory = space.node(unsafe { node.as_directory() });
            let link = &directory.children[slot_of(block, level)];
            node = match link.load() {
                Some(child) => child,
                None => {
                    let child = self.add_node(level - 1)?;
                    link.publish(Some(child));
                    child
                }
            };
        }
        // SAFETY: no level is left: a leaf.
        let leaf = unsafe { node.as_leaf() };
        self.last_leaf = Some((object_id, group, leaf));
        Ok(HeadPlace { leaf, slot })
    }

    fn add_node(&mut self, level: u32) -> Result<Id<Subtree>> {
        Ok(match level {
            0 => self.nodes.append_node(Leaf::new())?.as_subtree(),
            _ => self.nodes.append_node(Directory::new())?.as_subtree(),
        })
    }

    /// The object's root, raised until it covers `block`.
    fn root_over(&mut self, space: &Space, object: &Object, block: u32) -> Result<Root> {
        let mut root = object.root();
        if root.node.is_none() {
            root = Root { node: Some(self.add_node(0)?), height: 0, prefix: block >> LEAF_BITS };
            object.set_root(root);
        }
        while !root.covers(block) {
            let node = self.nodes.append_node(Directory::new())?;
            space.node(node).children[root.prefix as usize % FANOUT].publish(root.node);
            root = Root {
                node: Some(node.as_subtree()),
                height: root.height + 1,
                prefix: root.prefix >> LEVEL_BITS,
            };
            object.set_root(root);
        }
        debug_assert!(root.covers(block) && root.height <= 5, "a root of height {}", root.height);
        Ok(root)
    }

    /// The newest version's Lsn.
    #[inline]
    pub(super) fn newest_lsn(&self, space: &Space, place: HeadPlace) -> Option<Lsn> {
        let head = place.head(space);
        head.newest_lsn().or_else(|| head.older()?.entries(space).last().map(Entry::lsn))
    }

    /// Adds the newest version under a head. Nothing is changed if it fails.
    ///
    /// Of a block of older versions with room nothing is read: the former newest is written there,
    /// and published, without waiting for its cache line.
    #[inline]
    pub(super) fn push(
        &mut self,
        space: &Space,
        place: HeadPlace,
        lsn: Lsn,
        packed: u64,
    ) -> Result<()> {
        debug_assert!(self.newest_lsn(space, place).is_none_or(|newest| newest < lsn));
        place.head(space).push(lsn, packed, |older, former, value| {
            #[allow(unsafe_code)]
            // SAFETY: the word of a head, into which only this function and `pop` store.
            let newest = unsafe { Run::unpack(older) };
            if let Some(run) = newest
                && let Some(entry) = run.next_place(space)
            {
                entry.set(former, value);
                return Ok(run.with_one_more().pack());
            }
            Ok(Versions::append(&mut self.nodes, space, newest, (former, value))?.pack())
        })
    }

    /// Takes the newest version of a block back. It was never committed, so no reader looks at it.
    pub(super) fn pop(&mut self, space: &Space, place: HeadPlace) {
        place.head(space).pop(|older| {
            #[allow(unsafe_code)]
            // SAFETY: the word of a head, into which only this function and `push` store.
            let run = unsafe { Run::unpack(older) }.expect("a version to take back");
            run.without_newest(space).map_or(0, Run::pack)
        });
    }

    /// Adds the newest tombstone of an object.
    pub(super) fn push_drop(
        &mut self,
        space: &Space,
        object: Id<Object>,
        first_block: u32,
        lsn: Lsn,
    ) -> Result<()> {
        let drops = &space.node(object).drops;
        let newest = drops.load().map(|id| space.node(id).lsn);
        debug_assert!(newest.is_none_or(|newest| newest <= lsn), "tombstones are put in order");
        let tombstone = Tombstone { lsn, first_block, older: Link::to(drops.load()) };
        let id = self.nodes.append_node(tombstone)?;
        drops.publish(Some(id));
        Ok(())
    }

    /// Takes the newest tombstone of an object back.
    pub(super) fn pop_drop(&mut self, space: &Space, object: Id<Object>) {
        let drops = &space.node(object).drops;
        let newest = drops.load().expect("a tombstone to take back");
        drops.publish(space.node(newest).older.load());
    }
}

fn insert_into(slots: &[Link<Object>], space: &Space, id: Id<Object>) {
    debug_assert!(slots.len().is_power_of_two());
    let mask = slots.len() - 1;
    let mut at = mix(space.node(id).object()) as usize & mask;
    while slots[at].load().is_some() {
        at = (at + 1) & mask;
    }
    slots[at].publish(Some(id));
}
