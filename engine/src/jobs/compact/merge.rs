//! The versions of several layer files in order of key and Lsn, streamed.
//!
//! Memory: a heap entry for each file, and of the files that the merge has come to one block each
//! where they are not mapped or are compressed. It does not grow with what the files hold.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc};

use pagestrata_layers::{
    Error as LayersError, Key, Lsn, PageVersion, Result as LayersResult,
    layer_file::{LayerSummary, Scan, Tombstone},
    reserve,
};

use crate::{error::Result, layer_map::file_layers::FileLayer};

/// Layer files that are read in order; see [`Merge::for_each`].
pub(super) struct Merge<'f> {
    files: &'f [Arc<FileLayer>],
    /// By file: where it is read. None: the merge has not come to its keys yet, or is past them.
    scans: Vec<Option<Scan<'f>>>,
    /// The next version of each file; of one that was not begun, where it may begin.
    next: BinaryHeap<Reverse<(Key, Lsn, usize)>>,
    /// The file that could not be read.
    failed: Option<usize>,
}

impl<'f> Merge<'f> {
    pub(super) fn new(files: &'f [Arc<FileLayer>]) -> Merge<'f> {
        let start = |(at, file): (usize, &Arc<FileLayer>)| {
            Reverse((file.summary().key_range.start, Lsn::INVALID, at))
        };
        Merge {
            files,
            scans: files.iter().map(|_| None).collect(),
            next: files.iter().enumerate().map(start).collect(),
            failed: None,
        }
    }

    /// Gives all versions to `take`, keys ascending, each key's versions oldest first; beside a
    /// delta the page that it leads to, where a file has one. What two files have at the same key
    /// and Lsn is given once.
    ///
    /// # Errors
    /// The first that a file or `take` answers.
    pub(super) fn for_each(
        &mut self,
        mut take: impl FnMut(Key, PageVersion<'_>, Option<&[u8]>) -> Result<()>,
    ) -> Result<()> {
        let mut last = None;
        while let Some(Reverse((key, lsn, at))) = self.next.pop() {
            let file = &self.files[at];
            let Some(scan) = &mut self.scans[at] else {
                let begun = file.noted(file.scan(key)).and_then(|mut scan| {
                    file.noted(scan.advance())?;
                    check_position(file, &scan)?;
                    Ok(scan)
                });
                let scan = begun.inspect_err(|_| self.failed = Some(at))?;
                self.next.extend(scan.position().map(|(key, lsn)| Reverse((key, lsn, at))));
                self.scans[at] = Some(scan);
                continue;
            };
            let page = file.noted(scan.page_behind());
            let page = page.inspect_err(|_| self.failed = Some(at))?;
            if last != Some((key, lsn)) {
                let (current, version) = scan.current().expect("it is queued where it stands");
                debug_assert!(current == key && version.lsn == lsn && last < Some((key, lsn)));
                take(key, version, page)?;
                last = Some((key, lsn));
            }
            let steps = 1 + usize::from(page.is_some());
            for _ in 0..steps {
                let advanced = file.noted(scan.advance());
                advanced
                    .and_then(|_| check_position(file, scan))
                    .inspect_err(|_| self.failed = Some(at))?;
            }
            match scan.position() {
                Some((key, lsn)) => self.next.push(Reverse((key, lsn, at))),
                None => self.scans[at] = None,
            }
        }
        Ok(())
    }
}

impl Merge<'_> {
    /// The sequence number of the file that could not be read, if that was it.
    pub(super) fn unreadable(&self) -> Option<u64> {
        Some(self.files[self.failed?].sequence())
    }
}

/// A file is what its footer says, or it is damaged.
fn check_position(file: &FileLayer, scan: &Scan<'_>) -> LayersResult<()> {
    let Some((key, lsn)) = scan.position() else { return Ok(()) };
    let LayerSummary { key_range, lsn_range, .. } = file.summary();
    if key_range.contains(key) && lsn_range.contains(&lsn) {
        return Ok(());
    }
    let expected = format_args!("versions in {key_range} and {lsn_range:?}");
    let found = format_args!("{key} at {lsn}");
    Err(LayersError::corrupt(file.path(), 0, "layer file", expected, found))
}

/// The tombstones of all files, in order and each once. `unreadable`: the sequence number of the
/// file that could not be read.
pub(super) fn tombstones_of(
    files: &[Arc<FileLayer>],
    unreadable: &mut Option<u64>,
) -> Result<Vec<Tombstone>> {
    let mut all = Vec::new();
    for file in files {
        for tombstone in file.tombstones() {
            let tombstone = file.noted(tombstone).and_then(|tombstone| {
                let lsns = &file.summary().lsn_range;
                if lsns.contains(&tombstone.lsn) {
                    return Ok(tombstone);
                }
                let expected = format_args!("tombstones in {lsns:?}");
                Err(LayersError::corrupt(file.path(), 0, "layer file", expected, tombstone.lsn))
            });
            let sequence = file.sequence();
            let tombstone = tombstone.inspect_err(|_| *unreadable = Some(sequence))?;
            reserve(&mut all, 1, "the tombstones of a merge")?;
            all.push(tombstone);
        }
    }
    all.sort_unstable();
    all.dedup();
    Ok(all)
}
