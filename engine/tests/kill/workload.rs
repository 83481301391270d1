//! What commit number `n` of a timeline holds, and whether a store holds it.

use std::time::Duration;

use pagestrata::{
    Compression, Durability, Key, Lsn, Options, Scratch, Timeline, Value, WriteLease,
    testing::fill_value,
};

/// Each has a writer of its own; they share the log and its syncs.
pub(crate) const TIMELINES: usize = 3;
/// The object whose blocks are dropped now and then, and the first of those.
const DROPPED: (u128, u32) = (9, 2);

/// Segments of the log, layers and the whole log are as small as they may be: everything is
/// switched, flushed and used again all the time.
pub(crate) fn options(durability: Durability) -> Options {
    Options {
        durability,
        open_layer_size_max_bytes: 64 << 10,
        frozen_layers_max: 2,
        compression: Compression::Zstd { level: 1 },
        log_segment_size_bytes: 4 << 10,
        log_size_max_bytes: 64 << 10,
        flush_retry_delay: Duration::from_millis(1),
        ..Options::default()
    }
}

pub(crate) fn name(timeline: usize) -> String {
    format!("timeline {timeline}")
}

pub(crate) fn lsn(n: u64) -> Lsn {
    Lsn(10 * n)
}

/// How many commits a timeline has.
pub(crate) fn count(timeline: &Timeline) -> u64 {
    timeline.last_record_lsn().0 / 10
}

pub(crate) fn is_import(n: u64) -> bool {
    n % 89 == 50
}

fn drops_blocks(n: u64) -> bool {
    n % 10 == 3 && !is_import(n)
}

/// The pages of a commit, in the order of their keys.
fn pages(n: u64) -> impl Iterator<Item = Key> {
    let some = (0..=n % 4).map(move |page| Key::new(1, (page * 100 + n % 17) as u32));
    let dropped_next = (n % 10 == 2).then(|| Key::new(DROPPED.0, DROPPED.1 + 1));
    some.chain(dropped_next)
}

fn value(n: u64, key: Key) -> Vec<u8> {
    let len = match n % 31 {
        // More than a segment of the log; several are one record.
        7 => 9000,
        8 => 0,
        _ => 40 + (n * 37 + u64::from(key.block)) % 300,
    };
    fill_value(n << 16 | u64::from(key.block), n as u8, len as usize)
}

/// Puts what commit `n` holds.
pub(crate) fn put(lease: &mut WriteLease<'_>, n: u64) -> pagestrata::Result<()> {
    if drops_blocks(n) {
        lease.drop_blocks(DROPPED.0, DROPPED.1, lsn(n))?;
    }
    for key in pages(n) {
        let value = value(n, key);
        let value = match n % 3 {
            0 => Value::Image(&value),
            _ => Value::Delta { bytes: &value, will_init: true },
        };
        lease.put(key, lsn(n), value)?;
    }
    Ok(())
}

/// Does commit `n` as an import of images.
pub(crate) fn import(lease: &mut WriteLease<'_>, n: u64) -> pagestrata::Result<()> {
    let mut import = lease.import_images(lsn(n))?;
    for key in pages(n) {
        import.put(key, &value(n, key))?;
    }
    import.finish().map(drop)
}

/// Whether these commits are there, whole and with the right bytes, and nothing above the last.
/// Returns how many there are.
pub(crate) fn check_timeline(
    timeline: &Timeline,
    numbers: impl Iterator<Item = u64>,
    what: &str,
) -> u64 {
    let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
    let guard = reader.pin();
    let last = timeline.last_record_lsn();
    let mut checked = 0;
    for n in numbers {
        let what = || format!("{what}: {}, commit {n}", timeline.name());
        for key in pages(n) {
            let found = guard.versions(key, lsn(n), &mut scratch);
            let found = found.unwrap_or_else(|error| panic!("{}: {error}", what()));
            let newest = found.newest().unwrap_or_else(|| panic!("{}: no {key}", what()));
            assert!(newest.lsn == lsn(n) && newest.bytes == value(n, key), "{}: {key}", what());
        }
        if drops_blocks(n) {
            let dropped = Key::new(DROPPED.0, DROPPED.1 + 1);
            assert!(!guard.exists(dropped, lsn(n)).unwrap(), "{}: not dropped", what());
        }
        checked += 1;
    }
    let mut pages = 0;
    for page in guard.scan(.., last) {
        let (key, newest) = page.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(newest.0.is_multiple_of(10) && newest <= last, "{what}: {key} at {newest}");
        pages += 1;
    }
    assert!(pages > 0 || last.0 < 10, "{what}: nothing of {last}");
    checked
}
