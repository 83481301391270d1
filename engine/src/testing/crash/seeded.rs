//! Random long workloads: several timelines, faults, full disks, and crashes after which the work
//! continues.

use std::time::Duration;

use super::{
    Violation,
    explore::Explore,
    life::Life,
    ops::Op,
    oracle::{End, Expected},
};
use crate::{
    Durability,
    testing::{FailedSync, Failure, Fault, SimulatedStorage},
};

const OPS: std::ops::Range<u64> = 50..300;

fn fault(random: &mut fastrand::Rng) -> Fault {
    Fault {
        call: random.u64(..30),
        for_good: random.u8(..4) == 0,
        late: random.bool(),
        failure: if random.u8(..4) == 0 { Failure::ENOSPC } else { Failure::EIO },
        failed_sync: match random.bool() {
            true => FailedSync::DropsDirty,
            false => FailedSync::KeepsDirty,
        },
    }
}

fn durability(random: &mut fastrand::Rng) -> Durability {
    match random.u8(..10) {
        0 => Durability::External,
        1 => Durability::Buffered { sync_interval: Duration::from_secs(1) },
        _ => Durability::Synced,
    }
}

/// Chooses the next operation; while a fault is armed, soon a crash.
fn choose(random: &mut fastrand::Rng, faulty: bool) -> Op {
    let n = [0, 0, 0, 1, 1, 2][random.usize(..6)];
    if faulty && random.u8(..8) == 0 {
        return match random.u8(..8) {
            0..=3 => Op::Kill(durability(random)),
            4 => Op::Close,
            5 => Op::Mend,
            _ => Op::PowerOff(random.u64(..)),
        };
    }
    if faulty && random.u8(..12) == 0 {
        return Op::Import(n);
    }
    match random.u8(..100) {
        0..=25 => Op::PutWait(n),
        26..=28 => Op::Parts(n),
        29 => Op::FillLog(n, (n + 1) % 2),
        30..=44 => Op::Put(n),
        45..=56 => Op::Many(n),
        57..=66 => Op::Long(n, [600, 1500, 2600, 3000][random.usize(..4)]),
        67 => Op::Long(n, 5000),
        68..=71 => Op::Roll(n),
        72..=75 => Op::Flush(n),
        76..=77 => Op::Compact(n),
        78..=81 => Op::Drop(n),
        82..=83 => Op::Import(n),
        84..=87 => Op::Create(n),
        88 => Op::Close,
        89..=90 => Op::Kill(durability(random)),
        91..=93 => Op::PowerOff(random.u64(..)),
        94..=96 => Op::Fault(fault(random)),
        97 => Op::Full(random.u64(..9000)),
        _ => Op::KillAndFault(fault(random)),
    }
}

/// Runs one workload.
pub(super) fn run(explore: &mut Explore, seed: u64) -> Result<(), Violation> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut life = Life::new(SimulatedStorage::new(), Expected::new(), seed);
    life.one_in = 4;
    if random.u8(..4) == 0 {
        life.durability = durability(&mut random);
    }
    let mut done = Vec::new();
    let told = |done: &[Op], violation: Violation| {
        violation.at(format!("seed {seed}, operation {} of {done:?}", done.len()))
    };
    life.reopen(explore, SimulatedStorage::new(), (End::Killed, false))
        .map_err(|violation| told(&done, violation))?;
    for _ in 0..random.u64(OPS) {
        let op = match life.has(0) {
            true => choose(&mut random, life.is_armed),
            false => Op::Create(0),
        };
        if life.is_possible(op) {
            done.push(op);
            life.apply(explore, op).map_err(|violation| told(&done, violation))?;
        } else if life.is_armed && !life.has(0) {
            life.apply(explore, Op::Kill(Durability::Synced))?;
        }
    }
    Ok(())
}
