//! Layer files in which reads have met damage.
//!
//! A damaged block is refused each time that a read touches it, so quarantine changes no answer: it
//! names the file, so that whoever watches the store can restore it. It lasts until the store is
//! closed; after a reopen the first read that meets the damage, or a verification, finds it again.

use std::{
    path::Path,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use crate::LayersError;

/// A layer file in which a read or a verification has met damage since the store was opened. Other pages of it can be read.
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

/// What reads of a layer file have met.
#[derive(Debug, Default)]
pub(crate) struct Damage {
    first_error: OnceLock<String>,
    reads: AtomicU64,
}

impl Damage {
    /// Counts a read, if damage is what it failed with.
    #[cold]
    pub(crate) fn note(&self, error: &LayersError) {
        if matches!(error, LayersError::Corrupt(_)) {
            self.first_error.get_or_init(|| error.to_string());
            self.reads.fetch_add(1, Relaxed);
        }
    }

    /// `None`: no read has met any.
    pub(crate) fn of(&self, path: &Path) -> Option<QuarantinedLayer> {
        let first_error = self.first_error.get()?.clone();
        let (file, reads) = (path.display().to_string(), self.reads.load(Relaxed));
        Some(QuarantinedLayer { file, first_error, reads })
    }
}
