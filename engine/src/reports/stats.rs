//! What a store says about itself: sizes, counts, the state of flushing.

use pagestrata_layers::layer_file::AccessStats;
use pagestrata_wal::LogStats;

use crate::reports::{DetachedStats, QuarantinedLayer};

/// Memory that a timeline takes from the allocator, in bytes, by what it is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct MemoryStats {
    /// The open layer.
    pub open_bytes: u64,
    /// Frozen layers that wait for their flush.
    pub frozen_bytes: u64,
    /// Layers that are out of the map but held by a pin.
    pub retired_bytes: u64,
    /// The layer map, and what open layer files take beside their mappings.
    pub map_bytes: u64,
}

impl MemoryStats {
    /// All of it.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.open_bytes + self.frozen_bytes + self.retired_bytes + self.map_bytes
    }
}

/// How flushing goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct FlushStats {
    /// Flushes that succeeded since the store was opened.
    pub flushes: u64,
    /// The lengths of the layer files they made, in bytes.
    pub flushed_bytes: u64,
    /// Pages that they made to cut long chains
    /// ([`Options::deltas_per_page_max`](crate::Options::deltas_per_page_max)).
    pub pages_made: u64,
    /// How often that failed, because a chain could not be read or redo failed: it was left as long
    /// as it is.
    pub pages_failed: u64,
    /// Flushes that cut no chain for want of a redo, although
    /// [`Options::deltas_per_page_max`](crate::Options::deltas_per_page_max) bounds them: chains
    /// grow without a bound until [`Options::flush_redo`](crate::Options::flush_redo) or
    /// [`Timeline::set_flush_redo`](crate::Timeline::set_flush_redo) names one.
    pub flushes_without_redo: u64,
    /// Commits that were delayed because flushing was behind
    /// ([`Options::write_delay_max`](crate::Options::write_delay_max)).
    pub delayed_commits: u64,
    /// How long they were delayed, in microseconds.
    pub delayed_us: u64,
    /// Tries that failed since the store was opened.
    pub failures_total: u64,
    /// Tries that failed since the last one that did not.
    pub failures: u32,
    /// Why the last try failed, if it did.
    pub last_error: Option<String>,
}

/// What [`Timeline::stats`](crate::Timeline::stats) returns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct TimelineStats {
    /// The last committed Lsn.
    pub last_record_lsn: u64,
    /// Up to here everything is in layer files.
    pub disk_consistent_lsn: u64,
    /// Memory.
    pub memory: MemoryStats,
    /// Committed versions in the open layer.
    pub open_versions: u64,
    /// Number of frozen layers.
    pub frozen_layers: u64,
    /// Number of retired layers that are still held.
    pub retired_layers: u64,
    /// Number of layer files.
    pub layer_files: u64,
    /// The lengths of all layer files, in bytes.
    pub layer_file_bytes: u64,
    /// Versions that were detached and live still.
    pub detached: DetachedStats,
    /// Flushing.
    pub flush: FlushStats,
    /// Merging of layer files.
    pub compaction: CompactionStats,
    /// Layer files in which reads have met damage since the store was opened.
    pub quarantined: Vec<QuarantinedLayer>,
}

/// Merging of a timeline's layer files since the store was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct CompactionStats {
    /// Merges that were published.
    pub merges: u64,
    /// Layer files that they read.
    pub read_files: u64,
    /// The lengths of these, in bytes.
    pub read_bytes: u64,
    /// Layer files that they wrote.
    pub written_files: u64,
    /// The lengths of these, in bytes.
    pub written_bytes: u64,
    /// Layer files that are merged and that a pin or a detached version still holds.
    pub retired_files: u64,
    /// Damaged layer files, which no merge reads.
    pub parked_files: u64,
    /// Merges that failed since the last one that did not.
    pub failures: u32,
    /// Merges that failed.
    pub failures_total: u64,
    /// Why the last one failed; none if it did not.
    pub last_error: Option<String>,
}

/// What [`Store::stats`](crate::Store::stats) returns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct StoreStats {
    /// Memory of all timelines.
    pub memory: MemoryStats,
    /// Memory of reclaimed layers that waits for the next ones, in bytes.
    pub pool_retained_bytes: u64,
    /// Number of timelines.
    pub timelines: u64,
    /// Number of layer files.
    pub layer_files: u64,
    /// The lengths of all layer files, in bytes.
    pub layer_file_bytes: u64,
    /// Memory of pages that redo has made and that are kept, in bytes.
    pub page_cache_bytes: u64,
    /// How layer files are read.
    pub access: AccessStats,
    /// Waits for devices inside memory accesses.
    pub major_faults: MajorFaults,
    /// The log.
    pub log: LogStats,
    /// Layer files in which reads have met damage since the store was opened.
    pub quarantined: Vec<QuarantinedLayer>,
}

/// How often threads had to wait for a device inside a memory access, where nothing says so and
/// nobody expects it (`getrusage(2)`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct MajorFaults {
    /// All threads of the process since the store was opened, whatever they have touched.
    pub process: u64,
    /// Of these, the threads of the store that fetch: it is what they are for.
    pub fetching: u64,
}

impl MajorFaults {
    /// All but those that were meant to be: reads that wait, what was in memory when a read that
    /// may not wait looked and gone when it touched it, and whatever else the process maps.
    #[must_use]
    pub fn unexpected(&self) -> u64 {
        self.process.saturating_sub(self.fetching)
    }
}

impl StoreStats {
    /// All memory that the store takes from the allocator, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let caches = self.access.cached_bytes + self.page_cache_bytes;
        self.memory.total_bytes() + self.pool_retained_bytes + caches
    }
}
