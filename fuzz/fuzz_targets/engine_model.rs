//! Any list of operations, on a store and on the model of `pagestrata::testing`: whatever they answer is the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pagestrata::testing::{MemoryStorage, Sequence, run};

/// A longer list only takes longer.
const OPS_MAX: usize = 150;

fuzz_target!(|sequence: Sequence| {
    let mut sequence = sequence;
    sequence.ops.truncate(OPS_MAX);
    let _ = run(&MemoryStorage::default().shared(), "store".as_ref(), &sequence);
});
