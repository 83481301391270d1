//! What a commit says to the log, and back: versions and tombstones of one timeline, as the payload
//! of a log record.
//!
//! A commit is one record or several, the parts; only the last one commits. All numbers are
//! little-endian; a varint has seven bits in each byte, the lowest first, and the eighth says that
//! more follow.
//!
//! | part | bytes | |
//! |---|---|---|
//! | 0 | 8 | Lsn that was committed before this commit |
//! | 8 | 1 | bit 0: first part; bit 1: last part |
//! | 9 | 3 | zero |
//! | 12 | 4 | number of entries |
//! | 16 | 4 | length of the table of entries |
//! | 20 | | entries, in the order they were put |
//! | behind them | | bytes of the values, the last one's first: as they lie in an in-memory layer, so that they are written from there |
//!
//! | entry | |
//! |---|---|
//! | 1 byte | bits 0..2: kind, 0 image, 1 delta, 2 delta with `will_init`, 3 tombstone; bit 2: an object follows; bit 3: an Lsn follows; bit 4: the value is that of the version before |
//! | u32 | block; of a tombstone the first that is dropped |
//! | u128, bit 2 | object; else that of the entry before |
//! | varint, bit 3 | how much higher its Lsn is than that of the entry before, or for the first one than the Lsn committed before; else it is the same |
//! | varint, no tombstone, not bit 4 | length of the value |

use crate::{Key, Kind, Lsn, Value};

pub(crate) const HEAD_LEN: usize = 20;
const FIRST: u8 = 1;
const LAST: u8 = 2;
const TOMBSTONE_BITS: u8 = 3;
const OBJECT_FOLLOWS: u8 = 4;
const LSN_FOLLOWS: u8 = 8;
const SAME_VALUE: u8 = 16;

/// What was expected and what was found instead.
pub type Mismatch = (String, String);

/// Builds head and table of a part.
#[derive(Debug)]
pub(crate) struct PartEncoder {
    bytes: Vec<u8>,
    entries: u32,
    object: Option<u128>,
    lsn: Lsn,
}

/// The value of an entry that is encoded.
#[derive(Clone, Copy, Debug)]
pub(crate) enum EntryKind {
    /// A version, and the length of its value, unless it has the value of the version before.
    Version(Kind, Option<usize>),
    Tombstone,
}

impl PartEncoder {
    pub(crate) fn new(previous: Lsn) -> PartEncoder {
        let mut bytes = vec![0; HEAD_LEN];
        bytes[..8].copy_from_slice(&previous.0.to_le_bytes());
        PartEncoder { bytes, entries: 0, object: None, lsn: previous }
    }

    pub(crate) fn push(&mut self, key: Key, lsn: Lsn, kind: EntryKind) {
        debug_assert!(lsn >= self.lsn, "{lsn} comes after {}", self.lsn);
        let has_object = self.object.replace(key.object) != Some(key.object);
        let ahead = lsn.0 - std::mem::replace(&mut self.lsn, lsn).0;
        debug_assert!(self.entries > 0 || !matches!(kind, EntryKind::Version(_, None)));
        let (bits, len) = match kind {
            EntryKind::Version(kind, Some(len)) => (kind.to_bits(), Some(len)),
            EntryKind::Version(kind, None) => (kind.to_bits() | SAME_VALUE, None),
            EntryKind::Tombstone => (TOMBSTONE_BITS, None),
        };
        let flag = |bit, set: bool| if set { bit } else { 0 };
        self.bytes.push(bits | flag(OBJECT_FOLLOWS, has_object) | flag(LSN_FOLLOWS, ahead > 0));
        self.bytes.extend_from_slice(&key.block.to_le_bytes());
        if has_object {
            self.bytes.extend_from_slice(&key.object.to_le_bytes());
        }
        if ahead > 0 {
            push_varint(&mut self.bytes, ahead);
        }
        if let Some(len) = len {
            push_varint(&mut self.bytes, len as u64);
        }
        self.entries += 1;
    }

    pub(crate) fn table_len(&self) -> usize {
        self.bytes.len() - HEAD_LEN
    }

    /// Head and table.
    pub(crate) fn finish(mut self, first: bool, last: bool) -> Vec<u8> {
        debug_assert!(self.entries > 0 || self.table_len() == 0, "entries fill the table");
        let table_len = u32::try_from(self.table_len()).expect("parts are small");
        self.bytes[8] = if first { FIRST } else { 0 } | if last { LAST } else { 0 };
        self.bytes[12..16].copy_from_slice(&self.entries.to_le_bytes());
        self.bytes[16..20].copy_from_slice(&table_len.to_le_bytes());
        self.bytes
    }
}

fn push_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// One part of a commit, as it was read back.
#[derive(Clone, Copy, Debug)]
pub struct CommitPart<'r> {
    /// The Lsn that was committed before the commit.
    pub previous: Lsn,
    /// Whether the commit begins with it.
    pub is_first: bool,
    /// Whether it commits.
    pub is_last: bool,
    entries: u32,
    table: &'r [u8],
    values: &'r [u8],
}

/// What was put.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry<'r> {
    /// A version.
    Put(Key, Lsn, Value<'r>),
    /// Blocks were dropped, from this key's on, to the end of its object.
    Drop(Key, Lsn),
}

impl<'r> CommitPart<'r> {
    /// Reads a payload's head; what it says of lengths is checked.
    ///
    /// # Errors
    /// What was expected and what was found.
    pub fn decode(payload: &'r [u8]) -> Result<CommitPart<'r>, Mismatch> {
        let mismatch = |expected: &str, found: usize| (expected.to_owned(), found.to_string());
        let Some((head, rest)) = payload.split_at_checked(HEAD_LEN) else {
            return Err(mismatch("a head of 20 bytes", payload.len()));
        };
        if head[8] > FIRST | LAST || head[9..12] != [0; 3] {
            return Err(mismatch("flags of the first and last part", usize::from(head[8])));
        }
        let number = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("4 bytes"));
        let Some((table, values)) = rest.split_at_checked(number(16) as usize) else {
            return Err(mismatch("a table within the record", number(16) as usize));
        };
        Ok(CommitPart {
            previous: Lsn(u64::from_le_bytes(head[..8].try_into().expect("8 bytes"))),
            is_first: head[8] & FIRST != 0,
            is_last: head[8] & LAST != 0,
            entries: number(12),
            table,
            values,
        })
    }

    /// Its entries, in the order they were put. The first error is the last item.
    #[must_use]
    pub fn entries(&self) -> Entries<'r> {
        Entries {
            left: self.entries,
            table: self.table,
            values: self.values,
            value: None,
            object: None,
            lsn: self.previous,
        }
    }
}

/// The entries of a part; see [`CommitPart::entries`].
#[derive(Clone, Debug)]
pub struct Entries<'r> {
    left: u32,
    table: &'r [u8],
    /// The values of the entries that are left.
    values: &'r [u8],
    /// That of the last one.
    value: Option<&'r [u8]>,
    object: Option<u128>,
    lsn: Lsn,
}

impl<'r> Entries<'r> {
    #[inline]
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.table.split_first_chunk()?;
        self.table = rest;
        Some(*bytes)
    }

    #[inline]
    fn varint(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = self.take()?;
            let bits = u64::from(byte & 0x7F);
            if bits << shift >> shift != bits {
                return None;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    #[inline]
    fn entry(&mut self) -> Option<Entry<'r>> {
        let [bits] = self.take()?;
        if bits >= SAME_VALUE << 1 {
            return None;
        }
        let block = u32::from_le_bytes(self.take()?);
        if bits & OBJECT_FOLLOWS != 0 {
            self.object = Some(u128::from_le_bytes(self.take()?));
        }
        if bits & LSN_FOLLOWS != 0 {
            self.lsn = Lsn(self.lsn.0.checked_add(self.varint()?)?);
        }
        let key = Key { object: self.object?, block };
        let Some(kind) = Kind::from_bits(bits & 3) else {
            return (bits & SAME_VALUE == 0).then_some(Entry::Drop(key, self.lsn));
        };
        let bytes = if bits & SAME_VALUE != 0 {
            self.value?
        } else {
            let len = usize::try_from(self.varint()?).ok()?;
            let (rest, bytes) = self.values.split_at(self.values.len().checked_sub(len)?);
            self.values = rest;
            bytes
        };
        self.value = Some(bytes);
        let value = match kind {
            Kind::Image => Value::Image(bytes),
            Kind::Delta { will_init } => Value::Delta { bytes, will_init },
        };
        Some(Entry::Put(key, self.lsn, value))
    }
}

impl<'r> Iterator for Entries<'r> {
    type Item = Result<Entry<'r>, Mismatch>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            if self.table.is_empty() && self.values.is_empty() {
                return None;
            }
            let found = format!("{} and {}", self.table.len(), self.values.len());
            (self.table, self.values) = (&[], &[]);
            return Some(Err(("no bytes behind the last entry and value".to_owned(), found)));
        }
        self.left -= 1;
        Some(self.entry().ok_or_else(|| {
            let found = format!("{} more, in {} bytes", self.left + 1, self.table.len());
            (self.left, self.table, self.values) = (0, &[], &[]);
            ("an entry".to_owned(), found)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_round_trip_and_too_long_ones_are_refused() {
        fn entries(table: &[u8]) -> Entries<'_> {
            Entries { left: 0, table, values: &[], value: None, object: None, lsn: Lsn(0) }
        }
        for number in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut bytes = Vec::new();
            push_varint(&mut bytes, number);
            assert_eq!(entries(&bytes).varint(), Some(number));
            bytes.pop();
            assert_eq!(entries(&bytes).varint(), None);
        }
        let too_long = [&[0xFF; 9][..], &[2]].concat();
        assert_eq!(entries(&too_long).varint(), None);
        assert_eq!(entries(&[0x80; 11]).varint(), None);
    }
}
