//! A block of a layer file: header, checksum, extent.

use crate::VALUE_LEN_MAX;
use crate::layer_file::{
    LayerId,
    format::footer::{array, encode_id},
};

/// Everything starts at a multiple of it.
pub(crate) const BLOCK_ALIGN: usize = 64;
/// A block occupies at least as much, so no two start in the same granule of this size.
pub(crate) const BLOCK_EXTENT_MIN: usize = 512;
/// The most that a block may claim to inflate to.
pub(crate) const RAW_LEN_MAX: usize = VALUE_LEN_MAX + (64 << 10);
pub(crate) const BLOCK_HEADER_LEN: usize = 16;
/// Length of the read of a data block of which nothing is known but where it begins: one of the
/// default size, with its header.
pub(crate) const DATA_GUESS: usize = (16 << 10) + BLOCK_EXTENT_MIN;

const TYPE: usize = 4;
const CODEC: usize = TYPE + 1;
const ZERO: usize = CODEC + 1;
const RAW_LEN: usize = ZERO + 2;
const STORED_LEN: usize = RAW_LEN + 4;
const _: () =
    assert!(STORED_LEN + 4 == BLOCK_HEADER_LEN && BLOCK_EXTENT_MIN.is_multiple_of(BLOCK_ALIGN));

/// What a block holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum BlockType {
    Data = 1,
    Index = 2,
    Tombstones = 3,
    Filter = 4,
    FilterTable = 5,
}

impl BlockType {
    pub(crate) fn from_byte(byte: u8) -> Option<BlockType> {
        match byte {
            1 => Some(BlockType::Data),
            2 => Some(BlockType::Index),
            3 => Some(BlockType::Tombstones),
            4 => Some(BlockType::Filter),
            5 => Some(BlockType::FilterTable),
            _ => None,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            BlockType::Data => "data block",
            BlockType::Index => "index block",
            BlockType::Tombstones => "tombstone block",
            BlockType::Filter => "filter block",
            BlockType::FilterTable => "table of the filter",
        }
    }
}

/// How a block's payload is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Codec {
    Raw = 0,
    Zstd = 1,
}

impl Codec {
    #[inline]
    pub(crate) fn from_byte(byte: u8) -> Option<Codec> {
        match byte {
            0 => Some(Codec::Raw),
            1 => Some(Codec::Zstd),
            _ => None,
        }
    }
}

/// A block's header without its checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BlockHeader {
    /// A [`BlockType`], if the block is sound.
    pub(crate) block_type: u8,
    /// A [`Codec`], if the block is sound.
    pub(crate) codec: u8,
    pub(crate) raw_len: u32,
    pub(crate) stored_len: u32,
}

impl BlockHeader {
    #[inline]
    pub(crate) fn parse(bytes: &[u8; BLOCK_HEADER_LEN]) -> BlockHeader {
        BlockHeader {
            block_type: bytes[TYPE],
            codec: bytes[CODEC],
            raw_len: u32::from_le_bytes(array(bytes, RAW_LEN)),
            stored_len: u32::from_le_bytes(array(bytes, STORED_LEN)),
        }
    }

    /// How much of the file the block occupies.
    pub(crate) fn extent(&self) -> usize {
        extent(self.stored_len as usize)
    }

    /// With a checksum of zero.
    fn encode(&self) -> [u8; BLOCK_HEADER_LEN] {
        let mut bytes = [0; BLOCK_HEADER_LEN];
        bytes[TYPE] = self.block_type;
        bytes[CODEC] = self.codec;
        bytes[RAW_LEN..STORED_LEN].copy_from_slice(&self.raw_len.to_le_bytes());
        bytes[STORED_LEN..].copy_from_slice(&self.stored_len.to_le_bytes());
        bytes
    }
}

/// How much of the file a block with a payload of `stored_len` bytes occupies.
pub(crate) fn extent(stored_len: usize) -> usize {
    (BLOCK_HEADER_LEN + stored_len).next_multiple_of(BLOCK_ALIGN).max(BLOCK_EXTENT_MIN)
}

/// Computes the checksums of one layer's blocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockSeal {
    /// The checksum of the layer's id.
    seed: u32,
}

impl BlockSeal {
    pub(crate) fn new(id: LayerId) -> BlockSeal {
        BlockSeal { seed: crc32c::crc32c(&encode_id(id)) }
    }

    /// The checksum that `block` should have if it is the one at `offset`.
    fn crc(&self, offset: u64, block: &[u8]) -> u32 {
        crc32c::crc32c_append(
            crc32c::crc32c_append(self.seed, &offset.to_le_bytes()),
            &block[TYPE..],
        )
    }

    /// Writes the header in front of the payload of `block`, which is as long as its extent.
    pub(crate) fn seal(&self, offset: u64, header: BlockHeader, block: &mut [u8]) {
        debug_assert_eq!(block.len(), header.extent());
        block[..BLOCK_HEADER_LEN].copy_from_slice(&header.encode());
        let crc = self.crc(offset, block);
        block[..TYPE].copy_from_slice(&crc.to_le_bytes());
    }

    /// The stored and the computed checksum, if they differ.
    pub(crate) fn mismatch(&self, offset: u64, block: &[u8]) -> Option<(u32, u32)> {
        let stored = u32::from_le_bytes(array(block, 0));
        let computed = self.crc(offset, block);
        // Planted for the damage tests and the fuzzer: damage goes unseen.
        let seen = !cfg!(planted_bug = "skip_checksum");
        (seen && stored != computed).then_some((stored, computed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_is_for_one_block_of_one_layer() {
        let id = LayerId { store: 1, timeline: 2, sequence: 3 };
        let seal = BlockSeal::new(id);
        let header = BlockHeader {
            block_type: BlockType::Data as u8,
            codec: Codec::Raw as u8,
            raw_len: 600,
            stored_len: 600,
        };
        let mut block = vec![7; header.extent()];
        seal.seal(64, header, &mut block);
        assert_eq!(BlockHeader::parse(&array(&block, 0)), header);
        assert_eq!(seal.mismatch(64, &block), None);
        assert!(seal.mismatch(128, &block).is_some(), "misdirected");
        let other = BlockSeal::new(LayerId { sequence: 4, ..id });
        assert!(other.mismatch(64, &block).is_some(), "of another layer");
        for bit in 0..block.len() * 8 {
            block[bit / 8] ^= 1 << (bit % 8);
            assert!(seal.mismatch(64, &block).is_some(), "bit {bit}");
            block[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn extents_are_aligned_and_not_tiny() {
        assert_eq!(extent(0), 512);
        assert_eq!(extent(496), 512);
        assert_eq!(extent(497), 576);
    }
}
