//! [`Buffer`]: memory that files are read into, aligned for direct I/O, and used again.

use std::sync::Arc;

use aligned_vec::{AVec, ConstAlign};
use parking_lot::Mutex;

use crate::{Error, Result, storage::DIRECT_ALIGN};

/// Longer ones are not kept for the next read.
const RETAINED_SECTORS: usize = 16;
/// How many of each length are kept.
const RETAINED_MAX: usize = 8;

/// Buffers that wait for the next read.
#[derive(Debug, Default)]
pub(crate) struct Buffers([Mutex<Vec<Bytes>>; RETAINED_SECTORS]);

/// Relied on, and documented by aligned-vec: the memory of a vector has the alignment that its type
/// says.
type Bytes = AVec<u8, ConstAlign<DIRECT_ALIGN>>;

/// A number of whole sectors; it goes back when it is dropped.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Bytes,
    buffers: Arc<Buffers>,
}

impl Buffers {
    /// At least `len` bytes of any content.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]
    pub(crate) fn take(self: &Arc<Self>, len: usize) -> Result<Buffer> {
        let sectors = len.div_ceil(DIRECT_ALIGN).max(1);
        let retained = self.0.get(sectors - 1).and_then(|retained| retained.lock().pop());
        let bytes = match retained {
            Some(bytes) => bytes,
            None => {
                const ZEROS: [u8; DIRECT_ALIGN] = [0; DIRECT_ALIGN];
                let mut bytes = Bytes::new(0);
                let (what, len) = ("a block of a layer file", sectors * DIRECT_ALIGN);
                bytes
                    .try_reserve_exact(len)
                    .map_err(|_| Error::OutOfMemory { what, bytes: len })?;
                // Its own `resize` writes byte by byte.
                (0..sectors).for_each(|_| bytes.extend_from_slice(&ZEROS));
                bytes
            }
        };
        assert!(bytes.len() == sectors * DIRECT_ALIGN, "whole sectors, as many as were asked for");
        debug_assert!(bytes.as_ptr().addr().is_multiple_of(DIRECT_ALIGN));
        Ok(Buffer { bytes, buffers: self.clone() })
    }
}

impl Buffer {
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(retained) = self.buffers.0.get(self.bytes.len() / DIRECT_ALIGN - 1) else {
            return;
        };
        let mut retained = retained.lock();
        debug_assert!(retained.len() <= RETAINED_MAX);
        if retained.len() < RETAINED_MAX {
            retained.push(std::mem::replace(&mut self.bytes, Bytes::new(0)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_long_enough_and_used_again() {
        let buffers = Arc::new(Buffers::default());
        for len in [0, 1, 4096, 4097, 16 << 10, 64 << 10, 1 << 20] {
            let mut buffer = buffers.take(len).unwrap();
            assert!(buffer.bytes().len() >= len && buffer.bytes().len() < len.max(1) + 4096);
            let at = buffer.bytes().as_ptr().addr();
            assert!(at.is_multiple_of(DIRECT_ALIGN));
            buffer.bytes_mut().fill(len as u8);
            drop(buffer);
            let again = buffers.take(len).unwrap().bytes().as_ptr().addr();
            assert!(again == at || len > 64 << 10, "the same memory");
        }
        let many: Vec<Buffer> = (0..3 * RETAINED_MAX).map(|_| buffers.take(1).unwrap()).collect();
        drop(many);
        assert_eq!(buffers.0[0].lock().len(), RETAINED_MAX);
    }
}
