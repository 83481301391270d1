//! How a store's layer files are reached: mapped, or read into a cache of blocks, through the page
//! cache or with direct I/O.
//!
//! | | [`AccessMode::Mmap`] | [`AccessMode::Pread`] | [`AccessMode::Direct`] |
//! |---|---|---|---|
//! | a warm value is borrowed from | the mapping | a cached block | a cached block |
//! | memory | the operating system's page cache | the block cache, beside the page cache | the block cache alone |
//! | a file that was truncated, or a device that fails | `SIGBUS`, unless a [`ReadKind::NoWait`] read or the prefetch before it has noticed | a typed error | a typed error |
//!
//! Mappings and open files are bounded: a file beyond the bound of mappings is read as by
//! [`AccessMode::Pread`], and files are opened again when they are needed again.

use std::{
    ops::Deref,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use quick_cache::{Weighter, sync::Cache};

use super::{
    buffers::{Buffer, Buffers},
    residency::{MappedFile, Watch},
    source::BlockSource,
};
use crate::{
    Error, Result,
    layer_file::{LayerSummary, format::block::DATA_GUESS},
    storage::{DIRECT_ALIGN, File, FileMap, SharedStorage},
};

#[cfg(doc)]
use super::scratch::ReadKind;

const SECTOR: u64 = DIRECT_ALIGN as u64;

/// How many files were given a number: of all stores of this process, because a scratch that serves
/// several of them tells blocks by it.
static FILES: AtomicU64 = AtomicU64::new(0);

/// Ways to read layer files.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum AccessMode {
    /// Mapped: values are borrowed from the operating system's page cache.
    ///
    /// What is in memory the system tells only to who may write to a file (`can_do_mincore` in
    /// Linux's `mm/mincore.c`): a process that may not is told that everything is, and then its
    /// reads that may not wait do wait.
    #[default]
    Mmap,
    /// Read, block by block, into a cache of the store's own.
    Pread,
    /// As [`AccessMode::Pread`], with direct I/O (`O_DIRECT`). Where the file system refuses that,
    /// files are read as by `Pread`, and [`AccessStats::direct_refused`] says so.
    Direct,
}

/// The bounds of a [`LayerAccess`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AccessOptions {
    /// How files are read.
    pub mode: AccessMode,
    /// The most that the block cache holds, in bytes. A block that a read has borrowed is not
    /// counted.
    pub cache_max_bytes: u64,
    /// How many files are mapped at the most.
    pub mappings_max: u64,
    /// How many files are kept open at the most, to be read; about so many, and those that are
    /// being read.
    pub open_files_max: usize,
    /// Whether residency is remembered until [`LayerAccess::watch_until_stopped`], which a thread
    /// must run, finds otherwise; else each read that may not wait asks the kernel.
    pub remembers_residency: bool,
}

impl Default for AccessOptions {
    fn default() -> AccessOptions {
        AccessOptions {
            mode: AccessMode::Mmap,
            cache_max_bytes: 256 << 20,
            // The kernel's own default bound is 65,530 for all of a process.
            mappings_max: 32 << 10,
            open_files_max: 512,
            remembers_residency: false,
        }
    }
}

/// What a [`LayerAccess`] has done and holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct AccessStats {
    /// Files that are mapped.
    pub mappings: u64,
    /// Their lengths, in bytes.
    pub mapped_bytes: u64,
    /// What the block cache holds, in bytes.
    pub cached_bytes: u64,
    /// Reads of files into memory: calls of the operating system.
    pub reads: u64,
    /// What was read for them, in bytes.
    pub read_bytes: u64,
    /// Whether direct I/O was asked for and refused.
    pub direct_refused: bool,
}

/// How the layer files of a store are reached, shared by all of them.
#[derive(Debug)]
pub struct LayerAccess {
    storage: SharedStorage,
    options: AccessOptions,
    /// Relied on, and documented by quick_cache: the weights never add up to more than the capacity
    /// that it was made with (`OptionsBuilder::weight_capacity`), and one caller loads a missing
    /// block while others wait for it (`get_value_or_guard`). Not relied on: that a block is there
    /// after it was put. A heavy one may not be admitted.
    blocks: Cache<BlockAt, Arc<CachedBlock>, MemoryWeight>,
    /// Relied on: as for `blocks`; its bound is documented as approximate (`Cache::new`).
    open_files: Cache<u64, Arc<dyn File>>,
    buffers: Arc<Buffers>,
    watch: Arc<Watch>,
    mappings: AtomicU64,
    mapped_bytes: AtomicU64,
    reads: AtomicU64,
    read_bytes: AtomicU64,
    direct_refused: AtomicBool,
}

/// Where a block is, among all files of this process.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct BlockAt {
    file: u64,
    offset: u64,
}

#[derive(Clone, Debug)]
struct MemoryWeight;

impl Weighter<BlockAt, Arc<CachedBlock>> for MemoryWeight {
    fn weight(&self, _: &BlockAt, block: &Arc<CachedBlock>) -> u64 {
        block.memory_bytes()
    }
}

impl LayerAccess {
    /// Of the files of `storage`.
    #[must_use]
    pub fn new(storage: SharedStorage, options: AccessOptions) -> Arc<LayerAccess> {
        // Its tables grow, where it is not expected to be used.
        let blocks_estimate = match options.mode {
            AccessMode::Mmap => 0,
            _ => usize::try_from(options.cache_max_bytes / DATA_GUESS as u64).unwrap_or(0),
        };
        Arc::new(LayerAccess {
            storage,
            options,
            blocks: Cache::with_weighter(
                blocks_estimate.max(16),
                options.cache_max_bytes,
                MemoryWeight,
            ),
            open_files: Cache::new(options.open_files_max.max(1)),
            buffers: Arc::default(),
            watch: Arc::default(),
            mappings: AtomicU64::new(0),
            mapped_bytes: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            read_bytes: AtomicU64::new(0),
            direct_refused: AtomicBool::new(false),
        })
    }

    /// The bytes of the layer file at `path`, mapped or to be read into the cache.
    pub(crate) fn source(
        self: &Arc<Self>,
        path: &Path,
        expected: Option<&LayerSummary>,
    ) -> Result<BlockSource> {
        let file = self.storage.open(path);
        let file = file.map_err(|error| of_required(error, expected))?;
        let len = file.len()?;
        let is_mapped = self.options.mode == AccessMode::Mmap
            && self
                .mappings
                .fetch_update(Relaxed, Relaxed, |mappings| {
                    (mappings < self.options.mappings_max).then_some(mappings + 1)
                })
                .is_ok();
        Ok(if is_mapped {
            let counted = MappingCount { access: self.clone(), bytes: len };
            self.mapped_bytes.fetch_add(len, Relaxed);
            let map = file.map()?;
            map.expect_random();
            let file = match self.options.remembers_residency {
                true => MappedFile::watched(map, &self.watch)?,
                false => Arc::new(MappedFile::unwatched(map)),
            };
            BlockSource::Mapped(CountedMap { file, _counted: Some(counted) })
        } else {
            let number = FILES.fetch_add(1, Relaxed);
            BlockSource::Cached(CachedFile {
                access: self.clone(),
                path: path.to_owned(),
                number,
                len,
            })
        })
    }

    /// Looks each `interval` whether what was found in memory is still there, until
    /// [`LayerAccess::stop`]: the work of a thread that [`AccessOptions::remembers_residency`] asks
    /// for. `clock` is monotonic; where a look takes long, the intervals get longer.
    pub fn watch_until_stopped(&self, interval: Duration, clock: fn() -> Duration) {
        self.watch.look_until_stopped(interval, clock);
    }

    /// Looks once.
    #[cfg(feature = "testing")]
    pub fn watch_once(&self) {
        self.watch.look_again();
    }

    /// Ends [`LayerAccess::watch_until_stopped`].
    pub fn stop(&self) {
        self.watch.stop();
    }

    /// What it has done and holds.
    #[must_use]
    pub fn stats(&self) -> AccessStats {
        AccessStats {
            mappings: self.mappings.load(Relaxed),
            mapped_bytes: self.mapped_bytes.load(Relaxed),
            cached_bytes: self.blocks.weight(),
            reads: self.reads.load(Relaxed),
            read_bytes: self.read_bytes.load(Relaxed),
            direct_refused: self.direct_refused.load(Relaxed),
        }
    }
}

/// What a missing file is where the manifest says that there is one.
pub(crate) fn of_required(error: Error, expected: Option<&LayerSummary>) -> Error {
    match expected {
        Some(expected) => {
            error.of_required("layer file", format_args!("{} bytes", expected.file_len))
        }
        None => error,
    }
}

/// A mapping's share in the counts of mappings and mapped bytes.
#[derive(Debug)]
struct MappingCount {
    access: Arc<LayerAccess>,
    bytes: u64,
}

impl Drop for MappingCount {
    fn drop(&mut self) {
        let mappings = self.access.mappings.fetch_sub(1, Relaxed);
        let bytes = self.access.mapped_bytes.fetch_sub(self.bytes, Relaxed);
        debug_assert!(mappings > 0 && bytes >= self.bytes, "each mapping is counted once");
    }
}

/// A mapped file, and its count if it has one.
#[derive(Debug)]
pub(crate) struct CountedMap {
    file: Arc<MappedFile>,
    _counted: Option<MappingCount>,
}

impl CountedMap {
    /// One without a count.
    pub(crate) fn uncounted(map: FileMap) -> CountedMap {
        CountedMap { file: Arc::new(MappedFile::unwatched(map)), _counted: None }
    }
}

impl Deref for CountedMap {
    type Target = MappedFile;

    #[inline]
    fn deref(&self) -> &MappedFile {
        &self.file
    }
}

/// A file that is read block by block.
#[derive(Debug)]
pub(crate) struct CachedFile {
    access: Arc<LayerAccess>,
    path: PathBuf,
    /// Its number in the cache.
    number: u64,
    len: u64,
}

impl CachedFile {
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.path.as_os_str().len()
    }

    fn at(&self, offset: u64) -> BlockAt {
        BlockAt { file: self.number, offset }
    }

    /// The block at `offset`, if it is in the cache.
    pub(crate) fn get(&self, offset: u64) -> Option<Arc<CachedBlock>> {
        self.access.blocks.get(&self.at(offset))
    }

    /// The block at `offset`. Waits if another thread is loading it.
    pub(crate) fn get_or_load(
        &self,
        offset: u64,
        load: impl FnOnce() -> Result<Arc<CachedBlock>>,
    ) -> Result<Arc<CachedBlock>> {
        self.access.blocks.get_or_insert_with(&self.at(offset), load)
    }

    /// Reads `len` bytes, which are within the file as it was when it was opened.
    pub(crate) fn read(&self, offset: u64, len: usize) -> Result<CachedBlock> {
        debug_assert!(offset + len as u64 <= self.len, "{len} bytes at {offset} of {}", self.len);
        let access = &*self.access;
        // Whole sectors, which direct I/O asks for.
        let (from, to) = match access.options.mode {
            AccessMode::Direct => {
                (offset / SECTOR * SECTOR, (offset + len as u64).next_multiple_of(SECTOR))
            }
            _ => (offset, offset + len as u64),
        };
        let mut buffer = access.buffers.take((to - from) as usize)?;
        let into = &mut buffer.bytes_mut()[..(to - from) as usize];
        let file = access.open_files.get_or_insert_with(&self.number, || self.open())?;
        let read = match file.read_up_to(from, into) {
            // Some file systems refuse direct I/O only now; others may be told so at the same time.
            Err(error) if error.is_invalid_input() && access.options.mode == AccessMode::Direct => {
                access.direct_refused.store(true, Relaxed);
                access.open_files.clear();
                self.open()?.read_up_to(from, into)
            }
            read => read,
        }?;
        let start = (offset - from) as usize;
        debug_assert!(start + len <= buffer.bytes().len(), "the buffer holds what was read");
        if read < start + len {
            let (found, expected) = (from + read as u64, offset + len as u64);
            return Err(Error::corrupt(&self.path, found, "file length", expected, found));
        }
        access.reads.fetch_add(1, Relaxed);
        access.read_bytes.fetch_add(read as u64, Relaxed);
        Ok(CachedBlock { buffer, start, len })
    }

    /// A block with these bytes.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]
    pub(crate) fn copied(&self, bytes: &[u8]) -> Result<CachedBlock> {
        let mut buffer = self.access.buffers.take(bytes.len())?;
        buffer.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
        Ok(CachedBlock { buffer, start: 0, len: bytes.len() })
    }

    /// Puts a block into the cache.
    pub(crate) fn put(&self, offset: u64, block: Arc<CachedBlock>) {
        debug_assert!(offset + block.len as u64 <= self.len, "a block lies within its file");
        self.access.blocks.insert(self.at(offset), block);
    }

    /// The first `len` bytes of what was read, in a buffer that has not much more room than that.
    pub(crate) fn fitted(&self, read: CachedBlock, len: usize) -> Result<CachedBlock> {
        let len = len.min(read.len);
        debug_assert!(read.start + len <= read.buffer.bytes().len());
        let kept = read.buffer.bytes().len();
        if len.next_multiple_of(DIRECT_ALIGN) * 4 > kept * 3 {
            return Ok(CachedBlock { len, ..read });
        }
        self.copied(&read.bytes()[..len])
    }

    fn open(&self) -> Result<Arc<dyn File>> {
        let access = &*self.access;
        if access.options.mode == AccessMode::Direct && !access.direct_refused.load(Relaxed) {
            if let Some(file) = access.storage.open_direct(&self.path)? {
                return Ok(file.into());
            }
            access.direct_refused.store(true, Relaxed);
        }
        Ok(access.storage.open(&self.path)?.into())
    }
}

impl Drop for CachedFile {
    fn drop(&mut self) {
        self.access.open_files.remove(&self.number);
    }
}

/// Blocks fetched for a read that will be retried.
#[derive(Debug, Default)]
pub struct FetchedBlocks(Mutex<Vec<(BlockAt, Arc<CachedBlock>)>>);

impl FetchedBlocks {
    pub(crate) fn get(&self, file: &CachedFile, offset: u64) -> Option<Arc<CachedBlock>> {
        let blocks = self.0.lock();
        blocks.iter().find(|(at, _)| *at == file.at(offset)).map(|(_, block)| block.clone())
    }

    pub(crate) fn put(&self, file: &CachedFile, offset: u64, block: Arc<CachedBlock>) {
        self.0.lock().push((file.at(offset), block));
    }

    /// What they take, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.0.lock().iter().map(|(_, block)| block.memory_bytes() as usize).sum()
    }
}

/// Bytes of a file, in memory as long as a reader or the cache holds them.
#[derive(Debug)]
pub struct CachedBlock {
    buffer: Buffer,
    /// Where it begins in the buffer: direct I/O reads whole sectors.
    start: usize,
    len: usize,
}

impl CachedBlock {
    /// The bytes.
    #[must_use]
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.buffer.bytes()[self.start..self.start + self.len]
    }

    /// What it takes from the allocator, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        (self.buffer.bytes().len() + size_of::<CachedBlock>()) as u64
    }
}
