//! S12 to S15: layer files that are damaged, displaced, cut, or lie about a size.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use pagestrata::{
    Compression, Durability, Error, Key, Lsn, Options, Scratch, Store, Timeline, Value,
    testing::{SimulatedStorage, fill_value},
};

use super::{DIR, corruption, corruption_at_open, open, options, write};
use crate::support::Append;

in_all_access_modes!(
    s12_bit_flip_in_a_block_of_a_layer_file,
    s13_a_block_that_belongs_elsewhere,
    s14_a_layer_file_that_was_cut_is_not_opened,
    s15_a_size_that_lies,
);

const PAGES: u32 = 60;

/// What the layers hold under key `(1, page)` at an Lsn; of one length, so that all blocks are
/// alike.
fn image(page: u32, lsn: u64) -> Vec<u8> {
    fill_value(u64::from(page) << 8 | lsn, 1, 200)
}

/// A store with two layer files of the same keys, and the paths of those.
fn with_layers() -> (SimulatedStorage, [PathBuf; 2]) {
    let storage = SimulatedStorage::new();
    let external = Options { durability: Durability::External, ..options() };
    let (_store, main, _) = open(&storage, external).unwrap();
    for lsn in [10, 20] {
        let mut lease = main.write_lease().unwrap();
        for page in 0..PAGES {
            lease.put(Key::new(1, page), Lsn(lsn), Value::Image(&image(page, lsn))).unwrap();
        }
        lease.commit(Lsn(lsn)).unwrap();
        drop(lease);
        main.flush().unwrap();
    }
    let mut layers = main.layers();
    layers.sort_by_key(|layer| layer.lsn_range.start);
    let paths: Vec<_> = layers.into_iter().map(|layer| layer.path).collect();
    (storage, paths.try_into().unwrap())
}

/// Reads all pages: never a wrong byte. Returns how many are right, and where the others are
/// damaged.
fn read_all(timeline: &Timeline) -> (usize, BTreeSet<(PathBuf, u64)>) {
    let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
    let (mut right, mut damaged) = (0, BTreeSet::new());
    for (page, lsn) in (0..PAGES).flat_map(|page| [(page, 10), (page, 20)]) {
        match reader.pin().versions(Key::new(1, page), Lsn(lsn), &mut scratch) {
            Ok(found) => {
                assert_eq!(found.newest().unwrap().bytes, image(page, lsn), "page {page}");
                right += 1;
            }
            Err(error) => {
                damaged.insert(corruption(error));
            }
        }
    }
    (right, damaged)
}

/// Where the data blocks of a file are, as damage shows.
fn data_blocks(storage: &SimulatedStorage, layer: &Path) -> BTreeSet<u64> {
    let len = storage.bytes(layer).len() as u64;
    let mut blocks = BTreeSet::new();
    for byte in (64..len).step_by(256) {
        let damaged = storage.killed();
        damaged.flip(layer, byte, 0);
        let Ok((_store, main, _)) = open(&damaged, options()) else { continue };
        let (right, found) = read_all(&main);
        // An index leads to more than one block.
        if (100..120).contains(&right) {
            blocks.extend(found.into_iter().map(|(_, offset)| offset));
        }
    }
    blocks
}

fn s12_bit_flip_in_a_block_of_a_layer_file() {
    let (storage, layers) = with_layers();
    let blocks = data_blocks(&storage, &layers[0]);
    assert!(blocks.len() > 5, "{blocks:?}");
    for &block in &blocks {
        for (byte, bit) in [(0, 0), (4, 1), (9, 7), (40, 3), (300, 6)] {
            let damaged = storage.killed();
            damaged.flip(&layers[0], block + byte, bit);
            let (store, main, _) = open(&damaged, options()).unwrap();
            assert_eq!(main.stats().quarantined, []);
            for round in 1..=2 {
                let (right, found) = read_all(&main);
                assert_eq!(found, BTreeSet::from([(layers[0].clone(), block)]));
                assert!((100..120).contains(&right), "the other pages: {right}");
                check_quarantine(&main, &layers[0], block, round * (120 - right as u64));
            }
            assert_eq!(store.stats().quarantined, main.stats().quarantined);
            match main.verify() {
                Err(Error::Damaged { damaged, .. }) => assert_eq!(damaged[0].path, layers[0]),
                other => panic!("{other:?}"),
            }
            // Nor does it prevent writes.
            write(&main, 3..=3);
            main.flush().unwrap();
            drop((main, store));
            // A reopen finds the same again: by a read of many pages, and by a scan.
            let (_store, main, _) = open(&damaged, options()).unwrap();
            let keys: Vec<_> = (0..PAGES).map(|page| Key::new(1, page)).collect();
            let (mut right, mut wrong) = (0, 0);
            let mut sink = |_, page: pagestrata::Result<pagestrata::Page<'_>>| match page {
                Ok(_) => right += 1,
                Err(error) => {
                    assert_eq!(corruption(error), (layers[0].clone(), block));
                    wrong += 1;
                }
            };
            let (mut reader, mut scratch) = (main.reader(), Scratch::new());
            reader.pin().pages(&keys, Lsn(10), &Append, &mut scratch, &mut sink).unwrap();
            assert!(right > 40 && wrong > 0, "{right} right, {wrong} wrong");
            check_quarantine(&main, &layers[0], block, wrong);
        }
    }
}

#[track_caller]
fn check_quarantine(timeline: &Timeline, layer: &Path, block: u64, reads: u64) {
    let quarantined = timeline.stats().quarantined;
    let [one] = &quarantined[..] else { panic!("{quarantined:?}") };
    assert_eq!((Path::new(&one.file), one.reads), (layer, reads));
    assert!(one.first_error.contains(&format!("at offset {block}:")), "{}", one.first_error);
}

fn s13_a_block_that_belongs_elsewhere() {
    let (storage, layers) = with_layers();
    let blocks: Vec<_> = data_blocks(&storage, &layers[0]).into_iter().collect();
    assert_eq!(blocks, data_blocks(&storage, &layers[1]).into_iter().collect::<Vec<_>>());
    let len = (blocks[1] - blocks[0]) as usize;
    let (first, second) = (storage.bytes(&layers[0]), storage.bytes(&layers[1]));
    let part = |bytes: &[u8], at: u64| bytes[at as usize..at as usize + len].to_vec();
    for &block in &blocks[1..blocks.len() - 1] {
        // Of another place of this file; of another file, at this very place.
        for foreign in [part(&first, blocks[0]), part(&second, block)] {
            let damaged = storage.killed();
            let at = block as usize;
            damaged.change(&layers[0], |bytes| bytes[at..at + len].copy_from_slice(&foreign));
            let (_store, main, _) = open(&damaged, options()).unwrap();
            let (right, found) = read_all(&main);
            assert_eq!(found, BTreeSet::from([(layers[0].clone(), block)]));
            assert!(right >= 100, "{right}");
        }
    }
    // A whole file under another one's name.
    let damaged = storage.killed();
    damaged.set(&layers[0], second);
    assert_eq!(corruption_at_open(&damaged).0, layers[0]);
}

fn s14_a_layer_file_that_was_cut_is_not_opened() {
    let (storage, layers) = with_layers();
    let len = storage.bytes(&layers[0]).len();
    for new_len in [0, 1, len / 2, len - 512, len - 1, len + 1, len + 4096] {
        let damaged = storage.killed();
        damaged.change(&layers[0], |bytes| bytes.resize(new_len, 0));
        assert_eq!(corruption_at_open(&damaged).0, layers[0], "{new_len} of {len}");
    }
}

/// Changes the length in the header of a block, and makes its checksum right again: of the layer's
/// id (store, timeline, number), of its place, and of all behind the checksum.
fn lie(bytes: &mut [u8], sequence: u64, (block, block_end): (usize, usize), raw_len: u32) {
    let mut id = [0; 32];
    id[..16].copy_from_slice(&7_u128.to_le_bytes());
    id[16] = 1;
    id[24..].copy_from_slice(&sequence.to_le_bytes());
    bytes[block + 8..block + 12].copy_from_slice(&raw_len.to_le_bytes());
    let parts = [&id[..], &(block as u64).to_le_bytes(), &bytes[block + 4..block_end]];
    let crc = parts.into_iter().fold(0, crc32c::crc32c_append);
    bytes[block..block + 4].copy_from_slice(&crc.to_le_bytes());
}

fn s15_a_size_that_lies() {
    const ZEROS: usize = 1 << 20;
    // The most that a block may claim: a value of the greatest length, and what is around it.
    const BLOCK_CAP: u32 = (16 << 20) + (64 << 10);
    let storage = SimulatedStorage::new();
    let compression = Compression::Zstd { level: 1 };
    let options = Options { durability: Durability::External, compression, ..options() };
    let (store, main, _) = open(&storage, options.clone()).unwrap();
    let key = Key::new(1, 1);
    let mut lease = main.write_lease().unwrap();
    lease.put(key, Lsn(10), Value::Image(&vec![0; ZEROS])).unwrap();
    lease.commit(Lsn(10)).unwrap();
    drop(lease);
    main.flush().unwrap();
    let layer = main.layers().remove(0).path;
    drop((main, store));
    let bytes = storage.bytes(&layer);
    let damaged = storage.killed();
    damaged.flip(&layer, 80, 0);
    let read = |storage: &SimulatedStorage| {
        let (store, _) = Store::open_with(storage.shared(), DIR, options.clone()).unwrap();
        let (mut scratch, mut reader) = (Scratch::new(), store.timeline("main").unwrap().reader());
        let read = reader.pin().versions(key, Lsn(10), &mut scratch);
        let found = read.map(|found| found.newest().unwrap().bytes.len());
        (found, scratch.memory_bytes())
    };
    let (path, block) = corruption(read(&damaged).0.unwrap_err());
    assert_eq!(path, layer);
    let at = block as usize;
    let stored_len = u32::from_le_bytes(bytes[at + 12..at + 16].try_into().unwrap()) as usize;
    let end = at + (16 + stored_len).next_multiple_of(64).max(512);
    let raw_len = u32::from_le_bytes(bytes[at + 8..at + 12].try_into().unwrap());
    assert!(raw_len as usize >= ZEROS && stored_len < ZEROS / 100, "{raw_len} in {stored_len}");
    let name = layer.file_stem().unwrap().to_str().unwrap();
    let (_, number) = name.rsplit_once('-').unwrap();
    let sequence = u64::from_str_radix(number, 16).unwrap();
    let sizes = [
        0,
        1,
        1000,
        raw_len - 1,
        raw_len,
        raw_len + 1,
        BLOCK_CAP,
        BLOCK_CAP + 1,
        1 << 30,
        u32::MAX,
    ];
    for size in sizes {
        let lying = storage.killed();
        lying.change(&layer, |bytes| lie(bytes, sequence, (at, end), size));
        assert_eq!(lying.bytes(&layer) == bytes, size == raw_len, "the checksum as the engine's");
        let (found, memory_bytes) = read(&lying);
        match found {
            Ok(len) => assert_eq!((size, len), (raw_len, ZEROS)),
            Err(error) => assert_eq!(corruption(error), (layer.clone(), block), "{size}"),
        }
        let cap = if size <= BLOCK_CAP { size as usize } else { 0 };
        assert!(memory_bytes <= 2 * cap + (64 << 10), "{memory_bytes} for {size}");
    }
    frames_that_lie();
}

/// The length in a frame of the log, with a right checksum: of the segment's identity and of the
/// rest of the header.
fn frames_that_lie() {
    let storage = SimulatedStorage::new();
    let (store, main, _) = open(&storage, options()).unwrap();
    write(&main, 1..=30);
    drop((main, store));
    let segment = PathBuf::from("/store/log/0000000000000002.log");
    for len in [0_u32, 1, 3000, 4096, 1 << 20, u32::MAX] {
        let lying = storage.killed();
        lying.change(&segment, |bytes| {
            let seed = crc32c::crc32c(&bytes[8..40]);
            let frame = &mut bytes[512..560];
            assert_eq!(frame[..4], crc32c::crc32c_append(seed, &frame[4..]).to_le_bytes());
            frame[40..44].copy_from_slice(&len.to_le_bytes());
            let crc = crc32c::crc32c_append(seed, &frame[4..]);
            frame[..4].copy_from_slice(&crc.to_le_bytes());
        });
        assert_eq!(corruption_at_open(&lying), (segment.clone(), 512), "{len}");
    }
}
