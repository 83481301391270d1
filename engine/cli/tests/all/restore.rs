//! `restore`, `diff` and `explain`.

use std::fs;

use pagestrata::Lsn;

use crate::support::{BASE_PAGES, BEGIN, END, edit, files, imported, ingested, run};

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
