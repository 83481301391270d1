//! Writes versions and tombstones to a layer file and reads them back in every way: the answers
//! must be those of a sorted map. Then damages the file: each read must fail or still be right, and
//! verification must always detect the damage.
#![no_main]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use pagestrata::{
    LayerKind, LayersError, PageVersion,
    storage::Storage,
    testing::{KeyChoice, SimulatedStorage, ValueChoice, fill_value},
};
use pagestrata_layers::{
    Key, KeyRange, Kind, Lsn, ScratchArena, WalkEnd,
    layer_file::{
        AccessMode, AccessOptions, Compression, LayerAccess, LayerFile, LayerId, LayerWriter,
        Tombstone, VersionQuery, WriterOptions,
    },
};

#[derive(Debug, Arbitrary)]
struct Input {
    access: u8,
    compressed: bool,
    block_size: u8,
    image_layer: Option<bool>,
    entries: Vec<Entry>,
    tombstones: Vec<(KeyChoice, u16)>,
    damage: Vec<Damage>,
}

#[derive(Debug, Arbitrary)]
struct Entry {
    key: KeyChoice,
    lsn: u16,
    kind: u8,
    value: ValueChoice,
    /// How many further versions, at the following Lsns.
    more: u8,
}

#[derive(Debug, Arbitrary)]
enum Damage {
    Change { at: u32, xor: u8 },
    Swap { from: u16, to: u16 },
    Cut { len: u32 },
}

const DIR: &str = "layers";
const PATH: &str = "layers/layer";
const ID: LayerId = LayerId { store: 1, timeline: 2, sequence: 3 };
const IMAGE_LSN: u64 = 500;
const VALUE_BYTES_MAX: usize = 256 << 10;

type Versions = BTreeMap<(Key, Lsn), (Kind, Vec<u8>)>;

struct Content {
    kind: LayerKind,
    versions: Versions,
    /// The pages stored with some of the deltas.
    pages: BTreeMap<(Key, Lsn), Vec<u8>>,
    tombstones: BTreeSet<Tombstone>,
}

impl Input {
    fn content(&self) -> Content {
        let (mut versions, mut bytes_left) = (Versions::new(), VALUE_BYTES_MAX);
        let mut pages = BTreeMap::new();
        for entry in &self.entries {
            let key = entry.key.key();
            for n in 0..=u64::from(entry.more % 64) {
                let lsn = match self.image_layer {
                    Some(_) => IMAGE_LSN,
                    None => 1 + u64::from(entry.lsn) + n,
                };
                let kind = match (self.image_layer, entry.kind % 4) {
                    (Some(_), _) | (None, 0) => Kind::Image,
                    (None, will_init) => Kind::Delta { will_init: will_init == 1 },
                };
                let len = entry.value.len().min(bytes_left);
                bytes_left -= len;
                let number = versions.len() as u64;
                versions.insert((key, Lsn(lsn)), (kind, fill_value(number, entry.value.fill, len)));
                pages.remove(&(key, Lsn(lsn)));
                if entry.kind >= 128 && kind != Kind::Image {
                    let len = entry.value.len().min(bytes_left);
                    bytes_left -= len;
                    pages.insert((key, Lsn(lsn)), fill_value(number + 1, entry.value.fill, len));
                }
            }
        }
        let mut tombstones = BTreeSet::new();
        for (key, lsn) in self.tombstones.iter().filter(|_| self.image_layer.is_none()) {
            let Key { object, block } = key.key();
            let lsn = Lsn(1 + u64::from(*lsn));
            tombstones.insert(Tombstone { object, first_block: block, lsn });
        }
        let kind =
            self.image_layer.map_or(LayerKind::Delta, |complete| LayerKind::Image { complete });
        Content { kind, versions, pages, tombstones }
    }

    /// Opens the file in one of the access modes, with a minimal cache.
    fn open(&self, storage: &SimulatedStorage) -> Result<LayerFile, LayersError> {
        let mode = match self.access % 3 {
            0 => AccessMode::Mmap,
            1 => AccessMode::Pread,
            _ => AccessMode::Direct,
        };
        let options = AccessOptions { mode, cache_max_bytes: 64 << 10, ..AccessOptions::default() };
        LayerAccess::new(storage.shared(), options).open(Path::new(PATH), None)
    }

    fn damage(&self, bytes: &mut Vec<u8>) {
        for damage in &self.damage {
            let len = bytes.len().max(1);
            match *damage {
                Damage::Change { at, xor } => {
                    if let Some(byte) = bytes.get_mut(at as usize % len) {
                        *byte ^= xor;
                    }
                }
                Damage::Swap { from, to } => {
                    let (from, to) = (usize::from(from) * 64 % len, usize::from(to) * 64 % len);
                    let n = 64.min(bytes.len() - from).min(bytes.len() - to);
                    let piece = bytes[from..from + n].to_vec();
                    bytes[to..to + n].copy_from_slice(&piece);
                }
                Damage::Cut { len: to } => bytes.truncate(to as usize % len),
            }
        }
    }
}

impl Content {
    fn write(&self, storage: &SimulatedStorage, input: &Input) {
        let options = WriterOptions {
            block_size_target_bytes: 1 << (10 + input.block_size % 5),
            compression: match input.compressed {
                true => Compression::Zstd { level: 1 },
                false => Compression::None,
            },
        };
        let path = Path::new(PATH);
        let mut writer = LayerWriter::create(storage, path, ID, self.kind, options).unwrap();
        for ((key, lsn), (kind, bytes)) in &self.versions {
            let value = PageVersion { lsn: *lsn, kind: *kind, bytes }.value();
            match self.pages.get(&(*key, *lsn)) {
                Some(page) => writer.put_with_page(*key, *lsn, value, page).unwrap(),
                None => writer.put(*key, *lsn, value).unwrap(),
            }
        }
        let lsns = match self.kind {
            LayerKind::Delta => Lsn(1)..Lsn(1 << 20),
            LayerKind::Image { .. } => Lsn(IMAGE_LSN)..Lsn(IMAGE_LSN + 1),
        };
        let tombstones: Vec<_> = self.tombstones.iter().copied().collect();
        let summary = writer.finish(KeyRange::ALL, lsns, &tombstones).unwrap();
        let file = LayerFile::open(storage, path, Some(&summary)).unwrap();
        assert!(file.verify().is_ok());
    }

    /// Returns what a read must find, and how it must end.
    fn find(&self, key: Key, lsn: Lsn, floor: Lsn) -> (Vec<PageVersion<'_>>, WalkEnd) {
        let dropped = self.tombstones.iter().filter(|tombstone| {
            (tombstone.object, tombstone.lsn <= lsn, tombstone.lsn >= floor)
                == (key.object, true, true)
                && tombstone.first_block <= key.block
        });
        let dropped = dropped.map(|tombstone| tombstone.lsn).max();
        let mut found = Vec::new();
        let all = self.versions.range((key, floor)..=(key, lsn));
        for (&(_, lsn), (kind, bytes)) in all.rev() {
            if dropped.is_some_and(|dropped| lsn < dropped) {
                break;
            }
            if let Some(bytes) = self.pages.get(&(key, lsn)) {
                found.push(PageVersion { lsn, kind: Kind::Image, bytes });
                return (found, WalkEnd::Base);
            }
            found.push(PageVersion { lsn, kind: *kind, bytes });
            if *kind != (Kind::Delta { will_init: false }) {
                return (found, WalkEnd::Base);
            }
        }
        let has_key = self.versions.contains_key(&(key, Lsn(IMAGE_LSN)));
        let absent = self.kind == LayerKind::Image { complete: true }
            && !has_key
            && (floor..=lsn).contains(&Lsn(IMAGE_LSN));
        (found, if dropped.is_some() || absent { WalkEnd::Dropped } else { WalkEnd::Older })
    }

    /// Returns all versions, and the pages stored with deltas.
    fn all(&self) -> Vec<(Key, Lsn, Kind, &[u8])> {
        let mut all = Vec::new();
        for (at, (kind, bytes)) in &self.versions {
            all.push((at.0, at.1, *kind, &bytes[..]));
            all.extend(self.pages.get(at).map(|page| (at.0, at.1, Kind::Image, &page[..])));
        }
        all
    }

    fn keys(&self) -> BTreeSet<Key> {
        self.versions.keys().map(|(key, _)| *key).collect()
    }

    /// Reads everything. Returns the first error; panics on a wrong answer.
    fn read_back(&self, file: &LayerFile) -> Result<(), LayersError> {
        let mut failed = Ok(());
        let mut or_fail = |result: Result<(), LayersError>| {
            if let Err(error) = result {
                check_error(&error);
                failed = Err(error);
            }
        };
        let mut space = ScratchArena::default();
        let mut asked = self.keys();
        asked.extend(self.keys().into_iter().filter_map(Key::next));
        asked.extend(
            self.tombstones
                .iter()
                .map(|tombstone| Key { object: tombstone.object, block: tombstone.first_block }),
        );
        let mut all = Vec::new();
        for &key in asked.iter().take(60) {
            let lsns: Vec<_> = self
                .versions
                .range((key, Lsn(0))..=(key, Lsn::MAX))
                .map(|((_, lsn), _)| lsn.0)
                .collect();
            let middle = lsns.get(lsns.len() / 2).copied().unwrap_or(IMAGE_LSN);
            for (lsn, floor) in
                [(1 << 20, 0), (middle, 0), (middle.saturating_sub(1), 0), (1 << 20, middle)]
            {
                let asked = VersionQuery { key, lsn: Lsn(lsn), floor: Lsn(floor) };
                or_fail(self.read_one(file, asked, &space));
                space.reset();
                all.push(asked);
            }
            or_fail(file.contains(key).map(|found| assert_eq!(found, !lsns.is_empty())));
        }
        or_fail(self.read_many(file, &all, &space));
        space.reset();
        or_fail((|| {
            let keys = file.keys_from(Key::MIN)?.collect::<Result<Vec<_>, _>>()?;
            assert!(keys.into_iter().eq(self.keys()));
            Ok(())
        })());
        or_fail((|| {
            let tombstones = file.tombstones().collect::<Result<BTreeSet<_>, _>>()?;
            assert_eq!(tombstones, self.tombstones);
            Ok(())
        })());
        or_fail((|| {
            let (mut scan, mut expected) = (file.scan(Key::MIN)?, self.all().into_iter());
            while let Some((key, version)) = scan.next()? {
                let (of, lsn, kind, bytes) = expected.next().expect("no more were put");
                assert!(
                    (key, version.lsn, version.kind) == (of, lsn, kind) && *version.bytes == *bytes
                );
            }
            assert!(expected.next().is_none());
            Ok(())
        })());
        failed
    }

    fn read_one(
        &self,
        file: &LayerFile,
        asked: VersionQuery,
        space: &ScratchArena,
    ) -> Result<(), LayersError> {
        let (VersionQuery { key, lsn, floor }, mut found) = (asked, Vec::new());
        let walk = file.versions(key, lsn, floor, space, &mut |version| found.push(version))?;
        self.check(asked, &found, walk);
        Ok(())
    }

    /// Reads all at once. Returns the first error, after checking everything that was read.
    fn read_many(
        &self,
        file: &LayerFile,
        asked: &[VersionQuery],
        space: &ScratchArena,
    ) -> Result<(), LayersError> {
        let mut found = vec![Vec::new(); asked.len()];
        let mut ended: Vec<_> = asked.iter().map(|_| None).collect();
        let out = &mut |index: usize, version| found[index].push(version);
        file.versions_of_many(asked, space, out, &mut |index, walk| {
            assert!(ended[index].replace(walk).is_none(), "ended twice");
        });
        let mut failed = Ok(());
        for ((asked, found), walk) in asked.iter().zip(&found).zip(ended) {
            match walk.expect("each ends") {
                Ok(walk) => self.check(*asked, found, walk),
                Err(error) => {
                    check_error(&error);
                    failed = Err(error);
                }
            }
        }
        failed
    }

    fn check(&self, asked: VersionQuery, found: &[PageVersion<'_>], walk: WalkEnd) {
        let expected = self.find(asked.key, asked.lsn, asked.floor);
        assert_eq!(walk, expected.1, "{asked:?}");
        assert!(found == expected.0, "{asked:?}: other versions");
    }
}

/// An error about a damaged file must name it and the place.
fn check_error(error: &LayersError) {
    match error {
        LayersError::Corrupt(corruption) => assert_eq!(corruption.path, Path::new(PATH)),
        LayersError::UnsupportedVersion { path, .. } | LayersError::Io { path, .. } => {
            assert_eq!(path, Path::new(PATH));
        }
        LayersError::OutOfMemory { .. } => {}
        other => panic!("{other}"),
    }
}

fuzz_target!(|input: Input| {
    let (storage, content) = (SimulatedStorage::new(), input.content());
    storage.create_dir(Path::new(DIR)).unwrap();
    content.write(&storage, &input);
    let path = Path::new(PATH);
    let file = input.open(&storage).unwrap();
    content.read_back(&file).unwrap();
    let sound = storage.files().remove(path).unwrap();
    storage.change(path, |bytes| input.damage(bytes));
    let damaged = storage.files().remove(path).unwrap() != sound;
    match input.open(&storage) {
        Ok(file) => {
            let read = content.read_back(&file);
            let verified = file.verify();
            assert_eq!(verified.is_err(), damaged, "{verified:?}");
            assert!(damaged || read.is_ok());
        }
        Err(error) => {
            assert!(damaged, "{error}");
            check_error(&error);
        }
    }
});
