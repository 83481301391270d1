//! What the environment does to a store: a small disk, a limit on files, a read-only file system, a
//! file that is truncated while it is open. The second half of S14 is among them.

use std::{fs, path::Path, process::Command};

use pagestrata::{Access, Error, Lsn, Options, Scratch, Store, Timeline};

use super::{check, child, commit, corruption, is_read_only, keys, options, write};

in_all_access_modes!(s14_a_layer_file_that_is_cut_while_it_is_open,);

fn open(dir: &Path, options: Options) -> (Store, Timeline) {
    let (store, _) = Store::open(dir, options).unwrap();
    let main = store.timeline("main").unwrap();
    (store, main)
}

fn made(dir: &Path, commits: u64) -> (Store, Timeline) {
    let (store, _) = Store::open(dir, options()).unwrap();
    let main = store.create_timeline("main", pagestrata::Lsn(1)).unwrap();
    write(&main, 1..=commits);
    (store, main)
}

/// Skips with a message what this sandbox does not let us do.
#[allow(clippy::print_stderr)]
fn may_mount() -> bool {
    let can_mount = child::can_mount();
    if !can_mount {
        eprintln!("skipped: it takes the right to mount, and the program unshare");
    }
    can_mount
}

#[test]
fn a_small_disk_that_is_full() {
    if may_mount() {
        let dir = tempfile::tempdir().unwrap();
        child::run_with_mounts(
            "fills_a_disk",
            dir.path(),
            "mount -t tmpfs -o size=2m tmpfs \"$PAGESTRATA_TEST_DIR\"",
        )
        .assert_success();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "the mount was the child's own");
    }
}

/// In a process of its own, on a disk of 2 MiB.
pub(super) fn fills_a_disk(disk: &Path) {
    let dir = disk.join("store");
    let ballast = disk.join("ballast");
    fs::write(&ballast, vec![1; 1 << 20]).unwrap();
    let (store, main) = made(&dir, 10);
    let mut lease = main.write_lease().unwrap();
    let mut last = 10;
    let refused = loop {
        match commit(&mut lease, last + 1) {
            Ok(ticket) => ticket.wait().unwrap(),
            Err(error) => break error,
        }
        last += 1;
    };
    let expected = matches!(
        refused,
        Error::NoSpace(_) | Error::FlushStalled { .. } | Error::FlushFailed { .. }
    );
    assert!(expected, "{refused}");
    assert!(last > 100, "{last}");
    lease.abort();
    assert_eq!(check(&main), last);
    fs::remove_file(&ballast).unwrap();
    for n in last + 1..last + 50 {
        commit(&mut lease, n).unwrap().wait().unwrap();
    }
    drop(lease);
    main.flush().unwrap();
    assert_eq!(check(&main), last + 49);
    drop((main, store));
    assert_eq!(check(&open(&dir, options()).1), last + 49);
}

#[test]
fn a_limit_on_the_length_of_files() {
    let dir = tempfile::tempdir().unwrap();
    // Blocks of 512 bytes. A signal tells of the limit, and ends a process that does not ignore it.
    child::run("may_write_no_longer_files", dir.path(), "trap '' XFSZ; ulimit -f 40")
        .assert_success();
    let (_store, main) = open(dir.path(), options());
    let last = check(&main);
    write(&main, last + 1..=last + 1);
    main.flush().unwrap();
    assert_eq!(check(&main), last + 1);
}

/// In a process of its own, which may not make files longer than 20 KiB.
pub(super) fn may_write_no_longer_files(dir: &Path) {
    let (_store, main) = made(dir, 20);
    main.flush().unwrap();
    // Too much for a layer file, then for memory.
    let mut lease = main.write_lease().unwrap();
    let mut last = 20;
    let refused = loop {
        match commit(&mut lease, last + 1) {
            Ok(ticket) => ticket.wait().unwrap(),
            Err(error) => break error,
        }
        last += 1;
    };
    assert!(matches!(refused, Error::FlushStalled { .. }), "{refused}");
    assert_eq!(check(&main), last);
    drop(lease);
    assert!(matches!(main.flush(), Err(Error::FlushFailed { .. })));
}

#[test]
fn a_store_on_a_read_only_file_system() {
    let bind = "mount --bind \"$PAGESTRATA_TEST_DIR\" \"$PAGESTRATA_TEST_DIR\"";
    if may_mount() {
        let dir = tempfile::tempdir().unwrap();
        let (store, main) = made(dir.path(), 20);
        main.flush().unwrap();
        write(&main, 21..=30);
        drop((main, store));
        let remount = format!("{bind} && mount -o remount,bind,ro \"$PAGESTRATA_TEST_DIR\"");
        child::run_with_mounts("reads_a_read_only_store", dir.path(), &remount).assert_success();
        let (_store, main) = open(dir.path(), options());
        assert_eq!(check(&main), 30);
    }
}

/// In a process of its own, for which the directory cannot be written.
pub(super) fn reads_a_read_only_store(dir: &Path) {
    assert!(fs::write(dir.join("probe"), b"x").is_err(), "it can be written");
    match Store::open(dir, options()) {
        Ok((store, report)) => {
            let main = store.timeline("main").unwrap();
            assert_eq!(check(&main), 30, "{report:?}");
            let refused = main.write_lease().and_then(|mut lease| commit(&mut lease, 31).map(drop));
            assert!(refused.is_err());
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_file_system_that_becomes_read_only() {
    if may_mount() {
        let dir = tempfile::tempdir().unwrap();
        child::run_with_mounts(
            "writes_while_it_becomes_read_only",
            dir.path(),
            "mount -t tmpfs -o size=8m tmpfs \"$PAGESTRATA_TEST_DIR\"",
        )
        .assert_success();
    }
}

/// In a process of its own, on a disk of its own.
pub(super) fn writes_while_it_becomes_read_only(disk: &Path) {
    let dir = disk.join("store");
    let remount = |how: &str| {
        let mounted = Command::new("mount").args(["-o", how]).arg(disk).status().unwrap();
        assert!(mounted.success());
    };
    let (store, main) = made(&dir, 20);
    main.flush().unwrap();
    write(&main, 21..=40);
    drop((main, store));
    // What is open for writing keeps a file system writable: of a store that was only read nothing
    // is.
    let (store, _) = Store::open(&dir, options()).unwrap();
    let main = store.timeline("main").unwrap();
    assert_eq!(check(&main), 40);
    drop((main, store));
    remount("remount,ro");
    reads_what_it_had(&dir);
    remount("remount,rw");
    let (_store, main) = open(&dir, options());
    write(&main, 41..=60);
    main.flush().unwrap();
    assert_eq!(check(&main), 60);
}

fn reads_what_it_had(dir: &Path) {
    let (_store, main) = open(dir, options());
    assert_eq!(check(&main), 40);
    let mut lease = main.write_lease().unwrap();
    assert!(commit(&mut lease, 41).is_err());
    drop(lease);
    let flushed = main.flush();
    assert!(is_read_only(flushed) || check(&main) == 40);
}

/// S14, while the file is open: a plain memory map cannot promise more than that the process ends;
/// other modes answer an error.
fn s14_a_layer_file_that_is_cut_while_it_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let (store, main) = made(dir.path(), 100);
    main.flush().unwrap();
    drop((main, store));
    let ended = child::run("reads_a_cut_file", dir.path(), "ulimit -c 0");
    match options().access {
        Access::Mmap { .. } => ended.assert_signal(child::SIGBUS),
        Access::Pread | Access::Direct => ended.assert_success(),
    }
    // The file is truncated: the store does not open any more.
    assert!(Store::open(dir.path(), options()).is_err());
}

/// In a process of its own, for it may die of it.
pub(super) fn reads_a_cut_file(dir: &Path) {
    let (_store, main) = open(dir, options());
    let layer = main.layers().remove(0).path;
    fs::File::options().write(true).open(&layer).unwrap().set_len(0).unwrap();
    let (snapshot, mut scratch) = (main.snapshot(), Scratch::new());
    for n in 1..=7 {
        let read = snapshot.guard().history(keys(n)[0], Lsn(1000), &mut scratch);
        assert_eq!(corruption(read.map(drop).unwrap_err()).0, layer);
    }
}
