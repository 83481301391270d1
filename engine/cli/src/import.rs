//! Import: the pages of a cold base backup become images at the Lsn of its checkpoint, and beside them the sizes of its forks.

use std::{fmt, path::Path};

use pagestrata::{Lsn, Store, Timeline};
use pagestrata_postgres::{BaseBackup, PAGE_SIZE};
use serde::Serialize;

use crate::{
    Error, Progress, Result,
    identity::{IDENTITY_KEY, Identity},
    output::{as_text, size},
    sizes::{size_key, size_value},
    stores::{options, storage},
};

/// What an import did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ImportReport {
    /// The timeline.
    pub timeline: String,
    /// The cluster's system identifier.
    pub system_id: u64,
    /// The timeline of the cluster's log.
    pub wal_timeline: u32,
    /// The Lsn of the checkpoint: the images are at it, and the log goes on from it.
    #[serde(serialize_with = "as_text")]
    pub lsn: Lsn,
    /// Number of pages.
    pub pages: u64,
    /// Their bytes.
    pub page_bytes: u64,
    /// Number of image layers.
    pub layers: u64,
    /// Bytes of their files.
    pub layer_bytes: u64,
}

impl fmt::Display for ImportReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ImportReport {
            timeline, system_id, lsn, pages, page_bytes, layers, layer_bytes, ..
        } = self;
        write!(
            f,
            "imported {pages} pages ({}) of cluster {system_id} at {lsn} into timeline {timeline:?}: \
             {layers} image layers, {}",
            size(*page_bytes),
            size(*layer_bytes)
        )
    }
}

/// Opens a base backup whose pages are those of its checkpoint.
///
/// # Errors
/// [`Error::NotShutDown`], and what is wrong with its files.
pub fn open_base(dir: &Path) -> Result<BaseBackup> {
    let base = BaseBackup::open(storage(), dir)?;
    if !base.control().shut_down {
        return Err(Error::NotShutDown { dir: dir.to_owned() });
    }
    Ok(base)
}

/// Opens or creates the store and imports a base into a timeline of it, which is created unless it is there and empty.
///
/// # Errors
/// What is wrong with the base or the store; [`Error::Imported`], [`Error::NoBase`] for a timeline that holds something.
pub fn import(store: &Path, timeline: &str, base: &BaseBackup) -> Result<(Store, ImportReport)> {
    let checkpoint = base.control().checkpoint;
    let (store, _) = Store::open(store, options())?;
    let timeline = match store.timeline(timeline) {
        Ok(timeline) => timeline,
        Err(pagestrata::Error::NoTimeline { .. }) => store.create_timeline(timeline, checkpoint)?,
        Err(other) => return Err(other.into()),
    };
    check_empty(&timeline)?;
    let report = import_pages(&timeline, base)?;
    Ok((store, report))
}

/// An import that was interrupted leaves a timeline without a page; only such a one may be there.
fn check_empty(timeline: &Timeline) -> Result<()> {
    if let Some(Identity { system_id, .. }) = Identity::read(timeline)? {
        return Err(Error::Imported { timeline: timeline.name().to_owned(), system_id });
    }
    if timeline.stats().layer_files > 0 || timeline.last_record_lsn() > timeline.start_lsn() {
        return Err(Error::NoBase { timeline: timeline.name().to_owned() });
    }
    Ok(())
}

fn import_pages(timeline: &Timeline, base: &BaseBackup) -> Result<ImportReport> {
    let control = base.control();
    let identity = Identity::of(control);
    let blocks: u64 = base.files().iter().map(|file| u64::from(file.blocks)).sum();
    let mut progress = Progress::of("importing", blocks * PAGE_SIZE as u64);
    let mut lease = timeline.write_lease()?;
    let mut import = lease.import_images(control.checkpoint)?;
    let (mut pages, mut count) = (base.pages(), 0_u64);
    while let Some((key, page)) = pages.next_page()? {
        import.put(key, page)?;
        count += 1;
        progress.at(count * PAGE_SIZE as u64);
    }
    for (rel, blocks) in base.forks() {
        import.put(size_key(rel), &size_value(blocks))?;
    }
    import.put(IDENTITY_KEY, &identity.to_bytes())?;
    let done = import.finish()?;
    Ok(ImportReport {
        timeline: timeline.name().to_owned(),
        system_id: control.system_id,
        wal_timeline: control.timeline,
        lsn: control.checkpoint,
        pages: count,
        page_bytes: count * PAGE_SIZE as u64,
        layers: done.layers,
        layer_bytes: done.file_bytes,
    })
}
