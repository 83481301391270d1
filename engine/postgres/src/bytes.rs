//! Little-endian numbers out of byte slices of unchecked length.

/// Takes numbers and slices off the front of some bytes; `None` when they run out, and then nothing
/// is taken.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cursor<'a>(pub(crate) &'a [u8]);

impl<'a> Cursor<'a> {
    #[inline]
    pub(crate) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }

    #[inline]
    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>()?;
        self.0 = tail;
        Some(*head)
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    #[inline]
    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    #[inline]
    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// Three numbers at once, with one check for all of them.
    #[inline]
    pub(crate) fn u32s(&mut self) -> Option<[u32; 3]> {
        let bytes = self.array::<12>()?;
        let at = |at| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Some([at(0), at(4), at(8)])
    }

    #[inline]
    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// The number at `offset`; `None` behind the end.
#[inline]
pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Cursor(bytes.get(offset..)?).u16()
}

/// The number at `offset`; `None` behind the end.
#[inline]
pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Cursor(bytes.get(offset..)?).u32()
}

/// The number at `offset`; `None` behind the end.
#[inline]
pub(crate) fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Cursor(bytes.get(offset..)?).u64()
}
