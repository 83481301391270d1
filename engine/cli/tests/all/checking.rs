//! `ingest --check` against a real server that logs an image with each change of a page: every
//! image is compared, and the work is linear in the records.

use std::path::Path;

use crate::{
    server::PostgresServer,
    support::{copy_dir, edit, files, run},
};

const SETTINGS: &str = "autovacuum = off\nwal_consistency_checking = 'all'\nwal_compression = on";

/// What an ingest with checks says of a log that has `rows` inserts into a table with a hash index,
/// each of which changes the index's first page.
fn check(rows: u32) -> Option<serde_json::Value> {
    let server = PostgresServer::start(SETTINGS)?;
    server.sql("create table t(i int)\ncreate index on t using hash (i)");
    server.ctl("stop -m fast");
    let dir = tempfile::tempdir().unwrap();
    copy_dir(&server.data(), &dir.path().join("base"));
    server.ctl("start");
    server.sql(&format!("insert into t select generate_series(1, {rows})"));
    // Pages that are checked before they are gone, and made again.
    server.sql(
        "create table cut(i int)\ninsert into cut select generate_series(1, 2000)\nvacuum cut",
    );
    server.sql(
        "delete from cut where i > 100\nvacuum cut\ninsert into cut select generate_series(1, 900)",
    );
    server.sql("truncate cut\ninsert into cut select generate_series(1, 900)\ndrop table cut");
    server.ctl("stop -m fast");
    run(dir.path(), "import --store {}/store --base {}/base").good();
    let wal = server.data().join("pg_wal");
    let ingest = format!("ingest --json --check --store {{}}/store --wal {}", wal.display());
    Some(run(dir.path(), &ingest).good().json().remove(0))
}

#[test]
fn checks_redo_each_record_once() {
    let Some(few) = check(1000) else { return };
    let many = check(3000).unwrap();
    let number = |report: &serde_json::Value, path: &str| {
        report.pointer(path).unwrap_or_else(|| panic!("no {path}: {report}")).as_u64().unwrap()
    };
    for (report, rows) in [(&few, 1000), (&many, 3000)] {
        let (images, redone) =
            (number(report, "/checked/images"), number(report, "/checked/redone"));
        let deltas = number(report, "/deltas");
        println!("{rows} rows: {deltas} deltas, {images} images compared, {redone} records redone");
        // A heap page and two of the index, each row.
        assert!(images >= 3 * rows && number(report, "/checked/exact") > 0);
        // Each once as it comes, once more at the end, and the few that were there when a page was
        // checked first.
        assert!(redone >= deltas && redone <= 3 * deltas, "{redone} of {deltas}");
    }
}

/// A difference is found in a page that was compared before.
#[test]
fn a_difference_is_found_behind_the_first_check() {
    let Some(server) = PostgresServer::start("autovacuum = off\nwal_consistency_checking = 'heap'")
    else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    server.sql("create table t(i int, t text)");
    server.ctl("stop -m fast");
    copy_dir(&server.data(), &dir.path().join("base"));
    server.ctl("start");
    for i in 0..20 {
        server.sql(&format!("insert into t values ({i}, 'marker-{i:04}')"));
    }
    server.ctl("stop -m fast");
    let wal = dir.path().join("wal");
    copy_dir(&server.data().join("pg_wal"), &wal);
    run(dir.path(), "import --store {}/store --base {}/base").good();
    let damaged = damage_image(&wal, b"marker-0012", 8);
    println!("image of record at {damaged}");
    run(dir.path(), "ingest --check --store {}/store --wal {}/wal")
        .failed(1, &["Heap/INSERT", &format!("{damaged} made another page"), "than PostgreSQL"]);
}

/// Changes a byte of the `nth` image that has this text, and mends the record's checksum; where the
/// record starts. Records here lie within a page of the log or not; the first that does and has the
/// text often enough is changed.
fn damage_image(wal: &Path, text: &[u8], nth: usize) -> pagestrata::Lsn {
    let storage = pagestrata_postgres_ingest::storage();
    let first = pagestrata_postgres::first_record(storage.clone(), wal).unwrap();
    let mut reader = pagestrata_postgres::WalReader::open(storage, wal, first, None, None).unwrap();
    let mut seen = 0;
    let mut found = None;
    while let Some(record) = reader.next_record().unwrap() {
        let raw = record.raw();
        // The row's own data is behind the image: the first one is within.
        let at = raw.windows(text.len()).position(|part| part == text);
        let is_whole = record.lsn().0 / 8192 == (record.lsn().0 + raw.len() as u64 - 1) / 8192;
        if let Some(at) = at.filter(|_| record.blocks().any(|block| block.image.is_some())) {
            seen += 1;
            if seen > nth.min(3) && is_whole {
                let mut bytes = raw.to_vec();
                bytes[at] ^= 1;
                let crc = crc32c(&[&bytes[24..], &bytes[..20]].concat());
                bytes[20..24].copy_from_slice(&crc.to_le_bytes());
                found = Some((record.lsn(), bytes));
                break;
            }
        }
    }
    let (lsn, bytes) = found.expect("an image that has the text");
    let name = format!("0000000100000000{:08X}", lsn.0 >> 20);
    let file = files(wal).into_iter().find(|path| path.ends_with(&name)).unwrap();
    let offset = (lsn.0 % (1 << 20)) as usize;
    edit(&file, |old| old[offset..offset + bytes.len()].copy_from_slice(&bytes));
    lsn
}

use crate::bad_input::crc32c;
