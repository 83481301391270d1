//! Chains of version blocks and the values they speak of, as the candidates share them.

use pagestrata_layers::Lsn;

/// Where a value is in the arena, and how long it is.
#[derive(Clone, Copy, Default)]
pub(crate) struct At(u64);

/// Values one behind the other.
#[derive(Default)]
pub(crate) struct Values(Vec<u8>);

impl Values {
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn push(&mut self, value: &[u8]) -> At {
        let start = self.0.len() as u64;
        self.0.extend_from_slice(value);
        At(start << 24 | value.len() as u64)
    }

    pub(crate) fn get(&self, at: At) -> &[u8] {
        let start = (at.0 >> 24) as usize;
        &self.0[start..start + (at.0 as usize & 0xFF_FFFF)]
    }
}

/// One version: Lsn and value.
pub(crate) type Entry = (u64, At);

/// Blocks of 1, 3, 7, ... 63 versions, the newest block first; a block is a header and its entries.
#[derive(Default)]
pub(crate) struct Chains(Vec<Entry>);

/// Older block 32 bits, capacity 16 bits, length 16 bits.
fn header(older: u32, capacity: u64, len: u64) -> Entry {
    (u64::from(older) << 32 | capacity << 16 | len, At(0))
}

impl Chains {
    pub(crate) fn clear(&mut self) {
        self.0.clear();
        // Block 0 is none.
        self.0.push(header(0, 0, 0));
    }

    pub(crate) fn bytes(&self) -> usize {
        self.0.len() * size_of::<Entry>()
    }

    /// Adds the newest version of a chain; returns its newest block.
    pub(crate) fn push(&mut self, newest: u32, lsn: Lsn, at: At) -> u32 {
        let packed = self.0[newest as usize].0;
        let (capacity, len) = (packed >> 16 & 0xFFFF, packed & 0xFFFF);
        if len < capacity {
            self.0[newest as usize].0 += 1;
            self.0[newest as usize + 1 + len as usize] = (lsn.0, at);
            return newest;
        }
        let capacity = (capacity * 2 + 1).min(63);
        let block = self.0.len();
        self.0.push(header(newest, capacity, 1));
        self.0.push((lsn.0, at));
        self.0.resize(block + 1 + capacity as usize, (0, At(0)));
        block as u32
    }

    /// The entries of a block, oldest first, and the older block.
    pub(crate) fn block(&self, block: u32) -> (&[Entry], u32) {
        let packed = self.0[block as usize].0;
        let first = block as usize + 1;
        (&self.0[first..first + (packed & 0xFFFF) as usize], (packed >> 32) as u32)
    }

    /// The newest version.
    pub(crate) fn newest(&self, block: u32) -> Option<Entry> {
        self.block(block).0.last().copied()
    }

    /// Appends all versions of a chain to `out`, oldest first.
    pub(crate) fn collect(&self, newest: u32, out: &mut Vec<Entry>) {
        let (entries, older) = self.block(newest);
        if older != 0 {
            self.collect(older, out);
        }
        out.extend_from_slice(entries);
    }
}
