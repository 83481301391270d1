//! Runs a list of operations on a store and on the model of `pagestrata::testing`: all answers must
//! be equal.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use pagestrata::testing::{Op, Sequence, SimulatedStorage, Size, run};

/// A longer list only takes longer.
const OPS_MAX: usize = 250;

#[derive(Debug, Arbitrary)]
enum Input {
    /// The fuzzer chooses every operation.
    Listed(Sequence),
    /// A random sequence with some operations of the fuzzer inserted: deep states from the start.
    Edited { seed: u32, size: u8, put_in: Vec<(u8, Op)> },
}

fuzz_target!(|input: Input| {
    let mut sequence = match input {
        Input::Listed(sequence) => sequence,
        Input::Edited { seed, size, put_in } => {
            let size = if size % 32 == 31 { Size::Medium } else { Size::Short };
            let random = &mut fastrand::Rng::with_seed(seed.into());
            let mut sequence = Sequence::random(random, size);
            for (at, op) in put_in {
                let at = usize::from(at) % sequence.ops.len();
                sequence.ops.insert(at, op);
            }
            sequence
        }
    };
    sequence.ops.truncate(OPS_MAX);
    let _ = run(&SimulatedStorage::new().shared(), "store".as_ref(), &sequence);
});
