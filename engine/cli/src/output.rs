//! Where results go: lines for people or JSON, the same values either way.

use std::{fmt::Display, io::Write};

use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// Writes results to stdout, or where a test wants them.
#[derive(Debug)]
pub struct Output<W: Write> {
    writer: W,
    json: bool,
}

impl<W: Write> Output<W> {
    /// Writes JSON or lines for people.
    pub fn new(writer: W, json: bool) -> Output<W> {
        Output { writer, json }
    }

    /// Whether results are written as JSON.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Writes one result: an entry of a list, or a report.
    ///
    /// # Errors
    /// [`Error::Stdout`]
    pub fn result(&mut self, result: &(impl Serialize + Display)) -> Result<()> {
        if self.json {
            self.entry(result)
        } else {
            writeln!(self.writer, "{result}").map_err(Error::Stdout)
        }
    }

    /// Writes one entry of a list that only JSON has.
    ///
    /// # Errors
    /// [`Error::Stdout`]
    pub(crate) fn entry(&mut self, entry: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string(entry).map_err(std::io::Error::from);
        text.and_then(|text| writeln!(self.writer, "{text}")).map_err(Error::Stdout)
    }

    /// Writes bytes as they are.
    ///
    /// # Errors
    /// [`Error::Stdout`]
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.writer.write_all(bytes).map_err(Error::Stdout)
    }

    /// Writes what is buffered.
    ///
    /// # Errors
    /// [`Error::Stdout`]
    pub fn flush(&mut self) -> Result<()> {
        self.writer.flush().map_err(Error::Stdout)
    }
}

/// Serializes a value as its text.
pub(crate) fn as_text<S: Serializer>(
    value: &impl Display,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// Serializes a value as its text, or nothing as null.
pub(crate) fn as_text_or_null<S: Serializer>(
    value: &Option<impl Display>,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

/// The SHA-256 of some bytes, in hexadecimal.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A number of bytes, for people.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut value, mut unit) = (bytes as f64 / 1024.0, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    format!("{value:.1} {}", UNITS[unit])
}
