//! What opening a manifest allocates, whatever its length.

use std::{fs, path::Path, sync::Arc};

use pagestrata_layers::{
    Error, Lsn,
    manifest::{
        CURRENT_NAME, Manifest, ManifestReport,
        edit::{Edit, State},
    },
    storage::RealStorage,
};

use crate::layer_memory::peak_of;

/// The length of a manifest that is mostly a hole.
const LEN: u64 = 3 << 30;
const MEMORY_MAX: usize = 1 << 20;
/// Where CURRENT has the committed length, and its own checksum.
const COMMITTED: usize = 40;
const CHECKSUM: usize = 60;

/// A small store's manifest; its state and its path.
fn written(dir: &Path) -> (State, std::path::PathBuf) {
    let mut manifest = Manifest::create(Arc::new(RealStorage), dir, 7).unwrap();
    for timeline in 1..10 {
        let (name, start) = (format!("t{timeline}"), Lsn(16));
        manifest.append(&[Edit::CreateTimeline { timeline, name, start }]).unwrap();
    }
    (manifest.state().clone(), dir.join("MANIFEST-00000001"))
}

/// Opens it, in little memory.
fn opened(dir: &Path) -> Result<(State, ManifestReport), Error> {
    let mut opened = None;
    let peak = peak_of(|| {
        let found = Manifest::open(Arc::new(RealStorage), dir);
        opened = Some(found.map(|found| {
            let (manifest, report) = found.expect("a store");
            (manifest.state().clone(), report)
        }));
    });
    assert!(peak < MEMORY_MAX, "{peak} bytes");
    opened.expect("done")
}

#[test]
fn a_manifest_of_gigabytes_is_not_read_into_memory() {
    let dir = tempfile::tempdir().unwrap();
    let (state, path) = written(dir.path());
    let file = fs::File::options().write(true).open(&path).unwrap();
    let committed = file.metadata().unwrap().len();
    file.set_len(LEN).unwrap();
    // Behind the committed length there may be anything.
    let (found, report) = opened(dir.path()).unwrap();
    assert_eq!((found, report.cut_bytes), (state, LEN - committed));
    // All of it is committed, says CURRENT.
    let current = dir.path().join(CURRENT_NAME);
    let mut bytes = fs::read(&current).unwrap();
    bytes[COMMITTED..COMMITTED + 8].copy_from_slice(&LEN.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..CHECKSUM]);
    bytes[CHECKSUM..].copy_from_slice(&crc.to_le_bytes());
    fs::write(&current, bytes).unwrap();
    match opened(dir.path()) {
        Err(Error::Corrupt(found)) => {
            assert_eq!((found.path, found.offset), (path, committed));
        }
        other => panic!("{other:?}"),
    }
}
