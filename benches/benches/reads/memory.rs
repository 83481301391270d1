//! What reading takes of memory: the page cache with direct I/O, the block cache's bound, what a
//! detached version keeps.

use std::{fs, path::Path};

use pagestrata::{Access, Compression, Scratch, Timeline};
use pagestrata_benches::{random::Random, report::Wanted, updates::OBJECT};

use crate::{
    Context,
    pages::{Pages, key},
};

pub(crate) fn measure(context: &mut Context) {
    let run = context.run.clone();
    let count: u32 = run.size(524_288, 300);
    context.report.part(format_args!("memory: {count} pages of 8 KiB"));
    let pages = Pages::new(run.seed, count, 1, Compression::None);

    let (store, timeline) = pages.open(Access::Direct, 64 << 20);
    let layer_bytes = timeline.stats().layer_file_bytes;
    forget(&timeline);
    let before = (resident_bytes(&timeline), cached_bytes());
    let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
    for block in 0..count {
        let found = reader.pin();
        let found = found.versions(key(block), pages.last, &mut scratch).expect("a read");
        assert!(found.newest_first().next_back().expect("an image").bytes == pages.image(block));
    }
    let after = (resident_bytes(&timeline), cached_bytes());
    let access = store.stats().access;
    context.report.line(format_args!(
        "  Direct: {} MB of layers, {} MB read in {} reads{}; of these files in the page cache {} KiB before, {} KiB after; all of it {} MB before, {} MB after",
        layer_bytes >> 20,
        access.read_bytes >> 20,
        access.reads,
        if access.direct_refused { " (direct I/O was refused)" } else { "" },
        before.0 >> 10,
        after.0 >> 10,
        before.1 >> 20,
        after.1 >> 20,
    ));
    let grown = after.0.saturating_sub(before.0) as f64 / f64::from(1 << 20);
    context.report.goal(
        "Direct: page cache of the files grows by",
        grown,
        Wanted::AtMost(1.0),
        "MB",
    );
    drop((reader, timeline, store));

    let bound = run.size(256 << 20, 1 << 20);
    let (store, timeline) = pages.open(Access::Pread, bound);
    let (mut reader, mut scratch, mut random) =
        (timeline.reader(), Scratch::new(), Random(run.seed));
    let (rss, mut most) = (anonymous_bytes(), 0);
    for n in 0..run.size(300_000, 300) {
        let block = random.below(u64::from(count)) as u32;
        let guard = reader.pin();
        guard.versions(key(block), pages.last, &mut scratch).expect("a read");
        if n % 64 == 0 {
            most = most.max(store.stats().access.cached_bytes);
        }
    }
    let grown = anonymous_bytes().saturating_sub(rss);
    context.report.line(format_args!(
        "  Pread: a cache of {} MB holds {:.1} MB at the most, and the process has grown by {:.1} MB",
        bound >> 20,
        most as f64 / f64::from(1 << 20),
        grown as f64 / f64::from(1 << 20),
    ));
    let ratio = |bytes: u64| bytes as f64 / bound as f64;
    context.report.goal(
        "Pread: what the cache says it holds, of its bound",
        ratio(most),
        Wanted::AtMost(1.05),
        "",
    );
    context.report.goal(
        "Pread: what the process has grown by, of the bound",
        ratio(grown),
        Wanted::AtMost(1.05),
        "",
    );

    let found = reader.pin();
    let found = found.versions(key(7), pages.last, &mut scratch).expect("a read");
    let small = (0..found.len()).find(|&index| {
        let version = found.newest_first().nth(index).expect("there is");
        version.bytes.len() < 1024 && version.bytes == pages.delta(7, 0)
    });
    let detached = found.detach(small.expect("the delta in the file"));
    let stats = timeline.stats().detached;
    context.report.line(format_args!(
        "  a detached version of {} bytes: {} requested, {} pinned; object {OBJECT:X}",
        detached.len(),
        stats.requested_bytes,
        stats.pinned_bytes
    ));
    assert_eq!((stats.versions, stats.requested_bytes), (1, detached.len() as u64));
    assert!(stats.pinned_bytes > 0);
    drop(detached);
    assert_eq!(timeline.stats().detached, Default::default());
}

/// Has the page cache let go of the layer files.
fn forget(timeline: &Timeline) {
    for layer in timeline.layers() {
        let file = fs::File::open(&layer.path).expect("a layer file");
        file.sync_all().expect("a sync");
        let advice = libc::POSIX_FADV_DONTNEED;
        // SAFETY: an advice on an open file.
        unsafe { libc::posix_fadvise(std::os::fd::AsRawFd::as_raw_fd(&file), 0, 0, advice) };
    }
}

/// How much of the layer files is in the page cache.
fn resident_bytes(timeline: &Timeline) -> u64 {
    timeline.layers().iter().map(|layer| resident_bytes_of(&layer.path)).sum()
}

fn resident_bytes_of(path: &Path) -> u64 {
    use pagestrata_layers::storage::{PAGE_BYTES, RealStorage, Storage};
    let file = RealStorage.open(path).expect("a layer file");
    let map = file.map().expect("a mapping");
    let mut pages = vec![0; map.bytes().len().div_ceil(PAGE_BYTES)];
    map.residency(0, &mut pages);
    pages.iter().map(|&page| u64::from(page)).sum::<u64>() * PAGE_BYTES as u64
}

/// The page cache of the whole machine.
fn cached_bytes() -> u64 {
    kibibytes("/proc/meminfo", "Cached:") << 10
}

/// Memory of this process that is no file's.
fn anonymous_bytes() -> u64 {
    kibibytes("/proc/self/status", "RssAnon:") << 10
}

fn kibibytes(path: &str, name: &str) -> u64 {
    let text = fs::read_to_string(path).expect("a file of the kernel");
    let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("a line of it");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
