//! Header and footer of a layer file: where each field is, written and read in one place.

use std::path::Path;

use crate::layer_file::{LayerId, LayerKind, LayerSummary};
use crate::{Error, Key, KeyRange, Lsn, Result};

/// The format that this build writes. It reads version 1 too, which differs in having no filter.
pub(crate) const VERSION: u32 = 2;
pub(crate) const HEADER_LEN: usize = 64;
pub(crate) const FOOTER_LEN: usize = 192;

const HEADER_MAGIC: [u8; 8] = *b"PGSLAYER";
const FOOTER_MAGIC: [u8; 8] = *b"PGSLFOOT";

/// Fields that header and footer have at the same places.
mod at {
    pub(super) const MAGIC: usize = 0;
    pub(super) const VERSION: usize = MAGIC + 8;
    pub(super) const CRC: usize = VERSION + 4;
    pub(super) const ID: usize = CRC + 4;
    pub(super) const KIND: usize = ID + super::ID_LEN;
    pub(super) const END: usize = KIND + 1;
}
const ID_LEN: usize = 32;

mod footer_at {
    pub(super) const HEIGHT: usize = super::at::END;
    pub(super) const HAS_END: usize = HEIGHT + 1;
    pub(super) const ZERO: usize = HAS_END + 1;
    pub(super) const FILTER_PARTITIONS: usize = ZERO + 1;
    pub(super) const KEY_START: usize = FILTER_PARTITIONS + 4;
    pub(super) const KEY_END: usize = KEY_START + crate::Key::ENCODED_LEN;
    pub(super) const LSN_START: usize = KEY_END + crate::Key::ENCODED_LEN;
    pub(super) const LSN_END: usize = LSN_START + 8;
    pub(super) const ROOT: usize = LSN_END + 8;
    pub(super) const TOMBSTONES: usize = ROOT + 8;
    pub(super) const TOMBSTONE_COUNT: usize = TOMBSTONES + 8;
    pub(super) const KEYS: usize = TOMBSTONE_COUNT + 8;
    pub(super) const VERSIONS: usize = KEYS + 8;
    pub(super) const VALUE_BYTES: usize = VERSIONS + 8;
    pub(super) const BLOCKS: usize = VALUE_BYTES + 8;
    pub(super) const FILE_LEN: usize = BLOCKS + 8;
    pub(super) const DIGEST: usize = FILE_LEN + 8;
    pub(super) const END: usize = DIGEST + 16;
}

const _: () = assert!(at::CRC == 12 && at::ID == 16 && at::KIND == 48 && at::END < HEADER_LEN);
const _: () = assert!(footer_at::KEY_START == 56 && footer_at::LSN_START == 96);
const _: () = assert!(footer_at::FILE_LEN == 168 && footer_at::END == FOOTER_LEN);

/// All that a footer says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Footer {
    pub(crate) summary: LayerSummary,
    /// Levels of the index; none: no versions.
    pub(crate) height: u8,
    pub(crate) root_offset: u64,
    pub(crate) tombstones_offset: u64,
    /// Partitions of the filter, whose table ends where the footer begins; zero without a filter.
    pub(crate) filter_partitions: u32,
    pub(crate) blocks: u64,
}

/// Reads `N` bytes at a place known to be inside.
#[inline]
pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("as many bytes")
}

#[inline]
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

pub(crate) fn encode_id(id: LayerId) -> [u8; ID_LEN] {
    let mut bytes = [0; ID_LEN];
    bytes[..16].copy_from_slice(&id.store.to_le_bytes());
    bytes[16..24].copy_from_slice(&id.timeline.to_le_bytes());
    bytes[24..].copy_from_slice(&id.sequence.to_le_bytes());
    bytes
}

fn decode_id(bytes: &[u8; ID_LEN]) -> LayerId {
    LayerId {
        store: u128::from_le_bytes(array(bytes, 0)),
        timeline: u64_at(bytes, 16),
        sequence: u64_at(bytes, 24),
    }
}

fn encode_kind(kind: LayerKind) -> u8 {
    match kind {
        LayerKind::Delta => 0,
        LayerKind::Image { complete: false } => 1,
        LayerKind::Image { complete: true } => 2,
    }
}

fn decode_kind(byte: u8) -> Option<LayerKind> {
    match byte {
        0 => Some(LayerKind::Delta),
        1 => Some(LayerKind::Image { complete: false }),
        2 => Some(LayerKind::Image { complete: true }),
        _ => None,
    }
}

/// Puts magic, version, id, kind and, when everything else is in place, the checksum.
fn seal(bytes: &mut [u8], magic: [u8; 8], id: LayerId, kind: LayerKind) {
    bytes[at::MAGIC..at::VERSION].copy_from_slice(&magic);
    bytes[at::VERSION..at::CRC].copy_from_slice(&VERSION.to_le_bytes());
    bytes[at::ID..at::KIND].copy_from_slice(&encode_id(id));
    bytes[at::KIND] = encode_kind(kind);
    let crc = crc_around(bytes);
    bytes[at::CRC..at::ID].copy_from_slice(&crc.to_le_bytes());
}

fn crc_around(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..at::CRC]), &bytes[at::ID..])
}

/// Magic, then checksum, then version: a flipped bit in the version is a flipped bit.
fn check_seal(bytes: &[u8], magic: [u8; 8], path: &Path, offset: u64) -> Result<()> {
    let found: [u8; 8] = array(bytes, at::MAGIC);
    if found != magic {
        let (expected, found) = (magic.escape_ascii(), found.escape_ascii());
        return Err(Error::corrupt(path, offset, "magic of a layer file", expected, found));
    }
    let stored = u32::from_le_bytes(array(bytes, at::CRC));
    let crc = crc_around(bytes);
    if stored != crc {
        let (expected, found) = (format_args!("{stored:08X}"), format_args!("{crc:08X}"));
        return Err(Error::corrupt(path, offset, "checksum of a layer file", expected, found));
    }
    let version = u32::from_le_bytes(array(bytes, at::VERSION));
    if !(1..=VERSION).contains(&version) {
        let path = path.to_owned();
        return Err(Error::UnsupportedVersion { path, expected: VERSION, found: version });
    }
    Ok(())
}

fn decode_id_and_kind(bytes: &[u8], path: &Path, offset: u64) -> Result<(LayerId, LayerKind)> {
    let kind = decode_kind(bytes[at::KIND]).ok_or_else(|| {
        Error::corrupt(path, offset, "kind of a layer file", "0, 1 or 2", bytes[at::KIND])
    })?;
    Ok((decode_id(&array(bytes, at::ID)), kind))
}

pub(crate) fn encode_header(id: LayerId, kind: LayerKind) -> [u8; HEADER_LEN] {
    let mut bytes = [0; HEADER_LEN];
    seal(&mut bytes, HEADER_MAGIC, id, kind);
    bytes
}

pub(crate) fn decode_header(bytes: &[u8; HEADER_LEN], path: &Path) -> Result<(LayerId, LayerKind)> {
    check_seal(bytes, HEADER_MAGIC, path, 0)?;
    decode_id_and_kind(bytes, path, 0)
}

pub(crate) fn encode_footer(footer: &Footer) -> [u8; FOOTER_LEN] {
    let mut bytes = [0; FOOTER_LEN];
    let summary = &footer.summary;
    bytes[footer_at::HEIGHT] = footer.height;
    bytes[footer_at::FILTER_PARTITIONS..footer_at::KEY_START]
        .copy_from_slice(&footer.filter_partitions.to_le_bytes());
    bytes[footer_at::KEY_START..footer_at::KEY_END]
        .copy_from_slice(&summary.key_range.start.to_bytes());
    if let Some(end) = summary.key_range.end {
        bytes[footer_at::HAS_END] = 1;
        bytes[footer_at::KEY_END..footer_at::LSN_START].copy_from_slice(&end.to_bytes());
    }
    let numbers = [
        (footer_at::LSN_START, summary.lsn_range.start.0),
        (footer_at::LSN_END, summary.lsn_range.end.0),
        (footer_at::ROOT, footer.root_offset),
        (footer_at::TOMBSTONES, footer.tombstones_offset),
        (footer_at::TOMBSTONE_COUNT, summary.tombstones),
        (footer_at::KEYS, summary.keys),
        (footer_at::VERSIONS, summary.versions),
        (footer_at::VALUE_BYTES, summary.value_bytes),
        (footer_at::BLOCKS, footer.blocks),
        (footer_at::FILE_LEN, summary.file_len),
    ];
    for (at, number) in numbers {
        bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
    }
    bytes[footer_at::DIGEST..].copy_from_slice(&summary.digest.to_le_bytes());
    seal(&mut bytes, FOOTER_MAGIC, summary.id, summary.kind);
    bytes
}

/// `offset`: where the footer is, for errors.
pub(crate) fn decode_footer(bytes: &[u8; FOOTER_LEN], path: &Path, offset: u64) -> Result<Footer> {
    check_seal(bytes, FOOTER_MAGIC, path, offset)?;
    let (id, kind) = decode_id_and_kind(bytes, path, offset)?;
    let key = |at| Key::from_bytes(&array(bytes, at));
    let number = |at| u64_at(bytes, at);
    let key_end = match bytes[footer_at::HAS_END] {
        0 => None,
        _ => Some(key(footer_at::KEY_END)),
    };
    let summary = LayerSummary {
        id,
        kind,
        key_range: KeyRange { start: key(footer_at::KEY_START), end: key_end },
        lsn_range: Lsn(number(footer_at::LSN_START))..Lsn(number(footer_at::LSN_END)),
        file_len: number(footer_at::FILE_LEN),
        digest: u128::from_le_bytes(array(bytes, footer_at::DIGEST)),
        keys: number(footer_at::KEYS),
        versions: number(footer_at::VERSIONS),
        value_bytes: number(footer_at::VALUE_BYTES),
        tombstones: number(footer_at::TOMBSTONE_COUNT),
    };
    Ok(Footer {
        summary,
        height: bytes[footer_at::HEIGHT],
        root_offset: number(footer_at::ROOT),
        tombstones_offset: number(footer_at::TOMBSTONES),
        filter_partitions: u32::from_le_bytes(array(bytes, footer_at::FILTER_PARTITIONS)),
        blocks: number(footer_at::BLOCKS),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: LayerId = LayerId { store: 1 << 100, timeline: 2, sequence: 3 };

    fn footer() -> Footer {
        let summary = LayerSummary {
            id: ID,
            kind: LayerKind::Image { complete: true },
            key_range: KeyRange { start: Key::new(4, 5), end: Some(Key::new(6, 7)) },
            lsn_range: Lsn(8)..Lsn(9),
            file_len: 10,
            digest: 11 << 90,
            keys: 12,
            versions: 13,
            value_bytes: 14,
            tombstones: 15,
        };
        Footer {
            summary,
            height: 16,
            root_offset: 17,
            tombstones_offset: 18,
            filter_partitions: 19,
            blocks: 20,
        }
    }

    #[test]
    fn header_and_footer_round_trip_and_every_bit_counts() {
        let path = Path::new("layer");
        for kind in [LayerKind::Delta, LayerKind::Image { complete: false }, footer().summary.kind]
        {
            let mut header = encode_header(ID, kind);
            assert_eq!(decode_header(&header, path).unwrap(), (ID, kind));
            for bit in 0..HEADER_LEN * 8 {
                header[bit / 8] ^= 1 << (bit % 8);
                assert!(matches!(decode_header(&header, path), Err(Error::Corrupt(_))), "{bit}");
                header[bit / 8] ^= 1 << (bit % 8);
            }
        }
        let mut footer = footer();
        for end in [footer.summary.key_range.end, None] {
            footer.summary.key_range.end = end;
            let mut bytes = encode_footer(&footer);
            assert_eq!(decode_footer(&bytes, path, 0).unwrap(), footer);
            for bit in 0..FOOTER_LEN * 8 {
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert!(matches!(decode_footer(&bytes, path, 0), Err(Error::Corrupt(_))), "{bit}");
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    #[test]
    fn another_version_is_no_corruption() {
        let mut bytes = encode_header(ID, LayerKind::Delta);
        bytes[at::VERSION] += 1;
        let crc = crc_around(&bytes);
        bytes[at::CRC..at::ID].copy_from_slice(&crc.to_le_bytes());
        let error = decode_header(&bytes, Path::new("layer")).unwrap_err();
        assert!(matches!(error, Error::UnsupportedVersion { expected: 2, found: 3, .. }));
    }
}
