//! Settings of a real server that change while its log is written: `wal_level`, `wal_log_hints`,
//! data checksums. The server's own files say what each page is.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use pagestrata::Lsn;
use pagestrata_postgres::page_checksum;

use crate::{
    server::PostgresServer,
    support::{copy_dir, edit, run, same_pages},
};

const SETTINGS: &str = "autovacuum = off\nbgwriter_lru_maxpages = 0";
const MINIMAL: &str = "wal_level = minimal\nmax_wal_senders = 0";
const REPLICA: &str = "wal_level = replica\nmax_wal_senders = 10";

/// Appends settings to those that the server reads when it starts.
fn set(server: &PostgresServer, settings: &str) {
    let path = server.data().join("postgresql.auto.conf");
    writeln!(File::options().append(true).open(path).unwrap(), "{settings}").unwrap();
}

fn restart(server: &PostgresServer, settings: &str) {
    server.ctl("stop -m fast");
    set(server, settings);
    server.ctl("start");
}

/// Stops the server and copies its data directory to `name`.
fn stop_and_copy(server: &PostgresServer, dir: &Path, name: &str) {
    server.ctl("stop -m fast");
    copy_dir(&server.data(), &dir.join(name));
}

/// A table whose pages are not logged at `minimal`: made in the transaction that fills it.
fn make_table(server: &PostgresServer, name: &str) {
    server.sql(&format!(
        "create table {name} as select i, repeat('x', 100) from generate_series(1, 3000) i"
    ));
}

/// A table whose pages have been changed since the last checkpoint, and become all visible.
fn make_visible(server: &PostgresServer, name: &str) {
    server.sql(&format!(
        "create table {name}(i int)\ninsert into {name} select generate_series(1, 2000)\n\
         vacuum {name}"
    ));
}

/// The program of PostgreSQL that prints records, on the server's log from `from` on: the lines
/// that have `text`.
fn waldump(server: &PostgresServer, from: Lsn, text: &str) -> Vec<(Lsn, String)> {
    let mut waldump = Command::new(server.program("pg_waldump"));
    waldump.args(["-s", &from.to_string(), "-p"]).arg(server.data().join("pg_wal"));
    let output = String::from_utf8(waldump.output().unwrap().stdout).unwrap();
    let lsn = |line: &str| -> Lsn {
        let (_, behind) = line.split_once("lsn: ").unwrap();
        behind.split_once(',').unwrap().0.parse().unwrap()
    };
    let lines = output.lines().filter(|line| line.contains(text));
    lines.map(|line| (lsn(line), line.to_owned())).collect()
}

/// What is ingested from: the server's own log.
fn ingest(server: &PostgresServer, more: &str) -> String {
    let wal = server.data().join("pg_wal");
    format!("ingest --json --store {{}}/store --wal {}{more}", wal.display())
}

/// Imports `base`; where the log goes on.
fn import(dir: &Path) -> Lsn {
    let report = run(dir, "import --json --store {}/store --base {}/base").good().json().remove(0);
    lsn_at(&report, "lsn")
}

#[track_caller]
fn assert_same_lsns(dir: &Path, data: &Path, lsn: Lsn) {
    let (same, all) =
        same_pages(dir, data, Some(lsn), |_, found, on_disk| found[..8] == on_disk[..8]);
    println!("at {lsn} {same} of {all} pages have the server's Lsn");
    assert!(same == all && all > 900, "{same} of {all}");
}

/// How many pages of the files in a directory, new ones aside, have the checksum that they should,
/// and how many have not.
fn checksums(dir: &Path) -> (u64, u64) {
    let (mut good, mut bad) = (0, 0);
    for database in fs::read_dir(dir.join("base")).unwrap() {
        for entry in fs::read_dir(database.unwrap().path()).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if !name.bytes().all(|byte| byte.is_ascii_digit()) {
                continue;
            }
            for (block, page) in fs::read(&path).unwrap().chunks(8192).enumerate() {
                if page[14..16] == [0; 2] {
                    continue;
                }
                let page: &[u8; 8192] = page.try_into().unwrap();
                let is_good = page[8..10] == page_checksum(page, block as u32).to_le_bytes();
                *(if is_good { &mut good } else { &mut bad }) += 1_u64;
            }
        }
    }
    (good, bad)
}

fn lsn_at(report: &serde_json::Value, field: &str) -> Lsn {
    report[field].as_str().unwrap().parse().unwrap()
}

#[test]
fn a_log_of_minimal_is_refused() {
    let Some(server) = PostgresServer::start(&format!("{SETTINGS}\n{MINIMAL}")) else { return };
    let dir = tempfile::tempdir().unwrap();
    stop_and_copy(&server, dir.path(), "base");
    server.ctl("start");
    make_table(&server, "lost");
    server.ctl("stop -m fast");
    let start = import(dir.path());
    // The first record that is not of the log itself.
    let records = waldump(&server, start, "rmgr: ");
    let (first, _) = records.iter().find(|(_, line)| !line.contains("rmgr: XLOG")).unwrap();
    let from = format!("from {first} on was written at wal_level=minimal");
    run(dir.path(), &ingest(&server, "")).failed(1, &[&from, "take a new base backup", "replica"]);
}

#[test]
fn a_switch_to_minimal_and_back_is_refused_where_it_is() {
    let Some(server) = PostgresServer::start(&format!("{SETTINGS}\n{REPLICA}")) else { return };
    let dir = tempfile::tempdir().unwrap();
    stop_and_copy(&server, dir.path(), "base");
    server.ctl("start");
    make_table(&server, "kept");
    restart(&server, MINIMAL);
    make_table(&server, "lost");
    restart(&server, REPLICA);
    make_table(&server, "late");
    server.ctl("stop -m fast");
    let start = import(dir.path());
    let (at, _) = waldump(&server, start, "wal_level=minimal").remove(0);
    let from = format!("from {at} on was written at wal_level=minimal");
    let ran = run(dir.path(), &ingest(&server, ""));
    let ran = ran.failed(1, &[&from, "take a new base backup", "nothing was ingested"]);
    let (_, advice) = ran.stderr.split_once("--to ").expect("says how far it is good");
    let good: Lsn = advice.split(' ').next().unwrap().parse().unwrap();
    assert!(start < good && good <= at);
    run(dir.path(), &ingest(&server, &format!(" --to {good}"))).good();
    run(dir.path(), &ingest(&server, "")).failed(1, &[&from]);
    assert_recovery_refuses(&server, dir.path());
}

/// PostgreSQL draws the line at the same place: its own recovery of that base with that log ends.
fn assert_recovery_refuses(server: &PostgresServer, dir: &Path) {
    let data = server.data();
    let wal = dir.join("wal");
    copy_dir(&data.join("pg_wal"), &wal);
    fs::remove_dir_all(&data).unwrap();
    copy_dir(&dir.join("base"), &data);
    let mut permissions = String::new();
    for path in [&data, &wal] {
        permissions += &format!("chown -R postgres {0}; chmod -R go= {0}; ", path.display());
    }
    fs::write(data.join("recovery.signal"), "").unwrap();
    set(server, &format!("{REPLICA}\nrestore_command = 'cp {}/%f %p'", wal.display()));
    let is_open = Command::new("chmod").arg("a+rx").arg(dir).status().unwrap();
    assert!(is_open.success());
    let owned = Command::new("sh").arg("-c").arg(permissions).output().unwrap();
    println!("{}", String::from_utf8_lossy(&owned.stderr));
    let log = Path::new(server.socket_dir()).join("log");
    let before = fs::read(&log).unwrap().len();
    // It may be ready to be read from before it comes to the record.
    let _ = server.try_ctl("start");
    let text = || String::from_utf8_lossy(&fs::read(&log).unwrap()[before..]).into_owned();
    while data.join("postmaster.pid").exists() && !text().contains("archive recovery complete") {
        thread::sleep(Duration::from_millis(20));
    }
    let log = text();
    assert!(log.contains("WAL was generated with wal_level=minimal"), "{log}");
}

#[test]
fn a_base_of_minimal_is_good_where_the_log_is_not_of_it() {
    let Some(server) = PostgresServer::start(&format!("{SETTINGS}\n{MINIMAL}")) else { return };
    let dir = tempfile::tempdir().unwrap();
    make_table(&server, "early");
    stop_and_copy(&server, dir.path(), "base");
    set(&server, REPLICA);
    server.ctl("start");
    make_table(&server, "late");
    server.sql("vacuum");
    server.ctl("stop -m fast");
    let imported = run(dir.path(), "import --store {}/store --base {}/base").good();
    assert!(imported.text().contains("wal_level=minimal"), "{}", imported.text());
    let report = run(dir.path(), &ingest(&server, "")).good().json().remove(0);
    let diff = format!("diff --store {{}}/store --lsn {} --json", lsn_at(&report, "to"));
    let data = server.data();
    let diff = run(dir.path(), &format!("{diff} --base {}", data.display())).good().json();
    assert_eq!(diff.last().unwrap()["different"], 0);
    // A copy of a running server is of no such level: this one is made up.
    let start = lsn_at(&report, "from");
    let label = format!(
        "START WAL LOCATION: {start} (file 0000000100000000{:08X})\nCHECKPOINT LOCATION: {start}\n\
         BACKUP METHOD: streamed\nBACKUP FROM: primary\nSTART TIME: x\nLABEL: x\nSTART TIMELINE: 1\n",
        start.0 >> 20
    );
    fs::write(dir.path().join("base/backup_label"), label).unwrap();
    run(dir.path(), "import --store {}/other --base {}/base").failed(1, &["wal_level=minimal"]);
}

#[test]
fn wal_log_hints_is_followed() {
    let Some(server) = PostgresServer::start(SETTINGS) else { return };
    let dir = tempfile::tempdir().unwrap();
    make_visible(&server, "before");
    stop_and_copy(&server, dir.path(), "base");
    server.ctl("start");
    make_visible(&server, "off");
    stop_and_copy(&server, dir.path(), "first");
    set(&server, "wal_log_hints = on");
    server.ctl("start");
    make_visible(&server, "turned_on");
    stop_and_copy(&server, dir.path(), "second");
    set(&server, "wal_log_hints = off");
    server.ctl("start");
    make_visible(&server, "turned_off");
    stop_and_copy(&server, dir.path(), "third");
    let start = import(dir.path());
    let mut ends: Vec<Lsn> = waldump(&server, start, "CHECKPOINT_SHUTDOWN")
        .iter()
        .map(|(lsn, _)| Lsn(lsn.0 + 120))
        .collect();
    ends.remove(0);
    // All at once, with the pages made when they are flushed, and in two goes.
    let middle = ends[1].0 - 200;
    for (more, bound) in [("", 0), ("", 2), (&*format!(" --to {}", Lsn(middle)), 3)] {
        fs::remove_dir_all(dir.path().join("store")).unwrap();
        import(dir.path());
        let bound = format!(" --deltas-per-page-max {bound}");
        run(dir.path(), &ingest(&server, &format!("{more}{bound}"))).good();
        run(dir.path(), &ingest(&server, &bound)).good();
        for (name, end) in ["first", "second", "third"].iter().zip(&ends) {
            assert_same_lsns(dir.path(), &dir.path().join(name), *end);
        }
    }
}

#[test]
fn data_checksums_are_switched_where_that_is_told() {
    let Some(server) = PostgresServer::start(SETTINGS) else { return };
    let pg_checksums = |switch: &str| {
        let mut program = Command::new(server.program("pg_checksums"));
        let output = program.args([switch, "-D"]).arg(server.data()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let dir = tempfile::tempdir().unwrap();
    stop_and_copy(&server, dir.path(), "base");
    server.ctl("start");
    make_visible(&server, "off");
    stop_and_copy(&server, dir.path(), "first");
    pg_checksums("--enable");
    server.ctl("start");
    make_visible(&server, "turned_on");
    stop_and_copy(&server, dir.path(), "second");
    pg_checksums("--disable");
    server.ctl("start");
    make_visible(&server, "turned_off");
    stop_and_copy(&server, dir.path(), "third");
    let start = import(dir.path());
    let ends: Vec<Lsn> = waldump(&server, start, "CHECKPOINT_SHUTDOWN")
        .iter()
        .map(|(lsn, _)| Lsn(lsn.0 + 120))
        .collect();
    let [zeroth, first, second, third] = ends[..] else { panic!("{ends:?}") };
    // A record shows that they are on.
    let wal = "ingest --json --store {}/store --wal {}/second/pg_wal";
    let ran = run(dir.path(), wal);
    let ran = ran.failed(1, &["hint bits are logged", "--checksums-on", &first.to_string()]);
    assert!(
        ran.stderr.ends_with("nothing was ingested\n"),
        "where they were switched is not known"
    );
    assert!(ran.stderr.contains(&zeroth.to_string()), "{}", ran.stderr);
    let within = Lsn(first.0 + 8);
    run(dir.path(), &format!("{wal} --checksums-on {within}"))
        .failed(1, &[&format!("not shut down at {within}"), &first.to_string()]);
    let on = format!("--checksums-on {first}");
    run(dir.path(), &format!("{wal} {on}")).good();
    // What is there already is passed over.
    run(dir.path(), &format!("{wal} {on}")).good();
    let third_wal = "ingest --json --store {}/store --wal {}/third/pg_wal";
    let off = format!("--checksums-off {second}");
    // That they are off again says only the control file beside the log.
    run(dir.path(), third_wal).failed(1, &["pg_control", "--checksums-off", &second.to_string()]);
    run(dir.path(), &format!("{third_wal} {off}")).good();
    for (name, end) in [("first", first), ("second", second), ("third", third)] {
        assert_same_lsns(dir.path(), &dir.path().join(name), end);
        let out = format!("out_{name}");
        run(dir.path(), &format!("restore --store {{}}/store --lsn {end} --out {{}}/{out}")).good();
        let (good, bad) = checksums(&dir.path().join(out));
        println!("{name}: {good} pages with a checksum, {bad} without");
        assert_eq!((good > 500, bad > 500), (name == "second", name != "second"));
    }
}

/// Without a control file beside the log it is the log that shows it, where it does.
#[test]
fn a_log_that_shows_data_checksums_is_refused() {
    let Some(server) = PostgresServer::start(SETTINGS) else { return };
    let dir = tempfile::tempdir().unwrap();
    server.sql("create table t(i int)\ninsert into t select generate_series(1, 2000)");
    stop_and_copy(&server, dir.path(), "base");
    let mut program = Command::new(server.program("pg_checksums"));
    assert!(program.args(["--enable", "-D"]).arg(server.data()).status().unwrap().success());
    server.ctl("start");
    server.sql("select count(*) from t");
    server.ctl("stop -m fast");
    copy_dir(&server.data().join("pg_wal"), &dir.path().join("wal"));
    let start = import(dir.path());
    let hint = waldump(&server, start, "FPI_FOR_HINT").remove(0).0;
    let end = Lsn(start.0 + 120);
    run(dir.path(), "ingest --store {}/store --wal {}/wal")
        .failed(1, &[&hint.to_string(), "pg_checksums", "--checksums-on", &end.to_string()]);
    run(dir.path(), &format!("ingest --store {{}}/store --wal {{}}/wal --checksums-on {end}"))
        .good();
}

/// A number that is no level.
#[test]
fn a_control_file_with_another_level_is_refused() {
    let dir = crate::support::sample_copy();
    edit(&dir.path().join("base/global/pg_control"), |bytes| {
        bytes[172] = 7;
        let checksum = crate::bad_input::crc32c(&bytes[..288]);
        bytes[288..292].copy_from_slice(&checksum.to_le_bytes());
    });
    run(dir.path(), "import --store {}/store --base {}/base").failed(1, &["wal_level", "found 7"]);
}
