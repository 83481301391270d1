//! The in-memory layer against a `BTreeMap`.

use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;

use super::{open_layer::DEFERRED_MAX, *};
use crate::{Error, Key, Kind, Lsn, PageVersion, Result, VALUE_LEN_MAX, Value, WalkEnd};

/// What is visible, kept the plain way.
#[derive(Default, Clone)]
struct Model {
    versions: BTreeMap<(Key, Lsn), (Kind, Vec<u8>)>,
    drops: Vec<(u128, u32, Lsn)>,
}

impl Model {
    fn read(&self, key: Key, upper: Lsn) -> (Vec<(Lsn, Kind, Vec<u8>)>, WalkEnd) {
        let dropped = self
            .drops
            .iter()
            .filter(|d| d.0 == key.object && d.1 <= key.block && d.2 <= upper)
            .map(|d| d.2)
            .max();
        let mut found = Vec::new();
        for (&(_, lsn), (kind, bytes)) in self.versions.range((key, Lsn(0))..=(key, upper)).rev() {
            if dropped.is_some_and(|dropped| lsn < dropped) {
                return (found, WalkEnd::Dropped);
            }
            found.push((lsn, *kind, bytes.clone()));
            if kind.is_base() {
                return (found, WalkEnd::Base);
            }
        }
        (found, if dropped.is_some() { WalkEnd::Dropped } else { WalkEnd::Older })
    }
}

fn read(layer: &MemLayer, key: Key, upper: Lsn) -> (Vec<(Lsn, Kind, Vec<u8>)>, WalkEnd) {
    let mut found = Vec::new();
    let walk = layer.versions(key, upper, &mut |version| {
        found.push((version.lsn, version.kind, version.bytes.to_vec()))
    });
    (found, walk)
}

#[derive(Debug, Clone)]
enum Op {
    Put { object: u8, block: u32, kind: u8, len: usize },
    Again { object: u8, block: u32 },
    Drop { object: u8, first_block: u32 },
    Commit,
    Abort,
    Read { object: u8, block: u32, back: u64 },
}

fn block() -> impl Strategy<Value = u32> {
    prop_oneof![6 => 0..4_u32, 3 => 0..300_u32, 1 => any::<u32>(), 1 => Just(u32::MAX)]
}

fn op() -> impl Strategy<Value = Op> {
    let len = prop_oneof![8 => 0..40_usize, 1 => 100..9000_usize, 1 => Just(90_000)];
    prop_oneof![
        12 => (0..6_u8, block(), 0..3_u8, len).prop_map(|(object, block, kind, len)| Op::Put { object, block, kind, len }),
        1 => (0..6_u8, block()).prop_map(|(object, block)| Op::Again { object, block }),
        1 => (0..6_u8, block()).prop_map(|(object, first_block)| Op::Drop { object, first_block }),
        3 => Just(Op::Commit),
        1 => Just(Op::Abort),
        4 => (0..6_u8, block(), 0..40_u64).prop_map(|(object, block, back)| Op::Read { object, block, back }),
    ]
}

/// Far apart, so that the order by object is not the order of arrival.
fn object(n: u8) -> u128 {
    [3, 1 << 100, 7, u128::MAX, 0, 1 << 64][n as usize]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn equals_the_model(ops in prop::collection::vec(op(), 1..300)) {
        let pool = Arc::new(ChunkPool::new(1 << 20));
        let mut open = OpenLayer::new(Lsn(10), &pool);
        let layer = open.layer().clone();
        let (mut committed, mut current) = (Model::default(), Model::default());
        let mut lsn = Lsn(10);
        for (n, op) in ops.iter().enumerate() {
            match *op {
                Op::Put { object: o, block, kind, len } => {
                    let key = Key::new(object(o), block);
                    let kind = Kind::from_bits(kind).unwrap();
                    let bytes = vec![n as u8; len];
                    let value = PageVersion { lsn, kind, bytes: &bytes }.value();
                    let done = open.put(key, lsn, value);
                    if let std::collections::btree_map::Entry::Vacant(e) = current.versions.entry((key, lsn)) {
                        prop_assert!(done.is_ok(), "{:?}", done);
                        e.insert((kind, bytes));
                        if n % 3 == 0 { lsn = lsn.next(); }
                    } else {
                        prop_assert!(matches!(done, Err(Error::DuplicateVersion { .. })), "{done:?}");
                        lsn = lsn.next();
                    }
                }
                Op::Again { object: o, block } => {
                    let refused = open.put(Key::new(object(o), block), open.last_lsn().previous(), Value::Image(b"late"));
                    let in_order = matches!(refused, Err(Error::LsnOutOfOrder { .. }));
                    prop_assert!(in_order, "{:?}", refused);
                }
                Op::Drop { object: o, first_block } => {
                    let covered = current.versions.keys().any(|(key, at)| *at == lsn && key.object == object(o) && key.block >= first_block);
                    let done = open.drop_blocks(object(o), first_block, lsn);
                    prop_assert_eq!(done.is_err(), covered, "{:?}", done);
                    if !covered { current.drops.push((object(o), first_block, lsn)); }
                }
                Op::Commit => {
                    open.commit(lsn).unwrap();
                    committed = current.clone();
                    lsn = lsn.next();
                    prop_assert!(!open.has_pending());
                }
                Op::Abort => {
                    open.abort();
                    current = committed.clone();
                    lsn = layer.committed_lsn().next();
                }
                Op::Read { object: o, block, back } => {
                    let key = Key::new(object(o), block);
                    let upper = Lsn(layer.committed_lsn().0.saturating_sub(back));
                    prop_assert_eq!(read(&layer, key, upper), committed.read(key, upper));
                    prop_assert_eq!(read(&layer, key, Lsn::MAX), committed.read(key, layer.committed_lsn()));
                }
            }
        }
        let frozen = open.freeze();
        check_sorted(frozen.layer(), &committed);
        prop_assert_eq!(layer.versions_count(), committed.versions.len() as u64);
        prop_assert_eq!(layer.value_bytes(), committed.versions.values().map(|(_, bytes)| bytes.len() as u64).sum::<u64>());
    }
}

fn check_sorted(layer: &MemLayer, model: &Model) {
    let all: Vec<_> = layer
        .sorted_from(Key::MIN)
        .map(|(key, v)| ((key, v.lsn), (v.kind, v.bytes.to_vec())))
        .collect();
    let expected: Vec<_> = model.versions.iter().map(|(at, value)| (*at, value.clone())).collect();
    assert_eq!(all, expected);
    for (at, _) in model.versions.iter().step_by(61) {
        let from = at.0;
        let keys = layer.sorted_from(from).map(|(key, v)| (key, v.lsn)).collect::<Vec<_>>();
        assert_eq!(
            keys,
            model.versions.range((from, Lsn(0))..).map(|(at, _)| *at).collect::<Vec<_>>()
        );
    }
    let mut drops = model.drops.clone();
    drops.sort_unstable_by_key(|&(object, block, lsn)| (object, lsn, block));
    // The same drop twice is one tombstone.
    drops.dedup();
    assert_eq!(
        layer
            .tombstones()
            .unwrap()
            .iter()
            .map(|t| (t.object, t.first_block, t.lsn))
            .collect::<Vec<_>>(),
        drops
    );
}

#[test]
fn a_batch_is_all_or_nothing_and_shares_bytes() {
    let pool = Arc::new(ChunkPool::new(0));
    let mut open = OpenLayer::new(Lsn(1), &pool);
    let record = vec![7_u8; 40_000];
    let delta = Value::Delta { bytes: &record, will_init: false };
    let batch: Vec<_> = (0..100).map(|block| (Key::new(1, block), Lsn(5), delta)).collect();
    open.put_batch(&batch).unwrap();
    assert!(open.layer().memory_bytes() < 300 << 10, "one copy for all: {:?}", open.layer());
    let twice = [
        (Key::new(1, 200), Lsn(6), delta),
        (Key::new(1, 201), Lsn(6), delta),
        (Key::new(1, 200), Lsn(6), delta),
    ];
    assert!(matches!(open.put_batch(&twice), Err(Error::DuplicateVersion { .. })));
    assert_eq!(open.last_lsn(), Lsn(5));
    open.commit(Lsn(6)).unwrap();
    assert_eq!(open.layer().versions_count(), 100);
    assert_eq!(read(open.layer(), Key::new(1, 201), Lsn::MAX), (vec![], WalkEnd::Older));
    assert_eq!(read(open.layer(), Key::new(1, 99), Lsn::MAX).0[0].2, record);
}

#[test]
fn entries_that_wait_for_the_index_are_pending_like_others() {
    let pool = Arc::new(ChunkPool::new(0));
    let mut open = OpenLayer::new(Lsn(1), &pool);
    let key = |block| Key::new(3, block);
    let blocks = 3 * DEFERRED_MAX as u32 + 5;
    for block in 0..blocks {
        open.put(key(block), Lsn(7), Value::Image(b"first")).unwrap();
    }
    // The first one has its entry already, the last one waits for it.
    assert!(open.indexed > 0 && open.indexed < open.pending.len());
    for block in [0, blocks - 1] {
        let twice = open.put(key(block), Lsn(7), Value::Image(b"twice"));
        assert!(matches!(twice, Err(Error::DuplicateVersion { .. })), "{twice:?}");
        assert!(matches!(open.drop_blocks(3, block, Lsn(7)), Err(Error::DropAfterPut { .. })));
    }
    open.drop_blocks(3, blocks, Lsn(7)).unwrap();
    let mut batch: Vec<_> =
        (0..blocks).map(|block| (key(block), Lsn(8), Value::Image(b"batch"))).collect();
    batch.push(batch[2]);
    assert!(matches!(open.put_batch(&batch), Err(Error::DuplicateVersion { .. })));
    assert_eq!((open.pending.len(), open.last_lsn()), (blocks as usize + 1, Lsn(7)));
    open.commit(Lsn(8)).unwrap();
    for block in 0..blocks {
        open.put(key(block), Lsn(9), Value::Image(b"aborted")).unwrap();
    }
    open.abort();
    for block in 0..blocks {
        let (found, walk) = read(open.layer(), key(block), Lsn::MAX);
        assert_eq!((found, walk), (vec![(Lsn(7), Kind::Image, b"first".to_vec())], WalkEnd::Base));
    }
    assert_eq!((open.layer().versions_count(), open.pending_value_bytes), (blocks.into(), 0));
}

#[test]
fn chains_grow_through_every_block_size_with_versions_taken_back() {
    let pool = Arc::new(ChunkPool::new(0));
    let mut open = OpenLayer::new(Lsn(1), &pool);
    let (key, other) = (Key::new(1, 1), Key::new(2, 2));
    let mut model = Model::default();
    for n in 1..=300_u64 {
        // Up to as many as make a block of the next size, indexed because more are put than may
        // wait.
        for back in 0..n % 40 {
            let delta = Value::Delta { bytes: b"taken back", will_init: true };
            open.put(key, Lsn(n * 100 + back), delta).unwrap();
        }
        for block in 0..DEFERRED_MAX as u32 {
            let lsn = open.last_lsn().next();
            open.put(Key { block, ..other }, lsn, Value::Image(b"")).unwrap();
        }
        open.abort();
        let bytes = n.to_le_bytes();
        open.put(key, Lsn(n * 100), Value::Delta { bytes: &bytes, will_init: false }).unwrap();
        open.commit(Lsn(n * 100)).unwrap();
        let kind = Kind::Delta { will_init: false };
        model.versions.insert((key, Lsn(n * 100)), (kind, bytes.to_vec()));
        for upper in [Lsn::MAX, Lsn(n * 50), Lsn(n * 100 - 1)] {
            let found = read(open.layer(), key, upper);
            assert_eq!(found, model.read(key, upper), "{n} versions, at {upper}");
        }
    }
    check_sorted(open.layer(), &model);
}

#[test]
fn many_objects_and_growth_of_every_kind() {
    let pool = Arc::new(ChunkPool::new(0));
    let mut open = OpenLayer::new(Lsn(1), &pool);
    let mut model = Model::default();
    for n in 0..20_000_u64 {
        let key = Key::new(u128::from(n.wrapping_mul(0x9E37_79B9_7F4A_7C15)) << 40, n as u32);
        let bytes = n.to_le_bytes();
        open.put(key, Lsn(n + 1), Value::Image(&bytes)).unwrap();
        model.versions.insert((key, Lsn(n + 1)), (Kind::Image, bytes.to_vec()));
    }
    let hot = Key::new(5, 5);
    for n in 20_000..30_000_u64 {
        let bytes = n.to_le_bytes();
        open.put(hot, Lsn(n + 1), Value::Delta { bytes: &bytes, will_init: n % 1000 == 0 })
            .unwrap();
        model
            .versions
            .insert((hot, Lsn(n + 1)), (Kind::Delta { will_init: n % 1000 == 0 }, bytes.to_vec()));
    }
    open.commit(Lsn(40_000)).unwrap();
    for upper in [20_000, 20_001, 20_002, 25_500, 29_999, 30_000, 40_000] {
        assert_eq!(read(open.layer(), hot, Lsn(upper)), model.read(hot, Lsn(upper)));
    }
    check_sorted(open.layer(), &model);
}

#[test]
fn values_have_a_limit_and_lsns_are_not_zero() {
    let pool = Arc::new(ChunkPool::new(0));
    let mut open = OpenLayer::new(Lsn(1), &pool);
    let long = vec![1; VALUE_LEN_MAX + 1];
    assert!(matches!(
        open.put(Key::MIN, Lsn(1), Value::Image(&long)),
        Err(Error::ValueTooLong { .. })
    ));
    assert!(matches!(
        open.put(Key::MIN, Lsn(0), Value::Image(b"")),
        Err(Error::LsnOutOfOrder { .. })
    ));
    for block in 0..5 {
        open.put(Key::new(0, block), Lsn(1), Value::Image(&long[1..])).unwrap();
    }
    open.commit(Lsn(1)).unwrap();
    assert_eq!(read(open.layer(), Key::new(0, 4), Lsn(1)).0[0].2.len(), VALUE_LEN_MAX);
}

#[test]
fn memory_goes_back_to_the_pool() {
    let pool = Arc::new(ChunkPool::new(usize::MAX));
    let mut open = OpenLayer::new(Lsn(1), &pool);
    for n in 1..2000 {
        open.put(Key::new(1, n), Lsn(u64::from(n)), Value::Image(&[1; 1000])).unwrap();
    }
    open.commit(Lsn(2000)).unwrap();
    let taken = open.layer().nodes.allocated_bytes() + open.layer().values.allocated_bytes();
    let frozen = open.freeze();
    assert_eq!(pool.retained_bytes(), 0);
    drop(frozen);
    assert_eq!(pool.retained_bytes(), taken);
}

#[test]
fn readers_see_whole_commits_while_the_writer_appends() {
    let pool = Arc::new(ChunkPool::new(0));
    let mut open = OpenLayer::new(Lsn(1), &pool);
    let layer = open.layer().clone();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let layer = layer.clone();
            scope.spawn(move || {
                let mut seen = Lsn(0);
                while seen < Lsn(3000) {
                    seen = layer.committed_lsn();
                    for block in [0, 70, 5000] {
                        // Every commit puts its Lsn into each of these blocks.
                        let (found, _) = read(&layer, Key::new(9, block), seen);
                        let newest = found.first().map_or(0, |(lsn, _, bytes)| {
                            assert_eq!(bytes[..], lsn.0.to_le_bytes());
                            lsn.0
                        });
                        assert_eq!(newest, seen.0);
                    }
                }
            });
        }
        for lsn in 1..=3000_u64 {
            for block in [0, 70, 5000] {
                open.put(Key::new(9, block), Lsn(lsn), Value::Image(&lsn.to_le_bytes())).unwrap();
                open.put(Key::new(u128::from(lsn) + 10, block), Lsn(lsn), Value::Image(b"other"))
                    .unwrap();
            }
            if lsn % 5 == 0 {
                // Taken back and put again: readers never notice.
                open.abort();
                for block in [0, 70, 5000] {
                    open.put(Key::new(9, block), Lsn(lsn), Value::Image(&lsn.to_le_bytes()))
                        .unwrap();
                }
            }
            open.commit(Lsn(lsn)).unwrap();
        }
    });
}

#[test]
fn what_found_no_memory_is_not_counted() {
    let pool = Arc::new(ChunkPool::new(0));
    let mut open = OpenLayer::new(Lsn(1), &pool);
    let layer = open.layer().clone();
    for (of, nodes_left, values_left) in [("nodes", 0, 1), ("values", usize::MAX, 0)] {
        layer.nodes.fail_after(nodes_left);
        layer.values.fail_after(values_left);
        let mut put = || open.put(Key::MIN, Lsn(1), Value::Image(&[1; 1000])).unwrap_err();
        assert!(matches!(put(), Error::OutOfMemory { .. }));
        let used = open.used_bytes();
        for _ in 0..3 {
            open.put(Key::MIN, Lsn(1), Value::Image(&[1; 1000])).unwrap_err();
        }
        assert_eq!(open.used_bytes(), used, "no {of}, again and again");
        assert!(used < 1000, "no {of}");
    }
}

/// A layer, its model, and what to do next: also while a reader is under way.
struct DrivenLayer {
    open: OpenLayer,
    committed: Model,
    current: Model,
    lsn: Lsn,
    done: usize,
}

#[derive(Debug, Clone)]
enum Step {
    /// Puts: object, block, kind, and whether the Lsn goes on before it.
    Puts(Vec<(u8, u32, u8, bool)>),
    Batch(Vec<(u8, u32, u8, bool)>),
    Drop(u8, u32),
    Commit,
    Abort,
}

impl DrivenLayer {
    fn new() -> DrivenLayer {
        let open = OpenLayer::new(Lsn(10), &Arc::new(ChunkPool::new(1 << 20)));
        let (committed, current) = (Model::default(), Model::default());
        DrivenLayer { open, committed, current, lsn: Lsn(10), done: 0 }
    }

    /// Takes a step, where memory lasts for `left` more nodes, or values; it is there again
    /// afterwards.
    fn step(&mut self, step: &Step, left: usize) {
        let (layer, lsn) = (self.open.layer().clone(), self.lsn);
        match left {
            usize::MAX => {}
            left if left.is_multiple_of(4) => layer.values.fail_after(left * 4),
            left => layer.nodes.fail_after(left - 1),
        }
        match step {
            Step::Puts(puts) => puts.iter().for_each(|put| self.put(std::slice::from_ref(put))),
            Step::Batch(puts) => self.put(puts),
            &Step::Drop(o, first_block) => {
                let of = |key: &Key| key.object == object(o) && key.block >= first_block;
                let covered = self.current.versions.keys().any(|(key, at)| *at == lsn && of(key));
                match self.changes_nothing_or(|open| open.drop_blocks(object(o), first_block, lsn))
                {
                    Ok(()) => {
                        assert!(!covered);
                        self.current.drops.push((object(o), first_block, lsn));
                    }
                    Err(Error::DropAfterPut { .. }) => assert!(covered),
                    Err(error) => assert!(matches!(error, Error::OutOfMemory { .. }), "{error}"),
                }
            }
            Step::Commit => match self.changes_nothing_or(|open| open.commit(lsn)) {
                Ok(()) => {
                    self.committed = self.current.clone();
                    self.lsn = self.lsn.next();
                }
                Err(error) => assert!(matches!(error, Error::OutOfMemory { .. }), "{error}"),
            },
            Step::Abort => {
                self.open.abort();
                self.current = self.committed.clone();
                self.lsn = layer.committed_lsn().next();
            }
        }
        layer.nodes.fail_after(usize::MAX);
        layer.values.fail_after(usize::MAX);
        self.check();
    }

    fn put(&mut self, puts: &[(u8, u32, u8, bool)]) {
        let mut next = self.current.clone();
        let (mut lsn, mut twice, mut batch) = (self.lsn, false, Vec::new());
        for &(o, block, kind, go_on) in puts {
            if go_on {
                lsn = lsn.next();
            }
            self.done += 1;
            let (key, kind) = (Key::new(object(o), block), Kind::from_bits(kind).unwrap());
            let bytes = self.done.to_le_bytes();
            twice |= next.versions.insert((key, lsn), (kind, bytes.to_vec())).is_some();
            batch.push((key, lsn, kind, bytes));
        }
        let batch: Vec<_> = batch
            .iter()
            .map(|&(key, lsn, kind, ref bytes)| {
                (key, lsn, PageVersion { lsn, kind, bytes }.value())
            })
            .collect();
        match self.changes_nothing_or(|open| match batch[..] {
            [(key, lsn, value)] => open.put(key, lsn, value),
            _ => open.put_batch(&batch),
        }) {
            Ok(()) => {
                assert!(!twice);
                (self.current, self.lsn) = (next, lsn);
            }
            Err(Error::DuplicateVersion { .. }) => assert!(twice),
            Err(error) => assert!(matches!(error, Error::OutOfMemory { .. }), "{error}"),
        }
    }

    /// What can be observed is the same as before where `change` fails.
    fn changes_nothing_or(&mut self, change: impl Fn(&mut OpenLayer) -> Result<()>) -> Result<()> {
        let seen = |open: &OpenLayer| {
            let counts = &open.layer.counts;
            let tombstones = counts.tombstones.load(Ordering::Relaxed);
            let committed = (open.layer.versions_count(), open.layer.value_bytes(), tombstones);
            (
                open.pending.len(),
                open.pending_value_bytes,
                open.last_lsn(),
                open.layer.committed_lsn(),
                committed,
            )
        };
        let before = seen(&self.open);
        let done = change(&mut self.open);
        if done.is_err() {
            assert_eq!(seen(&self.open), before);
        }
        done
    }

    fn check(&self) {
        let (layer, model) = (&self.open.layer, &self.committed);
        let versions = layer.versions_count() as usize;
        assert_eq!(versions, model.versions.len());
        let pending =
            self.current.versions.len() - versions + self.current.drops.len() - model.drops.len();
        assert_eq!(self.open.pending.len(), pending);
        assert!(self.open.indexed <= pending && pending - self.open.indexed <= DEFERRED_MAX);
        let bytes = |model: &Model| 8 * model.versions.len() as u64;
        assert_eq!(layer.value_bytes(), bytes(model));
        assert_eq!(self.open.pending_value_bytes, bytes(&self.current) - bytes(model));
        assert_eq!(layer.counts.tombstones.load(Ordering::Relaxed), model.drops.len() as u64);
        assert!(self.open.used_bytes() <= layer.memory_bytes() as u64);
    }
}

fn step() -> impl Strategy<Value = (Step, usize)> {
    let block =
        || prop_oneof![8 => 0..2_u32, 2 => 10..40_u32, 1 => any::<u32>(), 1 => Just(u32::MAX)];
    let kind = || prop_oneof![8 => Just(1_u8), 1 => Just(0), 1 => Just(2)];
    let put = move || (0..3_u8, block(), kind(), prop::bool::weighted(0.7));
    let step = prop_oneof![
        4 => prop::collection::vec(put(), 1..30).prop_map(Step::Puts),
        2 => prop::collection::vec(put(), 1..60).prop_map(Step::Batch),
        1 => (0..3_u8, block()).prop_map(|(object, block)| Step::Drop(object, block)),
        3 => Just(Step::Commit),
        2 => Just(Step::Abort),
    ];
    (step, prop_oneof![2 => Just(usize::MAX), 1 => 0..8_usize])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Readers that are stopped half-way while the writer goes on, taking back and running out of
    /// memory.
    #[test]
    fn readers_under_way_see_what_was_committed(
        steps in prop::collection::vec(step(), 1..120),
        (o, block, from) in (0..3_u8, 0..3_u32, 0..40_u32),
    ) {
        let mut driven = DrivenLayer::new();
        let layer = driven.open.layer().clone();
        let mut steps = steps.iter();
        let mut take = |driven: &mut DrivenLayer| {
            steps.next().map(|(step, left)| driven.step(step, *left)).is_some()
        };
        while take(&mut driven) {
            let key = Key::new(object(o), block);
            let model = driven.committed.clone();
            let mut found = Vec::new();
            let walk = layer.versions(key, Lsn::MAX, &mut |version| {
                found.push((version.lsn, version.kind, version.bytes.to_vec()));
                take(&mut driven);
            });
            prop_assert_eq!((found, walk), model.read(key, Lsn::MAX));

            let model = driven.committed.clone();
            let from = Key::new(object(o), from);
            let sorted = layer.sorted_from(from).map(|(key, version)| {
                if version.lsn.0 % 16 == 0 {
                    take(&mut driven);
                }
                ((key, version.lsn), (version.kind, version.bytes.to_vec()))
            });
            let sorted: Vec<_> = sorted.collect();
            let expected = model.versions.range((from, Lsn(0))..);
            prop_assert_eq!(sorted, expected.map(|(at, value)| (*at, value.clone())).collect::<Vec<_>>());
        }
        driven.step(&Step::Commit, usize::MAX);
        check_sorted(&layer, &driven.committed);
    }
}

#[test]
fn a_cursor_sees_whole_commits_while_the_writer_appends() {
    const COMMITS: u64 = 1500;
    // The first key is in every commit, the others in some.
    let keys: Vec<_> = (0..5_u128)
        .flat_map(|object| {
            [0, 15, 16, 300, 5000, u32::MAX].map(|block| Key::new(object << 70, block))
        })
        .collect();
    let puts = |lsn: u64, n: usize| n == 0 || (lsn + n as u64).is_multiple_of(n as u64 % 7 + 2);
    let value = |lsn: u64, n: usize| [lsn, n as u64].map(u64::to_le_bytes).concat();
    let pool = Arc::new(ChunkPool::new(0));
    let mut open = OpenLayer::new(Lsn(1), &pool);
    let layer = open.layer().clone();
    let ended = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0.. {
                let last = ended.load(Ordering::Acquire);
                let before = layer.committed_lsn();
                let found: Vec<_> = layer.sorted_from(Key::MIN).collect();
                let newest = found.iter().filter(|(key, _)| *key == keys[0]).map(|(_, v)| v.lsn);
                let upper = newest.max().unwrap_or(Lsn(0));
                assert!((before..=layer.committed_lsn()).contains(&upper), "round {round}");
                let all = keys.iter().enumerate().flat_map(|(n, key)| {
                    (1..=upper.0).filter(move |lsn| puts(*lsn, n)).map(move |lsn| (n, *key, lsn))
                });
                let mut found = found.into_iter();
                for (n, key, lsn) in all {
                    let (found, version) = found.next().expect("a version is missing");
                    assert_eq!((found, version.lsn), (key, Lsn(lsn)), "up to {upper}");
                    assert_eq!(version.bytes, value(lsn, n));
                }
                assert_eq!(found.next().map(|(key, v)| (key, v.lsn)), None);
                if last {
                    break;
                }
            }
        });
        for lsn in 1..=COMMITS {
            // What is taken back has other values, and as many later Lsns as make blocks grow.
            for lsn in (lsn..lsn + lsn % 5 * 7).filter(|_| lsn.is_multiple_of(3)) {
                for key in &keys {
                    open.put(*key, Lsn(lsn), Value::Delta { bytes: b"back", will_init: false })
                        .unwrap();
                }
            }
            open.abort();
            for (n, key) in keys.iter().enumerate().filter(|(n, _)| puts(lsn, *n)) {
                open.put(*key, Lsn(lsn), Value::Delta { bytes: &value(lsn, n), will_init: false })
                    .unwrap();
            }
            open.commit(Lsn(lsn)).unwrap();
        }
        ended.store(true, Ordering::Release);
    });
}
