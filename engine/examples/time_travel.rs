//! Reads a page as it was: at any Lsn, by an owned snapshot, and which pages existed.
#![allow(clippy::print_stdout, reason = "a program")]

use pagestrata::{Error, Key, Lsn, Options, Result, Scratch, Store, Value};

fn main() -> Result<()> {
    let dir = std::env::temp_dir().join(format!("pagestrata-time-travel-{}", std::process::id()));
    let (store, _) = Store::open(&dir, Options::default())?;
    let timeline = store.create_timeline("main", Lsn(1))?;
    let mut lease = timeline.write_lease()?;
    for day in 1..=5 {
        let lsn = Lsn(day * 100);
        let text = format!("day {day}");
        lease.put(Key::new(1, 0), lsn, Value::Image(text.as_bytes()))?;
        if day == 2 {
            lease.put(Key::new(1, 1), lsn, Value::Image(b"a second block"))?;
        }
        if day == 4 {
            // The object is truncated to one block.
            lease.drop_blocks(1, 1, lsn)?;
        }
        lease.commit(lsn)?.wait()?;
    }
    drop(lease);

    // Any position of the log can be read, the ones between commits too.
    let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
    let guard = reader.pin();
    for lsn in [Lsn(150), Lsn(250), Lsn(450)] {
        let newest = guard.versions(Key::new(1, 0), lsn, &mut scratch)?.newest();
        println!("at {lsn}: {}", newest.expect("a page").bytes.escape_ascii());
        let pages: Vec<Key> =
            guard.scan(1..=1, lsn).map(|page| page.map(|(key, _)| key)).collect::<Result<_>>()?;
        println!("  {} pages exist", pages.len());
        assert_eq!(pages.len(), if lsn == Lsn(250) { 2 } else { 1 });
    }
    // What is not there yet is an error that says so; `Timeline::wait_for` waits for it.
    assert!(matches!(guard.exists(Key::new(1, 0), Lsn(600)), Err(Error::NotYet { .. })));

    // An owned pin: it can be cloned and sent, and sees nothing newer than its Lsn.
    let snapshot = timeline.snapshot_at(Lsn(300))?;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut scratch = Scratch::new();
            let key = Key::new(1, 0);
            let versions = snapshot.guard().versions(key, snapshot.lsn(), &mut scratch);
            assert_eq!(versions.unwrap().newest().unwrap().bytes, b"day 3");
        });
    });
    drop(store);
    std::fs::remove_dir_all(dir).expect("our own directory");
    Ok(())
}

#[test]
fn it_runs() {
    main().unwrap();
}
