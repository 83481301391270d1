//! Between the program of the README and a page server: a writer thread with group commit, and
//! tasks that wait for its Lsns and read by snapshots without blocking their executor.
#![allow(clippy::print_stdout, reason = "a program")]

use std::sync::mpsc;

use pagestrata::{
    Key, Lsn, Options, PageVersion, Redo, RedoResult, Result, Scratch, Store, Timeline, Value,
};

/// The newest delta is the page.
struct Newest;

impl Redo for Newest {
    fn apply(
        &self,
        _: Key,
        base: Option<&[u8]>,
        deltas: &mut dyn Iterator<Item = PageVersion<'_>>,
        page: &mut Vec<u8>,
    ) -> RedoResult<()> {
        let newest = deltas.last().map_or(base.unwrap_or_default(), |delta| delta.bytes);
        page.extend_from_slice(newest);
        Ok(())
    }
}

/// A change, and where to say that it is durable.
type Change = (Key, Vec<u8>, tokio::sync::oneshot::Sender<Lsn>);

/// Commits what has come meanwhile together: one sync for all who wait.
fn write(timeline: &Timeline, changes: &mpsc::Receiver<Change>) -> Result<()> {
    let mut lease = timeline.write_lease()?;
    while let Ok(first) = changes.recv() {
        let batch: Vec<Change> = std::iter::once(first).chain(changes.try_iter()).collect();
        let mut lsn = timeline.last_record_lsn();
        for (key, bytes, _) in &batch {
            lsn = lsn.next();
            let will_init = !lease.exists(*key)?;
            lease.put(*key, lsn, Value::Delta { bytes, will_init })?;
        }
        lease.commit(lsn)?.wait()?;
        for (.., durable) in batch {
            // The task may have given up; its change is committed all the same.
            let _ = durable.send(lsn);
        }
    }
    Ok(())
}

/// Writes a page and reads it back as of the commit.
async fn client(timeline: Timeline, changes: mpsc::Sender<Change>, block: u32) -> Result<usize> {
    let key = Key::new(1, block);
    let (durable, done) = tokio::sync::oneshot::channel();
    changes.send((key, format!("page {block}").into_bytes(), durable)).expect("a writer");
    drop(changes);
    let lsn = done.await.expect("a writer");
    timeline.wait_for(lsn).await?; // at once here; a replica would wait
    let snapshot = timeline.snapshot_at(lsn)?;
    let mut scratch = Scratch::new();
    // Where it has to wait for a device a thread of the store does, and no task is blocked.
    let page = snapshot.guard().page_async(key, snapshot.lsn(), &Newest, &mut scratch).await?;
    assert_eq!(&*page, format!("page {block}").as_bytes());
    Ok(page.len())
}

#[tokio::main]
async fn main() -> Result<()> {
    let dir = std::env::temp_dir().join(format!("pagestrata-async-reads-{}", std::process::id()));
    let (store, _) = Store::open(&dir, Options::default())?;
    let timeline = store.open_or_create_timeline("main", Lsn(1))?;
    let (changes, received) = mpsc::channel();
    let writer = std::thread::spawn({
        let timeline = timeline.clone();
        move || write(&timeline, &received)
    });
    let clients =
        (0..100).map(|block| tokio::spawn(client(timeline.clone(), changes.clone(), block)));
    let clients: Vec<_> = clients.collect();
    drop(changes);
    let mut bytes = 0;
    for client in clients {
        bytes += client.await.expect("no panic")?;
    }
    writer.join().expect("no panic")?;
    println!("{bytes} bytes; {} syncs for 100 commits", store.stats().log.syncs);
    store.close_async(std::time::Duration::from_secs(1)).await?;
    std::fs::remove_dir_all(dir).expect("our own directory");
    Ok(())
}

#[test]
fn it_runs() {
    main().unwrap();
}
