//! Oracle of the crash explorer: [`Expected`] is what must be there after a crash, [`Recovered`] is
//! what was found.
//!
//! A fingerprint covers the histories of all keys, at all Lsns where they change, and scans. It is
//! computed by the same walk over a model and over a store, so the contents of an image are read
//! once and then compared with any number of promises.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    hash::{DefaultHasher, Hasher},
};

use crate::{Key, Kind, Lsn, Scratch, Store, Timeline, testing::Model};

pub(super) const NAMES: [&str; 3] = ["a", "b", "c"];
pub(super) const START: Lsn = Lsn(1);
/// Blocks are dropped only at multiples of this, so that a walk that finds nothing at an Lsn can
/// continue below the next multiple.
pub(super) const DROP_LSN_UNIT: u64 = 64;
/// Above all commits, and too high to read to step by step.
const LSN_MAX: Lsn = Lsn(1 << 20);
/// Objects, and the number of blocks of each.
const OBJECTS: [(u128, u32); 3] = [(1, 4), (2, 2), (3, 3)];

/// State of a timeline: its last Lsn, and the fingerprint of its contents.
pub(super) type Seen = Option<(Lsn, u64)>;

/// Contents of a store, by timeline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Recovered(pub(super) [Seen; NAMES.len()]);

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Killed,
    PowerOff,
}

/// Promises about a timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Floor {
    /// It exists.
    pub(super) created: bool,
    /// Everything up to here survives a power loss.
    pub(super) power: Lsn,
    /// Everything up to here survives a crash of the process.
    pub(super) kill: Lsn,
    /// The log itself records everything up to here as synced or no longer needed: damage must be
    /// detected too.
    pub(super) marked: Lsn,
}

pub(super) type Floors = [Floor; NAMES.len()];

/// A timeline, with everything that was tried.
#[derive(Clone, Debug)]
pub(super) struct ExpectedTimeline {
    /// Its creation was tried.
    pub(super) attempted: bool,
    pub(super) model: Model,
    /// The Lsns of the model's commits.
    pub(super) commits: Vec<Lsn>,
    /// States that the model has left, but that may be found after a crash.
    pub(super) maybes: Vec<(Lsn, u64)>,
    fingerprints: RefCell<BTreeMap<Lsn, u64>>,
}

/// Everything that was tried and promised.
#[derive(Clone, Debug)]
pub(super) struct Expected {
    pub(super) timelines: Vec<ExpectedTimeline>,
    pub(super) floors: Floors,
}

impl ExpectedTimeline {
    fn new() -> ExpectedTimeline {
        ExpectedTimeline {
            attempted: false,
            model: Model::new(START),
            commits: Vec::new(),
            maybes: Vec::new(),
            fingerprints: RefCell::default(),
        }
    }

    /// Returns the fingerprint of the contents up to one of the commits.
    pub(super) fn fingerprint(&self, lsn: Lsn) -> u64 {
        let compute = || {
            let mut print = Print::default();
            walk_model(&self.model, lsn, &mut print);
            print.hasher.finish()
        };
        *self.fingerprints.borrow_mut().entry(lsn).or_insert_with(compute)
    }

    /// Forgets the commits at or above `lsn`: they are lost or replaced.
    pub(super) fn forget_from(&mut self, lsn: Lsn) {
        self.fingerprints.borrow_mut().retain(|at, _| *at < lsn);
        self.commits.retain(|at| *at < lsn);
    }

    fn is_possible(&self, (lsn, fingerprint): (Lsn, u64)) -> bool {
        let is_commit = lsn == START || self.commits.binary_search(&lsn).is_ok();
        is_commit && self.fingerprint(lsn) == fingerprint
            || self.maybes.contains(&(lsn, fingerprint))
    }
}

impl Expected {
    pub(super) fn new() -> Expected {
        let floor = Floor { created: false, power: START, kill: START, marked: START };
        Expected {
            timelines: NAMES.iter().map(|_| ExpectedTimeline::new()).collect(),
            floors: [floor; NAMES.len()],
        }
    }

    /// Whether a store may have these contents after a process with these promises ended in this
    /// way.
    pub(super) fn check(
        &self,
        recovered: &Recovered,
        end: End,
        floors: &Floors,
    ) -> Result<(), String> {
        for (n, seen) in recovered.0.iter().enumerate() {
            let (timeline, floor, name) = (&self.timelines[n], floors[n], NAMES[n]);
            let Some(seen) = *seen else {
                if floor.created {
                    return Err(format!("timeline {name} is gone"));
                }
                continue;
            };
            let lowest = if end == End::Killed { floor.kill } else { floor.power };
            let found = seen.0;
            if !timeline.attempted {
                return Err(format!("timeline {name} was never created"));
            }
            if found < lowest {
                return Err(format!(
                    "timeline {name}: LOST: it ends at {found}, {lowest} was acknowledged"
                ));
            }
            if !timeline.is_possible(seen) {
                let commits = &timeline.commits;
                return Err(match commits.contains(&found) || found == START {
                    true => format!("timeline {name}: another content at {found}"),
                    false => format!("timeline {name}: {found} is no commit of {commits:?}"),
                });
            }
        }
        Ok(())
    }

    /// Continues from what was found in a store.
    pub(super) fn settle(&mut self, recovered: &Recovered, power_failed: bool, consistent: &[Lsn]) {
        for (n, seen) in recovered.0.iter().enumerate() {
            let (timeline, floor) = (&mut self.timelines[n], &mut self.floors[n]);
            let Some((lsn, fingerprint)) = *seen else {
                *timeline = ExpectedTimeline::new();
                continue;
            };
            if !timeline.commits.contains(&lsn) || timeline.fingerprint(lsn) != fingerprint {
                timeline.take_maybe((lsn, fingerprint));
            }
            timeline.model.cut_to(if timeline.commits.is_empty() || lsn == START {
                START.previous()
            } else {
                lsn
            });
            timeline.forget_from(lsn.next());
            timeline.maybes.clear();
            let marked = if power_failed { consistent[n] } else { floor.marked.max(consistent[n]) };
            *floor = Floor { created: true, power: lsn, kill: lsn, marked };
        }
    }
}

impl ExpectedTimeline {
    /// Takes over the result of an import that had failed but was found.
    fn take_maybe(&mut self, seen: (Lsn, u64)) {
        if seen.0 == START || !self.maybes.contains(&seen) {
            return;
        }
        self.model.cut_to(seen.0.previous());
        self.forget_from(seen.0);
        let images = super::ops::imported(seen.0);
        self.model.import(seen.0, images);
        self.commits.push(seen.0);
    }
}

/// A fingerprint in progress.
#[derive(Default)]
struct Print {
    hasher: DefaultHasher,
}

impl Print {
    fn version(&mut self, lsn: Lsn, kind: Kind, bytes: &[u8]) {
        self.hasher.write_u64(lsn.0);
        self.hasher.write_u8(match kind {
            Kind::Image => 0,
            Kind::Delta { will_init: false } => 1,
            Kind::Delta { will_init: true } => 2,
        });
        self.hasher.write(bytes);
    }

    fn place(&mut self, key: Key, lsn: Lsn) {
        self.hasher.write_u128(key.object);
        self.hasher.write_u32(key.block);
        self.hasher.write_u64(lsn.0);
    }
}

/// Calls `read` at the Lsns of a key's history, from the newest down. `read` returns the oldest
/// version it found.
fn walk_key<E>(
    start: Lsn,
    upper: Lsn,
    mut read: impl FnMut(Lsn) -> Result<Option<Lsn>, E>,
) -> Result<(), E> {
    let mut at = upper;
    while at >= start {
        at = match read(at)? {
            Some(oldest) => oldest.previous(),
            None => Lsn((at.0 / DROP_LSN_UNIT * DROP_LSN_UNIT).saturating_sub(1)),
        };
    }
    Ok(())
}

fn keys() -> impl Iterator<Item = Key> {
    OBJECTS.into_iter().flat_map(|(object, blocks)| (0..blocks).map(move |n| Key::new(object, n)))
}

/// Lsns of the scans.
fn scan_lsns(upper: Lsn) -> [Lsn; 2] {
    [upper, Lsn((upper.0 / 2).max(START.0))]
}

fn walk_model(model: &Model, upper: Lsn, print: &mut Print) {
    for key in keys() {
        let walked = walk_key(START, upper, |at| -> Result<_, ()> {
            let history = model.history(key, at, upper).expect("within its Lsns");
            print.place(key, at);
            for (lsn, stored) in &history.versions {
                print.version(*lsn, stored.kind, &stored.bytes);
            }
            print.hasher.write_u8(u8::from(history.versions.is_empty() || history.has_base));
            Ok(history.versions.last().map(|(lsn, _)| *lsn))
        });
        walked.expect("a model has no errors");
    }
    for at in scan_lsns(upper) {
        for (key, lsn) in model.scan(0..0, true, at, upper).expect("within its Lsns") {
            print.place(key, lsn);
        }
    }
}

/// Reads a timeline for comparison with [`Expected`].
fn read(timeline: &Timeline, print: &mut Print) -> crate::Result<(Lsn, u64)> {
    let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
    let guard = reader.pin();
    let upper = timeline.last_record_lsn();
    assert_eq!(guard.last_record_lsn(), upper, "a guard and its timeline end differently");
    for key in keys() {
        walk_key(START, upper, |at| {
            let history = guard.history(key, at, &mut scratch)?;
            print.place(key, at);
            for version in history.newest_first() {
                print.version(version.lsn, version.kind, version.bytes);
            }
            let (len, oldest) = (history.len(), history.newest_first().last());
            let oldest = oldest.map(|version| version.lsn);
            let has_base = match guard.versions(key, at, &mut scratch) {
                Ok(versions) => {
                    assert_eq!(versions.len(), len, "two ways to read {key} at {at}");
                    true
                }
                Err(crate::Error::MissingBase { .. }) => false,
                Err(error) => return Err(error),
            };
            print.hasher.write_u8(u8::from(has_base));
            Ok(oldest)
        })?;
    }
    for at in scan_lsns(upper) {
        for found in guard.scan(.., at) {
            let (key, lsn) = found?;
            print.place(key, lsn);
        }
    }
    Ok((upper, print.hasher.finish()))
}

impl Recovered {
    /// Reads the contents of an open store.
    pub(super) fn of(store: &Store) -> Result<Recovered, String> {
        let mut recovered = Recovered::default();
        for timeline in store.timelines() {
            let n = NAMES.iter().position(|name| *name == timeline.name());
            let n = n.ok_or_else(|| format!("a timeline {:?}", timeline.name()))?;
            let end = timeline.last_record_lsn();
            if end > LSN_MAX {
                return Err(format!("timeline {}: it ends at {end}", timeline.name()));
            }
            let seen = read(&timeline, &mut Print::default());
            recovered.0[n] = Some(seen.map_err(|error| error.to_string())?);
        }
        Ok(recovered)
    }
}
