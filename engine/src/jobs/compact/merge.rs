//! The versions of several layer files in order of key and Lsn, streamed.
//!
//! Memory: a heap entry for each file, and of the files that the merge has come to one block each
//! where they are not mapped or are compressed. It does not grow with what the files hold.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc};

use pagestrata_layers::{
    Key, Lsn, PageVersion,
    layer_file::{Scan, Tombstone},
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
        }
    }

    /// Gives all versions to `take`, keys ascending, each key's versions oldest first; beside a
    /// delta the page that it leads to, where a file has one. What two files have at the same key
    /// and Lsn is given once.
    ///
    /// # Errors
    /// The first that a file or `take` answers.
    pub(super) fn for_each(
        mut self,
        mut take: impl FnMut(Key, PageVersion<'_>, Option<&[u8]>) -> Result<()>,
    ) -> Result<()> {
        let mut last = None;
        while let Some(Reverse((key, lsn, at))) = self.next.pop() {
            let file = &self.files[at];
            let Some(scan) = &mut self.scans[at] else {
                let mut scan = file.noted(file.scan(key))?;
                file.noted(scan.advance())?;
                self.next.extend(scan.position().map(|(key, lsn)| Reverse((key, lsn, at))));
                self.scans[at] = Some(scan);
                continue;
            };
            let page = file.noted(scan.page_behind())?;
            if last != Some((key, lsn)) {
                let (current, version) = scan.current().expect("it is queued where it stands");
                debug_assert!(current == key && version.lsn == lsn && last < Some((key, lsn)));
                take(key, version, page)?;
                last = Some((key, lsn));
            }
            let steps = 1 + usize::from(page.is_some());
            for _ in 0..steps {
                file.noted(scan.advance())?;
            }
            match scan.position() {
                Some((key, lsn)) => self.next.push(Reverse((key, lsn, at))),
                None => self.scans[at] = None,
            }
        }
        Ok(())
    }
}

/// The tombstones of all files, in order and each once.
pub(super) fn tombstones_of(files: &[Arc<FileLayer>]) -> Result<Vec<Tombstone>> {
    let mut all = Vec::new();
    for file in files {
        for tombstone in file.tombstones() {
            reserve(&mut all, 1, "the tombstones of a merge")?;
            all.push(file.noted(tombstone)?);
        }
    }
    all.sort_unstable();
    all.dedup();
    Ok(all)
}
