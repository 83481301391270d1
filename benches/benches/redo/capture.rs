//! A real log and the base that it goes on from, and the chains of versions that they make.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
};

use pagestrata::{Key, Kind, Lsn, PageVersion, Value};
use pagestrata_benches::stores::Place;
use pagestrata_postgres::{
    BaseBackup, Error, PAGE_SIZE, PageRedo, PageVersions, Record, RedoSettings, WalReader,
};
use pagestrata_postgres_ingest::{sample, storage};
use tempfile::TempDir;

/// A capture, unpacked.
pub(crate) struct Capture {
    pub(crate) name: String,
    dir: TempDir,
}

impl Capture {
    /// One of those in `PAGESTRATA_CAPTURES`, or the sample.
    pub(crate) fn open(name: &str) -> Capture {
        let dir = Place::Disk.dir();
        match std::env::var_os("PAGESTRATA_CAPTURES") {
            Some(captures) => {
                let path = PathBuf::from(captures).join(format!("pgbench/{name}.tar.zst"));
                let archive = File::open(&path).expect("a capture");
                sample::unpack_archive(archive, dir.path()).expect("a sound capture");
                Capture { name: name.to_owned(), dir }
            }
            None => {
                sample::unpack(dir.path()).expect("the sample is sound");
                Capture { name: "sample".to_owned(), dir }
            }
        }
    }

    pub(crate) fn base(&self) -> BaseBackup {
        BaseBackup::open(storage(), &self.dir.path().join("base")).expect("a sound base")
    }

    pub(crate) fn wal(&self) -> PathBuf {
        self.dir.path().join("wal")
    }

    /// A directory for a store beside it.
    pub(crate) fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn redo(&self) -> PageRedo {
        let base = self.base();
        let control = base.control();
        PageRedo::new(RedoSettings { logs_hints: control.data_checksums || control.wal_log_hints })
    }

    /// Gives `visit` each record in order; how many bytes of log that was.
    pub(crate) fn records(&self, mut visit: impl FnMut(&Record<'_>)) -> u64 {
        let from = self.base().control().checkpoint;
        let mut reader =
            WalReader::open(storage(), &self.wal(), from, None, None).expect("a sound log");
        while let Some(record) = reader.next_record().expect("a sound log") {
            visit(&record);
        }
        reader.position().0 - from.0
    }

    /// All chains of its pages, as an ingest would put them.
    pub(crate) fn chains(&self) -> Chains {
        let mut chains = Chains::default();
        let mut of_page: BTreeMap<Key, usize> = BTreeMap::new();
        let base = self.base();
        let mut pages = base.pages();
        while let Some((key, page)) = pages.next_page().expect("a sound base") {
            let base = Some(chains.keep(page));
            of_page.insert(key, chains.chains.len());
            chains.chains.push(Chain { key, base, deltas: Vec::new() });
        }
        let mut versions = PageVersions::new();
        self.records(|record| {
            let lsn = record.end();
            let mut put = |key: Key, value: Value<'_>| {
                let bytes = chains.keep(value.bytes());
                let goes_on = match value.kind() {
                    Kind::Delta { will_init: false } => of_page.get(&key),
                    _ => None,
                };
                match (goes_on, value) {
                    (Some(chain), _) => chains.chains[*chain].deltas.push((lsn, bytes)),
                    (None, value) => {
                        of_page.insert(key, chains.chains.len());
                        let (base, deltas) = match value {
                            Value::Image(_) => (Some(bytes), Vec::new()),
                            Value::Delta { .. } => (None, vec![(lsn, bytes)]),
                        };
                        chains.chains.push(Chain { key, base, deltas });
                    }
                }
                Ok::<_, Error>(())
            };
            versions.versions(record, &mut put).expect("sound records");
            versions.implied(record, &mut put).expect("sound records");
        });
        chains.chains.retain(|chain| !chain.deltas.is_empty());
        chains.packed()
    }
}

type Place32 = (u32, u32);

/// Versions from a base on, without another base.
#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) key: Key,
    base: Option<Place32>,
    deltas: Vec<(Lsn, Place32)>,
}

impl Chain {
    /// How many deltas.
    pub(crate) fn len(&self) -> usize {
        self.deltas.len()
    }

    /// The Lsn of a delta, counted from zero.
    pub(crate) fn lsn(&self, index: usize) -> Lsn {
        self.deltas[index].0
    }
}

/// Chains, and the bytes of all their versions.
#[derive(Debug, Default)]
pub(crate) struct Chains {
    bytes: Vec<u8>,
    pub(crate) chains: Vec<Chain>,
}

impl Chains {
    fn keep(&mut self, bytes: &[u8]) -> Place32 {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        (u32::try_from(start).expect("less than 4 GiB"), bytes.len() as u32)
    }

    /// With the versions of a chain together, as layer files have them.
    fn packed(self) -> Chains {
        let mut packed = Chains::default();
        for Chain { key, base, deltas } in &self.chains {
            let base = base.map(|base| packed.keep(self.at(base)));
            let deltas = deltas.iter().map(|&(lsn, place)| (lsn, packed.keep(self.at(place))));
            let deltas = deltas.collect();
            packed.chains.push(Chain { key: *key, base, deltas });
        }
        packed
    }

    fn at(&self, (start, len): Place32) -> &[u8] {
        &self.bytes[start as usize..][..len as usize]
    }

    pub(crate) fn base<'a>(&'a self, chain: &Chain) -> Option<&'a [u8]> {
        chain.base.map(|base| self.at(base))
    }

    /// What redo of all chains begins with.
    pub(crate) fn copy_base(&self, chain: &Chain, page: &mut Vec<u8>) {
        page.clear();
        match self.base(chain) {
            Some(base) => page.extend_from_slice(base),
            None => page.resize(PAGE_SIZE, 0),
        }
    }

    pub(crate) fn deltas<'a>(
        &'a self,
        chain: &'a Chain,
    ) -> impl Iterator<Item = PageVersion<'a>> + 'a {
        let kind = Kind::Delta { will_init: false };
        let version = move |&(lsn, place)| PageVersion { lsn, kind, bytes: self.at(place) };
        chain.deltas.iter().map(version)
    }
}
