//! Who holds which version of the layer map, and what that keeps alive.

use std::{
    panic::Location,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;

use crate::{
    options::Clock,
    slots::{SlotKey, Slots},
};

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

/// No version is held.
const UNPINNED: u64 = u64::MAX;

/// The pins of a timeline.
#[derive(Debug, Default)]
pub(crate) struct PinRegistry(Mutex<Slots<Entry>>);

#[derive(Debug)]
struct Entry {
    kind: PinKind,
    caller: &'static Location<'static>,
    since: Duration,
    held: Arc<Held>,
}

/// What one pin holds now; shared between its holder, who writes it, and the registry.
#[derive(Debug)]
struct Held {
    /// Number of the map version, or [`UNPINNED`].
    number: AtomicU64,
    /// What a detached version keeps, instead of a whole map version.
    detached: Option<DetachedKeeps>,
}

/// What a detached version keeps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DetachedKeeps {
    /// Where the layer in memory begins, if it is one.
    pub(crate) layer_start: Option<u64>,
    /// Names the layer, file or block: its address.
    pub(crate) what: usize,
    /// How much memory that takes.
    pub(crate) pinned_bytes: u64,
    /// How long the version is.
    pub(crate) requested_bytes: u64,
}

/// Detached versions that live, as [`TimelineStats`](crate::TimelineStats) has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct DetachedStats {
    /// How many; copies are not counted, nobody knows of them.
    pub versions: u64,
    /// How long they are together, in bytes.
    pub requested_bytes: u64,
    /// How much memory the layers and blocks take that they keep, each counted once, in bytes.
    pub pinned_bytes: u64,
}

/// A registration; its holder takes it out again with [`PinRegistry::remove`].
#[derive(Debug)]
pub(crate) struct PinHandle {
    /// None: it is not registered.
    key: Option<SlotKey>,
    held: Arc<Held>,
}

impl PinHandle {
    /// One that no registry knows, for what is taken in a forked child.
    pub(crate) fn unregistered() -> PinHandle {
        let held = Held { number: AtomicU64::new(UNPINNED), detached: None };
        PinHandle { key: None, held: Arc::new(held) }
    }

    pub(crate) fn set_number(&self, number: u64) {
        self.held.number.store(number, Ordering::Relaxed);
    }

    pub(crate) fn unpin(&self) {
        self.set_number(UNPINNED);
    }
}

/// A retired layer as the accounting sees it: the map versions that had it, and its size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RetiredBytes {
    pub(crate) start: u64,
    pub(crate) first_number: u64,
    pub(crate) last_number: u64,
    pub(crate) bytes: u64,
}

impl PinRegistry {
    pub(crate) fn add(
        &self,
        kind: PinKind,
        caller: &'static Location<'static>,
        clock: Clock,
        number: u64,
    ) -> PinHandle {
        self.insert(kind, caller, clock, Held { number: AtomicU64::new(number), detached: None })
    }

    /// Of a version that keeps one layer or block.
    pub(crate) fn add_detached(
        &self,
        caller: &'static Location<'static>,
        clock: Clock,
        keeps: DetachedKeeps,
    ) -> PinHandle {
        self.insert(
            PinKind::Detached,
            caller,
            clock,
            Held { number: AtomicU64::new(UNPINNED), detached: Some(keeps) },
        )
    }

    fn insert(
        &self,
        kind: PinKind,
        caller: &'static Location<'static>,
        clock: Clock,
        held: Held,
    ) -> PinHandle {
        let held = Arc::new(held);
        let key =
            self.0.lock().insert(Entry { kind, caller, since: clock.now(), held: held.clone() });
        PinHandle { key: Some(key), held }
    }

    pub(crate) fn remove(&self, handle: &PinHandle) {
        let Some(key) = handle.key else { return };
        let removed = self.0.lock().remove(key);
        debug_assert!(removed.is_some(), "a pin is removed once");
    }

    /// What detached versions keep.
    pub(crate) fn detached(&self) -> DetachedStats {
        let pins = self.0.lock();
        let keeps = pins.iter().filter_map(|pin| pin.held.detached);
        let mut stats = DetachedStats::default();
        let mut pinned = std::collections::BTreeMap::new();
        for keeps in keeps {
            stats.versions += 1;
            stats.requested_bytes += keeps.requested_bytes;
            let bytes = pinned.entry(keeps.what).or_insert(0);
            *bytes = keeps.pinned_bytes.max(*bytes);
        }
        stats.pinned_bytes = pinned.values().sum();
        stats
    }

    /// All pins that hold something, and what each alone keeps of the retired layers.
    pub(crate) fn list(&self, clock: Clock, retired: &[RetiredBytes]) -> Vec<PinInfo> {
        let now = clock.now();
        let pins = self.0.lock();
        let holds = |held: &Held, layer: &RetiredBytes| match held.detached {
            Some(keeps) => keeps.layer_start == Some(layer.start),
            None => (layer.first_number..=layer.last_number)
                .contains(&held.number.load(Ordering::Relaxed)),
        };
        let mut infos = Vec::new();
        for pin in pins.iter() {
            let unpinned = pin.held.number.load(Ordering::Relaxed) == UNPINNED;
            if unpinned && pin.kind != PinKind::Detached {
                continue;
            }
            let alone = retired.iter().filter(|layer| {
                holds(&pin.held, layer)
                    && pins.iter().filter(|other| holds(&other.held, layer)).count() == 1
            });
            infos.push(PinInfo {
                kind: pin.kind,
                caller: pin.caller.to_string(),
                age: now.saturating_sub(pin.since),
                only_it_keeps_bytes: alone.map(|layer| layer.bytes).sum(),
            });
        }
        infos
    }
}
