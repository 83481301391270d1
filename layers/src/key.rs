//! [`Key`] and [`KeyRange`]: which page.

use std::fmt;

/// Names one page: an object (a relation fork, a file, a volume) and a block of it.
///
/// Ordered by object, then block. On disk it is 20 bytes big-endian, so that byte order is sort
/// order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key {
    /// Which object.
    pub object: u128,
    /// Which page of it.
    pub block: u32,
}

impl Key {
    /// The lowest key.
    pub const MIN: Key = Key { object: 0, block: 0 };
    /// The highest key.
    pub const MAX: Key = Key { object: u128::MAX, block: u32::MAX };
    /// Length on disk, in bytes.
    pub const ENCODED_LEN: usize = 20;

    /// A key.
    #[must_use]
    pub const fn new(object: u128, block: u32) -> Key {
        Key { object, block }
    }

    /// The 20 bytes on disk.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Key::ENCODED_LEN] {
        let mut bytes = [0; Key::ENCODED_LEN];
        bytes[..16].copy_from_slice(&self.object.to_be_bytes());
        bytes[16..].copy_from_slice(&self.block.to_be_bytes());
        bytes
    }

    /// From the 20 bytes on disk.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Key::ENCODED_LEN]) -> Key {
        let (object, block) = bytes.split_at(16);
        Key {
            object: u128::from_be_bytes(object.try_into().expect("16 bytes")),
            block: u32::from_be_bytes(block.try_into().expect("4 bytes")),
        }
    }

    /// The next key in order; none after [`Key::MAX`].
    #[must_use]
    pub fn next(self) -> Option<Key> {
        match self.block.checked_add(1) {
            Some(block) => Some(Key { block, ..self }),
            None => Some(Key { object: self.object.checked_add(1)?, block: 0 }),
        }
    }
}

/// `object:block`, both in hexadecimal.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032X}:{:08X}", self.object, self.block)
    }
}

/// Keys from `start` to before `end`; without an `end`, to [`Key::MAX`] and with it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct KeyRange {
    /// The first key.
    pub start: Key,
    /// The first key behind the range; none: the range has no upper bound.
    pub end: Option<Key>,
}

impl KeyRange {
    /// Every key.
    pub const ALL: KeyRange = KeyRange { start: Key::MIN, end: None };

    /// From `first` to `last`, both in it.
    #[must_use]
    pub fn inclusive(first: Key, last: Key) -> KeyRange {
        KeyRange { start: first, end: last.next() }
    }

    /// Whether `key` is in it.
    #[must_use]
    pub fn contains(&self, key: Key) -> bool {
        self.start <= key && self.end.is_none_or(|end| key < end)
    }

    /// Whether no key is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.end.is_some_and(|end| end <= self.start)
    }
}

impl fmt::Display for KeyRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.end {
            Some(end) => write!(f, "{}..{end}", self.start),
            None => write!(f, "{}..", self.start),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_sort_as_keys_do() {
        let keys = [
            Key::MIN,
            Key::new(0, 1),
            Key::new(0, 256),
            Key::new(1, 0),
            Key::new(1 << 64, 7),
            Key::MAX,
        ];
        for pair in keys.windows(2) {
            assert!(pair[0] < pair[1] && pair[0].to_bytes() < pair[1].to_bytes());
        }
        for key in keys {
            assert_eq!(Key::from_bytes(&key.to_bytes()), key);
        }
    }

    #[test]
    fn ranges_are_half_open() {
        let range = KeyRange::inclusive(Key::new(1, 0), Key::new(1, u32::MAX));
        assert_eq!(range.end, Some(Key::new(2, 0)));
        assert!(range.contains(Key::new(1, u32::MAX)) && !range.contains(Key::new(2, 0)));
        assert!(KeyRange::inclusive(Key::MIN, Key::MAX).contains(Key::MAX));
    }
}
