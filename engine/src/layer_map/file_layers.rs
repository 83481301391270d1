//! The layer files of a map version, by their slot numbers: a table in chunks that successive
//! versions share.

use std::{ops::Deref, path::Path, sync::Arc};

use pagestrata_layers::{
    Result as LayersResult,
    layer_file::{LayerAccess, LayerFile},
    manifest::edit::LayerRecord,
};

use crate::{
    error::Result,
    layer_map::{file_names::layer_file_name, index::LayerSlot, quarantine::Damage},
    reports::QuarantinedLayer,
};

const CHUNK: usize = 64;

type Chunk = [Option<Arc<FileLayer>>; CHUNK];

/// An open layer file and its record in the manifest.
#[derive(Debug)]
pub(crate) struct FileLayer {
    file: LayerFile,
    record: LayerRecord,
    damage: Damage,
}

impl FileLayer {
    /// Opens the file of a record, in its timeline's directory.
    pub(crate) fn open(
        access: &Arc<LayerAccess>,
        dir: &Path,
        record: LayerRecord,
    ) -> Result<FileLayer> {
        let file = access.open(&dir.join(layer_file_name(&record)), Some(&record.summary))?;
        Ok(FileLayer { file, record, damage: Damage::default() })
    }

    /// Passes on the result of a read of this file, and records damage.
    #[inline]
    pub(crate) fn noted<T>(&self, read: LayersResult<T>) -> LayersResult<T> {
        read.inspect_err(|error| self.damage.note(error))
    }

    /// Returns the damage that reads have met in it, if any.
    pub(crate) fn quarantined(&self) -> Option<QuarantinedLayer> {
        self.damage.of(self.file.path())
    }

    pub(crate) fn record(&self) -> &LayerRecord {
        &self.record
    }

    /// The number that names it in its store.
    pub(crate) fn sequence(&self) -> u64 {
        self.record.summary.id.sequence
    }

    pub(crate) fn name(&self) -> String {
        layer_file_name(&self.record)
    }

    /// Returns its heap memory, in bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        size_of::<FileLayer>() + self.file.heap_bytes()
    }
}

impl Deref for FileLayer {
    type Target = LayerFile;

    fn deref(&self) -> &LayerFile {
        &self.file
    }
}

/// Layer files by slot number.
#[derive(Clone, Debug, Default)]
pub(crate) struct Files {
    chunks: Arc<Vec<Arc<Chunk>>>,
}

impl Files {
    /// Returns the file in a slot that the index names.
    #[inline]
    pub(crate) fn get(&self, index: LayerSlot) -> &Arc<FileLayer> {
        let index = index.0 as usize;
        let file = self.chunks[index / CHUNK][index % CHUNK].as_ref();
        file.expect("the index names only slots that hold a file")
    }

    pub(crate) fn set(&mut self, index: LayerSlot, file: Arc<FileLayer>) {
        let index = index.0 as usize;
        debug_assert!(self.chunks.get(index / CHUNK).is_none_or(|of| of[index % CHUNK].is_none()));
        let chunks = Arc::make_mut(&mut self.chunks);
        while chunks.len() <= index / CHUNK {
            chunks.push(Arc::new([const { None }; CHUNK]));
        }
        Arc::make_mut(&mut chunks[index / CHUNK])[index % CHUNK] = Some(file);
    }

    /// Empties a slot.
    pub(crate) fn take(&mut self, index: LayerSlot) {
        let index = index.0 as usize;
        let chunks = Arc::make_mut(&mut self.chunks);
        let file = Arc::make_mut(&mut chunks[index / CHUNK])[index % CHUNK].take();
        assert!(file.is_some(), "what goes was there");
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<FileLayer>> {
        self.chunks.iter().flat_map(|chunk| chunk.iter().flatten())
    }

    /// Returns the memory of the table, in bytes, without that of the files.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.chunks.len() * (size_of::<Chunk>() + 24)
    }
}
