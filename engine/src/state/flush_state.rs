//! [`FlushState`]: how flushing a timeline goes.

use std::{sync::Arc, time::Duration};

use pagestrata_layers::{MemLayer, manifest::edit::LayerRecord};

use crate::error::Error;

/// How flushing goes.
#[derive(Debug, Default)]
pub(crate) struct FlushState {
    /// Tries that failed since the last one that did not.
    pub(crate) failures: u32,
    /// All tries that failed since the store was opened.
    pub(crate) failures_total: u64,
    /// Why the last one failed.
    pub(crate) last_error: Option<Arc<Error>>,
    /// Not before this time, by the store's clock, the background tries again.
    pub(crate) retry_at: Option<Duration>,
    /// A caller waits for a try, which is to be made now.
    pub(crate) is_asked_for: bool,
    /// How many flushes and how many bytes of layer files there were since the store was opened.
    pub(crate) flushes: u64,
    pub(crate) flushed_bytes: u64,
    /// Pages that they made to cut long chains.
    pub(crate) pages: PageCounts,
    /// What a failed try has left for the next one.
    pub(crate) durable: Option<Durable>,
    /// The store is closing: nobody flushes any more.
    pub(crate) stopped: bool,
}

/// A file that is durable under its name, but not published.
#[derive(Debug)]
pub(crate) struct Durable {
    /// The layer that it was made of.
    pub(crate) of: Arc<MemLayer>,
    pub(crate) record: LayerRecord,
    pub(crate) pages: PageCounts,
    /// Its edit was tried: whether the manifest names it is not known.
    pub(crate) in_doubt: bool,
}

/// How many pages flushes have made, and how often they failed.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct PageCounts {
    pub(crate) made: u64,
    pub(crate) failed: u64,
    /// Layers of which no chain was cut because there was no redo to make pages with.
    pub(crate) layers_without_redo: u64,
}

impl PageCounts {
    pub(crate) fn add(&mut self, more: PageCounts) {
        self.made += more.made;
        self.failed += more.failed;
        self.layers_without_redo += more.layers_without_redo;
    }
}
