//! What a layer's filter saves, and that it is never believed against the index.

use std::{cell::Cell, path::Path, sync::Arc};

use pagestrata_layers::{
    Error, Key, KeyRange, Lsn, Result, Value, WalkEnd,
    layer_file::{
        AccessMode, AccessOptions, CachedBlock, KeyHash, LayerAccess, LayerFile, LayerKind,
        LayerWriter, ReadKind, ReadScratch, WriterOptions,
    },
    testing::SimulatedStorage,
};

use crate::support::ID;

/// More than one partition of the filter holds.
const KEYS: u32 = 40_000;
const MODES: [AccessMode; 3] = [AccessMode::Mmap, AccessMode::Pread, AccessMode::Direct];

/// Counts the blocks that reads touch.
#[derive(Default)]
struct Touched(Cell<usize>);

impl ReadScratch for Touched {
    fn kind(&self) -> ReadKind<'_> {
        ReadKind::Wait
    }

    fn keep(&self, block: Arc<CachedBlock>) -> &CachedBlock {
        // The test's own, for as long as the process lives.
        Box::leak(Box::new(block))
    }

    fn touched(&self, _: usize, _: usize) {
        self.0.set(self.0.get() + 1);
    }

    fn space(&self, len: usize) -> Result<&mut [u8]> {
        unreachable!("nothing is compressed: {len}")
    }
}

/// Every third block, two versions each.
fn write(storage: &SimulatedStorage, path: &Path) {
    let options = WriterOptions::default();
    let mut writer = LayerWriter::create(storage, path, ID, LayerKind::Delta, options).unwrap();
    for block in 0..KEYS {
        for lsn in 1..3 {
            let value = Value::Delta { bytes: &block.to_le_bytes(), will_init: lsn == 1 };
            writer.put(Key::new(1, 3 * block), Lsn(lsn), value).unwrap();
        }
    }
    writer.finish(KeyRange::ALL, Lsn(1)..Lsn(3), &[]).unwrap();
}

fn open(storage: &SimulatedStorage, path: &Path, mode: AccessMode) -> Result<LayerFile> {
    let options = AccessOptions { mode, ..AccessOptions::default() };
    LayerAccess::new(Arc::new(storage.clone()), options).open(path, None)
}

/// Reads all keys that are there; the other two thirds are absent. Blocks touched for those.
fn read_all(file: &LayerFile) -> usize {
    let (present, absent) = (Touched::default(), Touched::default());
    for block in 0..3 * KEYS {
        let space = if block % 3 == 0 { &present } else { &absent };
        let (key, mut found) = (Key::new(1, block), 0);
        let hash = KeyHash::of(key);
        let walk = file.versions(key, Lsn(9), Lsn(0), space, &mut |version| {
            assert_eq!(version.bytes, (block / 3).to_le_bytes());
            found += 1;
        });
        if block % 3 == 0 {
            assert!(file.may_hold(&hash, ReadKind::Wait));
            assert_eq!((walk.unwrap(), found), (WalkEnd::Base, 2), "{block}");
        } else {
            assert_eq!((walk.unwrap(), found), (WalkEnd::Older, 0), "{block}");
        }
    }
    absent.0.get()
}

#[test]
fn absent_keys_touch_no_block_and_present_keys_are_found() {
    let (storage, path) = (SimulatedStorage::new(), Path::new("layer"));
    write(&storage, path);
    for mode in MODES {
        let file = open(&storage, path, mode).unwrap();
        let blocks = read_all(&file);
        // One in fifty of the absent keys, with three pages of the index each.
        assert!(blocks < 2 * KEYS as usize / 50 * 3, "{mode:?}: {blocks} blocks for absent keys");
        // Ten bits a key and what is rounded up.
        let bytes = file.heap_bytes();
        assert!(mode != AccessMode::Pread || bytes < KEYS as usize * 3 / 2, "{bytes} bytes");
        assert_eq!(file.verify().unwrap().filter_blocks, 4);
    }
}

#[test]
fn a_damaged_filter_hides_nothing_and_is_reported() {
    let (storage, path) = (SimulatedStorage::new(), Path::new("layer"));
    write(&storage, path);
    let sound = storage.bytes(path);
    // Blocks of the filter begin where a multiple of 64 is: their type is in the fifth byte, 4 or
    // 5.
    let is_filter = |at: &usize| matches!(sound[at + 4], 4 | 5) && sound[at + 5..at + 8] == [0; 3];
    let starts: Vec<usize> = (64..sound.len() - 256).step_by(64).filter(is_filter).collect();
    let mut refused = 0;
    for start in starts {
        let mut bytes = sound.clone();
        bytes[start + 100] ^= 4;
        let storage = SimulatedStorage::of_files([(path.to_owned(), bytes)]);
        for mode in MODES {
            let file = open(&storage, path, mode).unwrap();
            read_all(&file);
            refused += usize::from(matches!(file.verify(), Err(Error::Corrupt(_))));
        }
    }
    assert!(refused >= 4 * MODES.len(), "{refused}");
}
