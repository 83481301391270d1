//! Layer files in which reads have met damage.
//!
//! A damaged block is refused each time that a read touches it, so quarantine changes no answer. It
//! names the file, so that an operator can restore it. It lasts until the store is closed; after a
//! reopen, the first read that meets the damage, or a verification, finds it again.

use std::{
    path::Path,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use pagestrata_layers::Error as LayersError;

use crate::reports::QuarantinedLayer;

/// Damage that reads of a layer file have met.
#[derive(Debug, Default)]
pub(crate) struct Damage {
    first_error: OnceLock<String>,
    reads: AtomicU64,
}

impl Damage {
    /// Counts a read that failed, if damage is the cause.
    #[cold]
    pub(crate) fn note(&self, error: &LayersError) {
        if matches!(error, LayersError::Corrupt(_)) {
            self.first_error.get_or_init(|| error.to_string());
            self.reads.fetch_add(1, Relaxed);
        }
    }

    /// Returns `None` if no read has met damage.
    pub(crate) fn of(&self, path: &Path) -> Option<QuarantinedLayer> {
        let first_error = self.first_error.get()?.clone();
        let (file, reads) = (path.display().to_string(), self.reads.load(Relaxed));
        Some(QuarantinedLayer { file, first_error, reads })
    }
}
