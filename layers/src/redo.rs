//! [`Redo`]: applies deltas to a base image.

use crate::{Key, Kind, PageVersion};

/// Applies deltas to a base image, supplied by the embedder.
pub trait Redo {
    /// Makes `page`, which is empty, from the base image and the deltas above it, oldest first.
    /// Without a base, the first delta is a `will_init`: it starts from a fresh page.
    ///
    /// # Errors
    /// Whatever went wrong; the read fails with it.
    fn apply(
        &self,
        key: Key,
        base: Option<&[u8]>,
        deltas: &mut dyn Iterator<Item = PageVersion<'_>>,
        page: &mut Vec<u8>,
    ) -> RedoResult<()>;

    /// Makes several pages, for a read of many. Calls `done` once per page, with its index.
    ///
    /// By default the pages are made one by one. Override it when redo runs elsewhere and batching
    /// pays.
    fn apply_batch(
        &self,
        batch: &[Rebuild<'_>],
        page: &mut Vec<u8>,
        done: &mut dyn FnMut(usize, RedoResult<&[u8]>),
    ) {
        for (index, rebuild) in batch.iter().enumerate() {
            page.clear();
            let deltas = &mut rebuild.deltas.iter().copied();
            match self.apply(rebuild.key, rebuild.base, deltas, page) {
                Ok(()) => done(index, Ok(page)),
                Err(error) => done(index, Err(error)),
            }
        }
    }
}

/// The result of a redo.
pub type RedoResult<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// A page to make, for [`Redo::apply_batch`].
#[derive(Clone, Copy, Debug)]
pub struct Rebuild<'a> {
    /// Which page.
    pub key: Key,
    /// The image that it starts from; without one the first delta is a `will_init`.
    pub base: Option<&'a [u8]>,
    /// What is applied to it, oldest first.
    pub deltas: &'a [PageVersion<'a>],
}

impl<'a> Rebuild<'a> {
    /// Of versions from the base on.
    #[must_use]
    pub fn new(key: Key, versions: &'a [PageVersion<'a>]) -> Rebuild<'a> {
        match versions {
            [base, deltas @ ..] if base.kind == Kind::Image => {
                Rebuild { key, base: Some(base.bytes), deltas }
            }
            deltas => Rebuild { key, base: None, deltas },
        }
    }
}
