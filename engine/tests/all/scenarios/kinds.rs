//! S24: something other than a regular file in the place of one. Open reports it at once, and does
//! not wait.
#![allow(unsafe_code)]

use std::{
    ffi::CString,
    fs, io,
    os::unix::{
        ffi::OsStrExt,
        fs::{PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use pagestrata::{
    Access, Error, LayersError, Lsn, Options, Store,
    storage::{RealStorage, SharedStorage},
};

use super::{check, options, write};

/// What stands in the place of a file, and how an error calls it.
const KINDS: [(&str, &str); 7] = [
    ("FIFO", "a FIFO"),
    ("socket", "a socket"),
    ("directory", "a directory"),
    ("loop", "a symbolic link"),
    ("dangling link", "a symbolic link"),
    ("link to the file", "a symbolic link"),
    ("device", "a character device"),
];

/// A store with one of each kind of file, closed, and these files: `CURRENT`, `LOCK`, the manifest,
/// a layer, a log segment, `SYNCED`.
fn made(dir: &Path) -> Vec<PathBuf> {
    let (store, _) = Store::open(dir, options()).unwrap();
    let main = store.create_timeline("main", Lsn(1)).unwrap();
    write(&main, 1..=20);
    main.flush().unwrap();
    write(&main, 21..=30);
    let layer = main.layers().remove(0).path;
    drop((main, store));
    // Removes the segments that are not needed any more.
    drop(Store::open(dir, options()).unwrap());
    let is_segment = |path: &PathBuf| path.extension().is_some_and(|of| of == "log");
    let entries = fs::read_dir(dir.join("log")).unwrap();
    let mut segments: Vec<_> =
        entries.map(|entry| entry.unwrap().path()).filter(is_segment).collect();
    segments.sort_unstable();
    let first = segments.remove(0);
    let names = ["CURRENT", "LOCK", "MANIFEST-00000001"].map(|name| dir.join(name));
    names.into_iter().chain([layer, first, dir.join("log/SYNCED")]).collect()
}

/// False where this process may not.
fn make_other(kind: &str, path: &Path, aside: &Path) -> bool {
    let name = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: makes a name in the file system.
    let node = |mode, device| unsafe { libc::mknod(name.as_ptr(), mode, device) } == 0;
    match kind {
        "FIFO" => return node(libc::S_IFIFO | 0o600, 0),
        "FIFO to read" => return node(libc::S_IFIFO | 0o444, 0),
        // The null device.
        "device" => return node(libc::S_IFCHR | 0o600, libc::makedev(1, 3)),
        "socket" => return node(libc::S_IFSOCK | 0o600, 0),
        "directory" => fs::create_dir(path).unwrap(),
        "loop" => symlink(path, path).unwrap(),
        "dangling link" => symlink("nothing", path).unwrap(),
        "link to the file" => symlink(aside, path).unwrap(),
        other => panic!("no {other}"),
    }
    true
}

fn remove(path: &Path) {
    match path.symlink_metadata().unwrap().is_dir() {
        true => fs::remove_dir(path).unwrap(),
        false => fs::remove_file(path).unwrap(),
    }
}

#[test]
fn s24_something_else_in_the_place_of_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let (store_dir, aside) = (dir.path().join("store"), dir.path().join("aside"));
    let files = made(&store_dir);
    let mut refused = 0;
    for (file, (kind, found_kind)) in files.iter().flat_map(|file| KINDS.map(|kind| (file, kind))) {
        fs::rename(file, &aside).unwrap();
        if make_other(kind, file, &aside) {
            for (access, create) in [
                (Access::MMAP, true),
                (Access::MMAP, false),
                (Access::Pread, true),
                (Access::Direct, true),
            ] {
                let error = Store::open(&store_dir, Options { access, create, ..options() });
                let error = error.map(|_| ()).expect_err(kind);
                assert!(
                    matches!(&error, Error::Layers(LayersError::NotAFile { path, found, .. })
                        if path == file && *found == found_kind),
                    "{kind} in the place of {}: {error}",
                    file.display()
                );
                let storage: SharedStorage = Arc::new(RealStorage);
                let verified = Store::verify(&storage, &store_dir, None, &mut |_| {});
                assert!(verified.is_err(), "{kind} in the place of {}", file.display());
                refused += 1;
            }
            remove(file);
        }
        fs::rename(&aside, file).unwrap();
    }
    assert!(refused >= 6 * 6 * 4, "{refused}");
    let (store, _) = Store::open(&store_dir, options()).unwrap();
    assert_eq!(check(&store.timeline("main").unwrap()), 30, "no file was harmed");
}

#[test]
fn s24_something_else_in_the_place_of_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let (store_dir, aside) = (dir.path().join("store"), dir.path().join("aside"));
    made(&store_dir);
    let dirs = ["timelines", "timelines/1", "log"].map(|name| store_dir.join(name));
    for (at, kind) in dirs.iter().flat_map(|at| KINDS.map(|(kind, _)| (at, kind))) {
        // The user decides where directories are: a link to a directory is accepted.
        if matches!(kind, "directory" | "link to the file") {
            continue;
        }
        fs::rename(at, &aside).unwrap();
        if make_other(kind, at, &aside) {
            let error = Store::open(&store_dir, options()).map(|_| ()).expect_err(kind).to_string();
            assert!(error.contains(&*at.to_string_lossy()), "{kind}: {error}");
            remove(at);
        }
        fs::rename(&aside, at).unwrap();
    }
    let elsewhere = dir.path().join("log elsewhere");
    fs::rename(&dirs[2], &elsewhere).unwrap();
    symlink(&elsewhere, &dirs[2]).unwrap();
    let (store, _) = Store::open(&store_dir, options()).unwrap();
    let main = store.timeline("main").unwrap();
    write(&main, 31..=40);
    assert_eq!(check(&main), 40);
}

/// Why a store cannot be opened by a user who may do no more than any.
fn opened_by_nobody(store_dir: &Path) -> Error {
    let store_dir = store_dir.to_owned();
    // The superuser may do everything, so a thread stops being that, for files.
    let opened = std::thread::spawn(move || {
        let nobody = 65_534;
        // SAFETY: changes the user of this thread alone, which ends.
        unsafe { libc::syscall(libc::SYS_setfsuid, nobody) };
        Store::open(&store_dir, options()).map(|_| ())
    });
    opened.join().unwrap().expect_err("it may not be opened")
}

/// Opening one to read waits for a writer; one that may be written too is opened without.
#[test]
fn s24_a_fifo_that_may_only_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let (store_dir, aside) = (dir.path().join("store"), dir.path().join("aside"));
    let files = made(&store_dir);
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for file in &files {
        fs::rename(file, &aside).unwrap();
        assert!(make_other("FIFO to read", file, &aside));
        let error = opened_by_nobody(&store_dir);
        assert!(
            matches!(&error, Error::Layers(LayersError::NotAFile { path, found: "a FIFO", .. })
                if path == file),
            "{}: {error}",
            file.display()
        );
        remove(file);
        fs::rename(&aside, file).unwrap();
    }
}

#[test]
fn s24_a_file_that_may_not_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let store_dir = dir.path().join("store");
    let files = made(&store_dir);
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let modes = files.iter().map(|file| fs::metadata(file).unwrap().permissions());
    let modes: Vec<_> = modes.collect();
    for (file, mode) in files.iter().zip(modes) {
        fs::set_permissions(file, fs::Permissions::from_mode(0o000)).unwrap();
        let error = opened_by_nobody(&store_dir);
        assert!(
            matches!(&error, Error::Layers(LayersError::Io { path, cause, .. })
                if path == file && cause.kind() == io::ErrorKind::PermissionDenied),
            "{}: {error}",
            file.display()
        );
        fs::set_permissions(file, mode).unwrap();
    }
    let (store, _) = Store::open(&store_dir, options()).unwrap();
    assert_eq!(check(&store.timeline("main").unwrap()), 30);
}
