//! Where captures are, and what is in them.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use pagestrata_layers::{
    Lsn,
    storage::{RealStorage, SharedStorage},
};
use pagestrata_postgres::{ControlFile, Fork, RelFork, WalReader};

/// The real file system.
pub(crate) fn storage() -> SharedStorage {
    Arc::new(RealStorage)
}

/// A capture, unpacked as far as the tests need it.
pub(crate) struct Capture {
    pub(crate) name: String,
    /// Files beside the archive start with this.
    stem: PathBuf,
    /// Where `base` and `wal` are.
    dir: PathBuf,
    _unpacked: Option<tempfile::TempDir>,
    env: HashMap<String, String>,
}

const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/ingest/sample");
const NAMES: [&str; 5] =
    ["pgbench/main", "pgbench/pglz", "pgbench/zstd", "pgbench/fpwoff", "consistency/off"];

/// The sample, and the captures where there are some.
pub(crate) fn all() -> &'static [Capture] {
    static ALL: OnceLock<Vec<Capture>> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut captures = vec![Capture::unpack("sample", Path::new(SAMPLE).join("sample"))];
        match std::env::var_os("PAGESTRATA_CAPTURES") {
            Some(dir) => {
                println!("captures are read from {}", Path::new(&dir).display());
                let dir = PathBuf::from(dir);
                captures.extend(NAMES.map(|name| Capture::unpack(name, dir.join(name))));
            }
            None => println!("PAGESTRATA_CAPTURES is not set: only the sample is read"),
        }
        captures
    })
}

/// What `captures/make.sh` made, where there is any: each directory in `PAGESTRATA_MADE_CAPTURES`.
pub(crate) fn made() -> Vec<Capture> {
    let Some(dir) = std::env::var_os("PAGESTRATA_MADE_CAPTURES") else {
        println!("PAGESTRATA_MADE_CAPTURES is not set: no captures of captures/make.sh are read");
        return Vec::new();
    };
    println!("captures of captures/make.sh are read from {}", Path::new(&dir).display());
    let dirs = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path());
    let mut dirs: Vec<PathBuf> = dirs.filter(|path| path.join("capture.env").exists()).collect();
    dirs.sort();
    assert!(!dirs.is_empty(), "no captures in {}", Path::new(&dir).display());
    dirs.into_iter().map(Capture::made).collect()
}

/// The sample alone, for tests that damage it.
pub(crate) fn sample() -> &'static Capture {
    &all()[0]
}

fn open_zstd(path: &Path) -> impl Read + use<> {
    let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut decoder = zstd::Decoder::new(file).unwrap();
    decoder.window_log_max(27).unwrap();
    decoder
}

/// A relation fork by its four numbers in a list.
pub(crate) fn rel_of(numbers: [&str; 4]) -> RelFork {
    let [tablespace, database, relation, fork] =
        numbers.map(|number| number.parse::<u32>().unwrap());
    let fork = Fork::from_number(u8::try_from(fork).unwrap()).unwrap();
    RelFork { tablespace, database, relation, fork }
}

impl Capture {
    fn unpack(name: &str, stem: PathBuf) -> Capture {
        let unpacked = tempfile::tempdir().unwrap();
        let archive = PathBuf::from(format!("{}.tar.zst", stem.display()));
        let mut archive = tar::Archive::new(open_zstd(&archive));
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().into_owned();
            let path = path.strip_prefix(".").unwrap_or(&path);
            if path.starts_with("base") || path.starts_with("wal") {
                entry.unpack_in(unpacked.path()).unwrap();
            }
        }
        let dir = unpacked.path().to_owned();
        Capture::of(name.to_owned(), stem, dir, Some(unpacked))
    }

    fn made(dir: PathBuf) -> Capture {
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        Capture::of(name, dir.join("capture"), dir, None)
    }

    fn of(
        name: String,
        stem: PathBuf,
        dir: PathBuf,
        unpacked: Option<tempfile::TempDir>,
    ) -> Capture {
        let env = std::fs::read_to_string(format!("{}.env", stem.display())).unwrap();
        let env =
            env.lines().flat_map(|line| line.split(' ')).filter_map(|word| word.split_once('='));
        let env = env.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        Capture { name, stem, dir, _unpacked: unpacked, env }
    }

    pub(crate) fn base(&self) -> PathBuf {
        self.dir.join("base")
    }

    pub(crate) fn wal(&self) -> PathBuf {
        self.dir.join("wal")
    }

    pub(crate) fn env(&self, key: &str) -> &str {
        &self.env[key]
    }

    /// Where decoding starts.
    pub(crate) fn start(&self) -> Lsn {
        self.env("A_checkpoint").parse().unwrap()
    }

    pub(crate) fn control(&self) -> ControlFile {
        ControlFile::read(&RealStorage, &self.base()).unwrap()
    }

    /// The Lsns up to which PostgreSQL itself has recovered it.
    pub(crate) fn manifest_lsns(&self) -> Vec<Lsn> {
        let name = self.stem.file_name().unwrap().to_string_lossy().into_owned();
        let names = std::fs::read_dir(self.stem.parent().unwrap()).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let lsn = |file: String| {
            let lsn = file.strip_prefix(&name)?.strip_prefix('@')?;
            let lsn = lsn.strip_suffix(".zst").unwrap_or(lsn);
            let lsn = lsn.strip_suffix(".manifest.tsv")?.replace('_', "/");
            Some(lsn.parse().unwrap())
        };
        names.filter_map(lsn).collect()
    }

    pub(crate) fn reader(&self) -> WalReader {
        let system_id = Some(self.control().system_id);
        WalReader::open(storage(), &self.wal(), self.start(), None, system_id).unwrap()
    }

    /// The lines of a text beside the archive, which is packed or, where `captures/make.sh` made
    /// it, plain; none if there is no such text.
    pub(crate) fn lines(&self, suffix: &str) -> Option<impl Iterator<Item = String> + use<>> {
        let path = PathBuf::from(format!("{}{suffix}", self.stem.display()));
        let plain = path.with_extension("");
        let text: Box<dyn Read> = match (path.exists(), plain.exists()) {
            (true, _) => Box::new(open_zstd(&path)),
            (false, true) => Box::new(File::open(&plain).unwrap()),
            (false, false) => return None,
        };
        Some(BufReader::new(text).lines().map(Result::unwrap))
    }
}
