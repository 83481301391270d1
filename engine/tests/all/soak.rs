//! Guards that are held for ever while everything else goes on: what they see stays, what they keep
//! is told, and all of it goes when they go.

use std::{env, time::Duration};

use pagestrata::{
    Access, Durability, Key, Lsn, Options, PinKind, Scratch, Store, Timeline, Value, VerifyReport,
};

const PAGES: u32 = 200;

fn key(block: u32) -> Key {
    Key::new(1, block)
}

fn value(block: u32, lsn: Lsn) -> Vec<u8> {
    [&block.to_le_bytes()[..], &lsn.0.to_le_bytes(), &[block as u8; 100]].concat()
}

/// Puts an image of some pages, and freezes the layer.
fn edit(timeline: &Timeline, lsn: Lsn, blocks: impl Iterator<Item = u32>) {
    let mut lease = timeline.write_lease().unwrap();
    for block in blocks {
        lease.put(key(block), lsn, Value::Image(&value(block, lsn))).unwrap();
    }
    lease.commit(lsn).unwrap();
    lease.roll().unwrap();
}

/// Every page is at `lsn` as it was put there.
fn check(guard: pagestrata::Guard<'_>, lsn: Lsn, scratch: &mut Scratch) {
    assert!(guard.last_record_lsn() >= lsn);
    for block in 0..PAGES {
        let found = guard.versions(key(block), lsn, scratch).unwrap();
        assert!(found.newest().unwrap().bytes == value(block, lsn), "{block}");
    }
}

/// Waits until only so many layers are held that are out of the map.
fn reclaimed_to(timeline: &Timeline, layers: u64) {
    while timeline.stats().retired_layers > layers {
        std::thread::sleep(Duration::from_millis(1));
        // A look holds the map briefly; a holder that releases it then wakes the reclaimer.
        drop(timeline.reader());
    }
    assert_eq!(timeline.stats().retired_layers, layers);
}

/// `PAGESTRATA_SOAK_EDITS=100000` for the whole of it.
#[test]
#[allow(clippy::print_stdout)]
fn a_guard_that_is_held_for_ever_costs_what_it_keeps_and_no_more() {
    let edits = env::var("PAGESTRATA_SOAK_EDITS").map_or(1_000, |text| text.parse().unwrap());
    for access in [Access::MMAP, Access::Pread] {
        soak(access, edits);
    }
}

#[allow(clippy::print_stdout)]
fn soak(access: Access, edits: u64) {
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let options = Options {
        access,
        durability: Durability::External,
        open_layer_size_max_bytes: 64 << 10,
        pool_retained_max_bytes: 1 << 20,
        ..Options::default()
    };
    let (store, _) = Store::open(dir.path(), options).unwrap();
    let timeline = store.create_timeline("main", Lsn(1)).unwrap();
    // Some pages in a file, and all of them in memory.
    edit(&timeline, Lsn(2), 0..PAGES);
    timeline.flush().unwrap();
    let first = Lsn(3);
    {
        let mut lease = timeline.write_lease().unwrap();
        for block in 0..PAGES {
            lease.put(key(block), first, Value::Image(&value(block, first))).unwrap();
        }
        lease.commit(first).unwrap();
    }
    let mut scratch = Scratch::new();
    let mut reader = timeline.reader();
    let here = line!() - 1;
    let guard = reader.pin();
    let detached = guard.versions(key(5), first, &mut scratch).unwrap().detach(0);
    let mut snapshot = None;

    let (mut lsn, mut done) = (first, 0);
    while done < edits {
        for _ in 0..3 {
            lsn = lsn.next();
            edit(&timeline, lsn, (0..3).map(|n| (lsn.0 as u32 * 3 + n) % PAGES));
            done += 1;
        }
        // Each frozen layer becomes a file with an edit of its own.
        timeline.flush().unwrap();
        done += 3;
        if done % 600 == 0 {
            check(guard, first, &mut scratch);
        }
        if snapshot.is_none() && done > edits / 2 {
            snapshot = Some((timeline.snapshot(), lsn));
        }
    }
    check(guard, first, &mut scratch);
    // The one that the guard has seen open, and the one that the snapshot has.
    reclaimed_to(&timeline, 2);
    let kept = timeline.stats().detached;
    assert!(detached.bytes() == value(5, first) && kept.versions == 1);
    assert_eq!(kept.requested_bytes, detached.len() as u64);
    assert!(kept.pinned_bytes > u64::from(PAGES) * 112 && kept.pinned_bytes < 1 << 20, "{kept:?}");
    // It keeps the layer that the guard keeps too; only without it that is the guard's alone.
    drop(detached);
    let pins = timeline.pins();
    let reader_pin = pins.iter().find(|pin| pin.kind == PinKind::Reader).unwrap();
    assert!(reader_pin.caller.contains(&format!("soak.rs:{here}:")), "{reader_pin:?}");
    assert!(reader_pin.only_it_keeps_bytes >= kept.pinned_bytes, "{reader_pin:?}");
    let stats = timeline.stats();
    println!(
        "{access:?}: {done} edits, {} layer files; {} retired layers held, {} bytes; {pins:?}",
        stats.layer_files, stats.retired_layers, stats.memory.retired_bytes
    );
    assert!(stats.memory.retired_bytes >= u64::from(PAGES) * 112);

    let (snapshot, at) = snapshot.unwrap();
    assert_eq!(snapshot.lsn(), at);
    let recent: Vec<u32> = (0..3).map(|n| (at.0 as u32 * 3 + n) % PAGES).collect();
    for block in recent {
        let found = snapshot.guard().versions(key(block), at, &mut scratch).unwrap();
        assert!(found.newest().unwrap().bytes == value(block, at));
    }
    drop((reader, snapshot));
    reclaimed_to(&timeline, 0);
    let stats = timeline.stats();
    assert_eq!((stats.memory.retired_bytes, stats.detached), (0, Default::default()));
    assert!(timeline.pins().is_empty());
    let VerifyReport { .. } = timeline.verify().unwrap();
    store.close(Duration::ZERO).unwrap();
}
