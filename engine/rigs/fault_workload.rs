//! A small, deterministic workload on a store, to be run while one system call fails
//! (`inject_faults.sh`), and a check of what it left.
//!
//! ```text
//! fault_workload DIR > SAID          writes; prints each commit and flush once acknowledged
//! fault_workload --check DIR SAID    checks that all of them are there
//! ```
//!
//! A failed call of the engine does not end the program: it prints the error and continues. Exit
//! codes: 0; 2 if the store could not be opened or written any more; 1 if the check finds something
//! missing; 101 for a panic.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program")]

use std::{env, fs, io::Write, path::Path, process::ExitCode, time::Duration};

use pagestrata::{
    Background, Error, Key, Lsn, Options, Result, Scratch, Store, Timeline, Value, WriteLease,
};

const COMMITS: u64 = 24;
const IMPORT: u64 = 15;
/// How often a refused commit or flush is tried.
const TRIES: usize = 3;

/// No threads, so that the system calls have the same numbers each time.
fn options() -> Options {
    Options {
        background: Background::Callers,
        open_layer_size_max_bytes: 64 << 10,
        log_segment_size_bytes: 4 << 10,
        log_size_max_bytes: 64 << 10,
        flush_retry_delay: Duration::from_millis(1),
        flush_retry_delay_max: Duration::from_millis(1),
        store_id: Some(7),
        ..Options::default()
    }
}

fn key(n: u64) -> Key {
    Key::new(1, (n % 5) as u32)
}

fn value(n: u64) -> Vec<u8> {
    // Two are longer than a segment of the log: each gets a segment of its own length, which is not
    // reused.
    let len = if n % 10 == 2 && n > 10 { 40_000 } else { 600 + n * 31 % 500 };
    (0..len).map(|at| (n * 7 + at) as u8).collect()
}

fn say(what: &str, n: u64) {
    // If this write fails, the acknowledgement was not received.
    let _ = std::io::stdout().lock().write_all(format!("{what} {n}\n").as_bytes());
}

fn retry<T>(what: &str, mut work: impl FnMut() -> Result<T>) -> Result<T> {
    let mut left = TRIES;
    loop {
        let error = match work() {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        eprintln!("{what}: {error}");
        left -= 1;
        if left == 0 || matches!(error, Error::ReadOnly { .. }) {
            return Err(error);
        }
    }
}

fn commit(lease: &mut WriteLease<'_>, n: u64) -> Result<()> {
    lease.put(key(n), Lsn(10 * n), Value::Image(&value(n)))?;
    lease.put(Key::new(2, 0), Lsn(10 * n), Value::Image(&n.to_le_bytes()))?;
    retry("commit", || lease.commit(Lsn(10 * n)))?.wait()?;
    say("commit", n);
    Ok(())
}

fn import(lease: &mut WriteLease<'_>, n: u64) -> Result<()> {
    retry("import", || {
        let mut import = lease.import_images(Lsn(10 * n))?;
        import.put(key(n), &value(n))?;
        import.put(Key::new(2, 0), &n.to_le_bytes())?;
        import.finish()
    })?;
    say("commit", n);
    Ok(())
}

fn live(dir: &Path) -> Result<()> {
    // Opened twice: the first time it is created, the second time its log is replayed.
    for half in 0..2 {
        let store = retry("open", || Store::open(dir, options()))?.0;
        let main = match store.timeline("main") {
            Ok(main) => main,
            Err(_) => retry("create", || store.create_timeline("main", Lsn(1)))?,
        };
        let begun = main.last_record_lsn().0 / 10;
        let end = COMMITS / 2 * (half + 1);
        let mut lease = main.write_lease()?;
        for n in begun + 1..=end {
            if n == IMPORT {
                import(&mut lease, n)?;
            } else {
                commit(&mut lease, n)?;
            }
            if n % 5 == 0 {
                lease.roll()?;
                let _ = retry("flush", || main.flush()).map(|lsn| say("flush", lsn.0));
            }
        }
        drop(lease);
        // The injected fault may be in a read, but only once.
        let mut tries = (0..TRIES).map(|_| check(&main, end));
        assert!(tries.any(|checked| checked.is_ok()), "{:?}", check(&main, end));
        if half == 1 {
            drop(main);
            store.close(Duration::ZERO)?;
        }
    }
    Ok(())
}

/// Returns the last commit of a timeline. Fails if an acknowledged commit is missing or a commit is
/// there in part.
fn check(main: &Timeline, acknowledged: u64) -> std::result::Result<u64, String> {
    let found = main.last_record_lsn().0 / 10;
    if found < acknowledged {
        return Err(format!("lost: {acknowledged} were acknowledged, {found} are there"));
    }
    let (snapshot, mut scratch) = (main.snapshot(), Scratch::new());
    for n in 1..=found {
        for (key, expected) in [(key(n), value(n)), (Key::new(2, 0), n.to_le_bytes().to_vec())] {
            let versions = snapshot.guard().versions(key, Lsn(10 * n), &mut scratch);
            let versions = versions.map_err(|error| format!("commit {n}: {error}"))?;
            let newest = versions.newest().map(|newest| (newest.lsn, newest.bytes));
            if newest != Some((Lsn(10 * n), &expected[..])) {
                return Err(format!("commit {n}: {key} is not as it was written"));
            }
        }
    }
    main.verify().map_err(|error| error.to_string())?;
    Ok(found)
}

/// Checks that what was acknowledged is there, and that the store is still usable.
fn check_what_was_said(dir: &Path, said: &str) -> std::result::Result<(), String> {
    let highest = |what: &str| {
        let numbers = said.lines().filter_map(|line| line.strip_prefix(what));
        numbers.filter_map(|number| number.trim().parse::<u64>().ok()).max().unwrap_or_default()
    };
    let text = |error: Error| error.to_string();
    let (acknowledged, flushed) = (highest("commit"), highest("flush"));
    let (store, _) = Store::open(dir, options()).map_err(text)?;
    let main = match store.timeline("main") {
        Ok(main) => main,
        Err(error) if acknowledged > 0 => return Err(error.to_string()),
        Err(_) => store.create_timeline("main", Lsn(1)).map_err(text)?,
    };
    let found = check(&main, acknowledged)?;
    if main.disk_consistent_lsn().0 < flushed {
        return Err(format!("{flushed} was flushed, it says {}", main.disk_consistent_lsn()));
    }
    let mut lease = main.write_lease().map_err(text)?;
    commit(&mut lease, found + 1).map_err(text)?;
    drop(lease);
    main.flush().map_err(text)?;
    check(&main, found + 1)?;
    drop(main);
    store.close(Duration::ZERO).map_err(text)?;
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let done = match &arguments[..] {
        [check, dir, said] if check == "--check" => {
            let said = fs::read_to_string(said).expect("what was said");
            check_what_was_said(dir.as_ref(), &said).map_err(|wrong| (1, wrong))
        }
        [dir] => live(dir.as_ref()).map_err(|error| (2, error.to_string())),
        _ => Err((3, "fault_workload DIR | --check DIR SAID".to_owned())),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, wrong)) => {
            eprintln!("{wrong}");
            code.into()
        }
    }
}
