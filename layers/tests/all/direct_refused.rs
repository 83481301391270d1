//! A file system that opens files for direct I/O and then refuses to read them: they are read
//! through the page cache, by all threads that were refused, and the statistics say so. Only direct
//! I/O falls back.

use std::{
    io::{self, IoSlice},
    path::Path,
    sync::{Arc, Barrier},
    thread,
};

use pagestrata_layers::{
    Error, Key, KeyRange, Lsn, Result, ScratchArena, Value,
    layer_file::{
        AccessMode, AccessOptions, LayerAccess, LayerFile, LayerId, LayerKind, LayerWriter,
        WriterOptions,
    },
    storage::{File, FileMap, Lock, SharedStorage, Storage},
    testing::{Failure, Fault, SimulatedStorage},
};

const PATH: &str = "layer";
const ID: LayerId = LayerId { store: 1, timeline: 2, sequence: 3 };
const PAGES: u32 = 200;
/// As many reads are refused at the same time.
const READERS: usize = 2;

/// Opens for direct I/O what it does not read so.
#[derive(Debug)]
struct Refusing {
    plain: SimulatedStorage,
    together: Arc<Barrier>,
}

#[derive(Debug)]
struct Refused {
    plain: Box<dyn File>,
    together: Arc<Barrier>,
}

impl Storage for Refusing {
    fn anchored(&self, dir: &Path) -> Result<SharedStorage> {
        self.plain.anchored(dir)
    }

    fn open_direct(&self, path: &Path) -> Result<Option<Box<dyn File>>> {
        let together = self.together.clone();
        Ok(Some(Box::new(Refused { plain: self.plain.open(path)?, together })))
    }

    fn create(&self, path: &Path) -> Result<Box<dyn File>> {
        self.plain.create(path)
    }

    fn open(&self, path: &Path) -> Result<Box<dyn File>> {
        self.plain.open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.plain.rename(from, to)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.plain.remove(path)
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>> {
        self.plain.list(dir)
    }

    fn create_dir(&self, dir: &Path) -> Result<()> {
        self.plain.create_dir(dir)
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        self.plain.exists(path)
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        self.plain.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> Result<Option<Box<dyn Lock>>> {
        self.plain.lock(path)
    }
}

impl File for Refused {
    fn read_at(&self, _: u64, _: &mut [u8]) -> Result<()> {
        self.together.wait();
        Err(Error::io("read", self.path(), io::ErrorKind::InvalidInput.into()))
    }

    fn path(&self) -> &Path {
        self.plain.path()
    }

    fn len(&self) -> Result<u64> {
        self.plain.len()
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.plain.append(bytes)
    }

    fn write_at(&mut self, offset: u64, parts: &[IoSlice<'_>]) -> Result<()> {
        self.plain.write_at(offset, parts)
    }

    fn truncate(&mut self, len: u64) -> Result<()> {
        self.plain.truncate(len)
    }

    fn sync(&self) -> Result<()> {
        self.plain.sync()
    }

    fn map(&self) -> Result<FileMap> {
        self.plain.map()
    }
}

fn page(block: u32) -> Vec<u8> {
    vec![block as u8; 4000]
}

fn written(storage: &dyn Storage) {
    let path = Path::new(PATH);
    let kind = LayerKind::Image { complete: true };
    let mut writer =
        LayerWriter::create(storage, path, ID, kind, WriterOptions::default()).unwrap();
    for block in 0..PAGES {
        writer.put(Key::new(1, block), Lsn(5), Value::Image(&page(block))).unwrap();
    }
    writer.finish(KeyRange::ALL, Lsn(5)..Lsn(6), &[]).unwrap();
}

fn read(file: &LayerFile, block: u32) -> Result<Vec<u8>> {
    let (space, mut found) = (ScratchArena::default(), Vec::new());
    file.versions(Key::new(1, block), Lsn(5), Lsn(0), &space, &mut |version| {
        found = version.bytes.to_vec();
    })?;
    Ok(found)
}

fn access_of(storage: SharedStorage, mode: AccessMode) -> Arc<LayerAccess> {
    LayerAccess::new(storage, AccessOptions { mode, ..AccessOptions::default() })
}

#[test]
fn all_who_are_refused_at_once_read_without_it() {
    let plain = SimulatedStorage::new();
    written(&plain);
    // Opening reads one by one.
    let (alone, together) = (Arc::new(Barrier::new(1)), Arc::new(Barrier::new(READERS)));
    let refusing = |together| Arc::new(Refusing { plain: plain.clone(), together });
    let access = access_of(refusing(alone), AccessMode::Direct);
    let file = access.open(Path::new(PATH), None).unwrap();
    assert!(access.stats().direct_refused);
    assert_eq!(read(&file, 7).unwrap(), page(7));

    // Two files, each opened by a thread of its own: both wait for each other's first read, and for
    // every refused one after it.
    let access = access_of(refusing(together), AccessMode::Direct);
    thread::scope(|scope| {
        for reader in 0..READERS as u32 {
            let access = &access;
            scope.spawn(move || {
                let file = access.open(Path::new(PATH), None).unwrap();
                for block in (reader..PAGES).step_by(READERS) {
                    assert_eq!(read(&file, block).unwrap(), page(block));
                }
            });
        }
    });
    assert!(access.stats().direct_refused);
}

#[test]
fn nothing_but_direct_reads_fall_back() {
    let storage = SimulatedStorage::new();
    written(&storage);
    let access = access_of(storage.shared(), AccessMode::Pread);
    let file = access.open(Path::new(PATH), None).unwrap();
    let failure = Failure::Kind(io::ErrorKind::InvalidInput);
    let fault = Fault { call: storage.calls(), for_good: true, failure, ..Fault::default() };
    storage.set_fault(Some(fault));
    assert!(matches!(read(&file, 7), Err(Error::Io { .. })));
    assert!(!access.stats().direct_refused);
    storage.set_fault(None);
    assert_eq!(read(&file, 7).unwrap(), page(7));
}
