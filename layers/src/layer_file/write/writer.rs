//! [`LayerWriter`]: sorted versions in, a layer file out, in one pass.

use std::{fmt, ops::Range, path::Path};

use super::{
    block_writer::{BLOCK_OVERHEAD_MAX, BlockWriter},
    filter_builder::FilterBuilder,
    index_builder::IndexBuilder,
    tombstones,
};
use crate::{
    Error, Key, KeyRange, Kind, Lsn, Result, VALUE_LEN_MAX, Value,
    compress::Compressor,
    layer_file::{
        LayerId, LayerKind, LayerSummary, Tombstone, WriterOptions,
        format::{
            block::{BlockSeal, BlockType},
            chain::{PartBuilder, VALUE_OVERHEAD_MAX},
            footer::{FOOTER_LEN, Footer, encode_footer, encode_header},
            index_page::{HEIGHT_MAX, Place, Row},
        },
    },
    reserve,
    storage::Storage,
};

/// Writes one layer file from versions in order, (key, Lsn) ascending.
///
/// Its memory does not grow with what is written: about 450 KiB, and twice the largest block. After
/// an I/O error every further call fails. A writer that is dropped before [`LayerWriter::finish`]
/// leaves an incomplete file, which no [`LayerFile`](crate::layer_file::LayerFile) opens; removing
/// it is the caller's part.
pub struct LayerWriter {
    sink: BlockWriter,
    compressor: Option<Compressor>,
    index: IndexBuilder,
    /// None in an image layer that is complete: it is asked for keys that exist, and holds them.
    filter: Option<FilterBuilder>,
    id: LayerId,
    kind: LayerKind,
    block_len_target: usize,
    /// The chain part that is being filled, at the end of the sink's buffer.
    part: PartBuilder,
    /// Complete parts of the open data block: key, oldest Lsn, start in the payload.
    parts: Vec<(Key, Lsn, usize)>,
    /// A part on its way from one block to the next.
    carried: Vec<u8>,
    block_is_open: bool,
    written: WrittenTotals,
}

/// What was put so far.
#[derive(Debug, Default)]
struct WrittenTotals {
    first_key: Option<Key>,
    last: Option<(Key, Lsn)>,
    /// Lowest and highest Lsn.
    lsns: Option<(Lsn, Lsn)>,
    keys: u64,
    versions: u64,
    value_bytes: u64,
}

impl fmt::Debug for LayerWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerWriter")
            .field("id", &self.id)
            .field("kind", &self.kind)
            .field("sink", &self.sink)
            .field("written", &self.written)
            .finish_non_exhaustive()
    }
}

impl LayerWriter {
    /// Creates the file.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be created, for one because it exists.
    pub fn create(
        storage: &dyn Storage,
        path: &Path,
        id: LayerId,
        kind: LayerKind,
        options: WriterOptions,
    ) -> Result<LayerWriter> {
        let compressor = Compressor::new(options.compression)
            .map_err(|error| Error::io("compress", path, error))?;
        let file = storage.create(path)?;
        Ok(LayerWriter {
            sink: BlockWriter::new(file, BlockSeal::new(id), &encode_header(id, kind))?,
            compressor,
            index: IndexBuilder::default(),
            filter: (kind != LayerKind::Image { complete: true }).then(FilterBuilder::default),
            id,
            kind,
            block_len_target: options.block_size_target_bytes.clamp(1 << 10, 1 << 20) as usize,
            part: PartBuilder::default(),
            parts: Vec::new(),
            carried: Vec::new(),
            block_is_open: false,
            written: WrittenTotals::default(),
        })
    }

    /// How long the file is so far, in bytes, with what is still in memory.
    #[must_use]
    pub fn file_len(&self) -> u64 {
        self.sink.block_offset() + self.block_len() as u64 + FOOTER_LEN as u64
    }

    /// Adds a version.
    ///
    /// # Errors
    /// [`Error::OutOfOrder`] and [`Error::ValueTooLong`] change nothing; [`Error::Io`] and
    /// [`Error::OutOfMemory`] are for good.
    ///
    /// # Panics
    /// If `lsn` is no position; or if, in an image layer, the value is no image or not at the Lsn
    /// of the others.
    pub fn put(&mut self, key: Key, lsn: Lsn, value: Value<'_>) -> Result<()> {
        self.put_all(key, lsn, &[value])
    }

    /// Adds a delta, and the page that it leads to. Reads at its Lsn and above meet the page first,
    /// so that it ends their walk, and who reads the file in order gets both.
    ///
    /// # Errors
    /// As [`LayerWriter::put`]; the two may be as long together as one value.
    ///
    /// # Panics
    /// As [`LayerWriter::put`]; if `delta` is an image; in an image layer.
    pub fn put_with_page(
        &mut self,
        key: Key,
        lsn: Lsn,
        delta: Value<'_>,
        page: &[u8],
    ) -> Result<()> {
        assert!(delta.kind() != Kind::Image, "a page that a delta leads to");
        self.put_all(key, lsn, &[delta, Value::Image(page)])
    }

    /// Adds what there is at one Lsn, in one chain part.
    fn put_all(&mut self, key: Key, lsn: Lsn, values: &[Value<'_>]) -> Result<()> {
        let len = values.iter().map(|value| value.bytes().len()).sum();
        if len > VALUE_LEN_MAX {
            return Err(Error::ValueTooLong { len });
        }
        let previous = self.written.last;
        if previous.is_some_and(|previous| (key, lsn) <= previous) {
            return Err(out_of_order(previous, (key, lsn)));
        }
        assert!(lsn.is_valid(), "a version is at an Lsn");
        if let LayerKind::Image { .. } = self.kind {
            let at_one_lsn = self.written.lsns.is_none_or(|(first, _)| first == lsn);
            let are_images = values.iter().all(|value| value.kind() == Kind::Image);
            assert!(are_images && at_one_lsn, "images at one Lsn");
        }

        let new_key = previous.is_none_or(|(previous, _)| previous != key);
        if new_key {
            self.end_part()?;
        }
        self.make_room(len)?;
        // Also what completing the part and the block adds.
        let overhead = VALUE_OVERHEAD_MAX * values.len() + self.part.growth() + BLOCK_OVERHEAD_MAX;
        self.sink.reserve(len + overhead)?;
        self.part.reserve(values.len())?;
        if !self.block_is_open {
            self.sink.begin();
            self.block_is_open = true;
        }
        if new_key {
            self.written.keys += 1;
            if let Some(filter) = &mut self.filter {
                filter.push(key);
            }
        }
        for value in values {
            self.part.push(lsn, *value, self.sink.buffer());
            self.written.add(key, lsn, value.bytes().len());
        }
        Ok(())
    }

    /// Length of the open block's payload, if it were closed now.
    fn block_len(&self) -> usize {
        if self.block_is_open { self.sink.payload().len() + self.part.growth() } else { 0 }
    }

    /// Whether the open block is closed rather than given a value of `len` bytes.
    fn is_full_for(&self, len: usize) -> bool {
        let block_len = self.block_len();
        let target = self.block_len_target;
        block_len >= target
            || block_len > 0 && block_len + len + VALUE_OVERHEAD_MAX > target + target / 8
    }

    /// Closes the open block if it is full. A chain that began in it moves to the next block, if it
    /// is not all there is in this one: a chain lies in as few blocks as can be.
    fn make_room(&mut self, len: usize) -> Result<()> {
        if !self.is_full_for(len) {
            return Ok(());
        }
        if !self.part.is_empty() && !self.parts.is_empty() {
            self.part.take_out(self.sink.buffer(), &mut self.carried)?;
            self.write_block()?;
            self.sink.reserve(self.carried.len() + BLOCK_OVERHEAD_MAX)?;
            self.part.put_back(self.sink.begin(), &self.carried);
            self.block_is_open = true;
            if !self.is_full_for(len) {
                return Ok(());
            }
        }
        self.end_part()?;
        self.write_block()
    }

    /// Completes the open chain part, if there is one.
    fn end_part(&mut self) -> Result<()> {
        let (Some((key, _)), Some(lsn)) = (self.written.last, self.part.first_lsn()) else {
            return Ok(());
        };
        reserve(&mut self.parts, 1, "the pages of a block")?;
        debug_assert!(self.block_is_open && self.part.start() >= self.sink.payload_start());
        self.parts.push((key, lsn, self.part.start() - self.sink.payload_start()));
        self.part.end(self.sink.buffer());
        Ok(())
    }

    /// Closes the open data block, if there is one, and gives its parts to the index.
    fn write_block(&mut self) -> Result<()> {
        if !self.block_is_open {
            return Ok(());
        }
        let end = self.sink.payload_start() + self.sink.payload().len();
        assert!(
            self.part.is_empty() || self.part.start() == end,
            "a block is closed behind whole parts"
        );
        verify!(self.parts.is_sorted_by_key(|part| (part.0, part.1)), "parts are in order");
        self.block_is_open = false;
        let offset = self.sink.block_offset();
        let compressor = self.compressor.as_mut();
        match compressor.and_then(|compressor| compressor.compress(self.sink.payload())) {
            Some(stored) => self.sink.end_compressed(stored)?,
            None => self.sink.end(BlockType::Data)?,
        }
        for (key, lsn, start) in self.parts.drain(..) {
            let row = Row { key, lsn, place: Place::new(offset, start) };
            self.index.push(row, &mut self.sink)?;
        }
        match &mut self.filter {
            Some(filter) => filter.write_complete(&mut self.sink),
            None => Ok(()),
        }
    }

    /// Completes the file and syncs it. Its name is not made durable.
    ///
    /// `tombstones` are in order and without doubles.
    ///
    /// # Errors
    /// [`Error::OutOfOrder`] for the tombstones, [`Error::Io`]; the file is then incomplete.
    ///
    /// # Panics
    /// If something that was put, or a tombstone, is outside `key_range` or `lsn_range`.
    pub fn finish(
        mut self,
        key_range: KeyRange,
        lsn_range: Range<Lsn>,
        tombstones: &[Tombstone],
    ) -> Result<LayerSummary> {
        self.end_part()?;
        self.write_block()?;
        self.written.check_ranges(key_range, &lsn_range);
        if let Some(filter) = &mut self.filter {
            filter.write_partition(&mut self.sink)?;
        }
        let (height, root_offset) = self.index.finish(&mut self.sink)?;
        let tombstones_offset = tombstones::write(tombstones, &lsn_range, &mut self.sink)?;
        let filter_partitions = match self.filter {
            Some(filter) => filter.finish(&mut self.sink)?,
            None => 0,
        };
        let (digest, len) = self.sink.digest()?;
        let summary = LayerSummary {
            id: self.id,
            kind: self.kind,
            key_range,
            lsn_range,
            file_len: len + FOOTER_LEN as u64,
            digest,
            keys: self.written.keys,
            versions: self.written.versions,
            value_bytes: self.written.value_bytes,
            tombstones: tombstones.len() as u64,
        };
        // What a reader checks when it opens the file.
        assert_eq!(height == 0, summary.versions == 0, "an index has a version");
        assert!(usize::from(height) <= HEIGHT_MAX, "an index of {height} levels");
        assert!(root_offset < len && tombstones_offset < len, "offsets are within the file");
        assert!(summary.keys <= summary.versions, "a key has a version");
        let blocks = self.sink.blocks();
        let footer =
            Footer { summary, height, root_offset, tombstones_offset, filter_partitions, blocks };
        self.sink.finish(&encode_footer(&footer))?;
        Ok(footer.summary)
    }
}

impl WrittenTotals {
    fn add(&mut self, key: Key, lsn: Lsn, len: usize) {
        self.first_key.get_or_insert(key);
        self.last = Some((key, lsn));
        let (lowest, highest) = self.lsns.unwrap_or((lsn, lsn));
        self.lsns = Some((lowest.min(lsn), highest.max(lsn)));
        debug_assert!(self.first_key <= Some(key), "keys are put in order");
        self.versions += 1;
        self.value_bytes += len as u64;
    }

    fn check_ranges(&self, key_range: KeyRange, lsn_range: &Range<Lsn>) {
        let keys = [self.first_key, self.last.map(|last| last.0)];
        assert!(
            keys.into_iter().flatten().all(|key| key_range.contains(key)),
            "keys {keys:?} are outside {key_range}"
        );
        let lsns = self.lsns;
        assert!(
            lsns.is_none_or(
                |(lowest, highest)| lsn_range.contains(&lowest) && lsn_range.contains(&highest)
            ),
            "Lsns {lsns:?} are outside {lsn_range:?}"
        );
    }
}

#[cold]
fn out_of_order(previous: Option<(Key, Lsn)>, found: (Key, Lsn)) -> Error {
    let text = |(key, lsn): (Key, Lsn)| format!("{key} at {lsn}");
    Error::OutOfOrder { previous: previous.map(text).unwrap_or_default(), found: text(found) }
}
