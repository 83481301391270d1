//! What is in a server's messages. Numbers are big-endian, texts end with a zero byte.

use std::time::{Duration, SystemTime};

use pagestrata_layers::Lsn;

use crate::replication::error::ServerError;

pub(super) const AUTHENTICATION: u8 = b'R';
pub(super) const PARAMETER: u8 = b'S';
pub(super) const CANCEL_KEY: u8 = b'K';
pub(super) const READY: u8 = b'Z';
pub(super) const ERROR: u8 = b'E';
pub(super) const NOTICE: u8 = b'N';
pub(super) const NOTIFICATION: u8 = b'A';
pub(super) const ROW_DESCRIPTION: u8 = b'T';
pub(super) const ROW: u8 = b'D';
pub(super) const COMPLETE: u8 = b'C';
pub(super) const COPY_BOTH: u8 = b'W';
pub(super) const COPY_DATA: u8 = b'd';
pub(super) const COPY_DONE: u8 = b'c';

/// Seconds from the Unix epoch to 2000-01-01, where a server counts from.
const EPOCH: Duration = Duration::from_secs(946_684_800);

/// A message's name in the manual.
pub(super) fn name(tag: u8) -> String {
    let name = match tag {
        AUTHENTICATION => "Authentication",
        PARAMETER => "ParameterStatus",
        CANCEL_KEY => "BackendKeyData",
        READY => "ReadyForQuery",
        ERROR => "ErrorResponse",
        NOTICE => "NoticeResponse",
        NOTIFICATION => "NotificationResponse",
        ROW_DESCRIPTION => "RowDescription",
        ROW => "DataRow",
        COMPLETE => "CommandComplete",
        COPY_BOTH => "CopyBothResponse",
        COPY_DATA => "CopyData",
        COPY_DONE => "CopyDone",
        other => return format!("message {:?}", char::from(other)),
    };
    name.to_owned()
}

/// What is wrong with a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed {
    pub(super) what: String,
    pub(super) expected: String,
    pub(super) found: String,
}

/// A message's body, taken apart from the front.
#[derive(Clone, Copy, Debug)]
pub(super) struct Body<'a> {
    tag: u8,
    len: usize,
    rest: &'a [u8],
}

type Parsed<T> = Result<T, Malformed>;

/// What a server sends while it streams.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Streamed<'a> {
    Wal { start: Lsn, server_end: Lsn, sent_at: SystemTime, bytes: &'a [u8] },
    KeepAlive { server_end: Lsn, sent_at: SystemTime, wants_answer: bool },
}

impl<'a> Body<'a> {
    pub(super) fn new(tag: u8, bytes: &'a [u8]) -> Body<'a> {
        Body { tag, len: bytes.len(), rest: bytes }
    }

    pub(super) fn malformed(
        &self,
        what: &str,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Malformed {
        let what = format!("{what} in {} of {} bytes", name(self.tag), self.len);
        Malformed { what, expected: expected.into(), found: found.into() }
    }

    fn array<const N: usize>(&mut self, what: &str) -> Parsed<[u8; N]> {
        let Some((head, tail)) = self.rest.split_first_chunk::<N>() else {
            let found = format!("{} bytes", self.rest.len());
            return Err(self.malformed(what, format!("{N} bytes"), found));
        };
        self.rest = tail;
        Ok(*head)
    }

    pub(super) fn u8(&mut self, what: &str) -> Parsed<u8> {
        self.array::<1>(what).map(|[byte]| byte)
    }

    pub(super) fn u32(&mut self, what: &str) -> Parsed<u32> {
        self.array(what).map(u32::from_be_bytes)
    }

    fn u64(&mut self, what: &str) -> Parsed<u64> {
        self.array(what).map(u64::from_be_bytes)
    }

    pub(super) fn salt(&mut self) -> Parsed<[u8; 4]> {
        self.array("salt")
    }

    pub(super) fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// A text, without its zero byte.
    pub(super) fn text(&mut self, what: &str) -> Parsed<&'a [u8]> {
        let Some(len) = self.rest.iter().position(|byte| *byte == 0) else {
            return Err(self.malformed(what, "a zero byte behind it", "the end"));
        };
        let text = &self.rest[..len];
        self.rest = &self.rest[len + 1..];
        Ok(text)
    }

    /// That nothing is left.
    pub(super) fn end(self) -> Parsed<()> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(self.malformed("end", "none left", format!("{} bytes more", self.rest.len())))
    }

    /// The fields of an error or a notice.
    pub(super) fn error(mut self) -> Parsed<ServerError> {
        let mut error = ServerError::default();
        loop {
            let field = self.u8("field")?;
            if field == 0 {
                self.end()?;
                return Ok(error);
            }
            let text = shortened(&readable(self.text("field")?));
            match field {
                b'S' if error.severity.is_empty() => error.severity = text,
                // The same, not translated.
                b'V' => error.severity = text,
                b'C' => error.code = text,
                b'M' => error.message = text,
                b'D' => error.detail = text,
                b'H' => error.hint = text,
                _ => {}
            }
        }
    }

    /// A row's columns; none for nulls.
    pub(super) fn row(mut self) -> Parsed<Vec<Option<String>>> {
        let count = self.array("number of columns").map(u16::from_be_bytes)?;
        let mut columns = Vec::new();
        for _ in 0..count {
            let len = self.u32("length of a column")?;
            if len == u32::MAX {
                columns.push(None);
                continue;
            }
            let Some((column, rest)) = self.rest.split_at_checked(len as usize) else {
                let found = format!("{} bytes", self.rest.len());
                return Err(self.malformed("column", format!("{len} bytes"), found));
            };
            self.rest = rest;
            columns.push(Some(readable(column)));
        }
        self.end()?;
        Ok(columns)
    }

    /// What a copy message has in it while a server streams.
    pub(super) fn streamed(mut self) -> Parsed<Streamed<'a>> {
        match self.u8("kind")? {
            b'w' => {
                let start = Lsn(self.u64("start")?);
                let server_end = Lsn(self.u64("end of the log")?);
                let sent_at = self.time()?;
                Ok(Streamed::Wal { start, server_end, sent_at, bytes: self.rest })
            }
            b'k' => {
                let server_end = Lsn(self.u64("end of the log")?);
                let sent_at = self.time()?;
                let wants_answer = match self.u8("request")? {
                    0 => false,
                    1 => true,
                    other => return Err(self.malformed("request", "0 or 1", other.to_string())),
                };
                self.end()?;
                Ok(Streamed::KeepAlive { server_end, sent_at, wants_answer })
            }
            other => {
                let found = format!("{:?}", char::from(other));
                Err(self.malformed("kind", "'w' or 'k'", found))
            }
        }
    }

    fn time(&mut self) -> Parsed<SystemTime> {
        let micros = self.array("time").map(i64::from_be_bytes)?;
        let epoch = SystemTime::UNIX_EPOCH + EPOCH;
        let distance = Duration::from_micros(micros.unsigned_abs());
        let time = match micros {
            0.. => epoch.checked_add(distance),
            _ => epoch.checked_sub(distance),
        };
        time.ok_or_else(|| self.malformed("time", "microseconds since 2000", micros.to_string()))
    }
}

/// A time as a server has it: microseconds since 2000.
pub(super) fn server_time(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH + EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// A server's text without what would do things to a terminal.
fn readable(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A server's text as errors show it: what is longer is cut off.
pub(super) fn shortened(text: &str) -> String {
    const CHARS_MAX: usize = 1000;
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}... ({} bytes)", &text[..end], text.len()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_counted_from_2000() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_micros(1_700_000_000_123_456);
        let mut bytes = vec![b'k'];
        bytes.extend(5_u64.to_be_bytes());
        bytes.extend(server_time(now).to_be_bytes());
        bytes.push(1);
        let expected = Streamed::KeepAlive { server_end: Lsn(5), sent_at: now, wants_answer: true };
        assert_eq!(Body::new(COPY_DATA, &bytes).streamed(), Ok(expected));
        for len in 0..bytes.len() {
            assert!(Body::new(COPY_DATA, &bytes[..len]).streamed().is_err());
        }
        assert_eq!(server_time(SystemTime::UNIX_EPOCH), 0);
    }

    #[test]
    fn long_texts_are_cut_off() {
        assert_eq!(shortened("é"), "é");
        assert_eq!(shortened(&"é".repeat(1000)), "é".repeat(1000));
        assert_eq!(shortened(&"é".repeat(1001)), format!("{}... (2002 bytes)", "é".repeat(1000)));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..60), kind in 0..3_usize) {
            let with_kind = [&b"wkz"[kind..=kind], &bytes].concat();
            let _ = Body::new(COPY_DATA, &with_kind).streamed();
            let _ = Body::new(ROW, &bytes).row();
            let _ = Body::new(ERROR, &bytes).error();
        }
    }
}
