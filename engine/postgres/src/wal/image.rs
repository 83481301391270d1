//! [`ImageDecoder`]: from an image in a record to its page: inflate, and put the hole back.
//!
//! **Invariants:** a page is 8192 bytes; a failed restore is an error with the record's Lsn, and
//! the page's bytes are then unspecified. The one file that names lz4 and zstd.

use crate::{
    error::{Error, Result},
    layout::{PAGE_SIZE, Page},
    wal::{
        block::{BlockImage, Compression},
        pglz,
    },
};

/// Restores full-page images, with buffers that are allocated once.
#[derive(Default)]
pub struct ImageDecoder {
    /// Made at the first zstd image.
    zstd: Option<zstd::bulk::Decompressor<'static>>,
}

impl std::fmt::Debug for ImageDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImageDecoder").finish_non_exhaustive()
    }
}

impl ImageDecoder {
    /// A decoder that has allocated nothing yet.
    #[must_use]
    pub fn new() -> ImageDecoder {
        ImageDecoder::default()
    }

    /// Writes the page of `image` to all of `page`: inflated, with zeros for the hole, its Lsn not
    /// yet stamped.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the image is not that of a page.
    pub fn restore(&mut self, image: &BlockImage<'_>, page: &mut Page) -> Result<()> {
        let (hole_start, hole_len) =
            (usize::from(image.hole_offset), usize::from(image.hole_length));
        let hole_end = hole_start + hole_len;
        let wrong = |found: String| {
            let expected =
                format!("a page of {PAGE_SIZE} bytes with a hole of {hole_len} at {hole_start}");
            Error::corrupt(image.lsn, "page image", expected, found)
        };
        if hole_end > PAGE_SIZE {
            return Err(wrong("the hole ends behind it".to_owned()));
        }
        let packed_len = PAGE_SIZE - hole_len;
        if image.compression() == Compression::None {
            if image.bytes.len() != packed_len {
                return Err(wrong(format!("{} bytes", image.bytes.len())));
            }
            let (before, behind) = image.bytes.split_at(hole_start);
            page[..hole_start].copy_from_slice(before);
            page[hole_end..].copy_from_slice(behind);
        } else {
            self.inflate(image, &mut page[..packed_len]).map_err(wrong)?;
            page.copy_within(hole_start..packed_len, hole_end);
        }
        page[hole_start..hole_end].fill(0);
        Ok(())
    }

    /// Fills `target` from an image's bytes.
    fn inflate(
        &mut self,
        image: &BlockImage<'_>,
        target: &mut [u8],
    ) -> std::result::Result<(), String> {
        let len = match image.compression() {
            Compression::None => return Err("no compression".to_owned()),
            Compression::Pglz => {
                let filled = pglz::decompress(image.bytes, target);
                return filled.ok_or_else(|| "no pglz data of that length".to_owned());
            }
            Compression::Lz4 => lz4_flex::block::decompress_into(image.bytes, target)
                .map_err(|error| format!("lz4: {error}"))?,
            Compression::Zstd => self
                .zstd()?
                .decompress_to_buffer(image.bytes, target)
                .map_err(|error| format!("zstd: {error}"))?,
        };
        if len == target.len() { Ok(()) } else { Err(format!("{len} bytes inflated")) }
    }

    fn zstd(&mut self) -> std::result::Result<&mut zstd::bulk::Decompressor<'static>, String> {
        if self.zstd.is_none() {
            let made = zstd::bulk::Decompressor::new();
            self.zstd = Some(made.map_err(|error| format!("no zstd context: {error}"))?);
        }
        self.zstd.as_mut().ok_or_else(String::new)
    }
}

/// [`ImageDecoder::restore`] with a decoder of its own, for one image.
///
/// # Errors
/// [`Error::Corrupt`] if the image is not that of a page.
pub fn restore_image(image: &BlockImage<'_>, page: &mut Page) -> Result<()> {
    ImageDecoder::new().restore(image, page)
}
