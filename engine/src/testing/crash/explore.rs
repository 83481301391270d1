//! [`Explore`]: makes the images that a crash at a moment may leave, and checks them.

use std::{
    any::Any,
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
};

use super::{
    Violation,
    life::{Life, open},
    ops::Op,
    oracle::{End, Expected, Floors, NAMES, Recovered},
};
use crate::{
    Durability, Error, LayersError,
    testing::{Counts, SimulatedStorage},
};

/// Maximum number of remembered images.
const MEMO_MAX: usize = 1 << 20;

/// How thoroughly each moment is explored.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effort {
    /// All images are explored if there are at most this many.
    pub(super) all_max: u64,
    /// Otherwise this many random ones.
    pub(super) images: u64,
    /// One in so many new images is opened with further crashes during and after the open.
    pub(super) deep_one_in: u64,
    /// Number of bits that are flipped in the log after an operation.
    pub(super) flips: u64,
}

pub(super) struct Explore {
    pub(super) effort: Effort,
    pub(super) counts: Counts,
    pub(super) points: u64,
    pub(super) states: u64,
    pub(super) recovery_states: u64,
    pub(super) opened: u64,
    /// The moments are during an open.
    pub(super) in_recovery: bool,
    is_deep: bool,
    random: fastrand::Rng,
    /// Contents of images, by their digests.
    memo: HashMap<u128, Recovered>,
}

impl Explore {
    pub(super) fn new(effort: Effort) -> Explore {
        Explore {
            effort,
            counts: Counts::default(),
            points: 0,
            states: 0,
            recovery_states: 0,
            opened: 0,
            in_recovery: false,
            is_deep: false,
            random: fastrand::Rng::with_seed(0),
            memo: HashMap::new(),
        }
    }

    /// Starts something that this number alone reproduces.
    pub(super) fn reseed(&mut self, seed: u64) {
        self.random = fastrand::Rng::with_seed(seed);
        (self.in_recovery, self.is_deep) = (false, false);
        if self.memo.len() > MEMO_MAX {
            self.memo.clear();
        }
    }

    pub(super) fn forget(&mut self) {
        self.memo.clear();
    }

    /// Simulates a crash and a power loss at this moment, in all ways or in some.
    pub(super) fn point(
        &mut self,
        storage: &SimulatedStorage,
        expected: &Expected,
        floors: &Floors,
    ) -> Result<(), Violation> {
        self.points += 1;
        let killed = |explore: &mut Explore| {
            let image = || storage.killed();
            explore.image(storage.digest(), image, expected, (End::Killed, floors))
        };
        killed(self).map_err(|violation| violation.at("killed".to_owned()))?;
        let states = match self.is_deep {
            true => None,
            false => storage.crash_states(self.effort.all_max),
        };
        if let Some(states) = states {
            for (choices, image) in states {
                let digest = image.digest();
                self.image(digest, || image, expected, (End::PowerOff, floors))
                    .map_err(|violation| violation.at(format!("power off, choices {choices:?}")))?;
            }
            return Ok(());
        }
        let images = if self.is_deep { 6 } else { self.effort.images };
        for _ in 0..images {
            let seed = self.random.u64(..);
            let image = storage.crash_seeded(&mut fastrand::Rng::with_seed(seed));
            let digest = image.digest();
            self.image(digest, || image, expected, (End::PowerOff, floors))
                .map_err(|violation| violation.at(format!("power off, seed {seed:#x}")))?;
        }
        Ok(())
    }

    /// Checks one image against the promises.
    fn image(
        &mut self,
        digest: u128,
        image: impl FnOnce() -> SimulatedStorage,
        expected: &Expected,
        (end, floors): (End, &Floors),
    ) -> Result<(), Violation> {
        self.states += 1;
        self.recovery_states += u64::from(self.in_recovery || self.is_deep);
        let check =
            |recovered: &Recovered| expected.check(recovered, end, floors).map_err(Violation::new);
        if let Some(recovered) = self.memo.get(&digest) {
            return check(recovered);
        }
        let image = image();
        self.opened += 1;
        let is_deep = !self.is_deep && (digest as u64).is_multiple_of(self.effort.deep_one_in);
        let copy = is_deep.then(|| image.killed());
        let recovered = guarded(|| self.look_twice(digest, &image))?;
        check(&recovered)?;
        self.memo.insert(digest, recovered);
        let Some(copy) = copy else { return Ok(()) };
        self.is_deep = true;
        let went = self.deep(copy, digest as u64, expected, (end, floors));
        self.is_deep = false;
        went.map_err(|violation| violation.at("opened, and crashed again".to_owned()))
    }

    /// Opens an image, and then the result of that: both opens must find the same.
    fn look_twice(
        &mut self,
        digest: u128,
        image: &SimulatedStorage,
    ) -> Result<Recovered, Violation> {
        let recovered = look(image).map_err(|error| Violation::new(error.to_string()))?;
        let left = image.digest();
        if left == digest {
            // An open that changes nothing gives the same again.
            return Ok(recovered);
        }
        self.counts.add("changed_by_opening");
        let again = match self.memo.get(&left) {
            Some(again) => *again,
            None => {
                let again = look(image);
                again.map_err(|error| Violation::new(format!("opened again: {error}")))?
            }
        };
        self.memo.insert(left, again);
        match again == recovered {
            true => Ok(recovered),
            false => Err(Violation::new("opened again, it holds something else".to_owned())),
        }
    }

    /// Opens an image with crashes during the open, commits more with crashes during that, and then
    /// loses power.
    fn deep(
        &mut self,
        image: SimulatedStorage,
        seed: u64,
        expected: &Expected,
        (end, floors): (End, &Floors),
    ) -> Result<(), Violation> {
        self.counts.add("deep");
        let expected = Expected { floors: *floors, ..expected.clone() };
        let mut life = Life::new(SimulatedStorage::new(), expected, seed);
        life.one_in = 1;
        life.incarnation = 1 + seed % 1000;
        life.reopen(self, image, (end, false))?;
        for n in 0..NAMES.len() {
            if life.has(n) {
                life.apply(self, Op::PutWait(n))?;
            }
        }
        if life.has(0) && seed.is_multiple_of(3) {
            // Beyond the end of the segment.
            for op in [Op::Long(0, 2600), Op::Long(0, 2600), Op::PutWait(0)] {
                life.apply(self, op)?;
            }
        }
        life.apply(self, Op::PowerOff(0))
    }

    /// Flips bits of the log, one at a time: it must be detected, or nothing may be lost that the
    /// log recorded as synced.
    pub(super) fn flips(
        &mut self,
        storage: &SimulatedStorage,
        expected: &Expected,
    ) -> Result<(), Violation> {
        if self.is_deep || self.effort.flips == 0 {
            return Ok(());
        }
        let is_log = |path: &std::path::Path| path.extension().is_some_and(|of| of == "log");
        let files = storage.files();
        let logs: Vec<_> = files.iter().filter(|(path, _)| is_log(path)).collect();
        let mut floors = expected.floors;
        for floor in &mut floors {
            (floor.kill, floor.power) = (floor.marked, floor.marked);
        }
        for _ in 0..if logs.is_empty() { 0 } else { self.effort.flips } {
            let (path, bytes) = logs[self.random.usize(..logs.len())];
            let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            let byte = self.random.usize(..(used + 16).min(bytes.len()));
            let bit = self.random.u32(..8);
            let image = storage.killed();
            image.flip(path, byte as u64, bit);
            self.counts.add("flips");
            let found = guarded(|| match look(&image) {
                Ok(recovered) => Ok(Some(recovered)),
                Err(LookError::Open(Error::Layers(
                    LayersError::Corrupt { .. } | LayersError::UnsupportedVersion { .. },
                ))) => Ok(None),
                Err(error) => Err(Violation::new(error.to_string())),
            });
            let place = || format!("flipped bit {bit} of byte {byte} of {}", path.display());
            match found.map_err(|violation| violation.at(place()))? {
                Some(recovered) => expected
                    .check(&recovered, End::Killed, &floors)
                    .map_err(|what| Violation::new(what).at(place()))?,
                None => self.counts.add("flips_noticed"),
            }
        }
        Ok(())
    }
}

/// Why an image could not be checked.
enum LookError {
    Open(Error),
    Other(String),
}

impl std::fmt::Display for LookError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LookError::Open(error) => write!(f, "it does not open: {error}"),
            LookError::Other(what) => f.write_str(what),
        }
    }
}

/// Opens an image, reads everything, verifies its files.
fn look(image: &SimulatedStorage) -> Result<Recovered, LookError> {
    let store = open(image.shared(), Durability::Synced).map_err(LookError::Open)?;
    let recovered = Recovered::of(&store).map_err(LookError::Other)?;
    for timeline in store.timelines() {
        timeline.verify().map_err(|error| LookError::Other(error.to_string()))?;
    }
    Ok(recovered)
}

/// Turns a panic into a violation.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, Violation>) -> Result<T, Violation> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = |panic: &dyn Any| {
            let owned = panic.downcast_ref::<String>().cloned();
            owned.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        };
        let text = text(&*panic).unwrap_or_default();
        Err(Violation::new(format!("panicked: {text}")))
    })
}
