//! Opens a manifest, and appends to one that was opened.

use std::path::{Path, PathBuf};

use pagestrata::testing::{SimulatedStorage, none_kept};
use pagestrata_layers::{
    Error,
    manifest::{
        Manifest, ManifestReport,
        edit::{Edit, State},
    },
};

use crate::{allocations, edits::fold};

pub const DIR: &str = "store";
/// Allowance above what any file justifies.
const ALLOCATION_OVERHEAD_BYTES: usize = 1 << 20;
/// The shortest edit, in bytes.
const EDIT_LEN_MIN: usize = 5;

pub type Opened = Result<Option<(Manifest, ManifestReport)>, Error>;

pub fn in_dir(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

pub fn manifest_name(number: u64) -> String {
    format!("MANIFEST-{number:08}")
}

/// Opens it with a bound on single allocations: a list with twice the room for the shortest edits
/// that the longest file can hold. An error must name a file and a place in it.
pub fn open(storage: &SimulatedStorage) -> Opened {
    let files = storage.files();
    let longest = files.values().map(Vec::len).max().unwrap_or(0);
    let edits = 2 * longest.div_ceil(EDIT_LEN_MIN) * size_of::<Edit>();
    let opened = allocations::bounded(edits + ALLOCATION_OVERHEAD_BYTES, || {
        Manifest::open(storage.shared(), Path::new(DIR))
    });
    match &opened {
        Ok(_) => {}
        Err(Error::Corrupt(corruption)) => {
            let len = files.get(&corruption.path).map_or(0, Vec::len);
            assert!(
                corruption.path.starts_with(DIR) && corruption.offset <= len as u64,
                "{corruption}"
            );
        }
        Err(Error::UnsupportedVersion { path, .. }) => assert!(path.starts_with(DIR)),
        Err(error) => panic!("{error}"),
    }
    opened
}

/// Appends another edit, which must survive a power loss.
pub fn append_one_more(storage: &SimulatedStorage, mut manifest: Manifest, may_refuse: bool) {
    let before: State = manifest.state().clone();
    let edit =
        [Edit::LogStart(u32::MAX), Edit::NextSequence(before.next_sequence.saturating_add(1))];
    let expected = fold(before.clone(), &edit).expect("it can follow any state");
    if let Err(error) = manifest.append(&edit) {
        assert!(may_refuse, "{error}");
        assert_eq!(manifest.state(), &before);
        return;
    }
    assert_eq!(manifest.state(), &expected);
    drop(manifest);
    let storage = storage.crash(&mut none_kept);
    let (manifest, report) = open(&storage).unwrap().expect("it was there");
    assert_eq!((manifest.state(), report.cut_bytes), (&expected, 0));
}
