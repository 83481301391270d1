//! Layer files for tools: listed, and verified byte by byte.

use std::path::Path;

use pagestrata_layers::{
    Error as LayersError, Result as LayersResult,
    commit_record::{CommitPart, Mismatch},
    layer_file::{LayerFile, LayerSummary, VerifyReport as LayerVerifyReport},
    manifest::edit::State,
    storage::{SharedStorage, Storage},
};
use pagestrata_wal::{Record, Replay};

use crate::{
    error::{Error, Result},
    layer_map::file_names::layer_file_name,
    reports::{DamagedFile, LayerInfo, VerifyReport},
    state::{log::LOG_NAME, store::timeline_dir},
    store::{
        Store, no_timeline,
        open::{ClosedStore, lock_and_read},
        timeline::Timeline,
    },
};

/// A running verification: it continues after damage.
#[derive(Default)]
struct Verifier {
    report: VerifyReport,
    damaged: Vec<DamagedFile>,
}

impl Verifier {
    /// Adds the result of one file: its length and what is in it.
    fn add(&mut self, path: &Path, verified: LayersResult<(u64, LayerVerifyReport)>) {
        self.report.layer_files += 1;
        match verified {
            Ok((file_len, found)) => {
                self.report.file_bytes += file_len;
                self.report.versions += found.versions;
                self.report.tombstones += found.tombstones;
            }
            Err(error) => self.damaged.push(DamagedFile { path: path.to_owned(), error }),
        }
    }

    fn open_and_add(
        &mut self,
        storage: &dyn Storage,
        path: &Path,
        expected: Option<&LayerSummary>,
    ) {
        let opened = LayerFile::open(storage, path, expected);
        self.add(path, opened.and_then(|file| Ok((file.summary().file_len, file.verify()?))));
    }

    /// Reads the log up to the first damage. What follows the damage is unknown.
    fn add_log(&mut self, storage: &SharedStorage, dir: &Path, id: u128, state: &State) {
        let log = dir.join(LOG_NAME);
        let known = |record: &Record<'_>| {
            let corrupt = |(expected, found): Mismatch| {
                LayersError::corrupt(record.path, record.offset, "log record", expected, found)
            };
            if !state.timelines.contains_key(&record.stream) {
                return Err(corrupt(("a timeline".to_owned(), record.stream.to_string())));
            }
            let part = CommitPart::decode(record.payload).map_err(corrupt)?;
            part.entries().try_for_each(|entry| entry.map(drop)).map_err(corrupt)
        };
        let replay = Replay::open(storage.clone(), &log, id, state.log_start);
        match replay.and_then(|replay| replay.check(&mut |record| known(&record))) {
            Ok(read) => {
                (self.report.log_records, self.report.log_bytes) = (read.records, read.bytes)
            }
            Err(error) => {
                let path = match &error {
                    LayersError::Corrupt(damage) => damage.path.clone(),
                    _ => log,
                };
                self.damaged.push(DamagedFile { path, error });
            }
        }
    }

    fn finish(self) -> Result<VerifyReport> {
        let Verifier { report, damaged } = self;
        if damaged.is_empty() { Ok(report) } else { Err(Error::Damaged { report, damaged }) }
    }
}

/// Verifies given layer files, as [`Timeline::verify`] does. Calls `progress` after each file.
///
/// # Errors
/// [`Error::Damaged`] with every file that is damaged or cannot be read.
pub fn verify_files(
    storage: &SharedStorage,
    files: impl IntoIterator<Item = impl AsRef<Path>>,
    progress: &mut dyn FnMut(&VerifyReport),
) -> Result<VerifyReport> {
    let mut verifying = Verifier::default();
    for path in files {
        verifying.open_and_add(&**storage, path.as_ref(), None);
        progress(&verifying.report);
    }
    verifying.finish()
}

impl Store {
    /// Verifies a store that is not open: the layer files of one timeline, or of all and the log.
    /// As [`Timeline::verify`], but also for files whose damage keeps the store from being opened.
    /// Calls `progress` after each file. Changes nothing.
    ///
    /// # Errors
    /// [`Error::Damaged`] with every file that is damaged or missing; [`Error::NoTimeline`]; those
    /// of [`Store::open`] if there is no store, it is in use, or its manifest is damaged.
    pub fn verify(
        storage: &SharedStorage,
        path: impl AsRef<Path>,
        timeline: Option<&str>,
        progress: &mut dyn FnMut(&VerifyReport),
    ) -> Result<VerifyReport> {
        let dir = path.as_ref();
        let existing = lock_and_read(storage, dir)?;
        let ClosedStore { storage, id, state, .. } = &existing;
        if let Some(name) = timeline
            && !state.timelines.values().any(|timeline| timeline.name == name)
        {
            return Err(no_timeline(
                name,
                state.timelines.values().map(|timeline| &*timeline.name),
            ));
        }
        let mut verifying = Verifier::default();
        for (number, of) in &state.timelines {
            if timeline.is_some_and(|name| of.name != name) {
                continue;
            }
            let dir = timeline_dir(dir, *number);
            for record in of.layers.values() {
                let path = dir.join(layer_file_name(record));
                verifying.open_and_add(&**storage, &path, Some(&record.summary));
                progress(&verifying.report);
            }
        }
        if timeline.is_none() {
            verifying.add_log(storage, dir, *id, state);
        }
        verifying.finish()
    }
}

impl Timeline {
    /// Lists its layer files, ordered by Lsns and then by keys.
    #[must_use]
    pub fn layers(&self) -> Vec<LayerInfo> {
        let map = self.0.look();
        let mut layers: Vec<_> = map
            .files
            .iter()
            .map(|file| {
                let summary = file.summary().clone();
                LayerInfo {
                    path: file.path().to_owned(),
                    level: file.record().level,
                    kind: summary.kind,
                    key_range: summary.key_range,
                    lsn_range: summary.lsn_range,
                    file_bytes: summary.file_len,
                    digest: summary.digest,
                    keys: summary.keys,
                    versions: summary.versions,
                    value_bytes: summary.value_bytes,
                    tombstones: summary.tombstones,
                }
            })
            .collect();
        layers.sort_by(|a, b| {
            (a.lsn_range.start, a.key_range.start, &a.path).cmp(&(
                b.lsn_range.start,
                b.key_range.start,
                &b.path,
            ))
        });
        layers
    }

    /// Reads every byte of every layer file and checks checksums, digests, order and ranges.
    ///
    /// # Errors
    /// [`Error::Damaged`] with every damaged file and the first damage in it. Undamaged parts can
    /// still be read: only reads of damaged blocks fail.
    pub fn verify(&self) -> Result<VerifyReport> {
        let map = self.0.look();
        let mut verifying = Verifier::default();
        for file in map.files.iter() {
            let verified = file.noted(file.verify());
            verifying.add(file.path(), verified.map(|found| (file.summary().file_len, found)));
        }
        verifying.finish()
    }
}
