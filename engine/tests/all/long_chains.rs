//! Long chains of deltas, cut by images that flushes make.

use std::sync::Arc;

use pagestrata::{
    Compression, FlushRedo, Key, Kind, Lsn, Options, PageVersion, Redo, RedoResult, Scratch, Store,
    Timeline, VALUE_LEN_MAX, Value,
};

use crate::support::{Append, fresh};

const MAX: u32 = 10;

fn cutting() -> Options {
    Options { deltas_per_page_max: MAX, ..Options::default() }
}

/// Redo that cannot make the pages of one block, and says so or panics.
struct AllBut {
    block: u32,
    panics: bool,
}

impl Redo for AllBut {
    fn apply(
        &self,
        key: Key,
        base: Option<&[u8]>,
        deltas: &mut dyn Iterator<Item = PageVersion<'_>>,
        page: &mut Vec<u8>,
    ) -> RedoResult<()> {
        if key.block != self.block {
            return Append.apply(key, base, deltas, page);
        }
        assert!(!self.panics, "planted");
        Err("this block is not made".into())
    }
}

fn put(timeline: &Timeline, values: impl IntoIterator<Item = (Key, Lsn, Value<'static>)>) {
    let mut lease = timeline.write_lease().unwrap();
    let mut last = Lsn(0);
    for (key, lsn, value) in values {
        lease.put(key, lsn, value).unwrap();
        last = lsn;
    }
    lease.commit(last).unwrap().wait().unwrap();
}

fn delta(bytes: &'static [u8]) -> Value<'static> {
    Value::Delta { bytes, will_init: false }
}

fn kinds(timeline: &Timeline, key: Key, lsn: Lsn) -> Vec<(Lsn, Kind)> {
    let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
    let versions = reader.pin().versions(key, lsn, &mut scratch).unwrap();
    versions.newest_first().map(|version| (version.lsn, version.kind)).collect()
}

fn page(timeline: &Timeline, key: Key, lsn: Lsn) -> Vec<u8> {
    let mut scratch = Scratch::new();
    timeline.reader().pin().page(key, lsn, &Append, &mut scratch).unwrap().to_vec()
}

#[test]
fn a_chain_through_many_layers_is_cut_as_often_as_it_grows_long() {
    let (dir, store, timeline) = fresh(cutting());
    timeline.set_flush_redo(FlushRedo(Arc::new(Append)));
    let (hot, calm) = (Key::new(1, 1), Key::new(1, 2));
    put(&timeline, [(hot, Lsn(2), Value::Image(b"<")), (calm, Lsn(2), Value::Image(b"<"))]);
    let mut expected = vec![b'<'];
    for round in 1..=20_u64 {
        let lsns = (0..4).map(|n| Lsn(10 * round + n));
        put(&timeline, lsns.map(|lsn| (hot, lsn, delta(b"x"))));
        expected.extend(b"xxxx");
        put(&timeline, [(calm, Lsn(10 * round + 5), Value::Image(b"="))]);
        timeline.flush().unwrap();
        let end = timeline.last_record_lsn();
        let versions = kinds(&timeline, hot, end);
        let deltas = versions.iter().filter(|(_, kind)| *kind != Kind::Image).count();
        assert!(deltas <= MAX as usize, "{versions:?}");
        assert_eq!(page(&timeline, hot, end), expected);
        assert_eq!(kinds(&timeline, calm, end), [(end, Kind::Image)]);
    }
    let stats = timeline.stats().flush;
    // Eighty deltas: the eleventh is where a page is made, and each eleventh behind it.
    assert_eq!((stats.pages_made, stats.pages_failed), (80 / 11, 0));
    assert_eq!(kinds(&timeline, hot, Lsn(31)).len(), 1 + 10);
    assert_eq!(kinds(&timeline, hot, Lsn(32)), [(Lsn(32), Kind::Image)]);
    assert_eq!(kinds(&timeline, hot, Lsn(40))[2], (Lsn(32), Kind::Image));
    let all: Vec<Vec<u8>> = (2..=205).map(|lsn| page(&timeline, hot, Lsn(lsn))).collect();
    timeline.verify().unwrap();
    drop((timeline, store));
    let store = crate::support::open(dir.path());
    let timeline = store.timeline("main").unwrap();
    assert!((2..=205).map(|lsn| page(&timeline, hot, Lsn(lsn))).eq(all));
}

#[test]
fn a_bound_without_a_redo_is_told_and_counted() {
    let (_dir, _store, timeline) = fresh(cutting());
    let key = Key::new(1, 1);
    put(&timeline, [(key, Lsn(2), Value::Image(b"<"))]);
    let count = || timeline.stats().flush.flushes_without_redo;
    for round in 1..=3 {
        let lsns = (0..20).map(|n| Lsn(100 * round + n));
        put(&timeline, lsns.map(|lsn| (key, lsn, delta(b"x"))));
        timeline.flush().unwrap();
        assert_eq!(count(), round);
    }
    assert_eq!(kinds(&timeline, key, timeline.last_record_lsn()).len(), 61);
    timeline.set_flush_redo(FlushRedo(Arc::new(Append)));
    put(&timeline, [(key, Lsn(500), delta(b"x"))]);
    timeline.flush().unwrap();
    assert_eq!((count(), timeline.stats().flush.pages_made), (3, 1));
    // Without a bound there is nothing to make.
    let (_dir, _store, timeline) = fresh(Options::default());
    put(&timeline, [(key, Lsn(2), Value::Image(b"<"))]);
    timeline.flush().unwrap();
    assert_eq!(timeline.stats().flush.flushes_without_redo, 0);
}

#[test]
fn a_page_that_cannot_be_made_keeps_its_chain() {
    for panics in [false, true] {
        check_unmade(AllBut { block: 2, panics });
    }
}

fn check_unmade(redo: AllBut) {
    let (_dir, _store, timeline) = fresh(cutting());
    timeline.set_flush_redo(FlushRedo(Arc::new(redo)));
    let keys = [1, 2, 3, 4].map(|block| Key::new(1, block));
    let fresh_page = Value::Delta { bytes: b"<", will_init: true };
    // The fourth one has no base, so it cannot be read.
    put(&timeline, keys[..3].iter().map(|key| (*key, Lsn(2), fresh_page)));
    let lsns = (3..3 + u64::from(MAX)).map(Lsn);
    put(&timeline, lsns.flat_map(|lsn| keys.map(|key| (key, lsn, delta(b"x")))));
    timeline.flush().unwrap();
    let stats = timeline.stats().flush;
    assert_eq!((stats.pages_made, stats.pages_failed), (2, 1));
    let end = timeline.last_record_lsn();
    assert_eq!(kinds(&timeline, keys[0], end), [(end, Kind::Image)]);
    assert_eq!(kinds(&timeline, keys[1], end).len(), 1 + MAX as usize);
    assert!(keys[..3].iter().all(|key| page(&timeline, *key, end) == b"<xxxxxxxxxx"));
    // Dropped, they have no chain.
    timeline.write_lease().map(|mut lease| lease.drop_blocks(1, 0, Lsn(20)).unwrap()).unwrap();
    put(&timeline, [(keys[0], Lsn(21), fresh_page)]);
    timeline.flush().unwrap();
    assert_eq!(timeline.stats().flush.pages_made, 2);
}

#[test]
fn without_redo_or_without_a_bound_nothing_is_cut() {
    for (options, redo) in [(cutting(), false), (Options::default(), true)] {
        let (_dir, _store, timeline) = fresh(options);
        if redo {
            timeline.set_flush_redo(FlushRedo(Arc::new(Append)));
        }
        put(&timeline, [(Key::new(1, 1), Lsn(2), Value::Image(b"<"))]);
        put(&timeline, (3..100).map(|lsn| (Key::new(1, 1), Lsn(lsn), delta(b"x"))));
        timeline.flush().unwrap();
        assert_eq!((timeline.stats().flush.pages_made, timeline.layers().len()), (0, 1));
    }
}

/// However long a chain grows within one layer, a read at any Lsn applies no more deltas than it
/// may.
#[test]
fn a_chain_within_one_layer_is_cut_again_and_again() {
    for compression in [Compression::None, Compression::Zstd { level: 1 }] {
        let options = Options { compression, block_size_target_bytes: 1 << 10, ..cutting() };
        let (_dir, _store, timeline) = fresh(options);
        timeline.set_flush_redo(FlushRedo(Arc::new(Append)));
        let key = Key::new(7, 7);
        put(&timeline, [(key, Lsn(2), Value::Delta { bytes: b"<", will_init: true })]);
        put(&timeline, (3..=2000).map(|lsn| (key, Lsn(lsn), delta(b"x"))));
        let expected = [b"<".to_vec(), vec![b'x'; 1998]].concat();
        timeline.flush().unwrap();
        assert_eq!(timeline.stats().flush.pages_made, 1999 / 11);
        for lsn in 2..=2000 {
            let versions = kinds(&timeline, key, Lsn(lsn));
            let deltas = versions.iter().filter(|(_, kind)| *kind != Kind::Image).count();
            assert!(deltas <= MAX as usize, "{versions:?}");
            assert_eq!(versions[0].0, Lsn(lsn), "a page is at the Lsn of its newest delta");
            assert_eq!(page(&timeline, key, Lsn(lsn)), expected[..lsn as usize - 1]);
        }
        timeline.verify().unwrap();
    }
}

/// A page that is too long to be written beside its delta is written beside the next one that
/// leaves room.
#[test]
fn a_page_that_does_not_fit_is_made_again() {
    let options = Options { deltas_per_page_max: 2, ..Options::default() };
    let (_dir, _store, timeline) = fresh(options);
    timeline.set_flush_redo(FlushRedo(Arc::new(Append)));
    let key = Key::new(1, 1);
    let image = vec![b'.'; VALUE_LEN_MAX - 17];
    let mut lease = timeline.write_lease().unwrap();
    lease.put(key, Lsn(2), Value::Image(&image)).unwrap();
    // With the third the page and the delta are longer than a value may be, by a byte.
    for (lsn, bytes) in
        [(3, &b"abcde"[..]), (4, b"f"), (5, b"ghijkl"), (6, b""), (7, b""), (8, b"")]
    {
        lease.put(key, Lsn(lsn), Value::Delta { bytes, will_init: false }).unwrap();
    }
    lease.commit(Lsn(8)).unwrap().wait().unwrap();
    drop(lease);
    timeline.flush().unwrap();
    let stats = timeline.stats().flush;
    assert_eq!((stats.pages_made, stats.pages_failed), (1, 1));
    assert_eq!(kinds(&timeline, key, Lsn(5)).len(), 4);
    assert_eq!(kinds(&timeline, key, Lsn(6)), [(Lsn(6), Kind::Image)]);
    assert_eq!(page(&timeline, key, Lsn(8)), [&image[..], b"abcdefghijkl"].concat());
}

/// What is recovered from the log is flushed before a caller has the timeline.
#[test]
fn what_is_recovered_is_cut_too() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        flush_redo: Some(FlushRedo(Arc::new(Append))),
        open_layer_size_max_bytes: 64 << 10,
        ..cutting()
    };
    let key = Key::new(1, 1);
    let (store, _) = Store::open(dir.path(), Options::default()).unwrap();
    let timeline = store.create_timeline("main", Lsn(1)).unwrap();
    put(&timeline, [(key, Lsn(2), Value::Image(b"<"))]);
    put(&timeline, (3..3000).map(|lsn| (key, Lsn(lsn), delta(b"some bytes, so that it is long"))));
    drop((timeline, store));
    let (store, report) = Store::open(dir.path(), options).unwrap();
    assert!(report.log_records > 0);
    let timeline = store.timeline("main").unwrap();
    timeline.flush().unwrap();
    for lsn in 3..3000 {
        assert!(kinds(&timeline, key, Lsn(lsn)).len() <= 1 + MAX as usize);
    }
}
