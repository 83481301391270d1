//! Running the command, and a copy of the sample to run it on.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use pagestrata::{Key, Lsn, Scratch, Value};
use pagestrata_postgres::{BaseBackup, Fork, Page, RelFork, RelPage};
use pagestrata_postgres_ingest::identity::Identity;

/// Where the sample's base ends: the checkpoint in its control file.
pub(crate) const BEGIN: Lsn = Lsn(0xAAF2A0);
/// The end of the sample's log.
pub(crate) const END: Lsn = Lsn(0xDC2FD8);
/// How many records the sample's log has from [`BEGIN`].
pub(crate) const RECORDS: u64 = 18223;
/// How many pages the sample's base has.
pub(crate) const BASE_PAGES: u64 = 1206;
/// The system identifier of the sample's cluster.
pub(crate) const SYSTEM: u64 = 7_710_910_917_319_212_980;

/// What a run of the command left.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn of(output: Output) -> Ran {
        let stderr = String::from_utf8(output.stderr).unwrap();
        Ran { code: output.status.code().expect("not killed"), stdout: output.stdout, stderr }
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    /// The lines of stdout as JSON.
    pub(crate) fn json(&self) -> Vec<serde_json::Value> {
        self.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[track_caller]
    pub(crate) fn good(self) -> Ran {
        assert_eq!((self.code, self.stderr.as_str()), (0, ""), "{}", self.text());
        self
    }

    /// Failed with this code and one line that has these texts.
    #[track_caller]
    pub(crate) fn failed(self, code: i32, texts: &[&str]) -> Ran {
        let Ran { code: found, stderr, .. } = &self;
        assert_eq!(*found, code, "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "one line: {stderr}");
        assert!(stderr.starts_with("pagestrata: ") && stderr.ends_with('\n'), "{stderr}");
        for text in texts {
            assert!(stderr.contains(text), "{text:?} is not in: {stderr}");
        }
        self
    }
}

pub(crate) fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_pagestrata"))
}

/// Runs the command with arguments that are told apart by spaces, `{}` standing for `dir`.
#[track_caller]
pub(crate) fn run(dir: &Path, arguments: &str) -> Ran {
    let dir = dir.to_str().unwrap();
    let arguments = arguments.split(' ').map(|argument| argument.replace("{}", dir));
    let output = command().args(arguments).stdin(Stdio::null()).output().unwrap();
    Ran::of(output)
}

/// Puts versions of pages into `store` in `dir`, past the command, and flushes them.
pub(crate) fn put(dir: &Path, values: &[(&str, Lsn, Value<'_>)]) {
    let key = |page: &str| page.parse::<RelPage>().unwrap().key();
    let values: Vec<_> =
        values.iter().map(|(page, lsn, value)| (key(page), *lsn, *value)).collect();
    put_values(dir, &values);
}

/// Puts the size of a fork, as [`put`] puts pages.
pub(crate) fn put_size(dir: &Path, rel: &str, lsn: Lsn, blocks: u32) {
    let rel: RelFork = rel.parse().unwrap();
    let key = Key::new(1 << 126 | rel.object(), 0);
    put_values(dir, &[(key, lsn, Value::Image(&blocks.to_le_bytes()))]);
}

fn put_values(dir: &Path, values: &[(Key, Lsn, Value<'_>)]) {
    let (store, timeline) =
        pagestrata_postgres_ingest::open_to_ingest(&dir.join("store"), "main", 0).unwrap();
    let mut lease = timeline.write_lease().unwrap();
    for (key, lsn, value) in values {
        lease.put(*key, *lsn, *value).unwrap();
        lease.commit(*lsn).unwrap().wait().unwrap();
    }
    drop(lease);
    store.close(Duration::ZERO).unwrap();
}

/// A directory of its own with the sample's `base` and `wal` in it, to be damaged.
pub(crate) fn sample_copy() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    pagestrata_postgres_ingest::sample::unpack(dir.path()).unwrap();
    dir
}

/// [`sample_copy`] with the base imported into `store`.
pub(crate) fn imported() -> tempfile::TempDir {
    let dir = sample_copy();
    run(dir.path(), "import --store {}/store --base {}/base").good();
    dir
}

/// [`imported`] with the log ingested.
pub(crate) fn ingested() -> tempfile::TempDir {
    let dir = imported();
    run(dir.path(), "ingest --store {}/store --wal {}/wal").good();
    dir
}

/// Compares each page of `data`, but those of free space maps, with the store in `dir`, as of `lsn`
/// or of the last record. Prints those that are not the `same`. Returns how many are, of how many.
pub(crate) fn same_pages(
    dir: &Path,
    data: &Path,
    lsn: Option<Lsn>,
    mut same: impl FnMut(RelPage, &Page, &Page) -> bool,
) -> (u64, u64) {
    let (_store, timeline) =
        pagestrata_postgres_ingest::open_existing(&dir.join("store"), "main").unwrap();
    let lsn = lsn.unwrap_or_else(|| timeline.last_record_lsn());
    let redo = Identity::at(&timeline, lsn).unwrap().redo();
    let files = BaseBackup::open(pagestrata_postgres_ingest::storage(), data).unwrap();
    let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
    let guard = reader.pin();
    let (mut pages, mut good, mut all) = (files.pages(), 0, 0);
    while let Some((key, on_disk)) = pages.next_page().unwrap() {
        let of = RelPage::from_key(key).unwrap();
        if of.rel.fork == Fork::Fsm {
            continue;
        }
        all += 1;
        let (found, _) =
            pagestrata_postgres_ingest::page_at(guard, of, lsn, &redo, &mut scratch).unwrap();
        let on_disk: &Page = on_disk.try_into().unwrap();
        match same(of, &found, on_disk) {
            true => good += 1,
            false => {
                println!("{of} at {lsn}: {:?}.., on disk {:?}..", &found[..8], &on_disk[..8]);
            }
        }
    }
    (good, all)
}

pub(crate) fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Every file below a directory and what is in it.
pub(crate) fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                dirs.push(entry.path());
            } else {
                files.push((entry.path(), fs::read(entry.path()).unwrap()));
            }
        }
    }
    files.sort();
    files
}

/// Files of a directory, sorted by name.
pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Changes a file's bytes.
pub(crate) fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}
