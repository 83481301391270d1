//! What a crash may leave, pinned.

use std::{
    collections::BTreeSet,
    io::IoSlice,
    path::{Path, PathBuf},
};

use super::{Decision, Script, SimulatedStorage, all_kept, none_kept};
use crate::storage::{File, Storage};

fn path(path: &str) -> &Path {
    Path::new(path)
}

/// A file with a durable name and these bytes, synced.
fn synced(bytes: &[u8]) -> (SimulatedStorage, Box<dyn File>) {
    let storage = SimulatedStorage::of_files([(PathBuf::from("/file"), bytes.to_vec())]);
    let file = storage.open(path("/file")).unwrap();
    (storage, file)
}

/// What a crash may leave of `/file`.
fn left(storage: &SimulatedStorage) -> BTreeSet<Vec<u8>> {
    let states = storage.crash_states(1 << 14).unwrap();
    states.map(|(_, left)| left.bytes(path("/file"))).collect()
}

/// The names that a crash may leave, and what is in the files.
fn names_left(storage: &SimulatedStorage) -> BTreeSet<Vec<(String, String)>> {
    let states = storage.crash_states(1 << 14).unwrap();
    let names = states.map(|(_, left)| {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let files = left.files().into_iter();
        files.map(|(path, bytes)| (path.to_str().unwrap().to_owned(), text(bytes))).collect()
    });
    names.collect()
}

fn write(file: &mut dyn File, offset: u64, bytes: &[u8]) {
    file.write_at(offset, &[IoSlice::new(bytes)]).unwrap();
}

fn create(storage: &SimulatedStorage, at: &str, text: &str) {
    let mut file = storage.create(path(at)).unwrap();
    file.append(text.as_bytes()).unwrap();
    file.sync().unwrap();
}

fn sets(expected: &[&[(&str, &str)]]) -> BTreeSet<Vec<(String, String)>> {
    let owned = |files: &&[(&str, &str)]| {
        files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect()
    };
    expected.iter().map(owned).collect()
}

#[test]
fn each_unsynced_sector_is_old_or_new_by_itself() {
    let (storage, mut file) = synced(&[1; 3 * 512]);
    assert_eq!(storage.crash_states(1).unwrap().len(), 1);
    write(&mut *file, 500, &[2; 24]);
    let with = |first: u8, second: u8| {
        let mut bytes = vec![1; 3 * 512];
        bytes[500..512].fill(first);
        bytes[512..524].fill(second);
        bytes
    };
    assert_eq!(left(&storage), [with(1, 1), with(1, 2), with(2, 1), with(2, 2)].into());
    // A version more of the second sector: that in between may be there as well.
    write(&mut *file, 512, &[3; 12]);
    assert_eq!(storage.crash_states(6).unwrap().len(), 6);
    assert!(storage.crash_states(5).is_none());
    assert!(left(&storage).contains(&with(1, 2)) && left(&storage).contains(&with(2, 3)));
    file.sync().unwrap();
    assert_eq!(left(&storage), [with(2, 3)].into());
}

#[test]
fn a_sector_that_is_as_before_is_no_choice() {
    let (storage, mut file) = synced(&[1; 1024]);
    write(&mut *file, 0, &[1; 600]);
    assert_eq!(left(&storage).len(), 1);
    write(&mut *file, 0, &[2; 10]);
    write(&mut *file, 0, &[1; 10]);
    // All kept is what was there at last, also if that is as it was at first.
    assert_eq!(storage.crash(&mut all_kept).files(), storage.files());
    assert_eq!((storage.crash_states(9).unwrap().len(), left(&storage).len()), (3, 2));
}

#[test]
fn appended_bytes_may_vanish_shorten_or_read_as_zeros() {
    let (storage, mut file) = synced(b"");
    file.append(&[7; 512]).unwrap();
    file.append(&[8; 10]).unwrap();
    let tail = |first: u8, second: Option<u8>| {
        let mut bytes = vec![first; 512];
        bytes.extend(second.into_iter().flat_map(|byte| [byte; 10]));
        bytes
    };
    // Empty; one sector or zeros; two sectors, either of them zeros: 1 + 2 + 4.
    assert_eq!(storage.crash_states(7).unwrap().len(), 7);
    let expected = [
        vec![],
        tail(0, None),
        tail(7, None),
        tail(0, Some(0)),
        tail(7, Some(0)),
        tail(0, Some(8)),
        tail(7, Some(8)),
    ];
    assert_eq!(left(&storage), expected.into());
}

#[test]
fn a_shorter_length_hides_what_was_written_behind_it() {
    let (storage, mut file) = synced(b"abc");
    file.append(b"def").unwrap();
    // The old length; the new one with the old sector (zeros behind its end) or the new sector.
    assert_eq!(left(&storage), [&b"abc"[..], b"abc\0\0\0", b"abcdef"].map(Vec::from).into());
    assert_eq!(storage.crash_states(3).unwrap().len(), 3);
}

#[test]
fn a_gap_reads_as_zeros_and_is_no_choice() {
    let (storage, mut file) = synced(b"a");
    write(&mut *file, 1024, b"z");
    let bytes = left(&storage);
    let far = |last: u8| [&b"a"[..], &[0; 1023], &[last]].concat();
    assert_eq!(bytes, [b"a".to_vec(), far(0), far(b'z')].into());
}

#[test]
fn a_cut_is_whole_or_not_there() {
    let (storage, mut file) = synced(&[1; 2048]);
    file.truncate(512).unwrap();
    assert_eq!(left(&storage), [vec![1; 2048], vec![1; 512]].into());
    file.append(&[2; 512]).unwrap();
    // What was cut off never comes back inside the new length, nor does what was written later show
    // at the old one.
    let grown = |byte| [vec![1; 512], vec![byte; 512]].concat();
    assert_eq!(left(&storage), [vec![1; 2048], vec![1; 512], grown(0), grown(2)].into());
    file.sync().unwrap();
    assert_eq!(left(&storage), [grown(2)].into());
}

#[test]
fn a_cut_within_a_sector_leaves_zeros_behind_it() {
    let (storage, mut file) = synced(b"abcdef");
    file.truncate(3).unwrap();
    let texts = |all: &[&[u8]]| all.iter().map(|text| text.to_vec()).collect::<BTreeSet<_>>();
    assert_eq!(left(&storage), texts(&[b"abcdef", b"abc\0\0\0", b"abc"]));
    file.append(b"x").unwrap();
    let expected = texts(&[b"abcdef", b"abc\0\0\0", b"abcx\0\0", b"abc", b"abc\0", b"abcx"]);
    assert_eq!(left(&storage), expected);
}

#[test]
fn a_name_needs_the_sync_of_its_directory() {
    let storage = SimulatedStorage::new();
    create(&storage, "/file", "text");
    assert!(storage.crash(&mut none_kept).files().is_empty(), "synced bytes, but no name");
    assert_eq!(names_left(&storage), sets(&[&[], &[("/file", "text")]]));
    storage.sync_dir(path("/")).unwrap();
    assert_eq!(names_left(&storage), sets(&[&[("/file", "text")]]));
    // A durable name and no synced byte.
    storage.create(path("/other")).unwrap().append(b"x").unwrap();
    storage.sync_dir(path("/")).unwrap();
    let all = names_left(&storage);
    let with = |text| [("/file", "text"), ("/other", text)];
    assert_eq!(all, sets(&[&with(""), &with("\0"), &with("x")]));
}

#[test]
fn a_rename_over_a_name_leaves_one_of_both() {
    let storage = SimulatedStorage::of_files([(PathBuf::from("/name"), b"old".to_vec())]);
    create(&storage, "/tmp", "new");
    storage.rename(path("/tmp"), path("/name")).unwrap();
    assert_eq!(storage.list(path("/")).unwrap(), ["name"]);
    let old = [("/name", "old")];
    let both = [("/name", "old"), ("/tmp", "new")];
    assert_eq!(names_left(&storage), sets(&[&old, &both, &[("/name", "new")]]));
    assert_eq!(storage.crash_states(3).unwrap().len(), 3);
    storage.sync_dir(path("/")).unwrap();
    assert_eq!(names_left(&storage), sets(&[&[("/name", "new")]]));
}

#[test]
fn a_removed_name_may_come_back() {
    let storage = SimulatedStorage::of_files([(PathBuf::from("/file"), b"text".to_vec())]);
    storage.remove(path("/file")).unwrap();
    assert!(storage.open(path("/file")).is_err());
    assert_eq!(names_left(&storage), sets(&[&[], &[("/file", "text")]]));
    // Another of that name needs the removal.
    create(&storage, "/file", "next");
    let expected = sets(&[&[], &[("/file", "text")], &[("/file", "next")]]);
    assert_eq!(names_left(&storage), expected);
}

#[test]
fn names_of_different_files_are_kept_apart() {
    let storage = SimulatedStorage::new();
    for name in ["/a", "/b", "/c"] {
        create(&storage, name, "");
    }
    assert_eq!(storage.crash_states(8).unwrap().len(), 8);
    assert_eq!(names_left(&storage).len(), 8);
    storage.remove(path("/b")).unwrap();
    // Of b: never there, there, gone again.
    assert_eq!(storage.crash_states(12).unwrap().len(), 12);
    assert_eq!(names_left(&storage).len(), 8);
}

#[test]
fn what_is_in_a_lost_directory_is_lost() {
    let storage = SimulatedStorage::new();
    storage.create_dir(path("/dir")).unwrap();
    create(&storage, "/dir/file", "text");
    // No directory; an empty one; the file in it.
    assert_eq!(storage.crash_states(9).unwrap().len(), 3);
    storage.sync_dir(path("/dir")).unwrap();
    assert!(!storage.crash(&mut none_kept).exists(path("/dir/file")).unwrap());
    assert!(storage.crash(&mut all_kept).exists(path("/dir/file")).unwrap());
    assert_eq!(storage.crash_states(9).unwrap().len(), 2);
    storage.sync_dir(path("/")).unwrap();
    assert_eq!(names_left(&storage), sets(&[&[("/dir/file", "text")]]));
}

#[test]
fn choices_multiply_over_names_and_sectors() {
    let storage = SimulatedStorage::new();
    storage.create(path("/a")).unwrap().append(&[1; 1024]).unwrap();
    storage.create(path("/b")).unwrap().append(&[1; 10]).unwrap();
    // Of a: no name, or length 0, or two sectors each zeros or not; of b: no name, length 0, zeros
    // or not.
    assert_eq!(storage.crash_states(100).unwrap().len(), (1 + 1 + 4) * (1 + 1 + 2));
    let states: Vec<_> = storage.crash_states(100).unwrap().collect();
    let images: BTreeSet<_> = states.iter().map(|(_, left)| left.digest()).collect();
    let vectors: BTreeSet<_> = states.iter().map(|(choices, _)| choices.clone()).collect();
    assert_eq!((images.len(), vectors.len()), (24, 24));
    for (choices, left) in states {
        assert_eq!(storage.crash(&mut Script::new(choices)).digest(), left.digest());
    }
}

#[test]
fn a_kill_loses_nothing_and_a_power_failure_after_it_may() {
    let (storage, mut file) = synced(b"old");
    write(&mut *file, 0, b"new");
    create(&storage, "/other", "");
    let held = storage.lock(path("/lock")).unwrap().unwrap();
    assert!(storage.lock(path("/lock")).unwrap().is_none());
    let killed = storage.killed();
    assert_eq!((killed.files(), killed.digest()), (storage.files(), storage.digest()));
    assert!(killed.lock(path("/lock")).unwrap().is_some(), "a lock ends with its process");
    assert_eq!(killed.crash(&mut none_kept).files(), [("/file".into(), b"old".to_vec())].into());
    // Neither changes the other.
    killed.open(path("/file")).unwrap().sync().unwrap();
    assert_eq!(killed.crash(&mut none_kept).bytes(path("/file")), b"new");
    assert_eq!(storage.crash(&mut none_kept).bytes(path("/file")), b"old");
    drop(held);
    assert!(storage.lock(path("/lock")).unwrap().is_some());
}

#[test]
fn seeds_replay_and_find_all_that_there_is() {
    let (storage, mut file) = synced(&[1; 1024]);
    write(&mut *file, 0, &[2; 1024]);
    create(&storage, "/other", "");
    let all = |seed| -> Vec<_> {
        let mut random = fastrand::Rng::with_seed(seed);
        (0..200).map(|_| storage.crash_seeded(&mut random).digest()).collect()
    };
    assert_eq!(all(1), all(1));
    assert_eq!(all(2).into_iter().collect::<BTreeSet<_>>().len(), 8);
    let clean = storage.crash(&mut all_kept);
    assert_eq!(clean.crash_seeded(&mut fastrand::Rng::with_seed(3)).digest(), clean.digest());
}

#[test]
fn choices_can_be_made_by_path() {
    let (storage, mut file) = synced(&[1; 1024]);
    write(&mut *file, 0, &[2; 1024]);
    let mut second = |decision: Decision<'_>, _: usize| match decision {
        Decision::Sector(at, number) => {
            assert_eq!(at, path("/file"));
            number
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(storage.crash(&mut second).bytes(path("/file")), [[1; 512], [2; 512]].concat());
}

#[test]
fn open_and_mapped_files_outlive_their_names() {
    let (storage, mut file) = synced(b"text");
    let map = file.map().unwrap();
    storage.remove(path("/file")).unwrap();
    file.append(b"!").unwrap();
    let mut bytes = [0; 5];
    file.read_at(0, &mut bytes).unwrap();
    assert_eq!((&bytes, map.bytes()), (b"text!", &b"text"[..]));
    let digest = storage.digest();
    create(&storage, "/file", "text");
    assert_ne!(storage.digest(), digest);
}

#[test]
fn names_follow_the_rules_of_a_file_system() {
    let storage = SimulatedStorage::new();
    let kind = |result: crate::Result<()>| match result.unwrap_err() {
        crate::Error::Io { cause, .. } => cause.kind(),
        other => panic!("{other}"),
    };
    use std::io::ErrorKind::{AlreadyExists, IsADirectory, NotFound};
    assert_eq!(kind(storage.create(path("/no/file")).map(drop)), NotFound);
    assert_eq!(kind(storage.create_dir(path("/no/dir"))), NotFound);
    assert_eq!(kind(storage.sync_dir(path("/no"))), NotFound);
    assert_eq!(kind(storage.list(path("/no")).map(drop)), NotFound);
    storage.create_dir(path("dir")).unwrap();
    storage.create_dir(path("dir")).unwrap();
    create(&storage, "dir/b", "");
    create(&storage, "dir/a", "");
    create(&storage, "dis", "");
    assert_eq!(kind(storage.create(path("dis")).map(drop)), AlreadyExists);
    assert_eq!(kind(storage.create_dir(path("dis"))), AlreadyExists);
    let opened = storage.open(path("dir"));
    assert!(matches!(opened, Err(crate::Error::NotAFile { found: "a directory", .. })));
    assert_eq!(kind(storage.rename(path("dis"), path("dir"))), IsADirectory);
    assert_eq!(storage.list(path("dir")).unwrap(), ["a", "b"]);
    assert_eq!(storage.list(path(".")).unwrap(), ["dir", "dis"]);
    assert!(storage.list(path("/")).unwrap().is_empty());
    storage.sync_dir(path(".")).unwrap();
    assert_eq!(storage.crash(&mut none_kept).list(path("")).unwrap(), ["dir", "dis"]);
}

/// The bytes of a sector, with zeros behind the end of the file, cut to `len`.
fn sector(bytes: &[u8], number: usize, len: usize) -> Vec<u8> {
    let mut sector = bytes.get(number * 512..).unwrap_or_default().to_vec();
    sector.resize(512, 0);
    sector.truncate(len);
    sector
}

/// Against the plain list of all images since the last sync: a crash makes nothing up.
#[test]
fn random_writes_and_cuts_leave_only_what_was_there() {
    for seed in 0..300 {
        let mut random = fastrand::Rng::with_seed(seed);
        let (storage, mut file) = synced(&[1; 700]);
        let mut images = vec![storage.bytes(path("/file"))];
        for value in 2..40 {
            match random.u8(..8) {
                0 => file.truncate(random.u64(..2500)).unwrap(),
                1 => file.append(&vec![value; random.usize(..900)]).unwrap(),
                2 => {
                    file.sync().unwrap();
                    images.clear();
                }
                _ => write(&mut *file, random.u64(..2000), &vec![value; random.usize(..900)]),
            }
            images.push(storage.bytes(path("/file")));
            let bytes = |left: SimulatedStorage| left.bytes(path("/file"));
            assert_eq!(&bytes(storage.crash(&mut none_kept)), &images[0], "{seed}");
            assert_eq!(bytes(storage.crash(&mut all_kept)), storage.bytes(path("/file")), "{seed}");
            for _ in 0..8 {
                let left = bytes(storage.crash_seeded(&mut random));
                assert!(images.iter().any(|image| image.len() == left.len()), "{seed}");
                for (number, found) in left.chunks(512).enumerate() {
                    // Of a version that a later cut has shortened, the rest is zeros.
                    let was = |image: &Vec<u8>| {
                        let was = sector(image, number, found.len());
                        found.iter().zip(was).all(|(found, was)| *found == was || *found == 0)
                    };
                    assert!(images.iter().any(was), "{seed}: sector {number}");
                }
            }
        }
    }
}
