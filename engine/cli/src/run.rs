//! From the arguments to the functions that do it.

use std::{
    io::{self, Write},
    path::Path,
    sync::OnceLock,
    time::Duration,
};

use pagestrata_postgres::live::{ConnectionInfo, Interrupt};

use crate::{
    ChecksumSwitch, Error, ExitStatus, Output, Result,
    args::{Command, Target},
    demo,
    diff::{Diff, diff},
    follow::{Follow, follow},
    import::{Spool, import, open_base},
    ingest::{Log, ingest},
    layers,
    output::tell,
    pages,
    restore::{Restore, restore},
    stores::{open_existing, open_to_ingest},
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
            let spool = match base == Path::new("-") {
                true => Some(Spool::fill(io::stdin().lock(), &target.store)?),
                false => None,
            };
            let base = open_base(&spool.as_ref().map_or(base, Spool::path))?;
            let (store, report) = import(&target.store, &target.timeline, &base)?;
            store.close(Duration::ZERO)?;
            output.result(&report)?;
        }
        Command::Ingest {
            target,
            wal,
            from,
            to,
            check,
            allow_unknown_redo,
            checksums_on,
            checksums_off,
            deltas_per_page_max,
        } => {
            let allows_unknown_redo = allow_unknown_redo;
            let on = checksums_on.map(|at| ChecksumSwitch { at, is_on: true });
            let checksums =
                on.or_else(|| checksums_off.map(|at| ChecksumSwitch { at, is_on: false }));
            let log = Log { dir: &wal, from, to, checks: check, allows_unknown_redo, checksums };
            return run_ingest(&target, &log, deltas_per_page_max, output);
        }
        Command::Follow {
            target,
            conninfo,
            slot,
            create_slot,
            until,
            flush_interval,
            flush_bytes,
            report_interval,
            allow_unknown_redo,
            deltas_per_page_max,
        } => {
            let how = Follow {
                info: with_password(conninfo),
                slot,
                creates_slot: create_slot,
                until,
                flush_interval: Duration::from_secs(flush_interval),
                flush_bytes,
                report_interval: Duration::from_secs(report_interval),
                allows_unknown_redo: allow_unknown_redo,
            };
            let (store, timeline) =
                open_to_ingest(&target.store, &target.timeline, deltas_per_page_max)?;
            let followed = follow(&timeline, &how, stop_signal()?, output);
            drop(timeline);
            let closed = store.close(Duration::ZERO);
            followed?;
            closed?;
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
        Command::Explain { target, key, lsn } => {
            let (_store, timeline) = open_existing(&target.store, &target.timeline)?;
            pages::explain(&timeline, key, lsn, output)?;
        }
        Command::Restore { target, lsn, out, max_bytes, skip_unknown } => {
            let (_store, timeline) = open_existing(&target.store, &target.timeline)?;
            let how = Restore { lsn, out: &out, max_bytes, skips_unknown: skip_unknown };
            return restore(&timeline, &how, output);
        }
        Command::Diff { target, lsn, base, running, skip_unknown } => {
            let (_store, timeline) = open_existing(&target.store, &target.timeline)?;
            let (allows_running, skips_unknown) = (running, skip_unknown);
            let report =
                diff(&timeline, &Diff { lsn, base: &base, allows_running, skips_unknown }, output)?;
            return Ok(match report.is_same() {
                false => ExitStatus::Failed,
                true if report.skipped > 0 => ExitStatus::Skipped,
                true => ExitStatus::Done,
            });
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

/// With what the environment has, unless it has one.
fn with_password(info: ConnectionInfo) -> ConnectionInfo {
    match std::env::var("PGPASSWORD") {
        Ok(password) if !info.has_password() => info.with_password(password),
        _ => info,
    }
}

/// An interrupt that SIGINT and SIGTERM set; the second one ends the process.
fn stop_signal() -> Result<&'static Interrupt> {
    static STOP: OnceLock<Interrupt> = OnceLock::new();
    let stop = STOP.get_or_init(Interrupt::default);
    ctrlc::set_handler(|| {
        if stop.set() {
            std::process::exit(ExitStatus::Failed as i32);
        }
    })
    .map_err(|error| Error::Signals { reason: error.to_string() })?;
    Ok(stop)
}

fn run_ingest<W: Write>(
    target: &Target,
    log: &Log<'_>,
    deltas_per_page_max: u32,
    output: &mut Output<W>,
) -> Result<ExitStatus> {
    let (store, timeline) = open_to_ingest(&target.store, &target.timeline, deltas_per_page_max)?;
    let report = ingest(&timeline, log)?;
    store.close(Duration::ZERO)?;
    output.result(&report)?;
    let Some(at) = report.torn_at else { return Ok(ExitStatus::Done) };
    output.flush()?;
    tell(format_args!(
        "warning: the log ends in a torn record at {at}; everything before it was ingested, supply a \
         whole segment, or wait until the server has written it, and ingest again for the rest"
    ));
    Ok(ExitStatus::Torn)
}
