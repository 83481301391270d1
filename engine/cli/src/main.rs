//! The `pagestrata` command: arguments in, exit code out. Everything between is the library beside it.

use std::{io, process::ExitCode};

use clap::{Parser, error::ErrorKind};
use pagestrata_cli::{Error, ExitStatus, Output, args::Cli, run, tell};

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

/// Tells the error in one line. Nobody reads what goes into a broken pipe, and nobody is told.
fn failed(error: &Error) -> ExitStatus {
    if error.is_broken_pipe() {
        return ExitStatus::Done;
    }
    tell(error);
    error.exit_status()
}

/// Help is long and goes to stdout; a wrong argument is told in one line.
fn usage(error: &clap::Error) -> ExitStatus {
    let asked_for = matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    );
    if asked_for {
        let _ = error.print();
        return if error.use_stderr() { ExitStatus::Usage } else { ExitStatus::Done };
    }
    let text = error.to_string();
    let paragraph: Vec<&str> =
        text.lines().take_while(|line| !line.trim().is_empty()).map(str::trim).collect();
    let paragraph = paragraph.join(" ");
    let told = paragraph.strip_prefix("error: ").unwrap_or(&paragraph);
    tell(format_args!("{told}; see pagestrata --help"));
    ExitStatus::Usage
}
