//! What is said of input that is not damaged but of another kind, and how names are printed that
//! come from outside.

use std::{fs, path::Path, process::Stdio};

use crate::{
    bad_input::crc32c,
    support::{Ran, command, edit, files, imported, ingested, run, sample_copy},
};

const IMPORT: &str = "import --store {}/store --base {}/base";
/// A name that turns what is behind it around, clears the screen, and starts a new line.
const NAME: &str = "a\u{202E}b\u{1B}[2Jc\u{9B}d\ne\u{2066}f\u{200F}g";
const ESCAPED: &str = r"a\u{202e}b\u{1b}[2Jc\u{9b}d\ne\u{2066}f\u{200f}g";

/// As [`run`], with arguments that have spaces, or anything, in them.
fn run_with(arguments: &[&str]) -> Ran {
    Ran::of(command().args(arguments).stdin(Stdio::null()).output().unwrap())
}

#[track_caller]
fn assert_harmless(text: &str) {
    let found = text.chars().find(|c| {
        let is_line_end = *c == '\n';
        (c.is_control() && !is_line_end)
            || matches!(*c, '\u{61C}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
    });
    assert_eq!(found, None, "{text:?}");
}

#[test]
fn a_cluster_of_another_version_is_not_called_damaged() {
    let dir = sample_copy();
    let refused = |version: &str| {
        let says = format!("this is a PostgreSQL {version} cluster; this build reads 15");
        let ran = run(dir.path(), IMPORT).failed(1, &[&says]);
        assert!(!ran.stderr.contains("corrupt") && !ran.stderr.contains("copy"), "{}", ran.stderr);
    };
    let file = dir.path().join("base/PG_VERSION");
    for (text, version) in [("18\n", "18"), ("14\n", "14"), ("9.6\n", "9.6")] {
        fs::write(&file, text).unwrap();
        refused(version);
    }
    for text in ["", "x\n", "15x\n", "\u{202E}51\n", "4294967296\n"] {
        fs::write(&file, text).unwrap();
        let ran = run(dir.path(), IMPORT).failed(1, &["corrupt PostgreSQL version"]);
        assert_harmless(&ran.stderr);
    }
    fs::write(&file, "15\n").unwrap();
    // The control file's own version.
    let control = dir.path().join("base/global/pg_control");
    edit(&control, |bytes| bytes[8..12].copy_from_slice(&1800_u32.to_le_bytes()));
    refused("18");
    edit(&control, |bytes| {
        bytes[8..12].copy_from_slice(&1300_u32.to_le_bytes());
        assert_eq!(bytes[288..292], crc32c(&bytes[..288]).to_le_bytes());
    });
    run(dir.path(), IMPORT).good();
}

#[test]
fn a_log_of_another_version_is_named_with_its_place() {
    let dir = imported();
    for segment in files(&dir.path().join("wal")) {
        edit(&segment, |bytes| bytes[..2].copy_from_slice(&0xD116_u16.to_le_bytes()));
    }
    let ran = run(dir.path(), "ingest --store {}/store --wal {}/wal");
    let ran =
        ran.failed(1, &["this log is of PostgreSQL 17", "this build reads 15", "at 0/800000"]);
    assert!(!ran.stderr.contains("0/0 ") && !ran.stderr.contains("corrupt"), "{}", ran.stderr);
}

#[test]
fn a_compressed_backup_says_how_to_unpack_it() {
    let dir = sample_copy();
    let packed = dir.path().join("packed");
    fs::create_dir(&packed).unwrap();
    for (name, magic, says) in [
        ("base.tar.gz", &b"\x1F\x8B\x08\0\0\0\0\0"[..], "zcat"),
        ("base.tar.lz4", b"\x04\x22\x4D\x18\0\0\0\0", "lz4 -dc"),
        ("base.tar.zst", b"\x28\xB5\x2F\xFD\0\0\0\0", "zstd -dc"),
    ] {
        let path = packed.join(name);
        fs::write(&path, magic).unwrap();
        let unpack = format!("{says} {} | pagestrata import --base -", path.display());
        for base in [&packed, &path] {
            let import = format!("import --store {{}}/store --base {}", base.display());
            run(dir.path(), &import).failed(1, &["is compressed", &unpack]);
        }
        let mut import = command();
        import.args(["import", "--base", "-", "--store"]).arg(dir.path().join("store"));
        let output = import.stdin(fs::File::open(&path).unwrap()).output().unwrap();
        Ran::of(output).failed(1, &["standard input is compressed", &format!("{says} | ")]);
        fs::remove_file(path).unwrap();
    }
    assert!(!dir.path().join("store").exists());
}

#[test]
fn names_from_outside_are_printed_harmless() {
    let dir = ingested();
    let within = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (store, strange) = (within("store"), within(NAME));
    let is_escaped = |ran: &Ran| {
        assert_harmless(&ran.stderr);
        assert!(ran.stderr.contains(ESCAPED), "{}", ran.stderr);
    };
    is_escaped(&run_with(&["import", "--store", &store, "--base", &strange]).failed(3, &[]));
    is_escaped(&run_with(&["scan", "--store", &strange, "--lsn", "0/1"]).failed(3, &[]));
    is_escaped(&run_with(&["verify", &strange]).failed(3, &[]));
    // The parser of the command line takes out what colours text itself.
    for arguments in [&["get", "--store", &store, NAME, "--lsn", "0/1"][..], &[NAME]] {
        let ran =
            run_with(arguments).failed(2, &[r"a\u{202e}b", r"c\u{9b}d", r"\u{2066}f\u{200f}g"]);
        assert_harmless(&ran.stderr);
    }
    // In what goes to stdout: as text with escapes, as JSON the same name.
    fs::rename(dir.path().join("store"), dir.path().join(NAME)).unwrap();
    let text = run_with(&["layers", "--store", &strange]).good();
    assert_harmless(text.text());
    assert!(text.text().contains(r"a\u{202e}b\u{1b}[2Jc\u{9b}d"), "{}", text.text());
    let json = run_with(&["layers", "--json", "--store", &strange]).good();
    assert_harmless(json.text());
    let file = json.json()[0]["file"].as_str().unwrap().to_owned();
    assert!(Path::new(&file).starts_with(&strange) && Path::new(&file).exists());
}

#[test]
fn names_in_archives_and_labels_are_printed_harmless() {
    let dir = sample_copy();
    let name = "../a\u{202E}b\u{1B}";
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(0);
    header.set_cksum();
    fs::write(dir.path().join("base.tar"), [header.as_bytes(), &[0; 512][..], &[0; 512]].concat())
        .unwrap();
    let ran = run(dir.path(), "import --store {}/store --base {}/base.tar")
        .failed(1, &[r"\u{202e}", "out of it"]);
    assert_harmless(&ran.stderr);
    fs::write(dir.path().join("base/backup_label"), "START\u{202E}\u{1B}\u{9B}31m\n").unwrap();
    let ran = run(dir.path(), IMPORT).failed(1, &["corrupt backup label", r"\u{202e}"]);
    assert_harmless(&ran.stderr);
}

#[test]
fn a_timeline_has_no_name_that_turns_text_around() {
    let dir = sample_copy();
    let within = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    for name in ["a\u{202E}b", "\u{200F}", "a\u{2069}", "a\u{61C}", "a\u{7}"] {
        let (store, base) = (within("store"), within("base"));
        let import = ["import", "--store", &store, "--base", &base, "--timeline", name];
        let ran = run_with(&import).failed(2, &["1 to 255 bytes without control characters"]);
        assert_harmless(&ran.stderr);
    }
    assert!(!dir.path().join("store").exists());
}
