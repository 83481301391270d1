//! Redo of generic records: `generic_redo` of `access/transam/generic_xlog.c`. A page's data is
//! pieces of it: where u16, length u16, bytes.

use crate::{
    bytes::Cursor,
    layout::PAGE_SIZE,
    redo::{
        change::Change,
        page::short,
        problem::{Checked, Problem},
    },
};

pub(super) fn generic(change: &mut Change<'_, '_>) -> Checked<()> {
    let mut data = Cursor(change.block.data);
    while data.len() > 0 {
        let (at, len) = (data.u16(), data.u16());
        let (Some(at), Some(len)) = (at.map(usize::from), len.map(usize::from)) else {
            return Err(short(change.block.data));
        };
        let bytes = data.take(len).ok_or_else(|| short(change.block.data))?;
        let target = change.page.0.get_mut(at..at + len).ok_or_else(|| {
            Problem::new("piece of a page", format_args!("within {PAGE_SIZE} bytes"), at + len)
        })?;
        target.copy_from_slice(bytes);
    }
    let (lower, upper) = (change.page.lower(), change.page.upper());
    let hole = change.page.0.get_mut(lower..upper);
    let found = format_args!("{lower}, {upper}");
    hole.ok_or_else(|| Problem::new("pd_lower, pd_upper", "in order", found))?.fill(0);
    change.stamp();
    Ok(())
}
