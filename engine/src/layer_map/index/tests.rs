//! Compares the index with a linear scan.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use pagestrata_layers::{Key, KeyRange, Lsn};
use proptest::prelude::*;

use super::{
    Change, Hit, LayerIndex, LayerKind, LayerShape, LayerSlot,
    recorded::{generated, recorded_maps},
    visits,
};

/// The layers as a plain list.
#[derive(Clone, Default)]
struct Model(BTreeMap<LayerSlot, LayerShape>);

/// One visit of a read: a layer, from the first Lsn to the last one.
type Visit = (LayerSlot, Lsn, Lsn);

impl Model {
    /// The layers that cover a key.
    fn covering(&self, key: Key) -> impl Iterator<Item = (LayerSlot, &LayerShape)> {
        let covers = move |shape: &LayerShape| shape.key_range.contains(key);
        self.0.iter().filter(move |(_, shape)| covers(shape)).map(|(&layer, shape)| (layer, shape))
    }

    /// The newest image that covers `key` at or below `upper`.
    fn image(&self, key: Key, upper: Lsn) -> Option<Lsn> {
        let lsns = self.covering(key).filter_map(|(_, shape)| match shape.kind {
            LayerKind::Image { lsn } => Some(lsn).filter(|&lsn| lsn <= upper),
            LayerKind::Delta { .. } => None,
        });
        lsns.max()
    }

    /// The deltas that cover `key` at `lsn`.
    fn deltas_at(&self, key: Key, lsn: Lsn) -> BTreeSet<LayerSlot> {
        let here = |shape: &LayerShape| match shape.kind {
            LayerKind::Delta { start, end } => start <= lsn && lsn < end,
            LayerKind::Image { .. } => false,
        };
        self.covering(key).filter(|(_, shape)| here(shape)).map(|(layer, _)| layer).collect()
    }

    /// Returns what a read must visit of each delta, down to the newest image: everything above the
    /// image.
    fn cells(&self, key: Key, upper: Lsn) -> BTreeSet<Visit> {
        let above = self.image(key, upper).map_or(Lsn(0), Lsn::next);
        let part = |(layer, shape): (LayerSlot, &LayerShape)| match shape.kind {
            LayerKind::Delta { start, end } => {
                let (floor, top) = (start.max(above), upper.min(end.previous()));
                (floor <= top).then_some((layer, floor, top))
            }
            LayerKind::Image { .. } => None,
        };
        self.covering(key).filter_map(part).collect()
    }

    /// Returns the first layer of a read as the head of `index.rs` defines it: the floor, the
    /// layers that the hit may name, and whether they are images.
    fn search(&self, key: Key, upper: Lsn) -> Option<(Lsn, BTreeSet<LayerSlot>, bool)> {
        let image = self.image(key, upper);
        let (mut top, mut bounds) = (None, vec![Lsn(0)]);
        for (_, shape) in self.covering(key) {
            if let LayerKind::Delta { start, end } = shape.kind
                && start <= upper
            {
                top = top.max(Some(upper.min(end.previous())));
                bounds.extend([start, end]);
            }
        }
        if image.is_some() && image >= top {
            let lsn = image?;
            let at = |shape: &LayerShape| shape.kind == LayerKind::Image { lsn };
            let layers = self.covering(key).filter(|(_, shape)| at(shape)).map(|(layer, _)| layer);
            return Some((lsn, layers.collect(), true));
        }
        bounds.extend(image.map(Lsn::next));
        let floor = bounds.into_iter().filter(|&lsn| Some(lsn) <= top).max()?;
        Some((floor, self.deltas_at(key, top?), false))
    }
}

/// Compares one search, and the searches that follow from it.
fn check_search(
    map: &LayerIndex,
    model: &Model,
    key: Key,
    upper: Lsn,
) -> Result<(), TestCaseError> {
    let [searched, walked @ ..] = visits::all_ways(map, key, upper);
    for walked in walked {
        prop_assert_eq!(&walked, &searched, "at {} {}", key, upper);
    }
    let hit = map.search(key, upper);
    let Some((floor, layers, image)) = model.search(key, upper) else {
        prop_assert_eq!(hit, None);
        return Ok(());
    };
    let hit = hit.ok_or_else(|| TestCaseError::fail(format!("no hit at {key} {upper}")))?;
    prop_assert_eq!(hit.floor, floor, "at {} {}", key, upper);
    prop_assert!(layers.contains(&hit.layer));
    prop_assert_eq!(hit.shared, !image && layers.len() > 1);
    if !image {
        prop_assert_eq!(map.deltas_at(key, floor).collect::<BTreeSet<_>>(), layers);
    }
    Ok(())
}

/// Walks a read down to its image and compares the visited cells, together, with all that exist.
fn check_read(map: &LayerIndex, model: &Model, key: Key, upper: Lsn) -> Result<(), TestCaseError> {
    let mut visits: BTreeMap<LayerSlot, Vec<(Lsn, Lsn)>> = BTreeMap::new();
    let (mut at, mut image) = (upper, None);
    while let Some(Hit { layer, floor, shared }) = map.search(key, at) {
        if let LayerKind::Image { lsn } = map.get(layer).expect("a layer").kind {
            image = Some(lsn);
            break;
        }
        let layers = if shared { map.deltas_at(key, floor).collect() } else { vec![layer] };
        for layer in layers {
            visits.entry(layer).or_default().push((floor, at));
        }
        if floor == Lsn(0) {
            break;
        }
        at = floor.previous();
    }
    prop_assert_eq!(image, model.image(key, upper));
    let joined: BTreeSet<Visit> = visits
        .into_iter()
        .map(|(layer, parts)| {
            let Some(LayerKind::Delta { start, end }) = map.get(layer).map(|shape| shape.kind)
            else {
                panic!("an image in the middle")
            };
            assert!(parts.windows(2).all(|pair| pair[1].1 <= pair[0].0.previous()), "disjoint");
            let floor = parts.iter().map(|part| part.0).min().expect("a part");
            assert!(floor >= start);
            let top = parts[0].1.min(end.previous());
            let cells: u64 = parts.iter().map(|part| part.1.min(top).0 - part.0.0 + 1).sum();
            assert_eq!(cells, top.0 - floor.0 + 1, "without holes");
            (layer, floor, top)
        })
        .collect();
    prop_assert_eq!(joined, model.cells(key, upper));
    Ok(())
}

/// Compares all answers of the index, at the places where answers change.
fn check(map: &LayerIndex, model: &Model) -> Result<(), TestCaseError> {
    prop_assert_eq!(map.layer_count(), model.0.len());
    prop_assert_eq!(
        map.iter().collect::<Vec<_>>(),
        model.0.clone().into_iter().collect::<Vec<_>>()
    );
    let mut keys = BTreeSet::from([Key::MIN, Key::MAX]);
    let mut lsns = BTreeSet::from([Lsn(0), Lsn(1), Lsn::MAX]);
    for shape in model.0.values() {
        keys.extend([Some(shape.key_range.start), shape.key_range.end].into_iter().flatten());
        let range = shape.lsn_range();
        lsns.extend([range.start, range.end, range.start.previous(), range.end.previous()]);
    }
    for &key in &keys {
        for &lsn in &lsns {
            check_search(map, model, key, lsn)?;
        }
        check_read(map, model, key, Lsn::MAX)?;
        check_read(map, model, key, Lsn(11))?;
    }
    for (&start, &end) in keys.iter().zip(keys.iter().skip(2)) {
        let (key_range, lsn_range) = (KeyRange { start, end: Some(end) }, Lsn(3)..Lsn(9));
        let found: Vec<_> = map.layers_overlapping(key_range, lsn_range.clone()).collect();
        let meets = |shape: &LayerShape| {
            let lsns = shape.lsn_range();
            shape.key_range.start < end
                && shape.key_range.end.is_none_or(|end| start < end)
                && lsns.start < lsn_range.end
                && lsn_range.start < lsns.end
        };
        let expected: BTreeSet<_> =
            model.0.iter().filter(|(_, shape)| meets(shape)).map(|(&layer, _)| layer).collect();
        prop_assert_eq!(found.len(), expected.len());
        prop_assert_eq!(found.iter().map(|found| found.0).collect::<BTreeSet<_>>(), expected);
    }
    Ok(())
}

/// A step: a layer to add, or which of the present ones to remove.
#[derive(Clone, Debug)]
enum Step {
    /// Adds a layer.
    Insert(LayerShape),
    /// Removes the layer at this position in the list of all.
    Remove(prop::sample::Index),
}

/// Shapes over few keys and Lsns, so that they touch, nest and cross.
fn shape(keys: u32, lsns: u64) -> impl Strategy<Value = LayerShape> {
    let width = prop_oneof![4 => 1..4u32, 1 => 1..keys];
    let key = move |at: u32| Key::new(u128::from(at / 7) << 70, at % 7);
    let range = (0..keys, width, any::<u8>()).prop_map(move |(start, width, odd)| match odd {
        0..4 => KeyRange::ALL,
        4..16 => KeyRange { start: key(start), end: None },
        16..32 => KeyRange { start: Key::MIN, end: Some(key(start + 1)) },
        _ => KeyRange { start: key(start), end: Some(key(start + width)) },
    });
    let kind = (0..lsns, prop_oneof![Just(1), 1..lsns], any::<bool>()).prop_map(
        move |(start, length, image)| {
            if image {
                LayerKind::Image { lsn: Lsn(start) }
            } else if start % 16 == 15 {
                LayerKind::Delta { start: Lsn(start), end: Lsn::MAX }
            } else {
                LayerKind::Delta { start: Lsn(start), end: Lsn(start + length) }
            }
        },
    );
    (range, kind).prop_map(|(key_range, kind)| LayerShape { key_range, kind })
}

/// Steps in batches; each batch is an edit.
fn batches(keys: u32, lsns: u64, count: usize) -> impl Strategy<Value = Vec<Vec<Step>>> {
    let step = prop_oneof![
        3 => shape(keys, lsns).prop_map(Step::Insert),
        2 => any::<prop::sample::Index>().prop_map(Step::Remove),
    ];
    prop::collection::vec(prop::collection::vec(step, 1..12), 1..count)
}

/// Runs batches from an empty index; keeps all versions and checks each at once and again at the
/// end.
fn run(batches: &[Vec<Step>], last_removes_all: bool) -> Result<(), TestCaseError> {
    let mut versions = vec![(LayerIndex::new(), Model::default())];
    for batch in batches {
        let (map, model) = versions.last().expect("one");
        let mut next = model.clone();
        let mut changes = Vec::new();
        for step in batch {
            match step {
                Step::Insert(shape) => {
                    let free = (0..).map(LayerSlot).find(|layer| !next.0.contains_key(layer));
                    let layer = free.expect("a free slot");
                    next.0.insert(layer, *shape);
                    changes.push(Change::Insert(layer, *shape));
                }
                Step::Remove(at) if !next.0.is_empty() => {
                    let layer = *next.0.keys().nth(at.index(next.0.len())).expect("in range");
                    next.0.remove(&layer);
                    changes.push(Change::Remove(layer));
                }
                Step::Remove(_) => {}
            }
        }
        // All at once, which may rebuild the tree, and a few at a time, which grows and shrinks it.
        let built = map.edit(&changes);
        check(&built, &next)?;
        let grown = changes.chunks(30).fold(map.clone(), |map, part| map.edit(part));
        check(&grown, &next)?;
        versions.push((if changes.len() % 2 == 0 { built } else { grown }, next));
    }
    if last_removes_all {
        let (map, model) = versions.last().expect("one");
        let map =
            model.0.keys().fold(map.clone(), |map, &layer| map.edit(&[Change::Remove(layer)]));
        prop_assert_eq!(map.layer_count(), 0);
        check(&map, &Model::default())?;
    }
    for (map, model) in versions.iter().step_by(3) {
        check(map, model)?;
    }
    Ok(())
}

proptest! {
    #[test]
    fn few_stripes_equal_a_linear_scan(batches in batches(12, 24, 8)) {
        run(&batches, true)?;
    }

    #[test]
    fn many_stripes_equal_a_linear_scan(batches in batches(900, 12, 60)) {
        let all: Vec<Step> = batches.concat();
        let halves: Vec<Vec<Step>> = all.chunks(all.len().div_ceil(3)).map(<[Step]>::to_vec).collect();
        run(&halves, true)?;
    }
}

/// A layer that covers all keys.
fn whole(kind: LayerKind) -> LayerShape {
    LayerShape { key_range: KeyRange::ALL, kind }
}

/// Compares at random positions and at layers' corners.
fn check_samples(map: &LayerIndex, model: &Model, count: usize, random: &mut Rng) {
    let shapes: Vec<&LayerShape> = model.0.values().collect();
    let mut one = || shapes[random.u64(..shapes.len() as u64) as usize];
    for _ in 0..count {
        let (KeyRange { start, end }, lsns) = (one().key_range, one().lsn_range());
        let keys = [Some(start), start.next(), end];
        for (key, lsn) in
            keys.into_iter().flatten().zip([lsns.start, lsns.start.previous(), lsns.end])
        {
            check_search(map, model, key, lsn).expect("as the linear scan");
        }
        check_read(map, model, start, lsns.end).expect("as the linear scan");
    }
}

/// Inserts of shapes, each into the slot of its position.
fn inserts(shapes: &[LayerShape]) -> Vec<Change> {
    shapes.iter().zip(0..).map(|(&shape, at)| Change::Insert(LayerSlot(at), shape)).collect()
}

/// The model of shapes, each in the slot of its position.
fn model(shapes: &[LayerShape]) -> Model {
    Model(shapes.iter().zip(0..).map(|(&shape, at)| (LayerSlot(at), shape)).collect())
}

#[test]
fn recorded_maps_equal_a_linear_scan() {
    let mut random = Rng::with_seed(17);
    for (name, shapes) in recorded_maps(&mut std::io::stderr()).expect("readable captures") {
        let (built, model) = (LayerIndex::new().edit(&inserts(&shapes)), model(&shapes));
        let mut changes = inserts(&shapes);
        random.shuffle(&mut changes);
        let grown = changes.chunks(50).fold(LayerIndex::new(), |map, part| map.edit(part));
        for map in [&built, &grown] {
            check_samples(map, &model, 200, &mut random);
            let bytes = map.memory_bytes() / map.layer_count();
            assert!((20..120).contains(&bytes), "{name}: {bytes} bytes a layer");
        }
        // Down to few layers again; the old version must be unharmed.
        let kept = 100.min(shapes.len());
        let mut layers: Vec<LayerSlot> = model.0.keys().copied().collect();
        random.shuffle(&mut layers);
        let remove: Vec<Change> =
            layers[kept..].iter().map(|&layer| Change::Remove(layer)).collect();
        let few = remove.chunks(20).fold(grown.clone(), |map, part| map.edit(part));
        let rest =
            Model(layers[..kept].iter().map(|&layer| (layer, shapes[layer.0 as usize])).collect());
        check_samples(&few, &rest, 200, &mut random);
        check_samples(&grown, &model, 50, &mut random);
        assert!(few.memory_bytes() < grown.memory_bytes() / 4, "nodes are joined");
    }
}

#[test]
fn generated_maps_are_of_the_recorded_shape() {
    let shapes = generated();
    assert_eq!(LayerIndex::new().edit(&inserts(&shapes)).layer_count(), shapes.len());
}

#[test]
fn very_many_layers_of_all_keys_stay_searchable() {
    let delta = |at: u64| LayerKind::Delta { start: Lsn(10 * at + 1), end: Lsn(10 * at + 8) };
    // Two marks each: more than 16 bits can number.
    let shapes: Vec<LayerShape> = (0..40_000).map(|at| whole(delta(at))).collect();
    let map = LayerIndex::new().edit(&inserts(&shapes));
    let image = LayerSlot(shapes.len() as u32);
    let edited = map.edit(&[Change::Insert(image, whole(LayerKind::Image { lsn: Lsn(200_004) }))]);
    for at in (0..40_000).step_by(997) {
        let hit = Hit { layer: LayerSlot(at as u32), floor: Lsn(10 * at + 1), shared: false };
        for upper in [10 * at + 4, 10 * at + 10] {
            assert_eq!(map.search(Key::MIN, Lsn(upper)), Some(hit));
            assert_eq!(edited.search(Key::MAX, Lsn(upper)), Some(hit));
        }
    }
    let hit = |layer, floor| Some(Hit { layer, floor: Lsn(floor), shared: false });
    assert_eq!(edited.search(Key::MIN, Lsn(200_006)), hit(LayerSlot(20_000), 200_005));
    assert_eq!(edited.search(Key::MIN, Lsn(200_004)), hit(image, 200_004));
    assert_eq!(edited.search(Key::MIN, Lsn(200_003)), hit(LayerSlot(20_000), 200_001));
    assert_eq!(
        edited.edit(&[Change::Remove(image)]).search(Key::MIN, Lsn(200_006)),
        hit(LayerSlot(20_000), 200_001)
    );
}

#[test]
#[should_panic(expected = "is taken")]
fn a_taken_slot_is_refused() {
    let shape = whole(LayerKind::Image { lsn: Lsn(1) });
    let change = Change::Insert(LayerSlot(0), shape);
    let _ = LayerIndex::new().edit(&[change, change]);
}

#[test]
#[should_panic(expected = "is empty")]
fn an_empty_shape_is_refused() {
    let shape = whole(LayerKind::Delta { start: Lsn(7), end: Lsn(7) });
    let _ = LayerIndex::new().edit(&[Change::Insert(LayerSlot(0), shape)]);
}

#[test]
#[should_panic(expected = "is free")]
fn a_free_slot_cannot_be_emptied() {
    let _ = LayerIndex::new().edit(&[Change::Remove(LayerSlot(3))]);
}
