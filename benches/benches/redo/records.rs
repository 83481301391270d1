//! Each type of record, on a page as it was before it.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    hint::black_box,
};

use pagestrata::{Key, Kind, Lsn, PageVersion, Redo, Value};
use pagestrata_benches::{
    measure::{Clock, Turns, timed},
    report::Wanted,
};

use pagestrata_postgres::{Error, PAGE_SIZE, PageVersions, record_name};

use crate::{Context, capture::Capture};

/// So many of a type take turns, each on a page of its own.
const KEPT: u64 = 48;

struct Known {
    key: Key,
    lsn: Lsn,
    record: Vec<u8>,
    page: Vec<u8>,
}

pub(crate) fn measure(context: &mut Context) {
    let capture = Capture::open("fpwoff");
    let types = types(&capture);
    context.report.part(format_args!(
        "types of records of {}, by how often they are redone; {KEPT} of each, pages in the second-level cache",
        capture.name
    ));
    context.report.line(format_args!(
        "  {:44} {:>8} {:>12} {:>12} {:>12}",
        "record, and which of its blocks", "times", "copy, ns", "redo, ns", "allocations"
    ));
    let redo = capture.redo();
    let (mut all, mut all_ns) = (0, 0.0);
    for (name, (times, known)) in types {
        // One for both: how fast pages are copied depends on how the two ends lie to each other.
        let page = RefCell::new(Vec::new());
        let loops = context.run.size(200, 1);
        let ops = (known.len() * loops) as u64;
        let mut turns = Turns::new();
        turns.add("copy", || {
            let page = &mut *page.borrow_mut();
            timed(ops, || {
                for known in (0..loops).flat_map(|_| &known) {
                    page.clear();
                    page.extend_from_slice(&known.page);
                    black_box(&mut *page);
                }
            })
            .1
        });
        turns.add("redo", || {
            let page = &mut *page.borrow_mut();
            timed(ops, || {
                for Known { key, lsn, record, page: before } in (0..loops).flat_map(|_| &known) {
                    page.clear();
                    let kind = Kind::Delta { will_init: false };
                    let mut delta = std::iter::once(PageVersion { lsn: *lsn, kind, bytes: record });
                    redo.apply(*key, Some(before), &mut delta, page).expect("redo");
                    black_box(&mut *page);
                }
            })
            .1
        });
        let measured = turns.run(context.run.size(9, 1), Clock::Thread);
        let [copy, redo] = &measured[..] else { continue };
        all += times;
        all_ns += times as f64 * (redo.ns.median - copy.ns.median);
        context.report.line(format_args!(
            "  {name:44} {times:8} {:12.0} {:12.0} {:12.2}",
            copy.ns.median,
            redo.ns.median - copy.ns.median,
            redo.allocations.median
        ));
    }
    let what = format!("{}: a record redone, mean of all types as they come", capture.name);
    context.report.goal(what, all_ns / all as f64, Wanted::AtMost(250.0), "ns");
}

/// The types, those that come most often first.
fn types(capture: &Capture) -> Vec<(String, (u64, Vec<Known>))> {
    let mut pages: HashMap<Key, Vec<u8>> = HashMap::new();
    let base = capture.base();
    let mut next = base.pages();
    while let Some((key, page)) = next.next_page().expect("a sound base") {
        pages.insert(key, page.to_vec());
    }
    let redo = capture.redo();
    let mut types: BTreeMap<String, (u64, Vec<Known>)> = BTreeMap::new();
    let mut versions = PageVersions::new();
    let mut made = Vec::new();
    capture.records(|record| {
        let name = record_name(record);
        let mut put = |key: Key, value: Value<'_>| {
            let page = pages.entry(key).or_insert_with(|| vec![0; PAGE_SIZE]);
            let Value::Delta { bytes, will_init } = value else {
                page.copy_from_slice(value.bytes());
                return Ok::<_, Error>(());
            };
            let block = record.blocks().find(|block| block.key() == key);
            let block = block.map_or_else(|| "map".to_owned(), |block| block.id.to_string());
            let (times, known) = types.entry(format!("{name} {block}")).or_default();
            *times += 1;
            let lsn = record.end();
            // Spread over the log: the n-th is kept where n is a power of two, or one of those that
            // follow.
            if known.len() < KEPT as usize && *times % (1 + *times / KEPT) == 0 {
                known.push(Known { key, lsn, record: bytes.to_vec(), page: page.clone() });
            }
            made.clear();
            let delta = PageVersion { lsn, kind: Kind::Delta { will_init }, bytes };
            redo.apply(key, Some(page), &mut std::iter::once(delta), &mut made).expect("redo");
            page.copy_from_slice(&made);
            Ok(())
        };
        versions.versions(record, &mut put).expect("sound records");
        versions.implied(record, &mut put).expect("sound records");
    });
    let mut types: Vec<_> = types.into_iter().filter(|(_, (_, known))| !known.is_empty()).collect();
    types.sort_by_key(|(_, (times, _))| std::cmp::Reverse(*times));
    types
}
