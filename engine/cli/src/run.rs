//! From the arguments to the functions that do it.

use std::io::{self, Write};

use crate::{
    ExitStatus, Output, Result,
    args::{Command, Target},
    demo,
    import::{import, open_base},
    ingest::{Log, ingest},
    layers, pages,
    stores::open_existing,
    verify::verify,
};

/// Does what the arguments say.
///
/// # Errors
/// Whatever went wrong, with an exit code ([`crate::Error::exit_status`]).
pub fn run<W: Write>(command: Command, output: &mut Output<W>) -> Result<ExitStatus> {
    match command {
        Command::Demo { store } => demo::demo(store.as_deref(), output)?,
        Command::Import { target, base } => {
            let base = open_base(&base)?;
            let (store, report) = import(&target.store, &target.timeline, &base)?;
            store.close(std::time::Duration::ZERO)?;
            output.result(&report)?;
        }
        Command::Ingest { target, wal, from, to } => {
            return run_ingest(&target, &Log { dir: &wal, from, to }, output);
        }
        Command::Get { target, key, lsn, output: file } => {
            let (_store, timeline) = open_existing(&target.store, &target.timeline)?;
            pages::get(&timeline, key, lsn, file.as_deref(), output)?;
        }
        Command::Versions { target, key, lsn } => {
            let (_store, timeline) = open_existing(&target.store, &target.timeline)?;
            pages::versions(&timeline, key, lsn, output)?;
        }
        Command::Scan { target, lsn } => {
            let (_store, timeline) = open_existing(&target.store, &target.timeline)?;
            pages::scan(&timeline, lsn, output)?;
        }
        Command::Layers { target } => {
            let (_store, timeline) = open_existing(&target.store, &target.timeline)?;
            layers::layers(&timeline, output)?;
        }
        Command::DumpLayer { file } => layers::dump(&file, output)?,
        Command::Verify(what) => verify(&what, output)?,
    }
    Ok(ExitStatus::Done)
}

fn run_ingest<W: Write>(
    target: &Target,
    log: &Log<'_>,
    output: &mut Output<W>,
) -> Result<ExitStatus> {
    let (store, timeline) = open_existing(&target.store, &target.timeline)?;
    let report = ingest(&timeline, log)?;
    store.close(std::time::Duration::ZERO)?;
    output.result(&report)?;
    let Some(at) = report.torn_at else { return Ok(ExitStatus::Done) };
    output.flush()?;
    // A closed stderr is nobody to tell; the exit code says it too.
    let _ = writeln!(
        io::stderr(),
        "pagestrata: warning: the log ends in a torn record at {at}; everything before it was ingested, \
         supply a whole segment and ingest again for the rest"
    );
    Ok(ExitStatus::Torn)
}
