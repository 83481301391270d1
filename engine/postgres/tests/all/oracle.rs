//! Every record, block reference and image against an independent reader's, which agrees with
//! `pg_waldump -b`.

use pagestrata_layers::Lsn;
use pagestrata_postgres::{
    BlockRef, Compression, ImageDecoder, PAGE_SIZE, Record, WalEnd, decode_record,
};
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

use crate::captures::{self, Capture};

#[derive(Default, Debug)]
struct Counts {
    records: usize,
    references: usize,
    images: usize,
    compressed: [usize; 3],
}

fn lsn(json: &Json) -> Lsn {
    json.as_str().unwrap().parse().unwrap()
}

fn number(json: &Json) -> u64 {
    json.as_u64().unwrap()
}

fn check_block(block: &BlockRef<'_>, want: &Json, images: &mut ImageDecoder, counts: &mut Counts) {
    let rel: Vec<u64> = want["rel"].as_array().unwrap().iter().map(number).collect();
    let found = [block.rel.tablespace, block.rel.database, block.rel.relation].map(u64::from);
    assert_eq!(found[..], rel);
    for (name, found) in [
        ("i", u64::from(block.id)),
        ("f", block.rel.fork as u64),
        ("blk", block.block.into()),
        ("fl", block.flags.into()),
        ("dl", block.data.len() as u64),
    ] {
        assert_eq!(found, number(&want[name]), "{name}");
    }
    counts.references += 1;
    let Some(image) = &block.image else {
        assert!(want.get("bi").is_none());
        return;
    };
    for (name, found) in [
        ("bi", u64::from(image.info)),
        ("il", image.bytes.len() as u64),
        ("ho", image.hole_offset.into()),
        ("hl", image.hole_length.into()),
    ] {
        assert_eq!(found, number(&want[name]), "{name}");
    }
    assert_eq!(image.apply(), want["apply"].as_bool().unwrap());
    let mut page = [0xAA; PAGE_SIZE];
    images.restore(image, &mut page).unwrap();
    assert_eq!(format!("{:x}", Sha256::digest(page)), want["sha"].as_str().unwrap());
    let half = |at: usize| u64::from(u32::from_le_bytes(page[at..at + 4].try_into().unwrap()));
    assert_eq!(Lsn(half(0) << 32 | half(4)), lsn(&want["img_pd_lsn"]));
    counts.images += 1;
    match image.compression() {
        Compression::None => {}
        Compression::Pglz => counts.compressed[0] += 1,
        Compression::Lz4 => counts.compressed[1] += 1,
        Compression::Zstd => counts.compressed[2] += 1,
    }
}

fn check_record(record: &Record<'_>, want: &Json, images: &mut ImageDecoder, counts: &mut Counts) {
    assert_eq!(record.lsn(), lsn(&want["lsn"]));
    assert_eq!(record.end(), lsn(&want["end"]), "end of {}", record.lsn());
    assert_eq!(record.prev(), lsn(&want["prev"]));
    assert_eq!(record.manager().to_string(), want["rm"].as_str().unwrap());
    assert_eq!(u64::from(record.info()), number(&want["info"]));
    assert_eq!(u64::from(record.xid()), number(&want["xid"]));
    assert_eq!(record.raw().len() as u64, number(&want["len"]));
    assert_eq!(record.main_data().len() as u64, number(&want["main"]));
    // Only the sample's oracle has these two.
    if let Some(origin) = want.get("origin") {
        assert_eq!(record.origin().map(u64::from), Some(number(origin)));
    }
    if let Some(xid) = want.get("toplevel") {
        assert_eq!(record.toplevel_xid().map(u64::from), Some(number(xid)));
    }
    let empty = Vec::new();
    let blocks = want.get("b").map_or(&empty, |blocks| blocks.as_array().unwrap());
    assert_eq!(record.blocks().len(), blocks.len());
    for (block, want) in record.blocks().zip(blocks) {
        check_block(&block, want, images, counts);
    }
    let alone = decode_record(record.raw(), record.end()).unwrap();
    assert!(alone.blocks().map(|block| block.data).eq(record.blocks().map(|block| block.data)));
    counts.records += 1;
}

fn check(capture: &Capture) -> Counts {
    let (mut counts, mut images) = (Counts::default(), ImageDecoder::new());
    let mut reader = capture.reader();
    let mut last_end = Lsn::INVALID;
    for line in capture.lines(".oracle.jsonl.zst").unwrap() {
        let want: Json = serde_json::from_str(&line).unwrap();
        let record = reader.next_record().unwrap().expect("the oracle has more records");
        check_record(&record, &want, &mut images, &mut counts);
        last_end = record.end();
    }
    assert!(reader.next_record().unwrap().is_none(), "the oracle has no more records");
    assert_eq!(reader.end(), Some(WalEnd::Clean { at: last_end }));
    counts
}

#[test]
fn every_record_is_the_oracles() {
    for capture in captures::all() {
        let want = capture.lines(".oracle.jsonl.zst").unwrap().count();
        let counts = check(capture);
        let Counts { records, references, images, compressed: [pglz, lz4, zstd] } = counts;
        println!(
            "{}: {records} of {want} records, {references} block references, {images} images \
             ({pglz} pglz, {lz4} lz4, {zstd} zstd), 0 differences",
            capture.name
        );
        assert_eq!(records, want);
        if capture.name == "sample" {
            assert!(pglz > 40 && lz4 > 40 && zstd > 40, "the sample has every compression");
        }
    }
}
