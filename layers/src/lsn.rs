//! [`Lsn`]: a position in the log that orders all changes.

use std::{fmt, str::FromStr};

/// A 64-bit position in the log that orders all changes.
///
/// Printed and parsed as PostgreSQL does (`%X/%X`, `src/include/access/xlogdefs.h`): the upper and
/// the lower 32 bits in hexadecimal. Zero is no position ([`Lsn::INVALID`]).
///
/// ```
/// # use pagestrata_layers::Lsn;
/// let lsn: Lsn = "1/6EF8EC0".parse().unwrap();
/// assert_eq!(lsn, Lsn(0x1_06EF_8EC0));
/// assert_eq!(lsn.to_string(), "1/6EF8EC0");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// No position: no value may be put at it.
    pub const INVALID: Lsn = Lsn(0);
    /// Above every position.
    pub const MAX: Lsn = Lsn(u64::MAX);

    /// The next position, or [`Lsn::MAX`].
    #[must_use]
    #[inline]
    pub const fn next(self) -> Lsn {
        Lsn(self.0.saturating_add(1))
    }

    /// The position before, or zero.
    #[must_use]
    #[inline]
    pub const fn previous(self) -> Lsn {
        Lsn(self.0.saturating_sub(1))
    }

    /// Whether it is a position at all.
    #[must_use]
    #[inline]
    pub const fn is_valid(self) -> bool {
        self.0 != 0
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// A text that is no [`Lsn`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an Lsn: expected hexadecimal `X/Y` of at most 8 digits each, found {found:?}")]
pub struct ParseLsnError {
    found: String,
}

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Lsn, ParseLsnError> {
        let half = |digits: &str| match digits.len() {
            1..=8 if digits.bytes().all(|b| b.is_ascii_hexdigit()) => {
                u64::from_str_radix(digits, 16).ok()
            }
            _ => None,
        };
        let parsed =
            text.split_once('/').and_then(|(upper, lower)| Some(half(upper)? << 32 | half(lower)?));
        parsed.map(Lsn).ok_or_else(|| ParseLsnError { found: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        for lsn in [Lsn(0), Lsn(1), Lsn(0xFFFF_FFFF), Lsn(0x1_0000_0000), Lsn::MAX] {
            assert_eq!(lsn.to_string().parse(), Ok(lsn));
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "/", "1", "1/", "/1", "+1/2", "1/2/3", "0/123456789", "x/1", " 1/2"] {
            assert!(text.parse::<Lsn>().is_err(), "{text:?}");
        }
    }
}
