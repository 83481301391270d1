//! What the tests share: an arena, a source of numbers, a way to write and read layers.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    ops::Range,
    path::Path,
    sync::Arc,
};

use pagestrata_layers::{
    Error, Key, KeyRange, Lsn, PageVersion, Result, ScratchArena, Value, WalkEnd,
    layer_file::{
        AccessMode, AccessOptions, CachedBlock, Compression, LayerAccess, LayerFile, LayerId,
        LayerKind, LayerSummary, LayerWriter, ReadKind, ReadScratch, Tombstone, VersionQuery,
        WriterOptions,
    },
    storage::{SharedStorage, Storage},
};

/// Space for inflated blocks, given back at the end of the test only. Counts the calls.
#[derive(Debug, Default)]
pub(crate) struct LeakySpace {
    pub(crate) calls: Cell<usize>,
    lens: RefCell<Vec<usize>>,
    blocks: ScratchArena,
}

impl LeakySpace {
    pub(crate) fn longest(&self) -> usize {
        self.lens.borrow().iter().copied().max().unwrap_or(0)
    }
}

impl ReadScratch for LeakySpace {
    fn kind(&self) -> ReadKind<'_> {
        ReadKind::Wait
    }

    fn keep(&self, block: Arc<CachedBlock>) -> &CachedBlock {
        self.blocks.keep(block)
    }

    fn space(&self, len: usize) -> Result<&mut [u8]> {
        self.calls.set(self.calls.get() + 1);
        self.lens.borrow_mut().push(len);
        Ok(Vec::leak(vec![0xA5; len]))
    }
}

/// Opens a file in every way that there is; where that is not by mapping it, with a cache that
/// holds next to nothing.
pub(crate) fn open_each_way(
    storage: &SharedStorage,
    path: &Path,
    expected: Option<&LayerSummary>,
) -> [Result<LayerFile>; 3] {
    [AccessMode::Mmap, AccessMode::Pread, AccessMode::Direct].map(|mode| {
        let options = AccessOptions {
            mode,
            cache_max_bytes: 64 << 10,
            open_files_max: 1,
            ..AccessOptions::default()
        };
        LayerAccess::new(storage.clone(), options).open(path, expected)
    })
}

/// Numbers from a seed (xorshift64*).
#[derive(Debug, Clone)]
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Numbers {
        Numbers(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }
}

/// A value that owns its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Owned {
    Image(Vec<u8>),
    Delta(Vec<u8>, bool),
}

impl Owned {
    pub(crate) fn value(&self) -> Value<'_> {
        match self {
            Owned::Image(bytes) => Value::Image(bytes),
            Owned::Delta(bytes, will_init) => Value::Delta { bytes, will_init: *will_init },
        }
    }
}

/// What a layer is made of, and what it should answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Model {
    pub(crate) versions: BTreeMap<(Key, Lsn), Owned>,
    pub(crate) tombstones: Vec<Tombstone>,
}

pub(crate) const ID: LayerId =
    LayerId { store: 0x0123_4567_89AB_CDEF_0011_2233_4455_6677, timeline: 5, sequence: 9 };

impl Model {
    pub(crate) fn lsn_range(&self) -> Range<Lsn> {
        let lsns = self.versions.keys().map(|(_, lsn)| *lsn);
        let lsns = lsns.chain(self.tombstones.iter().map(|tombstone| tombstone.lsn));
        lsns.clone().min().unwrap_or(Lsn(1))..lsns.max().unwrap_or(Lsn(1)).next()
    }

    pub(crate) fn write(
        &self,
        storage: &dyn Storage,
        path: &Path,
        id: LayerId,
        kind: LayerKind,
        options: WriterOptions,
    ) -> LayerSummary {
        let mut writer = LayerWriter::create(storage, path, id, kind, options).unwrap();
        for ((key, lsn), value) in &self.versions {
            writer.put(*key, *lsn, value.value()).unwrap();
        }
        writer.finish(KeyRange::ALL, self.lsn_range(), &self.tombstones).unwrap()
    }

    /// What `LayerFile::versions` should give.
    pub(crate) fn read(&self, key: Key, lsn: Lsn, floor: Lsn) -> (Vec<(Lsn, &Owned)>, WalkEnd) {
        let dropped = self.tombstones.iter();
        let dropped = dropped.filter(|at| at.covers(key) && floor <= at.lsn && at.lsn <= lsn);
        let dropped = dropped.map(|tombstone| tombstone.lsn).max();
        let lowest = dropped.unwrap_or(floor);
        let mut found = Vec::new();
        for ((_, lsn), value) in self.versions.range((key, Lsn(0))..=(key, lsn)).rev() {
            if *lsn < lowest {
                break;
            }
            found.push((*lsn, value));
            if value.value().kind().is_base() {
                return (found, WalkEnd::Base);
            }
        }
        (found, if dropped.is_some() { WalkEnd::Dropped } else { WalkEnd::Older })
    }

    pub(crate) fn check_read(&self, file: &LayerFile, key: Key, lsn: Lsn, floor: Lsn) {
        let space = LeakySpace::default();
        let mut found = Vec::new();
        let walk =
            file.versions(key, lsn, floor, &space, &mut |version| found.push(version)).unwrap();
        let (expected, expected_walk) = self.read(key, lsn, floor);
        assert_eq!(walk, expected_walk, "{key} from {lsn} to {floor}");
        assert!(same(&found, &expected), "{key} from {lsn} to {floor}");
    }

    /// All keys at once, also such that are not there, and each twice. What does not fail has to be
    /// right; the first error, if any.
    pub(crate) fn check_many(&self, file: &LayerFile) -> Result<()> {
        let mut asked = Vec::new();
        for &(key, lsn) in self.versions.keys() {
            for key in [Some(key), key.next()].into_iter().flatten() {
                asked.extend([VersionQuery { key, lsn, floor: Lsn(0) }; 2]);
            }
        }
        asked.sort_unstable_by_key(|asked| asked.key);
        let space = LeakySpace::default();
        let (mut found, mut ended) = (vec![Vec::new(); asked.len()], Vec::new());
        file.versions_of_many(
            &asked,
            &space,
            &mut |at, version| found[at].push(version),
            &mut |at, walk| ended.push((at, walk)),
        );
        assert!(ended.iter().map(|(at, _)| *at).eq(0..asked.len()), "each ends once");
        let mut failed = Ok(());
        for (at, walk) in ended {
            let VersionQuery { key, lsn, floor } = asked[at];
            match walk {
                Err(error) => failed = failed.and(Err(error)),
                Ok(walk) => {
                    let (expected, expected_walk) = self.read(key, lsn, floor);
                    let complete = file.summary().kind == LayerKind::Image { complete: true };
                    let expected_walk = match (complete, expected.is_empty()) {
                        (true, true) => WalkEnd::Dropped,
                        _ => expected_walk,
                    };
                    assert_eq!(walk, expected_walk, "{key} from {lsn} among many");
                    assert!(same(&found[at], &expected), "{key} from {lsn} among many");
                }
            }
        }
        failed
    }

    /// Everything that there is to read, in every way. The first error, if any; wrong answers
    /// panic.
    pub(crate) fn check_all(&self, file: &LayerFile) -> Result<()> {
        let mut failed = Ok(());
        let mut keep = |error: Error| {
            if failed.is_ok() {
                failed = Err(error);
            }
        };
        let mut scan = file.scan(Key::MIN);
        let mut expected = self.versions.iter();
        while let Ok(scan) = &mut scan {
            match scan.next() {
                Ok(None) => {
                    assert!(expected.next().is_none(), "the scan ended early");
                    break;
                }
                Ok(Some((key, version))) => {
                    let ((model_key, model_lsn), value) = expected.next().expect("no more");
                    assert_eq!((key, version.lsn), (*model_key, *model_lsn));
                    assert!(version.value() == value.value(), "{key} at {}", version.lsn);
                }
                Err(error) => {
                    keep(error);
                    break;
                }
            }
        }
        if let Err(error) = scan {
            keep(error);
        }
        let space = LeakySpace::default();
        for &(key, lsn) in self.versions.keys() {
            let mut found = Vec::new();
            match file.versions(key, lsn, Lsn(0), &space, &mut |version| found.push(version)) {
                Err(error) => keep(error),
                Ok(walk) => {
                    let (expected, expected_walk) = self.read(key, lsn, Lsn(0));
                    assert_eq!(walk, expected_walk, "{key} from {lsn}");
                    assert!(same(&found, &expected), "{key} from {lsn}");
                }
            }
        }
        match file.tombstones().collect::<Result<Vec<_>>>() {
            Ok(found) => assert_eq!(found, self.tombstones),
            Err(error) => keep(error),
        }
        failed
    }
}

fn same(found: &[PageVersion<'_>], expected: &[(Lsn, &Owned)]) -> bool {
    found.len() == expected.len()
        && found
            .iter()
            .zip(expected)
            .all(|(found, (lsn, value))| found.lsn == *lsn && found.value() == value.value())
}

pub(crate) fn options(block_size: u32, zstd: bool) -> WriterOptions {
    let compression = if zstd { Compression::Zstd { level: 1 } } else { Compression::None };
    WriterOptions { block_size_target_bytes: block_size, compression }
}
