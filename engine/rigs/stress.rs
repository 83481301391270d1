//! One writer at full speed, and readers that hold what they read and check every byte again.
//!
//! ```text
//! cargo run --release -p pagestrata --example stress -- [SECONDS [READERS [COMPRESSION [ACCESS]]]]
//! # 5, 4, none (or zstd), mmap (or pread, direct)
//! ```
//!
//! Layers are small: rolled every 2 MiB, flushed and retired while readers hold them. Every value
//! can be checked from its key, its Lsn and its own bytes. The program is a plain `main`, so that
//! the sanitizers see only the engine (60 s each; also compressed, and once for each kind of
//! access):
//!
//! ```text
//! export TARGET=x86_64-unknown-linux-gnu
//! RUSTFLAGS=-Zsanitizer=address \
//!     cargo +nightly run --target $TARGET -p pagestrata --example stress 60
//! RUSTFLAGS="-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer" \
//!     TSAN_OPTIONS="suppressions=$PWD/engine/rigs/tsan.supp exitcode=66" \
//!     cargo +nightly run --target $TARGET -p pagestrata --example stress 60
//! ```
//!
//! Each must find its planted bug. `early_reclaim`: layers free their memory while they are held;
//! the address sanitizer reports a use after free, and without it the readers find bytes that were
//! not put. `relaxed_publish`: the writer publishes with too weak a memory order; the thread
//! sanitizer reports a race.
//!
//! ```text
//! RUSTFLAGS='-Zsanitizer=address --cfg planted_bug="early_reclaim"' \
//!     cargo +nightly run --target $TARGET ...
//! RUSTFLAGS='-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer \
//!     --cfg planted_bug="relaxed_publish"' ...
//! ```
#![allow(clippy::print_stdout, reason = "a program")]

use std::{
    collections::VecDeque,
    env,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use pagestrata::{
    Access, Compression, DetachedVersion, Guard, Key, Kind, Lsn, Options, PageVersion, Ready,
    Scratch, Snapshot, Store, Timeline, Value, Versions,
    testing::{KeyChoice, UnsyncedStorage, fill_value},
};

const BLOCKS: u16 = 400;
const OBJECTS: u8 = 5;
/// One value of a key in so many is an image.
const IMAGE_EVERY: u64 = 12;
/// At this size a new store is started, so that a long run does not fill the disk.
const FILE_BYTES_MAX: u64 = 1 << 30;
const HEADER_LEN: usize = 32;

/// Counts of the readers.
#[derive(Default)]
struct Done {
    reads: AtomicU64,
    versions: AtomicU64,
    bytes: AtomicU64,
    guards: AtomicU64,
    snapshots: AtomicU64,
    detached: AtomicU64,
    scanned: AtomicU64,
}

fn add(count: &AtomicU64, more: usize) {
    count.fetch_add(more as u64, Ordering::Relaxed);
}

/// Key and Lsn, a checksum over the rest, then noise.
fn value(key: Key, lsn: Lsn, len: usize) -> Vec<u8> {
    let mut bytes = fill_value(lsn.0, lsn.0 as u8, len.max(HEADER_LEN));
    bytes[..8].copy_from_slice(&(key.object as u64).to_le_bytes());
    bytes[8..12].copy_from_slice(&key.block.to_le_bytes());
    bytes[12..20].copy_from_slice(&lsn.0.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[HEADER_LEN..]);
    bytes[20..24].copy_from_slice(&crc.to_le_bytes());
    bytes
}

#[track_caller]
fn check(key: Key, version: &PageVersion<'_>) {
    let PageVersion { lsn, bytes, .. } = version;
    let object = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    let block = u32::from_le_bytes(bytes[8..12].try_into().unwrap());
    let of = u64::from_le_bytes(bytes[12..20].try_into().unwrap());
    assert_eq!((object, block, of), (key.object as u64, key.block, lsn.0), "another value");
    let crc = u32::from_le_bytes(bytes[20..24].try_into().unwrap());
    assert_eq!(crc, crc32c::crc32c(&bytes[HEADER_LEN..]), "other bytes of {key} at {lsn}");
}

/// Checks every version, in order, down to an image; none may be above the Lsn.
fn check_all(key: Key, lsn: Lsn, versions: &Versions<'_>, done: &Done) {
    let mut above = lsn.next();
    for version in versions.newest_first() {
        assert!(version.lsn < above, "{key} at {lsn}: {} below {above}", version.lsn);
        above = version.lsn;
        check(key, &version);
        add(&done.bytes, version.bytes.len());
    }
    let base = versions.newest_first().next_back();
    assert!(base.is_none_or(|base| base.kind == Kind::Image));
    add(&done.reads, 1);
    add(&done.versions, versions.len());
}

fn key(random: &mut fastrand::Rng) -> Key {
    // A few keys are read and written much more often than others.
    let block = random.u16(..BLOCKS);
    let block = if random.bool() { block % 20 } else { block };
    KeyChoice { object: random.u8(..OBJECTS), block }.key()
}

fn write(store: &Store, timeline: &Timeline, stop: &AtomicBool, until: Instant) -> (u64, u64) {
    let mut random = fastrand::Rng::with_seed(1);
    let mut written = vec![0_u64; usize::from(OBJECTS) << 16];
    let (mut lsn, mut values, mut bytes) = (100, 0, 0);
    while Instant::now() < until && !stop.load(Ordering::Relaxed) {
        let mut lease = timeline.write_lease().expect("nobody else writes");
        for _ in 0..300 {
            for _ in 0..random.u8(1..20) {
                lsn += 1;
                let key = key(&mut random);
                let slot = (key.object.min(4) as usize) << 16 | key.block as usize;
                let is_image = written[slot].is_multiple_of(IMAGE_EVERY);
                written[slot] += 1;
                let len = if is_image { 8192 } else { random.usize(40..400) };
                let content = value(key, Lsn(lsn), len);
                let value = match is_image {
                    true => Value::Image(&content),
                    false => Value::Delta { bytes: &content, will_init: false },
                };
                lease.put(key, Lsn(lsn), value).expect("room");
                (values, bytes) = (values + 1, bytes + content.len() as u64);
            }
            if random.u8(..50) == 0 {
                // Aborted, and put again at other Lsns: the pages' next values are images.
                lease.abort();
                written.fill(0);
            }
            lsn = lsn.max(lease.last_lsn().0 + 1);
            lease.commit(Lsn(lsn)).expect("in order").wait().expect("no log");
        }
        if random.u8(..20) == 0 {
            lease.roll().expect("flushing works");
        }
        if store.stats().layer_file_bytes > FILE_BYTES_MAX {
            break;
        }
    }
    (values, bytes)
}

/// A held page version and its key.
type Kept = (Key, DetachedVersion);

/// Reads without waiting, and fetches what was not in memory.
fn fetched<'s>(guard: Guard<'s>, key: Key, lsn: Lsn, mut scratch: &'s mut Scratch) -> Versions<'s> {
    loop {
        match guard.try_versions(key, lsn, scratch).expect("sound") {
            Ready::Hit(versions) => return versions,
            Ready::Cold(fetch, again) => {
                fetch.run_blocking().expect("sound");
                scratch = again;
            }
        }
    }
}

fn read_once(
    guard: Guard<'_>,
    random: &mut fastrand::Rng,
    scratch: &mut Scratch,
    kept: &mut VecDeque<Kept>,
    done: &Done,
) {
    let last = guard.last_record_lsn();
    let lsn = if random.bool() { last } else { Lsn(random.u64(100..=last.0.max(100))).min(last) };
    let key = key(random);
    let versions = match random.bool() {
        true => guard.versions(key, lsn, scratch).expect("sound"),
        false => fetched(guard, key, lsn, scratch),
    };
    check_all(key, lsn, &versions, done);
    if random.u8(..100) == 0 && !versions.is_empty() {
        let index = random.usize(..versions.len());
        let max_waste = if random.bool() { u64::MAX } else { 1 << 20 };
        kept.push_back((key, versions.detach_or_copy(index, max_waste)));
        add(&done.detached, 1);
    }
}

fn read(timeline: &Timeline, seed: u64, stop: &AtomicBool, done: &Done) {
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut reader, mut scratch, mut second) = (timeline.reader(), Scratch::new(), Scratch::new());
    let (mut snapshots, mut kept) = (VecDeque::<Snapshot>::new(), VecDeque::<Kept>::new());
    while !stop.load(Ordering::Relaxed) {
        // One guard for some time; what was read first under it is checked again at the end.
        let guard = reader.pin();
        add(&done.guards, 1);
        let (page, lsn) = (key(&mut random), guard.last_record_lsn());
        let held = guard.versions(page, lsn, &mut second).expect("sound");
        for _ in 0..random.u16(1..200) {
            read_once(guard, &mut random, &mut scratch, &mut kept, done);
        }
        check_all(page, lsn, &held, done);
        if random.u8(..4) == 0 {
            snapshots.push_back(timeline.snapshot());
            add(&done.snapshots, 1);
        }
        if let Some(snapshot) = snapshots.get(random.usize(..8)) {
            assert_eq!(snapshot.guard().last_record_lsn(), snapshot.lsn());
            for _ in 0..20 {
                read_once(snapshot.guard(), &mut random, &mut scratch, &mut kept, done);
            }
            if random.u8(..16) == 0 {
                let object = u128::from(random.u8(..4));
                for page in snapshot.guard().scan(object..=object, snapshot.lsn()) {
                    let (key, lsn) = page.expect("sound");
                    assert!(key.object == object && lsn <= snapshot.lsn());
                    add(&done.scanned, 1);
                }
            }
        }
        for (key, version) in &kept {
            let bytes = version.bytes();
            check(*key, &PageVersion { lsn: version.lsn(), kind: version.kind(), bytes });
        }
        if snapshots.len() > 6 {
            snapshots.pop_front();
        }
        while kept.len() > 20 {
            kept.pop_front();
        }
        if random.u8(..10) == 0 {
            reader.unpin();
        }
    }
}

/// Counts of the writers.
#[derive(Default)]
struct Wrote {
    values: u64,
    bytes: u64,
    flushes: u64,
    files: u64,
    verified: u64,
}

/// Runs until the time is over, or the files have reached their maximum size.
fn one_store(
    readers: u64,
    (compression, access): (Compression, Access),
    until: Instant,
    wrote: &mut Wrote,
    done: &Done,
) {
    let dir = tempfile::tempdir().expect("a directory for temporary files");
    let options = Options {
        open_layer_size_max_bytes: 2 << 20,
        pool_retained_max_bytes: 4 << 20,
        compression,
        access,
        // Smaller than what is read.
        block_cache_max_bytes: 8 << 20,
        ..Options::default()
    };
    let (store, _) =
        Store::open_with(UnsyncedStorage::shared(), dir.path(), options).expect("a new store");
    let timeline = store.create_timeline("main", Lsn(100)).expect("a new timeline");
    let stop = AtomicBool::new(false);
    /// Stops the other threads even if one of them has failed.
    struct Stop<'s>(&'s AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let (values, bytes) = thread::scope(|scope| {
        for seed in 0..readers {
            let (timeline, stop) = (&timeline, &stop);
            scope.spawn(move || {
                let _stop = Stop(stop);
                read(timeline, 1000 + seed, stop, done);
            });
        }
        let _stop = Stop(&stop);
        write(&store, &timeline, &stop, until)
    });
    timeline.flush().expect("flushing works");
    while timeline.stats().retired_layers > 0 {
        thread::yield_now();
    }
    assert!(timeline.pins().is_empty());
    let verified = timeline.verify().expect("sound files");
    wrote.values += values;
    wrote.bytes += bytes;
    wrote.flushes += timeline.stats().flush.flushes;
    wrote.files += verified.layer_files;
    wrote.verified += verified.versions;
}

fn main() {
    let mut arguments = env::args().skip(1);
    let mut number =
        |default| arguments.next().map_or(default, |text| text.parse().expect("a number"));
    let (seconds, readers) = (number(5), number(4));
    let compression = match arguments.next().as_deref() {
        Some("zstd") => Compression::Zstd { level: 1 },
        _ => Compression::None,
    };
    let access = match arguments.next().as_deref() {
        Some("pread") => Access::Pread,
        Some("direct") => Access::Direct,
        _ => Access::MMAP,
    };
    let until = Instant::now() + Duration::from_secs(seconds);
    let (mut wrote, done) = (Wrote::default(), Done::default());
    while Instant::now() < until {
        one_store(readers, (compression, access), until, &mut wrote, &done);
    }
    let Wrote { values, bytes, flushes, files, verified } = wrote;
    println!(
        "wrote {values} values, {} MiB, {flushes} flushes; {verified} versions verified in {files} files",
        bytes >> 20
    );
    let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
    println!(
        "read {} times under {} guards and {} snapshots: {} versions, {} MiB; {} detached, {} scanned; all as they were put",
        of(&done.reads),
        of(&done.guards),
        of(&done.snapshots),
        of(&done.versions),
        of(&done.bytes) >> 20,
        of(&done.detached),
        of(&done.scanned)
    );
    assert!(flushes > 0 && of(&done.reads) > 0 && of(&done.versions) > 0);
}
