//! Where captures are, and what is in them.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use pagestrata_layers::{
    Lsn,
    storage::{RealStorage, SharedStorage},
};
use pagestrata_postgres::{ControlFile, WalReader};

/// The real file system.
pub(crate) fn storage() -> SharedStorage {
    Arc::new(RealStorage)
}

/// A capture, unpacked as far as the tests need it.
pub(crate) struct Capture {
    pub(crate) name: &'static str,
    /// Files beside the archive start with this.
    stem: PathBuf,
    unpacked: tempfile::TempDir,
    env: HashMap<String, String>,
}

const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/sample");
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

/// The sample alone, for tests that damage it.
pub(crate) fn sample() -> &'static Capture {
    &all()[0]
}

fn open_zstd(path: &Path) -> impl std::io::Read + use<> {
    let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut decoder = zstd::Decoder::new(file).unwrap();
    decoder.window_log_max(27).unwrap();
    decoder
}

impl Capture {
    fn unpack(name: &'static str, stem: PathBuf) -> Capture {
        let unpacked = tempfile::tempdir().unwrap();
        let beside = |suffix: &str| PathBuf::from(format!("{}{suffix}", stem.display()));
        let mut archive = tar::Archive::new(open_zstd(&beside(".tar.zst")));
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().into_owned();
            let path = path.strip_prefix(".").unwrap_or(&path);
            if path.starts_with("base") || path.starts_with("wal") {
                entry.unpack_in(unpacked.path()).unwrap();
            }
        }
        let env = std::fs::read_to_string(beside(".env")).unwrap();
        let env =
            env.lines().flat_map(|line| line.split(' ')).filter_map(|word| word.split_once('='));
        let env = env.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        Capture { name, stem, unpacked, env }
    }

    pub(crate) fn base(&self) -> PathBuf {
        self.unpacked.path().join("base")
    }

    pub(crate) fn wal(&self) -> PathBuf {
        self.unpacked.path().join("wal")
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

    pub(crate) fn reader(&self) -> WalReader {
        let system_id = Some(self.control().system_id);
        WalReader::open(storage(), &self.wal(), self.start(), None, system_id).unwrap()
    }

    /// The lines of a packed text beside the archive; none if there is no such text.
    pub(crate) fn lines(&self, suffix: &str) -> Option<impl Iterator<Item = String> + use<>> {
        let path = PathBuf::from(format!("{}{suffix}", self.stem.display()));
        path.exists().then(|| BufReader::new(open_zstd(&path)).lines().map(Result::unwrap))
    }
}
