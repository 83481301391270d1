//! What the engine reports about itself: plain data, without behaviour.

pub(crate) mod read_stats;
pub(crate) mod stats;

use std::{path::PathBuf, time::Duration};

use pagestrata_layers::{Error as LayersError, KeyRange, Lsn, layer_file::LayerKind};

/// What opening a store found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct OpenReport {
    /// Whether there was no store and one was made.
    pub created: bool,
    /// Number of timelines.
    pub timelines: u64,
    /// Number of layer files.
    pub layer_files: u64,
    /// The lengths of all layer files, in bytes.
    pub layer_file_bytes: u64,
    /// Files that an interrupted flush or import has left, and segments of the log that are of no
    /// use: removed now, or left where they are when the store is opened to be read only. What has
    /// another name than the engine gives is left alone.
    pub orphans_removed: Vec<String>,
    /// Segments of the log that were read.
    pub log_segments: u64,
    /// Records that were read, among them those that are in layer files already.
    pub log_records: u64,
    /// The lengths of the records, in bytes.
    pub log_bytes: u64,
    /// Commits that are in memory again, and were not in layer files.
    pub log_commits: u64,
    /// Where the log ended in something that was never acknowledged: segment and offset. It is cut
    /// off by the next commit.
    pub log_torn_at: Option<String>,
    /// The length of that, as far as it can be made out, in bytes.
    pub log_cut_bytes: u64,
    /// Why the store is read-only: damage in the log, with
    /// [`Options::salvage_log`](crate::Options::salvage_log), or a log that cannot be written.
    pub read_only: Option<String>,
    /// Length of an edit at the end of the manifest that was never acknowledged and is cut off, in
    /// bytes.
    pub manifest_cut_bytes: u64,
    /// How long it took.
    pub elapsed: Duration,
}

/// What closing a store did.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct CloseReport {
    /// The disk-consistent Lsn of each timeline, as `X/Y`, by name.
    pub disk_consistent_lsns: Vec<(String, String)>,
    /// Timelines whose open layer could not be flushed because somebody holds the write lease.
    pub leases_held: Vec<String>,
    /// Readers, snapshots and detached versions that are still there. They can go on reading.
    pub pins: Vec<PinInfo>,
}

/// How far the opening of a store has come; see
/// [`Store::open_with_progress`](crate::Store::open_with_progress).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct OpenProgress {
    /// How much of the log was replayed, in bytes.
    pub replayed_bytes: u64,
    /// The length of the log's segments, in bytes; the last one may not be full.
    pub log_bytes: u64,
}

/// What an import did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ImportReport {
    /// Number of images.
    pub images: u64,
    /// Their lengths, in bytes.
    pub image_bytes: u64,
    /// Number of image layers.
    pub layers: u64,
    /// The lengths of their files, in bytes.
    pub file_bytes: u64,
}

/// One layer file, as [`Timeline::layers`](crate::Timeline::layers) lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LayerInfo {
    /// Where it is.
    pub path: PathBuf,
    /// 0: from a flush or an import; 1: rewritten by compaction.
    pub level: u8,
    /// Delta or image.
    pub kind: LayerKind,
    /// Its keys.
    pub key_range: KeyRange,
    /// Its Lsns, half-open.
    pub lsn_range: std::ops::Range<Lsn>,
    /// Length of the file, in bytes.
    pub file_bytes: u64,
    /// xxh3-128 of the file up to its footer.
    pub digest: u128,
    /// Number of keys.
    pub keys: u64,
    /// Number of versions.
    pub versions: u64,
    /// Bytes in values, before compression.
    pub value_bytes: u64,
    /// Number of tombstones.
    pub tombstones: u64,
}

/// What a verification has read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct VerifyReport {
    /// Number of layer files, those that are damaged included.
    pub layer_files: u64,
    /// The lengths of the sound files, in bytes.
    pub file_bytes: u64,
    /// Number of versions in the sound files.
    pub versions: u64,
    /// Number of tombstones in the sound files.
    pub tombstones: u64,
    /// Number of records in the log, of a whole store that nobody has open.
    pub log_records: u64,
    /// Their lengths, in bytes.
    pub log_bytes: u64,
}

/// A layer file, or a segment of the log, that a verification could not find to be what was
/// written.
#[derive(Debug)]
pub struct DamagedFile {
    /// Where it is, or should be.
    pub path: PathBuf,
    /// The first thing that is wrong with it.
    pub error: LayersError,
}

/// A layer file in which a read or a verification has met damage since the store was opened. Other
/// pages of it can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct QuarantinedLayer {
    /// Its path.
    pub file: String,
    /// The damage that was met first: file, offset in bytes, what was expected and found.
    pub first_error: String,
    /// How many reads have met damage in it, tries after a fetch included.
    pub reads: u64,
}

/// What holds a version of the layer map.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub enum PinKind {
    /// A [`Reader`](crate::Reader) that has pinned and was not unpinned since.
    Reader,
    /// A [`Snapshot`](crate::Snapshot) and its clones.
    Snapshot,
    /// A [`DetachedVersion`](crate::DetachedVersion): it keeps one layer.
    Detached,
}

/// One pin, as [`Timeline::pins`](crate::Timeline::pins) lists it.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct PinInfo {
    /// What holds it.
    pub kind: PinKind,
    /// Where it was taken, as `file:line:column`.
    pub caller: String,
    /// Since when the reader, snapshot or detached version exists.
    pub age: Duration,
    /// Memory of retired layers that would be free without this pin, in bytes.
    pub only_it_keeps_bytes: u64,
}

/// Detached versions that live, as [`TimelineStats`](crate::TimelineStats) has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct DetachedStats {
    /// How many; copies are not counted, nobody knows of them.
    pub versions: u64,
    /// How long they are together, in bytes.
    pub requested_bytes: u64,
    /// How much memory the layers and blocks take that they keep, each counted once, in bytes.
    pub pinned_bytes: u64,
}
