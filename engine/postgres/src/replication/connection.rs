//! [`Connection`]: a session of a replication client before it streams.

use std::{fmt, str::FromStr};

use pagestrata_layers::Lsn;
use postgres_protocol::message::frontend;

use crate::{
    layout::is_segment_size,
    replication::{
        answer::{ANSWER_TIMEOUT, Row, column, end_of_timeline, malformed, rows, terminate},
        error::{Error, Result},
        info::ConnectionInfo,
        interrupt::Interrupt,
        login::log_in,
        message,
        streaming::{Replication, Timing},
        wire::{Deadline, Wire},
    },
    wal::pages::LogIdentity,
};

/// A connection that is logged in and does not stream yet. For one thread at a time.
#[derive(Debug)]
pub struct Connection {
    wire: Wire,
    server_version: String,
}

/// Identity and log position of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Server {
    /// Cluster, current timeline and segment size of its log.
    pub log: LogIdentity,
    /// The end of its flushed log; on a standby, of its replayed log.
    pub flushed: Lsn,
}

/// A replication slot, which makes a server keep log until it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The start of the log that is kept; `None` if the slot keeps nothing yet.
    pub restart_lsn: Option<Lsn>,
    /// The timeline of that position.
    pub restart_timeline: Option<u32>,
}

/// Lifetime of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// Until it is dropped.
    Permanent,
    /// Until the connection ends.
    Temporary,
}

/// A name that a slot can have: 1 to 63 of a to z, 0 to 9 and underscore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotName(String);

impl FromStr for SlotName {
    type Err = Error;

    fn from_str(text: &str) -> Result<SlotName> {
        let is_good = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_');
        if !(1..=63).contains(&text.len()) || !text.bytes().all(is_good) {
            return Err(Error::SlotName { found: text.to_owned() });
        }
        Ok(SlotName(text.to_owned()))
    }
}

impl fmt::Display for SlotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Connection {
    /// Connects and logs in. As [`Connection::open_with`] with an interrupt that is never set.
    ///
    /// # Errors
    /// As [`Connection::open_with`].
    pub fn open(info: &ConnectionInfo) -> Result<Connection> {
        Connection::open_with(info, &Interrupt::default())
    }

    /// Connects and logs in. `interrupt` ends waits of the connection early.
    ///
    /// That holds for the [`Replication`] that the connection becomes, too.
    ///
    /// A server has the `connect_timeout` of the info for each of its addresses, and a minute to
    /// let the client in.
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::Authentication`], [`Error::Server`]; [`Error::OtherServer`] if
    /// it is not PostgreSQL 15;
    /// [`Error::Silent`], [`Error::TimedOut`]; [`Error::Interrupted`].
    pub fn open_with(info: &ConnectionInfo, interrupt: &Interrupt) -> Result<Connection> {
        let mut wire = Wire::connect(info, interrupt)?;
        let welcome = log_in(&mut wire, info, ANSWER_TIMEOUT)?;
        let connection = Connection { wire, server_version: welcome.server_version };
        let version = &connection.server_version;
        let major = version.split(|c: char| !c.is_ascii_digit()).next();
        match major {
            Some("15") => Ok(connection),
            _ => Err(connection.other_server("version", "PostgreSQL 15", version.clone())),
        }
    }

    /// The version that the server states.
    #[must_use]
    pub fn server_version(&self) -> &str {
        &self.server_version
    }

    /// Asks for the server's identity and log position (IDENTIFY_SYSTEM).
    ///
    /// # Errors
    /// [`Error::OtherServer`] if its pages or segments have sizes that cannot be read here.
    pub fn identify(&mut self) -> Result<Server> {
        let row = self.one_row("identifying the server", "IDENTIFY_SYSTEM")?;
        let system_id = self.column(&row, 0, "system identifier")?;
        let timeline = self.column(&row, 1, "timeline")?;
        let flushed = self.column(&row, 2, "position")?;
        for (name, found) in [
            ("block_size", self.show("block_size")?),
            ("wal_block_size", self.show("wal_block_size")?),
        ] {
            if found != "8192" {
                return Err(self.other_server(name, "8192", found));
            }
        }
        let stated = self.show("wal_segment_size")?;
        let segment_size = bytes_of(&stated).filter(|size| is_segment_size(*size));
        let Some(segment_size) = segment_size else {
            let expected = "a power of two, 1MB to 1GB";
            return Err(self.other_server("wal_segment_size", expected, stated));
        };
        Ok(Server { log: LogIdentity { system_id, timeline, segment_size }, flushed })
    }

    /// Asks for the value of a setting (SHOW).
    ///
    /// # Errors
    /// [`Error::Server`] if there is no such setting.
    pub fn show(&mut self, setting: &str) -> Result<String> {
        let row = self.one_row("asking for a setting", &format!("SHOW {}", quoted(setting)))?;
        self.column(&row, 0, "setting")
    }

    /// Reads a physical slot; `None` if there is none of this name (READ_REPLICATION_SLOT).
    ///
    /// # Errors
    /// [`Error::Server`] for a logical slot.
    pub fn slot(&mut self, name: &SlotName) -> Result<Option<Slot>> {
        let command = format!("READ_REPLICATION_SLOT {}", quoted(&name.0));
        let row = self.one_row("reading a slot", &command)?;
        if row.first().is_none_or(Option::is_none) {
            return Ok(None);
        }
        let has = |index: usize| row.get(index).is_some_and(Option::is_some);
        let restart_lsn =
            if has(1) { Some(self.column(&row, 1, "position of the slot")?) } else { None };
        let restart_timeline =
            if has(2) { Some(self.column(&row, 2, "timeline of the slot")?) } else { None };
        Ok(Some(Slot { restart_lsn, restart_timeline }))
    }

    /// Creates a physical slot (CREATE_REPLICATION_SLOT). It keeps log from the start of the last
    /// checkpoint on.
    ///
    /// # Errors
    /// [`Error::Server`] with code 42710 if there is one of this name.
    pub fn create_slot(&mut self, name: &SlotName, lifetime: Lifetime) -> Result<()> {
        let temporary = match lifetime {
            Lifetime::Permanent => "",
            Lifetime::Temporary => " TEMPORARY",
        };
        let name = quoted(&name.0);
        let command = format!("CREATE_REPLICATION_SLOT {name}{temporary} PHYSICAL RESERVE_WAL");
        self.query("creating a slot", &command).map(|_| ())
    }

    /// Drops a slot that is not in use (DROP_REPLICATION_SLOT).
    ///
    /// # Errors
    /// [`Error::Server`] if there is none of this name, or it is in use.
    pub fn drop_slot(&mut self, name: &SlotName) -> Result<()> {
        let command = format!("DROP_REPLICATION_SLOT {}", quoted(&name.0));
        self.query("dropping a slot", &command).map(|_| ())
    }

    /// Starts the stream at `from` (START_REPLICATION), which [`crate::StreamDecoder::stream_from`]
    /// returns.
    ///
    /// # Errors
    /// [`Error::Server`] if the slot is in use (55006) or the timeline is not the server's;
    /// [`Error::TimelineEnded`]. If the server does not have the log from there on (58P01), the
    /// first [`Replication::next_event`] returns the error.
    pub fn start(
        mut self,
        slot: Option<&SlotName>,
        timeline: u32,
        from: Lsn,
        timing: Timing,
    ) -> Result<Replication> {
        let slot = slot.map_or_else(String::new, |slot| format!("SLOT {} ", quoted(&slot.0)));
        self.wire.doing = "starting replication";
        let command = format!("START_REPLICATION {slot}PHYSICAL {from} TIMELINE {timeline}");
        self.wire.send(|out| frontend::query(&command, out))?;
        let frame = self.wire.expect(Deadline::after(ANSWER_TIMEOUT))?;
        match frame.tag {
            message::COPY_BOTH => Ok(Replication::new(self.wire, timing)),
            message::ROW_DESCRIPTION => {
                let (next, at) = end_of_timeline(&mut self.wire)?;
                Err(Error::TimelineEnded { to: self.wire.to().to_owned(), timeline, next, at })
            }
            _ => Err(self.wire.unexpected(&frame, "CopyBothResponse")),
        }
    }

    /// Ends the session.
    ///
    /// # Errors
    /// [`Error::Io`] if the server is gone already.
    pub fn close(mut self) -> Result<()> {
        self.wire.doing = "closing the connection";
        terminate(&mut self.wire)
    }

    fn query(&mut self, doing: &'static str, command: &str) -> Result<Vec<Row>> {
        self.wire.doing = doing;
        self.wire.send(|out| frontend::query(command, out))?;
        rows(&mut self.wire)
    }

    fn one_row(&mut self, doing: &'static str, command: &str) -> Result<Row> {
        let rows = self.query(doing, command)?;
        let count = rows.len();
        match <[Row; 1]>::try_from(rows) {
            Ok([row]) => Ok(row),
            Err(_) => Err(self.malformed("answer", "one row", format!("{count} rows"))),
        }
    }

    fn column<T: FromStr>(&self, row: &Row, index: usize, what: &str) -> Result<T> {
        column(&self.wire, row, index, what)
    }

    fn malformed(&self, what: &str, expected: &str, found: String) -> Error {
        malformed(&self.wire, what, expected, found)
    }

    fn other_server(&self, what: &'static str, expected: &'static str, found: String) -> Error {
        let found = message::shortened(&found);
        Error::OtherServer { to: self.wire.to().to_owned(), what, expected, found }
    }
}

/// Quotes a name for a command.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Bytes of a size such as `16MB`.
fn bytes_of(size: &str) -> Option<u64> {
    let digits = size.find(|c: char| !c.is_ascii_digit()).unwrap_or(size.len());
    let (number, unit) = size.split_at(digits);
    let shift = match unit {
        "" | "B" => 0,
        "kB" => 10,
        "MB" => 20,
        "GB" => 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, size) in [
            ("16MB", Some(16 << 20)),
            ("1GB", Some(1 << 30)),
            ("1024kB", Some(1 << 20)),
            ("512", Some(512)),
            ("MB", None),
            ("1 MB", None),
            ("99999999999999999GB", None),
        ] {
            assert_eq!(bytes_of(text), size, "{text}");
        }
    }

    #[test]
    fn slot_names_are_those_that_a_server_takes() {
        assert!("pagestrata_1".parse::<SlotName>().is_ok());
        for name in ["", "A", "a-b", "a\"b", "a b", &"a".repeat(64)] {
            assert!(name.parse::<SlotName>().is_err(), "{name:?}");
        }
    }
}
