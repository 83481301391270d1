//! Compression of data blocks. The one place that knows the compressor.
//!
//! It relies on what zstd documents of its one-shot calls: `ZSTD_compress2` starts a new frame and
//! forgets an unfinished one, so that a context is good after a failure; `ZSTD_decompressDCtx`
//! writes no more than the room that it is given, and returns how much it wrote. Neither promises
//! to notice damage: a block's checksum is verified before it is inflated.

use std::{cell::RefCell, io};

use zstd::bulk;

/// What data blocks are compressed with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compression {
    /// Nothing: values can be borrowed straight from the file.
    None,
    /// Zstandard, each block for itself and only if it gets smaller by a sixteenth.
    Zstd {
        /// From 1, fast, to 22, small.
        level: i32,
    },
}

/// Compresses one block after the other with one context.
pub(crate) struct Compressor {
    context: bulk::Compressor<'static>,
    stored: Vec<u8>,
}

impl Compressor {
    /// None if nothing is to be compressed.
    pub(crate) fn new(compression: Compression) -> io::Result<Option<Compressor>> {
        match compression {
            Compression::None => Ok(None),
            Compression::Zstd { level } => {
                Ok(Some(Compressor { context: bulk::Compressor::new(level)?, stored: Vec::new() }))
            }
        }
    }

    /// The compressed form of `raw`; none if it is not smaller by a sixteenth, or there is no
    /// memory for it.
    pub(crate) fn compress(&mut self, raw: &[u8]) -> Option<&[u8]> {
        let stored_len_max = raw.len() - raw.len() / 16;
        if self.stored.len() < stored_len_max {
            // Without the memory for it the block stays as it is.
            self.stored.try_reserve(stored_len_max - self.stored.len()).ok()?;
            self.stored.resize(stored_len_max, 0);
        }
        // Nearly always the failure is that the result does not fit. Whatever it is, the block is
        // stored as it is.
        debug_assert!(stored_len_max <= raw.len(), "a block gets no larger");
        let room = &mut self.stored[..stored_len_max];
        let len = self.context.compress_to_buffer(raw, room).ok()?;
        (len < raw.len()).then(|| &self.stored[..len])
    }
}

thread_local! {
    /// A context takes about 150 KiB: one for each thread that reads compressed blocks.
    static INFLATER: RefCell<Option<bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Inflates `stored` into exactly `raw`; false if it is no compressed form of as many bytes.
pub(crate) fn inflate(stored: &[u8], raw: &mut [u8]) -> io::Result<bool> {
    INFLATER.with_borrow_mut(|slot| {
        let context = match slot {
            Some(context) => context,
            None => slot.insert(bulk::Decompressor::new()?),
        };
        let expected = raw.len();
        Ok(context.decompress_to_buffer(stored, raw).is_ok_and(|len| len == expected))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_gets_smaller_is_compressed() {
        assert!(Compressor::new(Compression::None).unwrap().is_none());
        let mut compressor = Compressor::new(Compression::Zstd { level: 1 }).unwrap().unwrap();
        let zeros = vec![0; 100_000];
        let stored = compressor.compress(&zeros).unwrap().to_vec();
        assert!(stored.len() < 1_000);
        let mut raw = vec![1; zeros.len()];
        assert!(inflate(&stored, &mut raw).unwrap());
        assert_eq!(raw, zeros);
        assert_eq!(compressor.compress(b""), None);
        let mut state = 1_u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .take(10_000)
        .collect();
        assert_eq!(compressor.compress(&noise), None);
        let again = compressor.compress(&zeros).map(<[u8]>::to_vec);
        assert_eq!(again, Some(stored), "a failure leaves nothing behind");
    }

    #[test]
    fn any_other_length_is_refused() {
        let mut compressor = Compressor::new(Compression::Zstd { level: 1 }).unwrap().unwrap();
        let stored = compressor.compress(&[7; 1000]).unwrap().to_vec();
        for len in [0, 1, 999, 1001] {
            assert!(!inflate(&stored, &mut vec![0; len]).unwrap(), "{len}");
        }
        assert!(!inflate(&stored[..stored.len() - 1], &mut [0; 1000]).unwrap());
        assert!(!inflate(b"", &mut [0; 1000]).unwrap());
        assert!(!inflate(b"no zstd", &mut [0; 1000]).unwrap());
    }
}
