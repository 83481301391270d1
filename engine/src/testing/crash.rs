//! [`CrashExplorer`]: crashes a working store at every point, and checks what is found afterwards
//! against what was acknowledged.
//!
//! ```text
//! sequence or seed -> operations on a Store, on a storage that is copied before each change
//!                       each copy -> process crash, and power loss in all or some ways -> images
//!                       each new image -> opened, read, verified, opened again -> its contents
//!                       promised <= contents <= tried, at a commit, as the model was then
//! ```
//!
//! For every image: it must open; each timeline must end at one of its commits, not before the last
//! acknowledged one, with the history of every key as it was at that commit; and opening it again
//! must change nothing. For some images: the same must hold for crashes during the open and during
//! the first commits after it. For the log of a running store: a flipped bit must be detected, or
//! must lose nothing that was acknowledged.
//!
//! Equal images are opened once. A state is a moment together with what a crash leaves of it, so
//! there are fewer distinct images than states.
//!
//! **Invariant:** no clock and no randomness of its own: a sequence or a seed always does the same.
//! The caller decides how long to explore.

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

/// Explores crashes and counts what it explored; use one per thread.
pub struct CrashExplorer {
    explore: Explore,
    sequences: u64,
    seeds: u64,
}

/// Counts of what was explored.
#[derive(Clone, Debug, Default)]
pub struct CrashCounts {
    /// Short sequences of operations.
    pub sequences: u64,
    /// Long workloads.
    pub seeds: u64,
    /// Moments at which a crash was simulated.
    pub points: u64,
    /// Moments times images.
    pub states: u64,
    /// States whose crash was during an open, or after the open of an image.
    pub recovery_states: u64,
    /// Distinct images; each was opened, and again if the first open changed it.
    pub images: u64,
    /// Other counters.
    pub others: Counts,
}

/// A violation of a guarantee, and how to reproduce it.
#[derive(Clone, Debug)]
pub struct CrashViolation {
    what: String,
    /// Where it happened, innermost first.
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
    /// Creates one that has explored nothing.
    #[must_use]
    pub fn new() -> CrashExplorer {
        CrashExplorer { explore: Explore::new(EXHAUSTIVE), sequences: 0, seeds: 0 }
    }

    /// Returns how many sequences have at most this length; their numbers are below that.
    #[must_use]
    pub fn sequences_of(len: u32) -> u64 {
        exhaustive::count(len)
    }

    /// Explores a short sequence: crashes at each storage call of its last operation.
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
        // Which images are new, and so explored in depth, must not depend on earlier seeds.
        self.explore.forget();
        guarded(|| seeded::run(&mut self.explore, seed))
            .map_err(|violation| violation.at(format!("seed {seed}")))?;
        self.seeds += 1;
        Ok(())
    }

    /// Returns the counts so far.
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
    /// Adds the counts of another explorer.
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
