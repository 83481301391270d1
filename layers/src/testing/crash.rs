//! Crashes: what is left of a [`SimulatedStorage`] after a power failure.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;

use super::{
    SimulatedStorage,
    choices::{Choices, Decision, Odometer, all_kept, none_kept},
    names::{Image, Names, Node},
    simulated::State,
};

impl SimulatedStorage {
    /// What a power failure leaves, as `choices` decide: a storage of its own in which everything
    /// is synced.
    ///
    /// First the changes of names are decided, oldest first; then, file by file in the order of
    /// their paths, the length and the sectors.
    #[must_use]
    pub fn crash(&self, choices: &mut impl Choices) -> SimulatedStorage {
        let state = self.state.lock();
        let mut image = state.names.crash(choices);
        for (path, node) in &mut image {
            if let Node::File(inode) = node {
                let content = inode.lock().crash(path, choices).linked();
                *inode = Arc::new(Mutex::new(content));
            }
        }
        SimulatedStorage::of_state(State::new(Names::synced(image)))
    }

    /// What a process finds that is started after the last one was killed: everything that was
    /// written. What was not synced still is not, so that the power may fail after that.
    #[must_use]
    pub fn killed(&self) -> SimulatedStorage {
        SimulatedStorage::of_state(State::new(self.state.lock().names.copy()))
    }

    /// Everything that a power failure may leave, if `limit` choices suffice for it.
    ///
    /// Every vector of choices comes once. Different ones seldom leave the same:
    /// [`SimulatedStorage::digest`] tells.
    #[must_use]
    pub fn crash_states(&self, limit: u64) -> Option<CrashStates> {
        let storage = self.killed();
        let left = storage.count_states(limit)?;
        Some(CrashStates { storage, odometer: Odometer::default(), left })
    }

    /// How many choices there are, if not more than `limit`.
    fn count_states(&self, limit: u64) -> Option<u64> {
        let state = self.state.lock();
        let (mut odometer, mut of_files, mut total) = (Odometer::default(), BTreeMap::new(), 0_u64);
        loop {
            let image = state.names.crash(&mut odometer);
            total = total.saturating_add(states_of(&image, &mut of_files, limit));
            if total > limit {
                return None;
            }
            if !odometer.advance() {
                return Some(total);
            }
        }
    }

    /// What a power failure leaves, by chance. Half of the time one of the extremes: nothing kept,
    /// everything kept, a single thing kept or lost.
    #[must_use]
    pub fn crash_seeded(&self, random: &mut fastrand::Rng) -> SimulatedStorage {
        match random.u8(..10) {
            0 => self.crash(&mut none_kept),
            1 => self.crash(&mut all_kept),
            2 | 3 => self.crash_but_one(random, all_kept, |random, last| random.usize(..last)),
            4 => self.crash_but_one(random, none_kept, |random, last| random.usize(1..=last)),
            // The names stay, and what they name is any.
            5 => self.crash(&mut |decision: Decision<'_>, options: usize| match decision {
                Decision::Name(_) => options - 1,
                Decision::Len(_) | Decision::Sector(..) => random.usize(..options),
            }),
            6 => self.crash(&mut |decision: Decision<'_>, options: usize| match decision {
                Decision::Name(_) | Decision::Len(_) => options - 1,
                Decision::Sector(..) => random.usize(..options),
            }),
            // Much is kept, little is kept, half is kept.
            kind => {
                let kept_of_8 = [1, 7, 4][usize::from(kind) - 7];
                self.crash(&mut |_: Decision<'_>, options: usize| {
                    let is_kept = random.u8(..8) < kept_of_8;
                    match random.u8(..4) {
                        0 => random.usize(..options),
                        _ if is_kept => options - 1,
                        _ => 0,
                    }
                })
            }
        }
    }

    /// All as `usual`, but for one decision.
    fn crash_but_one(
        &self,
        random: &mut fastrand::Rng,
        usual: fn(Decision<'_>, usize) -> usize,
        unusual: impl Fn(&mut fastrand::Rng, usize) -> usize,
    ) -> SimulatedStorage {
        let mut decisions = 0;
        let storage = self.crash(&mut |decision: Decision<'_>, options: usize| {
            decisions += 1;
            usual(decision, options)
        });
        if decisions == 0 {
            return storage;
        }
        let (one, mut n) = (random.usize(..decisions), 0);
        self.crash(&mut |decision: Decision<'_>, options: usize| {
            n += 1;
            if n - 1 == one { unusual(random, options - 1) } else { usual(decision, options) }
        })
    }
}

/// The product over the files of an image. Those of each file are counted once.
fn states_of(image: &Image, of_files: &mut BTreeMap<usize, u64>, limit: u64) -> u64 {
    let files = image.values().filter_map(|node| match node {
        Node::Dir => None,
        Node::File(inode) => Some(inode),
    });
    let states = files.map(|inode| {
        let states = || inode.lock().states(limit);
        *of_files.entry(Arc::as_ptr(inode).addr()).or_insert_with(states)
    });
    states.fold(1, u64::saturating_mul)
}

/// Everything that a power failure may leave, one after the other, each with the choices that led
/// there (for a [`Script`](super::Script)).
#[derive(Debug)]
pub struct CrashStates {
    storage: SimulatedStorage,
    odometer: Odometer,
    left: u64,
}

impl Iterator for CrashStates {
    type Item = (Vec<usize>, SimulatedStorage);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let storage = self.storage.crash(&mut self.odometer);
        let choices = self.odometer.choices();
        let has_more = self.odometer.advance();
        assert_eq!(has_more, self.left > 0, "as many as were counted");
        Some((choices, storage))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::try_from(self.left).expect("fewer than fit in memory");
        (left, Some(left))
    }
}

impl ExactSizeIterator for CrashStates {}
