//! [`ControlFile`]: what `global/pg_control` says of a data directory.
//!
//! | bytes | what |
//! |---|---|
//! | 0, 8, 12 | system identifier, version of the file, version of the catalogs |
//! | 16 | state: [`ClusterState`] |
//! | 32 | Lsn of the last checkpoint record |
//! | 40, 48 | of that record: where redo starts, timeline |
//! | 172, 176 | wal_level, wal_log_hints |
//! | 216, 220, 224, 228 | page size, blocks of a relation segment, log page size, log segment size |
//! | 252 | version of data checksums; 0: none |
//! | 288 | crc32c of what is before |

use std::{fmt, path::Path};

use pagestrata_layers::{
    Lsn,
    storage::{Storage, read_file},
};

use crate::{
    bytes::{u32_at, u64_at},
    error::{Error, Result},
    layout::{PAGE_SIZE, SEGMENT_BLOCKS},
    wal::settings::WalLevel,
};

/// The file's version in PostgreSQL 13 to 16; the page magic of the log tells 15 from the others.
const VERSION: u32 = 1300;
/// Those of other versions that have one of their own.
const OTHER_VERSIONS: [(u32, &str); 5] =
    [(1002, "10"), (1100, "11"), (1201, "12"), (1700, "17"), (1800, "18")];
const CRC_OFFSET: usize = 288;
/// PostgreSQL writes it padded with zeros to this length.
pub(crate) const FILE_LEN_MAX: u64 = 8192;

/// What a server was doing when it last wrote its control file. The numbers are PostgreSQL's
/// (`DBState`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
#[non_exhaustive]
pub enum ClusterState {
    /// It has not finished its first start.
    StartingUp = 0,
    /// It was shut down: every page is on disk.
    ShutDown = 1,
    /// It was shut down as a standby, or while it recovered: every page is on disk.
    ShutDownInRecovery = 2,
    /// It was being shut down.
    ShuttingDown = 3,
    /// It recovered from a crash.
    InCrashRecovery = 4,
    /// It recovered from an archive, or was a standby.
    InArchiveRecovery = 5,
    /// It ran. It does so still, or it has crashed.
    InProduction = 6,
}

impl ClusterState {
    /// All of them, in the order of their numbers.
    const ALL: [ClusterState; 7] = [
        ClusterState::StartingUp,
        ClusterState::ShutDown,
        ClusterState::ShutDownInRecovery,
        ClusterState::ShuttingDown,
        ClusterState::InCrashRecovery,
        ClusterState::InArchiveRecovery,
        ClusterState::InProduction,
    ];

    /// Whether the server had written every page to disk before it ended.
    #[must_use]
    pub const fn is_at_rest(self) -> bool {
        matches!(self, ClusterState::ShutDown | ClusterState::ShutDownInRecovery)
    }

    fn from_number(number: u32) -> Option<ClusterState> {
        ClusterState::ALL.into_iter().find(|state| *state as u32 == number)
    }
}

/// As `pg_controldata` prints it.
impl fmt::Display for ClusterState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ClusterState::StartingUp => "starting up",
            ClusterState::ShutDown => "shut down",
            ClusterState::ShutDownInRecovery => "shut down in recovery",
            ClusterState::ShuttingDown => "shutting down",
            ClusterState::InCrashRecovery => "in crash recovery",
            ClusterState::InArchiveRecovery => "in archive recovery",
            ClusterState::InProduction => "in production",
        })
    }
}

/// The fields of a control file that reading log and pages depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ControlFile {
    /// The cluster.
    pub system_id: u64,
    /// Version of the system catalogs.
    pub catalog_version: u32,
    /// What the server was doing when it wrote the file.
    pub state: ClusterState,
    /// The server was shut down: the files are those of the checkpoint, and nothing has to be
    /// redone.
    pub shut_down: bool,
    /// Where the last checkpoint record starts: the log is read from here.
    pub checkpoint: Lsn,
    /// Where its redo starts; the same after a shutdown.
    pub redo: Lsn,
    /// The timeline of that checkpoint.
    pub timeline: u32,
    /// Bytes of a log segment.
    pub wal_segment_size: u32,
    /// `wal_level`, since the server was last started.
    pub wal_level: WalLevel,
    /// `wal_log_hints`: hint bits are logged even without checksums.
    pub wal_log_hints: bool,
    /// Pages have checksums.
    pub data_checksums: bool,
}

impl ControlFile {
    /// Reads `global/pg_control` in a data directory.
    ///
    /// # Errors
    /// A file that cannot be read, is damaged, or is of a server with other page or segment sizes.
    pub fn read(storage: &dyn Storage, data_dir: &Path) -> Result<ControlFile> {
        let path = data_dir.join("global").join("pg_control");
        let bytes = read_file(storage, &path, FILE_LEN_MAX)?;
        ControlFile::parse(&bytes, &path)
    }

    /// Parses the file's bytes; `path` is for errors.
    ///
    /// # Errors
    /// As [`ControlFile::read`].
    pub fn parse(bytes: &[u8], path: &Path) -> Result<ControlFile> {
        let wrong = |offset: usize, what, expected: String, found: String| {
            pagestrata_layers::Error::corrupt(path, offset as u64, what, expected, found)
        };
        let Some(body) = bytes.get(..CRC_OFFSET).filter(|_| bytes.len() >= CRC_OFFSET + 4) else {
            let (expected, found) = ("292 bytes or more".to_owned(), bytes.len().to_string());
            return Err(wrong(0, "control file", expected, found).into());
        };
        let u32_at = |offset| u32_at(bytes, offset).unwrap_or_default();
        let u64_at = |offset| u64_at(bytes, offset).unwrap_or_default();
        let must_be = |offset, what, expected: u32| match u32_at(offset) {
            found if found == expected => Ok(()),
            found => Err(wrong(offset, what, expected.to_string(), found.to_string())),
        };
        if let Some((_, version)) = OTHER_VERSIONS.iter().find(|(number, _)| *number == u32_at(8)) {
            let (path, version) = (path.to_owned(), (*version).into());
            return Err(Error::ClusterVersion { path, version });
        }
        must_be(8, "control file version", VERSION)?;
        must_be(CRC_OFFSET, "control file checksum", crc32c::crc32c(body))?;
        must_be(216, "page size", PAGE_SIZE as u32)?;
        must_be(220, "blocks of a relation segment", SEGMENT_BLOCKS)?;
        must_be(224, "log page size", PAGE_SIZE as u32)?;
        let state = ClusterState::from_number(u32_at(16)).ok_or_else(|| {
            wrong(16, "cluster state", "0 to 6".to_owned(), u32_at(16).to_string())
        })?;
        let level = u32_at(172);
        let wal_level = WalLevel::from_number(level)
            .ok_or_else(|| wrong(172, "wal_level", "0 to 2".to_owned(), level.to_string()))?;
        Ok(ControlFile {
            system_id: u64_at(0),
            catalog_version: u32_at(12),
            state,
            shut_down: state == ClusterState::ShutDown,
            checkpoint: Lsn(u64_at(32)),
            redo: Lsn(u64_at(40)),
            timeline: u32_at(48),
            wal_segment_size: u32_at(228),
            wal_level,
            wal_log_hints: bytes[176] != 0,
            data_checksums: u32_at(252) != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A control file with this state, by the layout above.
    fn file(state: u32) -> Vec<u8> {
        let mut bytes = vec![0; FILE_LEN_MAX as usize];
        for (at, value) in
            [(8, 1300), (16, state), (216, 8192), (220, 131_072), (224, 8192), (228, 1 << 24)]
        {
            bytes[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
        }
        let sum = crc32c::crc32c(&bytes[..CRC_OFFSET]);
        bytes[CRC_OFFSET..CRC_OFFSET + 4].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    #[test]
    fn the_state_is_told_as_pg_controldata_does() {
        let states: Vec<String> = (0..7)
            .map(|number| {
                let control = ControlFile::parse(&file(number), Path::new("pg_control")).unwrap();
                assert_eq!(control.shut_down, number == 1);
                assert_eq!(control.state.is_at_rest(), [1, 2].contains(&number));
                control.state.to_string()
            })
            .collect();
        assert_eq!((&states[1][..], &states[6][..]), ("shut down", "in production"));
        for number in [7, u32::MAX] {
            let error = ControlFile::parse(&file(number), Path::new("pg_control")).unwrap_err();
            let text = error.to_string();
            assert!(text.contains("cluster state") && text.contains("0 to 6"), "{text}");
        }
    }
}
