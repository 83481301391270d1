//! Damaged, cut and foreign layer files: refused with a typed error, and nothing wrong is ever
//! read.

use std::{cell::Cell, path::Path};

use pagestrata_layers::{
    Error, Key, Lsn,
    layer_file::{LayerFile, LayerId, LayerKind, LayerSummary, Tombstone},
    testing::SimulatedStorage,
};

use crate::support::{ID, LeakySpace, Model, Numbers, Owned, open_each_way, options};

const PATH: &str = "layer";
/// Files up to this length are read in every way, whatever is done to them.
const SMALL: usize = 64 << 10;

/// Three keys with chains, an empty value, tombstones.
fn small_delta() -> Model {
    let mut model = Model::default();
    for block in [0, 1, 7] {
        model.versions.insert((Key::new(1, block), Lsn(10)), Owned::Image(vec![block as u8; 60]));
        for lsn in 11..13 + u64::from(block) {
            let bytes = vec![lsn as u8; block as usize];
            model.versions.insert((Key::new(1, block), Lsn(lsn)), Owned::Delta(bytes, false));
        }
    }
    model.versions.insert((Key::new(2, 0), Lsn(9)), Owned::Delta(vec![5; 30], true));
    model.tombstones = vec![
        Tombstone { object: 1, lsn: Lsn(12), first_block: 7 },
        Tombstone { object: 3, lsn: Lsn(9), first_block: 0 },
    ];
    model
}

fn small_image() -> Model {
    let mut model = Model::default();
    for block in 0..12 {
        model.versions.insert((Key::new(1, block * 3), Lsn(10)), Owned::Image(vec![7; 50]));
    }
    model
}

/// Many blocks, several levels of index.
fn large(seed: u64) -> Model {
    let mut numbers = Numbers::new(seed);
    let mut model = Model::default();
    for block in 0..2000_u32 {
        for lsn in 0..1 + numbers.below(4) {
            let mut bytes = vec![0; 40];
            bytes[..8].copy_from_slice(&numbers.next().to_le_bytes());
            let key = Key::new(u128::from(block / 700), block * 2);
            model.versions.insert((key, Lsn(100 + lsn)), Owned::Delta(bytes, lsn == 0));
        }
    }
    for first_block in 0..1500 {
        model.tombstones.push(Tombstone { object: 9, lsn: Lsn(100), first_block });
    }
    model
}

struct Written {
    storage: SimulatedStorage,
    model: Model,
    summary: LayerSummary,
    bytes: Vec<u8>,
    /// The way in which it is read next, if it is too large to be read in all of them each time.
    turn: Cell<usize>,
}

impl Written {
    fn new(model: Model, kind: LayerKind, block_size: u32, zstd: bool) -> Written {
        let storage = SimulatedStorage::default();
        let summary = model.write(&storage, Path::new(PATH), ID, kind, options(block_size, zstd));
        let bytes = storage.bytes(Path::new(PATH));
        Written { storage, model, summary, bytes, turn: Cell::new(0) }
    }

    /// The error that the file with other bytes ends in, by opening it or by reading all of it or
    /// by verifying it. Panics when something wrong is read.
    fn error_with(&self, bytes: Vec<u8>) -> Option<Error> {
        self.storage.set(Path::new(PATH), bytes);
        let mut ways = open_each_way(&self.storage.shared(), Path::new(PATH), None);
        if self.bytes.len() > SMALL {
            ways.rotate_left(self.turn.replace((self.turn.get() + 1) % 3));
            let [opened, ..] = ways;
            return self.error_of(opened);
        }
        let [mapped, read, direct] = ways;
        let mapped = self.error_of(mapped);
        let text = |error: &Option<Error>| error.as_ref().map(Error::to_string);
        for other in [read, direct].map(|opened| self.error_of(opened)) {
            assert_eq!(text(&other), text(&mapped), "the same, in whatever way it is read");
        }
        mapped
    }

    fn error_of(&self, opened: Result<LayerFile, Error>) -> Option<Error> {
        let file = match opened {
            Ok(file) => file,
            Err(error) => return Some(error),
        };
        let read = self.model.check_all(&file).err();
        let is_small = self.bytes.len() <= SMALL;
        let read_at_once = is_small.then(|| self.model.check_many(&file).err()).flatten();
        let verified = file.verify().err();
        assert!(read.is_none() || verified.is_some(), "what cannot be read is verified: {read:?}");
        assert!(read_at_once.is_none() || read.is_some(), "{read_at_once:?}");
        verified
    }

    fn must_be_corrupt(&self, bytes: Vec<u8>, what: impl std::fmt::Display) {
        match self.error_with(bytes) {
            Some(Error::Corrupt(corruption)) => {
                assert_eq!(corruption.path, Path::new(PATH), "{what}");
                assert!(corruption.offset <= self.bytes.len() as u64, "{what}: {corruption}");
            }
            other => panic!("{what}: {other:?}"),
        }
    }

    /// Where the blocks are.
    fn blocks(&self) -> Vec<std::ops::Range<usize>> {
        let mut blocks = Vec::new();
        let mut start = 64;
        while start < self.bytes.len() - 192 {
            let stored = u32::from_le_bytes(self.bytes[start + 12..start + 16].try_into().unwrap());
            let len = (16 + stored as usize).next_multiple_of(64).max(512);
            blocks.push(start..start + len);
            start += len;
        }
        blocks
    }
}

fn small_files() -> Vec<Written> {
    let image = LayerKind::Image { complete: true };
    vec![
        Written::new(small_delta(), LayerKind::Delta, 1 << 10, false),
        Written::new(small_delta(), LayerKind::Delta, 1 << 10, true),
        Written::new(small_image(), image, 16 << 10, false),
        Written::new(small_image(), image, 16 << 10, true),
        Written::new(Model::default(), LayerKind::Delta, 16 << 10, false),
    ]
}

#[test]
fn every_flipped_bit_of_small_files_is_found() {
    for written in small_files() {
        assert!(written.error_with(written.bytes.clone()).is_none());
        for bit in 0..written.bytes.len() * 8 {
            let mut bytes = written.bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            written.must_be_corrupt(bytes, format_args!("bit {bit}"));
        }
    }
}

#[test]
fn every_truncation_is_found() {
    for written in small_files() {
        for len in 0..written.bytes.len() {
            written.storage.set(Path::new(PATH), written.bytes[..len].to_vec());
            let opened = LayerFile::open(&written.storage, Path::new(PATH), None);
            assert!(matches!(opened, Err(Error::Corrupt(_))), "{len}");
        }
        let mut longer = written.bytes.clone();
        longer.push(0);
        written.must_be_corrupt(longer, "a byte more");
    }
}

#[test]
fn random_damage_of_a_large_file_is_found() {
    let written = Written::new(large(1), LayerKind::Delta, 4 << 10, false);
    let compressed = Written::new(large(2), LayerKind::Delta, 4 << 10, true);
    let mut numbers = Numbers::new(3);
    for written in [&written, &compressed] {
        for _ in 0..5_000 {
            let bit = numbers.below(written.bytes.len() as u64 * 8) as usize;
            written.storage.set(Path::new(PATH), Vec::new());
            let mut bytes = written.bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            written.storage.set(Path::new(PATH), bytes);
            let found = LayerFile::open(&written.storage, Path::new(PATH), None)
                .and_then(|file| file.verify());
            assert!(matches!(found, Err(Error::Corrupt(_))), "bit {bit}");
        }
        // Reading everything takes longer: fewer of them, and zeros too.
        for _ in 0..60 {
            let start = numbers.below(written.bytes.len() as u64) as usize;
            let end = (start + 1 + numbers.below(2000) as usize).min(written.bytes.len());
            let mut bytes = written.bytes.clone();
            bytes[start..end].fill(0);
            if bytes != written.bytes {
                written.must_be_corrupt(bytes, format_args!("zeros at {start}..{end}"));
            }
            let mut bytes = written.bytes.clone();
            bytes[start] ^= 1 << numbers.below(8);
            written.must_be_corrupt(bytes, format_args!("byte {start}"));
        }
    }
}

#[test]
fn a_damaged_block_spares_the_others() {
    let written = Written::new(large(1), LayerKind::Delta, 4 << 10, false);
    let block = written.blocks()[3].clone();
    let mut bytes = written.bytes.clone();
    bytes[block.start + 100] ^= 4;
    written.storage.set(Path::new(PATH), bytes);
    let file = LayerFile::open(&written.storage, Path::new(PATH), Some(&written.summary)).unwrap();
    let space = LeakySpace::default();
    let (mut sound, mut damaged) = (0, 0);
    for (key, lsn) in written.model.versions.keys() {
        match file.versions(*key, *lsn, Lsn(0), &space, &mut |_| ()) {
            Ok(_) => sound += 1,
            Err(Error::Corrupt(corruption)) => {
                assert_eq!(
                    (corruption.offset, corruption.what),
                    (block.start as u64, "data block")
                );
                damaged += 1;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(damaged > 10 && sound > 20 * damaged, "{damaged} of {sound}");
}

#[test]
fn swapped_and_foreign_blocks_are_refused() {
    let written = Written::new(large(1), LayerKind::Delta, 4 << 10, false);
    let blocks = written.blocks();
    let same_len = |index: usize| {
        let len = blocks[index].len();
        (index + 1..blocks.len()).find(|other| blocks[*other].len() == len)
    };
    let mut swaps = 0;
    for index in 0..blocks.len() {
        let Some(other) = same_len(index) else { continue };
        let (first, second) = (blocks[index].clone(), blocks[other].clone());
        let mut bytes = written.bytes.clone();
        bytes.copy_within(second.clone(), first.start);
        written.must_be_corrupt(bytes.clone(), format_args!("block {other} at {index}"));
        bytes[second].copy_from_slice(&written.bytes[first]);
        written.must_be_corrupt(bytes, format_args!("{index} and {other} swapped"));
        swaps += 1;
        if swaps == 40 {
            break;
        }
    }
    assert_eq!(swaps, 40);

    // The same layer written under another id: equal but for the checksums.
    let others = [
        LayerId { store: ID.store ^ 1 << 77, ..ID },
        LayerId { timeline: 6, ..ID },
        LayerId { sequence: 10, ..ID },
    ];
    for other in others {
        let storage = SimulatedStorage::default();
        let path = Path::new(PATH);
        written.model.write(&storage, path, other, LayerKind::Delta, options(4 << 10, false));
        let foreign = storage.bytes(path);
        assert_eq!(foreign.len(), written.bytes.len());
        let pieces = [0..64, foreign.len() - 192..foreign.len()];
        for block in blocks.iter().step_by(9).chain(&pieces) {
            assert_eq!(foreign[block.start + 16..block.end].len(), block.len() - 16);
            let mut bytes = written.bytes.clone();
            bytes[block.clone()].copy_from_slice(&foreign[block.clone()]);
            written.must_be_corrupt(bytes, format_args!("{block:?} of {other}"));
        }
        let opened = LayerFile::open(&storage, path, Some(&written.summary));
        assert!(matches!(opened, Err(Error::Corrupt(_))), "another file than expected");
    }
}

#[test]
fn another_format_version_says_so() {
    let written = Written::new(small_delta(), LayerKind::Delta, 1 << 10, false);
    for start in [0, written.bytes.len() - 192] {
        let end = if start == 0 { 64 } else { written.bytes.len() };
        let mut bytes = written.bytes.clone();
        bytes[start + 8] = 9;
        let crc = crc32c::crc32c_append(
            crc32c::crc32c(&bytes[start..start + 12]),
            &bytes[start + 16..end],
        );
        bytes[start + 12..start + 16].copy_from_slice(&crc.to_le_bytes());
        let error = written.error_with(bytes).unwrap();
        assert!(matches!(error, Error::UnsupportedVersion { expected: 2, found: 9, .. }));
    }
}

#[test]
fn what_the_manifest_says_is_checked() {
    let written = Written::new(small_delta(), LayerKind::Delta, 1 << 10, false);
    let good = &written.summary;
    let others = [
        LayerSummary { digest: good.digest ^ 1, ..good.clone() },
        LayerSummary { file_len: good.file_len + 64, ..good.clone() },
        LayerSummary { keys: good.keys + 1, ..good.clone() },
        LayerSummary { lsn_range: Lsn(1)..good.lsn_range.end, ..good.clone() },
        LayerSummary { kind: LayerKind::Image { complete: false }, ..good.clone() },
    ];
    for other in others {
        let opened = LayerFile::open(&written.storage, Path::new(PATH), Some(&other));
        assert!(matches!(opened, Err(Error::Corrupt(_))), "{other:?}");
    }
    assert!(LayerFile::open(&written.storage, Path::new(PATH), Some(good)).is_ok());
}
