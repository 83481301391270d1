//! [`BackupLabel`]: `backup_label`, the range of log that makes pages consistent which were copied
//! while the server ran.
//!
//! ```text
//! START WAL LOCATION: 0/2000028 (file 000000010000000000000002)
//! CHECKPOINT LOCATION: 0/2000060
//! BACKUP METHOD: streamed
//! BACKUP FROM: primary
//! START TIME: ...
//! LABEL: ...
//! START TIMELINE: 1
//! ```
//!
//! A page may have been copied at any moment between the start and the end of the backup, even half
//! before and half behind one of its changes. That does not matter once the log from the start to
//! the end has been redone: while a backup runs, PostgreSQL logs the whole page with the first
//! change of it behind the start, and redo puts that in place whatever it finds. The log says where
//! the end is: XLOG BACKUP_END (0x50), with the start of the backup as its main data, 8 bytes.

use std::path::Path;

use pagestrata_layers::{Error as StorageError, Lsn};

use crate::{
    backup::control_file::ControlFile,
    bytes::u64_at,
    error::{Error, Result},
    layout::is_segment_size,
    manager::ManagerId,
    wal::{record::Record, segments::name_of},
};

/// PostgreSQL's are below 2 KiB: all but the label's own text, of at most 1 KiB, is of fixed
/// length.
pub(super) const LABEL_LEN_MAX: u64 = 1 << 16;
const BACKUP_END: u8 = 0x50;

/// Where the log must be read from for pages that were copied while the server ran.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackupLabel {
    /// Where redo starts.
    pub start: Lsn,
    /// The log's segment that this is in.
    pub segment: String,
    /// The start of the checkpoint record that the backup began with.
    pub checkpoint: Lsn,
    /// The timeline of the log.
    pub timeline: u32,
}

impl BackupLabel {
    /// Parses the file's bytes; `path` is for errors.
    ///
    /// # Errors
    /// What is not as PostgreSQL 15 writes it; [`Error::StandbyBackup`].
    pub fn parse(bytes: &[u8], path: &Path) -> Result<BackupLabel> {
        let mut lines = Lines { path, at: 0, rest: bytes };
        let (start, segment) = lines.next("START WAL LOCATION: ", |value| {
            let (start, segment) = value.strip_suffix(')')?.split_once(" (file ")?;
            let is_name = segment.len() == 24 && segment.bytes().all(|b| b.is_ascii_hexdigit());
            Some((position(start)?, is_name.then(|| segment.to_owned())?))
        })?;
        let checkpoint = lines.next("CHECKPOINT LOCATION: ", position)?;
        lines.next("BACKUP METHOD: ", |value| (value == "streamed").then_some(()))?;
        let is_standby = lines.next("BACKUP FROM: ", |value| match value {
            "primary" => Some(false),
            "standby" => Some(true),
            _ => None,
        })?;
        if is_standby {
            return Err(Error::StandbyBackup { label: path.to_owned() });
        }
        // What is between is for people.
        lines.skip_to_last();
        let in_name = u32::from_str_radix(&segment[..8], 16).ok();
        let timeline = lines.next("START TIMELINE: ", |value| {
            value.parse().ok().filter(|timeline| Some(*timeline) == in_name)
        })?;
        Ok(BackupLabel { start, segment, checkpoint, timeline })
    }

    /// Checks that it is of the same backup as a control file, which is copied later.
    pub(super) fn check(&self, control: &ControlFile, path: &Path) -> Result<()> {
        let BackupLabel { start, segment, checkpoint, timeline } = self;
        let wrong = |what, expected: String, found: String| {
            Err(StorageError::corrupt(path, 0, what, expected, found).into())
        };
        if control.timeline != *timeline {
            let (expected, found) = (control.timeline.to_string(), timeline.to_string());
            return wrong("timeline of the backup", expected, found);
        }
        let size = u64::from(control.wal_segment_size);
        let is_size = is_segment_size(size);
        let name = is_size.then(|| name_of(*timeline, start.0 / size.max(1), size));
        if name.as_ref() != Some(segment) {
            let expected = name.unwrap_or_else(|| "one of a known size".to_owned());
            return wrong("log segment of the backup's start", expected, segment.clone());
        }
        if !(*start <= *checkpoint && *checkpoint <= control.checkpoint) {
            let expected = format!("between {start} and {}", control.checkpoint);
            return wrong("checkpoint of the backup", expected, checkpoint.to_string());
        }
        Ok(())
    }
}

/// A position in the log.
fn position(text: &str) -> Option<Lsn> {
    text.parse().ok().filter(|lsn: &Lsn| lsn.is_valid() && *lsn != Lsn::MAX)
}

struct Lines<'a> {
    path: &'a Path,
    at: usize,
    rest: &'a [u8],
}

impl Lines<'_> {
    /// What the next line, which has to start with `name`, says.
    fn next<T>(
        &mut self,
        name: &'static str,
        value_of: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T> {
        let end = self.rest.iter().position(|byte| *byte == b'\n');
        let line = &self.rest[..end.unwrap_or(self.rest.len())];
        let text = end.and_then(|_| std::str::from_utf8(line).ok());
        let value = text.and_then(|text| text.strip_prefix(name)).and_then(value_of);
        let Some(value) = value else {
            let found: String = String::from_utf8_lossy(line).chars().take(200).collect();
            let expected = format!("a line {name:?} and its value");
            let at = self.at as u64;
            let error = StorageError::corrupt(
                self.path,
                at,
                "backup label",
                expected,
                format!("{found:?}"),
            );
            return Err(error.into());
        };
        self.skip(line.len() + 1);
        Ok(value)
    }

    fn skip_to_last(&mut self) {
        let before = self.rest.strip_suffix(b"\n").unwrap_or(self.rest);
        self.skip(before.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1));
    }

    fn skip(&mut self, len: usize) {
        self.rest = &self.rest[len..];
        self.at += len;
    }
}

/// Returns the start of the backup that `record` ends; `None` for all other records.
///
/// # Errors
/// [`Error::Corrupt`] if its main data is too short for that.
pub fn backup_ended_by(record: &Record<'_>) -> Result<Option<Lsn>> {
    if (record.manager(), record.info() & 0xF0) != (ManagerId::XLOG, BACKUP_END) {
        return Ok(None);
    }
    let main = record.main_data();
    let start = u64_at(main, 0).ok_or_else(|| {
        Error::corrupt(record.place(), "main data", "8 bytes", format!("{} bytes", main.len()))
    })?;
    Ok(Some(Lsn(start)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::control_file::ClusterState;

    const LABEL: &str = "START WAL LOCATION: 1/2000028 (file 000000030000000100000002)\n\
        CHECKPOINT LOCATION: 1/2000060\nBACKUP METHOD: streamed\nBACKUP FROM: primary\n\
        START TIME: 2024-05-06 07:08:09 UTC\nLABEL: pg_basebackup base backup\nSTART TIMELINE: 3\n";

    fn parse(label: &str) -> Result<BackupLabel> {
        BackupLabel::parse(label.as_bytes(), Path::new("backup_label"))
    }

    fn control() -> ControlFile {
        ControlFile {
            system_id: 1,
            catalog_version: 1,
            state: ClusterState::InProduction,
            shut_down: false,
            checkpoint: Lsn(0x1_0300_0060),
            redo: Lsn(0x1_0300_0028),
            timeline: 3,
            wal_segment_size: 16 << 20,
            wal_level: crate::WalLevel::Replica,
            wal_log_hints: false,
            data_checksums: false,
        }
    }

    #[test]
    fn a_label_says_where_the_log_is_read_from() {
        let label = parse(LABEL).unwrap();
        assert_eq!((label.start, label.checkpoint), (Lsn(0x1_0200_0028), Lsn(0x1_0200_0060)));
        assert_eq!((label.timeline, &label.segment[..]), (3, "000000030000000100000002"));
        label.check(&control(), Path::new("")).unwrap();
        // Whoever makes a backup may call it what he wants.
        let other = LABEL.replace("pg_basebackup base backup", "a\nSTART TIMELINE: 9\n\u{e9}\n");
        assert_eq!(parse(&other).unwrap(), label);
    }

    #[test]
    fn a_damaged_label_is_refused() {
        for end in 0..LABEL.len() {
            assert!(parse(&LABEL[..end]).is_err(), "{end} bytes");
        }
        for (from, to, says) in [
            ("1/2000028", "12000028", "at offset 0: expected a line \"START WAL LOCATION"),
            ("1/2000028", "0/0", "at offset 0"),
            ("(file ", "(", "at offset 0"),
            ("000000030000000100000002", "+00000030000000100000002", "at offset 0"),
            ("000000030000000100000002", "00000003000000010000000\u{e9}", "at offset 0"),
            ("1/2000060", "x", "at offset 62: expected a line \"CHECKPOINT LOCATION"),
            ("streamed", "pg_rewind", "BACKUP METHOD"),
            ("primary", "elsewhere", "BACKUP FROM"),
            ("primary", "standby", "a backup of a standby"),
            ("TIMELINE: 3", "TIMELINE: 4", "START TIMELINE"),
            ("TIMELINE: 3\n", "TIMELINE: 3", "START TIMELINE"),
            ("\n", "\r\n", "at offset 0"),
        ] {
            let error = parse(&LABEL.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        for bit in 0..LABEL.len() * 8 {
            let mut bytes = LABEL.as_bytes().to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let label = BackupLabel::parse(&bytes, Path::new("backup_label"));
            let of_people =
                LABEL.find("START TIME:").unwrap()..LABEL.find("\nSTART TIMELINE").unwrap();
            let is_seen =
                label.is_err() || label.unwrap().check(&control(), Path::new("")).is_err();
            // A digit's case, and low digits of a position, are all that a flipped bit may change
            // unseen.
            let in_line = bit / 8 - LABEL[..bit / 8].rfind('\n').map_or(0, |end| end + 1);
            assert!(is_seen || of_people.contains(&(bit / 8)) || in_line >= 20, "bit {bit}");
        }
    }

    #[test]
    fn a_label_of_another_backup_is_refused() {
        let label = parse(LABEL).unwrap();
        let refused = |control: ControlFile, says: &str| {
            let error = label.check(&control, Path::new("l")).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        };
        refused(ControlFile { timeline: 2, ..control() }, "timeline of the backup");
        refused(ControlFile { wal_segment_size: 1 << 20, ..control() }, "00000003000000010000002");
        refused(ControlFile { wal_segment_size: 0, ..control() }, "one of a known size");
        refused(ControlFile { checkpoint: Lsn(1), ..control() }, "checkpoint of the backup");
    }
}
