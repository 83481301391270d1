//! What every storage keeps to, on the operating system's files and on simulated ones; and what the
//! operating system's alone meet: links, FIFOs, sockets, directories that are moved.
#![allow(unsafe_code)]

use std::{
    ffi::CString,
    fs, io,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt, net::UnixListener},
    path::Path,
};

use super::{RealStorage, Storage};
use crate::{Error, testing::SimulatedStorage};

/// Runs a check on both kinds of storage, in a directory of each.
fn on_both(check: fn(&dyn Storage, &Path)) {
    let dir = tempfile::tempdir().unwrap();
    check(&RealStorage, dir.path());
    let simulated = SimulatedStorage::new();
    simulated.create_dir(Path::new("/dir")).unwrap();
    check(&simulated, Path::new("/dir"));
}

#[track_caller]
fn assert_io(error: &Error, kind: io::ErrorKind) {
    assert!(matches!(error, Error::Io { cause, .. } if cause.kind() == kind), "{error}");
}

#[test]
fn an_anchor_takes_paths_below_it_and_no_others() {
    on_both(|storage, dir| {
        let (root, sub) = (dir.join("store"), dir.join("store/sub"));
        assert_io(&storage.anchored(&root).unwrap_err(), io::ErrorKind::NotFound);
        storage.create_dir(&root).unwrap();
        let anchored = storage.anchored(&root).unwrap();
        assert!(!anchored.exists(&sub).unwrap());
        let refused = anchored.create(&sub.join("file")).unwrap_err();
        assert_io(&refused, io::ErrorKind::NotFound);
        let expected = format!("{}: cannot create: ", sub.join("file").display());
        assert!(refused.to_string().starts_with(&expected), "{refused}");
        let refused = anchored.list(&sub).unwrap_err();
        assert!(refused.to_string().contains("sub: cannot list: "), "{refused}");
        anchored.create_dir(&sub).unwrap();
        anchored.create_dir(&sub).unwrap();
        anchored.create(&sub.join("a")).unwrap().append(b"bytes").unwrap();
        anchored.rename(&sub.join("a"), &sub.join("b")).unwrap();
        anchored.sync_dir(&sub).unwrap();
        anchored.sync_dir(&root).unwrap();
        assert_eq!(anchored.list(&sub).unwrap(), ["b"]);
        assert_eq!(anchored.list(&root).unwrap(), ["sub"]);
        let opened = anchored.open(&sub.join("b")).unwrap();
        assert_eq!((opened.len().unwrap(), opened.path()), (5, &*sub.join("b")));
        assert_eq!(storage.open(&sub.join("b")).unwrap().len().unwrap(), 5);
        let lock = anchored.lock(&root.join("LOCK")).unwrap().expect("free");
        assert!(storage.lock(&root.join("LOCK")).unwrap().is_none());
        drop(lock);
        anchored.remove(&sub.join("b")).unwrap();
        assert!(!storage.exists(&sub.join("b")).unwrap());
        for outside in [dir.to_owned(), dir.join("other"), root.join("../other"), "a".into()] {
            assert_io(&anchored.create(&outside).unwrap_err(), io::ErrorKind::InvalidInput);
            assert_io(&anchored.list(&outside).unwrap_err(), io::ErrorKind::InvalidInput);
            assert_io(&anchored.exists(&outside).unwrap_err(), io::ErrorKind::InvalidInput);
        }
    });
}

#[test]
fn a_directory_is_no_file() {
    on_both(|storage, dir| {
        let anchored = storage.anchored(dir).unwrap();
        let sub = dir.join("sub");
        anchored.create_dir(&sub).unwrap();
        let opened = anchored.open(&sub).unwrap_err().to_string();
        let expected = "cannot open: expected a regular file, found a directory; put the file back";
        assert_eq!(opened, format!("{}: {expected}", sub.display()));
        assert!(matches!(storage.open(&sub), Err(Error::NotAFile { .. })));
        assert!(matches!(anchored.lock(&sub), Err(Error::NotAFile { .. })));
    });
}

/// Makes something that is no regular file.
fn make_other(kind: &str, path: &Path) {
    let name = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: makes a name in the file system.
    let node = |mode, device| unsafe { libc::mknod(name.as_ptr(), mode, device) };
    match kind {
        "a FIFO" => assert_eq!(node(libc::S_IFIFO | 0o600, 0), 0),
        "a socket" => drop(UnixListener::bind(path).unwrap()),
        "a character device" => assert_eq!(node(libc::S_IFCHR | 0o600, libc::makedev(1, 3)), 0),
        "a directory" => fs::create_dir(path).unwrap(),
        "a symbolic link" => std::os::unix::fs::symlink(path.file_name().unwrap(), path).unwrap(),
        other => panic!("no {other}"),
    }
}

#[test]
fn only_regular_files_are_opened_and_nothing_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let anchored = RealStorage.anchored(dir.path()).unwrap();
    let kinds = ["a FIFO", "a socket", "a directory", "a symbolic link", "a character device"];
    for kind in kinds {
        if kind == "a character device" && !fs::metadata("/proc/self").is_ok_and(is_root) {
            continue;
        }
        let path = dir.path().join(kind);
        make_other(kind, &path);
        assert!(anchored.exists(&path).unwrap(), "{kind} is something");
        let opened = [
            anchored.open(&path).map(drop),
            anchored.open_direct(&path).map(drop),
            anchored.lock(&path).map(drop),
        ];
        for opened in opened {
            let error = opened.unwrap_err();
            assert!(
                matches!(&error, Error::NotAFile { path: named, found, .. }
                    if *named == path && *found == kind),
                "{error}"
            );
        }
        // By its whole path a link is followed, as everywhere.
        if kind == "a symbolic link" {
            let looped = RealStorage.open(&path).unwrap_err();
            assert!(matches!(looped, Error::Io { .. }), "{looped}");
        } else {
            assert!(matches!(RealStorage.open(&path), Err(Error::NotAFile { .. })));
        }
        assert!(anchored.create(&path).is_err());
    }
}

fn is_root(metadata: fs::Metadata) -> bool {
    std::os::unix::fs::MetadataExt::uid(&metadata) == 0
}

#[test]
fn a_file_that_may_not_be_read_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, "bytes").unwrap();
    let nobody = 65_534;
    std::os::unix::fs::chown(&path, Some(nobody), Some(nobody)).unwrap_or_default();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let anchored = RealStorage.anchored(dir.path()).unwrap();
    // The superuser may read everything, so a thread stops being that for files.
    let open = move || {
        // SAFETY: changes the user of this thread alone, which ends.
        unsafe { libc::syscall(libc::SYS_setfsuid, nobody) };
        anchored.open(&path).unwrap_err().to_string()
    };
    let error = std::thread::spawn(open).join().unwrap();
    assert!(error.contains("file: cannot open: Permission denied"), "{error}");
}

#[test]
fn an_anchor_stays_with_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    let (root, away) = (dir.path().join("store"), dir.path().join("away"));
    fs::create_dir_all(root.join("sub")).unwrap();
    let anchored = RealStorage.anchored(&root).unwrap();
    anchored.create(&root.join("sub/before")).unwrap();
    fs::rename(&root, &away).unwrap();
    fs::create_dir_all(root.join("sub")).unwrap();
    fs::write(root.join("sub/before"), "of the other").unwrap();

    anchored.create(&root.join("sub/after")).unwrap().append(b"ours").unwrap();
    anchored.create(&root.join("top")).unwrap();
    anchored.rename(&root.join("top"), &root.join("renamed")).unwrap();
    assert_eq!(anchored.open(&root.join("sub/before")).unwrap().len().unwrap(), 0);
    anchored.remove(&root.join("sub/before")).unwrap();
    anchored.create_dir(&root.join("new")).unwrap();
    anchored.sync_dir(&root).unwrap();
    assert_eq!(anchored.list(&root).unwrap(), ["new", "renamed", "sub"]);
    assert!(anchored.lock(&root.join("LOCK")).unwrap().is_some());
    assert_eq!(RealStorage.list(&root).unwrap(), ["sub"]);
    assert_eq!(RealStorage.list(&root.join("sub")).unwrap(), ["before"]);
    assert_eq!(fs::read(root.join("sub/before")).unwrap(), b"of the other");
    assert_eq!(fs::read(away.join("sub/after")).unwrap(), b"ours");
}

#[test]
fn a_directory_below_an_anchor_is_not_taken_for_another() {
    let dir = tempfile::tempdir().unwrap();
    let sub = dir.path().join("sub");
    let anchored = RealStorage.anchored(dir.path()).unwrap();
    anchored.create_dir(&sub).unwrap();
    anchored.create(&sub.join("first")).unwrap();
    fs::rename(&sub, dir.path().join("away")).unwrap();
    assert_io(&anchored.create(&sub.join("second")).unwrap_err(), io::ErrorKind::NotFound);
    fs::create_dir(&sub).unwrap();
    for refused in [
        anchored.create(&sub.join("second")).map(drop),
        anchored.list(&sub).map(drop),
        anchored.sync_dir(&sub),
        anchored.remove(&sub.join("first")),
    ] {
        let is_named =
            |error: &Error| matches!(error, Error::DirectoryReplaced { path } if *path == sub);
        assert!(refused.is_err_and(|error| is_named(&error)));
    }
    fs::remove_dir(&sub).unwrap();
    fs::rename(dir.path().join("away"), &sub).unwrap();
    anchored.create(&sub.join("second")).unwrap();
    // One that this storage has made itself is taken for what it is.
    fs::remove_dir_all(&sub).unwrap();
    anchored.create_dir(&sub).unwrap();
    anchored.create(&sub.join("third")).unwrap();
}

#[test]
fn bytes_that_are_lent_do_not_change() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let mut writer = RealStorage.create(&path).unwrap();
    writer.append("Grüße".as_bytes()).unwrap();
    assert!(matches!(writer.map(), Err(Error::FileInUse { found: "being written", .. })));
    let reader = RealStorage.open(&path).unwrap();
    assert!(matches!(reader.map(), Err(Error::FileInUse { .. })), "by another name of it too");
    drop(writer);
    let map = reader.map().unwrap();
    let text = std::str::from_utf8(map.bytes()).unwrap();
    fs::hard_link(&path, dir.path().join("link")).unwrap();
    for name in ["file", "link"] {
        let mut file = RealStorage.open(&dir.path().join(name)).unwrap();
        for refused in
            [file.write_at(3, &[io::IoSlice::new(b"\xFF")]), file.append(b"\xFF"), file.truncate(0)]
        {
            assert!(matches!(refused, Err(Error::FileInUse { found: "mapped", .. })));
        }
    }
    assert_eq!(text, "Grüße");
    drop(map);
    RealStorage.open(&path).unwrap().write_at(3, &[io::IoSlice::new(b"\xFF")]).unwrap();
}
