//! How often files are read that are not mapped: a block takes one read, whatever its size, because
//! the index says where it ends.

use std::{path::Path, sync::Arc};

use pagestrata_layers::{
    Error, Key, KeyRange, Lsn, ScratchArena, Value, WalkEnd,
    layer_file::{
        AccessMode, AccessOptions, AccessStats, LayerAccess, LayerFile, LayerKind, LayerWriter,
        VerifyReport, VersionQuery,
    },
    storage::SharedStorage,
    testing::SimulatedStorage,
};

use crate::support::{ID, Numbers, options};

const LSN: Lsn = Lsn(0x10);
const FILE_LEN: usize = 6 << 20;

/// A file, and what is in it as the verification counts it.
struct Written {
    storage: SharedStorage,
    keys: Vec<Key>,
    value_len: usize,
    counted: VerifyReport,
    file_len: u64,
}

impl Written {
    fn new(block_target: u32, value_len: usize, zstd: bool) -> Written {
        let storage: SharedStorage = Arc::new(SimulatedStorage::new());
        let path = Path::new("layer");
        let options = options(block_target, zstd);
        // It has no filter, so that data and index are all there is to read.
        let kind = LayerKind::Image { complete: true };
        let mut writer = LayerWriter::create(&*storage, path, ID, kind, options).unwrap();
        let keys: Vec<Key> =
            (0..(FILE_LEN / value_len) as u32).map(|block| Key::new(7, block)).collect();
        for key in &keys {
            writer.put(*key, LSN, Value::Image(&value(*key, value_len))).unwrap();
        }
        let summary = writer.finish(KeyRange::ALL, LSN..LSN.next(), &[]).unwrap();
        let counted = LayerFile::open(&*storage, path, None).unwrap().verify().unwrap();
        Written { storage, keys, value_len, counted, file_len: summary.file_len }
    }

    /// Opens it with a cache that holds all of it, hands it to `read`, and returns what `read` did.
    fn count(&self, mode: AccessMode, read: impl FnOnce(&LayerFile)) -> AccessStats {
        let options = AccessOptions { mode, ..AccessOptions::default() };
        let access = LayerAccess::new(self.storage.clone(), options);
        let file = access.open(Path::new("layer"), None).unwrap();
        let before = access.stats();
        read(&file);
        let after = access.stats();
        AccessStats {
            reads: after.reads - before.reads,
            read_bytes: after.read_bytes - before.read_bytes,
            ..after
        }
    }

    /// All keys in an order that is not theirs.
    fn shuffled(&self) -> Vec<Key> {
        let (mut keys, mut numbers) = (self.keys.clone(), Numbers::new(3));
        for at in (1..keys.len()).rev() {
            keys.swap(at, numbers.below(at as u64 + 1) as usize);
        }
        keys
    }

    /// One read for each block, but for the root: it was read when the file was opened.
    fn blocks(&self) -> u64 {
        self.counted.data_blocks + self.counted.index_blocks - 1
    }

    /// How many blocks may take a second read: long ones at the end of a leaf.
    fn exceptions(&self) -> u64 {
        let is_long = self.file_len / self.counted.data_blocks > 28 << 10;
        if is_long { self.counted.index_blocks } else { 0 }
    }

    fn check(&self, what: &str, done: AccessStats) {
        let (least, most) = (self.blocks(), self.blocks() + self.exceptions());
        assert!((least..=most).contains(&done.reads), "{what}: {done:?}, {:?}", self.counted);
        // Direct I/O reads whole sectors: of a small block several times as much.
        let sectors = done.reads * 8192;
        assert!(done.read_bytes <= self.file_len * 5 / 4 + sectors, "{what}: {done:?}");
    }
}

/// Half of it compresses.
fn value(key: Key, len: usize) -> Vec<u8> {
    let mut numbers = Numbers::new(u64::from(key.block) + 1);
    (0..len).map(|at| if at % 2 == 0 { 0 } else { numbers.next() as u8 }).collect()
}

fn for_each_shape(test: impl Fn(&Written, AccessMode)) {
    for (block_target, value_len) in
        [(4 << 10, 100), (16 << 10, 8 << 10), (64 << 10, 100), (64 << 10, 8 << 10), (1024, 50_000)]
    {
        for zstd in [false, true] {
            let written = Written::new(block_target, value_len, zstd);
            test(&written, AccessMode::Pread);
            test(&written, AccessMode::Direct);
        }
    }
}

#[test]
fn a_read_of_a_version_reads_each_block_once() {
    for_each_shape(|written, mode| {
        let done = written.count(mode, |file| {
            let mut space = ScratchArena::default();
            for key in written.shuffled() {
                space.reset();
                let mut found = Vec::new();
                let walk = file.versions(key, LSN, Lsn(0), &space, &mut |v| found.push(v)).unwrap();
                assert!(walk == WalkEnd::Base && found[0].bytes == value(key, written.value_len));
            }
        });
        written.check("one by one", done);
    });
}

#[test]
fn a_fetch_reads_each_block_once() {
    for_each_shape(|written, mode| {
        let done = written.count(mode, |file| {
            let mut space = ScratchArena::default();
            space.set_may_wait(false);
            for key in written.shuffled() {
                space.forget_fetched();
                loop {
                    space.reset();
                    match file.versions(key, LSN, Lsn(0), &space, &mut |_| ()) {
                        Ok(walk) => break assert_eq!(walk, WalkEnd::Base),
                        Err(Error::NotResident { offset, len }) => {
                            file.fetch(offset, len, space.fetched()).unwrap();
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        });
        written.check("fetched", done);
    });
}

#[test]
fn neighbours_are_read_together_and_once() {
    for_each_shape(|written, mode| {
        let done = written.count(mode, |file| {
            let asked = |key: &Key| VersionQuery { key: *key, lsn: LSN, floor: Lsn(0) };
            let asked: Vec<VersionQuery> = written.keys.iter().map(asked).collect();
            let (space, mut found) = (ScratchArena::default(), 0);
            file.versions_of_many(&asked, &space, &mut |_, _| found += 1, &mut |_, walk| {
                assert_eq!(walk.unwrap(), WalkEnd::Base);
            });
            assert_eq!(found, written.keys.len());
        });
        // Each page of the index; and of the blocks a MiB at a time, in which a page of the index
        // may lie.
        let pieces = written.file_len.div_ceil(1 << 20) * 2 + written.exceptions();
        let most = written.counted.index_blocks + pieces;
        assert!(done.reads <= most, "{done:?}, {:?}", written.counted);
        let sectors = done.reads * 8192;
        assert!(done.read_bytes <= written.file_len * 5 / 4 + sectors, "{done:?}");
    });
}

#[test]
fn a_scan_reads_each_data_block_once() {
    for_each_shape(|written, mode| {
        let done = written.count(mode, |file| {
            let (mut scan, mut found) = (file.scan(Key::MIN).unwrap(), 0);
            while let Some((key, version)) = scan.next().unwrap() {
                assert_eq!((key, version.bytes.len()), (written.keys[found], written.value_len));
                found += 1;
            }
            assert_eq!(found, written.keys.len());
        });
        // The way down to each leaf is not kept.
        let index = written.counted.index_blocks * 4;
        let most = written.counted.data_blocks + written.exceptions() + index;
        assert!(done.reads <= most, "{done:?}, {:?}", written.counted);
    });
}
