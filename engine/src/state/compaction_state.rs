//! [`CompactionState`]: how merging a timeline's layer files goes.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use pagestrata_layers::manifest::edit::LayerRecord;

use crate::error::Error;

/// How merging goes.
#[derive(Debug, Default)]
pub(crate) struct CompactionState {
    /// Merges that were published since the store was opened, the files and bytes that they read
    /// and those that they wrote.
    pub(crate) merges: u64,
    pub(crate) read_files: u64,
    pub(crate) read_bytes: u64,
    pub(crate) written_files: u64,
    pub(crate) written_bytes: u64,
    /// Merges that failed since the last one that did not, and in all.
    pub(crate) failures: u32,
    pub(crate) failures_total: u64,
    /// Why the last one failed.
    pub(crate) last_error: Option<Arc<Error>>,
    /// Not before this time, by the store's clock, the background tries again.
    pub(crate) retry_at: Option<Duration>,
    /// Sequence numbers of layers that cannot be read: no merge reads them, and all others go on.
    pub(crate) parked: BTreeSet<u64>,
    /// Merges whose edit failed: whether the manifest names their outputs is not known.
    pub(crate) in_doubt: Vec<MergeInDoubt>,
}

/// What a merge has read and what it has written.
#[derive(Debug)]
pub(crate) struct MergeInDoubt {
    pub(crate) inputs: Vec<LayerRecord>,
    pub(crate) outputs: Vec<LayerRecord>,
}
