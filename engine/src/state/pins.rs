//! [`PinRegistry`]: which holder holds which version of the layer map, and what it keeps alive.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
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
    reports::{DetachedStats, PinInfo, PinKind},
    state::slots::{SlotKey, Slots},
};

/// No version is held.
const UNPINNED: u64 = u64::MAX;

/// How many slots of the registry are visited under one lock hold: tens of microseconds.
const VISITED_AT_ONCE: usize = 512;

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

/// What one pin holds now; the holder writes it, and the registry reads it.
#[derive(Debug)]
struct Held {
    /// Number of the map version, or [`UNPINNED`].
    number: AtomicU64,
    /// What a detached version keeps, instead of a whole map version.
    detached: Option<DetachedKeeps>,
}

impl Held {
    fn is_held(&self) -> bool {
        self.detached.is_some() || self.number.load(Ordering::Relaxed) != UNPINNED
    }
}

/// A pin as it was when the registry was copied.
#[derive(Clone, Copy, Debug)]
struct CopiedPin {
    kind: PinKind,
    caller: &'static Location<'static>,
    since: Duration,
    /// Number of the map version, or [`UNPINNED`].
    number: u64,
    /// For a detached version: the start of the in-memory layer that it keeps.
    layer_start: Option<u64>,
}

/// What a detached version keeps alive.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DetachedKeeps {
    /// The start of the layer, if it is in memory.
    pub(crate) layer_start: Option<u64>,
    /// Identifies the layer, file or block: its address.
    pub(crate) what: usize,
    /// Its memory, in bytes.
    pub(crate) pinned_bytes: u64,
    /// Length of the version, in bytes.
    pub(crate) requested_bytes: u64,
}

/// A registration; its holder must remove it with [`PinRegistry::remove`].
#[derive(Debug)]
pub(crate) struct PinHandle {
    /// `None`: it is not registered.
    key: Option<SlotKey>,
    held: Arc<Held>,
}

impl PinHandle {
    /// Creates one that is in no registry, for pins in a forked child.
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

/// A retired layer for the accounting: the map versions that had it, and its size.
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

    /// Adds a version that keeps one layer or block alive.
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

    /// Returns what detached versions keep alive.
    pub(crate) fn detached(&self) -> DetachedStats {
        let mut keeps = Vec::new();
        self.visit(
            |pin| {
                keeps.extend(pin.held.detached);
                ControlFlow::Continue(())
            },
            || {},
        );
        let mut stats = DetachedStats::default();
        let mut pinned = BTreeMap::new();
        for keeps in keeps {
            stats.versions += 1;
            stats.requested_bytes += keeps.requested_bytes;
            let bytes = pinned.entry(keeps.what).or_insert(0);
            *bytes = keeps.pinned_bytes.max(*bytes);
        }
        stats.pinned_bytes = pinned.values().sum();
        stats
    }

    /// Whether any pin holds something, so that [`PinRegistry::list`] is not empty.
    pub(crate) fn is_any_held(&self) -> bool {
        let mut is_held = false;
        self.visit(
            |pin| {
                is_held = pin.held.is_held();
                if is_held { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            },
            || {},
        );
        is_held
    }

    /// Lists all pins that hold something, and what each alone keeps of the retired layers. A pin
    /// that is added or removed meanwhile may be in the list or not.
    pub(crate) fn list(&self, clock: Clock, retired: &[RetiredBytes]) -> Vec<PinInfo> {
        let now = clock.now();
        let pins = self.copy(|| {});
        let kept_alone = bytes_kept_alone(&pins, retired);
        let info = |(pin, only_it_keeps_bytes): (&CopiedPin, u64)| PinInfo {
            kind: pin.kind,
            caller: pin.caller.to_string(),
            age: now.saturating_sub(pin.since),
            only_it_keeps_bytes,
        };
        debug_assert_eq!(pins.len(), kept_alone.len());
        pins.iter().zip(kept_alone).map(info).collect()
    }

    /// Copies the pins that hold something. Calls `between` between two parts, without the lock.
    fn copy(&self, between: impl FnMut()) -> Vec<CopiedPin> {
        let mut copied = Vec::new();
        self.visit(
            |pin| {
                if pin.held.is_held() {
                    copied.push(CopiedPin {
                        kind: pin.kind,
                        caller: pin.caller,
                        since: pin.since,
                        number: pin.held.number.load(Ordering::Relaxed),
                        layer_start: pin.held.detached.and_then(|keeps| keeps.layer_start),
                    });
                }
                ControlFlow::Continue(())
            },
            between,
        );
        copied
    }

    /// Visits each pin once, until `visit` breaks. Every new reader and snapshot takes the lock; it
    /// is held for [`VISITED_AT_ONCE`] slots at a time.
    fn visit(&self, mut visit: impl FnMut(&Entry) -> ControlFlow<()>, mut between: impl FnMut()) {
        // Pins beyond this were added after the call.
        let end = self.0.lock().index_end();
        for start in (0..end).step_by(VISITED_AT_ONCE) {
            {
                let pins = self.0.lock();
                let part = start..end.min(start + VISITED_AT_ONCE);
                if part.filter_map(|at| pins.at(at)).try_for_each(&mut visit).is_break() {
                    return;
                }
            }
            between();
        }
    }
}

/// Returns, for each pin, the bytes of retired layers that it alone holds.
///
/// One sort of the pins and two binary searches per layer: comparing each pin with each layer takes
/// seconds when there are many of both.
fn bytes_kept_alone(pins: &[CopiedPin], retired: &[RetiredBytes]) -> Vec<u64> {
    let mut kept = vec![0; pins.len()];
    // Pins of map versions, by number. A detached version has no map version's number.
    let mut by_number: Vec<(u64, usize)> = Vec::with_capacity(pins.len());
    // Detached versions, by start of layer: how many keep that layer, and one of them.
    let mut by_layer: BTreeMap<u64, (usize, usize)> = BTreeMap::new();
    for (index, pin) in pins.iter().enumerate() {
        match pin.layer_start {
            Some(start) => {
                let keepers = by_layer.entry(start).or_default();
                *keepers = (keepers.0 + 1, index);
            }
            None if pin.number != UNPINNED => by_number.push((pin.number, index)),
            None => {}
        }
    }
    let number_of = |&(number, _): &(u64, usize)| {
        #[cfg(test)]
        tests::VISITS.set(tests::VISITS.get() + 1);
        number
    };
    by_number.sort_unstable_by_key(number_of);
    for layer in retired {
        let first = by_number.partition_point(|pin| number_of(pin) < layer.first_number);
        let end = by_number.partition_point(|pin| number_of(pin) <= layer.last_number);
        let (detached, one_of_them) = by_layer.get(&layer.start).copied().unwrap_or_default();
        match (end.saturating_sub(first), detached) {
            (1, 0) => kept[by_number[first].1] += layer.bytes,
            (0, 1) => kept[one_of_them] += layer.bytes,
            _ => {}
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        /// How many pins this thread has visited to compute what pins keep.
        pub(super) static VISITS: Cell<u64> = const { Cell::new(0) };
    }

    fn retired(layers: u64) -> Vec<RetiredBytes> {
        let layer =
            |n| RetiredBytes { start: n, first_number: n / 2, last_number: n, bytes: 1 << n };
        (0..layers).map(layer).collect()
    }

    #[test]
    fn listing_looks_at_each_pin_a_few_times_whatever_is_retired() {
        const PINS: u64 = 20_000;
        let registry = PinRegistry::default();
        let add = |n| registry.add(PinKind::Snapshot, Location::caller(), Clock::default(), n % 25);
        let pins: Vec<_> = (0..PINS).map(add).collect();
        let infos = registry.list(Clock::default(), &retired(25));
        assert_eq!(infos.len(), pins.len());
        // Most of these are comparisons of the sort.
        let visits = VISITS.get();
        assert!(visits <= 2 * PINS * u64::from(PINS.ilog2() + 1), "{visits} visits");
    }

    #[test]
    fn readers_come_and_go_while_pins_are_listed() {
        let registry = PinRegistry::default();
        let add = || registry.add(PinKind::Reader, Location::caller(), Clock::default(), 0);
        let mut pins: Vec<_> = (0..10 * VISITED_AT_ONCE).map(|_| add()).collect();
        let mut parts = 0;
        let copied = registry.copy(|| {
            parts += 1;
            assert!(registry.0.try_lock().is_some(), "no lock is held between two parts");
            pins.push(add());
            registry.remove(&pins.swap_remove(0));
        });
        assert!(parts >= 10, "{parts} parts");
        // Each pin either was removed or is listed; pins added meanwhile may be listed too.
        assert!((9 * VISITED_AT_ONCE..=11 * VISITED_AT_ONCE).contains(&copied.len()));
        assert!(registry.is_any_held());
        pins.iter().for_each(|pin| pin.unpin());
        assert!(!registry.is_any_held() && registry.copy(|| {}).is_empty());
    }

    /// Compares with a count of the holders of each layer, pin by pin.
    #[test]
    fn what_a_pin_alone_keeps_is_what_no_other_holds() {
        let mut random = fastrand::Rng::with_seed(5);
        for _ in 0..500 {
            let pin = |random: &mut fastrand::Rng| CopiedPin {
                kind: PinKind::Reader,
                caller: Location::caller(),
                since: Duration::ZERO,
                number: if random.bool() { random.u64(0..12) } else { UNPINNED },
                layer_start: None,
            };
            let mut pins: Vec<_> = (0..random.usize(0..8)).map(|_| pin(&mut random)).collect();
            for pin in &mut pins {
                if pin.number == UNPINNED {
                    pin.layer_start = Some(random.u64(0..12));
                }
            }
            let layers = retired(10);
            let holds = |pin: &CopiedPin, layer: &RetiredBytes| match pin.layer_start {
                Some(start) => start == layer.start,
                None => (layer.first_number..=layer.last_number).contains(&pin.number),
            };
            let expected: Vec<u64> = (0..pins.len())
                .map(|one| {
                    let alone = layers.iter().filter(|layer| {
                        let is_holder = |at: &usize| holds(&pins[*at], layer);
                        (0..pins.len()).filter(is_holder).eq([one])
                    });
                    alone.map(|layer| layer.bytes).sum()
                })
                .collect();
            assert_eq!(bytes_kept_alone(&pins, &layers), expected, "{pins:?}");
        }
    }
}
