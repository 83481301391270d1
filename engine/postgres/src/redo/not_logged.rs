//! [`unlogged_change`]: changes of a page that a server writes to disk and never logs.
//!
//! | page | what may differ from redo, and nothing else | why |
//! |---|---|---|
//! | of a sequence | `last_value` and `log_cnt`, 16 bytes of its tuple | the log is ahead of them |
//! | SP-GiST metapage | bytes 28..92, `lastUsedPages` | a cache of pages with free space |
//! | GiST leaf | the flag `F_TUPLES_DELETED` | redo of DELETE sets it, the server does not |
//! | visibility map | its header, if no bit is set on either side | making a map is not logged |
//!
//! Hints and free space, for which PostgreSQL has masking rules, are those of [`mask_page`]; a GiST
//! leaf and an SP-GiST metapage may differ in both ways at once. A sequence and a visibility map
//! may not: PostgreSQL's rules would clear every bit of a map.
//!
//! **Invariant:** a difference in any other byte is reported as one.

use crate::{
    bytes::{u16_at, u32_at},
    layout::{PAGE_HEADER_LEN, PAGE_SIZE, PD_CHECKSUM, PD_LOWER, PD_SPECIAL, PD_UPPER, Page},
    manager::ManagerId,
    redo::managers::{manager_of, mask_page},
    rel::{Fork, RelPage},
};

const SPGIST_META_FLAG: u16 = 1;
const SPGIST_MAGIC: u32 = 0xBA0B_ABEE;
/// Eight pairs of a block and its free space, behind the magic number.
const SPGIST_LAST_USED: std::ops::Range<usize> = 28..92;

const GIST_LEAF: u16 = 1;
const GIST_TUPLES_DELETED: u16 = 4;

const BRIN_SPECIAL: usize = PAGE_SIZE - 8;
/// What a page of a range map ends with, `BRIN_PAGETYPE_REVMAP`.
const BRIN_RANGE_MAP: [u8; 2] = [0x92, 0xF0];
/// A block and a number; zeros: none.
const BRIN_POINTER_LEN: usize = 6;

/// `last_value` and `log_cnt`, at the start of a sequence's tuple.
const SEQUENCE_STATE_LEN: usize = 16;
/// With `is_called`.
const SEQUENCE_TUPLE_LEN: usize = 17;
/// Where a heap tuple says where its columns start.
const TUPLE_HOFF: usize = 22;

/// A kind of change that a server makes on disk and does not log.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum UnloggedChange {
    /// `last_value` and `log_cnt` of a sequence: the log is ahead of them.
    SequenceState,
    /// The pages of an SP-GiST index to insert into next.
    SpGistLastUsedPages,
    /// The flag of a GiST leaf that tuples were deleted from it.
    GistTuplesDeleted,
    /// The header of a visibility map page without a set bit.
    EmptyMap,
}

/// Returns the unlogged change that explains all differences between a page as redo makes it and
/// as a server has it on disk.
///
/// Returns `None` if the pages differ in anything else, and also if they are equal by PostgreSQL's
/// masking rules ([`mask_page`]): compare masked pages first. Both pages may have any bytes;
/// checksums are not compared.
///
/// ```
/// # use pagestrata_postgres::{RelPage, UnloggedChange, unlogged_change};
/// let page: RelPage = "1663/5/16384/vm/0".parse()?;
/// let mut on_disk = [0; 8192];
/// on_disk[12..20].copy_from_slice(&[24, 0, 0, 32, 0, 32, 4, 32]); // initialized
/// assert_eq!(unlogged_change(page, &[0; 8192], &on_disk), Some(UnloggedChange::EmptyMap));
/// on_disk[100] = 1; // a set bit
/// assert_eq!(unlogged_change(page, &[0; 8192], &on_disk), None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub fn unlogged_change(of: RelPage, redone: &Page, on_disk: &Page) -> Option<UnloggedChange> {
    match of.rel.fork {
        Fork::Vm => (is_map_without_bits(redone) && is_map_without_bits(on_disk))
            .then_some(UnloggedChange::EmptyMap),
        Fork::Main => {
            let manager = manager_of(on_disk);
            if manager != manager_of(redone) {
                return None;
            }
            match manager {
                ManagerId::SEQUENCE => sequence(redone, on_disk),
                ManagerId::SPGIST if of.block == 0 => spgist_metapage(redone, on_disk),
                ManagerId::GIST => gist_leaf(of, redone, on_disk),
                _ => None,
            }
        }
        _ => None,
    }
}

/// Whether a page of a visibility map has no set bit: it was never written, or is initialized and
/// has zeros behind its header.
#[must_use]
pub fn is_map_without_bits(page: &Page) -> bool {
    let is_never_written = page.iter().all(|byte| *byte == 0);
    // An initialized page is all free space: `pd_lower` 24, `pd_upper` and `pd_special` 8192.
    let is_initialized = page[12..18] == [24, 0, 0, 32, 0, 32];
    is_never_written || is_initialized && page[PAGE_HEADER_LEN..].iter().all(|byte| *byte == 0)
}

/// Whether all differences are entries that `CREATE DATABASE` with strategy `wal_log` left out of
/// the log.
///
/// It logs each page of the copy as a standard page. Visibility maps and range maps of BRIN have
/// their entries where a standard page has free space, so PostgreSQL logs these pages as empty, and
/// recovers them so. `logged` must be that image. Entries of later records are on both sides: the
/// disk must have every entry that redo has.
#[must_use]
pub fn is_lost_in_copy(of: RelPage, logged: &Page, redone: &Page, on_disk: &Page) -> bool {
    let special = usize::from(u16_at(logged, PD_SPECIAL).unwrap_or_default());
    let is_map = match of.rel.fork {
        Fork::Vm => special == PAGE_SIZE,
        Fork::Main => special == BRIN_SPECIAL && logged[PAGE_SIZE - 2..] == BRIN_RANGE_MAP,
        _ => false,
    };
    let is_empty = logged[12..14] == [PAGE_HEADER_LEN as u8, 0] && logged[14..16] == logged[16..18];
    if !is_map || !is_empty || logged[PAGE_HEADER_LEN..special].iter().any(|byte| *byte != 0) {
        return false;
    }
    let contents = PAGE_HEADER_LEN..special;
    let is_more = match of.rel.fork {
        Fork::Vm => {
            let mut pairs = redone[contents.clone()].iter().zip(&on_disk[contents.clone()]);
            pairs.all(|(redone, on_disk)| redone & on_disk == *redone)
        }
        _ => {
            let of =
                |page: &Page| page[contents.clone()].as_chunks::<BRIN_POINTER_LEN>().0.to_vec();
            let pairs = of(redone).into_iter().zip(of(on_disk));
            pairs
                .into_iter()
                .all(|(redone, on_disk)| redone == on_disk || redone == [0; BRIN_POINTER_LEN])
        }
    };
    // What is behind the last whole pointer is never written.
    let rest = special - (special - PAGE_HEADER_LEN) % BRIN_POINTER_LEN;
    let compared = if of.rel.fork == Fork::Vm { special } else { rest };
    is_more && equal_without(redone, on_disk, &[PD_CHECKSUM, PAGE_HEADER_LEN..compared])
}

/// The bytes of a sequence's state on its page.
fn sequence_state(page: &Page) -> Option<std::ops::Range<usize>> {
    // One line pointer, and a tuple in one piece before the special space.
    let (lower, special) = (u16_at(page, PD_LOWER)?, usize::from(u16_at(page, PD_SPECIAL)?));
    let pointer = u32_at(page, PAGE_HEADER_LEN)?;
    let (offset, len) = ((pointer & 0x7FFF) as usize, (pointer >> 17) as usize);
    let is_normal = pointer >> 15 & 3 == 1;
    let first = offset.checked_add(usize::from(*page.get(offset + TUPLE_HOFF)?))?;
    let is_whole = offset + len <= special && first + SEQUENCE_TUPLE_LEN <= offset + len;
    let is_one =
        usize::from(lower) == PAGE_HEADER_LEN + 4 && offset >= usize::from(u16_at(page, PD_UPPER)?);
    (is_normal && is_whole && is_one).then_some(first..first + SEQUENCE_STATE_LEN)
}

fn sequence(redone: &Page, on_disk: &Page) -> Option<UnloggedChange> {
    let state =
        sequence_state(redone).filter(|state| Some(state) == sequence_state(on_disk).as_ref())?;
    equal_without(redone, on_disk, &[PD_CHECKSUM, state]).then_some(UnloggedChange::SequenceState)
}

fn spgist_metapage(redone: &Page, on_disk: &Page) -> Option<UnloggedChange> {
    let is_metapage = |page: &Page| {
        let flags = u16_at(page, usize::from(u16_at(page, PD_SPECIAL)?))?;
        (u32_at(page, PAGE_HEADER_LEN)? == SPGIST_MAGIC && flags == SPGIST_META_FLAG).then_some(())
    };
    is_metapage(redone).and(is_metapage(on_disk))?;
    let masked = |page: &Page| {
        let mut page = *page;
        mask_page(ManagerId::SPGIST, 0, &mut page);
        page
    };
    equal_without(&masked(redone), &masked(on_disk), &[SPGIST_LAST_USED])
        .then_some(UnloggedChange::SpGistLastUsedPages)
}

fn gist_leaf(of: RelPage, redone: &Page, on_disk: &Page) -> Option<UnloggedChange> {
    // `manager_of` has seen a special space of 16 bytes; the flags are 12 bytes into it.
    const FLAGS: usize = PAGE_SIZE - 16 + 12;
    let is_leaf = |page: &Page| page[FLAGS] & GIST_LEAF as u8 != 0;
    let masked = |page: &Page| {
        let mut page = *page;
        mask_page(ManagerId::GIST, of.block, &mut page);
        page[FLAGS] &= !(GIST_TUPLES_DELETED as u8);
        page
    };
    (is_leaf(redone) && is_leaf(on_disk) && masked(redone) == masked(on_disk))
        .then_some(UnloggedChange::GistTuplesDeleted)
}

/// Whether pages are equal outside of these ranges.
fn equal_without(a: &Page, b: &Page, ranges: &[std::ops::Range<usize>]) -> bool {
    let mut pairs = a.iter().zip(b).enumerate();
    pairs.all(|(at, (a, b))| a == b || ranges.iter().any(|range| range.contains(&at)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(text: &str) -> RelPage {
        text.parse().unwrap()
    }

    /// A page with a special space that ends with `id`, by the layout of `bufpage.h`.
    fn page_with(lower: u16, upper: u16, special: &[u8]) -> Page {
        let mut page = [0; PAGE_SIZE];
        let start = PAGE_SIZE - special.len();
        page[4..8].copy_from_slice(&77_u32.to_le_bytes());
        page[12..14].copy_from_slice(&lower.to_le_bytes());
        page[14..16].copy_from_slice(&upper.to_le_bytes());
        page[16..18].copy_from_slice(&(start as u16).to_le_bytes());
        page[18..20].copy_from_slice(&0x2004_u16.to_le_bytes());
        page[start..].copy_from_slice(special);
        page
    }

    /// Every byte whose change is the same kind of difference; the others have to be none.
    fn excused(of: RelPage, redone: &Page, on_disk: &Page, kind: UnloggedChange) -> Vec<usize> {
        let excuses = |at: &usize| {
            let mut other = *on_disk;
            other[*at] ^= 0x40;
            match unlogged_change(of, redone, &other) {
                Some(found) => {
                    assert_eq!(found, kind, "byte {at}");
                    true
                }
                None => false,
            }
        };
        (0..PAGE_SIZE).filter(excuses).collect()
    }

    #[test]
    fn of_a_sequence_only_two_columns_may_differ() {
        let of = page("1663/5/16384/main/0");
        // A tuple of 24 + 17 bytes, before 8 bytes of special space.
        let mut redone = page_with(28, 8136, &[0x17, 0x17, 0, 0, 0, 0, 0, 0]);
        redone[24..28].copy_from_slice(&(8136_u32 | 1 << 15 | 41 << 17).to_le_bytes());
        redone[8136 + 22] = 24;
        redone[8160] = 33;
        redone[8176] = 1;
        let mut on_disk = redone;
        (on_disk[8160], on_disk[8168]) = (1, 32);
        let kind = UnloggedChange::SequenceState;
        assert_eq!(unlogged_change(of, &redone, &on_disk), Some(kind));
        let found = excused(of, &redone, &on_disk, kind);
        assert_eq!(found, [vec![8, 9], (8160..8176).collect()].concat(), "is_called is not in it");
        // Of no other fork, and of no page that says that its tuple is elsewhere.
        assert_eq!(unlogged_change(page("1663/5/16384/init/0"), &redone, &on_disk), None);
        for (at, byte) in [(24, 0xFF), (26, 0xFF), (12, 32), (8136 + 22, 255)] {
            let (mut a, mut b) = (redone, on_disk);
            (a[at], b[at]) = (byte, byte);
            assert_eq!(unlogged_change(of, &a, &b), None, "byte {at}");
        }
    }

    #[test]
    fn of_an_spgist_metapage_only_the_last_used_pages_may_differ() {
        let of = page("1663/5/16384/main/0");
        let mut redone = page_with(92, 8184, &[1, 0, 0, 0, 0, 0, 0x82, 0xFF]);
        redone[24..28].copy_from_slice(&0xBA0B_ABEE_u32.to_le_bytes());
        let mut on_disk = redone;
        on_disk[28..36].fill(3);
        let kind = UnloggedChange::SpGistLastUsedPages;
        assert_eq!(unlogged_change(of, &redone, &on_disk), Some(kind));
        let found = excused(of, &redone, &on_disk, kind);
        // And what PostgreSQL's rules mask: Lsn, checksum, xid of the last pruning, free space.
        // Flags of the page are not among it in bit 0x40.
        let masked = [(0..10).collect(), (20..24).collect::<Vec<_>>()].concat();
        assert_eq!(found, [masked, (28..8184).collect()].concat());
        assert_eq!(unlogged_change(page("1663/5/16384/main/1"), &redone, &on_disk), None);
        let (mut a, mut b) = (redone, on_disk);
        (a[8184], b[8184]) = (4, 4);
        assert_eq!(unlogged_change(of, &a, &b), None, "a leaf has tuples there");
    }

    #[test]
    fn of_a_gist_leaf_one_flag_may_differ() {
        let of = page("1663/5/16384/main/3");
        let special =
            |flags: u8| [0, 0, 0, 0, 9, 0, 0, 0, 255, 255, 255, 255, flags, 0, 0x81, 0xFF];
        let mut redone = page_with(28, 8136, &special(1 | 4));
        redone[24..28].copy_from_slice(&(8136_u32 | 1 << 15 | 40 << 17).to_le_bytes());
        let mut on_disk = redone;
        on_disk[8188] &= !4;
        let kind = UnloggedChange::GistTuplesDeleted;
        assert_eq!(unlogged_change(of, &redone, &on_disk), Some(kind));
        assert_eq!(unlogged_change(of, &on_disk, &redone), Some(kind));
        let found = excused(of, &redone, &on_disk, kind);
        for at in (10..20).chain(24..28).chain(8136..8176).chain(8184..PAGE_SIZE) {
            assert!(!found.contains(&at), "byte {at}");
        }
        // The neighbouring flags: leaf, deleted.
        for flag in [1, 2] {
            let mut other = on_disk;
            other[8188] ^= flag;
            assert_eq!(unlogged_change(of, &redone, &other), None, "flag {flag}");
        }
        // An inner page has no such flag.
        let (mut a, mut b) = (redone, on_disk);
        (a[8188], b[8188]) = (4, 0);
        assert_eq!(unlogged_change(of, &a, &b), None);
    }

    #[test]
    fn of_a_visibility_map_only_bits_count() {
        let of = page("1663/5/16384/vm/0");
        let (zeros, empty) = ([0; PAGE_SIZE], page_with(24, 8192, &[]));
        let kind = UnloggedChange::EmptyMap;
        assert_eq!(unlogged_change(of, &zeros, &empty), Some(kind));
        assert_eq!(unlogged_change(of, &empty, &zeros), Some(kind));
        let found = excused(of, &zeros, &empty, kind);
        assert!(found.iter().all(|at| *at < 24) && !found.contains(&12), "{found:?}");
        for bit in [24 * 8, 8191 * 8 + 7, 5000 * 8 + 1] {
            let mut set = empty;
            set[bit / 8] |= 1 << (bit % 8);
            assert_eq!(unlogged_change(of, &zeros, &set), None, "bit {bit} on disk");
            assert_eq!(unlogged_change(of, &set, &zeros), None, "bit {bit} in the store");
        }
    }

    /// Bytes that can be changed on disk without more of a difference than the copy.
    fn lost(of: RelPage, logged: &Page, redone: &Page, on_disk: &Page, bit: u8) -> Vec<usize> {
        let is_lost = |at: &usize| {
            let mut other = *on_disk;
            other[*at] ^= bit;
            is_lost_in_copy(of, logged, redone, &other)
        };
        (0..PAGE_SIZE).filter(is_lost).collect()
    }

    #[test]
    fn a_copied_map_has_more_on_disk_and_nothing_else() {
        let of = page("1663/5/16384/vm/0");
        let logged = page_with(24, 8192, &[]);
        let (mut redone, mut on_disk) = (logged, logged);
        redone[4..8].copy_from_slice(&99_u32.to_le_bytes());
        redone[100] = 0b1100;
        on_disk[..8].copy_from_slice(&redone[..8]);
        on_disk[24..].fill(0xFF);
        assert!(is_lost_in_copy(of, &logged, &redone, &on_disk));
        let expected: Vec<_> = (8..10).chain(24..PAGE_SIZE).filter(|at| *at != 100).collect();
        assert_eq!(
            lost(of, &logged, &redone, &on_disk, 0b1000),
            expected,
            "a bit of redo has to stay"
        );
        // Not if the log has a bit, and of no other page.
        let mut other = logged;
        other[5000] = 1;
        assert!(!is_lost_in_copy(of, &other, &redone, &on_disk));
        assert!(!is_lost_in_copy(of, &[0; PAGE_SIZE], &redone, &on_disk));
        assert!(!is_lost_in_copy(page("1663/5/16384/main/0"), &logged, &redone, &on_disk));
    }

    #[test]
    fn a_copied_range_map_has_more_on_disk_and_nothing_else() {
        let of = page("1663/5/16384/main/1");
        let logged = page_with(24, 8184, &[0, 0, 0, 0, 0, 0, 0x92, 0xF0]);
        let (mut redone, mut on_disk) = (logged, logged);
        redone[30..36].copy_from_slice(&[0, 0, 3, 0, 7, 0]);
        on_disk[24..36].copy_from_slice(&[0, 0, 3, 0, 6, 0, 0, 0, 3, 0, 7, 0]);
        assert!(is_lost_in_copy(of, &logged, &redone, &on_disk));
        let expected: Vec<_> = (8..10).chain(24..30).chain(36..8184).collect();
        assert_eq!(
            lost(of, &logged, &redone, &on_disk, 1),
            expected,
            "a pointer of redo has to stay"
        );
        let regular = page_with(24, 8184, &[0, 0, 0, 0, 0, 0, 0x93, 0xF0]);
        assert!(!is_lost_in_copy(of, &regular, &redone, &on_disk));
        assert!(!is_lost_in_copy(of, &[0xFF; PAGE_SIZE], &redone, &on_disk));
    }

    proptest::proptest! {
        /// Pages from outside can have anything where offsets and lengths are.
        #[test]
        fn no_bytes_cause_a_panic(
            header in proptest::array::uniform32(proptest::num::u8::ANY),
            more in proptest::array::uniform32(proptest::num::u8::ANY),
            tail in proptest::array::uniform16(proptest::num::u8::ANY),
            id in proptest::sample::select(vec![0xFF80_u16, 0xFF81, 0xFF82, 0xF092, 0x1717]),
            special in proptest::sample::select(vec![8176_u16, 8184, 8192, 0, 65535]),
            fork in proptest::sample::select(vec!["main", "vm", "init"]),
        ) {
            let mut on_disk = [0; PAGE_SIZE];
            on_disk[..32].copy_from_slice(&header);
            on_disk[32..64].copy_from_slice(&more);
            on_disk[PAGE_SIZE - 16..].copy_from_slice(&tail);
            on_disk[16..18].copy_from_slice(&special.to_le_bytes());
            on_disk[PAGE_SIZE - 2..].copy_from_slice(&id.to_le_bytes());
            let of = page(&format!("1663/5/16384/{fork}/0"));
            let mut redone = on_disk;
            redone[40] ^= 1;
            let _ = unlogged_change(of, &redone, &on_disk);
            let _ = is_lost_in_copy(of, &on_disk, &redone, &on_disk);
            // Neither side is favored but where a map was copied.
            let (there, here) = (&on_disk, &redone);
            let both = [(here, there), (there, here)].map(|(a, b)| unlogged_change(of, a, b));
            proptest::prop_assert_eq!(both[0], both[1]);
        }
    }

    #[test]
    fn pages_of_other_kinds_are_never_excused() {
        let of = page("1663/5/16384/main/0");
        let (zeros, ones) = ([0; PAGE_SIZE], [0xFF; PAGE_SIZE]);
        let heap = page_with(24, 8192, &[]);
        let btree = page_with(24, 8176, &[0; 16]);
        for (a, b) in [(zeros, ones), (heap, zeros), (btree, heap), (ones, btree)] {
            assert_eq!(unlogged_change(of, &a, &b), None);
            assert_eq!(unlogged_change(of, &b, &a), None);
        }
    }
}
