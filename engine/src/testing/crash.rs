//! [`CrashExplorer`]: work on a store, crashes at every place, and what is found afterwards held
//! against what was acknowledged.
//!
//! ```text
//! sequence or seed -> operations on a Store, on a storage that is copied before each change
//!                       each copy -> killed, and the power fails in all ways or some -> images
//!                       each new image -> opened, read, verified, opened again -> what it holds
//!                       promised <= what it holds <= tried, at a commit, as the model was then
//! ```
//!
//! What must hold of every image: it opens; each timeline ends at one of its commits, none before
//! the last that was acknowledged, with the history of every key as it was then; and opening it
//! again changes nothing. Of some images also: the same for crashes within the opening and within
//! the first commits after it; and of the log of a store that runs: a flipped bit is noticed, or
//! takes nothing that was acknowledged.
//!
//! Equal images are opened once. So a state is a moment and what a crash leaves of it; distinct
//! images are fewer.
//!
//! **Invariant:** no clock and no chance: a sequence or a seed always does the same. How long to go
//! on is its user's.

mod exhaustive;
mod explore;
mod life;
mod ops;
mod oracle;
mod recorder;
mod reopen;
mod seeded;

use std::fmt;

use explore::{Effort, Explore, guarded};

use crate::testing::Counts;

/// Explores crashes, and counts. One for each thread.
pub struct CrashExplorer {
    explore: Explore,
    sequences: u64,
    seeds: u64,
}

/// What was explored.
#[derive(Clone, Debug, Default)]
pub struct CrashCounts {
    /// Short sequences of operations.
    pub sequences: u64,
    /// Long workloads.
    pub seeds: u64,
    /// Moments at which there was a crash.
    pub points: u64,
    /// What crashes left: moments times images.
    pub states: u64,
    /// Those of them where the crash was within an opening, or in what came after an opening of an
    /// image.
    pub recovery_states: u64,
    /// Distinct images; each was opened, and again if that had changed it.
    pub images: u64,
    /// The rest.
    pub others: Counts,
}

/// Something that must not be, and how one comes there.
#[derive(Clone, Debug)]
pub struct CrashViolation {
    what: String,
    /// Innermost first.
    places: Vec<String>,
}

use CrashViolation as Violation;

const EXHAUSTIVE: Effort = Effort { all_max: 256, images: 64, deep_one_in: 256, flips: 2 };
const SEEDED: Effort = Effort { all_max: 8, images: 8, deep_one_in: 64, flips: 1 };

impl Default for CrashExplorer {
    fn default() -> CrashExplorer {
        CrashExplorer::new()
    }
}

impl CrashExplorer {
    /// One that has explored nothing.
    #[must_use]
    pub fn new() -> CrashExplorer {
        CrashExplorer { explore: Explore::new(EXHAUSTIVE), sequences: 0, seeds: 0 }
    }

    /// How many sequences of at most this length there are; they have the numbers below that.
    #[must_use]
    pub fn sequences_of(len: u32) -> u64 {
        exhaustive::count(len)
    }

    /// Explores a short sequence: crashes at each call to the storage of its last operation.
    ///
    /// # Errors
    /// The first violation.
    pub fn sequence(&mut self, number: u64) -> Result<(), CrashViolation> {
        self.explore.effort = EXHAUSTIVE;
        self.explore.reseed(number);
        let is_run = guarded(|| exhaustive::run(&mut self.explore, number))
            .map_err(|violation| violation.at(format!("sequence {number}")))?;
        self.sequences += u64::from(is_run);
        Ok(())
    }

    /// Explores a long workload.
    ///
    /// # Errors
    /// The first violation.
    pub fn seed(&mut self, seed: u64) -> Result<(), CrashViolation> {
        self.explore.effort = SEEDED;
        self.explore.reseed(seed);
        // What is new, and so is looked at deeper, does not depend on the seeds before.
        self.explore.forget();
        guarded(|| seeded::run(&mut self.explore, seed))
            .map_err(|violation| violation.at(format!("seed {seed}")))?;
        self.seeds += 1;
        Ok(())
    }

    /// What was explored so far.
    #[must_use]
    pub fn counts(&self) -> CrashCounts {
        CrashCounts {
            sequences: self.sequences,
            seeds: self.seeds,
            points: self.explore.points,
            states: self.explore.states,
            recovery_states: self.explore.recovery_states,
            images: self.explore.opened,
            others: self.explore.counts.clone(),
        }
    }
}

impl fmt::Debug for CrashExplorer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CrashExplorer").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

impl CrashCounts {
    /// Adds another explorer's.
    pub fn merge(&mut self, other: &CrashCounts) {
        self.sequences += other.sequences;
        self.seeds += other.seeds;
        self.points += other.points;
        self.states += other.states;
        self.recovery_states += other.recovery_states;
        self.images += other.images;
        self.others.merge(&other.others);
    }
}

impl fmt::Display for CrashCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CrashCounts { sequences, seeds, points, states, recovery_states, images, others } =
            self;
        write!(
            f,
            "{states} states ({recovery_states} of crashes in or after a recovery) at {points} moments of {sequences} sequences \
             and {seeds} seeds; {images} distinct images; {others}"
        )
    }
}

impl CrashViolation {
    fn new(what: String) -> CrashViolation {
        CrashViolation { what, places: Vec::new() }
    }

    fn at(mut self, place: String) -> CrashViolation {
        self.places.push(place);
        self
    }
}

impl fmt::Display for CrashViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        self.places.iter().try_for_each(|place| write!(f, "\n  {place}"))
    }
}

impl std::error::Error for CrashViolation {}
