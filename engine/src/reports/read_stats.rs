//! What reads do, told afterwards: [`ReadStats`] of each and of all, [`ReadPlan`] of many.

use std::{fmt, iter::Sum, ops::AddAssign};

/// What a read has done, or several have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ReadStats {
    /// Reads.
    pub reads: u64,
    /// Layers that were visited, in memory and files.
    pub layers: u64,
    /// Versions that were found.
    pub versions: u64,
    /// Their values, in bytes: borrowed from where they lie, but for what was inflated.
    pub value_bytes: u64,
    /// Blocks of files that were used, of indexes too.
    pub blocks: u64,
    /// What was read of them, as stored, in bytes: the whole payload, or of a mapped block that was
    /// verified before and is not compressed the one page's versions.
    pub block_bytes: u64,
    /// What was copied into memory from files, in bytes: nothing of what is mapped or cached.
    pub copied_bytes: u64,
    /// What was inflated, in bytes.
    pub inflated_bytes: u64,
    /// How often something was not in memory that a read which may not wait has needed.
    pub cold_fetches: u64,
}

impl AddAssign for ReadStats {
    fn add_assign(&mut self, other: ReadStats) {
        self.reads += other.reads;
        self.layers += other.layers;
        self.versions += other.versions;
        self.value_bytes += other.value_bytes;
        self.blocks += other.blocks;
        self.block_bytes += other.block_bytes;
        self.copied_bytes += other.copied_bytes;
        self.inflated_bytes += other.inflated_bytes;
        self.cold_fetches += other.cold_fetches;
    }
}

impl Sum for ReadStats {
    fn sum<I: Iterator<Item = ReadStats>>(all: I) -> ReadStats {
        all.fold(ReadStats::default(), |mut sum, one| {
            sum += one;
            sum
        })
    }
}

/// How [`Guard::pages`](crate::Guard::pages) reads some pages. Shown to people as a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ReadPlan {
    /// Pages that were asked for.
    pub keys: u64,
    /// Layers in the order in which they are visited.
    pub layers: Vec<PlannedLayer>,
}

/// A layer's part in a [`ReadPlan`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct PlannedLayer {
    /// Of a file its name.
    pub name: String,
    /// Why it is visited then.
    pub why: &'static str,
    /// For how many keys it is visited.
    pub keys: u64,
    /// How many of these need no other layer after it.
    pub keys_ended: u64,
    /// Versions that were found in it.
    pub versions: u64,
    /// Blocks that were used, of its index too.
    pub blocks: u64,
    /// Their payloads as stored, in bytes.
    pub block_bytes: u64,
    /// What was read from its file this time, in bytes: nothing of what is mapped or cached.
    pub read_bytes: u64,
}

impl fmt::Display for ReadPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} keys, {} layers", self.keys, self.layers.len())?;
        for layer in &self.layers {
            let PlannedLayer { name, why, keys, keys_ended, versions, blocks, .. } = layer;
            let PlannedLayer { block_bytes, read_bytes, .. } = layer;
            writeln!(f, "{name}: {why}")?;
            writeln!(
                f,
                "  {keys} keys, {keys_ended} of them done; {versions} versions; {blocks} blocks of {block_bytes} bytes, {read_bytes} read"
            )?;
        }
        Ok(())
    }
}
