//! [`reserve`]: memory for a list that may grow long, asked for before the list is filled.

use crate::{Error, Result};

/// Makes room for `more` items, so that adding them allocates nothing. `what` names the list in the
/// error.
///
/// ```
/// use pagestrata_layers::{Error, reserve};
///
/// let mut list: Vec<u64> = Vec::new();
/// reserve(&mut list, 10, "an example")?;
/// assert!(list.capacity() >= 10);
/// assert!(matches!(reserve(&mut list, usize::MAX, "too much"), Err(Error::OutOfMemory { .. })));
/// # Ok::<(), Error>(())
/// ```
///
/// # Errors
/// [`Error::OutOfMemory`]; the list is as it was.
#[inline]
pub fn reserve<T>(list: &mut Vec<T>, more: usize, what: &'static str) -> Result<()> {
    match list.capacity() - list.len() >= more {
        true => Ok(()),
        false => grow(list, more, what),
    }
}

#[cold]
fn grow<T>(list: &mut Vec<T>, more: usize, what: &'static str) -> Result<()> {
    let bytes = list.len().saturating_add(more).saturating_mul(size_of::<T>());
    list.try_reserve(more).map_err(|_| Error::OutOfMemory { what, bytes })?;
    debug_assert!(list.capacity() - list.len() >= more, "room for {more}");
    Ok(())
}
