//! `follow` against a real server: killed, started again, and in the end every page equals the
//! server's files.

use std::{
    path::Path,
    process::{Child, Stdio},
    thread,
    time::Duration,
};

use pagestrata_postgres::{ManagerId, mask_page};

use crate::{
    server::PostgresServer,
    support::{command, copy_dir, run, same_pages},
};

const SETTINGS: &str = "autovacuum = off\nfsync = off\nwal_keep_size = 1GB\nmax_wal_size = 1GB";

/// The follower's own process, ended without a warning.
struct Follower(Child);

impl Follower {
    fn start(dir: &Path, conninfo: &str) -> Follower {
        let store = dir.join("store");
        let follow = [
            "follow",
            "--store",
            store.to_str().unwrap(),
            "--conninfo",
            conninfo,
            "--slot",
            "pages",
            "--create-slot",
            "--flush-interval",
            "1",
        ];
        let child = command().args(follow).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Follower(child.unwrap())
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_followed_server_has_the_same_pages() {
    let Some(server) = PostgresServer::start(SETTINGS) else {
        println!("PostgreSQL 15's server programs are not here: nothing is followed");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    server.sql("create table counter(id int primary key, n int)\ninsert into counter select i, 0 from generate_series(1, 500) i;");
    server.ctl("stop -m fast");
    copy_dir(&server.data(), &dir.path().join("base"));
    run(dir.path(), "import --store {}/store --base {}/base").good();
    server.ctl("start");
    let conninfo = server.conninfo(server.socket_dir(), "user=postgres");
    for round in 0..3 {
        let _follower = Follower::start(dir.path(), &conninfo);
        for _ in 0..10 {
            server.sql(
                "update counter set n = n + 1 where id % 3 = 0\n\
                 insert into counter select i, 0 from generate_series((select max(id) + 1 from counter), (select max(id) + 200 from counter)) i;",
            );
        }
        if round == 1 {
            server.ctl("restart -m fast");
        }
        server.sql("vacuum counter\ndelete from counter where id % 7 = 0\nvacuum counter");
        thread::sleep(Duration::from_millis(300));
    }
    let end = server.sql("checkpoint\nselect pg_current_wal_insert_lsn()");
    let follow = format!(
        "follow --store {{}}/store --slot pages --until {} --conninfo",
        end.trim().lines().last().unwrap()
    );
    let mut arguments: Vec<String> = follow
        .split(' ')
        .map(|argument| argument.replace("{}", dir.path().to_str().unwrap()))
        .collect();
    arguments.push(conninfo);
    let output = command().args(&arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    server.ctl("stop -m fast");
    let (same, pages) = compare(dir.path(), &server.data());
    println!("{same} of {pages} pages equal the server's files");
    assert!(same == pages && pages > 900);
}

/// What changes no page is confirmed; the server removes it, and it is not asked for again.
#[test]
fn a_slot_keeps_little_of_a_log_that_changes_no_page() {
    let settings = "autovacuum = off\nwal_keep_size = 0\nmin_wal_size = 2MB\nmax_wal_size = 2MB";
    let Some(server) = PostgresServer::start(settings) else {
        println!("PostgreSQL 15's server programs are not here: nothing is followed");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    server.sql("create table t(id int)\ninsert into t values (1)\ncheckpoint");
    server.ctl("stop -m fast");
    copy_dir(&server.data(), &dir.path().join("base"));
    run(dir.path(), "import --store {}/store --base {}/base").good();
    server.ctl("start");
    let conninfo = server.conninfo(server.socket_dir(), "user=postgres");
    let follower = Follower::start(dir.path(), &conninfo);
    let emit = "select pg_logical_emit_message(false, 'none', repeat('z', 1000000))\n";
    let kept = "select pg_wal_lsn_diff(pg_current_wal_flush_lsn(), restart_lsn) \
                from pg_replication_slots where slot_name = 'pages'";
    let mut polls = 0;
    while server.sql(kept).is_empty() {
        polls += 1;
        assert!(polls < 600, "there is no slot");
        thread::sleep(Duration::from_millis(50));
    }
    server.sql(&format!("{}checkpoint", emit.repeat(20)));
    // The follower flushes each second. Polls are counted so that a test that hangs ends.
    let mut polls = 0;
    while server.sql(kept).parse::<u64>().unwrap() > 100_000 {
        polls += 1;
        assert!(polls < 600, "the server keeps {} bytes", server.sql(kept));
        thread::sleep(Duration::from_millis(50));
    }
    drop(follower);
    server.sql(&format!("checkpoint\n{}checkpoint", emit.repeat(3)));
    let oldest = server.sql("select count(*) from pg_ls_waldir()").parse::<u64>().unwrap();
    assert!(oldest < 15, "{oldest} segments: the server has removed what it need not keep");
    let end = server.sql("insert into t values (2)\nselect pg_current_wal_insert_lsn()");
    let store = dir.path().join("store");
    let output = command()
        .args(["follow", "--slot", "pages", "--store", store.to_str().unwrap()])
        .args(["--until", &end, "--conninfo", &conninfo])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// How many of the server's pages are in the store, but for what may differ between a server and
/// its standby.
fn compare(dir: &Path, data: &Path) -> (u64, u64) {
    same_pages(dir, data, None, |of, found, on_disk| {
        let is_btree = found[16..18] == 8176_u16.to_le_bytes();
        let manager = if is_btree { ManagerId::BTREE } else { ManagerId::HEAP };
        let [found, on_disk] = [found, on_disk].map(|page| {
            let mut page = *page;
            mask_page(manager, of.block, &mut page);
            page
        });
        found == on_disk
    })
}
