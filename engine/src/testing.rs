//! Test kit (feature `testing`): one set of operations and one model of a timeline, for tests,
//! fuzzing and benches.
//!
//! ```text
//! seed or fuzzer's bytes -> Sequence (Setup, Ops) -> run -> a real Store in a directory
//!                                                      \-> Model; their answers are compared
//! ```
//!
//! The store's files are real ones, or those of a [`SimulatedStorage`], which fails on demand and
//! can be crashed.
//!
//! **Invariants:** the model shares no code with the engine, only its terms (keys, Lsns, kinds). A
//! sequence runs the same way each time, except for the timing of background flushes and reclaims.
//! No answer may depend on that timing, with one exception: where a store is after a reopen without
//! a flush. That answer is taken from the engine, and checked to be possible.
//!
//! ```
//! use pagestrata::testing::{SimulatedStorage, Sequence, Size, run};
//!
//! let sequence = Sequence::random(&mut fastrand::Rng::with_seed(7), Size::Short);
//! let storage = SimulatedStorage::new().shared();
//! let counts = run(&storage, "store".as_ref(), &sequence); // panics where engine and model differ
//! assert!(counts.get("reads") > 0);
//! ```

mod counts;
mod crash;
mod evict;
mod generate;
mod model;
mod ops;
mod runner;
mod session;
mod unsynced;

pub use counts::Counts;
pub use crash::{CrashCounts, CrashExplorer, CrashViolation};
pub use evict::evict_layer_files;
pub use generate::Size;
pub use model::{History, Model, Refusal, Stored};
pub use ops::{
    Ending, KeyChoice, LsnChoice, LsnStep, Op, Sequence, Setup, ValueChoice, fill_value,
};
pub use pagestrata_layers::testing::{
    Choices, CrashStates, Decision, FailedSync, Failing, Failure, Fault, Operation, Script,
    SimulatedStorage, all_kept, none_kept,
};
pub use runner::run;
pub use unsynced::UnsyncedStorage;

/// The search structure of the layer map, for the benchmark on recorded maps.
pub use crate::layer_map::index as layer_index;
