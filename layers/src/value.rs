//! [`Value`] and [`PageVersion`]: what a page was, or how it changed.

use crate::Lsn;

/// The longest value, in bytes.
pub const VALUE_LEN_MAX: usize = 16 << 20;

/// What is put under a key at an Lsn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Value<'a> {
    /// The whole page.
    Image(&'a [u8]),
    /// A change against an older state.
    Delta {
        /// The change, opaque to the engine.
        bytes: &'a [u8],
        /// Needs nothing older: redo starts from a fresh page.
        will_init: bool,
    },
}

impl<'a> Value<'a> {
    /// Its bytes.
    #[must_use]
    #[inline]
    pub fn bytes(&self) -> &'a [u8] {
        match *self {
            Value::Image(bytes) | Value::Delta { bytes, .. } => bytes,
        }
    }

    /// Its kind.
    #[must_use]
    #[inline]
    pub fn kind(&self) -> Kind {
        match *self {
            Value::Image(_) => Kind::Image,
            Value::Delta { will_init, .. } => Kind::Delta { will_init },
        }
    }
}

/// The kind of a [`PageVersion`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// The whole page.
    Image,
    /// A change against an older state.
    Delta {
        /// Needs nothing older.
        will_init: bool,
    },
}

impl Kind {
    /// Whether a reader need not look further back.
    #[must_use]
    #[inline]
    pub fn is_base(self) -> bool {
        matches!(self, Kind::Image | Kind::Delta { will_init: true })
    }

    /// The two bits that stand for it in memory and in layer files.
    #[must_use]
    #[inline]
    pub const fn to_bits(self) -> u8 {
        match self {
            Kind::Image => 0,
            Kind::Delta { will_init: false } => 1,
            Kind::Delta { will_init: true } => 2,
        }
    }

    /// From two bits; 3 stands for nothing.
    #[must_use]
    #[inline]
    pub const fn from_bits(bits: u8) -> Option<Kind> {
        // Not a table of four: reads pass here once a version, and a jump would wait for the
        // version's memory.
        match bits {
            0 => Some(Kind::Image),
            1 | 2 => Some(Kind::Delta { will_init: bits == 2 }),
            _ => None,
        }
    }
}

/// One value of one key at one Lsn, as a read returns it: borrowed, never copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageVersion<'g> {
    /// The Lsn it was put at.
    pub lsn: Lsn,
    /// Image or delta.
    pub kind: Kind,
    /// Its bytes.
    pub bytes: &'g [u8],
}

impl<'g> PageVersion<'g> {
    /// The value that was put.
    #[must_use]
    #[inline]
    pub fn value(&self) -> Value<'g> {
        match self.kind {
            Kind::Image => Value::Image(self.bytes),
            Kind::Delta { will_init } => Value::Delta { bytes: self.bytes, will_init },
        }
    }
}

/// How a layer ended its part of a walk back through a key's versions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WalkEnd {
    /// It gave the base: nothing older is needed.
    Base,
    /// A tombstone hides everything older.
    Dropped,
    /// Older layers have to be asked.
    Older,
}
