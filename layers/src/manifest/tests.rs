//! The manifest against a plain state, and against every damage.

use std::{fs, sync::Arc};

use super::{
    edit::{LayerRecord, TimelineState},
    *,
};
use crate::{
    Key, KeyRange, Lsn,
    layer_file::{LayerId, LayerKind, LayerSummary},
    storage::RealStorage,
};

const STORE: u128 = 0x1234_5678_9ABC_DEF0_0FED_CBA9_8765_4321;

fn storage() -> SharedStorage {
    Arc::new(RealStorage)
}

fn layer(timeline: u64, sequence: u64) -> Edit {
    let summary = LayerSummary {
        id: LayerId { store: STORE, timeline, sequence },
        kind: if sequence.is_multiple_of(2) {
            LayerKind::Delta
        } else {
            LayerKind::Image { complete: sequence.is_multiple_of(3) }
        },
        key_range: KeyRange {
            start: Key::new(7, 8),
            end: (!sequence.is_multiple_of(5)).then_some(Key::new(9, 1)),
        },
        lsn_range: Lsn(sequence)..Lsn(sequence + 10),
        file_len: 4096,
        digest: u128::MAX / 3,
        keys: 1,
        versions: 2,
        value_bytes: 3,
        tombstones: 4,
    };
    Edit::AddLayer(LayerRecord { level: 0, summary })
}

/// A store's manifest with some history, and its state.
fn written(dir: &Path) -> State {
    let mut manifest = Manifest::create(storage(), dir, STORE).unwrap();
    let create = |timeline, name: &str| Edit::CreateTimeline {
        timeline,
        name: name.to_owned(),
        start: Lsn(16),
    };
    manifest.append(&[create(1, "main"), Edit::NextSequence(3)]).unwrap();
    manifest.append(&[layer(1, 1), Edit::DiskConsistent { timeline: 1, lsn: Lsn(20) }]).unwrap();
    manifest.append(&[create(2, "other"), layer(2, 2)]).unwrap();
    manifest
        .append(&[
            Edit::NextSequence(4),
            layer(1, 3),
            Edit::RemoveLayer { timeline: 1, sequence: 1 },
        ])
        .unwrap();
    manifest.state().clone()
}

#[test]
fn reopening_finds_the_same_state() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Manifest::open(storage(), dir.path()).unwrap().is_none());
    let state = written(dir.path());
    let expected = TimelineState {
        name: "main".to_owned(),
        start: Lsn(16),
        disk_consistent_lsn: Lsn(20),
        layers: [layer(1, 3)]
            .map(|edit| match edit {
                Edit::AddLayer(layer) => (3, layer),
                _ => unreachable!(),
            })
            .into(),
    };
    assert_eq!((&state.timelines[&1], state.next_sequence), (&expected, 4));
    let (manifest, report) = Manifest::open(storage(), dir.path()).unwrap().unwrap();
    assert_eq!((manifest.state(), manifest.store()), (&state, STORE));
    assert_eq!((report.records, report.cut_bytes), (5, 0));
}

#[test]
fn edits_that_contradict_the_state_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let state = written(dir.path());
    let (mut manifest, _) = Manifest::open(storage(), dir.path()).unwrap().unwrap();
    for edit in [
        layer(1, 3),
        layer(9, 3),
        layer(1, 4),
        Edit::RemoveLayer { timeline: 1, sequence: 1 },
        Edit::CreateTimeline { timeline: 3, name: "main".to_owned(), start: Lsn(1) },
        Edit::DiskConsistent { timeline: 1, lsn: Lsn(19) },
        Edit::NextSequence(1),
    ] {
        assert!(manifest.append(std::slice::from_ref(&edit)).is_err(), "{edit:?}");
    }
    assert_eq!(manifest.state(), &state);
}

/// Edits of one record follow each other, as those of different records do.
#[test]
fn edits_of_one_record_that_contradict_each_other_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let state = written(dir.path());
    let (mut manifest, _) = Manifest::open(storage(), dir.path()).unwrap().unwrap();
    let create = |timeline, name: &str, start| Edit::CreateTimeline {
        timeline,
        name: name.to_owned(),
        start: Lsn(start),
    };
    let consistent = |timeline, lsn| Edit::DiskConsistent { timeline, lsn: Lsn(lsn) };
    for edits in [
        [create(3, "third", 1), create(4, "third", 1)],
        [create(3, "third", 1), create(3, "fourth", 1)],
        [create(3, "third", 30), consistent(3, 28)],
        [consistent(1, 30), consistent(1, 29)],
        [layer(1, 2), layer(1, 2)],
        [Edit::NextSequence(9), Edit::NextSequence(8)],
    ] {
        let error = manifest.append(&edits).unwrap_err();
        assert!(matches!(error, Error::Corrupt(_)), "{edits:?}: {error}");
    }
    // What no layer and no timeline can have.
    let with = |change: fn(&mut LayerSummary)| match layer(1, 2) {
        Edit::AddLayer(mut layer) => {
            change(&mut layer.summary);
            Edit::AddLayer(layer)
        }
        _ => unreachable!(),
    };
    let (long, highest) = ("n".repeat(256), u64::MAX);
    for edit in [
        with(|summary| summary.lsn_range.end = summary.lsn_range.start),
        with(|summary| summary.lsn_range.start = Lsn(0)),
        with(|summary| summary.key_range.end = Some(summary.key_range.start)),
        create(3, "", 1),
        create(3, &long, 1),
        create(3, "third", 0),
        create(3, "third", highest),
        consistent(1, highest),
    ] {
        let error = manifest.append(std::slice::from_ref(&edit)).unwrap_err();
        assert!(matches!(error, Error::Corrupt(_)), "{edit:?}: {error}");
    }
    assert_eq!(manifest.state(), &state);
    let good = [create(3, "third", 30), consistent(3, 29), create(4, "fourth", 1), layer(3, 2)];
    manifest.append(&good).unwrap();
    let (manifest, _) = Manifest::open(storage(), dir.path()).unwrap().unwrap();
    assert_eq!(manifest.state().timelines.len(), 4);
}

#[test]
fn an_edit_that_was_not_committed_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let state = written(dir.path());
    let path = dir.path().join("MANIFEST-00000001");
    let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    std::io::Write::write_all(&mut file, b"half an edit").unwrap();
    let (mut manifest, report) = Manifest::open(storage(), dir.path()).unwrap().unwrap();
    assert_eq!((manifest.state(), report.cut_bytes), (&state, 12));
    manifest.append(&[Edit::NextSequence(40)]).unwrap();
    let (manifest, report) = Manifest::open(storage(), dir.path()).unwrap().unwrap();
    assert_eq!((manifest.state().next_sequence, report.cut_bytes), (40, 0));
    assert!(!path.exists(), "the old manifest is removed");
}

#[test]
fn it_is_rewritten_before_it_grows_without_bound() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path());
    let (mut manifest, _) = Manifest::open(storage(), dir.path()).unwrap().unwrap();
    for n in 0..9000 {
        let edits = [
            Edit::NextSequence(n + 6),
            layer(1, n + 5),
            Edit::RemoveLayer { timeline: 1, sequence: n + 4 },
        ];
        manifest.append(&edits[..if n == 0 { 2 } else { 3 }]).unwrap();
    }
    let state = manifest.state().clone();
    assert!(manifest.number > 1 && manifest.len < REWRITE_LEN_MIN + 1000, "{manifest:?}");
    assert_eq!(Manifest::open(storage(), dir.path()).unwrap().unwrap().0.state(), &state);
}

/// No store gets there; one that says so is read, and refuses what it cannot write.
#[test]
fn no_manifest_follows_the_highest_number() {
    let dir = tempfile::tempdir().unwrap();
    let number = u64::MAX;
    let mut bytes = encode_header(STORE, number);
    let head_crc = crc32c::crc32c(&bytes[..HEADER_LEN - 4]);
    let (record, chain) = encode_record(head_crc, &[Edit::NextSequence(7)]).unwrap();
    bytes.extend_from_slice(&record);
    let current = Current { store: STORE, number, len: bytes.len() as u64, chain };
    bytes.extend_from_slice(b"half an edit");
    fs::write(dir.path().join(manifest_name(number)), bytes).unwrap();
    fs::write(dir.path().join(CURRENT_NAME), current.encode()).unwrap();
    let (mut manifest, _) = Manifest::open(storage(), dir.path()).unwrap().unwrap();
    let error = manifest.append(&[Edit::NextSequence(8)]).unwrap_err();
    assert!(matches!(error, Error::Full { .. }), "{error}");
    assert_eq!(manifest.state().next_sequence, 7);
}

/// Every flipped bit and every truncation of both files is an error that names the file, or changes
/// nothing.
#[test]
fn any_damage_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path());
    for name in ["MANIFEST-00000001", CURRENT_NAME] {
        let path = dir.path().join(name);
        let good = fs::read(&path).unwrap();
        let expect_error = |what: &str| match Manifest::open(storage(), dir.path()) {
            Err(Error::Corrupt(corruption)) => assert_eq!(corruption.path, path, "{what}"),
            Err(Error::UnsupportedVersion { .. }) => {}
            other => panic!("{name} with {what}: {other:?}"),
        };
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, bytes).unwrap();
            expect_error(&format!("bit {bit} flipped"));
        }
        for len in 0..good.len() {
            fs::write(&path, &good[..len]).unwrap();
            expect_error(&format!("{len} bytes"));
        }
        fs::write(&path, &good).unwrap();
    }
}

/// The error is a corruption that names this file and found nothing.
#[track_caller]
fn assert_lost(opened: Result<Option<(Manifest, ManifestReport)>>, path: &Path) {
    match opened {
        Err(Error::Corrupt(corruption)) => {
            assert_eq!((&*corruption.path, &*corruption.found), (path, "nothing"), "{corruption}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_that_is_missing_is_corruption() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path());
    let (first, second) =
        (dir.path().join("MANIFEST-00000001"), dir.path().join("MANIFEST-00000002"));
    let current = dir.path().join(CURRENT_NAME);
    fs::rename(&first, &second).unwrap();
    assert_lost(Manifest::open(storage(), dir.path()), &first);
    fs::remove_file(&current).unwrap();
    assert_lost(Manifest::open(storage(), dir.path()), &current);
    fs::rename(&second, &first).unwrap();
    assert_lost(Manifest::open(storage(), dir.path()), &current);
}

/// Nothing is lost with a CURRENT that may never have been.
#[test]
fn a_creation_that_never_committed_is_no_store() {
    let dir = tempfile::tempdir().unwrap();
    drop(Manifest::create(storage(), dir.path(), STORE).unwrap());
    fs::remove_file(dir.path().join(CURRENT_NAME)).unwrap();
    let path = dir.path().join("MANIFEST-00000001");
    for len in (0..=fs::metadata(&path).unwrap().len()).rev() {
        fs::File::options().write(true).open(&path).unwrap().set_len(len).unwrap();
        assert!(Manifest::open(storage(), dir.path()).unwrap().is_none(), "{len} bytes");
    }
    drop(Manifest::create(storage(), dir.path(), STORE).unwrap());
    assert!(Manifest::open(storage(), dir.path()).unwrap().is_some());
}

/// A directory that became another store's, or is no store's any more, is left as it is.
#[test]
fn no_other_store_is_replaced() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    written(dir.path());
    drop(Manifest::create(storage(), other.path(), STORE + 1).unwrap());
    let current = dir.path().join(CURRENT_NAME);
    let ours = fs::read(&current).unwrap();
    let theirs = fs::read(other.path().join(CURRENT_NAME)).unwrap();
    let (mut manifest, _) = Manifest::open(storage(), dir.path()).unwrap().unwrap();
    let edit = [Edit::NextSequence(50)];

    fs::write(&current, &theirs).unwrap();
    for _ in 0..3 {
        let refused = manifest.append(&edit).unwrap_err();
        let expected = format!("expected that of store {STORE:032X}, found that of store");
        assert!(refused.to_string().contains(&expected), "{refused}");
        let is_other = |found| found == Some(STORE + 1);
        assert!(matches!(refused, Error::OtherStore { found, .. } if is_other(found)));
        assert_eq!(fs::read(&current).unwrap(), theirs);
    }
    fs::remove_file(&current).unwrap();
    let refused = manifest.append(&edit).unwrap_err();
    assert!(matches!(refused, Error::OtherStore { found: None, .. }), "{refused}");
    assert!(!current.exists());
    // Back again, it goes on, with none of what was refused.
    fs::write(&current, &ours).unwrap();
    manifest.append(&[Edit::NextSequence(60)]).unwrap();
    let (reopened, _) = Manifest::open(storage(), dir.path()).unwrap().unwrap();
    assert_eq!(reopened.state(), manifest.state());
    // Nor is a store made where another has been made meanwhile.
    let taken = Manifest::create(storage(), other.path(), STORE).unwrap_err();
    assert!(matches!(taken, Error::OtherStore { .. }), "{taken}");
    assert_eq!(fs::read(other.path().join(CURRENT_NAME)).unwrap(), theirs);
    assert_eq!(Manifest::open(storage(), other.path()).unwrap().unwrap().0.store(), STORE + 1);
}

/// A state that is longer than a record is rewritten as several, and an edit that is longer is
/// refused.
#[test]
fn a_record_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let mut manifest = Manifest::create(storage(), dir.path(), STORE).unwrap();
    let name = "main".to_owned();
    let create = Edit::CreateTimeline { timeline: 1, name, start: Lsn(16) };
    manifest.append(&[create, Edit::NextSequence(1 << 20)]).unwrap();
    let layers = |numbers: std::ops::Range<u64>| -> Vec<Edit> {
        numbers.map(|sequence| layer(1, sequence + 1)).collect()
    };
    match manifest.append(&layers(0..10_000)) {
        Err(Error::Full { max, .. }) => assert_eq!(max, u64::from(RECORD_LEN_MAX)),
        other => panic!("{other:?}"),
    }
    // Nothing was written for it.
    for start in 0..4 {
        manifest.append(&layers(start * 1000..(start + 1) * 1000)).unwrap();
    }
    let state = manifest.state().clone();
    assert_eq!(state.timelines[&1].layers.len(), 4000);
    drop(manifest);
    let path = dir.path().join(manifest_name(1));
    let whole = fs::read(&path).unwrap();
    fs::write(&path, [&whole[..], &[0x55; 3]].concat()).unwrap();
    let (mut manifest, report) = Manifest::open(storage(), dir.path()).unwrap().unwrap();
    assert_eq!((report.records, report.cut_bytes), (6, 3));
    manifest.append(&[]).unwrap();
    drop(manifest);
    let (manifest, report) = Manifest::open(storage(), dir.path()).unwrap().unwrap();
    assert_eq!((manifest.number, manifest.state()), (2, &state));
    let len = 4000 * 150;
    assert!((len / REWRITE_RECORD_LEN as u64 / 2..20).contains(&report.records), "{report:?}");
    assert_eq!(report.cut_bytes, 0);
}

/// A length over the bound is refused by its value, whatever follows.
#[test]
fn a_record_that_claims_too_much_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path());
    let (path, current_path) = (dir.path().join(manifest_name(1)), dir.path().join(CURRENT_NAME));
    let mut current = Current::decode(&fs::read(&current_path).unwrap(), &current_path).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.len() as u64;
    bytes.extend_from_slice(&(RECORD_LEN_MAX + 1).to_le_bytes());
    bytes.resize(bytes.len() + RECORD_LEN_MAX as usize + 100, 0);
    fs::write(&path, &bytes).unwrap();
    current.len = bytes.len() as u64;
    fs::write(&current_path, current.encode()).unwrap();
    match Manifest::open(storage(), dir.path()) {
        Err(Error::Corrupt(found)) => {
            assert_eq!((&found.path, found.offset, found.what), (&path, at, "record length"));
            assert!(found.expected.contains(&RECORD_LEN_MAX.to_string()), "{found}");
        }
        other => panic!("{other:?}"),
    }
}

/// A caller that only wants to know that nothing is in doubt writes nothing where nothing is.
#[test]
fn no_edits_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let state = written(dir.path());
    let files = || {
        let read = |entry: fs::DirEntry| (entry.file_name(), fs::read(entry.path()).unwrap());
        fs::read_dir(dir.path()).unwrap().map(|entry| read(entry.unwrap())).collect::<Vec<_>>()
    };
    let (mut manifest, _) = Manifest::open(storage(), dir.path()).unwrap().unwrap();
    // The first edit after an opening writes the manifest anew.
    manifest.append(&[]).unwrap();
    let before = files();
    manifest.append(&[]).unwrap();
    assert_eq!((manifest.state(), files()), (&state, before));
}
