//! The command line: what there is to say, and what it means.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use pagestrata::Lsn;
use pagestrata_postgres::{
    RelPage,
    live::{ConnectionInfo, SlotName},
};
use pagestrata_postgres_ingest::ChecksumSwitch;

/// A page is some 8 KiB, and so are a hundred records of a page, about.
const DELTAS_PER_PAGE_MAX: u32 = 100;

/// Four segments of a server that was set up without a size of its own.
const FLUSH_BYTES: u64 = 64 << 20;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed: bad input, pages that differ (diff), damage, a store in use, an error of the operating system
  2  wrong arguments
  3  not found: no such store, timeline, file or page, or an Lsn outside of the history
  4  get: a record of the page cannot be redone here
  5  ingest: the log ends in a torn record; everything before it was ingested
  6  restore, diff: pages that cannot be redone were skipped (--skip-unknown); everything else is restored, or equal

An LSN is written as PostgreSQL does, such as 0/AAF2A0.
A KEY is tablespace/database/relation/fork/block, such as 1663/5/16384/main/0; a fork is main, fsm, vm or init.";

/// Every version of every page of a PostgreSQL cluster, from a base backup and its log.
#[derive(Debug, Parser)]
#[command(name = "pagestrata", version, after_help = EXIT_CODES, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// Print JSON: one object a line for lists, one object for reports.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Load a small real PostgreSQL capture, read it back, and check every page against its oracle
    Demo {
        /// Keep the store here; without it, a temporary one is made and removed
        #[arg(long, value_name = "DIR")]
        store: Option<PathBuf>,
    },
    /// Import a base backup, of a server that was shut down or of one that runs, as images where
    /// the log goes on
    Import {
        /// Which timeline of which store; both are created if they are missing
        #[command(flatten)]
        target: Target,
        /// The data directory of a server that was shut down; a base backup of one that runs: a
        /// directory with its backup_label, or what pg_basebackup -Ft makes: a tar, a directory
        /// with base.tar, or - for a tar on standard input. Unpack what is compressed
        #[arg(long, value_name = "PATH")]
        base: PathBuf,
    },
    /// Ingest the log from where the timeline ends; what it has already is skipped
    Ingest(IngestArgs),
    /// Follow a running server: ingest its log as it is written, until SIGINT or SIGTERM
    Follow(FollowArgs),
    /// Write a page as it was at an Lsn to stdout
    Get {
        /// Which timeline of which store
        #[command(flatten)]
        target: Target,
        /// Which page
        key: RelPage,
        /// At which Lsn
        #[arg(long, value_name = "LSN", value_parser = parse_lsn)]
        lsn: Lsn,
        /// Write the page to this file instead; with --json, the page is only written to a file
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// List the versions that make a page, newest first, back to its base
    Versions {
        /// Which timeline of which store
        #[command(flatten)]
        target: Target,
        /// Which page
        key: RelPage,
        /// At which Lsn [default: the last record's]
        #[arg(long, value_name = "LSN", value_parser = parse_lsn)]
        lsn: Option<Lsn>,
    },
    /// List all pages at an Lsn, each with its newest version
    Scan {
        /// Which timeline of which store
        #[command(flatten)]
        target: Target,
        /// At which Lsn
        #[arg(long, value_name = "LSN", value_parser = parse_lsn)]
        lsn: Lsn,
    },
    /// List the records that make a page, oldest first, from its base
    Explain {
        /// Which timeline of which store
        #[command(flatten)]
        target: Target,
        /// Which page
        key: RelPage,
        /// At which Lsn [default: the last record's]
        #[arg(long, value_name = "LSN", value_parser = parse_lsn)]
        lsn: Option<Lsn>,
    },
    /// Write all relation files of the data directory as they were at an Lsn
    Restore {
        /// Which timeline of which store
        #[command(flatten)]
        target: Target,
        /// At which Lsn
        #[arg(long, value_name = "LSN", value_parser = parse_lsn)]
        lsn: Lsn,
        /// A directory that is not there yet, or empty
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Refuse to write files of more bytes than this, pages of zeros included [default: 8 times
        /// the stored pages, at least 1 GiB]
        #[arg(long, value_name = "BYTES")]
        max_bytes: Option<u64>,
        /// Write zeros for a page that cannot be redone, list it and go on; the exit code is 6
        #[arg(long)]
        skip_unknown: bool,
    },
    /// Compare all pages at an Lsn with the files of a data directory
    Diff {
        /// Which timeline of which store
        #[command(flatten)]
        target: Target,
        /// At which Lsn
        #[arg(long, value_name = "LSN", value_parser = parse_lsn)]
        lsn: Lsn,
        /// The data directory of a server that was shut down, or a copy of it
        #[arg(long, value_name = "DIR")]
        base: PathBuf,
        /// Compare also if the server runs or has crashed: its files are then those of no one Lsn
        #[arg(long)]
        running: bool,
        /// Pass over a page that cannot be redone, and list it; the exit code is 6 unless something
        /// differs
        #[arg(long)]
        skip_unknown: bool,
    },
    /// Merge layer files until no merge is worth its bytes any more; a store that is open for
    /// writing does so after each flush
    Compact {
        /// Which timeline of which store
        #[command(flatten)]
        target: Target,
    },
    /// List the layer files
    Layers {
        /// Which timeline of which store
        #[command(flatten)]
        target: Target,
    },
    /// Print everything in a layer file
    DumpLayer {
        /// The file
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Read every byte of layer files and check it
    Verify(Verified),
}

/// Which log to ingest, and how.
#[derive(Debug, Args)]
pub(crate) struct IngestArgs {
    /// Which timeline of which store
    #[command(flatten)]
    pub(crate) target: Target,
    /// The directory of WAL segments
    #[arg(long, value_name = "DIR")]
    pub(crate) wal: PathBuf,
    /// Where to start reading: a record at or before the timeline's last one [default: its last
    /// one]
    #[arg(long, value_name = "LSN", value_parser = parse_lsn)]
    pub(crate) from: Option<Lsn>,
    /// Stop behind the last record that ends at or before this
    #[arg(long, value_name = "LSN", value_parser = parse_lsn)]
    pub(crate) to: Option<Lsn>,
    /// Compare redo with each image that a record has for that (wal_consistency_checking), and stop
    /// at the first difference
    #[arg(long)]
    pub(crate) check: bool,
    /// Keep records of access methods that cannot be redone here, instead of refusing them; get
    /// fails on their pages
    #[arg(long)]
    pub(crate) allow_unknown_redo: bool,
    /// pg_checksums switched data checksums on while the server was shut down: the end of the
    /// shutdown checkpoint. The log does not say it; where it shows, or the control file beside
    /// it does, ingest asks for this
    #[arg(long, value_name = "LSN", value_parser = parse_lsn)]
    pub(crate) checksums_on: Option<Lsn>,
    /// The same, if it switched them off
    #[arg(long, value_name = "LSN", value_parser = parse_lsn, conflicts_with = "checksums_on")]
    pub(crate) checksums_off: Option<Lsn>,
    /// Where reading a page would take more deltas than this, make the page when they are flushed;
    /// 0: never
    #[arg(long, value_name = "N", default_value_t = DELTAS_PER_PAGE_MAX)]
    pub(crate) deltas_per_page_max: u32,
}

impl IngestArgs {
    /// Returns the switch of data checksums that was named, if there is one.
    pub(crate) fn checksum_switch(&self) -> Option<ChecksumSwitch> {
        let switch = |at, is_on| ChecksumSwitch { at, is_on };
        let on = self.checksums_on.map(|at| switch(at, true));
        on.or_else(|| self.checksums_off.map(|at| switch(at, false)))
    }
}

/// Which server to follow, and how.
#[derive(Debug, Args)]
pub(crate) struct FollowArgs {
    /// Which timeline of which store
    #[command(flatten)]
    pub(crate) target: Target,
    /// The server: key=value pairs, as libpq has them (host, port, user, password,
    /// application_name); a password also from PGPASSWORD
    #[arg(long, value_name = "CONNINFO")]
    pub(crate) conninfo: ConnectionInfo,
    /// The physical replication slot that makes the server keep its log for this
    #[arg(long, value_name = "NAME")]
    pub(crate) slot: Option<SlotName>,
    /// Create the slot if it is not there
    #[arg(long, requires = "slot")]
    pub(crate) create_slot: bool,
    /// Stop behind the first record that ends here or behind
    #[arg(long, value_name = "LSN", value_parser = parse_lsn)]
    pub(crate) until: Option<Lsn>,
    /// How often what came is made durable and the server told of it, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) flush_interval: u64,
    /// Make what came durable as soon as this many bytes of the log are not
    #[arg(long, value_name = "BYTES", default_value_t = FLUSH_BYTES, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) flush_bytes: u64,
    /// How often lag and rate are printed, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) report_interval: u64,
    /// Keep records of access methods that cannot be redone here, instead of refusing them
    #[arg(long)]
    pub(crate) allow_unknown_redo: bool,
    /// Where reading a page would take more deltas than this, make the page when they are flushed;
    /// 0: never
    #[arg(long, value_name = "N", default_value_t = DELTAS_PER_PAGE_MAX)]
    pub(crate) deltas_per_page_max: u32,
}

/// A timeline of a store.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// The store's directory
    #[arg(long, value_name = "DIR")]
    pub(crate) store: PathBuf,
    /// The timeline
    #[arg(long, value_name = "NAME", default_value = "main", value_parser = parse_timeline)]
    pub(crate) timeline: String,
}

/// What to verify.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(crate) struct Verified {
    /// The store's directory
    #[arg(long, value_name = "DIR", conflicts_with = "files")]
    pub(crate) store: Option<PathBuf>,
    /// Only this timeline of the store [default: all of them]
    #[arg(long, value_name = "NAME", requires = "store")]
    pub(crate) timeline: Option<String>,
    /// Layer files
    #[arg(value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
}

fn parse_lsn(text: &str) -> Result<Lsn, String> {
    let lsn: Lsn = text.parse().map_err(|error: pagestrata::ParseLsnError| error.to_string())?;
    if lsn.is_valid() && lsn != Lsn::MAX {
        return Ok(lsn);
    }
    Err("no position in a log: expected an Lsn above zero and below the highest".to_owned())
}

/// What the engine refuses as a name, before a store is made for it.
fn parse_timeline(text: &str) -> Result<String, String> {
    if pagestrata::is_timeline_name(text) {
        return Ok(text.to_owned());
    }
    Err("no name: expected 1 to 255 bytes without control characters, of direction too".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_makes_sense() {
        Cli::command().debug_assert();
    }

    #[test]
    fn zero_and_the_highest_are_no_positions() {
        assert_eq!(parse_lsn("0/10"), Ok(Lsn(16)));
        for text in ["0/0", "FFFFFFFF/FFFFFFFF", "16", ""] {
            assert!(parse_lsn(text).is_err(), "{text:?}");
        }
    }
}
