//! Layer files against a `BTreeMap`.

use std::path::Path;

use pagestrata_layers::{
    Error, Key, KeyRange, Lsn, VALUE_LEN_MAX, Value, WalkEnd,
    layer_file::{LayerFile, LayerKind, LayerWriter, Tombstone, WriterOptions},
    storage::RealStorage,
    testing::SimulatedStorage,
};
use proptest::prelude::*;

use crate::support::{ID, LeakySpace, Model, Numbers, Owned, open_each_way, options};

/// The shape of a layer; the rest follows from a seed.
#[derive(Debug, Clone)]
struct Shape {
    seed: u64,
    objects: u64,
    keys: u64,
    /// Distance of neighbouring keys: 1 is dense.
    stride: u64,
    /// Longest chain.
    versions_max: u64,
    value_len_max: u64,
    tombstones: u64,
}

fn shapes() -> impl Strategy<Value = Shape> {
    let keys = prop_oneof![0..4_u64, 4..60_u64, 300..900_u64];
    let stride = prop_oneof![Just(1), 2..1000_u64];
    let versions = prop_oneof![Just(1), 2..12_u64, 1000..3000_u64];
    let len = prop_oneof![Just(0), 1..300_u64, 8192..8193_u64, 100_000..3_000_000_u64];
    let tombstones = prop_oneof![Just(0), 1..8_u64, 3000..3001_u64];
    (any::<u64>(), 1..5_u64, keys, stride, versions, len, tombstones).prop_map(
        |(seed, objects, keys, stride, versions_max, value_len_max, tombstones)| Shape {
            seed,
            objects,
            keys,
            stride,
            versions_max,
            value_len_max,
            tombstones,
        },
    )
}

impl Shape {
    fn model(&self) -> Model {
        let mut numbers = Numbers::new(self.seed);
        let mut model = Model::default();
        // What one case may hold at most: the sizes multiply.
        let mut left = 6_u64 << 20;
        for index in 0..self.keys {
            let object = u128::from(numbers.below(self.objects)) << 64;
            let key = Key::new(object, (index * self.stride) as u32);
            // Chains of all lengths, mostly short ones.
            let versions = self.versions_max >> numbers.below(8);
            let mut lsn = 1 + numbers.below(50);
            for _ in 0..versions.max(1) {
                let len = self.value_len_max >> numbers.below(12);
                if left < len + 100 {
                    return model;
                }
                left -= len + 100;
                model.versions.insert((key, Lsn(lsn)), value(len, &mut numbers));
                lsn += 1 + numbers.below(5);
            }
        }
        let span = model.lsn_range();
        for _ in 0..self.tombstones {
            model.tombstones.push(Tombstone {
                object: u128::from(numbers.below(self.objects + 1)) << 64,
                lsn: Lsn(span.start.0 + numbers.below(span.end.0)),
                first_block: numbers.below(self.keys * self.stride + 2) as u32,
            });
        }
        model.tombstones.sort_unstable();
        model.tombstones.dedup();
        model
    }
}

/// Half noise, half zeros, so that some blocks get smaller.
fn value(len: u64, numbers: &mut Numbers) -> Owned {
    let mut bytes = vec![0; len as usize];
    let noisy = bytes.len() / 2;
    for piece in bytes[..noisy].chunks_mut(8) {
        piece.copy_from_slice(&numbers.next().to_le_bytes()[..piece.len()]);
    }
    match numbers.below(8) {
        0 => Owned::Image(bytes),
        1 => Owned::Delta(bytes, true),
        _ => Owned::Delta(bytes, false),
    }
}

fn check_random_reads(model: &Model, file: &LayerFile, numbers: &mut Numbers, reads: u64) {
    let keys: Vec<Key> = model.versions.keys().map(|(key, _)| *key).collect();
    let end = model.lsn_range().end.0 + 3;
    for _ in 0..reads {
        let key = match keys.get(numbers.below(keys.len() as u64 + 1) as usize) {
            Some(key) => Key::new(key.object, key.block.saturating_add(numbers.below(2) as u32)),
            None => Key::new(u128::from(numbers.next()), 3),
        };
        let lsn = Lsn(numbers.below(end));
        let floor = Lsn(numbers.below(end) >> numbers.below(12));
        model.check_read(file, key, lsn, floor);
        let here = model.versions.range((key, Lsn(0))..=(key, Lsn::MAX)).next().is_some();
        assert_eq!(file.contains(key).unwrap(), here);
    }
    for _ in 0..5 {
        let start = keys.get(numbers.below(keys.len() as u64 + 1) as usize);
        let start = start.map_or(Key::MAX, |key| Key::new(key.object, key.block ^ 1));
        let mut expected: Vec<Key> =
            model.versions.range((start, Lsn(0))..).map(|((key, _), _)| *key).collect();
        let mut scan = file.scan(start).unwrap();
        let first = model.versions.range((start, Lsn(0))..).next().map(|(place, _)| *place);
        scan.advance().unwrap();
        assert_eq!(scan.position(), first);
        expected.dedup();
        let found: Vec<Key> = file.keys_from(start).unwrap().map(Result::unwrap).collect();
        assert_eq!(found, expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 160, ..ProptestConfig::default() })]

    #[test]
    fn a_delta_layer_answers_as_the_model(
        shape in shapes(), zstd: bool, block_size in (10..17_u32).prop_map(|log| 1_u32 << log),
    ) {
        let model = shape.model();
        let (storage, path) = (SimulatedStorage::default(), Path::new("delta"));
        let options = options(block_size, zstd);
        let summary = model.write(&storage, path, ID, LayerKind::Delta, options);
        prop_assert_eq!(summary.versions, model.versions.len() as u64);
        for file in open_each_way(&storage.shared(), path, Some(&summary)).map(Result::unwrap) {
            let mut numbers = Numbers::new(shape.seed ^ 1);
            check_random_reads(&model, &file, &mut numbers, 200);
            if model.versions.len() < 5_000 {
                model.check_all(&file).unwrap();
            }
            if model.versions.len() < 500 {
                model.check_many(&file).unwrap();
            }
            let report = file.verify().unwrap();
            prop_assert_eq!(report.value_bytes, summary.value_bytes);
        }
    }
}

#[test]
fn a_chain_over_many_blocks_is_read_from_any_lsn() {
    let mut numbers = Numbers::new(7);
    for (block_size, zstd) in [(1 << 10, false), (1 << 10, true), (16 << 10, false)] {
        let mut model = Model::default();
        for block in [0, 1, 2, 9] {
            for lsn in 1..=if block == 1 { 100_000 } else { 3 } {
                let bytes = numbers.next().to_le_bytes().to_vec();
                let value = if lsn == 1 { Owned::Image(bytes) } else { Owned::Delta(bytes, false) };
                model.versions.insert((Key::new(1, block), Lsn(lsn * 2)), value);
            }
        }
        let (storage, path) = (SimulatedStorage::default(), Path::new("delta"));
        let summary = model.write(&storage, path, ID, LayerKind::Delta, options(block_size, zstd));
        for file in open_each_way(&storage.shared(), path, Some(&summary)).map(Result::unwrap) {
            for _ in 0..300 {
                let lsn = Lsn(numbers.below(200_010));
                let floor = Lsn(lsn.0.saturating_sub(numbers.below(3000)));
                model.check_read(&file, Key::new(1, 1), lsn, floor);
            }
            model.check_read(&file, Key::new(1, 1), Lsn::MAX, Lsn(0));
            model.check_read(&file, Key::new(1, 0), Lsn::MAX, Lsn(0));
            file.verify().unwrap();
        }
    }
}

#[test]
fn a_compressed_block_is_inflated_once_a_call() {
    let mut model = Model::default();
    for lsn in 1..=50 {
        model.versions.insert((Key::new(1, 1), Lsn(lsn)), Owned::Delta(vec![1; 500], false));
    }
    let (storage, path) = (SimulatedStorage::default(), Path::new("delta"));
    model.write(&storage, path, ID, LayerKind::Delta, options(64 << 10, true));
    let file = LayerFile::open(&storage, path, None).unwrap();
    let space = LeakySpace::default();
    let mut count = 0;
    let key = Key::new(1, 1);
    let walk = file.versions(key, Lsn(60), Lsn(0), &space, &mut |_| count += 1).unwrap();
    assert_eq!((walk, count, space.calls.get()), (WalkEnd::Older, 50, 1));
    assert!(space.longest() < 50 * (500 + 16) + 64);
}

#[test]
fn an_image_layer_knows_what_is_absent() {
    let mut model = Model::default();
    for block in [1, 2, 5] {
        model.versions.insert((Key::new(1, block), Lsn(7)), Owned::Image(vec![1; 100]));
    }
    for complete in [false, true] {
        let (storage, path) = (SimulatedStorage::default(), Path::new("image"));
        let kind = LayerKind::Image { complete };
        let mut writer =
            LayerWriter::create(&storage, path, ID, kind, WriterOptions::default()).unwrap();
        for ((key, lsn), value) in &model.versions {
            writer.put(*key, *lsn, value.value()).unwrap();
        }
        let range = KeyRange::inclusive(Key::new(1, 0), Key::new(1, 9));
        let summary = writer.finish(range, Lsn(7)..Lsn(8), &[]).unwrap();
        let file = LayerFile::open(&storage, path, Some(&summary)).unwrap();
        let space = LeakySpace::default();
        let walk = |block, lsn, floor| {
            let mut count = 0;
            let key = Key::new(1, block);
            let walk = file.versions(key, Lsn(lsn), Lsn(floor), &space, &mut |_| count += 1);
            (walk.unwrap(), count)
        };
        assert_eq!(walk(1, 7, 0), (WalkEnd::Base, 1));
        assert_eq!(walk(5, 9, 7), (WalkEnd::Base, 1));
        assert_eq!(walk(1, 6, 0), (WalkEnd::Older, 0), "below the layer's Lsn");
        assert_eq!(walk(1, 9, 8), (WalkEnd::Older, 0), "the floor is above");
        let absent = if complete { WalkEnd::Dropped } else { WalkEnd::Older };
        assert_eq!(walk(3, 7, 0), (absent, 0));
        assert_eq!(walk(3, 6, 0), (WalkEnd::Older, 0), "below the layer's Lsn");
        assert_eq!(walk(3, 9, 8), (WalkEnd::Older, 0), "the floor is above");
        assert_eq!(walk(10, 7, 0), (WalkEnd::Older, 0), "outside of the key range");
        file.verify().unwrap();
    }
}

#[test]
fn what_is_refused_changes_nothing() {
    let storage = SimulatedStorage::default();
    let create = |path: &str| {
        let (path, options) = (Path::new(path), WriterOptions::default());
        LayerWriter::create(&storage, path, ID, LayerKind::Delta, options).unwrap()
    };
    let (key, value) = (Key::new(2, 2), Value::Image(b"x"));
    let mut writer = create("refused");
    writer.put(key, Lsn(5), value).unwrap();
    for (key, lsn) in [(key, 5), (key, 4), (Key::new(2, 1), 9), (Key::new(1, 3), 9)] {
        let error = writer.put(key, Lsn(lsn), value).unwrap_err();
        assert!(matches!(error, Error::OutOfOrder { .. }), "{error}");
    }
    let long = vec![0; VALUE_LEN_MAX + 1];
    let error = writer.put(key, Lsn(6), Value::Image(&long)).unwrap_err();
    assert!(matches!(error, Error::ValueTooLong { .. }), "{error}");
    writer.put(key, Lsn(6), Value::Image(&long[1..])).unwrap();
    writer.finish(KeyRange::ALL, Lsn(1)..Lsn(7), &[]).unwrap();
    let mut writer = create("plain");
    writer.put(key, Lsn(5), value).unwrap();
    writer.put(key, Lsn(6), Value::Image(&long[1..])).unwrap();
    writer.finish(KeyRange::ALL, Lsn(1)..Lsn(7), &[]).unwrap();
    assert!(storage.bytes(Path::new("refused")) == storage.bytes(Path::new("plain")));

    let tombstone = Tombstone { object: 1, lsn: Lsn(3), first_block: 0 };
    let error = create("third").finish(KeyRange::ALL, Lsn(1)..Lsn(7), &[tombstone; 2]).unwrap_err();
    assert!(matches!(error, Error::OutOfOrder { .. }), "{error}");
}

#[test]
fn an_unfinished_file_is_not_opened() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("delta");
    let kind = LayerKind::Delta;
    let create = || LayerWriter::create(&RealStorage, &path, ID, kind, WriterOptions::default());
    let mut writer = create().unwrap();
    for block in 0..10_000 {
        writer.put(Key::new(1, block), Lsn(1), Value::Image(&[1; 100])).unwrap();
    }
    drop(writer);
    assert!(matches!(LayerFile::open(&RealStorage, &path, None), Err(Error::Corrupt(_))));
    assert!(matches!(create(), Err(Error::Io { operation: "create", .. })));
}

#[test]
fn images_are_aligned_where_they_are_borrowed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("delta");
    let mut model = Model::default();
    for block in 0..100 {
        let key = Key::new(1, block);
        model.versions.insert((key, Lsn(1)), Owned::Delta(vec![1; block as usize], false));
        model.versions.insert((key, Lsn(2)), Owned::Image(vec![2; 100 + block as usize]));
    }
    model.write(&RealStorage, &path, ID, LayerKind::Delta, WriterOptions::default());
    let file = LayerFile::open(&RealStorage, &path, None).unwrap();
    let space = LeakySpace::default();
    for (key, _) in model.versions.keys() {
        file.versions(*key, Lsn(2), Lsn(0), &space, &mut |version| {
            assert_eq!(version.bytes.as_ptr().addr() % 8, 0);
        })
        .unwrap();
    }
    assert_eq!(space.calls.get(), 0);
}
