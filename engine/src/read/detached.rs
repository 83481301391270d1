//! [`DetachedVersion`]: a page version that owns its bytes.
#![allow(unsafe_code)]

use std::{fmt, ops::Deref, panic::Location, sync::Arc};

use pagestrata_layers::{Kind, Lsn, MemLayer, PageVersion, layer_file::CachedBlock};

use crate::{
    layer_map::file_layers::FileLayer,
    read::walk::LayerRef,
    state::{
        pins::{DetachedKeeps, PinHandle},
        timeline::TimelineShared,
    },
};

/// A page version that outlives its guard. It keeps one layer or one cached block alive, or is a
/// copy. `Send + Sync + 'static`.
///
/// With the feature `bytes` it becomes a [`bytes::Bytes`](https://docs.rs/bytes) without another
/// copy.
pub struct DetachedVersion {
    lsn: Lsn,
    kind: Kind,
    owner: Owner,
}

enum Owner {
    Copy(Box<[u8]>),
    Layer(Kept),
}

/// A version and the memory that its bytes lie in.
pub(crate) struct PinnedVersion<'a> {
    pub(crate) version: PageVersion<'a>,
    pub(crate) source: LayerRef<'a>,
    /// The cached block that holds the bytes, if any.
    pub(crate) block: Option<Arc<CachedBlock>>,
}

/// Bytes, and the layer that holds them.
struct Kept {
    /// Points into memory of `layer`.
    bytes: *const [u8],
    /// Taken out only by drop, so that the count is gone before the reclaimer is woken.
    layer: Option<Layer>,
    timeline: Arc<TimelineShared>,
    pin: PinHandle,
}

/// Never read; only its count matters.
enum Layer {
    Memory { _keep: Arc<MemLayer> },
    File { _keep: Arc<FileLayer> },
    Block { _keep: Arc<CachedBlock> },
}

// SAFETY: `bytes` points to memory that is never written again (a value in an arena, a complete
// layer file, a cached block) and that the counted layer or block keeps; these are `Send` and
// `Sync`, and so is everything else in `Kept`.
unsafe impl Send for Kept {}
// SAFETY: as above; a shared `Kept` only lends those bytes for reading.
unsafe impl Sync for Kept {}

impl DetachedVersion {
    pub(crate) fn new(
        pinned: PinnedVersion<'_>,
        max_waste: u64,
        timeline: &Arc<TimelineShared>,
        caller: &'static Location<'static>,
    ) -> DetachedVersion {
        let PinnedVersion { version: PageVersion { lsn, kind, bytes }, source, block } = pinned;
        let copy = || DetachedVersion { lsn, kind, owner: Owner::Copy(bytes.into()) };
        let requested_bytes = bytes.len() as u64;
        let (what, pinned_bytes, layer, layer_start) = match (source, block) {
            (LayerRef::Memory(layer), _) => (
                Arc::as_ptr(layer).addr(),
                layer.memory_bytes() as u64,
                Layer::Memory { _keep: layer.clone() },
                Some(layer.start_lsn().0),
            ),
            // A mapped file takes address space; the system decides which of its pages are
            // resident. Only its heap memory counts.
            (LayerRef::File(file), _) if file.lends(bytes) => (
                Arc::as_ptr(file).addr(),
                requested_bytes + file.memory_bytes() as u64,
                Layer::File { _keep: file.clone() },
                None,
            ),
            (LayerRef::File(_), Some(block)) => (
                Arc::as_ptr(&block).addr(),
                block.memory_bytes(),
                Layer::Block { _keep: block },
                None,
            ),
            (LayerRef::File(_), None) => return copy(),
        };
        if pinned_bytes.saturating_sub(requested_bytes) > max_waste {
            return copy();
        }
        let keeps = DetachedKeeps { layer_start, what, pinned_bytes, requested_bytes };
        if timeline.store.is_inherited() {
            return copy();
        }
        let pin = timeline.pins.add_detached(caller, timeline.clock(), keeps);
        let kept = Kept { bytes, layer: Some(layer), timeline: timeline.clone(), pin };
        DetachedVersion { lsn, kind, owner: Owner::Layer(kept) }
    }

    /// Returns the Lsn of the version.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// Returns whether it is an image or a delta.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether it keeps its layer or block alive; otherwise it is a copy.
    #[must_use]
    pub fn keeps_layer(&self) -> bool {
        matches!(self.owner, Owner::Layer(_))
    }

    /// Returns its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match &self.owner {
            Owner::Copy(bytes) => bytes,
            // SAFETY: the pointer was made from a slice of memory of the layer or block, which
            // neither moves nor changes while that exists (chunks are returned, mappings removed
            // and buffers reused only when their owner is dropped), and `layer` is a count of it.
            // The borrow of `self` keeps it.
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

impl AsRef<[u8]> for DetachedVersion {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

/// Without a copy: the bytes keep the same layer or block alive.
#[cfg(feature = "bytes")]
impl From<DetachedVersion> for bytes::Bytes {
    fn from(version: DetachedVersion) -> bytes::Bytes {
        // Documented by `bytes`: the owner is dropped with the last clone, and not before.
        bytes::Bytes::from_owner(version)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if self.timeline.store.is_inherited() {
            return;
        }
        self.timeline.pins.remove(&self.pin);
        // The retired list has its own count: this one is never the last while the timeline is
        // open.
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
