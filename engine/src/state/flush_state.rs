//! [`FlushState`]: the state of a timeline's flushing.

use std::{sync::Arc, time::Duration};

use pagestrata_layers::{MemLayer, manifest::edit::LayerRecord};

use crate::error::Error;

/// State of flushing.
#[derive(Debug, Default)]
pub(crate) struct FlushState {
    /// Tries that failed since the last success.
    pub(crate) failures: u32,
    /// Tries that failed since the store was opened.
    pub(crate) failures_total: u64,
    /// Why the last try failed.
    pub(crate) last_error: Option<Arc<Error>>,
    /// The flush thread does not try again before this time, by the store's clock.
    pub(crate) retry_at: Option<Duration>,
    /// A caller waits for a try, which must be made now.
    pub(crate) is_asked_for: bool,
    /// Number of flushes, and bytes of their layer files, since the store was opened.
    pub(crate) flushes: u64,
    pub(crate) flushed_bytes: u64,
    /// Pages that flushes materialized to cut long chains.
    pub(crate) pages: PageCounts,
    /// What a failed try left for the next one.
    pub(crate) durable: Option<Durable>,
    /// The store is closing: no thread flushes any more.
    pub(crate) stopped: bool,
}

/// A file that is durable under its name, but not published.
#[derive(Debug)]
pub(crate) struct Durable {
    /// The layer that it was made from.
    pub(crate) of: Arc<MemLayer>,
    pub(crate) record: LayerRecord,
    pub(crate) pages: PageCounts,
    /// Its edit was tried: the manifest may name it or not.
    pub(crate) in_doubt: bool,
}

/// Counts of pages that flushes materialized.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct PageCounts {
    pub(crate) made: u64,
    pub(crate) failed: u64,
    /// Layers whose chains were not cut because there was no redo.
    pub(crate) layers_without_redo: u64,
}

impl PageCounts {
    pub(crate) fn add(&mut self, more: PageCounts) {
        self.made += more.made;
        self.failed += more.failed;
        self.layers_without_redo += more.layers_without_redo;
    }
}
