//! Redo of damaged records and on damaged pages: a page or an error, and never a panic.

use std::{collections::HashMap, panic::AssertUnwindSafe};

use fastrand::Rng;
use pagestrata_layers::{Kind, PageVersion, Redo};
use pagestrata_postgres::{PAGE_SIZE, Page, PageRedo, Record, RelPage};

use crate::{
    captures::{self, Capture},
    redo::Cluster,
};

/// Records of a kind and block that are damaged, and how often each is.
const RECORDS: u32 = 40;
const DAMAGES: u32 = 60;

/// Changes a few bytes: of the header, but for the Lsn, of line pointers, of the special space, or
/// anywhere.
fn damage_page(page: &mut Page, random: &mut Rng) {
    for _ in 0..=random.usize(..5) {
        let at = match random.usize(..4) {
            0 => 8 + random.usize(..16),
            1 => 24 + random.usize(..100),
            2 => PAGE_SIZE - 1 - random.usize(..16),
            _ => 8 + random.usize(..PAGE_SIZE - 8),
        };
        page[at] = damaged(page[at], random);
    }
}

fn damaged(byte: u8, random: &mut Rng) -> u8 {
    match random.usize(..3) {
        0 => byte ^ 1 << random.usize(..8),
        1 => [0, 0xFF][random.usize(..2)],
        _ => random.usize(..256) as u8,
    }
}

/// How many redos were errors.
fn damage(
    cluster: &Cluster,
    record: &Record<'_>,
    of: RelPage,
    page: &Page,
    random: &mut Rng,
) -> u32 {
    let redo = PageRedo::new(cluster.settings);
    let mut errors = 0;
    for round in 0..DAMAGES {
        let (mut page, mut bytes) = (*page, record.raw().to_vec());
        if round % 3 != 0 {
            damage_page(&mut page, random);
        }
        if round % 3 != 1 {
            for _ in 0..=random.usize(..3) {
                let at = 24 + random.usize(..bytes.len() - 24);
                bytes[at] = damaged(bytes[at], random);
            }
        }
        let version = PageVersion {
            lsn: record.end(),
            kind: Kind::Delta { will_init: false },
            bytes: &bytes,
        };
        let mut out = Vec::new();
        let apply = || redo.apply(of.key(), Some(&page), &mut [version].into_iter(), &mut out);
        let result = std::panic::catch_unwind(AssertUnwindSafe(apply));
        match result {
            Ok(Ok(())) => assert_eq!(out.len(), PAGE_SIZE),
            Ok(Err(_)) => errors += 1,
            Err(_) => panic!("{:?} 0x{:02X} on {of}", record.manager(), record.info()),
        }
    }
    errors
}

fn damage_records(capture: &Capture) {
    let mut cluster = Cluster::of(capture);
    let mut random = Rng::with_seed(15);
    let mut damaged_of_kind = HashMap::<_, u32>::new();
    let (mut damaged, mut errors) = (0, 0);
    let mut reader = capture.reader();
    while let Some(record) = reader.next_record().unwrap() {
        for block in record.blocks().filter(|block| block.applied_image().is_none()) {
            let kind = (record.manager(), record.info() & 0xF0, block.id);
            let count = damaged_of_kind.entry(kind).or_default();
            if *count < RECORDS {
                *count += 1;
                let zeros = [0; PAGE_SIZE];
                let page = cluster.pages.get(&block.key()).map_or(&zeros, |page| &**page);
                let of = RelPage { rel: block.rel, block: block.block };
                errors += damage(&cluster, &record, of, page, &mut random);
                damaged += DAMAGES;
            }
        }
        cluster.apply(&record);
    }
    println!(
        "{}: {damaged} damaged redos of {} kinds of records and blocks, {errors} of them errors",
        capture.name,
        damaged_of_kind.len()
    );
}

#[test]
fn redo_of_damaged_records_is_a_page_or_an_error() {
    damage_records(captures::sample());
    captures::made().iter().for_each(damage_records);
}
