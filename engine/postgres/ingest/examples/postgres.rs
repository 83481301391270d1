//! PostgreSQL into a store and a page out: a base backup is imported, the log behind it ingested,
//! and a page read as PostgreSQL's own recovery would have made it at two Lsns.
#![allow(clippy::print_stdout, reason = "a program")]

use pagestrata::Scratch;
use pagestrata_postgres::RelPage;
use pagestrata_postgres_ingest::{
    Result,
    identity::Identity,
    import::{import, open_base},
    ingest::{Log, ingest},
    page_at, sample,
};

fn main() -> Result<()> {
    // A small capture of a real server, which is part of this crate.
    let dir = std::env::temp_dir().join(format!("pagestrata-postgres-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory of our own");
    sample::unpack(&dir)?;

    let base = open_base(&dir.join("base"))?;
    let (store, imported) = import(&dir.join("store"), "main", &base, &mut |_| {})?;
    println!("{imported}");
    let timeline = store.timeline("main")?;
    let ingested = ingest(&timeline, &Log::of(&dir.join("wal")), &mut |_| {})?;
    println!("{ingested}");

    // How pages are redone depends on settings of the cluster, which the log changes.
    let end = timeline.last_record_lsn();
    let snapshot = timeline.snapshot_at(end)?;
    let (guard, mut scratch) = (snapshot.guard(), Scratch::new());
    let redo = Identity::at(&timeline, end)?.redo();
    let page: RelPage = "1663/5/1259/main/0".parse().expect("pg_class, its first page");
    let (bytes, newest) = page_at(guard, page, end, &redo, &mut scratch)?;
    println!("{page}: {} bytes, changed last at {newest:?}", bytes.len());

    drop(snapshot);
    drop(timeline);
    store.close(std::time::Duration::ZERO)?;
    std::fs::remove_dir_all(dir).expect("our own directory");
    Ok(())
}

#[test]
fn it_runs() {
    main().unwrap();
}
