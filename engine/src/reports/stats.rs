//! Statistics of a store: sizes, counts, the state of flushing.

use pagestrata_layers::layer_file::AccessStats;
use pagestrata_wal::LogStats;

use crate::reports::{DetachedStats, QuarantinedLayer};

/// Memory that a timeline takes from the allocator, in bytes, by purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct MemoryStats {
    /// The open layer.
    pub open_bytes: u64,
    /// Frozen layers that wait for their flush.
    pub frozen_bytes: u64,
    /// Layers that are out of the map but still pinned.
    pub retired_bytes: u64,
    /// The layer map, and the heap memory of open layer files without their mappings.
    pub map_bytes: u64,
}

impl MemoryStats {
    /// Returns the sum.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.open_bytes + self.frozen_bytes + self.retired_bytes + self.map_bytes
    }
}

/// State of flushing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct FlushStats {
    /// Flushes that succeeded since the store was opened.
    pub flushes: u64,
    /// Total length of the layer files that they wrote, in bytes.
    pub flushed_bytes: u64,
    /// Pages that they materialized to cut long chains
    /// ([`Options::deltas_per_page_max`](crate::Options::deltas_per_page_max)).
    pub pages_made: u64,
    /// Pages that could not be materialized, because the chain could not be read or redo failed.
    /// Their chains stay long.
    pub pages_failed: u64,
    /// Flushes that cut no chain because there was no redo, although
    /// [`Options::deltas_per_page_max`](crate::Options::deltas_per_page_max) is set: chains grow
    /// without a bound until [`Options::flush_redo`](crate::Options::flush_redo) or
    /// [`Timeline::set_flush_redo`](crate::Timeline::set_flush_redo) provides one.
    pub flushes_without_redo: u64,
    /// Commits that were delayed because flushing was behind
    /// ([`Options::write_delay_max`](crate::Options::write_delay_max)).
    pub delayed_commits: u64,
    /// Total delay of these commits, in microseconds.
    pub delayed_us: u64,
    /// Flushes that failed since the store was opened.
    pub failures_total: u64,
    /// Flushes that failed since the last success.
    pub failures: u32,
    /// Why the last flush failed, if it did.
    pub last_error: Option<String>,
}

/// Statistics of a timeline, from [`Timeline::stats`](crate::Timeline::stats).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct TimelineStats {
    /// The last committed Lsn.
    pub last_record_lsn: u64,
    /// Everything up to here is in layer files.
    pub disk_consistent_lsn: u64,
    /// Memory of the timeline.
    pub memory: MemoryStats,
    /// Committed versions in the open layer.
    pub open_versions: u64,
    /// Number of frozen layers.
    pub frozen_layers: u64,
    /// Number of retired layers that are still held.
    pub retired_layers: u64,
    /// Number of layer files.
    pub layer_files: u64,
    /// Total length of all layer files, in bytes.
    pub layer_file_bytes: u64,
    /// Detached versions that still exist.
    pub detached: DetachedStats,
    /// State of flushing.
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

/// Statistics of a store, from [`Store::stats`](crate::Store::stats).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct StoreStats {
    /// Memory of all timelines.
    pub memory: MemoryStats,
    /// Memory of reclaimed layers that is kept for reuse, in bytes.
    pub pool_retained_bytes: u64,
    /// Number of timelines.
    pub timelines: u64,
    /// Number of layer files.
    pub layer_files: u64,
    /// Total length of all layer files, in bytes.
    pub layer_file_bytes: u64,
    /// Memory of cached materialized pages, in bytes.
    pub page_cache_bytes: u64,
    /// Access to layer files.
    pub access: AccessStats,
    /// Major page faults.
    pub major_faults: MajorFaults,
    /// State of the log.
    pub log: LogStats,
    /// Layer files in which reads have met damage since the store was opened.
    pub quarantined: Vec<QuarantinedLayer>,
}

/// Major page faults: threads waited for a device inside a memory access (`getrusage(2)`). Where
/// they are not meant to happen, nothing else reports them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct MajorFaults {
    /// Faults of all threads of the process since the store was opened, in any memory.
    pub process: u64,
    /// Of these, faults of the store's fetch threads, whose purpose is to wait.
    pub fetching: u64,
}

impl MajorFaults {
    /// Returns the faults outside the fetch threads: from reads that may wait, from pages that were
    /// evicted between a read's check and its access, and from other mappings of the process.
    #[must_use]
    pub fn unexpected(&self) -> u64 {
        self.process.saturating_sub(self.fetching)
    }
}

impl StoreStats {
    /// Returns all memory that the store takes from the allocator, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let caches = self.access.cached_bytes + self.page_cache_bytes;
        self.memory.total_bytes() + self.pool_retained_bytes + caches
    }
}
