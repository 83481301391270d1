//! S23: a part of a backup was put back, so that CURRENT or the manifest is older than the layer
//! files beside it.

use std::path::PathBuf;

use pagestrata::{
    Durability, Key, Lsn, Options, Store, Timeline,
    testing::{Fault, SimulatedStorage, all_kept, fill_value},
};

use super::{DIR, check, open, options, write};

in_all_access_modes!(
    s23_an_older_manifest_beside_newer_layers,
    s23_an_older_manifest_beside_newer_layers_and_a_log,
    s23_an_older_manifest_that_lacks_a_timeline,
    s23_an_older_current_before_several_edits,
    s23_a_reading_open_changes_nothing,
);

fn external() -> Options {
    Options { durability: Durability::External, ..options() }
}

/// How the newer layer files come to be.
#[derive(Clone, Copy, Debug)]
enum Newer {
    Flushed,
    /// By another process than the one that wrote the manifest that is put back.
    FlushedAfterReopen,
    Imported,
}

fn flush_more(timeline: &Timeline) {
    write(timeline, 11..=20);
    timeline.flush().unwrap();
}

/// Images at one Lsn, in several layer files.
fn import_more(timeline: &Timeline) {
    let mut lease = timeline.write_lease().unwrap();
    let mut import = lease.import_images(Lsn(500)).unwrap();
    for block in 0..300 {
        let image = fill_value(u64::from(block), 3, 8192);
        import.put(Key::new(9, block), &image).unwrap();
    }
    assert!(import.finish().unwrap().layers > 1);
}

/// The store as it was when it was backed up, as it is now, and the layer files that are new since.
fn backed_up(how: Newer, options: &Options) -> (SimulatedStorage, SimulatedStorage, Vec<PathBuf>) {
    let storage = SimulatedStorage::new();
    let (mut store, mut main, _) = open(&storage, options.clone()).unwrap();
    write(&main, 1..=10);
    main.flush().unwrap();
    let backup = storage.killed();
    let old = main.layers();
    if let Newer::FlushedAfterReopen = how {
        drop((main, store));
        (store, main, _) = open(&storage, options.clone()).unwrap();
    }
    match how {
        Newer::Flushed | Newer::FlushedAfterReopen => flush_more(&main),
        Newer::Imported => import_more(&main),
    }
    let layers = main.layers().into_iter().filter(|layer| !old.contains(layer));
    let newer = layers.map(|layer| layer.path).collect();
    drop((main, store));
    (backup, storage, newer)
}

/// The files that a partial restore puts back: CURRENT alone, or with its manifest.
const PUT_BACK: [&[&str]; 2] = [&["CURRENT"], &["CURRENT", "MANIFEST-00000001"]];

fn put_back(names: &[&str], backup: &SimulatedStorage, now: &SimulatedStorage) -> SimulatedStorage {
    let restored = now.killed();
    for name in names {
        let path = PathBuf::from(DIR).join(name);
        restored.set(&path, backup.bytes(&path));
    }
    restored
}

fn s23_an_older_manifest_beside_newer_layers() {
    let options = Options { image_layer_size_max_bytes: 1 << 20, ..external() };
    for how in [Newer::Flushed, Newer::FlushedAfterReopen, Newer::Imported] {
        let (backup, now, newer) = backed_up(how, &options);
        for names in PUT_BACK {
            let restored = put_back(names, &backup, &now);
            let before = restored.digest();
            for _ in 0..2 {
                let what = format!("{how:?} {names:?}");
                match open(&restored, options.clone()) {
                    Ok((.., report)) => panic!("{what}: opened, {:?}", report.orphans_removed),
                    Err(error) => {
                        let text = error.to_string();
                        let named = newer.iter().filter(|path| {
                            text.contains(path.file_name().unwrap().to_str().unwrap())
                        });
                        // An edit behind the length that an older CURRENT gives proves it too.
                        let is_current = names.len() == 1 && text.contains("CURRENT is older");
                        assert!(named.count() > 0 || is_current, "{what}: {text}");
                    }
                }
                let verified = Store::verify(&restored.shared(), DIR, None, &mut |_| {});
                assert!(verified.is_err(), "{what}");
                assert_eq!(restored.digest(), before, "{what}: left as it was");
            }
        }
    }
}

/// With a log the newer versions may be in it still, or not: what is refused is left as it was.
fn s23_an_older_manifest_beside_newer_layers_and_a_log() {
    let (backup, now, _) = backed_up(Newer::Flushed, &options());
    for names in PUT_BACK {
        let restored = put_back(names, &backup, &now);
        let before = restored.digest();
        assert!(open(&restored, options()).is_err(), "{names:?}");
        assert_eq!(restored.digest(), before, "{names:?}: left as it was");
    }
}

/// A timeline that only the newer manifest has, with layer files in its directory.
fn s23_an_older_manifest_that_lacks_a_timeline() {
    let storage = SimulatedStorage::new();
    let (store, main, _) = open(&storage, external()).unwrap();
    write(&main, 1..=3);
    main.flush().unwrap();
    let backup = storage.killed();
    let second = store.create_timeline("second", Lsn(1)).unwrap();
    // The directory of a timeline that was never committed is empty, and nothing is lost with it.
    let empty = put_back(PUT_BACK[1], &backup, &storage);
    assert_eq!(check(&open(&empty, external()).unwrap().1), 3);
    write(&second, 1..=3);
    second.flush().unwrap();
    let layer = second.layers().remove(0).path;
    drop((second, main, store));
    for names in PUT_BACK {
        let restored = put_back(names, &backup, &storage);
        let before = restored.digest();
        assert!(open(&restored, external()).is_err(), "{names:?}");
        assert!(restored.files().contains_key(&layer));
        assert_eq!(restored.digest(), before, "{names:?}: left as it was");
    }
}

/// More than one whole edit behind the length that CURRENT gives: a crash leaves one at the most.
fn s23_an_older_current_before_several_edits() {
    let storage = SimulatedStorage::new();
    let (store, main, _) = open(&storage, external()).unwrap();
    let backup = storage.killed();
    store.create_timeline("one", Lsn(1)).unwrap();
    let one = put_back(PUT_BACK[0], &backup, &storage);
    assert!(open(&one, external()).is_ok(), "as a crash before the rename of CURRENT leaves it");
    store.create_timeline("two", Lsn(1)).unwrap();
    let two = put_back(PUT_BACK[0], &backup, &storage);
    let before = two.digest();
    let error = open(&two, external()).map(drop).unwrap_err().to_string();
    assert!(error.contains("CURRENT"), "{error}");
    assert_eq!(two.digest(), before);
    drop((main, store));
}

/// Whatever a crash has left, opening a store to read it changes nothing, and it reads the same as
/// a store that was opened to be written.
fn s23_a_reading_open_changes_nothing() {
    let storage = SimulatedStorage::new();
    let (_store, main, _) = open(&storage, options()).unwrap();
    write(&main, 1..=40);
    main.flush().unwrap();
    write(&main, 41..=60);
    let mut leftovers = 0;
    for late in [false, true] {
        for call in 0.. {
            let storage = storage.killed();
            let (_store, main, _) = open(&storage, options()).unwrap();
            let first = storage.calls();
            storage.set_fault(Some(Fault {
                call: first + call,
                late,
                for_good: true,
                ..Fault::default()
            }));
            let is_flushed = main.flush().is_ok();
            let left = storage.crash(&mut all_kept);
            leftovers += u64::from(is_read_as_it_was(&left));
            if is_flushed {
                break;
            }
        }
    }
    assert!(leftovers > 5, "{leftovers}");
}

/// Whether a crash had left something that a writing open removes.
fn is_read_as_it_was(left: &SimulatedStorage) -> bool {
    // A segment of the log that ends in something torn; no file that can be locked.
    let segment = left.files().into_keys().rfind(|path| path.starts_with("/store/log")).unwrap();
    left.change(&segment, |bytes| {
        let end = bytes.len();
        bytes[end - 8..].fill(0x55);
    });
    let before = left.digest();
    let store = Store::open_read_only_with(left.shared(), DIR, options()).unwrap();
    let main = store.timeline("main").unwrap();
    assert_eq!(check(&main), 60);
    assert!(super::is_read_only(main.write_lease()) && super::is_read_only(main.flush()));
    assert_eq!(store.open_report().orphans_removed, [""; 0]);
    drop((main, store));
    Store::verify(&left.shared(), DIR, None, &mut |_| {}).unwrap();
    assert_eq!(left.digest(), before, "left as it was");
    let (_store, main, report) = open(left, options()).unwrap();
    assert_eq!(check(&main), 60);
    !report.orphans_removed.is_empty()
}
