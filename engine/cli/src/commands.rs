//! [`run`]: from the arguments to the functions that do it, one function for each command.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

use pagestrata_postgres::live::{ConnectionInfo, Interrupt};
use pagestrata_postgres_ingest::{
    diff::{Diff, DiffEvent, diff},
    follow::{Follow, FollowEvent, follow},
    import::{Spool, import, open_base},
    ingest::{Log, ingest},
    open_existing, open_to_ingest, open_to_write,
    pages::SkippedPage,
    restore::{Restore, restore},
};
use serde::Serialize;

use crate::{
    args::{Command, FollowArgs, IngestArgs, Target},
    demo::demo,
    error::{Error, ExitStatus, Result},
    layers,
    output::{Output, tell},
    pages,
    progress::Bars,
    verify::verify,
};

/// Does what the arguments say.
///
/// # Errors
/// What went wrong, with an exit code ([`Error::exit_status`]).
pub(crate) fn run<W: Write>(command: Command, output: &mut Output<W>) -> Result<ExitStatus> {
    match command {
        Command::Demo { store } => demo(store.as_deref(), output)?,
        Command::Import { target, base } => run_import(&target, base, output)?,
        Command::Ingest(args) => return run_ingest(&args, output),
        Command::Follow(args) => run_follow(args, output)?,
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
            let how = Restore { lsn, out: &out, max_bytes, skips_unknown: skip_unknown };
            return run_restore(&target, &how, output);
        }
        Command::Diff { target, lsn, base, running, skip_unknown } => {
            let (allows_running, skips_unknown) = (running, skip_unknown);
            let how = Diff { lsn, base: &base, allows_running, skips_unknown };
            return run_diff(&target, &how, output);
        }
        Command::Compact { target } => {
            let (_store, timeline) = open_to_write(&target.store, &target.timeline)?;
            layers::compact(&timeline, output)?;
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

fn run_import<W: Write>(target: &Target, base: PathBuf, output: &mut Output<W>) -> Result<()> {
    let spool = match base == Path::new("-") {
        true => Some(Spool::fill(io::stdin().lock(), &target.store)?),
        false => None,
    };
    let base = open_base(&spool.as_ref().map_or(base, Spool::path))?;
    let mut bars = Bars::default();
    let imported = import(&target.store, &target.timeline, &base, &mut |at| bars.show(at));
    drop(bars);
    let (store, report) = imported?;
    store.close(Duration::ZERO)?;
    output.result(&report)
}

fn run_ingest<W: Write>(args: &IngestArgs, output: &mut Output<W>) -> Result<ExitStatus> {
    let IngestArgs { target, .. } = args;
    let log = Log {
        dir: &args.wal,
        from: args.from,
        to: args.to,
        checks: args.check,
        allows_unknown_redo: args.allow_unknown_redo,
        checksums: args.checksum_switch(),
    };
    let (store, timeline) =
        open_to_ingest(&target.store, &target.timeline, args.deltas_per_page_max)?;
    let mut bars = Bars::default();
    let ingested = ingest(&timeline, &log, &mut |at| bars.show(at));
    drop(bars);
    let report = ingested?;
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

fn run_follow<W: Write>(args: FollowArgs, output: &mut Output<W>) -> Result<()> {
    let target = args.target;
    let how = Follow {
        info: with_password(args.conninfo),
        slot: args.slot,
        creates_slot: args.create_slot,
        until: args.until,
        flush_interval: Duration::from_secs(args.flush_interval),
        flush_bytes: args.flush_bytes,
        report_interval: Duration::from_secs(args.report_interval),
        allows_unknown_redo: args.allow_unknown_redo,
    };
    let (store, timeline) =
        open_to_ingest(&target.store, &target.timeline, args.deltas_per_page_max)?;
    let interrupt = stop_signal()?;
    let followed = follow(&timeline, &how, interrupt, &mut |event| match event {
        FollowEvent::Report(report) => output.pass_on(report).and_then(|()| output.flush_writer()),
        FollowEvent::Retrying(error) => {
            tell(format_args!("note: {error}; trying again"));
            Ok(())
        }
        _ => Ok(()),
    });
    let told = followed.map_err(Error::from).and_then(|report| output.result(&report));
    drop(timeline);
    let closed = store.close(Duration::ZERO);
    told?;
    closed?;
    Ok(())
}

/// Adds the password from the environment, unless there is one.
fn with_password(info: ConnectionInfo) -> ConnectionInfo {
    match std::env::var("PGPASSWORD") {
        Ok(password) if !info.has_password() => info.with_password(password),
        _ => info,
    }
}

/// Returns an interrupt that SIGINT and SIGTERM set; the second one ends the process.
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

fn run_restore<W: Write>(
    target: &Target,
    how: &Restore<'_>,
    output: &mut Output<W>,
) -> Result<ExitStatus> {
    let (_store, timeline) = open_existing(&target.store, &target.timeline)?;
    let mut bars = Bars::default();
    let mut list = |page: &SkippedPage| list_skipped(page, output);
    let restored = restore(&timeline, how, &mut list, &mut |at| bars.show(at));
    drop(bars);
    let report = restored?;
    output.result(&report)?;
    Ok(if report.skipped > 0 { ExitStatus::Skipped } else { ExitStatus::Done })
}

fn run_diff<W: Write>(
    target: &Target,
    how: &Diff<'_>,
    output: &mut Output<W>,
) -> Result<ExitStatus> {
    let (_store, timeline) = open_existing(&target.store, &target.timeline)?;
    let report = diff(&timeline, how, &mut |event| match event {
        DiffEvent::Different(difference) => output.pass_on(difference),
        DiffEvent::Skipped(page) => list_skipped(page, output),
        _ => Ok(()),
    })?;
    output.result(&report)?;
    Ok(match report.is_same() {
        false => ExitStatus::Failed,
        true if report.skipped > 0 => ExitStatus::Skipped,
        true => ExitStatus::Done,
    })
}

/// A page that `--skip-unknown` passed over.
#[derive(Debug, Serialize)]
struct SkippedLine {
    skipped: String,
    reason: String,
}

/// Lists a page that was skipped: as a JSON entry, or on stderr.
fn list_skipped<W: Write>(page: &SkippedPage, output: &mut Output<W>) -> io::Result<()> {
    let line = SkippedLine { skipped: page.page.to_string(), reason: page.reason.to_string() };
    if output.is_json() {
        return output.entry(&line);
    }
    tell(format_args!("skipped page {}: {}", line.skipped, line.reason));
    Ok(())
}
