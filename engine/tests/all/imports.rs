//! Imports of images: what readers see of them, and what a failure leaves.

use pagestrata::{
    Error, Key, Lsn, Options, Scratch, Value,
    testing::{Fault, SimulatedStorage},
};

use crate::support::{fresh, open, open_in};

#[test]
fn a_guard_from_before_an_import_does_not_see_half_of_it() {
    let (_dir, _store, timeline) = fresh(Options::default());
    let mut lease = timeline.write_lease().unwrap();
    let key = Key::new(1, 1);
    let mut reader = timeline.reader();
    let before = reader.pin();
    let mut import = lease.import_images(Lsn(16)).unwrap();
    import.put(key, b"image").unwrap();
    import.finish().unwrap();
    let mut scratch = Scratch::new();
    match before.versions(key, Lsn(16), &mut scratch) {
        Err(Error::NotYet { .. }) => {}
        other => panic!("neither the image nor NotYet: {other:?}"),
    }
    assert_eq!(before.last_record_lsn(), Lsn(1));
    assert_eq!(reader.pin().versions(key, Lsn(16), &mut scratch).unwrap().len(), 1);
    lease.put(key, Lsn(17), Value::Image(b"next")).unwrap();
    lease.commit(Lsn(17)).unwrap();
    assert_eq!(reader.pin().history(key, Lsn(17), &mut scratch).unwrap().len(), 1);
    drop(lease);
    assert_eq!(timeline.flush().unwrap(), Lsn(17));
    let ranges: Vec<_> = timeline.layers().into_iter().map(|layer| layer.lsn_range).collect();
    assert_eq!(ranges, [Lsn(16)..Lsn(17), Lsn(17)..Lsn(18)], "no Lsn twice");
}

/// Images that fill a layer of the smallest size.
fn fill(import: &mut pagestrata::ImageImport<'_>) -> u32 {
    for block in 0..300 {
        import.put(Key::new(1, block), &[block as u8; 8192]).unwrap();
    }
    300
}

fn small_layers() -> Options {
    Options { image_layer_size_max_bytes: 1 << 20, ..Options::default() }
}

#[test]
fn keys_stay_in_order_after_a_refused_image() {
    let (_dir, _store, timeline) = fresh(small_layers());
    let mut lease = timeline.write_lease().unwrap();
    let mut import = lease.import_images(Lsn(16)).unwrap();
    let first = fill(&mut import);
    // Wherever a layer ends: a value that is refused must not make the import forget the last key.
    for next in first..first + 300 {
        let too_long = vec![0; (16 << 20) + 1];
        assert!(import.put(Key::new(1, next), &too_long).is_err());
        assert!(import.put(Key::new(1, next - 1), b"again").is_err(), "block {next}");
        import.put(Key::new(1, next), &[7; 8192]).unwrap();
    }
    assert_eq!(import.finish().unwrap().images, 600);
}

#[test]
fn an_import_that_failed_stays_failed() {
    let calls_of = |fault: Option<Fault>| {
        let storage = SimulatedStorage::new();
        let store = open_in(&storage, small_layers()).unwrap();
        let timeline = store.create_timeline("main", Lsn(1)).unwrap();
        let mut lease = timeline.write_lease().unwrap();
        let mut import = lease.import_images(Lsn(16)).unwrap();
        let first = storage.calls();
        storage.set_fault(fault.map(|fault| Fault { call: first + fault.call, ..fault }));
        for block in 0..600 {
            let mut put = || import.put(Key::new(1, block), &[block as u8; 8192]);
            if put().is_err() {
                let _ = put();
            }
        }
        match import.finish() {
            Ok(report) => {
                assert_eq!(report.images, 600);
                let count = timeline.snapshot().guard().scan(.., Lsn(16)).count();
                assert_eq!(count, 600, "{fault:?}");
            }
            Err(_) => assert!(fault.is_some()),
        }
        storage.calls() - first
    };
    for call in 0..calls_of(None) {
        calls_of(Some(Fault { call, ..Fault::default() }));
    }
}

#[test]
fn an_import_that_outlives_its_store_changes_nothing() {
    let (dir, store, timeline) = fresh(Options::default());
    let mut lease = timeline.write_lease().unwrap();
    let import = lease.import_images(Lsn(16)).unwrap();
    drop(store);
    let store = open(dir.path());
    store.create_timeline("other", Lsn(1)).unwrap();
    assert!(matches!(import.finish(), Err(Error::Closed)));
    drop(lease);
    drop((timeline, store));
    let store = open(dir.path());
    assert_eq!(store.timelines().len(), 2);
    assert_eq!(store.timeline("main").unwrap().disk_consistent_lsn(), Lsn(0));
}
