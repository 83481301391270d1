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
    /// The start of the one layer that a detached version keeps, instead of a whole map version.
    layer_start: Option<u64>,
}

/// A registration; its holder takes it out again with [`PinRegistry::remove`].
#[derive(Debug)]
pub(crate) struct PinHandle {
    key: SlotKey,
    held: Arc<Held>,
}

impl PinHandle {
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
        self.insert(kind, caller, clock, Held { number: AtomicU64::new(number), layer_start: None })
    }

    /// Of a version that keeps one layer in memory, which begins at `layer_start`; none: one that keeps a file.
    pub(crate) fn add_detached(
        &self,
        caller: &'static Location<'static>,
        clock: Clock,
        layer_start: Option<u64>,
    ) -> PinHandle {
        self.insert(
            PinKind::Detached,
            caller,
            clock,
            Held { number: AtomicU64::new(UNPINNED), layer_start },
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
        PinHandle { key, held }
    }

    pub(crate) fn remove(&self, handle: &PinHandle) {
        let removed = self.0.lock().remove(handle.key);
        debug_assert!(removed.is_some(), "a pin is removed once");
    }

    /// All pins that hold something, and what each alone keeps of the retired layers.
    pub(crate) fn list(&self, clock: Clock, retired: &[RetiredBytes]) -> Vec<PinInfo> {
        let now = clock.now();
        let pins = self.0.lock();
        let holds = |held: &Held, layer: &RetiredBytes| match held.layer_start {
            Some(start) => start == layer.start,
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
