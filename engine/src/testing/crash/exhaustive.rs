//! All short sequences of operations, numbered by length and then by content.

use super::{
    Violation,
    explore::Explore,
    life::Life,
    ops::Op,
    oracle::{End, Expected},
};
use crate::{Durability, testing::SimulatedStorage};

/// Length of a commit of which a segment cannot hold two.
const LONG: usize = 2600;

const LETTERS: [Op; 18] = [
    Op::PutWait(0),
    Op::Put(0),
    Op::Many(0),
    Op::Long(0, LONG),
    Op::Parts(0),
    Op::Roll(0),
    Op::Flush(0),
    Op::Compact(0),
    Op::Drop(0),
    Op::Import(0),
    Op::Create(1),
    Op::PutWait(1),
    Op::Long(1, LONG),
    Op::Flush(1),
    Op::Close,
    Op::Kill(Durability::Synced),
    Op::PowerOff(0),
    Op::PowerOff(2),
];

/// States of a store before a sequence: new; and with a log that went through several segments, and
/// with free ones.
const STARTS: [&[Op]; 2] = [
    &[],
    &[
        Op::Long(0, LONG),
        Op::Long(0, LONG),
        Op::Long(0, LONG),
        Op::Long(0, LONG),
        Op::Flush(0),
        Op::PutWait(0),
    ],
];

/// Returns how many sequences have at most this length.
pub(super) fn count(len: u32) -> u64 {
    (0..=len).map(|len| (LETTERS.len() as u64).pow(len)).sum::<u64>() * STARTS.len() as u64
}

fn decode(number: u64) -> (&'static [Op], Vec<Op>) {
    let (start, mut number) = (number % STARTS.len() as u64, number / STARTS.len() as u64);
    let letters = LETTERS.len() as u64;
    let mut len = 0;
    while number >= letters.pow(len) {
        number -= letters.pow(len);
        len += 1;
    }
    // The first operations change slowest, so that neighbours share a prefix.
    let digits = (0..len).rev().map(|at| number / letters.pow(at) % letters);
    (STARTS[start as usize], digits.map(|digit| LETTERS[digit as usize]).collect())
}

/// Runs a sequence, and crashes in its last operation; the earlier operations are last ones of
/// shorter sequences. Returns false if an operation is not possible in its state.
pub(super) fn run(explore: &mut Explore, number: u64) -> Result<bool, Violation> {
    let (start, ops) = decode(number);
    let mut life = Life::new(SimulatedStorage::new(), Expected::new(), number);
    let all: Vec<Op> =
        [Op::Create(0)].into_iter().chain(start.iter().copied()).chain(ops).collect();
    let told = |violation: Violation| violation.at(format!("sequence {number}: {all:?}"));
    life.one_in = u64::from(all.len() == 1);
    life.reopen(explore, SimulatedStorage::new(), (End::Killed, false)).map_err(told)?;
    for (at, op) in all.iter().enumerate() {
        if !life.is_possible(*op) {
            return Ok(false);
        }
        life.one_in = u64::from(at + 1 == all.len());
        life.apply(explore, *op).map_err(told)?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sequence_has_one_number() {
        let all: std::collections::BTreeSet<String> =
            (0..count(2)).map(|number| format!("{:?}", decode(number))).collect();
        assert_eq!(all.len() as u64, count(2));
        assert!((0..count(2)).all(|number| decode(number).1.len() <= 2));
        assert_eq!(decode(count(2)).1.len(), 3);
    }
}
