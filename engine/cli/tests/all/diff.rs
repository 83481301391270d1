//! `diff` against real servers: what PostgreSQL does not log is counted by kind, and everything
//! else is a difference.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use pagestrata::Lsn;

use crate::{
    server::PostgresServer,
    support::{Ran, copy_dir, edit, run},
};

const SETTINGS: &str = "autovacuum = off\nbgwriter_lru_maxpages = 0\n\
    wal_writer_delay = 10s\nwal_buffers = 16MB\nmax_prepared_transactions = 2";

/// Tables and indexes of every kind whose pages PostgreSQL changes without a word in the log.
const TABLES: &str = "create unlogged table quick(id int primary key, t text)\n\
    insert into quick select i, 'x' from generate_series(1, 1000) i\n\
    create unlogged sequence quick_numbers\n\
    select nextval('quick_numbers')\n\
    create sequence numbers\n\
    create table grown(i int)\n\
    insert into grown select i from generate_series(1, 100) i\n\
    create table hidden(i int)\n\
    create table words(id int, word text)\n\
    create index words_word on words using spgist(word)\n\
    create table dense(id int, during int4range)\n\
    create index dense_during on dense using gist(during)";

/// Dead items that a full GiST leaf gives up when the next tuple comes.
const DENSE: &str = "set enable_seqscan = off\nset enable_bitmapscan = off\n\
    insert into dense select i, int4range(i % 200, i % 200 + 1) from generate_series(1, 3000) i\n\
    delete from dense where id % 4 = 1\n\
    select count(*) from dense where during && int4range(0, 500)\n\
    insert into dense select i, int4range(i % 200, i % 200 + 1)\x20\
        from generate_series(3001, 4000) i\n\
    delete from dense where id % 4 = 2\n\
    select count(*) from dense where during && int4range(0, 500)\n\
    insert into dense select i, int4range(i % 200, i % 200 + 1)\x20\
        from generate_series(4001, 5000) i";

const WORK: &str = "insert into quick values (1, 'x')\n\
    select nextval('numbers') from generate_series(1, 40)\n\
    insert into words select i, md5(i::text) from generate_series(1, 3000) i\n\
    delete from words where id % 2 = 0\n\
    vacuum words\n\
    insert into words select i, md5(i::text) from generate_series(3001, 4000) i\n\
    begin\n\
    insert into hidden select 0\n\
    prepare transaction 'open'\n\
    insert into hidden select i from generate_series(1, 10) i\n\
    vacuum hidden";

struct Cluster {
    server: PostgresServer,
    dir: tempfile::TempDir,
}

impl Cluster {
    /// A server whose base has been imported, and that runs again.
    fn start(settings: &str, statements: &str) -> Option<Cluster> {
        let server = PostgresServer::start(settings)?;
        let dir = tempfile::tempdir().unwrap();
        server.sql(statements);
        server.ctl("stop -m fast");
        copy_dir(&server.data(), &dir.path().join("base"));
        run(dir.path(), "import --store {}/store --base {}/base").good();
        server.ctl("start");
        Some(Cluster { server, dir })
    }

    /// Kills the server and the session that has run these statements in a transaction, at once.
    fn crash_after(&self, statements: &[&str]) {
        let pid = self.pid();
        let mut psql = self.server.client("psql");
        psql.args(["-XqAt", "-d", "postgres", "-c", "begin"]);
        for statement in statements {
            psql.args(["-c", statement]);
        }
        psql.args(["-c", "copy (select 1) to program 'kill -9 $(head -n 1 postmaster.pid) $PPID'"]);
        let output = psql.stdin(Stdio::null()).output().unwrap();
        assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        wait_for_exit(pid);
    }

    fn pid(&self) -> u32 {
        let text = fs::read_to_string(self.server.data().join("postmaster.pid")).unwrap();
        text.lines().next().unwrap().parse().unwrap()
    }

    /// Starts the server again; its other processes may still be about to end.
    fn restart(&self) {
        let left = || {
            let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
            let data = self.server.data();
            processes
                .filter(|path| fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd == data))
                .count()
        };
        while left() > 0 {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.server.ctl("start");
    }

    /// Stops the server and ingests all of its log; the end of that.
    fn stop_and_ingest(&self) -> Lsn {
        self.server.ctl("stop -m fast");
        self.ingest()
    }

    fn ingest(&self) -> Lsn {
        self.ingest_with("")
    }

    fn ingest_with(&self, more: &str) -> Lsn {
        let wal = self.server.data().join("pg_wal");
        let ingest = format!("ingest --json --store {{}}/store --wal {}{more}", wal.display());
        let report = run(self.dir.path(), &ingest).good().json().remove(0);
        report["to"].as_str().unwrap().parse().unwrap()
    }

    fn diff(&self, lsn: Lsn, more: &str) -> Ran {
        let data = self.server.data();
        let diff = format!("diff --store {{}}/store --lsn {lsn} --base {}{more}", data.display());
        run(self.dir.path(), &diff)
    }

    /// Where a relation's file is.
    fn file(&self, relation: &str) -> PathBuf {
        let path = self.server.sql(&format!("select pg_relation_filepath('{relation}')"));
        self.server.data().join(path)
    }
}

/// Waits until the process is gone for good: one that nobody has waited for still counts for
/// PostgreSQL.
fn wait_for_exit(pid: u32) {
    while Path::new(&format!("/proc/{pid}")).exists() {
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", path.display()))
}

#[test]
fn what_is_not_logged_is_counted_by_kind() {
    let Some(cluster) = Cluster::start(SETTINGS, TABLES) else { return };
    let server = &cluster.server;
    // Blocks that a transaction adds, and whose log is lost with it.
    // And files of relations of which no row is left.
    cluster.crash_after(&[
        "insert into grown select i from generate_series(1, 20000) i",
        "create table lost as select i from generate_series(1, 5000) i",
        "create index on lost(i)",
    ]);
    cluster.restart();
    // Behind the crash, for recovery makes pages as redo does here.
    server.sql(DENSE);
    server.sql(WORK);
    server.sql("create table later(i int)");
    let names = ["numbers", "words_word", "dense_during", "hidden", "grown", "quick", "later"];
    let files = names.map(|name| cluster.file(name));
    let end = cluster.stop_and_ingest();
    let report = cluster.diff(end, " --json").good().json();
    println!("{}", report.last().unwrap());
    assert_eq!(report.len(), 1, "nothing but the report");
    let found = &report[0];
    assert_eq!((&found["different"], &found["sizes_different"]), (&0.into(), &0.into()));
    let kinds = &found["not_logged"];
    for (kind, at_least) in [
        // The table, its index, its TOAST table and that one's index, and the sequence.
        ("unlogged_relations", 5),
        ("sequences", 1),
        ("spgist_last_used_pages", 1),
        ("gist_tuples_deleted", 1),
        ("empty_visibility_maps", 1),
        ("trailing_zero_blocks", 10),
        ("orphan_forks", 2),
        ("free_space_map_pages", 10),
    ] {
        assert!(kinds[kind].as_u64() >= Some(at_least), "{kind}: {kinds}");
    }
    let text = cluster.diff(end, "").good();
    for kind in ["not logged: 5 unlogged relations, 1 states of sequences", "trailing blocks"] {
        assert!(text.text().contains(kind), "{kind} is not in {}", text.text());
    }
    check_other_bytes(&cluster, end, &files);
    restores_unlogged_relations(&cluster, end, &files[5]);
}

/// A byte beside what is not logged is a difference, and names its page.
fn check_other_bytes(cluster: &Cluster, end: Lsn, files: &[PathBuf; 7]) {
    let [numbers, words, dense, hidden, grown, quick, later] = files;
    let is_garbage = |page: &[u8]| page[8188] & 5 == 1;
    let leaf = fs::read(dense).unwrap().chunks(8192).position(is_garbage).unwrap() * 8192;
    for (file, at, bit) in [
        // The sequence's is_called, and its special space.
        (numbers.clone(), 8184 - 8, 1),
        (numbers.clone(), 8184, 1),
        // The metapage's magic number, and its flags.
        (words.clone(), 24, 1),
        (words.clone(), 8184, 2),
        // Deleted; the right link.
        (dense.clone(), leaf + 8188, 2),
        (dense.clone(), leaf + 8184, 1),
        // A bit of a map.
        (beside(hidden, "_vm"), 24, 1),
        (beside(hidden, "_vm"), 8191, 0x80),
        // A block that the crash left behind.
        (grown.clone(), fs::metadata(grown).unwrap().len() as usize - 1, 1),
        (later.clone(), 0, 0),
    ] {
        let before = fs::read(&file).unwrap();
        match bit {
            // One block more, and not of zeros.
            0 => edit(&file, |bytes| bytes.extend_from_slice(&[1; 8192])),
            bit => edit(&file, |bytes| bytes[at] ^= bit),
        }
        let ran = cluster.diff(end, " --json");
        assert_eq!(ran.code, 1, "byte {at} of {}", file.display());
        let what = ran.json()[0]["what"].as_str().unwrap().to_owned();
        let name =
            file.file_name().unwrap().to_str().unwrap().split('_').next().unwrap().to_owned();
        assert!(what.contains(&name), "{what} names {name}");
        fs::write(&file, before).unwrap();
    }
    // A file of a relation that has a row is no orphan.
    let planted = beside(later, "_init");
    fs::write(&planted, [0; 8192]).unwrap();
    let ran = cluster.diff(end, " --json");
    assert_eq!((ran.code, &ran.json()[0]["here"]), (1, &"nothing".into()));
    fs::remove_file(planted).unwrap();
    // The main fork of an unlogged relation may have anything, its init fork may not.
    let before = fs::read(quick).unwrap();
    edit(quick, |bytes| bytes[100] ^= 1);
    cluster.diff(end, "").good();
    fs::write(quick, before).unwrap();
    let init = beside(quick, "_init");
    fs::rename(&init, beside(quick, "_aside")).unwrap();
    assert_eq!(cluster.diff(end, "").code, 1);
    fs::rename(beside(quick, "_aside"), &init).unwrap();
    cluster.diff(end, "").good();
}

/// After a restore, an unlogged relation is what its init fork is.
fn restores_unlogged_relations(cluster: &Cluster, end: Lsn, quick: &Path) {
    let restore = format!("restore --json --store {{}}/store --lsn {end} --out {{}}/out");
    let report = run(cluster.dir.path(), &restore).good().json().remove(0);
    assert_eq!(report["unlogged_relations"], 5);
    let (out, mut compared) = (cluster.dir.path().join("out"), 0);
    assert!(out.join("pg_tblspc").is_dir());
    for entry in fs::read_dir(out.join("base/5")).unwrap() {
        let init = entry.unwrap().path();
        let Some(main) = init.to_str().unwrap().strip_suffix("_init") else { continue };
        assert!(fs::read(&init).unwrap() == fs::read(main).unwrap(), "{main}");
        let there = cluster.server.data().join("base/5").join(init.file_name().unwrap());
        assert!(fs::read(&init).unwrap() == fs::read(there).unwrap(), "{main}");
        compared += 1;
    }
    assert_eq!(compared, 5);
    let name = quick.file_name().unwrap().to_str().unwrap();
    assert!(out.join("base/5").join(name).exists());
    assert!(!out.join("base/5").join(format!("{name}_vm")).exists());
    assert!(!out.join("RESTORE_INCOMPLETE").exists());
}

/// `CREATE DATABASE` with the strategy `wal_log` logs maps as empty.
#[test]
fn maps_of_copied_databases_are_counted() {
    let settings = "autovacuum = off\nfull_page_writes = off";
    let tables = "create table t(i int, t text) with (fillfactor = 20)\n\
        insert into t select i, repeat('x', 100) from generate_series(1, 8000) i\n\
        vacuum t\n\
        create index t_brin on t using brin(i) with (pages_per_range = 1)";
    let Some(cluster) = Cluster::start(settings, tables) else { return };
    let server = &cluster.server;
    server.sql("create database copied template postgres strategy wal_log");
    server.sql("create database by_files template postgres strategy file_copy");
    // Records of the copied maps, more than a read redoes.
    let mut psql = server.client("psql");
    let work = "do $$ begin for n in 1..40 loop delete from t where i = n * 10; commit; \
        insert into t values (n * 10, 'y'); commit; end loop; end $$";
    psql.args(["-Xq", "-v", "ON_ERROR_STOP=1", "-d", "copied", "-c", work]);
    // Ranges that vacuum summarizes.
    let more = "insert into t select i, repeat('x', 100) from generate_series(30001, 30100) i";
    psql.args(["-c", more, "-c", "vacuum t"]);
    for n in 0..6 {
        psql.args(["-c", &format!("delete from t where i = {}", 2000 + n), "-c", "vacuum t"]);
    }
    assert!(psql.stdin(Stdio::null()).status().unwrap().success());
    let path = |relation: &str| {
        let path = format!("select pg_relation_filepath('{relation}')");
        let mut psql = server.client("psql");
        let output = psql.args(["-XqAt", "-d", "copied", "-c", &path]).output().unwrap();
        server.data().join(String::from_utf8(output.stdout).unwrap().trim())
    };
    let (map, ranges) = (beside(&path("t"), "_vm"), path("t_brin"));
    server.ctl("stop -m fast");
    let end = cluster.ingest_with(" --deltas-per-page-max 3");
    let report = cluster.diff(end, " --json").good().json();
    println!("{}", report[0]);
    assert_eq!(report.len(), 1);
    let kinds = &report[0]["not_logged"];
    // Maps of catalogs, too.
    assert!(kinds["copied_map_pages"].as_u64() > Some(2), "{kinds}");
    let get = |page: &Path| {
        let name = page.file_name().unwrap().to_str().unwrap();
        let database = page.parent().unwrap().file_name().unwrap().to_str().unwrap();
        let (relation, rest) = match name.strip_suffix("_vm") {
            Some(relation) => (relation, "vm/0"),
            None => (name, "main/1"),
        };
        let key = format!("1663/{database}/{relation}/{rest}");
        run(cluster.dir.path(), &format!("get --store {{}}/store {key} --lsn {end}")).good().stdout
    };
    // What redo has of a map, the disk has to have.
    for (file, first) in [(&map, 0), (&ranges, 8192)] {
        let page = get(file);
        let at = (24..8184).find(|at| page[*at] != 0);
        let at = at.unwrap_or_else(|| panic!("nothing in the log of {}", file.display()));
        let before = fs::read(file).unwrap();
        edit(file, |bytes| bytes[first + at] ^= page[at]);
        assert_eq!(cluster.diff(end, "").code, 1, "byte {at} of {}", file.display());
        fs::write(file, before).unwrap();
    }
    cluster.diff(end, "").good();
}

#[test]
fn a_running_server_is_refused() {
    let Some(cluster) = Cluster::start("autovacuum = off", "create table t(i int)") else { return };
    cluster.server.sql("insert into t select i from generate_series(1, 1000) i\ncheckpoint");
    let end = cluster.ingest();
    let pid = format!("process {}", cluster.pid());
    cluster.diff(end, "").failed(1, &["a server runs in it", &pid, "--running"]);
    let report = cluster.diff(end, " --running --json").json().pop().unwrap();
    assert!(report["equal"].as_u64() > Some(500), "{report}");
    // A copy of it has its process's number, and no process.
    let copy = cluster.dir.path().join("copy");
    copy_dir(&cluster.server.data(), &copy);
    let of_copy = |more: &str| {
        run(
            cluster.dir.path(),
            &format!("diff --store {{}}/store --lsn {end} --base {{}}/copy{more}"),
        )
    };
    of_copy("").failed(1, &["\"in production\"", "expected \"shut down\"", "--running"]);
    assert_ne!(of_copy(" --running").text(), "");
    // And so has what a crash leaves.
    cluster.crash_after(&[]);
    cluster.diff(end, "").failed(1, &["\"in production\"", "start and stop it", "--running"]);
    cluster.restart();
    let end = cluster.stop_and_ingest();
    cluster.diff(end, "").good();
}
