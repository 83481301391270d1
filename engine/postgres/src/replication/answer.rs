//! Answers of a server to a command: rows, an error, the end of a timeline.

use std::{str::FromStr, time::Duration};

use pagestrata_layers::Lsn;
use postgres_protocol::message::frontend;

use crate::replication::{
    error::{Error, Result},
    message::{self, Malformed},
    wire::{Deadline, Frame, Wire},
};

/// How long a server may take to answer a command.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// No command here has an answer of more rows.
const ROWS_MAX: usize = 4;

pub(super) type Row = Vec<Option<String>>;

pub(super) fn malformed(wire: &Wire, what: &str, expected: &str, found: String) -> Error {
    wire.protocol(Malformed { what: what.to_owned(), expected: expected.to_owned(), found })
}

pub(super) fn column<T: FromStr>(wire: &Wire, row: &Row, index: usize, what: &str) -> Result<T> {
    let found = row.get(index).and_then(Option::as_deref);
    found.and_then(|text| text.parse().ok()).ok_or_else(|| {
        malformed(wire, what, "one that can be read", format!("{:?}", found.unwrap_or("none")))
    })
}

/// Reads the rest of a command's answer, up to where the server is ready for the next one.
pub(super) fn rows(wire: &mut Wire) -> Result<Vec<Row>> {
    let deadline = Deadline::after(ANSWER_TIMEOUT);
    let mut rows = Vec::new();
    let mut refused = None;
    loop {
        let frame = wire.receive_of_answer(deadline)?;
        match frame.tag {
            message::ROW if rows.len() < ROWS_MAX => rows.push(read_row(wire, &frame)?),
            message::ROW_DESCRIPTION
            | message::COMPLETE
            | message::PARAMETER
            | message::NOTICE
            | message::NOTIFICATION => {}
            message::ERROR => {
                let error = wire.refused(&frame);
                // A fatal one is the last thing that a server says.
                let is_last =
                    !matches!(&error, Error::Server { error, .. } if error.severity == "ERROR");
                if is_last {
                    return Err(error);
                }
                refused = Some(error);
            }
            message::READY => return refused.map_or(Ok(rows), Err),
            _ => return Err(wire.unexpected(&frame, "the answer to a command")),
        }
    }
}

fn read_row(wire: &Wire, frame: &Frame) -> Result<Row> {
    wire.body(frame).row().map_err(|malformed| wire.protocol(malformed))
}

/// Reads which timeline follows, and from where on, which a server says at the end of one.
pub(super) fn end_of_timeline(wire: &mut Wire) -> Result<(u32, Lsn)> {
    match &*rows(wire)? {
        [row] => {
            let next = column(wire, row, 0, "next timeline")?;
            Ok((next, column(wire, row, 1, "start of the next timeline")?))
        }
        rows => {
            Err(malformed(wire, "end of the timeline", "one row", format!("{} rows", rows.len())))
        }
    }
}

pub(super) fn terminate(wire: &mut Wire) -> Result<()> {
    wire.send(|out| {
        frontend::terminate(out);
        Ok(())
    })
}
