//! Which calls fail, and how.

use std::{io, path::Path};

/// What a call that fails says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// An error of the operating system, by its number.
    Os(i32),
    /// An error that only has a kind.
    Kind(io::ErrorKind),
}

impl Failure {
    /// The device does not do it.
    pub const EIO: Failure = Failure::Os(libc::EIO);
    /// The disk is full.
    pub const ENOSPC: Failure = Failure::Os(libc::ENOSPC);

    pub(super) fn error(self) -> io::Error {
        match self {
            Failure::Os(number) => io::Error::from_raw_os_error(number),
            Failure::Kind(kind) => kind.into(),
        }
    }
}

/// What becomes of the bytes that a failed sync should have made durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FailedSync {
    /// They are unsynced as before; the next sync may succeed with them.
    #[default]
    KeepsDirty,
    /// They are taken for synced and are not, as on Linux: the next sync succeeds, readers see
    /// them, and a crash finds what was there before. With [`Fault::late`], the first half of the
    /// sectors did come to the disk.
    DropsDirty,
}

/// Which calls fail, by their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The first, from 0, as [`SimulatedStorage::calls`](super::SimulatedStorage::calls) counts
    /// them.
    pub call: u64,
    /// And all that follow.
    pub for_good: bool,
    /// It fails only after it has done its work, an append or write after half of it; syncs of
    /// directories do none.
    pub late: bool,
    /// What it says.
    pub failure: Failure,
    /// If it is the sync of a file.
    pub failed_sync: FailedSync,
}

impl Default for Fault {
    /// The first call, once, with `EIO`.
    fn default() -> Fault {
        Fault {
            call: 0,
            for_good: false,
            late: false,
            failure: Failure::EIO,
            failed_sync: FailedSync::default(),
        }
    }
}

impl Fault {
    pub(super) fn is_of(&self, call: u64) -> bool {
        call == self.call || self.for_good && call > self.call
    }
}

/// An operation that fails with `EIO`, and does nothing, wherever the path ends like this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failing {
    /// As errors name it: `"create"`, `"append to"`, `"sync directory"`, ...
    pub operation: &'static str,
    /// The end of the path, or of that of its directory.
    pub at: &'static str,
    /// It panics instead, which is a defect of a storage.
    pub panics: bool,
}

impl Failing {
    pub(super) fn is_of(&self, operation: &str, path: &Path) -> bool {
        let ends = |path: &Path| path.to_string_lossy().ends_with(self.at);
        operation == self.operation && (ends(path) || path.parent().is_some_and(ends))
    }
}
