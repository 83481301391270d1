//! [`DetachedVersion`]: a page version that owns what it shows.
#![allow(unsafe_code)]

use std::{fmt, ops::Deref, panic::Location, sync::Arc};

use pagestrata_layers::{Kind, Lsn, MemLayer, PageVersion};

use crate::{
    map::{FileLayer, LayerRef},
    pins::PinHandle,
    timeline::TimelineShared,
};

/// A page version without a guard: it keeps its one layer alive, or is a copy. `Send + Sync + 'static`.
pub struct DetachedVersion {
    lsn: Lsn,
    kind: Kind,
    owner: Owner,
}

enum Owner {
    Copy(Box<[u8]>),
    Layer(Kept),
}

/// Bytes and the layer that they lie in.
struct Kept {
    /// Into memory of `layer`.
    bytes: *const [u8],
    /// Taken out by drop alone, so that the count is gone before the reclaimer is woken.
    layer: Option<Layer>,
    timeline: Arc<TimelineShared>,
    pin: PinHandle,
}

/// Never looked at: it is there to be counted.
enum Layer {
    Memory { _keep: Arc<MemLayer> },
    File { _keep: Arc<FileLayer> },
}

// SAFETY: `bytes` points to memory that is never written again (a value in an arena, a complete layer file) and
// that the counted layer keeps; both layers are `Send` and `Sync`, and so is all else in `Kept`.
unsafe impl Send for Kept {}
// SAFETY: as above; a shared `Kept` only lends those bytes for reading.
unsafe impl Sync for Kept {}

impl DetachedVersion {
    pub(crate) fn new(
        version: PageVersion<'_>,
        source: LayerRef<'_>,
        max_waste: u64,
        timeline: &Arc<TimelineShared>,
        caller: &'static Location<'static>,
    ) -> DetachedVersion {
        let PageVersion { lsn, kind, bytes } = version;
        let (keeps, layer, start) = match source {
            LayerRef::Memory(layer) => (
                layer.memory_bytes() as u64,
                Layer::Memory { _keep: layer.clone() },
                Some(layer.start_lsn().0),
            ),
            // A mapped file takes address space; its pages come and go as the system likes. Only its own heap counts.
            LayerRef::File(file) if file.lends(bytes) => (
                bytes.len() as u64 + file.memory_bytes() as u64,
                Layer::File { _keep: file.clone() },
                None,
            ),
            LayerRef::File(_) => {
                return DetachedVersion { lsn, kind, owner: Owner::Copy(bytes.into()) };
            }
        };
        if keeps.saturating_sub(bytes.len() as u64) > max_waste {
            return DetachedVersion { lsn, kind, owner: Owner::Copy(bytes.into()) };
        }
        let pin = timeline.pins.add_detached(caller, timeline.clock(), start);
        let kept = Kept { bytes, layer: Some(layer), timeline: timeline.clone(), pin };
        DetachedVersion { lsn, kind, owner: Owner::Layer(kept) }
    }

    /// The Lsn it was put at.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// Image or delta.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether it keeps its layer alive; else it is a copy.
    #[must_use]
    pub fn keeps_layer(&self) -> bool {
        matches!(self.owner, Owner::Layer(_))
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match &self.owner {
            Owner::Copy(bytes) => bytes,
            // SAFETY: the pointer was made from a slice of the layer's memory, which stays where it is and
            // unchanged as long as the layer does (chunks are handed back, and mappings undone, only by the layer's drop), and `layer` is a
            // count of that layer. The borrow of `self` keeps it.
            Owner::Layer(kept) => unsafe { &*kept.bytes },
        }
    }
}

impl Deref for DetachedVersion {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.timeline.pins.remove(&self.pin);
        // The retired list has a count of its own: this one is never the last while the timeline is open.
        self.layer = None;
        self.timeline.wake_reclaimer();
    }
}

impl fmt::Debug for DetachedVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (lsn, kind) = (self.lsn, self.kind);
        f.debug_struct("DetachedVersion")
            .field("lsn", &lsn)
            .field("kind", &kind)
            .finish_non_exhaustive()
    }
}
