//! Files with right checksums and wrong content: reading one gives errors or other answers, but no
//! panic, no endless loop and no allocation beyond the block cap.

use std::{cell::Cell, path::Path, sync::Arc};

use crate::layer_file::{
    CachedBlock, Compression, LayerFile, LayerId, LayerKind, LayerWriter, ReadKind, ReadScratch,
    Tombstone, WriterOptions,
    format::block::{BLOCK_HEADER_LEN, BlockHeader, BlockSeal, BlockType, Codec, RAW_LEN_MAX},
    format::chain::PartBuilder,
    format::footer::{
        self, FOOTER_LEN, Footer, HEADER_LEN, array, decode_footer, encode_footer, encode_header,
    },
    format::index_page::{PageBuilder, Place, Row},
};
use crate::{Error, Key, KeyRange, Lsn, Result, Value, testing::SimulatedStorage};

const ID: LayerId = LayerId { store: 3, timeline: 2, sequence: 1 };

/// Remembers the most that was asked for at once.
#[derive(Default)]
struct PeakScratch(Cell<usize>);

impl ReadScratch for PeakScratch {
    fn kind(&self) -> ReadKind<'_> {
        ReadKind::Wait
    }

    fn keep(&self, _: Arc<CachedBlock>) -> &CachedBlock {
        unreachable!("the file is mapped")
    }

    fn space(&self, len: usize) -> Result<&mut [u8]> {
        self.0.set(self.0.get().max(len));
        assert!(len <= RAW_LEN_MAX, "{len}");
        if len > 1 << 20 {
            return Err(Error::OutOfMemory { what: "a test", bytes: len });
        }
        Ok(Vec::leak(vec![0; len]))
    }
}

fn open(bytes: Vec<u8>) -> Result<LayerFile> {
    let path = Path::new("layer");
    LayerFile::open(&SimulatedStorage::of_files([(path.to_owned(), bytes)]), path, None)
}

/// Header, blocks, and a footer changed as wanted.
fn file_of(blocks: &[Vec<u8>], change: impl FnOnce(&mut Footer)) -> Vec<u8> {
    let mut bytes = encode_header(ID, LayerKind::Delta).to_vec();
    bytes.extend(blocks.iter().flatten());
    let summary = super::LayerSummary {
        id: ID,
        kind: LayerKind::Delta,
        key_range: KeyRange::ALL,
        lsn_range: Lsn(1)..Lsn(100),
        file_len: (bytes.len() + FOOTER_LEN) as u64,
        digest: xxhash_rust::xxh3::xxh3_128(&bytes),
        keys: 1,
        versions: 1,
        value_bytes: 0,
        tombstones: 0,
    };
    let blocks = blocks.len() as u64;
    let mut footer = Footer {
        summary,
        height: 1,
        root_offset: 0,
        tombstones_offset: 0,
        filter_partitions: 0,
        blocks,
    };
    change(&mut footer);
    bytes.extend_from_slice(&encode_footer(&footer));
    bytes
}

fn block(
    offset: u64,
    block_type: BlockType,
    codec: Codec,
    raw_len: usize,
    stored: &[u8],
) -> Vec<u8> {
    let header = BlockHeader {
        block_type: block_type as u8,
        codec: codec as u8,
        raw_len: raw_len as u32,
        stored_len: stored.len() as u32,
    };
    let mut block = vec![0; BLOCK_HEADER_LEN];
    block.extend_from_slice(stored);
    block.resize(header.extent(), 0);
    BlockSeal::new(ID).seal(offset, header, &mut block);
    block
}

fn page(offset: u64, level: u8, rows: &[(u32, u64, Place)]) -> Vec<u8> {
    let mut builder = PageBuilder::new(level);
    for &(number, lsn, place) in rows {
        assert!(builder.push(&Row { key: Key::new(0, number), lsn: Lsn(lsn), place }));
    }
    let mut payload = Vec::new();
    builder.write(&mut payload);
    block(offset, BlockType::Index, Codec::Raw, payload.len(), &payload)
}

const FIRST: u64 = HEADER_LEN as u64;

/// Reads everything in every way. Whether all of it went well.
fn exhaust(file: &LayerFile, keys: impl Iterator<Item = Key>) -> bool {
    let space = PeakScratch::default();
    let mut sound = true;
    for key in keys {
        for lsn in [1, 5, u64::MAX] {
            sound &= file.versions(key, Lsn(lsn), Lsn(0), &space, &mut |_| ()).is_ok();
        }
        sound &= file.contains(key).is_ok();
    }
    sound &= file.keys_from(Key::MIN).is_ok_and(|mut keys| keys.all(|key| key.is_ok()));
    sound &= file.tombstones().all(|tombstone| tombstone.is_ok());
    sound &= file.scan(Key::MIN).is_ok_and(|mut scan| {
        loop {
            match scan.advance() {
                Ok(true) => assert!(scan.current().is_some()),
                Ok(false) => break true,
                Err(_) => break !matches!(scan.advance(), Ok(false)),
            }
        }
    });
    file.verify().is_ok() && sound
}

#[test]
fn a_bomb_is_refused_before_it_is_inflated() {
    let raw = vec![0; 1 << 20];
    let mut compressor = crate::compress::Compressor::new(Compression::Zstd { level: 1 });
    let stored = compressor.as_mut().unwrap().as_mut().unwrap().compress(&raw).unwrap().to_vec();
    let second = FIRST + 512;
    for raw_len in [1000, (1 << 20) - 1, (1 << 20) + 1, RAW_LEN_MAX + 1, u32::MAX as usize] {
        let blocks = [
            block(FIRST, BlockType::Data, Codec::Zstd, raw_len, &stored),
            page(second, 0, &[(0, 1, Place::new(FIRST, 0))]),
        ];
        assert_eq!(blocks[0].len(), 512);
        let file = open(file_of(&blocks, |footer| footer.root_offset = second)).unwrap();
        let space = PeakScratch::default();
        let read = file.versions(Key::MIN, Lsn(9), Lsn(0), &space, &mut |_| ());
        let within_cap = raw_len <= RAW_LEN_MAX;
        let refused = match read {
            Err(Error::Corrupt(corruption)) => corruption.offset == FIRST,
            Err(Error::OutOfMemory { .. }) => within_cap,
            _ => false,
        };
        assert!(refused, "{raw_len}");
        assert_eq!(space.0.get(), if within_cap { raw_len } else { 0 });
        assert!(!exhaust(&file, [Key::MIN].into_iter()));
    }
}

#[test]
fn an_index_that_leads_in_circles_ends() {
    let second = FIRST + 512;
    let place = |offset| Place::new(offset, 0);
    // To itself, to each other, to nowhere, to the header, to the wrong level, to itself as data.
    let cases: Vec<Vec<Vec<u8>>> = vec![
        vec![page(FIRST, 1, &[(0, 1, place(FIRST))])],
        vec![page(FIRST, 1, &[(0, 1, place(second))]), page(second, 1, &[(0, 1, place(FIRST))])],
        vec![page(FIRST, 1, &[(0, 1, place(1 << 40)), (1, 1, place(0))])],
        vec![page(FIRST, 1, &[(0, 1, place(second))]), page(second, 2, &[(0, 1, place(FIRST))])],
        vec![page(FIRST, 1, &[(0, 1, place(second))]), page(second, 0, &[(0, 1, place(FIRST))])],
        // Many rows, all to the same page; its rows all to the same part.
        vec![
            page(FIRST, 1, &std::array::from_fn::<_, 15, _>(|row| (row as u32, 1, place(second)))),
            page(second, 0, &[(0, 3, place(FIRST)), (0, 2, place(FIRST)), (0, 1, place(FIRST))]),
        ],
    ];
    for (number, blocks) in cases.iter().enumerate() {
        let bytes = file_of(blocks, |footer| (footer.root_offset, footer.height) = (FIRST, 2));
        let file = open(bytes).unwrap();
        assert!(!exhaust(&file, (0..5).map(|block| Key::new(0, block))), "case {number}");
    }
    for (height, root) in [(0, FIRST), (3, FIRST), (17, FIRST), (255, FIRST), (2, 0), (2, u64::MAX)]
    {
        let bytes = file_of(&cases[0], |footer| {
            (footer.root_offset, footer.height) = (root, height);
        });
        assert!(matches!(open(bytes), Err(Error::Corrupt(_))), "{height} {root}");
    }
}

/// Of two versions at one Lsn the second is the page that the first leads to; anything else is out
/// of order.
#[test]
fn versions_out_of_order_are_not_scanned() {
    let (delta, image) = (Value::Delta { bytes: b"x", will_init: false }, Value::Image(b"page"));
    let cases =
        [(delta, delta, false), (image, image, false), (image, delta, false), (delta, image, true)];
    for (third, fourth, is_sound) in cases {
        let mut payload = Vec::new();
        let mut part = PartBuilder::default();
        for (lsn, value) in [(2, delta), (4, third), (4, fourth)] {
            part.push(Lsn(lsn), value, &mut payload);
        }
        part.end(&mut payload);
        let second = FIRST + 512;
        let blocks = [
            block(FIRST, BlockType::Data, Codec::Raw, payload.len(), &payload),
            page(second, 0, &[(0, 2, Place::new(FIRST, 0))]),
        ];
        let file = open(file_of(&blocks, |footer| footer.root_offset = second)).unwrap();
        let mut scan = file.scan(Key::MIN).unwrap();
        assert!(scan.advance().unwrap() && scan.advance().unwrap());
        assert_eq!(scan.advance().is_ok(), is_sound);
        assert!(!scan.advance().unwrap(), "it stands at the end");
    }
}

#[test]
fn a_footer_of_another_file_is_refused() {
    let blocks = [page(FIRST, 0, &[(0, 1, Place::new(FIRST, 0))])];
    let changes: [fn(&mut Footer); 3] = [
        |footer| footer.summary.id.sequence += 1,
        |footer| footer.summary.kind = LayerKind::Image { complete: true },
        |footer| footer.summary.file_len += 64,
    ];
    for change in changes {
        let bytes = file_of(&blocks, |footer| {
            footer.root_offset = FIRST;
            change(footer);
        });
        assert!(matches!(open(bytes), Err(Error::Corrupt(_))));
    }
    assert!(open(file_of(&blocks, |footer| footer.root_offset = FIRST)).is_ok());
}

#[test]
fn a_footer_that_lies_about_tombstones_is_refused() {
    for (offset, count) in [(FIRST, 1), (FIRST, u64::MAX), (u64::MAX, 1), (0, 1 << 60), (64, 1024)]
    {
        let blocks = [page(FIRST, 0, &[(0, 1, Place::new(FIRST, 0))])];
        let bytes = file_of(&blocks, |footer| {
            footer.root_offset = FIRST;
            (footer.tombstones_offset, footer.summary.tombstones) = (offset, count);
        });
        assert!(matches!(open(bytes), Err(Error::Corrupt(_))), "{offset} {count}");
    }
}

fn written(compression: Compression) -> Vec<u8> {
    let storage = SimulatedStorage::new();
    let options = WriterOptions { block_size_target_bytes: 1 << 10, compression };
    let path = Path::new("layer");
    let mut writer = LayerWriter::create(&storage, path, ID, LayerKind::Delta, options).unwrap();
    for number in 0..600 {
        let key = Key::new(u128::from(number / 400), number / 2);
        let bytes = [number as u8; 40];
        let value = Value::Delta { bytes: &bytes, will_init: number % 2 == 0 };
        writer.put(key, Lsn(u64::from(number % 2) + 1), value).unwrap();
    }
    let tombstones = [1, 2].map(|lsn| Tombstone { object: 0, lsn: Lsn(lsn), first_block: 9 });
    writer.finish(KeyRange::ALL, Lsn(1)..Lsn(5), &tombstones).unwrap();
    storage.bytes(path)
}

/// Where the blocks of a sound file are.
fn blocks_of(bytes: &[u8]) -> Vec<(usize, BlockHeader)> {
    let (mut offset, mut blocks) = (HEADER_LEN, Vec::new());
    while offset < bytes.len() - FOOTER_LEN {
        let header = BlockHeader::parse(&array(bytes, offset));
        blocks.push((offset, header));
        offset += header.extent();
    }
    blocks
}

#[test]
fn resealed_damage_does_no_harm() {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut below = |end: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % end
    };
    for compression in [Compression::None, Compression::Zstd { level: 1 }] {
        let sound = written(compression);
        assert!(exhaust(&open(sound.clone()).unwrap(), (0..9).map(|block| Key::new(0, block))));
        let blocks = blocks_of(&sound);
        let not_data: Vec<_> = blocks
            .iter()
            .filter(|(_, header)| header.block_type != BlockType::Data as u8)
            .collect();
        let mut damaged = 0;
        for round in 0..3000 {
            let mut bytes = sound.clone();
            // Index pages are few and matter most.
            let (offset, _) = match round % 2 {
                0 => blocks[below(blocks.len())],
                _ => *not_data[below(not_data.len())],
            };
            let header = BlockHeader::parse(&array(&bytes, offset));
            let block = &mut bytes[offset..offset + header.extent()];
            for _ in 0..1 + below(4) {
                let at = match below(3) {
                    0 => 4 + below(60),
                    _ => 4 + below(block.len() - 4),
                };
                // The block stays where it is and as long as it is.
                if !(12..16).contains(&at) {
                    block[at] = [0, 1, 0x7F, 0xFF, below(256) as u8][below(5)];
                }
            }
            let header = BlockHeader::parse(&array(block, 0));
            BlockSeal::new(ID).seal(offset as u64, header, block);
            let Ok(file) = open(bytes) else {
                damaged += 1;
                continue;
            };
            let keys = (0..300).step_by(37).map(|block| Key::new(u128::from(block > 200), block));
            damaged += usize::from(!exhaust(&file, keys));
        }
        assert!(damaged > 2500, "the digest tells: {damaged}");
    }
}

#[test]
fn the_helpers_make_sound_files() {
    let bytes = written(Compression::None);
    let end = bytes.len() - FOOTER_LEN;
    let footer = decode_footer(&array(&bytes, end), Path::new("layer"), 0).unwrap();
    assert_eq!(footer.blocks, blocks_of(&bytes).len() as u64);
    assert_eq!(footer::VERSION, 2);
}

#[test]
fn a_block_beyond_the_file_is_an_error_and_not_missing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("layer");
    let rows = [(0, 1, Place::new((1 << 30) + 4096, 0)), (1, 1, Place::new(FIRST, 0))];
    let blocks = [page(FIRST, 0, &rows)];
    std::fs::write(&path, file_of(&blocks, |footer| footer.root_offset = FIRST)).unwrap();
    let file = LayerFile::open(&crate::storage::RealStorage, &path, None).unwrap();
    let mut space = crate::ScratchArena::default();
    for may_wait in [true, false] {
        space.set_may_wait(may_wait);
        for block in [0, 1] {
            let read = file.versions(Key::new(0, block), Lsn(9), Lsn(0), &space, &mut |_| ());
            assert!(matches!(read, Err(Error::Corrupt(_))), "{read:?}");
        }
        let asked = [0, 1].map(|block| super::VersionQuery {
            key: Key::new(0, block),
            lsn: Lsn(9),
            floor: Lsn(0),
        });
        let mut ended = 0;
        file.versions_of_many(&asked, &space, &mut |_, _| (), &mut |_, walk| {
            assert!(matches!(walk, Err(Error::Corrupt(_))), "{walk:?}");
            ended += 1;
        });
        assert_eq!(ended, 2);
    }
}
