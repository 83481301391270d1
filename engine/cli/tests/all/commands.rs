//! What each command prints, as text and as JSON, and that reading leaves a store as it was.

use std::{fs, process::Stdio};

use pagestrata::{Lsn, Value};
use sha2::{Digest, Sha256};

use crate::support::{
    BASE_PAGES, BEGIN, END, RECORDS, command, contents, files, imported, ingested, put, put_size,
    run, sample_copy,
};

/// A page of the sample that has an image here, with deltas before and behind.
const PAGE: &str = "1663/5/16384/main/44";
const IMAGE: &str = "0/D726C8";
/// An Lsn in the midst of the sample's log.
const MIDDLE: Lsn = Lsn(0xD197E0);
/// How many deltas are behind [`IMAGE`].
const DELTAS: usize = 22;
/// The number of blocks of its fork.
const BLOCKS: u32 = 67;
/// The first image of [`PAGE`] in the log.
const FIRST_IMAGE: &str = "0/AB0E48";
/// Where the record starts and ends that copies a database by files.
const COPY: Lsn = Lsn(0xD0F800);
const COPIED: Lsn = Lsn(0xD0F830);

fn hash(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

#[test]
fn the_demo_checks_everything_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let output = command().arg("demo").env("TMPDIR", dir.path()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{text}");
    for (what, count) in [
        ("records of the log", RECORDS),
        ("images in records, by sha256", 493),
        ("pages of the base", BASE_PAGES),
    ] {
        assert!(text.contains(&format!("{what}: {count} of {count} good")), "{text}");
    }
    assert_eq!(contents(dir.path()), []);
}

#[test]
fn the_demo_keeps_its_store_where_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let report = run(dir.path(), "demo --json --store {}/store").good().json();
    let checks = report[0]["checks"].as_array().unwrap();
    assert!(checks.len() >= 7 && checks.iter().all(|check| check["good"] == check["checked"]));
    run(dir.path(), "verify --store {}/store").good();
    run(dir.path(), "demo --store {}/store").failed(1, &["already", "choose another directory"]);
}

#[test]
fn import_and_ingest_report_what_they_did() {
    let dir = sample_copy();
    let import = run(dir.path(), "--json import --store {}/store --base {}/base").good().json();
    assert_eq!(import[0]["lsn"], BEGIN.to_string());
    assert_eq!(import[0]["pages"], BASE_PAGES);
    assert_eq!(import[0]["timeline"], "main");
    let ingest = run(dir.path(), "ingest --store {}/store --wal {}/wal --json").good().json();
    for (field, expected) in
        [("records", RECORDS), ("images", 493), ("deltas", 14445), ("drops", 26), ("sizes", 28)]
    {
        assert_eq!(ingest[0][field], expected, "{field}");
    }
    assert_eq!(ingest[0]["to"], END.to_string());
    assert_eq!(ingest[0]["disk_consistent_lsn"], END.to_string());
    assert!(ingest[0]["torn_at"].is_null());
}

#[test]
fn a_second_ingest_does_nothing() {
    let dir = ingested();
    let before = contents(&dir.path().join("store"));
    let again = run(dir.path(), "ingest --store {}/store --wal {}/wal").good();
    assert!(again.text().starts_with("nothing to ingest"), "{}", again.text());
    let again =
        run(dir.path(), &format!("ingest --store {{}}/store --wal {{}}/wal --from {BEGIN}")).good();
    assert!(again.text().starts_with("nothing to ingest"), "{}", again.text());
    assert_eq!(contents(&dir.path().join("store")), before);
}

/// Piece by piece, from the beginning or from where it ended: the pages are the same as at once.
#[test]
fn an_ingest_goes_on_where_the_last_one_ended() {
    let dir = imported();
    let again = format!("--to {MIDDLE} --from {BEGIN}");
    for piece in ["--to 0/B00000", &again, "--to 0/C00000", ""] {
        let arguments = format!("ingest --store {{}}/store --wal {{}}/wal {piece}");
        run(dir.path(), arguments.trim_end()).good();
    }
    let pieces = run(dir.path(), &format!("scan --store {{}}/store --lsn {END}")).good();
    let whole = ingested();
    let at_once = run(whole.path(), &format!("scan --store {{}}/store --lsn {END}")).good();
    assert!(pieces.text() == at_once.text() && pieces.text().lines().count() > 1000);
    for lsn in [BEGIN, Lsn(0xB00000), MIDDLE] {
        let scan = format!("scan --store {{}}/store --lsn {lsn}");
        assert!(run(dir.path(), &scan).good().stdout == run(whole.path(), &scan).good().stdout);
    }
    let layers = run(dir.path(), "layers --store {}/store --json").good().json();
    assert_eq!(layers.len(), 4, "the base and one of each piece that had records");
}

#[test]
fn get_returns_pages_as_they_were() {
    let dir = ingested();
    let get = format!("get --store {{}}/store {PAGE} --lsn");
    let image = run(dir.path(), &format!("{get} {IMAGE}")).good();
    assert_eq!(image.stdout.len(), 8192);
    assert_eq!(image.stdout[..8], [0, 0, 0, 0, 0xC8, 0x26, 0xD7, 0], "stamped");
    let report = run(dir.path(), &format!("{get} {IMAGE} -o {{}}/page --json")).good().json();
    assert_eq!(fs::read(dir.path().join("page")).unwrap(), image.stdout);
    assert_eq!(report[0]["sha256"], hash(&image.stdout));
    assert_eq!(report[0]["version_lsn"], IMAGE);
    let base = run(dir.path(), &format!("{get} {BEGIN}")).good();
    let file = fs::read(dir.path().join("base/base/5/16384")).unwrap();
    assert_eq!(base.stdout, file[44 * 8192..45 * 8192]);
    let last = run(dir.path(), &format!("{get} {END} -o {{}}/page --json")).good().json();
    let page = fs::read(dir.path().join("page")).unwrap();
    let half = |at: usize| u64::from(u32::from_le_bytes(page[at..at + 4].try_into().unwrap()));
    let stamped = Lsn(half(0) << 32 | half(4));
    assert_eq!((page.len(), last[0]["version_lsn"].as_str()), (8192, Some(&*stamped.to_string())));
    assert!(stamped > IMAGE.parse().unwrap(), "redone");
    run(dir.path(), &format!("{get} {FIRST_IMAGE}")).good();
    run(dir.path(), &format!("get --store {{}}/store 1663/5/16384/main/{BLOCKS} --lsn {END}"))
        .failed(3, &[&format!("has {BLOCKS} blocks then")]);
    let last = format!("get --store {{}}/store 1663/5/16384/main/{} --lsn {END}", BLOCKS - 1);
    run(dir.path(), &last).good();
    run(dir.path(), &format!("get --store {{}}/store 1663/5/99999/main/0 --lsn {END}"))
        .failed(3, &["no page 1663/5/99999/main/0 at", "no 1663/5/99999/main then"]);
    let lsn = Lsn(END.0 + 8);
    put(dir.path(), &[(PAGE, lsn, Value::Delta { bytes: b"no record", will_init: false })]);
    run(dir.path(), &format!("{get} {lsn}")).failed(4, &["corrupt record"]);
}

#[test]
fn versions_are_listed_newest_first() {
    let dir = ingested();
    let lines =
        run(dir.path(), &format!("versions --store {{}}/store {PAGE} --json")).good().json();
    assert_eq!(lines.len(), DELTAS + 1);
    assert_eq!(lines[0]["kind"], "delta");
    let base = lines.last().unwrap();
    assert_eq!((base["kind"].as_str(), base["lsn"].as_str()), (Some("image"), Some(IMAGE)));
    let image = run(dir.path(), &format!("get --store {{}}/store {PAGE} --lsn {IMAGE}")).good();
    assert_eq!(base["sha256"], hash(&image.stdout));
    let text = run(dir.path(), &format!("versions --store {{}}/store {PAGE} --lsn {IMAGE}")).good();
    assert_eq!(text.text(), format!("{IMAGE} image 8192 {}\n", hash(&image.stdout)));
}

/// As of a visibility map page that is never in a base: its log changes zeros.
#[test]
fn versions_without_a_base_are_listed_with_a_note() {
    let dir = imported();
    let lsn = Lsn(BEGIN.0 + 0xB8);
    let change = Value::Delta { bytes: b"clear", will_init: false };
    put(dir.path(), &[("1663/5/99999/vm/0", lsn, change)]);
    let listed = run(dir.path(), "versions --store {}/store 1663/5/99999/vm/0");
    assert_eq!(listed.text(), format!("{lsn} delta 5 {}\n", hash(b"clear")));
    listed.failed(0, &[&format!("note: no base below {lsn}")]);
    run(dir.path(), &format!("get --store {{}}/store 1663/5/99999/vm/0 --lsn {lsn}"))
        .failed(3, &["no 1663/5/99999/vm then"]);
}

/// The sample copies a database by files and drops it; its source is not in the base, so this puts
/// pages there.
#[test]
fn a_copied_database_has_the_pages_of_its_source() {
    let dir = imported();
    run(dir.path(), &format!("ingest --store {{}}/store --wal {{}}/wal --to {COPY}")).good();
    let (image, nothing) =
        (Value::Image(&[7; 8192]), Value::Delta { bytes: b"", will_init: false });
    let source = [
        ("1663/1/100/main/0", Lsn(COPY.0 + 1), image),
        ("1663/1/100/main/1", Lsn(COPY.0 + 2), image),
        ("1663/1/100/main/1", Lsn(COPY.0 + 3), nothing),
        ("1663/1/4294967295/init/3", Lsn(COPY.0 + 4), image),
        ("1663/2/100/main/0", Lsn(COPY.0 + 5), image),
    ];
    put(dir.path(), &source);
    for (rel, lsn, blocks) in [
        ("1663/1/100/main", COPY.0 + 6, 3_u32),
        ("1663/1/4294967295/init", COPY.0 + 7, 4),
        ("1663/2/100/main", COPY.0 + 8, 1),
    ] {
        put_size(dir.path(), rel, Lsn(lsn), blocks);
    }
    let copy = format!("--from {COPY} --to {COPIED}");
    run(dir.path(), &format!("ingest --store {{}}/store --wal {{}}/wal {copy}")).good();
    let pages = |lsn: Lsn| -> Vec<serde_json::Value> {
        let scan = run(dir.path(), &format!("scan --store {{}}/store --lsn {lsn} --json")).good();
        scan.json().into_iter().filter(|line| line["lsn"] == COPIED.to_string()).collect()
    };
    let copied = pages(COPIED);
    let kinds: Vec<_> = copied.iter().map(|line| line["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["image", "image", "image"]);
    let keys: Vec<_> = copied.iter().map(|line| line["key"].as_str().unwrap()).collect();
    let get = |key: &str| run(dir.path(), &format!("get --store {{}}/store {key} --lsn {COPIED}"));
    assert_eq!(get(keys[0]).good().stdout, [7; 8192]);
    assert_eq!(get(keys[1]).good().stdout, [7; 8192]);
    let gap = keys[1].replace("main/1", "main/2");
    assert_eq!(get(&gap).good().stdout, [0; 8192], "in the fork, and never written");
    get(&gap.replace("main/2", "main/3")).failed(3, &["has 3 blocks then"]);
    assert!(keys[2].ends_with("/4294967295/init/3"), "{keys:?}");
    run(dir.path(), "ingest --store {}/store --wal {}/wal").good();
    assert_eq!(pages(END).len(), 0, "the copy is dropped");
    assert_eq!(get(keys[0]).good().stdout, [7; 8192], "and is still there before that");
}

#[test]
fn layers_are_listed_dumped_and_verified() {
    let dir = ingested();
    let layers = run(dir.path(), "layers --store {}/store --json").good().json();
    assert_eq!(layers.len(), 2);
    let mut versions = 0;
    for layer in &layers {
        let file = layer["file"].as_str().unwrap();
        let dump = run(dir.path(), &format!("dump-layer {file} --json")).good().json();
        let count = |entry: &str| dump.iter().filter(|line| line["entry"] == entry).count() as u64;
        assert_eq!(count("layer"), 1);
        assert_eq!(layer["versions"], count("version"));
        assert_eq!(layer["tombstones"], count("tombstone"));
        versions += count("version");
        run(dir.path(), &format!("verify {file}")).good();
        assert!(run(dir.path(), &format!("dump-layer {file}")).good().text().lines().count() > 1);
    }
    let report = run(dir.path(), "verify --store {}/store --json").good().json();
    assert_eq!(report[0]["versions"], versions);
    assert_eq!(report[0]["damaged"], serde_json::json!([]));
}

#[test]
fn reading_leaves_the_store_as_it_was() {
    let dir = ingested();
    let before = contents(&dir.path().join("store"));
    for reading in [
        format!("get --store {{}}/store {PAGE} --lsn {IMAGE}"),
        format!("versions --store {{}}/store {PAGE}"),
        format!("scan --store {{}}/store --lsn {END}"),
        "layers --store {}/store".to_owned(),
        "verify --store {}/store".to_owned(),
    ] {
        run(dir.path(), &reading).good();
        assert!(contents(&dir.path().join("store")) == before, "{reading}");
    }
}

#[test]
fn timelines_are_kept_apart() {
    let dir = ingested();
    run(dir.path(), "import --store {}/store --base {}/base --timeline other").good();
    let scan =
        run(dir.path(), &format!("scan --store {{}}/store --timeline other --lsn {BEGIN}")).good();
    assert_eq!(scan.text().lines().count() as u64, BASE_PAGES);
    run(dir.path(), "scan --store {}/store --timeline other --lsn 0/B00000")
        .failed(3, &["above the last record", "ingest more"]);
    run(dir.path(), "verify --store {}/store --timeline none").failed(3, &["main, other"]);
}

#[test]
fn a_broken_pipe_ends_quietly() {
    let dir = ingested();
    let scan = format!("dump-layer {}", files(&dir.path().join("store/timelines/1"))[1].display());
    let mut child = command()
        .args(scan.split(' '))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), &output.stderr[..]), (Some(0), &b""[..]));
}

#[test]
fn help_tells_the_exit_codes() {
    let dir = tempfile::tempdir().unwrap();
    let help = run(dir.path(), "--help").good();
    for code in 0..=5 {
        assert!(help.text().contains(&format!("\n  {code}  ")), "{}", help.text());
    }
    let version = run(dir.path(), "--version").good();
    assert_eq!(version.text(), concat!("pagestrata ", env!("CARGO_PKG_VERSION"), "\n"));
}
