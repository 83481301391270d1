//! Reports of the engine: plain data, without behaviour.

pub(crate) mod read_stats;
pub(crate) mod stats;

use std::{path::PathBuf, time::Duration};

use pagestrata_layers::{Error as LayersError, KeyRange, Lsn, layer_file::LayerKind};

/// Report of an open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct OpenReport {
    /// Whether a new store was created.
    pub created: bool,
    /// Number of timelines.
    pub timelines: u64,
    /// Number of layer files.
    pub layer_files: u64,
    /// Total length of all layer files, in bytes.
    pub layer_file_bytes: u64,
    /// Files that an interrupted flush or import has left, and unneeded segments of the log:
    /// removed now, or left in place if the store is opened read-only. Files whose names the engine
    /// does not use are left alone.
    pub orphans_removed: Vec<String>,
    /// Number of log segments read.
    pub log_segments: u64,
    /// Number of log records read, including those that are in layer files already.
    pub log_records: u64,
    /// Total length of the records, in bytes.
    pub log_bytes: u64,
    /// Number of commits that were replayed into memory because they were not in layer files.
    pub log_commits: u64,
    /// Segment and offset of a torn tail of the log, which was never acknowledged. The next commit
    /// cuts it off.
    pub log_torn_at: Option<String>,
    /// Length of the torn tail, in bytes, as far as it can be determined.
    pub log_cut_bytes: u64,
    /// Why the store is read-only: damage in the log with
    /// [`Options::salvage_log`](crate::Options::salvage_log), or a log that cannot be written.
    pub read_only: Option<String>,
    /// Length of an unacknowledged edit at the end of the manifest that was cut off, in bytes.
    pub manifest_cut_bytes: u64,
    /// How long the open took.
    pub elapsed: Duration,
}

/// Report of a close.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct CloseReport {
    /// The disk-consistent Lsn of each timeline, as `X/Y`, by name.
    pub disk_consistent_lsns: Vec<(String, String)>,
    /// Timelines whose open layer could not be flushed because their write lease is held.
    pub leases_held: Vec<String>,
    /// Readers, snapshots and detached versions that still exist. They can still be read from.
    pub pins: Vec<PinInfo>,
}

/// Progress of opening a store; see
/// [`Store::open_with_progress`](crate::Store::open_with_progress).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct OpenProgress {
    /// How much of the log was replayed, in bytes.
    pub replayed_bytes: u64,
    /// The length of the log's segments, in bytes; the last one may not be full.
    pub log_bytes: u64,
}

/// Report of an import.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ImportReport {
    /// Number of images.
    pub images: u64,
    /// Total length of the images, in bytes.
    pub image_bytes: u64,
    /// Number of image layers.
    pub layers: u64,
    /// Total length of the image layers' files, in bytes.
    pub file_bytes: u64,
}

/// One layer file, as [`Timeline::layers`](crate::Timeline::layers) lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LayerInfo {
    /// Path of the file.
    pub path: PathBuf,
    /// 0: from a flush or an import; 1: rewritten by compaction.
    pub level: u8,
    /// Delta or image.
    pub kind: LayerKind,
    /// Key range.
    pub key_range: KeyRange,
    /// Lsn range, half-open.
    pub lsn_range: std::ops::Range<Lsn>,
    /// Length of the file, in bytes.
    pub file_bytes: u64,
    /// xxh3-128 of the file up to its footer.
    pub digest: u128,
    /// Number of keys.
    pub keys: u64,
    /// Number of versions.
    pub versions: u64,
    /// Total length of the values, in bytes before compression.
    pub value_bytes: u64,
    /// Number of tombstones.
    pub tombstones: u64,
}

/// Report of a verification.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct VerifyReport {
    /// Number of layer files, including damaged ones.
    pub layer_files: u64,
    /// Total length of the undamaged files, in bytes.
    pub file_bytes: u64,
    /// Number of versions in the undamaged files.
    pub versions: u64,
    /// Number of tombstones in the undamaged files.
    pub tombstones: u64,
    /// Number of log records, when a whole store that is not open was verified.
    pub log_records: u64,
    /// Total length of the log records, in bytes.
    pub log_bytes: u64,
}

/// A layer file or log segment that failed verification.
#[derive(Debug)]
pub struct DamagedFile {
    /// Where the file is, or should be.
    pub path: PathBuf,
    /// The first damage found in it.
    pub error: LayersError,
}

/// A layer file in which a read or a verification has met damage since the store was opened.
/// Undamaged pages of it can still be read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct QuarantinedLayer {
    /// Its path.
    pub file: String,
    /// The first damage met: file, offset in bytes, what was expected and found.
    pub first_error: String,
    /// How many reads have met damage in it, including reads repeated after a fetch.
    pub reads: u64,
}

/// What kind of object holds a version of the layer map.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub enum PinKind {
    /// A [`Reader`](crate::Reader) that has pinned and was not unpinned since.
    Reader,
    /// A [`Snapshot`](crate::Snapshot) and its clones.
    Snapshot,
    /// A [`DetachedVersion`](crate::DetachedVersion): it keeps one layer alive.
    Detached,
}

/// One pin, as [`Timeline::pins`](crate::Timeline::pins) lists it.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct PinInfo {
    /// The kind of its holder.
    pub kind: PinKind,
    /// Source location where it was taken, as `file:line:column`.
    pub caller: String,
    /// Age of the reader, snapshot or detached version.
    pub age: Duration,
    /// Memory of retired layers that would be free without this pin, in bytes.
    pub only_it_keeps_bytes: u64,
}

/// Detached versions that exist, as in [`TimelineStats`](crate::TimelineStats).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct DetachedStats {
    /// Number of versions, without those that were copied.
    pub versions: u64,
    /// Total length of the versions, in bytes.
    pub requested_bytes: u64,
    /// Memory of the layers and blocks that they keep alive, in bytes; each is counted once.
    pub pinned_bytes: u64,
}
