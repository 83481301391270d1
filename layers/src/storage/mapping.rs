//! [`FileMap`]: a file's bytes as memory. The one place that maps files, and one of the few with `unsafe`.
#![allow(unsafe_code)]

use std::{fs, path::Path, sync::Arc};

use crate::{Error, Result};

/// A file's bytes, as they were when it was mapped.
///
/// Of a real file it is a shared read-only mapping: no copy, and the operating system's page cache is the only
/// cache. A simulated storage lends its own bytes.
///
/// **Contract:** a mapped file is never written or truncated by the engine (layer files are complete before they
/// are mapped and never change after). An outsider who truncates one under the mapping makes the next touch of the lost
/// pages raise `SIGBUS`, as with every memory map.
#[derive(Debug)]
pub struct FileMap(Bytes);

#[derive(Debug)]
enum Bytes {
    Mapped(memmap2::Mmap),
    Owned(Box<[u8]>),
    Shared(Arc<Vec<u8>>),
}

impl FileMap {
    pub(super) fn of_file(path: &Path, file: &fs::File) -> Result<FileMap> {
        let len = file.metadata().map_err(|error| Error::io("inspect", path, error))?.len();
        if len == 0 {
            return Ok(FileMap(Bytes::Owned(Box::default())));
        }
        // SAFETY: the mapping is read-only and is handed out as `&[u8]`, so its bytes must not change while it
        // lives. The engine maps only files that are complete and that it never writes again: a layer file gets its final name
        // after its footer, and a removal takes only the name. Other processes are kept out by the store's lock; one
        // that ignores it is outside the contract stated above.
        let mapped = unsafe { memmap2::Mmap::map(file) };
        Ok(FileMap(Bytes::Mapped(mapped.map_err(|error| Error::io("map", path, error))?)))
    }

    /// Bytes that are in memory anyway, for a storage without files.
    #[must_use]
    pub fn of_bytes(bytes: Box<[u8]>) -> FileMap {
        FileMap(Bytes::Owned(bytes))
    }

    /// Bytes that are in memory and that somebody else has too.
    #[must_use]
    pub fn of_shared(bytes: Arc<Vec<u8>>) -> FileMap {
        FileMap(Bytes::Shared(bytes))
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match &self.0 {
            Bytes::Mapped(map) => map,
            Bytes::Owned(bytes) => bytes,
            Bytes::Shared(bytes) => bytes,
        }
    }
}
