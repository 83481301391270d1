//! Statistics of reads: [`ReadStats`] of one or many reads, [`ReadPlan`] of a multi-page read.

use std::{fmt, iter::Sum, ops::AddAssign};

/// Statistics of a read, or of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ReadStats {
    /// Number of reads.
    pub reads: u64,
    /// Layers visited, in memory and in files.
    pub layers: u64,
    /// Versions found.
    pub versions: u64,
    /// Total length of the values, in bytes. They are borrowed in place unless they were inflated.
    pub value_bytes: u64,
    /// Blocks of files used, including index blocks.
    pub blocks: u64,
    /// Bytes of these blocks that were read, as stored: of a mapped, uncompressed block that was
    /// verified before, only the page's versions; otherwise the whole payload.
    pub block_bytes: u64,
    /// Bytes copied from files into memory; nothing is copied from mappings and caches.
    pub copied_bytes: u64,
    /// Bytes inflated.
    pub inflated_bytes: u64,
    /// How often a read that must not wait was missing something in memory.
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

/// The plan of a [`Guard::pages`](crate::Guard::pages) call. Displays as a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ReadPlan {
    /// Number of pages requested.
    pub keys: u64,
    /// Layers in the order in which they are visited.
    pub layers: Vec<PlannedLayer>,
}

/// A layer's part in a [`ReadPlan`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct PlannedLayer {
    /// Name of the layer; for a file, its file name.
    pub name: String,
    /// Why it is visited at this point.
    pub why: &'static str,
    /// Number of keys that it is visited for.
    pub keys: u64,
    /// Number of these keys that need no further layer.
    pub keys_ended: u64,
    /// Versions found in it.
    pub versions: u64,
    /// Blocks used, including blocks of its index.
    pub blocks: u64,
    /// Total length of their payloads as stored, in bytes.
    pub block_bytes: u64,
    /// Bytes read from its file this time; nothing is read from mappings and caches.
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
