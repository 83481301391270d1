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
use serde::Serialize;

use crate::error::{Error, Result};

/// Writes results to stdout, or where a test wants them.
#[derive(Debug)]
pub(crate) struct Output<W: Write> {
    writer: W,
    json: bool,
}

impl<W: Write> Output<W> {
    /// Writes JSON or lines for people.
    pub(crate) fn new(writer: W, json: bool) -> Output<W> {
        Output { writer, json }
    }

    /// Whether results are written as JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Writes one result: an entry of a list, or a report.
    ///
    /// # Errors
    /// [`Error::Stdout`]
    pub(crate) fn result(&mut self, result: &(impl Serialize + Display)) -> Result<()> {
        self.pass_on(result).map_err(Error::Stdout)
    }

    /// Does what [`Output::result`] does, for callbacks of the library.
    pub(crate) fn pass_on(&mut self, result: &(impl Serialize + Display)) -> io::Result<()> {
        if self.json {
            return self.entry(result);
        }
        result.to_string().lines().try_for_each(|line| writeln!(self.writer, "{}", printable(line)))
    }

    /// Writes one entry of a list that only JSON has.
    pub(crate) fn entry(&mut self, entry: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_string(entry)?;
        // What serde_json leaves as it is, as JSON has it.
        let text = escaped(&text, |c, text| {
            let _ = write!(text, "\\u{:04x}", u32::from(c));
        });
        writeln!(self.writer, "{text}")
    }

    /// Writes bytes as they are.
    ///
    /// # Errors
    /// [`Error::Stdout`]
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.writer.write_all(bytes).map_err(Error::Stdout)
    }

    /// Writes what is buffered.
    ///
    /// # Errors
    /// [`Error::Stdout`]
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.flush_writer().map_err(Error::Stdout)
    }

    /// Does what [`Output::flush`] does, for callbacks of the library.
    pub(crate) fn flush_writer(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// Writes a line to stderr, made [`printable`]. A closed stderr is no error.
pub(crate) fn tell(text: impl Display) {
    let _ = writeln!(io::stderr(), "pagestrata: {}", printable(&text.to_string()));
}

/// Text on one line that leaves the terminal and the direction of what is beside it alone:
/// characters that would change these are replaced by escapes as in Rust's strings.
#[must_use]
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_controls_the_terminal_is_escaped() {
        assert_eq!(printable("base/5/16384"), "base/5/16384");
        assert_eq!(printable("a\nb\u{1B}[2J\u{202E}c"), r"a\nb\u{1b}[2J\u{202e}c");
    }
}
