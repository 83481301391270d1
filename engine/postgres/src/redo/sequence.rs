//! Redo of sequence records: `seq_redo` of `commands/sequence.c`. The page is written anew: one
//! tuple, behind the 12 bytes of the main data that name the relation.

use crate::{
    layout::PAGE_SIZE,
    redo::{change::Change, page::short, problem::Checked},
};

const MAGIC: u32 = 0x1717;
/// Where the special space is.
const SPECIAL: usize = PAGE_SIZE - 8;
const RELATION_LEN: usize = 12;

pub(super) fn sequence(change: &mut Change<'_, '_>) -> Checked<()> {
    if change.record.info() & 0xF0 != 0 {
        return Err(change.unknown());
    }
    let main = change.record.main_data();
    let tuple = main.get(RELATION_LEN..).ok_or_else(|| short(main))?;
    change.page.init(size_of_val(&MAGIC));
    change.page.set_u32(SPECIAL, MAGIC);
    change.page.push_item(tuple)?;
    change.stamp();
    Ok(())
}
