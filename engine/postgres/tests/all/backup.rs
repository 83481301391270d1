//! Base backups: every page in key order, the control file, and what is refused.

use std::{fs, path::Path};

use pagestrata_layers::{Key, Lsn, Value};
use pagestrata_postgres::{BaseBackup, ControlFile, Error, PAGE_SIZE, PageVersions, RelPage};

use crate::{captures, versions::raw16};

#[test]
fn the_control_file_names_the_start() {
    for capture in captures::all() {
        let control = capture.control();
        assert_eq!(control.checkpoint, capture.start(), "{}", capture.name);
        assert!(control.shut_down && control.redo == control.checkpoint && control.timeline == 1);
        let reader = capture.reader();
        assert_eq!((reader.system_id(), reader.timeline()), (control.system_id, control.timeline));
        assert_eq!(reader.segment_size(), u64::from(control.wal_segment_size));
        let mebibytes: u32 = capture.env("segsize_mb").parse().unwrap();
        assert_eq!(control.wal_segment_size, mebibytes << 20);
        if capture.name != "sample" {
            assert_eq!(control.data_checksums, capture.env("checksums") == "1");
        }
    }
}

/// Counted with the file system alone.
fn bytes_of_relations(dir: &Path) -> u64 {
    let relation = |name: &str| name.starts_with(|first: char| first.is_ascii_digit());
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| {
            let kind = entry.file_type().unwrap();
            match entry.file_name().to_string_lossy() {
                _ if kind.is_dir() => bytes_of_relations(&entry.path()),
                name if relation(&name) => entry.metadata().unwrap().len(),
                _ => 0,
            }
        })
        .sum()
}

#[test]
fn every_page_comes_once_in_key_order() {
    for capture in captures::all() {
        let base = BaseBackup::open(captures::storage(), &capture.base()).unwrap();
        let (mut pages, mut count, mut last) = (base.pages(), 0, None);
        while let Some((key, page)) = pages.next_page().unwrap() {
            assert!(last < Some(key) && page.len() == PAGE_SIZE);
            (last, count) = (Some(key), count + 1);
            if count % 97 == 0 {
                let RelPage { rel, block } = RelPage::from_key(key).unwrap();
                let file = base.files().iter().find(|file| file.rel == rel).unwrap();
                let bytes = fs::read(&file.path).unwrap();
                assert_eq!(&bytes[block as usize * PAGE_SIZE..][..PAGE_SIZE], page);
            }
        }
        let (base, global) = (capture.base().join("base"), capture.base().join("global"));
        let bytes = bytes_of_relations(&base) + bytes_of_relations(&global);
        println!("{}: {count} of {} pages", capture.name, bytes / PAGE_SIZE as u64);
        assert_eq!(count, bytes / PAGE_SIZE as u64);
    }
}

/// A data directory with a control file of the sample, to put relation files into.
fn small() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for path in ["global", "base/5", "pg_tblspc/777/PG_15_202209061/9", "pg_tblspc/777/PG_14_1/9"] {
        fs::create_dir_all(dir.path().join(path)).unwrap();
    }
    fs::write(dir.path().join("PG_VERSION"), "15\n").unwrap();
    let control = captures::sample().base().join("global/pg_control");
    fs::copy(control, dir.path().join("global/pg_control")).unwrap();
    dir
}

#[test]
fn names_decide_what_is_a_page() {
    let dir = small();
    let write =
        |name: &str, pages: usize| fs::write(dir.path().join(name), vec![0; pages * PAGE_SIZE]);
    for (name, pages) in [
        ("global/1213", 1),
        ("base/5/20", 2),
        ("base/5/20_vm", 1),
        ("base/5/9", 1),
        ("base/5/t3_9", 1),
        ("base/5/pg_filenode.map", 1),
        ("base/5/21_init", 0),
        ("pg_tblspc/777/PG_15_202209061/9/5_fsm", 1),
        ("pg_tblspc/777/PG_14_1/9/5", 1),
    ] {
        write(name, pages).unwrap();
    }
    // The second GiB of a relation; the first is a sparse file.
    let first = fs::File::create(dir.path().join("base/5/30")).unwrap();
    first.set_len(1 << 30).unwrap();
    write("base/5/30.1", 1).unwrap();
    write("base/5/30.2", 0).unwrap();
    let base = BaseBackup::open(captures::storage(), dir.path()).unwrap();
    let forks: Vec<String> = base.forks().map(|(rel, blocks)| format!("{rel} {blocks}")).collect();
    let want = [
        "777/9/5/fsm 1",
        "1663/5/9/main 1",
        "1663/5/20/main 2",
        "1663/5/20/vm 1",
        "1663/5/21/init 0",
        "1663/5/30/main 131073",
        "1664/0/1213/main 1",
    ];
    assert_eq!(forks, want);
    let (mut pages, mut last) = (base.pages(), Key::MIN);
    while let Some((key, _)) = pages.next_page().unwrap() {
        if key.object == base.files().iter().find(|file| file.segment == 1).unwrap().rel.object() {
            last = key;
        }
    }
    assert_eq!(last.block, 131_072);
}

#[test]
fn other_directories_are_refused() {
    let refused = |break_it: &dyn Fn(&Path), says: &str| {
        let dir = small();
        fs::write(dir.path().join("base/5/20"), [0; PAGE_SIZE]).unwrap();
        BaseBackup::open(captures::storage(), dir.path()).unwrap();
        break_it(dir.path());
        let error = BaseBackup::open(captures::storage(), dir.path()).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    };
    refused(
        &|dir| fs::write(dir.join("base/5/20"), [0; 100]).unwrap(),
        "base/5/20: corrupt relation file at offset 0",
    );
    refused(
        &|dir| fs::write(dir.join("base/5/20"), [0; PAGE_SIZE + 1]).unwrap(),
        "at offset 8192: expected whole pages",
    );
    refused(
        &|dir| fs::write(dir.join("base/5/20.1"), [0; PAGE_SIZE]).unwrap(),
        "corrupt relation segments",
    );
    refused(
        &|dir| fs::write(dir.join("base/5/21.1"), [0; PAGE_SIZE]).unwrap(),
        "corrupt relation segments",
    );
    refused(
        &|dir| fs::write(dir.join("PG_VERSION"), "14\n").unwrap(),
        "this is a PostgreSQL 14 cluster; this build reads 15",
    );
    refused(
        &|dir| fs::write(dir.join("global/pg_control"), [0; 64]).unwrap(),
        "corrupt control file",
    );
    refused(&|dir| fs::remove_file(dir.join("PG_VERSION")).unwrap(), "PG_VERSION: cannot open");
    refused(&|dir| fs::remove_dir_all(dir.join("base")).unwrap(), "base: cannot list");
}

/// Files that grew, were cut or came while they were copied: with a label, a fork is what it is up
/// to its first file that is not full.
#[test]
fn files_of_different_moments() {
    let dir = small();
    let control = captures::sample().control();
    let (start, size) = (control.checkpoint, u64::from(control.wal_segment_size));
    let label = format!(
        "START WAL LOCATION: {start} (file 0000000100000000{:08X})\nCHECKPOINT LOCATION: {start}\n\
         BACKUP METHOD: streamed\nBACKUP FROM: primary\nSTART TIME: \nLABEL: \nSTART TIMELINE: 1\n",
        start.0 / size
    );
    fs::write(dir.path().join("backup_label"), label).unwrap();
    let gib = 1 << 30;
    for (name, len) in [
        ("30", 8192),
        ("30.1", gib),
        ("31.1", 8192),
        ("32", gib),
        ("32.2", 8192),
        ("33", gib),
        ("33.1", 8192),
    ] {
        let file = fs::File::create(dir.path().join("base/5").join(name)).unwrap();
        file.set_len(len).unwrap();
    }
    let base = BaseBackup::open(captures::storage(), dir.path()).unwrap();
    assert_eq!((base.start_lsn(), base.label().unwrap().timeline), (start, 1));
    let forks: Vec<(u32, u32)> = base.forks().map(|(rel, blocks)| (rel.relation, blocks)).collect();
    assert_eq!(forks, [(30, 1), (32, 131_072), (33, 131_073)]);
    fs::write(dir.path().join("tablespace_map"), "777 /a\n").unwrap();
    BaseBackup::open(captures::storage(), dir.path()).unwrap();
    fs::write(dir.path().join("tablespace_map"), "778 /a\n").unwrap();
    let error = BaseBackup::open(captures::storage(), dir.path()).unwrap_err();
    assert!(matches!(error, Error::MissingTablespace { tablespace: 778, .. }), "{error}");
}

#[test]
fn a_flipped_bit_in_the_control_file_is_found() {
    let path = captures::sample().base().join("global/pg_control");
    let good = fs::read(&path).unwrap();
    ControlFile::parse(&good, &path).unwrap();
    for bit in 0..292 * 8 {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(ControlFile::parse(&bytes, &path).is_err(), "bit {bit}");
    }
    for len in 0..292 {
        assert!(ControlFile::parse(&good[..len], &path).is_err(), "{len} bytes");
    }
}

/// Pages that the log does not touch are in the base as PostgreSQL's recovery leaves them.
#[test]
fn untouched_pages_are_those_of_a_recovery() {
    let sample = captures::sample();
    let lsn = sample.env("middle");
    let until: Lsn = lsn.parse().unwrap();
    let (mut reader, mut touched) = (sample.reader(), std::collections::BTreeSet::new());
    while let Some(record) = reader.next_record().unwrap().filter(|record| record.end() <= until) {
        touched.extend(record.blocks().map(|block| block.key()));
        let touch = |key, _: Value<'_>| {
            touched.insert(key);
            Ok::<_, Error>(())
        };
        PageVersions::new().implied(&record, touch).unwrap();
    }
    let want: std::collections::BTreeMap<String, String> = sample
        .lines(&format!("@{}.manifest.tsv.zst", lsn.replace('/', "_")))
        .unwrap()
        .map(|line| {
            let words: Vec<&str> = line.split('\t').collect();
            (words[..5].join("/"), words[6].to_owned())
        })
        .collect();
    let base = BaseBackup::open(captures::storage(), &sample.base()).unwrap();
    let (mut pages, mut same, mut total) = (base.pages(), 0, 0);
    while let Some((key, page)) = pages.next_page().unwrap() {
        let RelPage { rel, block } = RelPage::from_key(key).unwrap();
        let name = format!(
            "{}/{}/{}/{}/{block}",
            rel.tablespace, rel.database, rel.relation, rel.fork as u8
        );
        let Some(hash) = want.get(&name).filter(|_| !touched.contains(&key)) else { continue };
        total += 1;
        same += usize::from(*hash == raw16(page));
    }
    println!("sample: {same} of {total} untouched pages are as recovered");
    assert!(same == total && total > 300);
}
