//! [`Slots`]: the shape of each layer, found by its slot.
//!
//! Chunks of 256 slots under groups of 32 chunks, each shared between versions until one of its
//! slots changes. Layers that are created together have few distinct objects and Lsns, so a chunk
//! stores each object and each Lsn once, and a record has 16 bytes: four positions in those tables
//! and two block numbers. Only taken slots have a record.
//!
//! **Invariant:** after a removal a chunk's tables have at most four entries for each of its
//! layers, plus eight.

use std::sync::Arc;

use pagestrata_layers::{Key, KeyRange, Lsn};

use super::{LayerKind, LayerShape, LayerSlot};

/// Slots of a chunk.
const CHUNK_SLOTS: usize = 256;
/// Chunks of a group.
const GROUP_CHUNKS: usize = 32;
/// Stands for "no end".
const NONE: u16 = u16::MAX;

/// The shape of each layer.
#[derive(Clone, Debug, Default)]
pub(super) struct Slots {
    /// All groups, in order of slot.
    groups: Vec<Arc<Group>>,
    /// How many slots are taken.
    taken: usize,
}

/// Neighbouring chunks.
#[derive(Clone, Debug, Default)]
struct Group {
    /// In order of slot; at most [`GROUP_CHUNKS`].
    chunks: Vec<Arc<Chunk>>,
}

/// Neighbouring slots.
#[derive(Clone, Debug, Default)]
struct Chunk {
    /// Objects that the records refer to.
    objects: Vec<u128>,
    /// Lsns that the records refer to.
    lsns: Vec<u64>,
    /// Which slots are taken, 64 a word.
    taken: [u64; CHUNK_SLOTS / 64],
    /// Records of the taken slots, in order.
    records: Vec<Record>,
}

/// A shape, packed.
#[derive(Clone, Copy, Debug)]
struct Record {
    /// Object of the first key.
    start_object: u16,
    /// Object of the key range's end, or [`NONE`].
    end_object: u16,
    /// The first Lsn, or the only one.
    start_lsn: u16,
    /// A delta's end, or [`NONE`].
    end_lsn: u16,
    /// Block of the first key.
    start_block: u32,
    /// Block of the key range's end.
    end_block: u32,
}

/// Returns group, chunk in the group, and slot in the chunk.
fn address(layer: LayerSlot) -> (usize, usize, usize) {
    let slot = layer.0 as usize;
    let chunk = slot / CHUNK_SLOTS;
    (chunk / GROUP_CHUNKS, chunk % GROUP_CHUNKS, slot % CHUNK_SLOTS)
}

impl Slots {
    /// How many layers.
    pub(super) fn len(&self) -> usize {
        self.taken
    }

    /// The shape of a layer.
    pub(super) fn get(&self, layer: LayerSlot) -> Option<LayerShape> {
        let (group, chunk, slot) = address(layer);
        self.groups.get(group)?.chunks.get(chunk)?.get(slot)
    }

    /// All layers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (LayerSlot, LayerShape)> {
        let slots = self.groups.len() * GROUP_CHUNKS * CHUNK_SLOTS;
        (0..slots as u32).map(LayerSlot).filter_map(|layer| Some((layer, self.get(layer)?)))
    }

    /// Takes a free slot.
    pub(super) fn insert(&mut self, layer: LayerSlot, shape: &LayerShape) {
        let slot = address(layer).2;
        let chunk = self.chunk_mut(layer);
        assert!(chunk.get(slot).is_none(), "slot {} of a layer is taken", layer.0);
        chunk.put(slot, shape);
        self.taken += 1;
    }

    /// Frees a slot and returns its shape.
    pub(super) fn remove(&mut self, layer: LayerSlot) -> Option<LayerShape> {
        let shape = self.get(layer)?;
        self.chunk_mut(layer).free(address(layer).2);
        self.taken -= 1;
        Some(shape)
    }

    /// Returns a slot's chunk for writing, not shared with other versions.
    fn chunk_mut(&mut self, layer: LayerSlot) -> &mut Chunk {
        let (group, chunk, _) = address(layer);
        if self.groups.len() <= group {
            self.groups.resize_with(group + 1, Arc::default);
        }
        let group = Arc::make_mut(&mut self.groups[group]);
        if group.chunks.len() <= chunk {
            group.chunks.resize_with(chunk + 1, Arc::default);
        }
        Arc::make_mut(&mut group.chunks[chunk])
    }

    /// Heap bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        let groups: usize = self.groups.iter().map(|group| group.heap_bytes()).sum();
        self.groups.capacity() * size_of::<Arc<Group>>() + groups
    }
}

impl Group {
    /// Returns the heap memory, including the group itself and its two reference counts.
    fn heap_bytes(&self) -> usize {
        let chunks: usize = self.chunks.iter().map(|chunk| chunk.heap_bytes()).sum();
        let own = self.chunks.capacity() * size_of::<Arc<Chunk>>();
        super::shared_bytes::<Group>() + own + chunks
    }
}

impl Chunk {
    /// Returns where a slot's record is, or would be.
    fn place(&self, slot: usize) -> Result<usize, usize> {
        let (word, bit) = (self.taken[slot / 64], 1 << (slot % 64));
        let front = self.taken[..slot / 64].iter().map(|word| word.count_ones()).sum::<u32>();
        let place = (front + (word & (bit - 1)).count_ones()) as usize;
        if word & bit == 0 { Err(place) } else { Ok(place) }
    }

    /// The shape in a slot.
    fn get(&self, slot: usize) -> Option<LayerShape> {
        self.place(slot).ok().map(|place| self.shape(&self.records[place]))
    }

    /// The shape of a record.
    fn shape(&self, record: &Record) -> LayerShape {
        let key = |object: u16, block| Key { object: self.objects[usize::from(object)], block };
        let lsn = |at: u16| Lsn(self.lsns[usize::from(at)]);
        let start = key(record.start_object, record.start_block);
        let end = (record.end_object != NONE).then(|| key(record.end_object, record.end_block));
        let kind = match record.end_lsn {
            NONE => LayerKind::Image { lsn: lsn(record.start_lsn) },
            end => LayerKind::Delta { start: lsn(record.start_lsn), end: lsn(end) },
        };
        LayerShape { key_range: KeyRange { start, end }, kind }
    }

    /// Fills a slot, which must be free.
    fn put(&mut self, slot: usize, shape: &LayerShape) {
        let record = self.record(shape);
        let (Ok(place) | Err(place)) = self.place(slot);
        debug_assert!(place <= self.records.len() && self.records.len() < CHUNK_SLOTS);
        self.taken[slot / 64] |= 1 << (slot % 64);
        self.records.reserve_exact(1);
        self.records.insert(place, record);
    }

    /// Packs a shape.
    fn record(&mut self, shape: &LayerShape) -> Record {
        let KeyRange { start, end } = shape.key_range;
        let (start_lsn, end_lsn) = match shape.kind {
            LayerKind::Image { lsn } => (lsn, None),
            LayerKind::Delta { start, end } => (start, Some(end)),
        };
        Record {
            start_object: place(&mut self.objects, start.object),
            end_object: end.map_or(NONE, |end| place(&mut self.objects, end.object)),
            start_lsn: place(&mut self.lsns, start_lsn.0),
            end_lsn: end_lsn.map_or(NONE, |end| place(&mut self.lsns, end.0)),
            start_block: start.block,
            end_block: end.map_or(0, |end| end.block),
        }
    }

    /// Frees a slot, and compacts the tables if most of their entries are unused.
    fn free(&mut self, slot: usize) {
        let Ok(place) = self.place(slot) else { return };
        self.taken[slot / 64] &= !(1 << (slot % 64));
        self.records.remove(place);
        self.records.shrink_to_fit();
        if self.objects.len().max(self.lsns.len()) > 4 * self.records.len() + 8 {
            let mut sorted = Chunk { taken: self.taken, ..Chunk::default() };
            sorted.records = self.records.iter().map(|it| sorted.record(&self.shape(it))).collect();
            *self = sorted;
        }
    }

    /// Returns the heap memory, including the chunk itself and its two reference counts.
    fn heap_bytes(&self) -> usize {
        super::shared_bytes::<Chunk>()
            + self.objects.capacity() * size_of::<u128>()
            + self.lsns.capacity() * size_of::<u64>()
            + self.records.capacity() * size_of::<Record>()
    }
}

/// Returns the position of `item` in a table; adds it if it is missing.
fn place<T: PartialEq>(table: &mut Vec<T>, item: T) -> u16 {
    let at = table.iter().position(|other| *other == item).unwrap_or_else(|| {
        table.reserve_exact(1);
        table.push(item);
        table.len() - 1
    });
    // A slot has two objects and two Lsns; a chunk that has lost many is compacted.
    assert!(at < usize::from(NONE), "a chunk's tables stay small");
    at as u16
}
