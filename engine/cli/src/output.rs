//! Where results go: lines for people or JSON, the same values either way. And notes and errors, on
//! stderr.
//!
//! **Invariant:** all that is printed but a page's bytes goes through here, and no character of it
//! controls the terminal or the direction of text: names come from outside, of files, in backup
//! labels and archives.

use std::{
    borrow::Cow,
    fmt::{Display, Write as _},
    io::{self, Write},
};

use pagestrata::is_bidirectional_control;
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
            for line in result.to_string().lines() {
                writeln!(self.writer, "{}", printable(line)).map_err(Error::Stdout)?;
            }
            Ok(())
        }
    }

    /// Writes one entry of a list that only JSON has.
    ///
    /// # Errors
    /// [`Error::Stdout`]
    pub(crate) fn entry(&mut self, entry: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string(entry).map_err(std::io::Error::from);
        let text = text.map_err(Error::Stdout)?;
        // What serde_json leaves as it is, as JSON has it.
        let text = escaped(&text, |c, text| {
            let _ = write!(text, "\\u{:04x}", u32::from(c));
        });
        writeln!(self.writer, "{text}").map_err(Error::Stdout)
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

/// Writes a line to stderr, made [`printable`]. When stderr is closed there is nobody left to tell.
pub fn tell(text: impl Display) {
    let _ = writeln!(io::stderr(), "pagestrata: {}", printable(&text.to_string()));
}

/// Text on one line that leaves the terminal and the direction of what is beside it alone:
/// characters that would change these are replaced by escapes as in Rust's strings.
///
/// ```
/// use pagestrata_cli::printable;
///
/// assert_eq!(printable("base/5/16384"), "base/5/16384");
/// assert_eq!(printable("a\nb\u{1B}[2J\u{202E}c"), r"a\nb\u{1b}[2J\u{202e}c");
/// ```
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, |c, text| text.extend(c.escape_default()))
}

/// Control characters, those that change the direction of text, and those that end a line.
fn is_harmful(c: char) -> bool {
    c.is_control() || is_bidirectional_control(c) || matches!(c, '\u{2028}' | '\u{2029}')
}

/// With what `escape` appends in the place of each harmful character.
fn escaped(text: &str, escape: impl Fn(char, &mut String)) -> Cow<'_, str> {
    if !text.contains(is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match is_harmful(c) {
            true => escape(c, &mut safe),
            false => safe.push(c),
        }
    }
    Cow::Owned(safe)
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
