//! Many pages at once, beside the same pages one by one: calls of the operating system, blocks,
//! time.

use std::time::Instant;

use pagestrata::{
    Access, Compression, Error, Key, Page, PageVersion, ReadStats, Redo, RedoResult, Scratch,
};
use pagestrata_benches::{measure::Spread, random::Random};

use crate::{
    Context, MODES,
    pages::{Pages, key},
};

pub(crate) fn measure(context: &mut Context) {
    let count = context.run.size(50_000, 300);
    for compression in [Compression::None, Compression::Zstd { level: 1 }] {
        context.report.part(format_args!(
            "many: {count} pages of 8 KiB with 4 deltas, {compression:?}; mapped files in memory, caches empty"
        ));
        context.report.line(format_args!(
            "  {:34} {:>22} {:>22} {:>26} {:>26}",
            "at once / one by one",
            "reads of files",
            "blocks",
            "inflated KiB",
            "us (median of rounds)"
        ));
        let pages = Pages::new(context.run.seed, count, 2, compression);
        for mode in MODES {
            for keys in [1, 32, 1000] {
                for scattered in [false, true] {
                    case(context, &pages, mode, keys.min(count), scattered);
                }
            }
        }
    }
}

fn case(context: &Context, pages: &Pages, mode: Access, count: u32, scattered: bool) {
    let mut random = Random(context.run.seed);
    let (mut times, mut last) = ([Vec::new(), Vec::new()], [(0, ReadStats::default()); 2]);
    let rounds = context.run.size(if mode == Access::Direct { 5 } else { 9 }, 1);
    for _ in 0..rounds {
        let first = random.below(u64::from(pages.count - count + 1)) as u32;
        let mut keys: Vec<Key> = match scattered {
            false => (first..first + count).map(key).collect(),
            true => (0..count).map(|_| key(random.below(u64::from(pages.count)) as u32)).collect(),
        };
        random.shuffle(&mut keys);
        for (at_once, (times, last)) in
            [true, false].into_iter().zip(times.iter_mut().zip(&mut last))
        {
            // A store that was just opened has nothing in its cache.
            let (store, timeline) = pages.open(mode, 1 << 30);
            let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
            let guard = reader.pin();
            if mode == Access::MMAP {
                // Checksums are verified by the first read.
                read(guard, pages, &keys, at_once, &mut scratch);
            }
            let (before, stats_before) = (store.stats().access.reads, scratch.all_reads());
            let began = Instant::now();
            read(guard, pages, &keys, at_once, &mut scratch);
            times.push(began.elapsed().as_nanos() as f64 / 1e3);
            let mut stats = scratch.all_reads();
            stats.blocks -= stats_before.blocks;
            stats.inflated_bytes -= stats_before.inflated_bytes;
            *last = (store.stats().access.reads - before, stats);
        }
    }
    let [many, single] = last;
    let [many_us, single_us] = times.map(|times| Spread::of(times).median);
    let order = if scattered { "scattered" } else { "in sequence" };
    let name = format!("{mode}, {count} {order}");
    let both = |many: u64, single: u64| format!("{many} / {single}");
    context.report.line(format_args!(
        "  {name:34} {:>22} {:>22} {:>26} {:>26}",
        both(many.0, single.0),
        both(many.1.blocks, single.1.blocks),
        both(many.1.inflated_bytes >> 10, single.1.inflated_bytes >> 10),
        format!("{many_us:.0} / {single_us:.0}: x{:.1}", single_us / many_us),
    ));
}

fn read(
    guard: pagestrata::Guard<'_>,
    pages: &Pages,
    keys: &[Key],
    at_once: bool,
    scratch: &mut Scratch,
) {
    let mut sum = 0;
    let mut sink = |key: Key, page: Result<Page<'_>, Error>| {
        let page = page.expect("a page");
        assert_eq!(page[..8], pages.image(key.block)[..8]);
        sum += 1;
    };
    if at_once {
        guard.pages(keys, pages.last, &Last, scratch, &mut sink).expect("a read");
    } else {
        for &key in keys {
            sink(key, guard.page(key, pages.last, &Last, scratch));
        }
    }
    assert_eq!(sum, keys.len());
}

/// The base as it is: what redo takes is not what is measured.
struct Last;

impl Redo for Last {
    fn apply(
        &self,
        _: Key,
        base: Option<&[u8]>,
        deltas: &mut dyn Iterator<Item = PageVersion<'_>>,
        page: &mut Vec<u8>,
    ) -> RedoResult<()> {
        page.extend_from_slice(&base.unwrap_or_default()[..64]);
        page.push(deltas.fold(0, |sum: u8, delta| sum.wrapping_add(delta.bytes[0])));
        Ok(())
    }
}
