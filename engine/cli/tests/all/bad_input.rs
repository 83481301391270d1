//! What is refused: one line that says what to do, an exit code, and the store as it was.

use std::{
    fs,
    path::{Path, PathBuf},
};

use pagestrata::Lsn;

use crate::support::{
    BEGIN, END, RECORDS, Ran, SYSTEM, contents, edit, files, imported, ingested, run, sample_copy,
};

const INGEST: &str = "ingest --store {}/store --wal {}/wal";
const PAGE: &str = "1663/5/16384/main/44";

/// Runs a command that fails, and checks that the store is as it was.
#[track_caller]
fn refused(dir: &Path, arguments: &str, code: i32, texts: &[&str]) -> Ran {
    let store = dir.join("store");
    let before = store.exists().then(|| contents(&store));
    let ran = run(dir, arguments).failed(code, texts);
    assert!(store.exists().then(|| contents(&store)) == before, "the store has changed");
    ran
}

/// A segment of the sample's log: the base ends in 0xA, the log in 0xD.
fn segment(dir: &Path, number: u8) -> PathBuf {
    dir.join(format!("wal/0000000100000000000000{number:02X}"))
}

#[test]
fn wrong_paths() {
    let dir = sample_copy();
    let missing = ["cannot", "check the path"];
    refused(dir.path(), "import --store {}/store --base {}/none", 3, &missing);
    refused(dir.path(), "import --store {}/store --base {}/wal", 3, &missing);
    refused(dir.path(), "import --store {}/none/store --base {}/base", 3, &missing);
    refused(dir.path(), INGEST, 3, &["no store here", "check the path"]);
    refused(dir.path(), "scan --store {}/store --lsn 0/1", 3, &["no store here"]);
    refused(dir.path(), "scan --store {}/base --lsn 0/1", 3, &["no store here"]);
    refused(dir.path(), "dump-layer {}/none", 3, &missing);
    refused(dir.path(), "verify {}/none", 3, &missing);
    refused(dir.path(), "verify {}/none {}/gone", 3, &missing);
    run(dir.path(), "import --store {}/store --base {}/base").good();
    refused(dir.path(), "ingest --store {}/store --wal {}/none", 3, &missing);
    refused(dir.path(), "ingest --store {}/store --wal {}/base", 1, &["no WAL segment in it"]);
    refused(dir.path(), "layers --store {}/store --timeline x", 3, &["the store has: main"]);
    let get = format!("get --store {{}}/store {PAGE} --lsn {BEGIN} -o {{}}/none/page");
    refused(dir.path(), &get, 3, &["cannot write"]);
}

#[test]
fn wrong_arguments() {
    let dir = imported();
    let usage = |arguments: &str, texts: &[&str]| {
        refused(dir.path(), arguments, 2, texts);
    };
    for key in ["1663/5/16384/44", "1663/5/16384/heap/44", "1/2/3/main/4294967296", "x", "-1"] {
        usage(&format!("get --store {{}}/store {key} --lsn {BEGIN}"), &["see pagestrata --help"]);
    }
    usage(
        &format!("get --store {{}}/store x --lsn {BEGIN}"),
        &["tablespace/database/relation/fork/block"],
    );
    usage(&format!("get --store {{}}/store {PAGE} --lsn 0/0"), &["expected an Lsn above zero"]);
    usage("scan --store {}/store --lsn 16", &["not an Lsn"]);
    usage(&format!("{INGEST} --from 0/0"), &["expected an Lsn above zero"]);
    usage(&format!("{INGEST} --to FFFFFFFF/FFFFFFFF"), &["below the highest"]);
    usage("scan --store {}/store", &["--lsn <LSN>"]);
    usage("verify", &["not provided"]);
    usage("import --store {}/new --base {}/base --timeline ", &["expected 1 to 255 bytes"]);
    assert!(!dir.path().join("new").exists());
    usage("vacuum --store {}/store", &["unrecognized subcommand"]);
}

#[test]
fn lsns_outside_of_the_history() {
    let dir = imported();
    let begin = BEGIN.to_string();
    let (before, after, within) = (Lsn(BEGIN.0 - 1), Lsn(BEGIN.0 + 1), Lsn(BEGIN.0 - 7));
    let scan = "scan --store {}/store --lsn";
    let below = format!("below the cutoff, {begin}");
    refused(dir.path(), &format!("{scan} {before}"), 3, &[&below]);
    refused(dir.path(), &format!("{scan} {after}"), 3, &["above the last record"]);
    refused(dir.path(), &format!("{INGEST} --from 0/B00000"), 1, &["leave a gap", &begin]);
    let cannot = format!("cannot start at {within}");
    refused(dir.path(), &format!("{INGEST} --from {within}"), 1, &[&cannot]);
    refused(
        dir.path(),
        &format!("{INGEST} --to 0/DDDDDD"),
        1,
        &[&format!("ends at {END}, before 0/DDDDDD")],
    );
}

#[test]
fn a_store_of_another_format_version() {
    let dir = imported();
    let store = dir.path().join("store");
    let layer = files(&store.join("timelines/1"))[0].clone();
    // Bytes 8..12 of a layer file are its version, the next 4 the checksum of the other 60.
    edit(&layer, |bytes| bytes[8] = 9);
    refused(dir.path(), "verify --store {}/store", 1, &["corrupt"]);
    edit(&layer, |bytes| {
        let rest: Vec<u8> = [&bytes[..12], &bytes[16..64]].concat();
        let checksum = crc32c(&rest);
        bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
    });
    let scan = format!("scan --store {{}}/store --lsn {BEGIN}");
    for arguments in ["verify --store {}/store", INGEST, &scan] {
        refused(
            dir.path(),
            arguments,
            1,
            &["format version 9", "reads version 2", "that wrote it"],
        );
    }
}

/// The checksum of layer files, bit by bit: this crate needs it nowhere else.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0_u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82F6_3B78 } else { crc >> 1 };
        }
    }
    !crc
}

#[test]
fn a_damaged_store() {
    let dir = ingested();
    let layer = files(&dir.path().join("store/timelines/1"))[1].clone();
    edit(&layer, |bytes| bytes[1_000_000] ^= 1);
    let verify = run(dir.path(), "verify --store {}/store").failed(
        1,
        &["1 of 2 layer files damaged", "corrupt", "restore them from a copy of the store"],
    );
    assert!(verify.text().contains("corrupt"), "{}", verify.text());
    let report = run(dir.path(), "verify --store {}/store --json").failed(1, &[]).json();
    assert_eq!(report[0]["damaged"].as_array().unwrap().len(), 1);
    // Behind damage that keeps the store from being opened it goes on, and behind files that are
    // not there.
    let other = files(&dir.path().join("store/timelines/1"))[0].clone();
    let whole = fs::read(&other).unwrap();
    edit(&other, |bytes| bytes.truncate(100));
    refused(dir.path(), "verify --store {}/store", 1, &["2 of 2 layer files damaged"]);
    let named = format!("verify {} {{}}/none {}", other.display(), layer.display());
    let report = run(dir.path(), &format!("{named} --json"));
    let report = report.failed(1, &["3 of 3 layer files damaged", "corrupt"]).json();
    let damaged: Vec<_> =
        report[0]["damaged"].as_array().unwrap().iter().map(|damage| &damage["file"]).collect();
    let none = dir.path().join("none");
    assert_eq!(damaged, [&other, &none, &layer].map(|path| path.to_str().unwrap()));
    fs::write(&other, whole).unwrap();
    edit(&layer, |bytes| bytes.truncate(1_000_000));
    refused(dir.path(), "layers --store {}/store", 1, &["corrupt file length", "from a copy"]);
    fs::remove_file(&layer).unwrap();
    let lost = ["corrupt layer file", "found nothing", "restore the store"];
    refused(dir.path(), "layers --store {}/store", 1, &lost);
    fs::remove_file(dir.path().join("store/CURRENT")).unwrap();
    let lost = ["CURRENT: corrupt", "found nothing", "restore the store"];
    refused(dir.path(), "layers --store {}/store", 1, &lost);
    refused(dir.path(), "import --store {}/store --base {}/base", 1, &lost);
}

#[test]
fn a_second_process() {
    let dir = ingested();
    let store = dir.path().join("store");
    let before = contents(&store);
    let (first, _) = pagestrata::Store::open(&store, pagestrata::Options::default()).unwrap();
    let second = [INGEST, "layers --store {}/store", "import --store {}/store --base {}/base"];
    for arguments in second {
        refused(dir.path(), arguments, 1, &["the store is in use", "wait for it to end"]);
    }
    drop(first);
    assert!(contents(&store) == before);
    run(dir.path(), "layers --store {}/store").good();
}

#[test]
fn a_base_that_is_none() {
    let dir = sample_copy();
    let import = "import --store {}/store --base {}/base";
    let control = dir.path().join("base/global/pg_control");
    let good = fs::read(&control).unwrap();
    edit(&control, |bytes| bytes[100] ^= 1);
    refused(dir.path(), import, 1, &["corrupt control file checksum"]);
    edit(&control, |bytes| {
        bytes.clone_from(&good);
        bytes[16] = 6;
        let checksum = crc32c(&bytes[..288]);
        bytes[288..292].copy_from_slice(&checksum.to_le_bytes());
    });
    refused(dir.path(), import, 1, &["was not shut down", "stop it cleanly"]);
    fs::write(&control, good).unwrap();
    let relation = dir.path().join("base/base/5/16384");
    edit(&relation, |bytes| bytes.truncate(8192 * 10 + 100));
    refused(dir.path(), import, 1, &["corrupt relation file at offset 81920"]);
    fs::write(dir.path().join("base/PG_VERSION"), "14\n").unwrap();
    refused(dir.path(), import, 1, &["PostgreSQL 14 cluster", "this build reads 15"]);
    assert!(!dir.path().join("store").exists());
}

#[test]
fn a_second_base() {
    let dir = imported();
    let import = "import --store {}/store --base {}/base";
    refused(
        dir.path(),
        import,
        1,
        &[&format!("holds the cluster {SYSTEM} already"), "another --timeline"],
    );
}

#[test]
fn a_timeline_of_another_program() {
    let dir = imported();
    {
        let options = pagestrata::Options { create: false, ..Default::default() };
        let (store, _) = pagestrata::Store::open(dir.path().join("store"), options).unwrap();
        store.create_timeline("bare", pagestrata::Lsn(16)).unwrap();
    }
    let ingest = format!("{INGEST} --timeline bare");
    refused(dir.path(), &ingest, 1, &["has no base of this command", "import one"]);
    run(dir.path(), "import --store {}/store --base {}/base --timeline bare").good();
    run(dir.path(), &ingest).good();
}

#[test]
fn a_log_with_a_gap() {
    let dir = imported();
    let (first, second) = (segment(dir.path(), 0xA), segment(dir.path(), 0xB));
    let aside = dir.path().join("aside");
    fs::rename(&second, &aside).unwrap();
    refused(dir.path(), INGEST, 1, &["is missing", "supply it", "--to "]);
    fs::rename(&aside, &second).unwrap();
    fs::rename(&first, &aside).unwrap();
    let cannot = format!("cannot start at {BEGIN}");
    refused(dir.path(), INGEST, 1, &[&cannot, "supply the segment"]);
}

#[test]
fn a_torn_end() {
    let dir = imported();
    // The last segment is cut within a record, in the middle of a page.
    let last = segment(dir.path(), 0xD);
    let whole = fs::read(&last).unwrap();
    edit(&last, |bytes| bytes.truncate(0xC0000 + 100));
    let torn =
        run(dir.path(), INGEST).failed(5, &["warning", "torn record at 0/DC0060", "was ingested"]);
    assert!(torn.text().starts_with("ingested "), "{}", torn.text());
    let again = refused(dir.path(), INGEST, 5, &["torn record"]);
    assert!(again.text().starts_with("nothing to ingest"), "{}", again.text());
    fs::write(&last, whole).unwrap();
    let rest = run(dir.path(), &format!("{INGEST} --json")).good().json();
    assert_eq!(rest[0]["to"], END.to_string());
}

#[test]
fn a_flipped_bit_in_the_log() {
    let dir = imported();
    let damaged = segment(dir.path(), 0xB);
    edit(&damaged, |bytes| bytes[500_000] ^= 4);
    let ran =
        refused(dir.path(), INGEST, 1, &["corrupt", "the log goes on at", "from another copy"]);
    let (_, advice) = ran.stderr.split_once("--to ").expect("says how far it is good");
    let lsn = advice.split(' ').next().unwrap();
    let good = run(dir.path(), &format!("{INGEST} --to {lsn} --json")).good().json();
    assert_eq!(good[0]["to"], lsn);
    edit(&damaged, |bytes| bytes[500_000] ^= 4);
    let rest = run(dir.path(), &format!("{INGEST} --json")).good().json();
    let records = |report: &[serde_json::Value]| report[0]["records"].as_u64().unwrap();
    assert_eq!(records(&good) + records(&rest), RECORDS);
}

#[test]
fn the_log_of_another_cluster() {
    let dir = imported();
    for segment in files(&dir.path().join("wal")) {
        edit(&segment, |bytes| bytes[24] ^= 1);
    }
    refused(
        dir.path(),
        INGEST,
        1,
        &[&format!("cluster with system identifier {}", SYSTEM ^ 1), &format!("expected {SYSTEM}")],
    );
}

#[test]
fn one_segment_of_another_cluster() {
    let dir = imported();
    edit(&segment(dir.path(), 0xB), |bytes| bytes[24] ^= 1);
    refused(dir.path(), INGEST, 1, &["system identifier", "supply the log of that cluster"]);
}

#[test]
fn the_log_of_another_timeline() {
    let dir = imported();
    let wal = dir.path().join("wal");
    for segment in files(&wal) {
        edit(&segment, |bytes| {
            for page in bytes.chunks_mut(8192).filter(|page| page[..2] == [0x10, 0xD1]) {
                page[4] = 2;
            }
        });
        let name =
            segment.file_name().unwrap().to_str().unwrap().replacen("00000001", "00000002", 1);
        fs::rename(&segment, wal.join(name)).unwrap();
    }
    refused(
        dir.path(),
        INGEST,
        1,
        &["timeline 2", "of timeline 1", "supply the log of that timeline"],
    );
}

/// Appends a record to the sample's log: an insert into a page that it makes, of this number.
fn append_insert(wal: &Path, block: u32) {
    let mut reader = pagestrata_postgres::WalReader::open(
        pagestrata_postgres_ingest::storage(),
        wal,
        BEGIN,
        None,
        None,
    )
    .unwrap();
    let mut last = BEGIN;
    while let Some(record) = reader.next_record().unwrap() {
        last = record.lsn();
    }
    let end = reader.position();
    let mut record = vec![0; 24];
    record[8..16].copy_from_slice(&last.0.to_le_bytes());
    (record[16], record[17]) = (0x80, 10);
    record.extend([0, 0x60, 5, 0]);
    for number in [1663, 5, 99_999, block] {
        record.extend_from_slice(&u32::to_le_bytes(number));
    }
    record.extend([255, 3, 0, 0, 0, 0, 0, 1, 0, 0]);
    // The data of the block comes first: a tuple of nothing; then offset number and flags.
    let len = record.len() as u32;
    record[..4].copy_from_slice(&len.to_le_bytes());
    let crc = crc32c(&[&record[24..], &record[..20]].concat());
    record[20..24].copy_from_slice(&crc.to_le_bytes());
    let offset = (end.0 % (1 << 20)) as usize;
    let name = format!("0000000100000000{:08X}", end.0 >> 20);
    edit(&wal.join(name), |bytes| bytes[offset..offset + record.len()].copy_from_slice(&record));
}

/// What an ingest does for a block does not grow with its number.
#[test]
fn a_huge_block_number_costs_what_a_small_one_does() {
    let ingested_with = |block: u32| {
        let dir = ingested();
        append_insert(&dir.path().join("wal"), block);
        let report = run(dir.path(), &format!("{INGEST} --json")).good().json().remove(0);
        let scan =
            format!("scan --json --store {{}}/store --lsn {}", report["to"].as_str().unwrap());
        let pages = run(dir.path(), &scan).good().json();
        let of_it: Vec<_> =
            pages.iter().filter(|page| page["key"].as_str().unwrap().contains("/99999/")).collect();
        assert_eq!(of_it.len(), 1);
        assert_eq!(of_it[0]["key"], format!("1663/5/99999/main/{block}"));
        let number = |name: &str| report[name].as_u64().unwrap();
        let puts = ["records", "images", "deltas", "sizes", "drops", "value_bytes"].map(number);
        (puts, number("layer_bytes"))
    };
    let (small, small_bytes) = ingested_with(7);
    let (huge, huge_bytes) = ingested_with(u32::MAX - 1);
    assert_eq!(small, huge);
    assert_eq!((small[0], small[2], small[3]), (1, 1, 1), "a record, a delta, a size");
    assert!(huge_bytes.abs_diff(small_bytes) < 1000, "{huge_bytes} and {small_bytes}");
}

#[test]
fn a_block_number_that_is_none() {
    let dir = ingested();
    append_insert(&dir.path().join("wal"), u32::MAX);
    let says = ["corrupt block number", &format!("at {END}"), "at most 4294967294"];
    refused(dir.path(), INGEST, 1, &says);
}
