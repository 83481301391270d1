//! The shortest way through: open, write, read, close, and find it all again.
#![allow(clippy::print_stdout, reason = "a program")]

use std::time::Duration;

use pagestrata::{Key, Lsn, Options, Result, Scratch, Store, Value};

fn main() -> Result<()> {
    let dir = std::env::temp_dir().join(format!("pagestrata-quick-start-{}", std::process::id()));
    let page = Key::new(7, 0); // an object, and a block of it

    let (store, report) = Store::open(&dir, Options::default())?;
    println!("a new store: {}", report.created);
    let timeline = store.create_timeline("main", Lsn(0x10))?;
    {
        let mut lease = timeline.write_lease()?;
        lease.put(page, Lsn(0x20), Value::Image(b"as it was"))?;
        lease.put(page, Lsn(0x30), Value::Delta { bytes: b"a change", will_init: false })?;
        // Visible at once; durable when the ticket says so.
        let ticket = lease.commit(Lsn(0x30))?;
        ticket.wait()?;
    }
    // Flushes what is in memory, and waits a second for readers to go.
    store.close(Duration::from_secs(1))?;

    let (store, report) = Store::open(&dir, Options::default())?;
    println!("{} timeline, {} layer file", report.timelines, report.layer_files);
    let timeline = store.timeline("main")?;
    let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
    let guard = reader.pin(); // what is read below is borrowed from it
    let versions = guard.versions(page, Lsn(0x30), &mut scratch)?;
    for version in versions.newest_first() {
        println!("{} {:?}: {}", version.lsn, version.kind, version.bytes.escape_ascii());
    }
    assert_eq!(versions.len(), 2);
    drop(store);
    std::fs::remove_dir_all(dir).expect("our own directory");
    Ok(())
}

#[test]
fn it_runs() {
    main().unwrap();
}
