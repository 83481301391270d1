//! [`Op`]: every operation on a timeline, with parameters so small that a fuzzer and a generator
//! hit the edges.

use arbitrary::Arbitrary;

use crate::{Key, Lsn};

/// The options of a store and the operations on it.
#[derive(Clone, Debug, PartialEq, Eq, Arbitrary)]
pub struct Sequence {
    /// The options.
    pub setup: Setup,
    /// The operations, in order.
    pub ops: Vec<Op>,
}

/// The options of a store and of its timeline. Any number is brought into its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Arbitrary)]
pub struct Setup {
    /// Whether layer files are compressed.
    pub compressed: bool,
    /// Size of data blocks: 1 KiB times one, two, four, eight or sixteen.
    pub block_size: u8,
    /// One to four frozen layers.
    pub frozen_layers: u8,
    /// A synced log for half of the numbers; otherwise a log that is not synced, or none.
    pub durability: u8,
    /// Whether the store has no threads.
    pub callers: bool,
    /// Whether reclaimed memory is used again.
    pub pooled: bool,
    /// Where the timeline starts.
    pub start: LsnStep,
    /// How layer files are read at first; each open takes the next way. Some ways map only a few
    /// files.
    pub access: u8,
}

/// Chooses one of a few keys; see [`KeyChoice::key`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Arbitrary)]
pub struct KeyChoice {
    /// The object.
    pub object: u8,
    /// The block.
    pub block: u16,
}

/// Objects at the edges, including the lowest and the highest.
const OBJECTS: [u128; 8] = [0, 1, 2, 3, u64::MAX as u128, 1 << 64, u128::MAX - 1, u128::MAX];

impl KeyChoice {
    /// Half of the objects are eight at the edges, the others are dense. Blocks are dense, except
    /// the highest 256 numbers: powers of two, one less than these, the highest blocks, and blocks
    /// far apart.
    #[must_use]
    pub fn key(self) -> Key {
        let object = match self.object % 16 {
            edge @ 0..8 => OBJECTS[edge as usize],
            _ => 100 + u128::from(self.object),
        };
        let n = u32::from(self.block & 0xFF);
        let block = match (self.block, n) {
            (..0xFF00, _) => u32::from(self.block),
            (_, 0..32) => 1 << n,
            (_, 32..64) => (1 << (n - 32)) - 1,
            (_, 64..96) => u32::MAX - (n - 64),
            _ => n << 24 | n,
        };
        Key { object, block }
    }
}

/// The step from the last Lsn to the next one; see [`LsnStep::lsn`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Arbitrary)]
pub struct LsnStep(pub u8);

impl LsnStep {
    /// The same Lsn again if nothing is committed there yet, otherwise the next.
    pub const SAME: LsnStep = LsnStep(0);
    /// The next Lsn.
    pub const NEXT: LsnStep = LsnStep(64);

    /// Mostly the same Lsn or a few further; sometimes a large gap or half of the remaining range;
    /// and Lsns that are refused: lower, committed already, zero, the maximum.
    #[must_use]
    pub fn lsn(self, last: Lsn, committed: Lsn) -> Lsn {
        let further = |by: u64| Lsn(last.0.saturating_add(by).min(u64::MAX - 1));
        match self.0 {
            0..64 => last.max(committed.next()),
            n @ 64..224 => further(1 + u64::from(n - 64) / 16),
            n @ 224..246 => further(1 << (2 * (n - 224))),
            n @ 246..250 => Lsn(last.0.saturating_sub(u64::from(n - 245))),
            250..252 => committed,
            252 => Lsn::MAX,
            253 => Lsn(u64::MAX - 1),
            254 => further((u64::MAX - 1 - last.0.min(u64::MAX - 1)) / 2),
            255 => Lsn(0),
        }
    }
}

/// Which Lsn to read at; see [`LsnChoice::lsn`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Arbitrary)]
pub struct LsnChoice(pub u8);

impl LsnChoice {
    /// The last one that can be read.
    pub const LAST: LsnChoice = LsnChoice(0);

    /// Given the Lsns of the key's versions: mostly the last that can be read or at one of these,
    /// just before or behind it; sometimes anywhere between, sometimes where nothing can be read.
    #[must_use]
    pub fn lsn(self, start: Lsn, upper: Lsn, versions: &[Lsn]) -> Lsn {
        match self.0 {
            0..96 => upper,
            _ if versions.is_empty() && self.0 < 224 => upper,
            n @ 96..224 => {
                let at = versions[usize::from(n - 96) / 3 * 7 % versions.len()];
                [at.previous(), at, at.next()][usize::from(n - 96) % 3]
            }
            224..236 => upper.next(),
            236..241 => Lsn::MAX,
            241..245 => start.previous(),
            n => Lsn(start.0 + (upper.0 - start.0) / 11 * u64::from(n - 245)),
        }
    }
}

/// Chooses a value; see [`ValueChoice::len`] and [`fill_value`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Arbitrary)]
pub struct ValueChoice {
    /// Its length: the upper four bits choose a class.
    pub len: u16,
    /// What it is filled with.
    pub fill: u8,
}

impl ValueChoice {
    /// Nothing to a few hundred bytes mostly, pages often, sometimes more than a chunk of memory
    /// holds, up to 4 MiB.
    #[must_use]
    pub fn len(self) -> usize {
        let low = usize::from(self.len & 0xFFF);
        match self.len >> 12 {
            0 => 0,
            1..=5 => low % 128,
            6..=8 => low % 1024,
            9..=10 => low,
            11..=12 => 8192,
            13 => low * 8,
            14 => (64 << 10) + low * 16,
            _ if low < 0xF00 => low,
            _ => (low & 0xFF) << 14,
        }
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// The bytes of a value: no two numbers give the same ones, where there is room for a number. An
/// even `fill` can be compressed.
#[must_use]
pub fn fill_value(number: u64, fill: u8, len: usize) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ u64::from(fill);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        let word = match fill % 2 {
            0 if bytes.len() % 256 == 0 => number,
            0 => u64::from(fill) * 0x0101_0101_0101_0101,
            _ => {
                // xorshift64*
                state |= 1;
                state ^= state >> 12;
                state ^= state << 25;
                state ^= state >> 27;
                state.wrapping_mul(0x2545_F491_4F6C_DD1D)
            }
        };
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// How a store is closed before it is opened again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Arbitrary)]
pub enum Ending {
    /// Dropped: what was not flushed is gone.
    Drop,
    /// Closed: everything that was committed is flushed.
    Close,
    /// Closed while the write lease is held: the open layer is lost.
    CloseLeased,
}

/// One thing that is done to a timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Arbitrary)]
#[allow(missing_docs, reason = "the fields are choices of what the variant names")]
pub enum Op {
    /// Puts an image.
    Put { key: KeyChoice, lsn: LsnStep, value: ValueChoice },
    /// Puts a delta.
    PutDelta { key: KeyChoice, lsn: LsnStep, value: ValueChoice },
    /// Puts a delta that needs nothing older.
    PutWillInit { key: KeyChoice, lsn: LsnStep, value: ValueChoice },
    /// Puts a value that is too long.
    PutTooLong { key: KeyChoice, lsn: LsnStep },
    /// Puts values under neighbouring keys at once; `shared`: the same bytes. `spoiled`: the last
    /// is refused, and so are all.
    PutBatch {
        key: KeyChoice,
        count: u8,
        lsn: LsnStep,
        value: ValueChoice,
        shared: bool,
        spoiled: bool,
    },
    /// Puts many deltas of one key.
    PutChain { key: KeyChoice, count: u16, value: ValueChoice },
    /// Puts an image under each of many neighbouring keys at one Lsn.
    PutRange { key: KeyChoice, count: u16, lsn: LsnStep, value: ValueChoice },
    /// Drops the key's block and all above it.
    DropBlocks { key: KeyChoice, lsn: LsnStep },
    /// Commits.
    Commit { lsn: LsnStep },
    /// Takes back what was not committed.
    Abort,
    /// Drops the write lease.
    DropLease,
    /// Rolls.
    Roll,
    /// Flushes.
    Flush,
    /// Closes and opens the store.
    Reopen { how: Ending },
    /// Holds a snapshot at an Lsn.
    Snapshot { lsn: LsnChoice },
    /// Holds one version of a key, or a copy of it.
    Detach { key: KeyChoice, lsn: LsnChoice, index: u8, copy: bool },
    /// Reads under a guard, then puts, commits, rolls and flushes, then looks at what was read.
    HoldGuard { key: KeyChoice, value: ValueChoice },
    /// Reads under everything that is held.
    CheckHeld,
    /// Lets go of something that is held.
    ReleaseHeld { which: u8 },
    /// Unpins a reader.
    Unpin { reader: u8 },
    /// Reads a key's versions through a reader.
    Read { reader: u8, key: KeyChoice, lsn: LsnChoice },
    /// Reads a page through redo.
    Page { reader: u8, key: KeyChoice, lsn: LsnChoice },
    /// Scans the objects from one to another.
    Scan { reader: u8, from: u8, to: u8, lsn: LsnChoice },
    /// Imports images of every `gap`th block; `abandoned`: it is not finished.
    ImportImages {
        key: KeyChoice,
        count: u8,
        gap: u8,
        lsn: LsnStep,
        value: ValueChoice,
        abandoned: bool,
    },
    /// Verifies all layer files.
    Verify,
    /// Merges layer files.
    Compact,
}
