//! Base backups of a server that runs, under load: imported as a directory and as tars, and in the
//! end every page equals the server's files. And archives that are none.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use pagestrata::Lsn;
use pagestrata_postgres::BaseBackup;

use crate::{
    server::PostgresServer,
    support::{Ran, command, contents, edit, files, run, sample_copy},
};

const SETTINGS: &str = "autovacuum = off\nwal_log_hints = on\nshared_buffers = 2MB\nbgwriter_delay = 10ms\nbgwriter_lru_maxpages = 1000";
/// Rounds of statements that grow, cut, make and drop relations.
const TABLES: &str = "create table if not exists cut(id int primary key, text text);\n\
    insert into cut select i, repeat('x', 300) from generate_series(1, 4000) i;\n\
    delete from cut where id > 200;\n\
    vacuum cut;\n\
    create table fresh as select i, point(i, i) as at from generate_series(1, 3000) i;\n\
    create index on fresh using gist (at);\n\
    insert into fresh select i, point(i, -i) from generate_series(1, 2000) i;\n\
    drop table if exists stale;\n\
    alter table fresh rename to stale;\n\
    update stale set at = point(i, 0) where i % 3 = 0;\n\
    vacuum stale;\n\
    truncate cut;\n";

/// A server with tables of `pgbench` that are larger than its buffers.
fn server() -> Option<PostgresServer> {
    let server = PostgresServer::start(SETTINGS)?;
    succeed(server.client("pgbench").args(["-i", "-s", "2", "-q", "postgres"]));
    Some(server)
}

#[track_caller]
fn succeed(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Transactions and statements in the background; ended where it is dropped.
struct Load(Vec<Child>);

impl Load {
    fn start(server: &PostgresServer, dir: &Path) -> Load {
        let script = dir.join("tables.sql");
        fs::write(&script, TABLES.repeat(10_000)).unwrap();
        let mut pgbench = server.client("pgbench");
        pgbench.args(["-n", "-c", "1", "-T", "600", "postgres"]);
        let mut psql = server.client("psql");
        psql.args(["-Xq", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-f"]).arg(script);
        let quiet = |command: &mut Command| {
            let command = command.stdin(Stdio::null()).stdout(Stdio::null());
            command.stderr(Stdio::null()).spawn().unwrap()
        };
        let load = Load([pgbench, psql].iter_mut().map(quiet).collect());
        thread::sleep(Duration::from_millis(500));
        load
    }

    /// Ends it, and waits for the server to be done with what it was at.
    fn stop(mut self, server: &PostgresServer) {
        for child in &mut self.0 {
            assert!(child.try_wait().unwrap().is_none(), "the load has ended too early");
        }
        drop(self);
        let others = "select count(*) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()";
        while server.sql(others) != "0" {
            thread::sleep(Duration::from_millis(10));
        }
        // One that found no page that all can see has made a map of zeros and logged nothing.
        server.sql("vacuum");
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The end of the backup in a log, by PostgreSQL's own program.
fn end_of_backup(server: &PostgresServer, start: Lsn) -> Lsn {
    let mut waldump = Command::new(server.program("pg_waldump"));
    waldump.args(["-r", "XLOG", "-s", &start.to_string(), "-p"]).arg(server.data().join("pg_wal"));
    let text = String::from_utf8(waldump.output().unwrap().stdout).unwrap();
    let line = text.lines().find(|line| line.contains("BACKUP_END")).expect("an end");
    assert!(line.ends_with(&start.to_string()), "{line}");
    let (_, behind) = line.split_once("lsn: ").unwrap();
    let at: Lsn = behind.split_once(',').unwrap().0.parse().unwrap();
    // A record of 34 bytes, and where the next one starts.
    Lsn((at.0 + 34).next_multiple_of(8))
}

/// Compares with the server's files, at an Lsn; how many pages, and how many forks that a drop
/// right before the backup left.
#[track_caller]
fn assert_same(dir: &Path, server: &PostgresServer, lsn: Lsn) -> (u64, u64) {
    let data = server.data();
    let diff = format!("diff --store {{}}/store --lsn {lsn} --json --base {}", data.display());
    let ran = run(dir, &diff);
    println!("{}", ran.text());
    let report = ran.good().json().pop().unwrap();
    assert_eq!((&report["different"], &report["sizes_different"]), (&0.into(), &0.into()));
    (report["pages"].as_u64().unwrap(), report["left_over"].as_u64().unwrap())
}

/// That whatever reads pages is refused at these Lsns, and says from where on it is not.
#[track_caller]
fn assert_refused(dir: &Path, lsns: [Lsn; 2], from: Option<Lsn>) {
    let says = match from {
        Some(from) => format!("up to {from}; choose an Lsn from that one on"),
        None => "has not been ingested".to_owned(),
    };
    for lsn in lsns {
        for command in [
            "get 1664/0/1262/main/0",
            "explain 1664/0/1262/main/0",
            "versions 1664/0/1262/main/0",
            "restore --out {}/out",
            "diff --base {}",
            "scan",
        ] {
            let arguments = format!("{command} --store {{}}/store --lsn {lsn}");
            run(dir, &arguments).failed(3, &["is not consistent at", &says]);
        }
    }
    assert!(!dir.join("out").exists());
}

fn lsn(report: &serde_json::Value, field: &str) -> Lsn {
    report[field].as_str().unwrap().parse().unwrap()
}

/// Imports a backup; its start.
#[track_caller]
fn import(dir: &Path, base: &Path) -> Lsn {
    let import = format!("import --json --store {{}}/store --base {}", base.display());
    start_of(&run(dir, &import).good())
}

/// The start of a backup that was imported.
#[track_caller]
fn start_of(import: &Ran) -> Lsn {
    let report = import.json().remove(0);
    assert_eq!(report["is_consistent"], false);
    lsn(&report, "lsn")
}

/// How many pages of a backup are newer than its start.
fn pages_behind(base: &Path, start: Lsn) -> u64 {
    let base = BaseBackup::open(pagestrata_postgres_ingest::storage(), base).unwrap();
    let (mut pages, mut behind) = (base.pages(), 0);
    while let Some((_, page)) = pages.next_page().unwrap() {
        let word = |at: usize| u64::from(u32::from_le_bytes(page[at..at + 4].try_into().unwrap()));
        behind += u64::from(word(0) << 32 | word(4) > start.0);
    }
    println!("{behind} pages were changed between the start of the backup and their copy");
    behind
}

/// Ingests all of the log of a server that has been stopped in two parts, the first up to before
/// the end of the backup, and compares everything; how many forks a drop right before the backup
/// left.
#[track_caller]
fn ingest_and_compare(dir: &Path, server: &PostgresServer, start: Lsn) -> u64 {
    server.ctl("stop -m fast");
    let end = end_of_backup(server, start);
    let ingest = format!(
        "ingest --json --store {{}}/store --wal {}",
        server.data().join("pg_wal").display()
    );
    let report = run(dir, &format!("{ingest} --to {}", Lsn(end.0 - 1))).good().json().remove(0);
    let before = lsn(&report, "to");
    assert!(start < before && before < end);
    assert_refused(dir, [start, before], None);
    let report = run(dir, &ingest).good().json().remove(0);
    assert_refused(dir, [before, Lsn(end.0 - 1)], Some(end));
    run(dir, &format!("get --store {{}}/store --lsn {end} 1664/0/1262/main/0 -o {{}}/page")).good();
    let (pages, left_over) = assert_same(dir, server, lsn(&report, "to"));
    println!(
        "backup from {start} to {end}, {} records in all: {pages} pages equal",
        report["records"]
    );
    assert!(pages > 5000);
    left_over
}

#[test]
fn a_directory_that_was_copied_under_load() {
    let Some(server) = server() else { return };
    let dir = tempfile::tempdir().unwrap();
    let load = Load::start(&server, dir.path());
    let base = dir.path().join("base");
    succeed(
        server
            .client("pg_basebackup")
            .args(["-Fp", "-X", "none", "-c", "fast", "-r", "8M", "-D"])
            .arg(&base),
    );
    thread::sleep(Duration::from_millis(500));
    load.stop(&server);
    // What a drop leaves whose record is before the start, if the checkpoint had begun by then. The
    // load may have made another one.
    File::create_new(base.join("base/5/99999")).unwrap();
    let start = import(dir.path(), &base);
    assert!(pages_behind(&base, start) > 100);
    assert!(ingest_and_compare(dir.path(), &server, start) >= 1);
    // Without its label it is a copy like any other.
    fs::remove_file(base.join("backup_label")).unwrap();
    run(dir.path(), "import --store {}/other --base {}/base")
        .failed(1, &["was not shut down", "pg_basebackup"]);
}

#[test]
fn a_tar_on_standard_input() {
    let Some(server) = server() else { return };
    let dir = tempfile::tempdir().unwrap();
    let load = Load::start(&server, dir.path());
    let mut backup = server.client("pg_basebackup");
    backup.args(["-Ft", "-X", "none", "-c", "fast", "-r", "8M", "-D", "-"]);
    let mut backup =
        backup.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut import = command();
    import.args(["import", "--json", "--base", "-", "--store"]).arg(dir.path().join("store"));
    let report = import.stdin(backup.stdout.take().unwrap()).output().unwrap();
    assert!(backup.wait().unwrap().success());
    load.stop(&server);
    ingest_and_compare(dir.path(), &server, start_of(&Ran::of(report).good()));
    let left = files(dir.path());
    let names = ["page", "store", "tables.sql"].map(|name| dir.path().join(name));
    assert_eq!(left, names);
}

/// By `follow`, and with a tablespace.
#[test]
fn tars_of_tablespaces() {
    let Some(server) = server() else { return };
    let dir = tempfile::tempdir().unwrap();
    let space = Path::new(server.socket_dir()).join("space");
    server.sql(&format!(
        "copy (select 1) to program 'cat > /dev/null && mkdir {0}'\ncreate tablespace space location '{0}'\n\
         create table far tablespace space as select i from generate_series(1, 20000) i",
        space.display()
    ));
    let load = Load::start(&server, dir.path());
    let base = dir.path().join("base");
    succeed(
        server
            .client("pg_basebackup")
            .args(["-Ft", "-X", "none", "-c", "fast", "-r", "8M", "-D"])
            .arg(&base),
    );
    server.sql("update far set i = i + 1");
    load.stop(&server);
    let oid = server.sql("select oid from pg_tablespace where spcname = 'space'");
    let (tar, aside) = (base.join(format!("{oid}.tar")), base.join("aside"));
    fs::rename(&tar, &aside).unwrap();
    let missing = format!("tablespace {oid} are not here");
    run(dir.path(), "import --store {}/store --base {}/base")
        .failed(1, &[&missing, "beside base.tar"]);
    fs::rename(&aside, &tar).unwrap();
    let start = import(dir.path(), &base);
    assert_refused(dir.path(), [start, start], None);
    let end = server.sql("checkpoint\nselect pg_current_wal_insert_lsn()");
    let conninfo = server.conninfo(server.socket_dir(), "user=postgres");
    let mut follow = command();
    follow
        .args(["follow", "--until", &end, "--conninfo", &conninfo, "--store"])
        .arg(dir.path().join("store"));
    succeed(&mut follow);
    // Stopping writes a record more, of no page.
    server.ctl("stop -m fast");
    let (store, timeline) =
        pagestrata_postgres_ingest::open_existing(&dir.path().join("store"), "main").unwrap();
    let at = timeline.last_record_lsn();
    drop((timeline, store));
    let (pages, _) = assert_same(dir.path(), &server, at);
    println!("backup from {start}, followed to {at}: {pages} pages equal");
    assert!(pages > 5000);
}

/// The sample's base as a tar.
fn sample_tar(dir: &Path) -> PathBuf {
    let path = dir.join("base.tar");
    let mut tar = tar::Builder::new(File::create(&path).unwrap());
    tar.append_dir_all("", dir.join("base")).unwrap();
    tar.finish().unwrap();
    path
}

/// Appends entries to the end of an archive, each with its name as it is.
fn append(path: &Path, entries: &[(&str, tar::EntryType, u64)]) {
    edit(path, |bytes| {
        let end = bytes.len() - 1024;
        bytes.truncate(end);
        for (name, kind, len) in entries {
            let mut header = tar::Header::new_gnu();
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_size(*len);
            header.set_cksum();
            bytes.extend_from_slice(header.as_bytes());
        }
        bytes.extend_from_slice(&[0; 1024]);
    });
}

#[test]
fn a_tar_that_lies_somewhere_is_imported_as_its_directory() {
    let dir = sample_copy();
    sample_tar(dir.path());
    let report = |base: &str| {
        let import =
            format!("import --json --store {{}}/store --timeline {base} --base {{}}/{base}");
        let mut report = run(dir.path(), &import).good().json().remove(0);
        report.as_object_mut().unwrap().remove("timeline");
        report
    };
    assert_eq!(report("base"), report("base.tar"));
    run(dir.path(), "ingest --store {}/store --wal {}/wal --timeline base.tar").good();
}

#[test]
fn hostile_and_damaged_archives() {
    use tar::EntryType as Kind;
    let dir = sample_copy();
    let path = sample_tar(dir.path());
    let good = fs::read(&path).unwrap();
    let before = contents(dir.path());
    let refused = |texts: &[&str]| {
        run(dir.path(), "import --store {}/store --base {}/base.tar").failed(1, texts);
        fs::write(&path, &good).unwrap();
        assert!(contents(dir.path()) == before, "something was written");
    };
    for (name, kind, len, says) in [
        ("../base/5/77777", Kind::Regular, 0, "found one out of it"),
        ("base/5/../../../x", Kind::Regular, 0, "found one out of it"),
        ("/base/5/77777", Kind::Regular, 0, "found one out of it"),
        ("/etc", Kind::Symlink, 0, "found one out of it"),
        ("base/5/77777", Kind::Symlink, 0, "expected a plain file, found a link"),
        ("base/5/77777", Kind::Link, 0, "expected a plain file, found a link"),
        ("base/5/77777", Kind::Directory, 0, "expected a plain file, found a directory"),
        ("base/5/77777", Kind::Fifo, 0, "expected a plain file, found something else"),
        ("base/5/77777", Kind::GNUSparse, 0, "found a sparse one"),
        ("base/5/77777", Kind::Regular, 8192, "corrupt tar archive"),
        ("base/5/77777", Kind::Regular, 1 << 40, "corrupt tar archive"),
        ("x", Kind::Regular, u64::MAX - 600, "corrupt tar archive"),
        ("x", Kind::XHeader, 1 << 40, "corrupt tar archive"),
        ("x", Kind::GNULongName, 1 << 40, "corrupt tar archive"),
        ("base/5/16384", Kind::Regular, 0, "a second time"),
        ("global/pg_control", Kind::Regular, 0, "a second time"),
        ("backup_label", Kind::Regular, 0, "corrupt backup label"),
        ("tablespace_map/", Kind::Regular, 512, "corrupt tablespace map"),
        ("pg_tblspc/4711", Kind::Symlink, 0, "tablespace 4711 are not here"),
    ] {
        append(&path, &[(name, kind, len)]);
        refused(&[says]);
    }
    let len = good.len();
    for cut in [1024, 1025, 1536, 10_000, len / 2, len - 100, len - 512, len - 1] {
        edit(&path, |bytes| bytes.truncate(len - cut));
        refused(&["corrupt", "base.tar"]);
    }
    edit(&path, |bytes| bytes[..4].copy_from_slice(&[0x1F, 0x8B, 8, 0]));
    refused(&["base.tar is compressed", "zcat "]);
    edit(&path, |bytes| bytes[..4].copy_from_slice(b"BZh9"));
    refused(&["corrupt tar archive at offset 0", "not compressed"]);
    // An archive of nothing, and none at all.
    fs::write(&path, [0; 1024]).unwrap();
    refused(&["expected PG_VERSION"]);
    fs::write(&path, []).unwrap();
    refused(&["corrupt tar archive", "its end"]);
    let mut child = command()
        .args(["import", "--base", "-", "--store"])
        .arg(dir.path().join("store"))
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&good[..len / 2]).unwrap();
    Ran::of(child.wait_with_output().unwrap()).failed(1, &["corrupt tar archive"]);
    assert!(contents(dir.path()) == before, "something was written");
    run(dir.path(), "import --store {}/store --base {}/base.tar").good();
}
