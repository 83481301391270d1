//! The `pagestrata` command: arguments in, output and an exit code out.
//!
//! ```text
//! args -> commands -> pagestrata-postgres-ingest: import, ingest, follow, restore, diff
//!                  -> pages, layers, verify: lists of what a store holds
//!                  -> demo: the sample in, and checked against its oracles
//! results -> Output: lines for people, or JSON
//! progress -> Bars: stderr, only on a terminal
//! errors -> advice -> one line on stderr, and an exit code
//! ```
//!
//! **Invariants:** a command that only reads opens a store that exists and writes nothing to it.
//! Only `main`, and a second SIGINT or SIGTERM, ends the process.
#![deny(unsafe_code)]

mod advice;
mod args;
mod commands;
mod demo;
mod error;
mod layers;
mod output;
mod pages;
mod progress;
mod verify;

use std::{io, process::ExitCode};

use clap::{Parser, error::ErrorKind};

use crate::{
    args::Cli,
    commands::run,
    error::{Error, ExitStatus},
    output::{Output, tell},
};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error).into(),
    };
    let mut output = Output::new(io::BufWriter::new(io::stdout().lock()), cli.json);
    let flushed = match run(cli.command, &mut output) {
        Ok(status) => output.flush().map(|()| status),
        Err(error) => Err(error),
    };
    let status = match flushed {
        Ok(status) => status,
        Err(error) => failed(&error),
    };
    status.into()
}

/// Prints the error in one line on stderr. A broken pipe is no error: the reader has seen enough.
fn failed(error: &Error) -> ExitStatus {
    if error.is_broken_pipe() {
        return ExitStatus::Done;
    }
    tell(error);
    error.exit_status()
}

/// Prints help, which is long, to stdout, and a wrong argument in one line to stderr.
fn usage(error: &clap::Error) -> ExitStatus {
    let is_help = matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    );
    if is_help {
        let _ = error.print();
        return if error.use_stderr() { ExitStatus::Usage } else { ExitStatus::Done };
    }
    let text = error.to_string();
    let paragraph: Vec<&str> =
        text.lines().take_while(|line| !line.trim().is_empty()).map(str::trim).collect();
    let paragraph = paragraph.join(" ");
    let text = paragraph.strip_prefix("error: ").unwrap_or(&paragraph);
    tell(format_args!("{text}; see pagestrata --help"));
    ExitStatus::Usage
}
