//! Damaged files: every bit of each file of a small store flipped, every file cut to every length,
//! random bits of a larger store, read in every way that there is. Opening, reading or verifying
//! says so, with file and offset; what is read nevertheless is as it was; nothing panics.
//!
//! That the tests see damage that gets through is shown by planting a bug:
//!
//! ```text
//! RUSTFLAGS='--cfg planted_bug="skip_checksum"' cargo test -p pagestrata --test all damage
//! ```

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use pagestrata::{
    Access, Compression, Durability, Error, Key, Kind, LayersError, Lsn, Options, Scratch, Store,
    Value,
    testing::{SimulatedStorage, fill_value},
};

use crate::support::put;

type Files = BTreeMap<PathBuf, Vec<u8>>;
/// What reads should find: of a key at an Lsn, the versions newest first.
type Expected = Vec<(Key, Lsn, Vec<(Lsn, Kind, Vec<u8>)>)>;

const DIR: &str = "store";
const WAYS: [Access; 3] = [Access::MMAP, Access::Pread, Access::Direct];

/// How damage came to light.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Open,
    Read,
    Verify,
}

fn options(compression: Compression) -> Options {
    let store_id = Some(0x5EED);
    Options {
        create: false,
        block_size_target_bytes: 1 << 10,
        compression,
        store_id,
        durability: Durability::External,
        ..Options::default()
    }
}

/// A store with an image layer, delta layers and what they hold. `scale`: how many times more than
/// fits one's screen.
fn store_of(scale: u32, compression: Compression) -> (Files, Expected) {
    let storage = SimulatedStorage::new();
    let created = Options { create: true, ..options(compression) };
    let (store, _) = Store::open_with(storage.shared(), DIR, created).unwrap();
    let timeline = store.create_timeline("main", Lsn(1)).unwrap();
    let mut lease = timeline.write_lease().unwrap();
    let mut import = lease.import_images(Lsn(5)).unwrap();
    for block in 0..2 * scale {
        import.put(Key::new(1, block), &fill_value(block.into(), block as u8, 200)).unwrap();
    }
    import.finish().unwrap();
    for number in 0..3 * u64::from(scale) {
        let key = Key::new(1, (number % (2 * u64::from(scale))) as u32);
        let bytes = fill_value(1000 + number, number as u8, 120);
        lease.put(key, Lsn(10 + number), Value::Delta { bytes: &bytes, will_init: false }).unwrap();
    }
    let last = Lsn(10 + 3 * u64::from(scale));
    lease.drop_blocks(1, 2 * scale - 1, last).unwrap();
    lease.put(Key::new(2, 7), last, Value::Image(b"")).unwrap();
    lease.commit(last).unwrap().wait().unwrap();
    lease.roll().unwrap();
    timeline.flush().unwrap();
    drop(lease);
    let mut expected = Vec::new();
    let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
    let guard = reader.pin();
    for lsn in [Lsn(5), Lsn(11), Lsn(10 + 2 * u64::from(scale)), last] {
        let keys = (0..=2 * scale).step_by(1 + scale as usize / 16).map(|block| Key::new(1, block));
        for key in keys.chain([Key::new(2, 7), Key::new(1, 2 * scale - 1)]) {
            let versions = guard.versions(key, lsn, &mut scratch).unwrap();
            let versions = versions.newest_first();
            let versions = versions.map(|found| (found.lsn, found.kind, found.bytes.to_vec()));
            expected.push((key, lsn, versions.collect()));
        }
    }
    store.close(std::time::Duration::ZERO).unwrap();
    (files_of(&storage), expected)
}

/// What a store is made of, without the file that is locked.
fn files_of(storage: &SimulatedStorage) -> Files {
    let mut files = storage.files();
    files.retain(|path, _| path.file_name().is_some_and(|name| name != "LOCK"));
    files
}

/// The error is of the kind that damage makes, names a file of the store, and a place in it.
fn check_error(error: &Error, files: &Files, what: &str) {
    let Error::Layers(error) = error else { panic!("{what}: {error}") };
    check_layers_error(error, files, what);
}

fn check_layers_error(error: &LayersError, files: &Files, what: &str) {
    let (path, offset) = match error {
        LayersError::Corrupt(corruption) => (&corruption.path, corruption.offset),
        LayersError::UnsupportedVersion { path, .. } | LayersError::Io { path, .. } => (path, 0),
        other => panic!("{what}: {other}"),
    };
    // A file whose name is in the damaged part is not among them, but it is where it should be.
    assert!(path.starts_with(DIR), "{what}: {error}");
    let len = files.get(path).map_or(u64::MAX, |bytes| bytes.len() as u64);
    assert!(offset <= len, "{what}: {error}");
}

/// Opens, reads and verifies a damaged store. Panics at a wrong answer, and where damage is not
/// seen at all.
fn examine(
    damaged: Files,
    files: &Files,
    expected: &Expected,
    options: Options,
    what: &str,
) -> Seen {
    let storage = SimulatedStorage::of_files(damaged);
    let store = match Store::open_with(storage.shared(), DIR, options) {
        Ok((store, _)) => store,
        Err(error) => {
            check_error(&error, files, what);
            return Seen::Open;
        }
    };
    let timeline = store.timeline("main").unwrap();
    let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
    let guard = reader.pin();
    let mut seen = None;
    for (key, lsn, expected) in expected {
        match guard.versions(*key, *lsn, &mut scratch) {
            Ok(found) => {
                let same = found.len() == expected.len()
                    && found.newest_first().zip(expected).all(|(found, expected)| {
                        (found.lsn, found.kind, found.bytes)
                            == (expected.0, expected.1, &*expected.2)
                    });
                assert!(same, "{what}: a wrong answer for {key} at {lsn}: {found:?}");
            }
            Err(error) => {
                check_error(&error, files, what);
                seen = Some(Seen::Read);
            }
        }
    }
    match timeline.verify() {
        Ok(_) => panic!("{what}: not seen by a verification"),
        Err(Error::Damaged { damaged, .. }) => {
            damaged.iter().for_each(|damaged| check_layers_error(&damaged.error, files, what));
        }
        Err(error) => panic!("{what}: {error}"),
    }
    seen.unwrap_or(Seen::Verify)
}

fn with_changed(files: &Files, path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> Files {
    let mut damaged = files.clone();
    change(damaged.get_mut(path).unwrap());
    damaged
}

#[test]
#[allow(clippy::print_stdout)]
fn every_bit_and_every_length_of_a_small_store() {
    let compression = Compression::None;
    let (files, expected) = store_of(1, compression);
    let suffixes = ["CURRENT", "00000001", ".image", ".delta"];
    let complete =
        |suffix: &&str| files.keys().any(|path| path.to_string_lossy().ends_with(*suffix));
    assert!(files.len() == 4 && suffixes.iter().all(complete), "{:?}", files.keys());
    for (path, bytes) in &files {
        let name = path.file_name().unwrap().to_string_lossy();
        let (mut flips, mut cuts) = ([0_u64; 3], 0);
        for bit in 0..bytes.len() * 8 {
            let damaged = with_changed(&files, path, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
            let seen = WAYS.map(|access| {
                let options = Options { access, ..options(compression) };
                let what = format!("{name}, bit {bit}, {access:?}");
                examine(damaged.clone(), &files, &expected, options, &what)
            });
            assert_eq!(seen, [seen[0]; 3], "{name}, bit {bit}");
            flips[seen[0] as usize] += 1;
        }
        for len in 0..bytes.len() {
            let damaged = with_changed(&files, path, |bytes| bytes.truncate(len));
            let what = format!("{name}, cut to {len}");
            let seen = examine(damaged, &files, &expected, options(compression), &what);
            assert_eq!(seen, Seen::Open, "{what}");
            cuts += 1;
        }
        let mut damaged = files.clone();
        damaged.remove(path);
        let storage = SimulatedStorage::of_files(damaged.clone());
        match Store::open_with(storage.shared(), DIR, options(compression)) {
            Err(Error::Layers(LayersError::Corrupt(lost))) => {
                assert_eq!((&lost.path, &*lost.found), (path, "nothing"), "{lost}");
            }
            other => panic!("without {name}: {other:?}"),
        }
        assert_eq!(files_of(&storage), damaged, "its files are not touched");
        let [open, read, verify] = flips;
        let detected: u64 = flips.iter().sum();
        println!(
            "{name}: {} flips, each read in {} ways, {detected} detected (open {open}, read {read}, verify {verify}); {cuts} cuts, {cuts} detected",
            bytes.len() * 8,
            WAYS.len()
        );
    }
}

#[test]
#[allow(clippy::print_stdout)]
fn random_bits_of_a_larger_store() {
    const FLIPS: u64 = 5_000;
    for compression in [Compression::None, Compression::Zstd { level: 1 }] {
        let seed = 0xDA_3A6E;
        let mut random = fastrand::Rng::with_seed(seed);
        let (files, expected) = store_of(2500, compression);
        let total: usize = files.values().map(Vec::len).sum();
        let mut seen = [0_u64; 3];
        for flip in 0..FLIPS {
            let access = WAYS[flip as usize % WAYS.len()];
            let (mut at, mut paths) = (random.usize(..total), files.iter());
            let path = loop {
                let (path, bytes) = paths.next().unwrap();
                if at < bytes.len() {
                    break path;
                }
                at -= bytes.len();
            };
            let bit = random.u8(..8);
            let damaged = with_changed(&files, path, |bytes| bytes[at] ^= 1 << bit);
            let path = path.display();
            let what = format!("seed {seed:#X}, {path}, byte {at}, bit {bit}, {access:?}");
            let options = Options { access, ..options(compression) };
            seen[examine(damaged, &files, &expected, options, &what) as usize] += 1;
        }
        let [open, read, verify] = seen;
        println!(
            "{total} bytes, {compression:?}: {FLIPS} flips, {} detected (open {open}, read {read}, verify {verify})",
            seen.iter().sum::<u64>()
        );
    }
}

/// Verifying goes on behind damage, in an open store and in one that cannot be opened.
#[test]
fn all_damaged_files_are_reported() {
    let compression = Compression::None;
    let storage = SimulatedStorage::of_files(store_of(1, compression).0);
    let open =
        || Store::open_with(storage.shared(), DIR, options(compression)).map(|(store, _)| store);
    let verify = |timeline| {
        let (mut told, mut last) = (0, None);
        let verified = Store::verify(&storage.shared(), DIR, timeline, &mut |report| {
            told += 1;
            last = Some(*report);
        });
        match verified {
            Ok(report) => {
                assert_eq!((told, Some(report)), (report.layer_files, last));
                Vec::new()
            }
            Err(Error::Damaged { report, damaged }) => {
                assert_eq!((told, Some(report)), (report.layer_files, last));
                let mut paths: Vec<_> = damaged.into_iter().map(|damaged| damaged.path).collect();
                paths.sort();
                paths
            }
            Err(error) => panic!("{error}"),
        }
    };
    let store = open().unwrap();
    let mut paths = Vec::new();
    for timeline in
        [store.timeline("main").unwrap(), store.create_timeline("other", Lsn(1)).unwrap()]
    {
        let lsn = Lsn(timeline.last_record_lsn().0 + 1);
        put(&timeline, Key::new(1, 0), lsn, b"x");
        timeline.flush().unwrap();
        paths.extend(timeline.layers().into_iter().map(|layer| layer.path));
    }
    assert_eq!(paths.len(), 4);
    drop(store);
    assert!(verify(None).is_empty());
    let mut damaged = vec![paths[0].clone(), paths[2].clone()];
    damaged.sort();
    // In data blocks, which opening does not read.
    for path in [&paths[0], &paths[2]] {
        storage.change(path, |bytes| bytes[100] ^= 1);
    }
    let store = open().unwrap();
    match store.timeline("main").unwrap().verify() {
        Err(Error::Damaged { report, damaged: found }) => {
            let mut found: Vec<_> = found.into_iter().map(|found| found.path).collect();
            found.sort();
            assert_eq!((report.layer_files, &found), (3, &damaged));
            assert!(report.versions > 0);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(store.timeline("other").unwrap().verify().unwrap().layer_files, 1);
    drop(store);
    storage.change(&paths[3], |bytes| bytes.truncate(1));
    assert!(open().is_err());
    assert_eq!(verify(Some("main")), damaged);
    assert_eq!(verify(Some("other")), paths[3..]);
    damaged.push(paths[3].clone());
    assert_eq!(verify(None), damaged);
    let none = Store::verify(&storage.shared(), DIR, Some("none"), &mut |_| {});
    assert!(matches!(none, Err(Error::NoTimeline { .. })));
}
