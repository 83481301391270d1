//! Chain parts, the content of data blocks: the versions of one key that lie together.

use std::ops::Range;

use crate::layer_file::{
    format::footer::{array, u64_at},
    format::index_page::Place,
};
use crate::{Kind, Lsn, Result, VALUE_LEN_MAX, Value, reserve};

const PART_HEADER_LEN: usize = 8;
pub(crate) const ENTRY_LEN: usize = 16;
/// Parts and images start at multiples of it.
const ALIGN: usize = 8;
const KIND_BITS: u32 = 2;
const _: () = assert!(VALUE_LEN_MAX < 1 << (u32::BITS - KIND_BITS));

/// What a value adds to a block besides its bytes, at most: a part's header, an entry, a gap.
pub(crate) const VALUE_OVERHEAD_MAX: usize = PART_HEADER_LEN + ENTRY_LEN + ALIGN;

/// The part that is being filled, at the end of a buffer.
///
/// Most keys have one version in a layer, so the room in front of the values is for one entry; when
/// there are more, the values move once, at the end.
#[derive(Debug, Default)]
pub(crate) struct PartBuilder {
    /// Where the part starts in the buffer.
    start: usize,
    entries: Vec<(Lsn, u32, u32)>,
}

impl PartBuilder {
    const VALUES: usize = PART_HEADER_LEN + ENTRY_LEN;

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn start(&self) -> usize {
        self.start
    }

    /// Oldest Lsn of the part.
    pub(crate) fn first_lsn(&self) -> Option<Lsn> {
        self.entries.first().map(|entry| entry.0)
    }

    /// How much longer the buffer will be at the end of the part.
    pub(crate) fn growth(&self) -> usize {
        ENTRY_LEN * self.entries.len().saturating_sub(1)
    }

    /// Makes room for so many entries more.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`]
    pub(crate) fn reserve(&mut self, more: usize) -> Result<()> {
        reserve(&mut self.entries, more, "the versions of a page")
    }

    pub(crate) fn push(&mut self, lsn: Lsn, value: Value<'_>, buffer: &mut Vec<u8>) {
        if self.entries.is_empty() {
            self.start = buffer.len();
            buffer.extend_from_slice(&[0; PartBuilder::VALUES]);
        }
        let bytes = value.bytes();
        debug_assert!(self.entries.last().is_none_or(|last| last.0 <= lsn), "in order of Lsn");
        debug_assert!(self.start <= buffer.len() && bytes.len() <= VALUE_LEN_MAX);
        if value.kind() == Kind::Image {
            pad(buffer, self.start);
        }
        let start = (buffer.len() - self.start) as u32;
        let len_and_kind = (bytes.len() as u32) << KIND_BITS | u32::from(value.kind().to_bits());
        self.entries.push((lsn, start, len_and_kind));
        buffer.extend_from_slice(bytes);
    }

    /// Takes the part out of the buffer; [`PartBuilder::put_back`] goes on with it elsewhere.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`]; the part is where it was.
    pub(crate) fn take_out(&self, buffer: &mut Vec<u8>, carried: &mut Vec<u8>) -> Result<()> {
        debug_assert!(!self.is_empty() && self.start <= buffer.len(), "a part at the buffer's end");
        carried.clear();
        reserve(carried, buffer.len() - self.start, "the versions of a page")?;
        carried.extend_from_slice(&buffer[self.start..]);
        buffer.truncate(self.start);
        Ok(())
    }

    pub(crate) fn put_back(&mut self, buffer: &mut Vec<u8>, carried: &[u8]) {
        debug_assert!(!self.is_empty(), "a part that was taken out");
        self.start = buffer.len();
        buffer.extend_from_slice(carried);
    }

    /// Completes the part and begins the next one.
    pub(crate) fn end(&mut self, buffer: &mut Vec<u8>) {
        assert!(!self.is_empty(), "a part has a version");
        let growth = self.growth();
        let values = self.start + PartBuilder::VALUES;
        if growth > 0 {
            let end = buffer.len();
            buffer.resize(end + growth, 0);
            buffer.copy_within(values..end, values + growth);
        }
        pad(buffer, self.start);
        let part = &mut buffer[self.start..];
        debug_assert!(part.len().is_multiple_of(ALIGN), "a part of {} bytes", part.len());
        let part_len = part.len() as u32;
        part[..4].copy_from_slice(&(self.entries.len() as u32).to_le_bytes());
        part[4..8].copy_from_slice(&part_len.to_le_bytes());
        let (room, _) = part[PART_HEADER_LEN..].as_chunks_mut::<ENTRY_LEN>();
        for (bytes, (lsn, start, len_and_kind)) in room.iter_mut().zip(self.entries.drain(..)) {
            bytes[..8].copy_from_slice(&lsn.0.to_le_bytes());
            bytes[8..12].copy_from_slice(&(start + growth as u32).to_le_bytes());
            bytes[12..].copy_from_slice(&len_and_kind.to_le_bytes());
        }
    }
}

/// Zeros up to the next multiple of 8 from `start`.
fn pad(buffer: &mut Vec<u8>, start: usize) {
    let len = buffer.len() - start;
    if !len.is_multiple_of(ALIGN) {
        buffer.resize(start + len.next_multiple_of(ALIGN), 0);
    }
}

/// A part as it lies in a block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part<'a> {
    entries: &'a [[u8; ENTRY_LEN]],
    bytes: &'a [u8],
}

impl Entry {
    /// Whether it may come behind a version of the same key: it is newer, or the page that a delta
    /// leads to.
    #[inline]
    pub(crate) fn may_follow(&self, before: &Entry) -> bool {
        before.lsn < self.lsn
            || before.lsn == self.lsn && before.kind != Kind::Image && self.kind == Kind::Image
    }
}

/// One version of a [`Part`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub(crate) lsn: Lsn,
    pub(crate) kind: Kind,
    /// Where its bytes are in the part.
    pub(crate) range: Range<usize>,
}

impl<'a> Part<'a> {
    /// The part that starts at `place` in the inflated payload `raw`; none if there is none.
    #[inline]
    pub(crate) fn parse(raw: &'a [u8], place: Place) -> Option<Part<'a>> {
        let rest = raw.get(place.part_start()..)?;
        let header = rest.first_chunk::<PART_HEADER_LEN>()?;
        let count = u32::from_le_bytes(array(header, 0)) as usize;
        let len = u32::from_le_bytes(array(header, 4)) as usize;
        let bytes = rest.get(..len)?;
        let entries_len = count.checked_mul(ENTRY_LEN)?;
        let entries = bytes.get(PART_HEADER_LEN..)?.get(..entries_len)?;
        (count > 0).then_some(Part { entries: entries.as_chunks().0, bytes })
    }

    /// Number of versions, at least one.
    #[inline]
    pub(crate) fn count(&self) -> usize {
        self.entries.len()
    }

    /// Length in the block.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Lsn of the oldest version.
    #[inline]
    pub(crate) fn first_lsn(&self) -> Lsn {
        self.entries.first().map_or(Lsn::INVALID, entry_lsn)
    }

    /// Number of versions at or below `lsn`.
    #[inline]
    pub(crate) fn count_at_or_below(&self, lsn: Lsn) -> usize {
        match self.entries.last() {
            Some(last) if entry_lsn(last) <= lsn => self.entries.len(),
            _ => self.entries.partition_point(|entry| entry_lsn(entry) <= lsn),
        }
    }

    pub(crate) fn lsn(&self, index: usize) -> Option<Lsn> {
        self.entries.get(index).map(entry_lsn)
    }

    /// Version `index`; none if its bytes are not in the part.
    #[inline]
    pub(crate) fn entry(&self, index: usize) -> Option<Entry> {
        let entry = self.entries.get(index)?;
        let start = u32::from_le_bytes(array(entry, 8)) as usize;
        let len_and_kind = u32::from_le_bytes(array(entry, 12));
        let end = start + (len_and_kind >> KIND_BITS) as usize;
        let kind = Kind::from_bits((len_and_kind & ((1 << KIND_BITS) - 1)) as u8)?;
        (end <= self.bytes.len()).then(|| Entry { lsn: entry_lsn(entry), kind, range: start..end })
    }

    /// The bytes of a version.
    #[inline]
    pub(crate) fn value(&self, entry: &Entry) -> &'a [u8] {
        &self.bytes[entry.range.clone()]
    }
}

#[inline]
fn entry_lsn(entry: &[u8; ENTRY_LEN]) -> Lsn {
    Lsn(u64_at(entry, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_round_trip() {
        let deltas: Vec<Vec<u8>> = (0..5).map(|n| vec![n; 3 * n as usize]).collect();
        let mut buffer = vec![0xEE; 16];
        let mut builder = PartBuilder::default();
        let mut starts = Vec::new();
        for count in [1, 2, 5] {
            starts.push(buffer.len());
            for (lsn, bytes) in deltas.iter().take(count).enumerate() {
                let value = match lsn {
                    3 => Value::Image(bytes),
                    _ => Value::Delta { bytes, will_init: lsn == 2 },
                };
                builder.push(Lsn(lsn as u64 + 10), value, &mut buffer);
            }
            assert_eq!(builder.first_lsn(), Some(Lsn(10)));
            let mut carried = Vec::new();
            builder.take_out(&mut buffer, &mut carried).unwrap();
            builder.put_back(&mut buffer, &carried);
            builder.end(&mut buffer);
            assert!(builder.is_empty());
        }
        for (start, count) in starts.into_iter().zip([1, 2, 5]) {
            let part = Part::parse(&buffer, Place::new(0, start)).unwrap();
            assert_eq!((part.count(), part.first_lsn()), (count, Lsn(10)));
            assert_eq!(part.count_at_or_below(Lsn(9)), 0);
            assert_eq!(part.count_at_or_below(Lsn(11)), count.min(2));
            for (index, bytes) in deltas.iter().enumerate().take(count) {
                let entry = part.entry(index).unwrap();
                assert_eq!(entry.lsn, Lsn(index as u64 + 10));
                assert_eq!(part.value(&entry), bytes);
                assert_eq!(entry.kind == Kind::Image, index == 3);
                assert!(index != 3 || entry.range.start.is_multiple_of(ALIGN));
            }
            assert_eq!(part.entry(count), None);
        }
    }

    #[test]
    fn lying_parts_are_refused() {
        let mut buffer = Vec::new();
        let mut builder = PartBuilder::default();
        builder.push(Lsn(1), Value::Image(&[1; 8]), &mut buffer);
        builder.end(&mut buffer);
        let place = Place::new(0, 0);
        let with = |at: usize, byte: u8| {
            let mut bytes = buffer.clone();
            bytes[at] = byte;
            bytes
        };
        assert!(Part::parse(&buffer, Place::new(0, 8)).is_none());
        assert!(Part::parse(&buffer, Place::new(0, 1 << 20)).is_none());
        assert!(Part::parse(&with(0, 0), place).is_none(), "no version");
        assert!(Part::parse(&with(0, 3), place).is_none(), "too many versions");
        assert!(Part::parse(&with(3, 255), place).is_none(), "far too many versions");
        assert!(Part::parse(&with(4, 40), place).is_none(), "too long");
        assert!(Part::parse(&with(4, 7), place).is_none(), "too short");
        for (at, byte) in [(8 + 8, 25), (8 + 11, 255), (8 + 12, 36), (8 + 15, 255), (8 + 12, 35)] {
            assert_eq!(Part::parse(&with(at, byte), place).unwrap().entry(0), None, "{at} {byte}");
        }
    }
}
