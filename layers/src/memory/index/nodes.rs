//! The nodes of the index and their sizes. Plain fields are written before a node is published and
//! never again.
#![allow(unsafe_code)]

use super::*;

/// Bits of the block number that one level of the page table decides.
pub(super) const LEVEL_BITS: u32 = 6;
/// Slots of a level's node.
pub(super) const FANOUT: usize = 1 << LEVEL_BITS;
/// Bits of the block number that a leaf decides.
pub(super) const LEAF_BITS: u32 = 4;
/// Heads of a leaf.
pub(in super::super) const LEAF_FANOUT: usize = 1 << LEAF_BITS;
/// Levels of the skip list over objects; one object in four goes one level higher.
pub(super) const TOWER: usize = 8;

/// One object: the root of its page table, its tombstones, its place in the order. One cache line.
#[repr(C, align(64))]
pub(in super::super) struct Object {
    high: u64,
    low: u64,
    root: AtomicU64,
    pub(super) drops: Link<Tombstone>,
    /// The next objects in order, by level of the skip list.
    pub(super) next: [Link<Object>; TOWER],
}

/// What an id of either a [`Directory`] or a [`Leaf`] points to. Not a [`Node`], so it cannot be
/// looked up before [`Id::as_leaf`] or [`Id::as_directory`] has said which of the two it is.
pub(super) struct Subtree;

/// An inner node of the page table. At level 1 its children are leaves, above it directories.
#[repr(C, align(64))]
pub(super) struct Directory {
    pub(super) children: [Link<Subtree>; FANOUT],
}

/// A leaf of the page table: the heads of 16 neighbouring blocks.
#[repr(C, align(64))]
pub(in super::super) struct Leaf {
    pub(in super::super) heads: [Head; LEAF_FANOUT],
}

/// Versions of a key that lie together: the first `len` entries of a block.
///
/// **Invariant:** the block was appended with `capacity` entries, and `len` is at most that. Only
/// [`Versions::append`] makes a run, and only the methods here change one.
#[derive(Clone, Copy)]
pub(in super::super) struct Run {
    block: Id<Versions>,
    len: u32,
    capacity: u32,
}

/// A block of versions of one key; [`Entry`]s follow it, oldest first.
#[repr(C, align(16))]
pub(in super::super) struct Versions {
    /// The block before it, which is full and has the highest capacity, as this one has.
    older: Option<Run>,
}

/// One version. Atomic because a taken-back entry's place is written again while a reader may look
/// at its Lsn; no reader that may look at it (its Lsn was never committed) goes on to the value.
#[repr(C)]
pub(in super::super) struct Entry {
    lsn: AtomicU64,
    packed: AtomicU64,
}

/// `drop_blocks`.
#[repr(C)]
pub(super) struct Tombstone {
    pub(super) lsn: Lsn,
    pub(super) first_block: u32,
    pub(super) older: Link<Tombstone>,
}

/// A hash table of objects, open addressing; its slots follow it.
///
/// **Invariant:** it has `1 << bits` slots. Only [`ObjectTable::append`] makes one.
#[repr(C)]
pub(super) struct ObjectTable {
    bits: u32,
}

const _: () =
    assert!(size_of::<Object>() == 64 && size_of::<Directory>() == 256 && size_of::<Leaf>() == 384);
const _: () = assert!(
    size_of::<Versions>() == 16 && size_of::<Entry>() == 16 && size_of::<Tombstone>() == 16
);

// SAFETY: plain numbers and atomics, sizes as asserted above, alignments of at most 64.
unsafe impl Node for Object {}
// SAFETY: as above.
unsafe impl Node for Directory {}
// SAFETY: as above.
unsafe impl Node for Leaf {}
// SAFETY: as above.
unsafe impl Node for Versions {}
// SAFETY: as above.
unsafe impl Node for Entry {}
// SAFETY: as above.
unsafe impl Node for Tombstone {}
// SAFETY: as above.
unsafe impl Node for ObjectTable {}

/// Spreads an object's bits; the constants are the 64-bit golden ratio and a prime of xxHash.
#[inline]
pub(super) fn mix(object: u128) -> u64 {
    let folded = (object as u64)
        ^ ((object >> 64) as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
    let spread = (folded ^ (folded >> 32)).wrapping_mul(0xC2B2_AE3D_27D4_EB4F);
    spread ^ (spread >> 29)
}

impl Object {
    /// A node without blocks, linked before what `next` says for each level of its tower.
    #[inline]
    pub(super) fn new(object: u128, next: impl Fn(usize) -> Option<Id<Object>>) -> Object {
        let height = tower_height(object);
        Object {
            high: (object >> 64) as u64,
            low: object as u64,
            root: AtomicU64::new(0),
            drops: Link::empty(),
            next: std::array::from_fn(|level| {
                Link::to((level < height).then(|| next(level)).flatten())
            }),
        }
    }

    #[inline]
    pub(in super::super) fn object(&self) -> u128 {
        u128::from(self.high) << 64 | u128::from(self.low)
    }

    /// On how many levels of the skip list it is.
    pub(super) fn tower_height(&self) -> usize {
        tower_height(self.object())
    }

    /// Pairs with [`Object::set_root`].
    #[inline]
    pub(super) fn root(&self) -> Root {
        let packed = self.root.load(Ordering::Acquire);
        Root {
            // SAFETY: a root is packed from the id of a node of this object's space, by `set_root`.
            node: unsafe { Id::from_raw(packed as u32) },
            height: (packed >> 32) as u32 & 7,
            prefix: (packed >> 35) as u32,
        }
    }

    pub(super) fn set_root(&self, root: Root) {
        debug_assert!(root.height < 8 && root.prefix < 1 << 29, "a root fits its word");
        let node = u64::from(root.node.map_or(0, Id::raw));
        self.root.store(
            node | u64::from(root.height) << 32 | u64::from(root.prefix) << 35,
            crate::memory::PUBLISH,
        );
    }
}

/// No random numbers below the engine: the height comes from the object's own bits, other ones than
/// the hash table's.
fn tower_height(object: u128) -> usize {
    1 + (mix(object ^ 0x5851_F42D_4C95_7F2D).leading_zeros() as usize / 2).min(TOWER - 1)
}

/// The root of an object's page table, published as one number.
#[derive(Clone, Copy)]
pub(super) struct Root {
    /// A leaf at height 0, else a directory.
    pub(super) node: Option<Id<Subtree>>,
    pub(super) height: u32,
    /// The bits of the block number above those that the levels decide.
    pub(super) prefix: u32,
}

impl Root {
    #[inline]
    fn span_bits(self) -> u32 {
        LEAF_BITS + LEVEL_BITS * self.height
    }

    #[inline]
    pub(super) fn covers(self, block: u32) -> bool {
        u64::from(block) >> self.span_bits() == u64::from(self.prefix)
    }

    pub(super) fn first_block(self) -> u64 {
        u64::from(self.prefix) << self.span_bits()
    }

    pub(super) fn last_block(self) -> u64 {
        (self.first_block() + (1 << self.span_bits()) - 1).min(u64::from(u32::MAX))
    }
}

impl Id<Subtree> {
    /// The leaf that this is.
    ///
    /// # Safety
    /// - The node was appended as a [`Leaf`]: it is the root of an object at height 0, or a child
    ///   of a directory at level 1.
    #[inline]
    pub(super) unsafe fn as_leaf(self) -> Id<Leaf> {
        // SAFETY: the caller's promise.
        unsafe { Id::from_raw(self.raw()) }.expect("an id is not zero")
    }

    /// The directory that this is.
    ///
    /// # Safety
    /// - The node was appended as a [`Directory`]: it is the root of an object at a height above 0,
    ///   or a child of a directory at level 2 or above.
    #[inline]
    pub(super) unsafe fn as_directory(self) -> Id<Directory> {
        // SAFETY: the caller's promise.
        unsafe { Id::from_raw(self.raw()) }.expect("an id is not zero")
    }
}

impl<T: PageTableNode> Id<T> {
    /// The id as a parent holds it.
    pub(super) fn as_subtree(self) -> Id<Subtree> {
        // SAFETY: the number of an id of this space. A subtree is looked up by `as_leaf` or
        // `as_directory` alone, which ask for the type that it was appended as.
        unsafe { Id::from_raw(self.raw()) }.expect("an id is not zero")
    }
}

/// A node of the page table.
pub(in super::super) trait PageTableNode: Node {}
impl PageTableNode for Directory {}
impl PageTableNode for Leaf {}

impl Directory {
    #[inline]
    pub(super) fn new() -> Directory {
        Directory { children: [const { Link::empty() }; FANOUT] }
    }
}

impl Leaf {
    #[inline]
    pub(super) fn new() -> Leaf {
        Leaf { heads: [const { Head::empty() }; LEAF_FANOUT] }
    }
}

impl Run {
    /// As a [`Head`] holds it.
    #[inline]
    pub(super) fn pack(self) -> u64 {
        debug_assert!(0 < self.len && self.len <= self.capacity, "a run ends within its block");
        debug_assert!(self.capacity <= Versions::CAPACITY_MAX);
        u64::from(self.block.raw()) | u64::from(self.len) << 32 | u64::from(self.capacity) << 48
    }

    /// Back from [`Run::pack`]; zero is none.
    ///
    /// # Safety
    /// - `packed` is zero, or what [`Run::pack`] gave for a run of this layer: the word of a head.
    #[inline]
    pub(super) unsafe fn unpack(packed: u64) -> Option<Run> {
        // SAFETY: by the caller's promise the lower half is the number of a block's id.
        let block = unsafe { Id::from_raw(packed as u32) }?;
        Some(Run { block, len: (packed >> 32) as u32 & 0xFFFF, capacity: (packed >> 48) as u32 })
    }

    /// Its entries, oldest first.
    #[inline]
    pub(in super::super) fn entries(self, space: &Space) -> &[Entry] {
        debug_assert!(self.len <= self.capacity, "a run ends within its block");
        // SAFETY: by the invariant the block was appended with at least so many entries.
        unsafe { space.tail(self.block, self.len as usize) }
    }

    /// The place behind its entries, for the writer alone; none if its block is full.
    #[inline]
    pub(super) fn next_place(self, space: &Space) -> Option<&Entry> {
        if self.len == self.capacity {
            return None;
        }
        // SAFETY: by the invariant the block was appended with this many entries; a place that was
        // never used holds an unused one.
        let places = unsafe { space.tail::<Versions, Entry>(self.block, self.capacity as usize) };
        places.get(self.len as usize)
    }

    /// With the entry at [`Run::next_place`].
    #[inline]
    pub(super) fn with_one_more(self) -> Run {
        assert!(self.len < self.capacity, "a full block takes no entry");
        Run { len: self.len + 1, ..self }
    }

    /// Without its newest entry: what is left of its block, or the block before.
    pub(super) fn without_newest(self, space: &Space) -> Option<Run> {
        debug_assert!(self.len > 0, "a run is never empty");
        match self.len {
            1 => self.older(space),
            len => Some(Run { len: len - 1, ..self }),
        }
    }

    /// Prefetches the cache line of its header and its first entries.
    #[inline]
    pub(in super::super) fn prefetch(self, space: &Space) {
        space.prefetch_node(self.block, 0);
    }

    /// Prefetches the place behind its entries.
    #[inline]
    pub(super) fn prefetch_next_place(self, space: &Space) {
        let entry = size_of::<Versions>() + self.len as usize * size_of::<Entry>();
        space.prefetch_node(self.block, entry);
    }

    /// The next older run, which is a full block.
    #[inline]
    pub(in super::super) fn older(self, space: &Space) -> Option<Run> {
        space.node(self.block).older
    }
}

impl Versions {
    /// Entries of a key's first block: with the header, one cache line.
    const CAPACITY_MIN: u32 = 3;
    /// With the header, one KiB. Four times a capacity and 3 come to it from the smallest one.
    const CAPACITY_MAX: u32 = 63;
    /// Appends the block that follows a full one, and puts a version into it.
    ///
    /// What is in the full one is copied if the new block is larger, so that a chain of up to 64
    /// versions is a head and one block: each block costs a reader a cache miss. The former block
    /// stays for the readers that are in it, a quarter of the new one's bytes.
    pub(super) fn append(
        nodes: &mut Appender,
        space: &Space,
        full: Option<Run>,
        (lsn, packed): (Lsn, u64),
    ) -> Result<Run> {
        debug_assert!(full.is_none_or(|run| run.len == run.capacity), "the block before is full");
        let (capacity, older, copied) = match full {
            Some(run) if run.capacity == Versions::CAPACITY_MAX => (run.capacity, full, None),
            Some(run) => (run.capacity * 4 + 3, None, full),
            None => (Versions::CAPACITY_MIN, None, None),
        };
        let copied = copied.map_or(&[][..], |run| run.entries(space));
        let mut entries = copied.iter().map(Entry::again).chain([Entry::new(lsn, packed)]);
        let block = nodes.append_with_tail(Versions { older }, capacity as usize, || {
            entries.next().unwrap_or_else(Entry::unused)
        })?;
        Ok(Run { block, len: copied.len() as u32 + 1, capacity })
    }
}

impl Entry {
    #[inline]
    pub(super) fn new(lsn: Lsn, packed: u64) -> Entry {
        Entry { lsn: AtomicU64::new(lsn.0), packed: AtomicU64::new(packed) }
    }

    /// The place of an entry to come.
    #[inline]
    pub(super) fn unused() -> Entry {
        Entry { lsn: AtomicU64::new(0), packed: AtomicU64::new(0) }
    }

    /// The same version in another block.
    #[inline]
    pub(super) fn again(&self) -> Entry {
        let again = |word: &AtomicU64| AtomicU64::new(word.load(Ordering::Relaxed));
        Entry { lsn: again(&self.lsn), packed: again(&self.packed) }
    }

    /// Relaxed: the block's length is stored behind it.
    #[inline]
    pub(super) fn set(&self, lsn: Lsn, packed: u64) {
        self.lsn.store(lsn.0, Ordering::Relaxed);
        self.packed.store(packed, Ordering::Relaxed);
    }

    #[inline]
    pub(in super::super) fn lsn(&self) -> Lsn {
        Lsn(self.lsn.load(Ordering::Relaxed))
    }

    #[inline]
    pub(in super::super) fn value(&self) -> ValueRef {
        ValueRef::unpack(self.packed.load(Ordering::Relaxed))
    }
}

impl ObjectTable {
    pub(super) const BITS_MIN: u32 = 4;
    /// 16 MiB of slots.
    pub(super) const BITS_MAX: u32 = 22;

    /// Appends an empty table.
    pub(super) fn append(nodes: &mut Appender, bits: u32) -> Result<Id<ObjectTable>> {
        assert!((ObjectTable::BITS_MIN..=ObjectTable::BITS_MAX).contains(&bits), "{bits} bits");
        nodes.append_with_tail(ObjectTable { bits }, 1 << bits, Link::<Object>::empty)
    }

    #[inline]
    pub(super) fn bits(&self) -> u32 {
        self.bits
    }
}

/// The slots of a table.
#[inline]
pub(super) fn table_slots(space: &Space, table: Id<ObjectTable>) -> &[Link<Object>] {
    // SAFETY: by the invariant it was appended with as many links to objects as its header says.
    unsafe { space.tail(table, 1 << space.node(table).bits) }
}
