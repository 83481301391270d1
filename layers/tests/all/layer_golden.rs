//! Layer files that were written once and have to stay readable, byte for byte what a writer makes.
//!
//! `PAGESTRATA_WRITE_GOLDEN=1` writes those that do not exist.

use std::path::{Path, PathBuf};

use pagestrata_layers::{
    Key, Lsn,
    layer_file::{LayerFile, LayerKind, Tombstone},
    storage::RealStorage,
    testing::SimulatedStorage,
};

use crate::support::{ID, Model, Owned, options};

fn delta() -> Model {
    let mut model = Model::default();
    let mut put = |object, block, lsn, value| {
        model.versions.insert((Key::new(object, block), Lsn(lsn)), value);
    };
    for block in 0..40_u32 {
        put(1, block, 0x1_0000_0010, Owned::Image(vec![block as u8; 32]));
        put(1, block, 0x1_0000_0020, Owned::Delta(b"changed".to_vec(), false));
    }
    for lsn in 0..30 {
        put(1 << 100, 7, 0x1_0000_0030 + lsn, Owned::Delta(vec![lsn as u8; 100], lsn == 20));
    }
    put(u128::MAX, u32::MAX, 0x2_0000_0000, Owned::Delta(Vec::new(), true));
    model.tombstones = vec![
        Tombstone { object: 1, lsn: Lsn(0x1_0000_0015), first_block: 30 },
        Tombstone { object: 2, lsn: Lsn(0x1_0000_0010), first_block: 0 },
    ];
    model
}

fn image() -> Model {
    let mut model = Model::default();
    for block in (0..60_u32).step_by(3) {
        let image = Owned::Image((0..90).map(|byte| byte ^ block as u8).collect());
        model.versions.insert((Key::new(5, block), Lsn(0x55)), image);
    }
    model
}

fn path_of(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)
}

/// A file of version 1, which has no filter: it is read, and no longer written.
fn check_old(name: &str, model: &Model) {
    let file = LayerFile::open(&RealStorage, &path_of(name), None).unwrap();
    model.check_all(&file).unwrap();
    let report = file.verify().unwrap();
    assert_eq!((report.versions, report.filter_blocks), (model.versions.len() as u64, 0));
}

/// `exact`: the bytes have to be the same too, which a compressor does not promise.
fn check(name: &str, model: &Model, kind: LayerKind, zstd: bool, exact: bool) {
    let path = path_of(name);
    let (storage, memory_path) = (SimulatedStorage::default(), Path::new(name));
    let summary = model.write(&storage, memory_path, ID, kind, options(1 << 10, zstd));
    let written = storage.bytes(memory_path);
    if std::env::var_os("PAGESTRATA_WRITE_GOLDEN").is_some() && !path.exists() {
        std::fs::write(&path, &written).unwrap();
    }
    if exact {
        assert!(written == std::fs::read(&path).unwrap(), "{name} is written otherwise now");
    }
    let file = LayerFile::open(&RealStorage, &path, exact.then_some(&summary)).unwrap();
    model.check_all(&file).unwrap();
    assert_eq!(file.verify().unwrap().versions, model.versions.len() as u64);
}

#[test]
fn golden_files_are_written_and_read_the_same() {
    check("delta-v2.layer", &delta(), LayerKind::Delta, false, true);
    check("image-v2.layer", &image(), LayerKind::Image { complete: true }, false, true);
    check("image-sparse-v2.layer", &image(), LayerKind::Image { complete: false }, false, true);
    check("delta-zstd-v2.layer", &delta(), LayerKind::Delta, true, false);
}

#[test]
fn golden_files_of_version_1_are_read_the_same() {
    check_old("delta-v1.layer", &delta());
    check_old("image-v1.layer", &image());
    check_old("delta-zstd-v1.layer", &delta());
}
