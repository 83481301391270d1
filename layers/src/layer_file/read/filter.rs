//! Reading a layer file's filter: table and partitions are read when a read first asks for them,
//! and stay on the heap, so that a layer without the key costs a cold read no device access.

use std::sync::OnceLock;

use super::reader::LayerFile;
use crate::{
    Error, Key, Result,
    layer_file::{
        access::scratch::ReadKind,
        format::{
            block::{BlockType, extent},
            filter_lines::{
                KeyHash, LINE_LEN, LINES, Line, Lines, OFFSET, ROW_LEN, ROWS_PER_BLOCK, reserved,
                table_len,
            },
            footer::{array, u64_at},
        },
    },
    prefetch::prefetch,
};

/// Where a filter has what it knows of a key, before it is looked at.
#[derive(Clone, Copy, Debug)]
pub struct FilterProbe<'a>(Probe<'a>);

impl FilterProbe<'_> {
    /// Whether the layer may hold the key of this hash, which was probed with; none if the filter
    /// was not read yet. Reads nothing.
    #[inline]
    pub(crate) fn may_hold(self, hash: &KeyHash) -> Option<bool> {
        match self.0 {
            Probe::Line(line) => Some(line.may_hold(hash)),
            Probe::Absent => Some(false),
            Probe::Unusable => Some(true),
            Probe::NotLoaded => None,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Probe<'a> {
    /// In this line, whose cache line was prefetched.
    Line(&'a Line),
    /// The key is in front of all of the layer's.
    Absent,
    /// There is no filter, or none that can be used.
    Unusable,
    /// What tells was not read yet.
    NotLoaded,
}

/// What is kept on the heap need not take room in the cache of blocks.
fn uncached(kind: ReadKind<'_>) -> ReadKind<'_> {
    match kind {
        ReadKind::Wait => ReadKind::Once,
        kind => kind,
    }
}

/// One partition.
#[derive(Debug)]
struct Partition {
    /// The partition is of this key and those behind it, up to the next partition's.
    first: Key,
    offset: u64,
    lines: u32,
    /// Empty until a read asks for it.
    loaded: OnceLock<Lines>,
}

/// The table of a filter, once it was read.
#[derive(Debug)]
pub(crate) struct Filter(Box<[Partition]>);

impl Filter {
    /// The partition of a key; none if the key is in front of all keys of the layer.
    #[inline]
    fn partition(&self, key: Key) -> Option<&Partition> {
        match &*self.0 {
            // Nearly always the key is behind its first one.
            [only] => (only.first <= key).then_some(only),
            all => all.get(all.partition_point(|partition| partition.first <= key).wrapping_sub(1)),
        }
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        let lines = self.0.iter().filter_map(|partition| partition.loaded.get());
        size_of_val(&*self.0) + lines.map(|lines| size_of_val(&*lines.0)).sum::<usize>()
    }
}

/// What is known of a file's filter, once it was looked for.
#[derive(Debug)]
pub(crate) enum FilterState {
    /// Its table.
    Loaded(Filter),
    /// The file has none, or its table is damaged: every key may be there.
    Absent,
}

impl LayerFile {
    /// Whether the layer may hold a key with this hash. False means that it does not. True for
    /// about one absent key in a hundred; for all of them where there is no filter, or a damaged
    /// one (which [`LayerFile::verify`] reports), or one that cannot be read.
    #[inline]
    #[must_use]
    pub fn may_hold(&self, hash: &KeyHash, kind: ReadKind<'_>) -> bool {
        self.ask_filter(hash, kind).unwrap_or(true)
    }

    /// As [`LayerFile::may_hold`], but what keeps the filter from being read is an error: that it
    /// is not resident, or an error of the system.
    #[inline]
    pub(crate) fn ask_filter(&self, hash: &KeyHash, kind: ReadKind<'_>) -> Result<bool> {
        if let Some(may_hold) = self.probe_filter(hash).may_hold(hash) {
            return Ok(may_hold);
        }
        if let FilterState::Loaded(filter) = self.load_filter(kind)?
            && let Some(partition) = filter.partition(hash.key)
        {
            self.load_partition(partition, kind)?;
        }
        Ok(self.probe_filter(hash).may_hold(hash) != Some(false))
    }

    /// Finds where the filter has what it knows of a key, and prefetches that.
    #[inline]
    #[must_use]
    pub fn probe_filter(&self, hash: &KeyHash) -> FilterProbe<'_> {
        let filter = match self.filter_state().get() {
            Some(FilterState::Loaded(filter)) => filter,
            Some(FilterState::Absent) => return FilterProbe(Probe::Unusable),
            None => return FilterProbe(Probe::NotLoaded),
        };
        let Some(partition) = filter.partition(hash.key) else {
            return FilterProbe(Probe::Absent);
        };
        let Some(lines) = partition.loaded.get() else { return FilterProbe(Probe::NotLoaded) };
        FilterProbe(match lines.line(hash) {
            Some(line) => {
                prefetch(std::ptr::from_ref(line).cast());
                Probe::Line(line)
            }
            None => Probe::Unusable,
        })
    }

    #[cold]
    fn load_filter(&self, kind: ReadKind<'_>) -> Result<&FilterState> {
        if let Some(state) = self.filter_state().get() {
            return Ok(state);
        }
        let state = match self.read_filter(kind) {
            Ok(Some(filter)) => FilterState::Loaded(filter),
            Ok(None) | Err(Error::Corrupt(_)) => FilterState::Absent,
            Err(error) => return Err(error),
        };
        // Of two threads that read it at once the first one's stays.
        Ok(self.filter_state().get_or_init(|| state))
    }

    #[cold]
    fn load_partition(&self, partition: &Partition, kind: ReadKind<'_>) -> Result<()> {
        if partition.loaded.get().is_none() {
            let lines = match self.read_partition(partition, kind) {
                // Without a line every key may be there.
                Err(Error::Corrupt(_)) => Lines(Box::default()),
                lines => lines?,
            };
            partition.loaded.get_or_init(|| lines);
        }
        Ok(())
    }

    /// The table of the filter as it is in the file; none if there is no filter.
    pub(crate) fn read_filter(&self, kind: ReadKind<'_>) -> Result<Option<Filter>> {
        let count = self.footer().filter_partitions as usize;
        if count == 0 {
            return Ok(None);
        }
        let (kind, mut partitions): (_, Vec<Partition>) = (uncached(kind), reserved(count)?);
        let mut offset = self.filter_table_offset();
        while partitions.len() < count {
            let payload = self.raw_payload(offset, BlockType::FilterTable, kind)?;
            let (rows, rest) = payload.as_chunks::<ROW_LEN>();
            let expected = (count - partitions.len()).min(ROWS_PER_BLOCK);
            if rows.len() != expected || !rest.is_empty() {
                return Err(self.malformed(offset, "table of the filter"));
            }
            for row in rows {
                let first = Key::from_bytes(&array(row, 0));
                if partitions.last().is_some_and(|before| before.first >= first) {
                    return Err(self.malformed(offset, "order of the filter's partitions"));
                }
                partitions.push(Partition {
                    first,
                    offset: u64_at(row, OFFSET),
                    lines: u32::from_le_bytes(array(row, LINES)),
                    loaded: OnceLock::new(),
                });
            }
            offset += extent(payload.len()) as u64;
        }
        Ok(Some(Filter(partitions.into())))
    }

    fn read_partition(&self, partition: &Partition, kind: ReadKind<'_>) -> Result<Lines> {
        let Partition { offset, lines: count, .. } = *partition;
        let payload = self.raw_payload(offset, BlockType::Filter, uncached(kind))?;
        let (found, rest) = payload.as_chunks::<LINE_LEN>();
        if found.is_empty() || found.len() != count as usize || !rest.is_empty() {
            return Err(self.malformed(offset, "filter block"));
        }
        let mut lines = reserved(found.len())?;
        lines.extend(
            found.iter().map(|bytes| Line(std::array::from_fn(|word| u64_at(bytes, word * 8)))),
        );
        Ok(Lines(lines.into()))
    }

    /// Where the table begins: it ends where the footer begins.
    pub(crate) fn filter_table_offset(&self) -> u64 {
        self.blocks().end().saturating_sub(table_len(self.footer().filter_partitions))
    }

    /// Checks that the filter, if there is one, lets a key through that the layer holds. For
    /// verification.
    pub(crate) fn check_filter_of(&self, filter: Option<&Filter>, key: Key) -> Result<()> {
        let Some(filter) = filter else { return Ok(()) };
        let Some(partition) = filter.partition(key) else {
            return Err(self.malformed(self.filter_table_offset(), "first key of the filter"));
        };
        let lines = match partition.loaded.get() {
            Some(lines) => lines,
            None => {
                let lines = self.read_partition(partition, ReadKind::Once)?;
                partition.loaded.get_or_init(|| lines)
            }
        };
        match lines.may_hold(&KeyHash::of(key)) {
            true => Ok(()),
            false => Err(self.malformed(partition.offset, "filter: a key is not in it")),
        }
    }
}
