//! Many pages at once: one walk for all of them, and a plan that says what it does.
#![allow(clippy::print_stdout, reason = "a program")]

use pagestrata::{
    Key, KeyRange, Lsn, Options, PageVersion, Redo, RedoResult, Result, Scratch, Store, Value,
};

/// Deltas are appended to their base.
struct Append;

impl Redo for Append {
    fn apply(
        &self,
        _: Key,
        base: Option<&[u8]>,
        deltas: &mut dyn Iterator<Item = PageVersion<'_>>,
        page: &mut Vec<u8>,
    ) -> RedoResult<()> {
        page.extend_from_slice(base.unwrap_or_default());
        deltas.for_each(|delta| page.extend_from_slice(delta.bytes));
        Ok(())
    }
}

fn main() -> Result<()> {
    let dir = std::env::temp_dir().join(format!("pagestrata-multi-get-{}", std::process::id()));
    let (store, _) = Store::open(&dir, Options::default())?;
    let timeline = store.create_timeline("main", Lsn(1))?;
    let mut lease = timeline.write_lease()?;
    for (lsn, change) in [(1, "base"), (2, " one"), (3, " two")] {
        for block in 0..1000 {
            let value = match lsn {
                1 => Value::Image(change.as_bytes()),
                _ => Value::Delta { bytes: change.as_bytes(), will_init: false },
            };
            lease.put(Key::new(1, block), Lsn(lsn), value)?;
        }
        lease.commit(Lsn(lsn))?.wait()?;
        lease.flush()?; // three layer files
    }

    let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
    let guard = reader.pin();
    let keys: Vec<Key> = (0..1000).step_by(7).map(|block| Key::new(1, block)).collect();
    let mut bytes = 0;
    guard.pages(&keys, Lsn(3), &Append, &mut scratch, &mut |key, page| {
        let page = page.unwrap_or_else(|error| panic!("{key}: {error}"));
        assert_eq!(&*page, b"base one two");
        bytes += page.len();
    })?;
    println!("{} pages, {bytes} bytes; {:?}", keys.len(), scratch.last_read());
    println!("{}", guard.explain(&keys, Lsn(3))?);

    // All pages of a range, whichever there are.
    let range = KeyRange { start: Key::new(1, 990), end: Some(Key::new(2, 0)) };
    let mut found = 0;
    guard.pages_in(range, Lsn(3), &Append, &mut scratch, &mut |_, page| {
        found += usize::from(page.is_ok());
    })?;
    assert_eq!(found, 10);
    drop(lease);
    drop(store);
    std::fs::remove_dir_all(dir).expect("our own directory");
    Ok(())
}

#[test]
fn it_runs() {
    main().unwrap();
}
