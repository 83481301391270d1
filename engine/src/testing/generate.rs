//! Sequences from a seed: weights and sizes are chosen so that rare paths run.

use super::ops::{Ending, KeyChoice, LsnChoice, LsnStep, Op, Sequence, Setup, ValueChoice};

/// Length of a sequence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Size {
    /// Up to about 60 operations, small values.
    Short,
    /// A few hundred operations, any values.
    Medium,
    /// Thousands of operations, any values, long chains and wide ranges.
    Long,
}

/// Generates operations around a few keys.
struct Generator<'r> {
    random: &'r mut fastrand::Rng,
    size: Size,
    objects: Vec<u8>,
    blocks: u16,
}

impl Sequence {
    /// Returns a random sequence: the same one for the same state of the generator.
    #[must_use]
    pub fn random(random: &mut fastrand::Rng, size: Size) -> Sequence {
        let setup = Setup {
            compressed: random.bool(),
            block_size: random.u8(..),
            frozen_layers: random.u8(..),
            durability: random.u8(..),
            callers: random.bool(),
            pooled: random.u8(..4) > 0,
            start: LsnStep([64, 64, 80, 240, 254][random.usize(..5)]),
            access: random.u8(..),
        };
        let objects = (0..random.usize(1..=4)).map(|_| random.u8(..)).collect();
        let blocks = [1, 2, 6, 30, 300][random.usize(..5)];
        let ops = match size {
            Size::Short => random.usize(5..60),
            Size::Medium => random.usize(60..250),
            Size::Long => random.usize(1000..3000),
        };
        let mut generator = Generator { random, size, objects, blocks };
        let mut ops: Vec<_> = (0..ops).map(|_| generator.op()).collect();
        // Repeats some operations directly: repeating one at the same Lsn is a separate case.
        for at in 1..ops.len() {
            if generator.random.u8(..24) == 0 {
                ops[at] = ops[at - 1].again();
            }
        }
        Sequence { setup, ops }
    }
}

impl Op {
    /// The same operation at the same Lsn.
    fn again(self) -> Op {
        let mut op = self;
        match &mut op {
            Op::Put { lsn, .. }
            | Op::PutDelta { lsn, .. }
            | Op::PutWillInit { lsn, .. }
            | Op::PutBatch { lsn, .. }
            | Op::PutRange { lsn, .. }
            | Op::DropBlocks { lsn, .. }
            | Op::ImportImages { lsn, .. } => *lsn = LsnStep::SAME,
            _ => {}
        }
        op
    }
}

impl Generator<'_> {
    fn key(&mut self) -> KeyChoice {
        let object = self.objects[self.random.usize(..self.objects.len())];
        let block = match self.random.u8(..16) {
            0 => self.random.u16(0xFF00..),
            _ => self.random.u16(..self.blocks),
        };
        KeyChoice { object, block }
    }

    /// Mostly forward.
    fn step(&mut self) -> LsnStep {
        let rare = match self.size {
            Size::Short => 64,
            Size::Medium | Size::Long => 1024,
        };
        // The maximum Lsn is not for long sequences: nothing can be put after it.
        LsnStep(match self.random.u16(..rare) {
            0 => self.random.u8(246..),
            _ => self.forward(),
        })
    }

    fn forward(&mut self) -> u8 {
        match self.random.u8(..64) {
            0 => self.random.u8(224..246),
            1 => self.random.u8(246..252),
            2..24 => 0,
            _ => self.random.u8(64..224),
        }
    }

    fn at(&mut self) -> LsnChoice {
        LsnChoice(self.random.u8(..))
    }

    fn value(&mut self) -> ValueChoice {
        let class = match (self.size, self.random.u8(..64)) {
            (_, 0..8) => 11,
            (Size::Short, 8) => self.random.u16(13..15),
            (Size::Medium | Size::Long, 8) => self.random.u16(13..),
            (_, 9..16) => self.random.u16(6..11),
            (_, 16) => 0,
            _ => 1,
        };
        ValueChoice { len: class << 12 | self.random.u16(..0x1000), fill: self.random.u8(..) }
    }

    fn small_value(&mut self) -> ValueChoice {
        ValueChoice { len: 0x1000 | self.random.u16(..0x1000), fill: self.random.u8(..) }
    }

    fn count(&mut self) -> u16 {
        match (self.size, self.random.u8(..64)) {
            (Size::Long, 0) => self.random.u16(1000..4000),
            (Size::Medium | Size::Long, 0..16) => self.random.u16(100..500),
            _ => self.random.u16(1..80),
        }
    }

    fn op(&mut self) -> Op {
        match self.random.u16(..1000) {
            0..160 => Op::Put { key: self.key(), lsn: self.step(), value: self.value() },
            160..340 => Op::PutDelta { key: self.key(), lsn: self.step(), value: self.value() },
            340..370 => Op::PutWillInit { key: self.key(), lsn: self.step(), value: self.value() },
            370..372 => Op::PutTooLong { key: self.key(), lsn: self.step() },
            372..400 => Op::PutBatch {
                key: self.key(),
                count: self.random.u8(..),
                lsn: self.step(),
                value: self.value(),
                shared: self.random.bool(),
                spoiled: self.random.u8(..4) == 0,
            },
            400..420 => {
                Op::PutChain { key: self.key(), count: self.count(), value: self.small_value() }
            }
            420..440 => Op::PutRange {
                key: self.key(),
                count: self.count(),
                lsn: self.step(),
                value: self.small_value(),
            },
            440..470 => Op::DropBlocks { key: self.key(), lsn: self.step() },
            470..620 => Op::Commit {
                lsn: if self.random.u8(..8) == 0 { self.step() } else { LsnStep::SAME },
            },
            620..630 => Op::Abort,
            630..650 => Op::DropLease,
            650..685 => Op::Roll,
            685..694 => Op::Flush,
            694..700 => Op::Compact,
            700..712 => {
                let endings = [Ending::Drop, Ending::Drop, Ending::Close, Ending::CloseLeased];
                Op::Reopen { how: endings[self.random.usize(..4)] }
            }
            712..735 => Op::Snapshot { lsn: self.at() },
            735..760 => Op::Detach {
                key: self.key(),
                lsn: self.at(),
                index: self.random.u8(..),
                copy: self.random.bool(),
            },
            760..770 => Op::HoldGuard { key: self.key(), value: self.value() },
            770..780 => Op::CheckHeld,
            780..800 => Op::ReleaseHeld { which: self.random.u8(..) },
            800..810 => Op::Unpin { reader: self.random.u8(..) },
            810..930 => Op::Read { reader: self.random.u8(..), key: self.key(), lsn: self.at() },
            930..960 => Op::Page { reader: self.random.u8(..), key: self.key(), lsn: self.at() },
            960..985 => Op::Scan {
                reader: self.random.u8(..),
                from: self.random.u8(..),
                to: self.random.u8(..),
                lsn: self.at(),
            },
            985..995 => Op::ImportImages {
                key: self.key(),
                count: self.random.u8(..),
                gap: self.random.u8(..),
                lsn: self.step(),
                value: self.value(),
                abandoned: self.random.u8(..4) == 0,
            },
            _ => Op::Verify,
        }
    }
}
