//! `restore`, `diff` and `explain`.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use pagestrata::{Lsn, Value};

use crate::support::{
    BASE_PAGES, BEGIN, END, contents, edit, files, imported, ingested, put, put_size, run,
    sample_copy,
};

/// A page of the sample that has an image at this Lsn, and the file that it is in.
const PAGE: &str = "1663/5/16384/main/44";
const IMAGE: &str = "0/D726C8";
const FILE: &str = "base/5/16384";

/// At the Lsn of the base, the files are those of the base to the last byte, checksums too.
#[test]
fn a_base_is_restored_as_it_was() {
    let dir = imported();
    let restore = format!("restore --store {{}}/store --lsn {BEGIN} --out {{}}/out");
    let report = run(dir.path(), &format!("{restore} --json")).good().json();
    let mut compared = 0;
    for part in ["global", "base/5"] {
        for entry in fs::read_dir(dir.path().join("out").join(part)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(!name.contains("_fsm"));
            let restored = fs::read(dir.path().join("out").join(part).join(&name)).unwrap();
            let original = fs::read(dir.path().join("base").join(part).join(&name)).unwrap();
            assert!(restored == original, "{part}/{name}");
            compared += restored.len() as u64 / 8192;
        }
    }
    assert_eq!(report[0]["pages"], compared);
    assert!(compared > BASE_PAGES / 2);
    run(dir.path(), &restore).failed(1, &["there is something in it already"]);
}

#[test]
fn what_is_restored_later_differs_from_nothing_but_the_base() {
    let dir = ingested();
    run(dir.path(), &format!("restore --store {{}}/store --lsn {END} --out {{}}/out")).good();
    // What tells a directory of PostgreSQL's; these do not change here.
    for file in ["PG_VERSION", "global/pg_control"] {
        fs::copy(dir.path().join("base").join(file), dir.path().join("out").join(file)).unwrap();
    }
    let diff = |lsn: Lsn| format!("diff --store {{}}/store --lsn {lsn} --base {{}}/out --json");
    let same = run(dir.path(), &diff(END)).good().json();
    let report = same.last().unwrap();
    assert_eq!((same.len(), &report["equal"]), (1, &report["pages"]));
    let other = run(dir.path(), &diff(BEGIN));
    assert_eq!(other.code, 1);
    let report = other.json().pop().unwrap();
    assert!(
        report["different"].as_u64() > Some(100) && report["sizes_different"].as_u64() > Some(5)
    );
    // Where the base was shut down, an empty file that is gone is a difference, too.
    let empty = files(&dir.path().join("out/base/5"))
        .into_iter()
        .find(|path| fs::metadata(path).unwrap().len() == 0)
        .expect("an empty relation");
    fs::remove_file(&empty).unwrap();
    let found = run(dir.path(), &diff(END));
    assert_eq!((found.code, found.json().len()), (1, 2));
    assert_eq!(
        (&found.json()[0]["here"], &found.json()[0]["there"]),
        (&"0 blocks".into(), &"nothing".into())
    );
    fs::write(&empty, "").unwrap();
    // A hint, and a byte that is none.
    edit(&dir.path().join("out").join(FILE), |bytes| bytes[44 * 8192 + 20] ^= 1);
    edit(&dir.path().join("out").join(FILE), |bytes| bytes[45 * 8192 - 60] ^= 1);
    edit(&dir.path().join("out").join(FILE), |bytes| bytes[43 * 8192 + 20] ^= 1);
    let found = run(dir.path(), &diff(END));
    let lines = found.json();
    assert_eq!((found.code, lines.len()), (1, 2));
    assert_eq!(lines[0]["what"], PAGE);
    assert!(lines[0]["there"].as_str().unwrap().ends_with("at byte 8132"), "{}", lines[0]);
    assert_eq!((&lines[1]["equal_masked"], &lines[1]["different"]), (&1.into(), &1.into()));
}

#[test]
fn a_page_is_explained_oldest_first() {
    let dir = ingested();
    let lines = run(dir.path(), &format!("explain --store {{}}/store {PAGE} --json")).good().json();
    assert_eq!((&lines[0]["record"], &lines[0]["lsn"]), (&"image".into(), &IMAGE.into()));
    assert_eq!(lines[1]["record"], "Heap2/PRUNE");
    assert_eq!(lines[1]["blocks"], serde_json::json!([0]));
    let versions = run(dir.path(), &format!("versions --store {{}}/store {PAGE} --json")).good();
    assert_eq!(lines.len(), versions.json().len());
    run(dir.path(), "explain --store {}/store 1663/5/99999/main/0").failed(3, &["no page"]);
}

/// A record behind the end of the sample's log, with good checksums: an insertion into a fresh page
/// (`XLOG_HEAP_INSERT` with `XLOG_HEAP_INIT_PAGE`) of this block. Its end.
fn append_record(dir: &Path, relation: u32, block: u32) -> Lsn {
    /// Where the last record starts: `B_shutdown_checkpoint` of the sample.
    const LAST: u64 = 0xDC2F60;
    const HEAP: u8 = 10;
    let data = [&[1, 0, 0, 8, 24][..], &[0, 7, 0, 0, 0]].concat();
    let mut body = vec![0, 0x20 | 0x40];
    body.extend((data.len() as u16).to_le_bytes());
    [1663, 5, relation, block].iter().for_each(|number: &u32| body.extend(number.to_le_bytes()));
    body.extend([255, 3]);
    body.extend(&data);
    body.extend([1, 0, 0]);
    let mut header = ((24 + body.len()) as u32).to_le_bytes().to_vec();
    header.extend(700_u32.to_le_bytes());
    header.extend(LAST.to_le_bytes());
    header.extend([0x80, HEAP, 0, 0]);
    let sum = crc32c(&[&body[..], &header].concat());
    let record = [&header[..], &sum.to_le_bytes(), &body].concat();
    edit(&dir.join("wal/00000001000000000000000D"), |bytes| {
        let at = (END.0 & 0xFFFFF) as usize;
        bytes[at..at + record.len()].copy_from_slice(&record);
    });
    Lsn((END.0 + record.len() as u64).next_multiple_of(8))
}

/// By its definition, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |sum: u32, _| if sum & 1 == 1 { sum >> 1 ^ 0x82F6_3B78 } else { sum >> 1 };
    !bytes.iter().fold(!0, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), step))
}

/// Lengths of all files of a directory, and the room that they take.
fn lengths(dir: &Path) -> (u64, u64) {
    let of = |path: &Path| fs::metadata(path).unwrap();
    let mut dirs = vec![dir.to_owned()];
    let (mut len, mut room) = (0, 0);
    while let Some(dir) = dirs.pop() {
        for path in files(&dir) {
            match path.is_dir() {
                true => dirs.push(path),
                false => (len, room) = (len + of(&path).len(), room + of(&path).blocks() * 512),
            }
        }
    }
    (len, room)
}

/// A record can name any block, and a cluster of a few MiB has a fork of many GiB then.
#[test]
fn a_huge_block_number_is_refused_unless_it_is_allowed() {
    let dir = sample_copy();
    run(dir.path(), "import --store {}/store --base {}/base").good();
    let end = append_record(dir.path(), 16384, 2_800_000);
    let report = run(dir.path(), "ingest --json --store {}/store --wal {}/wal").good().json();
    assert_eq!(report[0]["to"], end.to_string(), "the record counts");
    let restore = |more: &str| {
        run(dir.path(), &format!("restore --store {{}}/store --lsn {end} --out {{}}/out{more}"))
    };
    let alone = "1663/5/16384/main alone has 22937608192 bytes";
    restore("").failed(1, &[alone, "the limit is 1073741824 bytes", "--max-bytes"]);
    restore(" --max-bytes 22900000000").failed(1, &[alone, "the limit is 22900000000 bytes"]);
    assert!(!dir.path().join("out").exists(), "nothing is written");
    // The number of bytes is that of the file; of zeros only the length is kept.
    let report = restore(" --max-bytes 23000000000 --json").good().json().remove(0);
    let (len, room) = lengths(&dir.path().join("out"));
    assert!(len > 22_937_608_192 && room < 64 << 20, "{len} bytes take {room}");
    assert_eq!(len, report["pages"].as_u64().unwrap() * 8192);
    assert!(report["zero_pages"].as_u64() > Some(2_790_000));
    let last = fs::metadata(dir.path().join("out/base/5/16384.21")).unwrap();
    assert_eq!(last.len(), (2_800_001 - 21 * 131_072) * 8192);
    let page = format!("get --store {{}}/store 1663/5/16384/main/2800000 --lsn {end} -o {{}}/page");
    run(dir.path(), &page).good();
    let (mut page, segment) = (
        fs::read(dir.path().join("page")).unwrap(),
        fs::read(dir.path().join("out/base/5/16384.21")).unwrap(),
    );
    page[8..10].copy_from_slice(&segment[segment.len() - 8184..][..2]);
    assert!(segment.ends_with(&page));
}

/// One page whose record makes no sense.
const BROKEN: &str = "1663/5/16384/main/43";

#[test]
fn pages_that_cannot_be_redone_are_skipped_and_listed() {
    let dir = ingested();
    let lsn = Lsn(END.0 + 8);
    put(dir.path(), &[(BROKEN, lsn, Value::Delta { bytes: &[7; 64], will_init: false })]);
    let restore = |out: &str, more: &str| {
        run(dir.path(), &format!("restore --store {{}}/store --lsn {lsn} --out {{}}/{out}{more}"))
    };
    restore("out", "").failed(4, &["redo of"]);
    // What the failure left says so, to a restore, a diff and an import.
    let says = ["a restore into it has not finished", "remove the directory"];
    let left = contents(&dir.path().join("out"));
    restore("out", " --skip-unknown").failed(1, &says);
    run(dir.path(), &format!("diff --store {{}}/store --lsn {END} --base {{}}/out"))
        .failed(1, &says);
    run(dir.path(), "import --store {}/other --base {}/out").failed(1, &says);
    assert!(contents(&dir.path().join("out")) == left);

    let ran = restore("skipped", " --skip-unknown --json");
    assert_eq!((ran.code, ran.stderr.as_str()), (6, ""));
    let lines = ran.json();
    assert_eq!((lines.len(), &lines[0]["skipped"]), (2, &BROKEN.into()));
    assert!(lines[0]["reason"].as_str().unwrap().contains("redo of"));
    assert_eq!(lines[1]["skipped"], 1);
    let ran = restore("text", " --skip-unknown");
    assert_eq!(ran.code, 6);
    assert!(ran.stderr.starts_with(&format!("pagestrata: skipped page {BROKEN}: ")));
    let file = fs::read(dir.path().join("skipped/base/5/16384")).unwrap();
    assert!(file[43 * 8192..44 * 8192].iter().all(|byte| *byte == 0));
    assert!(file[42 * 8192..43 * 8192].iter().any(|byte| *byte != 0));

    // Everything else is there: the only page that differs is the one that is skipped.
    for file in ["PG_VERSION", "global/pg_control"] {
        let to = dir.path().join("skipped").join(file);
        fs::copy(dir.path().join("base").join(file), to).unwrap();
    }
    let diff = |lsn: Lsn, more: &str| {
        let base = "--base {}/skipped --json";
        run(dir.path(), &format!("diff --store {{}}/store --lsn {lsn} {base}{more}"))
    };
    diff(lsn, "").failed(4, &["redo of"]);
    let ran = diff(lsn, " --skip-unknown");
    assert_eq!((ran.code, &ran.json()[0]["skipped"]), (6, &BROKEN.into()));
    assert_eq!(ran.json()[1]["skipped"], 1);
    let ran = diff(END, " --skip-unknown");
    assert_eq!((ran.code, &ran.json()[0]["what"]), (1, &BROKEN.into()), "a difference counts more");
}

#[test]
fn a_restore_goes_into_an_empty_directory() {
    let dir = imported();
    let restore = |out: &str| {
        run(dir.path(), &format!("restore --store {{}}/store --lsn {BEGIN} --out {{}}/{out}"))
    };
    fs::create_dir(dir.path().join("empty")).unwrap();
    restore("empty").good();
    // A server refuses directories that others can read, and nobody else has a right to the pages.
    restore("private").good();
    for (path, mode) in [("", 0o700), ("base/5", 0o700), ("base/5/16384", 0o600)] {
        let found = fs::metadata(dir.path().join("private").join(path)).unwrap();
        assert_eq!(found.mode() & 0o777, mode, "{path:?}");
    }
    let written = contents(&dir.path().join("empty"));
    restore("empty").failed(1, &["there is something in it already", "choose a directory"]);
    assert!(contents(&dir.path().join("empty")) == written);
    fs::write(dir.path().join("file"), "text").unwrap();
    restore("file").failed(3, &["cannot restore into"]);
    fs::create_dir_all(dir.path().join("hidden")).unwrap();
    fs::write(dir.path().join("hidden/.keep"), "").unwrap();
    restore("hidden").failed(1, &["there is something in it already"]);
    assert_eq!(contents(&dir.path().join("hidden")).len(), 1);
}

/// A fork with blocks that were never written, in two segments, is as long as it should be and
/// takes no room.
#[test]
fn blocks_that_were_never_written_are_holes() {
    let dir = imported();
    let lsn = Lsn(BEGIN.0 + 8);
    let page = [5; 8192];
    put(
        dir.path(),
        &[
            ("77/5/99/main/3", lsn, Value::Image(&page)),
            ("77/5/99/main/131071", Lsn(lsn.0 + 8), Value::Image(&page)),
        ],
    );
    put_size(dir.path(), "77/5/99/main", Lsn(lsn.0 + 16), 131_080);
    let restore = format!("restore --store {{}}/store --lsn {} --out {{}}/out", Lsn(lsn.0 + 16));
    run(dir.path(), &format!("{restore} --max-bytes 1000000")).failed(1, &["77/5/99/main alone"]);
    run(dir.path(), &format!("{restore} --max-bytes 2000000000")).good();
    let within = dir.path().join("out/pg_tblspc/77/PG_15_202209061/5");
    let of = |name: &str| fs::metadata(within.join(name)).unwrap();
    assert_eq!((of("99").len(), of("99.1").len()), (1 << 30, 8 * 8192));
    assert!(of("99").blocks() * 512 < 1 << 20 && of("99.1").blocks() == 0);
    let first = fs::read(within.join("99")).unwrap();
    for (block, bytes) in first.chunks(8192).enumerate() {
        let expected = if [3, 131_071].contains(&block) { 5 } else { 0 };
        assert!(bytes[10..].iter().all(|byte| *byte == expected), "block {block}");
    }
}
