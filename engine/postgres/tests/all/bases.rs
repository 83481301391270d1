//! What a read at the end of a capture rests on: deltas whose page has nothing older, and pages
//! that a record names twice.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use pagestrata_layers::{Key, Value};
use pagestrata_postgres::{
    BaseBackup, Error, PageVersions, RelFork, RelPage, RelationEvent, relation_events,
};

use crate::captures::{self, Capture};

#[derive(Default)]
struct Findings {
    deltas: usize,
    named: BTreeMap<String, usize>,
    implied: BTreeMap<String, usize>,
    keys: BTreeSet<String>,
    repeated: usize,
}

fn find(capture: &Capture) -> Findings {
    let base = BaseBackup::open(captures::storage(), &capture.base()).unwrap();
    let (mut known, mut pages) = (HashSet::new(), base.pages());
    while let Some((key, _)) = pages.next_page().unwrap() {
        known.insert(key);
    }
    let (mut reader, mut versions) = (capture.reader(), PageVersions::new());
    let mut findings = Findings::default();
    while let Some(record) = reader.next_record().unwrap() {
        let keys: HashSet<Key> = record.blocks().map(|block| block.key()).collect();
        findings.repeated += record.blocks().len() - keys.len();
        let what = |key: Key| {
            let rel: RelFork = RelPage::from_key(key).unwrap().rel;
            format!("{} {:#04X} {}", record.manager(), record.info() & 0xF0, rel.fork)
        };
        let mut check =
            |key: Key,
             value: Value<'_>,
             list: fn(&mut Findings) -> &mut BTreeMap<String, usize>| {
                if matches!(value, Value::Delta { .. }) {
                    findings.deltas += 1;
                }
                if matches!(value, Value::Delta { will_init: false, .. }) && !known.contains(&key) {
                    *list(&mut findings).entry(what(key)).or_default() += 1;
                    findings.keys.insert(RelPage::from_key(key).unwrap().to_string());
                } else {
                    known.insert(key);
                }
            };
        let named = versions.versions(&record, |key, value| {
            check(key, value, |findings| &mut findings.named);
            Ok::<_, Error>(())
        });
        let implied = versions.implied(&record, |key, value| {
            check(key, value, |findings| &mut findings.implied);
            Ok::<_, Error>(())
        });
        named.and(implied).unwrap();
        relation_events(&record, |event| {
            let (gone, first) = match event {
                RelationEvent::Truncated { rel, first_block } => (rel, first_block),
                RelationEvent::Dropped { rel } => (rel, 0),
                _ => return Ok::<_, Error>(()),
            };
            known.retain(|key| key.object != gone.object() || key.block < first);
            Ok(())
        })
        .unwrap();
    }
    findings
}

#[test]
fn only_visibility_maps_start_from_nothing() {
    for capture in captures::all() {
        let Findings { deltas, named, implied, keys, repeated } = find(capture);
        println!(
            "{}: of {deltas} deltas without a base: {named:?} named, {implied:?} implied, on {:?}; {repeated} \
             pages named twice",
            capture.name, keys
        );
        assert_eq!(repeated, 0);
        let vm = |what: &String| what.ends_with(" vm");
        assert!(
            named.keys().chain(implied.keys()).all(vm),
            "{}: {named:?} {implied:?}",
            capture.name
        );
    }
}
