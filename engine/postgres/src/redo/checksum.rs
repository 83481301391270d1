//! A page's checksum, as PostgreSQL writes it to disk (`storage/checksum_impl.h`): 32 FNV-1a sums
//! side by side, folded, with the block's number.

use crate::layout::{PAGE_SIZE, PD_CHECKSUM, PD_UPPER, Page};

const LANES: usize = 32;
const PRIME: u32 = 16_777_619;
/// What the sums start from; the numbers are PostgreSQL's.
const STARTS: [u32; LANES] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// Computes the checksum of a page; the one that it carries now does not count.
#[must_use]
pub fn page_checksum(page: &Page, block: u32) -> u16 {
    let mut page = *page;
    page[PD_CHECKSUM].fill(0);
    let mut sums = STARTS;
    let add = |sum: &mut u32, number: u32| {
        let mixed = *sum ^ number;
        *sum = mixed.wrapping_mul(PRIME) ^ (mixed >> 17);
    };
    for row in page.as_chunks::<{ 4 * LANES }>().0 {
        for (sum, number) in sums.iter_mut().zip(row.as_chunks().0) {
            add(sum, u32::from_le_bytes(*number));
        }
    }
    for _ in 0..2 {
        sums.iter_mut().for_each(|sum| add(sum, 0));
    }
    let sum = sums.iter().fold(block, |all, sum| all ^ sum);
    // Never zero, which a page without a checksum has.
    (sum % 65535 + 1) as u16
}

/// Writes the checksum into a page, or zero if the page was never initialized.
pub fn stamp_checksum(page: &mut Page, block: u32) {
    const _: () = assert!(PAGE_SIZE.is_multiple_of(4 * LANES));
    let is_new = page[PD_UPPER..PD_UPPER + 2] == [0, 0];
    let sum = if is_new { 0 } else { page_checksum(page, block) };
    page[PD_CHECKSUM].copy_from_slice(&sum.to_le_bytes());
}
