//! Imports of images: what readers see of them, and what a failure leaves.

use std::path::Path;

use pagestrata::{Error, Key, Lsn, Options, Scratch, Store, Value};

fn open(dir: &Path) -> Store {
    Store::open(dir, Options::default()).unwrap().0
}

#[test]
fn a_guard_from_before_an_import_does_not_see_half_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let timeline = store.create_timeline("main", Lsn(1)).unwrap();
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
