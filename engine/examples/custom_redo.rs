//! A redo of one's own: what deltas mean, how pages come of them, and long chains that are cut.
#![allow(clippy::print_stdout, reason = "a program")]

use std::sync::Arc;

use pagestrata::{
    FlushRedo, Key, Lsn, Options, PageVersion, Redo, RedoResult, Result, Scratch, Store, Value,
};

/// Pages are counters of 8 bytes; a delta adds its first byte.
struct Counter;

impl Redo for Counter {
    fn apply(
        &self,
        _: Key,
        base: Option<&[u8]>,
        deltas: &mut dyn Iterator<Item = PageVersion<'_>>,
        page: &mut Vec<u8>,
    ) -> RedoResult<()> {
        let base = base.map(<[u8; 8]>::try_from).transpose()?;
        let mut count = base.map_or(0, u64::from_le_bytes);
        for delta in deltas {
            count += u64::from(*delta.bytes.first().ok_or("an empty delta")?);
        }
        page.extend_from_slice(&count.to_le_bytes());
        Ok(())
    }
}

fn main() -> Result<()> {
    let dir = std::env::temp_dir().join(format!("pagestrata-custom-redo-{}", std::process::id()));
    let options = Options {
        // A read applies at most so many deltas from layer files: flushes make pages in between.
        deltas_per_page_max: 16,
        flush_redo: Some(FlushRedo(Arc::new(Counter))),
        ..Options::default()
    };
    let (store, _) = Store::open(&dir, options)?;
    let timeline = store.create_timeline("main", Lsn(1))?;
    let page = Key::new(1, 0);
    let mut lease = timeline.write_lease()?;
    for n in 1..=100 {
        // The first delta needs nothing older: it begins at zero.
        lease.put(page, Lsn(n), Value::Delta { bytes: &[2], will_init: n == 1 })?;
    }
    lease.commit(Lsn(100))?.wait()?;
    lease.flush()?;

    let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
    let guard = reader.pin();
    for lsn in [Lsn(10), Lsn(50), Lsn(100)] {
        let count = guard.page(page, lsn, &Counter, &mut scratch)?;
        assert_eq!(*count, (2 * lsn.0).to_le_bytes());
        println!("{lsn}: {} versions read", scratch.last_read().versions);
        assert!(scratch.last_read().versions <= 18);
    }
    println!("{} pages were made by the flush", timeline.stats().flush.pages_made);
    drop(lease);
    drop(store);
    std::fs::remove_dir_all(dir).expect("our own directory");
    Ok(())
}

#[test]
fn it_runs() {
    main().unwrap();
}
