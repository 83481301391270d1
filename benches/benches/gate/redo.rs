//! Redo of PostgreSQL records, one at a time, on pages as they were before them.

use std::{collections::HashMap, hint::black_box};

use pagestrata::{Key, Kind, Lsn, PageVersion, Redo, Value};
use pagestrata_benches::stores::Place;
use pagestrata_postgres::{
    BaseBackup, Error, PAGE_SIZE, PageRedo, PageVersions, RedoSettings, WalReader,
};
use pagestrata_postgres_ingest::{sample, storage};

use crate::Meter;

/// One record in so many is kept, with the page before it.
const STRIDE: u64 = 97;

struct Before {
    key: Key,
    delta_lsn: Lsn,
    will_init: bool,
    record: Vec<u8>,
    page: Vec<u8>,
}

/// Redo of records of the sample, the copy of the page included; the unit is a record.
pub(crate) fn redo(meter: &mut Meter) {
    let (redo, befores) = records();
    let mut page = Vec::with_capacity(PAGE_SIZE);
    for round in 0..3 {
        let mut apply_all = || {
            for before in &befores {
                apply(&redo, before, &mut page);
                black_box(page.last());
            }
        };
        if round == 0 {
            apply_all();
        } else {
            meter.count(befores.len() as u64, apply_all);
        }
    }
}

fn apply(redo: &PageRedo, before: &Before, page: &mut Vec<u8>) {
    page.clear();
    let kind = Kind::Delta { will_init: before.will_init };
    let delta = PageVersion { lsn: before.delta_lsn, kind, bytes: &before.record };
    let deltas = &mut std::iter::once(delta);
    redo.apply(before.key, Some(&before.page), deltas, page).expect("redo");
}

fn records() -> (PageRedo, Vec<Before>) {
    let dir = Place::Tmpfs.dir();
    sample::unpack(dir.path()).expect("the sample is sound");
    let base = BaseBackup::open(storage(), &dir.path().join("base")).expect("a sound base");
    let control = base.control();
    let logs_hints = control.data_checksums || control.wal_log_hints;
    let redo = PageRedo::new(RedoSettings { logs_hints });
    let mut pages: HashMap<Key, Vec<u8>> = HashMap::new();
    let mut next = base.pages();
    while let Some((key, page)) = next.next_page().expect("a sound base") {
        pages.insert(key, page.to_vec());
    }
    let (mut befores, mut seen, mut made) = (Vec::new(), 0, Vec::new());
    let mut versions = PageVersions::new();
    let from = control.checkpoint;
    let mut log =
        WalReader::open(storage(), &dir.path().join("wal"), from, None, None).expect("a sound log");
    while let Some(record) = log.next_record().expect("a sound log") {
        let delta_lsn = record.end();
        let mut put = |key: Key, value: Value<'_>| {
            let page = pages.entry(key).or_insert_with(|| vec![0; PAGE_SIZE]);
            let Value::Delta { bytes, will_init } = value else {
                page.copy_from_slice(value.bytes());
                return Ok::<_, Error>(());
            };
            let (record, before) = (bytes.to_vec(), page.clone());
            let before = Before { key, delta_lsn, will_init, record, page: before };
            apply(&redo, &before, &mut made);
            page.copy_from_slice(&made);
            seen += 1;
            if seen % STRIDE == 0 {
                befores.push(before);
            }
            Ok(())
        };
        versions.versions(&record, &mut put).expect("sound records");
        versions.implied(&record, &mut put).expect("sound records");
    }
    assert!(befores.len() > 100, "expected more than 100 records, found {}", befores.len());
    (redo, befores)
}
