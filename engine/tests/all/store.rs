//! Opening, closing, reopening; leases, rolls, flushes, imports; what is refused.

use std::{fs, path::Path, time::Duration};

use pagestrata::{
    Clock, Compression, Error, Guard, Key, Kind, LayersError, Lsn, Options, PageVersion, PinKind,
    Redo, Scratch, Store, Value,
};

use crate::support::{LayersAway, eventually, fresh, open, put};

fn delta(bytes: &[u8]) -> Value<'_> {
    Value::Delta { bytes, will_init: false }
}

fn read(guard: Guard<'_>, key: Key, lsn: u64) -> Vec<(u64, Vec<u8>)> {
    let mut scratch = Scratch::new();
    let versions = guard.versions(key, Lsn(lsn), &mut scratch).unwrap();
    versions.newest_first().map(|version| (version.lsn.0, version.bytes.to_vec())).collect()
}

/// A base and changes to it in every kind of layer: an image layer at 16, delta layers, a frozen or
/// open one.
#[test]
fn a_chain_is_read_through_every_kind_of_layer() {
    let dir = tempfile::tempdir().unwrap();
    let key = Key::new(7, 70);
    let expected: Vec<_> = [(50, "open"), (40, "second"), (30, "first"), (16, "base")]
        .map(|(lsn, text)| (lsn, text.as_bytes().to_vec()))
        .into();
    {
        let store = open(dir.path());
        let timeline = store.create_timeline("main", Lsn(16)).unwrap();
        let mut lease = timeline.write_lease().unwrap();
        let mut import = lease.import_images(Lsn(16)).unwrap();
        import.put(key, b"base").unwrap();
        import.put(Key::new(8, 0), b"other").unwrap();
        assert!(import.put(Key::new(8, 0), b"twice").is_err());
        assert_eq!(import.finish().unwrap().images, 2);
        for (lsn, text) in [(30, "first"), (40, "second")] {
            lease.put(key, Lsn(lsn), delta(text.as_bytes())).unwrap();
            lease.commit(Lsn(lsn)).unwrap().wait().unwrap();
            lease.roll().unwrap();
        }
        lease.put(key, Lsn(50), delta(b"open")).unwrap();
        lease.commit(Lsn(50)).unwrap().wait().unwrap();
        let mut reader = timeline.reader();
        assert_eq!(read(reader.pin(), key, 50), expected);
        drop(lease);
        assert_eq!(timeline.flush().unwrap(), Lsn(50));
        assert_eq!(read(reader.pin(), key, 50), expected);
        assert_eq!(read(reader.pin(), key, 39), expected[2..]);
        assert_eq!(timeline.layers().len(), 4);
        let report = store.close(Duration::ZERO).unwrap();
        assert_eq!(report.disk_consistent_lsns, [("main".to_owned(), "0/32".to_owned())]);
        assert_eq!(report.pins.len(), 1, "the reader");
        assert_eq!(read(reader.pin(), key, 50), expected, "a reader outlives the store");
    }
    let (store, report) =
        Store::open(dir.path(), Options { create: false, ..Options::default() }).unwrap();
    assert_eq!((report.timelines, report.layer_files, report.created), (1, 4, false));
    let timeline = store.timeline("main").unwrap();
    assert_eq!(timeline.verify().unwrap().versions, 5);
    let snapshot = timeline.snapshot();
    assert_eq!(read(snapshot.guard(), key, 50), expected);
    assert_eq!(read(snapshot.guard(), Key::new(8, 0), 50), [(16, b"other".to_vec())]);
    let pages: Vec<_> = snapshot.guard().scan(.., Lsn(50)).map(Result::unwrap).collect();
    assert_eq!(pages, [(key, Lsn(50)), (Key::new(8, 0), Lsn(16))]);
    assert_eq!(
        snapshot.guard().scan(8..9, Lsn(20)).map(Result::unwrap).collect::<Vec<_>>(),
        pages[1..]
    );
    assert_eq!(snapshot.guard().scan(9.., Lsn(20)).count(), 0);
}

#[test]
fn uncommitted_values_are_invisible_and_go_with_the_lease() {
    let (_dir, _store, timeline) = fresh(Options::default());
    let mut reader = timeline.reader();
    let key = Key::new(1, 1);
    let mut lease = timeline.write_lease().unwrap();
    lease.put(key, Lsn(5), Value::Image(b"five")).unwrap();
    assert!(matches!(timeline.write_lease(), Err(Error::LeaseHeld { .. })));
    assert!(matches!(lease.roll(), Err(Error::Uncommitted { .. })));
    assert!(matches!(reader.pin().exists(key, Lsn(5)), Err(Error::NotYet { .. })));
    assert!(!reader.pin().exists(key, Lsn(1)).unwrap());
    drop(lease);
    let mut lease = timeline.write_lease().unwrap();
    assert_eq!(lease.last_lsn(), Lsn(0));
    lease.put(key, Lsn(4), Value::Image(b"four")).unwrap();
    lease
        .put_batch(&[(key, Lsn(5), delta(b"a")), (Key::new(1, 2), Lsn(5), Value::Image(b"b"))])
        .unwrap();
    lease.commit(Lsn(6)).unwrap();
    assert_eq!(read(reader.pin(), key, 6), [(5, b"a".to_vec()), (4, b"four".to_vec())]);
    for (lsn, what) in [(6, "committed"), (3, "back"), (0, "zero")] {
        assert!(lease.put(key, Lsn(lsn), delta(b"")).is_err(), "{what}");
    }
    assert!(matches!(reader.pin().exists(key, Lsn(7)), Err(Error::NotYet { .. })));
    assert!(matches!(reader.pin().exists(key, Lsn(0)), Err(Error::BelowCutoff { .. })));
}

#[test]
fn dropped_blocks_are_gone_until_written_again() {
    let (_dir, _store, timeline) = fresh(Options::default());
    let mut lease = timeline.write_lease().unwrap();
    for block in 0..10 {
        lease.put(Key::new(1, block), Lsn(10), Value::Image(b"first")).unwrap();
    }
    lease.commit(Lsn(10)).unwrap();
    lease.roll().unwrap();
    lease.drop_blocks(1, 4, Lsn(20)).unwrap();
    lease.put(Key::new(1, 5), Lsn(20), Value::Image(b"again")).unwrap();
    assert!(lease.drop_blocks(1, 5, Lsn(20)).is_err(), "it was just put");
    lease.commit(Lsn(20)).unwrap();
    for flushed in [false, true] {
        let mut reader = timeline.reader();
        let guard = reader.pin();
        let pages =
            |lsn| guard.scan(1..2, Lsn(lsn)).map(|page| page.unwrap().0.block).collect::<Vec<_>>();
        assert_eq!((pages(19).len(), pages(20)), (10, vec![0, 1, 2, 3, 5]));
        assert_eq!(read(guard, Key::new(1, 5), 20), [(20, b"again".to_vec())]);
        assert_eq!(read(guard, Key::new(1, 6), 20), []);
        if !flushed {
            lease.roll().unwrap();
            timeline.flush().unwrap();
        }
    }
}

/// Concatenates.
struct Append;

impl Redo for Append {
    fn apply(
        &self,
        _: Key,
        base: Option<&[u8]>,
        deltas: &mut dyn Iterator<Item = PageVersion<'_>>,
        page: &mut Vec<u8>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        page.extend_from_slice(base.unwrap_or(b"fresh"));
        for delta in deltas {
            if delta.bytes == b"bad" {
                return Err("a bad delta".into());
            }
            page.extend_from_slice(delta.bytes);
        }
        Ok(())
    }
}

#[test]
fn pages_are_borrowed_or_made_by_redo() {
    let (_dir, _store, timeline) = fresh(Options::default());
    let mut lease = timeline.write_lease().unwrap();
    let (key, other, lost) = (Key::new(1, 1), Key::new(1, 2), Key::new(1, 3));
    lease.put(key, Lsn(2), Value::Image(b"image")).unwrap();
    lease.put(key, Lsn(3), delta(b"+1")).unwrap();
    lease.put(key, Lsn(4), delta(b"+2")).unwrap();
    lease.put(other, Lsn(4), Value::Delta { bytes: b"!", will_init: true }).unwrap();
    lease.put(other, Lsn(5), delta(b"bad")).unwrap();
    lease.put(lost, Lsn(5), delta(b"x")).unwrap();
    lease.commit(Lsn(5)).unwrap();
    let mut reader = timeline.reader();
    let (guard, mut scratch) = (reader.pin(), Scratch::new());
    let mut page =
        |key, lsn| guard.page(key, Lsn(lsn), &Append, &mut scratch).map(|page| page.to_vec());
    assert_eq!(page(key, 2).unwrap(), b"image");
    assert_eq!(page(key, 5).unwrap(), b"image+1+2");
    assert_eq!(page(other, 4).unwrap(), b"fresh!");
    assert!(matches!(page(other, 5), Err(Error::Redo { .. })));
    assert!(matches!(page(lost, 5), Err(Error::MissingBase { deltas: 1, .. })));
    assert!(matches!(page(Key::new(9, 9), 5), Err(Error::NoPage { .. })));
    assert_eq!(guard.with_page(key, Lsn(4), &Append, <[u8]>::len).unwrap(), 9);
    assert!(guard.versions(lost, Lsn(5), &mut scratch).is_err());
    assert_eq!(guard.history(lost, Lsn(5), &mut scratch).unwrap().len(), 1);
}

#[test]
fn detached_versions_live_on_and_are_accounted() {
    let options = Options { compression: Compression::Zstd { level: 1 }, ..Options::default() };
    let (_dir, store, timeline) = fresh(options);
    let (key, other) = (Key::new(1, 1), Key::new(1, 2));
    let page = vec![5; 8192];
    let random: Vec<u8> =
        (0..8192_u64).flat_map(|n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()).collect();
    let mut lease = timeline.write_lease().unwrap();
    lease.put(key, Lsn(2), Value::Image(&page)).unwrap();
    lease.put(other, Lsn(2), Value::Image(&random)).unwrap();
    lease.commit(Lsn(2)).unwrap();
    drop(lease);
    let mut reader = timeline.reader();
    let mut scratch = Scratch::new();
    let kept = reader.pin().versions(key, Lsn(2), &mut scratch).unwrap().detach(0);
    let copied = reader.pin().versions(key, Lsn(2), &mut scratch).unwrap().detach_or_copy(0, 1000);
    assert_eq!((kept.keeps_layer(), copied.keeps_layer()), (true, false));
    reader.unpin();
    timeline.flush().unwrap();
    let pins = timeline.pins();
    assert_eq!(pins.iter().map(|pin| pin.kind).collect::<Vec<_>>(), [PinKind::Detached]);
    assert!(pins[0].only_it_keeps_bytes > 8192 && pins[0].caller.contains("store.rs"), "{pins:?}");
    assert_eq!(timeline.stats().retired_layers, 1);
    // From a file: borrowed where it is not compressed, copied where it is.
    let inflated = reader.pin().versions(key, Lsn(2), &mut scratch).unwrap().detach(0);
    let borrowed = reader.pin().versions(other, Lsn(2), &mut scratch).unwrap().detach(0);
    assert_eq!((inflated.keeps_layer(), borrowed.keeps_layer()), (false, true));
    drop((reader, timeline, store));
    for version in [&kept, &copied, &inflated] {
        assert_eq!(
            (version.lsn(), version.kind(), version.bytes()),
            (Lsn(2), Kind::Image, &page[..])
        );
    }
    assert_eq!(borrowed.bytes(), random);
}

#[test]
fn an_idle_reader_is_seen_and_what_it_kept_is_reclaimed() {
    let (_dir, store, timeline) = fresh(Options::default());
    let mut lease = timeline.write_lease().unwrap();
    lease.put(Key::new(1, 1), Lsn(2), Value::Image(b"x")).unwrap();
    lease.commit(Lsn(2)).unwrap();
    let mut idle = timeline.reader();
    idle.pin();
    let snapshot = timeline.snapshot();
    lease.roll().unwrap();
    timeline.flush().unwrap();
    let kept = |timeline: &pagestrata::Timeline| {
        timeline.pins().iter().map(|pin| pin.only_it_keeps_bytes).collect::<Vec<_>>()
    };
    assert_eq!(kept(&timeline), [0, 0], "two hold it, so none alone");
    assert_eq!(timeline.stats().retired_layers, 1);
    drop(snapshot);
    assert!(kept(&timeline)[0] > 0);
    idle.unpin();
    eventually(|| timeline.stats().retired_layers == 0);
    // It goes back to the pool right after it is off the list.
    eventually(|| store.stats().pool_retained_bytes > 0);
    assert!(timeline.pins().is_empty());
    assert_eq!(read(idle.pin(), Key::new(1, 1), 2).len(), 1);
}

/// The last holder of a retired layer has it reclaimed. Without its wake-up the layer stays, and
/// this test does not end.
#[test]
fn every_kind_of_holder_wakes_the_reclaimer() {
    let (_dir, _store, timeline) = fresh(Options::default());
    let key = Key::new(1, 1);
    let mut lsn = 1;
    // Holds the layer that was just written to, retires it, and lets go.
    let mut retire_under = |hold: &dyn Fn() -> Box<dyn FnOnce()>| {
        lsn += 1;
        put(&timeline, key, Lsn(lsn), b"x");
        let let_go = hold();
        timeline.flush().unwrap();
        assert_eq!((timeline.stats().retired_layers, timeline.pins().len()), (1, 1));
        let_go();
        eventually(|| timeline.stats().retired_layers == 0);
        assert_eq!(timeline.pins().len(), 0);
    };
    let detached = || {
        let (snapshot, mut scratch) = (timeline.snapshot(), Scratch::new());
        let lsn = snapshot.lsn();
        snapshot.guard().versions(key, lsn, &mut scratch).unwrap().detach(0)
    };
    retire_under(&|| {
        let reader = timeline.reader();
        Box::new(move || drop(reader))
    });
    retire_under(&|| {
        let mut reader = timeline.reader();
        Box::new(move || {
            reader.unpin();
            std::mem::forget(reader);
        })
    });
    retire_under(&|| {
        let snapshot = timeline.snapshot();
        let clone = snapshot.clone();
        Box::new(move || {
            drop(snapshot);
            drop(clone);
        })
    });
    retire_under(&|| {
        let snapshot = timeline.snapshot();
        Box::new(move || {
            let mut pages = snapshot.guard().scan(.., snapshot.lsn());
            assert!(pages.next().is_some());
            drop(pages);
            drop(snapshot);
        })
    });
    retire_under(&|| {
        let version = detached();
        assert!(version.keeps_layer());
        Box::new(move || drop(version))
    });
    // A reader that pins anew lets go of what it held, and holds what holds no retired layer.
    let mut reader = timeline.reader();
    put(&timeline, key, Lsn(100), b"x");
    timeline.flush().unwrap();
    assert_eq!(timeline.stats().retired_layers, 1);
    reader.pin();
    eventually(|| timeline.stats().retired_layers == 0);
}

#[test]
fn a_store_is_opened_once_and_only_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let no_create = Options { create: false, ..Options::default() };
    assert!(matches!(Store::open(&path, no_create.clone()), Err(Error::NoStore { .. })));
    assert!(!path.exists(), "left as it was");
    let store = open(&path);
    assert!(matches!(Store::open(&path, no_create.clone()), Err(Error::Locked { .. })));
    let too_long = "x".repeat(256);
    for name in ["", "a\nb", "\u{9B}", "a\u{202E}b", "\u{61C}", "a\u{200F}", "\u{2069}", &too_long]
    {
        let refused = store.create_timeline(name, Lsn(1));
        assert!(matches!(refused, Err(Error::InvalidTimelineName { .. })), "{name:?}");
    }
    assert!(matches!(store.create_timeline("t", Lsn(0)), Err(Error::InvalidLsn { .. })));
    store.create_timeline("t", Lsn(1)).unwrap();
    assert!(matches!(store.create_timeline("t", Lsn(1)), Err(Error::TimelineExists { .. })));
    let error = store.timeline("u").unwrap_err().to_string();
    assert_eq!(error, "no timeline \"u\"; the store has: t");
    let timeline = store.timeline("t").unwrap();
    drop(store);
    assert!(matches!(timeline.write_lease(), Err(Error::Closed)));
    assert_eq!(Store::open(&path, no_create.clone()).unwrap().0.timelines().len(), 1);
}

/// Opening, with leave to create a store and without, is refused as corruption of this file, which
/// was not found.
#[track_caller]
fn assert_lost(dir: &Path, lost: &Path) {
    for create in [false, true] {
        match Store::open(dir, Options { create, ..Options::default() }) {
            Err(Error::Layers(LayersError::Corrupt(corruption))) => {
                let found = (&*corruption.path, &*corruption.found);
                assert_eq!(found, (lost, "nothing"), "{corruption}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn closing_ends_also_when_the_clock_stands_still() {
    let options = Options { clock: Clock(|| Duration::ZERO), ..Options::default() };
    let (_dir, store, timeline) = fresh(options);
    let snapshot = timeline.snapshot();
    let report = store.close(Duration::from_millis(3)).unwrap();
    assert_eq!(report.pins.len(), 1);
    assert!(!snapshot.guard().exists(Key::new(1, 1), Lsn(1)).unwrap());
}

#[test]
fn a_store_that_has_lost_files_is_corrupt_and_not_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let (path, aside) = (dir.path().join("store"), dir.path().join("aside"));
    let store = open(&path);
    let timeline = store.create_timeline("main", Lsn(1)).unwrap();
    store.create_timeline("empty", Lsn(1)).unwrap();
    put(&timeline, Key::new(1, 1), Lsn(2), b"x");
    timeline.flush().unwrap();
    let layer = timeline.layers().remove(0).path;
    drop((timeline, store));
    let (current, manifest) = (path.join("CURRENT"), path.join("MANIFEST-00000001"));
    for lost in [&layer, &path.join("timelines/2"), &manifest, &current] {
        fs::rename(lost, &aside).unwrap();
        assert_lost(&path, lost);
        fs::rename(&aside, lost).unwrap();
    }
    fs::remove_file(&current).unwrap();
    fs::remove_file(path.join("LOCK")).unwrap();
    assert!(Store::open(&path, Options { create: false, ..Options::default() }).is_err());
    assert!(!path.join("LOCK").exists(), "a refused opening leaves nothing");
    let timelines = path.join("timelines");
    fs::rename(&timelines, &aside).unwrap();
    assert_lost(&path, &current);
    fs::rename(&aside, &timelines).unwrap();
    fs::remove_file(&manifest).unwrap();
    assert_lost(&path, &current);
    assert!(layer.exists());
    // Nothing that a store has made: then there is none.
    fs::remove_dir_all(path.join("timelines")).unwrap();
    fs::create_dir_all(path.join("timelines/summer")).unwrap();
    let no_create = Options { create: false, ..Options::default() };
    assert!(matches!(Store::open(&path, no_create), Err(Error::NoStore { .. })));
    assert!(matches!(Store::open(&path, Options::default()), Err(Error::NotAStore { .. })));
    fs::remove_dir(path.join("timelines/summer")).unwrap();
    assert!(Store::open(&path, Options::default()).unwrap().1.created);
}

#[test]
fn a_layer_file_that_was_cut_is_corrupt() {
    let (dir, store, timeline) = fresh(Options::default());
    put(&timeline, Key::new(1, 1), Lsn(2), b"x");
    timeline.flush().unwrap();
    let layer = timeline.layers().remove(0);
    drop((timeline, store));
    for len in [layer.file_bytes - 1, 1, 0] {
        fs::File::options().write(true).open(&layer.path).unwrap().set_len(len).unwrap();
        match Store::open(dir.path(), Options::default()) {
            Err(Error::Layers(LayersError::Corrupt(corruption))) => {
                let found = (&corruption.path, &corruption.expected, &corruption.found);
                let expected = (&layer.path, &layer.file_bytes.to_string(), &len.to_string());
                assert_eq!(found, expected);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn orphans_are_removed_and_missing_files_are_errors() {
    let (dir, store, timeline) = fresh(Options::default());
    put(&timeline, Key::new(1, 1), Lsn(2), b"x");
    timeline.flush().unwrap();
    let layer = timeline.layers().remove(0).path;
    drop((timeline, store));
    fs::write(layer.with_file_name("00000007.tmp"), b"half a layer").unwrap();
    // Not files of the engine: a backup copy, and a directory of the file system.
    let (aside, found) = (layer.with_extension("delta.bak"), layer.with_file_name("lost+found"));
    fs::copy(&layer, &aside).unwrap();
    fs::create_dir(&found).unwrap();
    let (store, report) = Store::open(dir.path(), Options::default()).unwrap();
    assert_eq!(report.orphans_removed, ["00000007.tmp"]);
    assert!(aside.exists() && found.exists());
    drop(store);
    fs::rename(&layer, layer.with_extension("gone")).unwrap();
    let error = Store::open(dir.path(), Options::default()).unwrap_err().to_string();
    assert!(error.contains("found nothing") && error.contains(".delta"), "{error}");
    assert!(layer.with_extension("gone").exists(), "nothing is removed when opening fails");
}

#[test]
fn a_failed_flush_loses_nothing_and_is_tried_again() {
    let options =
        Options { open_layer_size_max_bytes: 64 << 10, frozen_layers_max: 2, ..Options::default() };
    let (dir, _store, timeline) = fresh(options);
    let away = LayersAway::of(dir.path());
    let mut lease = timeline.write_lease().unwrap();
    let mut lsn = 0;
    let stalled = loop {
        lsn += 1;
        match lease.put(Key::new(1, lsn as u32), Lsn(lsn), Value::Image(&[lsn as u8; 4096])) {
            Ok(()) => {
                lease.commit(Lsn(lsn)).unwrap();
            }
            Err(error) => break error,
        }
    };
    assert!(matches!(stalled, Error::FlushStalled { .. }), "{stalled}");
    assert!(matches!(timeline.flush(), Err(Error::FlushFailed { .. })));
    let stats = timeline.stats();
    assert!(
        stats.flush.failures > 0 && stats.flush.last_error.is_some() && stats.frozen_layers == 2,
        "{stats:?}"
    );
    let mut reader = timeline.reader();
    for n in 1..lsn {
        assert_eq!(read(reader.pin(), Key::new(1, n as u32), n), [(n, vec![n as u8; 4096])]);
    }
    away.back();
    timeline.flush().unwrap();
    lease.roll().unwrap();
    assert_eq!(timeline.flush().unwrap(), Lsn(lsn - 1));
    for n in 1..lsn {
        assert_eq!(read(reader.pin(), Key::new(1, n as u32), n), [(n, vec![n as u8; 4096])]);
    }
    assert_eq!(timeline.stats().flush.failures, 0);
}
