//! Workloads of updates: which key at which Lsn with which bytes, all from a seed.

use std::ops::RangeInclusive;

use pagestrata::{Key, Lsn, Result, Value, WriteLease};

use crate::{
    random::Random,
    reference::{Reference, ReferenceWriter},
};

/// Bytes that values are taken from. In the second-level cache, so that making a value costs next
/// to nothing.
const SOURCE_LEN: usize = 64 << 10;

/// An update stream: update `n` is at Lsn `first + n`.
#[derive(Clone, Debug)]
pub struct Updates {
    keys: Keys,
    first: Lsn,
    value_lens: RangeInclusive<usize>,
    source: Vec<u8>,
}

/// Where the keys of an update stream are.
#[derive(Clone, Debug)]
pub enum Keys {
    /// Blocks 0, 1, 2, ... of one object.
    Sequential {
        /// How many.
        count: usize,
    },
    /// These blocks of one object.
    Blocks(Vec<u32>),
}

/// The object of all updates.
pub const OBJECT: u128 = 0x0000_0663_0000_4005_0000_4010_0000_0000;
/// Records in a commit.
pub const BATCH: usize = 16;

impl Updates {
    /// `count` updates of `value_len` bytes, to blocks 0, 1, 2, ...
    #[must_use]
    pub fn sequential(seed: u64, count: usize, value_len: usize) -> Updates {
        Updates::new(seed, Keys::Sequential { count }, value_len..=value_len)
    }

    /// `count` updates of `value_len` bytes to random blocks below `blocks`.
    #[must_use]
    pub fn random(seed: u64, count: usize, blocks: u32, value_len: usize) -> Updates {
        Updates::mixed(seed, count, blocks, value_len..=value_len)
    }

    /// `count` updates of as many bytes as the range says, to random blocks below `blocks`.
    #[must_use]
    pub fn mixed(
        seed: u64,
        count: usize,
        blocks: u32,
        value_lens: RangeInclusive<usize>,
    ) -> Updates {
        let mut random = Random(seed);
        let keys = (0..count).map(|_| random.below(u64::from(blocks)) as u32).collect();
        Updates::new(seed, Keys::Blocks(keys), value_lens)
    }

    fn new(seed: u64, keys: Keys, value_lens: RangeInclusive<usize>) -> Updates {
        let source = Random(seed ^ 1).bytes(SOURCE_LEN + value_lens.end());
        Updates { keys, first: Lsn(16), value_lens, source }
    }

    /// How many updates there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.keys {
            Keys::Sequential { count } => *count,
            Keys::Blocks(blocks) => blocks.len(),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The key of update `n`.
    #[inline]
    #[must_use]
    pub fn key(&self, n: usize) -> Key {
        let block = match &self.keys {
            Keys::Sequential { .. } => n as u32,
            Keys::Blocks(blocks) => blocks[n],
        };
        Key::new(OBJECT, block)
    }

    /// The Lsn of update `n`.
    #[inline]
    #[must_use]
    pub fn lsn(&self, n: usize) -> Lsn {
        Lsn(self.first.0 + n as u64)
    }

    /// The Lsn of the last update.
    #[must_use]
    pub fn last_lsn(&self) -> Lsn {
        self.lsn(self.len() - 1)
    }

    /// The bytes of update `n`.
    #[inline]
    #[must_use]
    pub fn bytes(&self, n: usize) -> &[u8] {
        let start = n.wrapping_mul(40_503) % SOURCE_LEN;
        let (shortest, longest) = (*self.value_lens.start(), *self.value_lens.end());
        let len = shortest + start % (longest - shortest + 1);
        &self.source[start..start + len]
    }

    /// The value of update `n`: it needs nothing older.
    #[inline]
    #[must_use]
    pub fn value(&self, n: usize) -> Value<'_> {
        Value::Delta { bytes: self.bytes(n), will_init: true }
    }

    /// The last update of each block below `blocks`, if any.
    #[must_use]
    pub fn newest(&self, blocks: u32) -> Vec<Option<u32>> {
        let mut newest = vec![None; blocks as usize];
        for n in 0..self.len() {
            newest[self.key(n).block as usize] = Some(n as u32);
        }
        newest
    }

    /// Puts all of them through the engine, with a commit each [`BATCH`].
    ///
    /// # Errors
    /// Those of the engine.
    pub fn put_all(&self, lease: &mut WriteLease<'_>) -> Result<()> {
        self.commit_each(lease, BATCH)
    }

    /// As [`Updates::put_all`], with a commit each `records`, which is waited for.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn commit_each(&self, lease: &mut WriteLease<'_>, records: usize) -> Result<()> {
        let mut put = 0;
        while put < self.len() {
            let end = (put + records).min(self.len());
            for n in put..end {
                lease.put(self.key(n), self.lsn(n), self.value(n))?;
            }
            lease.commit(self.lsn(end - 1))?.wait()?;
            put = end;
        }
        Ok(())
    }

    /// As [`Updates::put_all`], each [`BATCH`] with one call.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn put_all_in_batches(&self, lease: &mut WriteLease<'_>) -> Result<()> {
        let mut batch = Vec::with_capacity(BATCH);
        for n in 0..self.len() {
            batch.push((self.key(n), self.lsn(n), self.value(n)));
            if batch.len() == BATCH || n + 1 == self.len() {
                lease.put_batch(&batch)?;
                lease.commit(self.lsn(n))?.wait()?;
                batch.clear();
            }
        }
        Ok(())
    }

    /// Puts all of them through the reference, with a commit each [`BATCH`].
    pub fn put_all_to_reference(&self, writer: &mut ReferenceWriter<'_>) {
        let mut put = 0;
        while put < self.len() {
            let end = (put + BATCH).min(self.len());
            for n in put..end {
                writer.put(self.key(n), self.lsn(n), self.value(n));
            }
            writer.commit(self.lsn(end - 1));
            put = end;
        }
    }

    /// A reference that holds all of them.
    #[must_use]
    pub fn reference(&self) -> Reference {
        let reference = Reference::new();
        self.put_all_to_reference(&mut reference.writer());
        reference
    }
}
