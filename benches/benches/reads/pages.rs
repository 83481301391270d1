//! The store that is read: pages of 8 KiB in image layers, half of each page's deltas in a delta
//! layer, the other half in memory.

use std::{path::Path, time::Duration};

use pagestrata::{Access, Compression, Durability, Key, Lsn, Options, Store, Timeline, Value};
use pagestrata_benches::{
    random::Random,
    stores::Place,
    updates::{BATCH, OBJECT},
};
use tempfile::TempDir;

const IMAGE_LEN: usize = 8192;
const SOURCE_LEN: usize = 64 << 10;

/// A store on a disk that is opened again and again.
pub(crate) struct Pages {
    dir: TempDir,
    pub(crate) count: u32,
    pub(crate) last: Lsn,
    source: Vec<u8>,
}

impl Pages {
    /// `count` pages with `deltas` deltas of 60 to 200 bytes in a file and as many in memory.
    pub(crate) fn new(seed: u64, count: u32, deltas: usize, compression: Compression) -> Pages {
        let mut random = Random(seed);
        let source = match compression {
            Compression::None => random.bytes(SOURCE_LEN + IMAGE_LEN),
            // Something that gets smaller.
            Compression::Zstd { .. } => (0..SOURCE_LEN + IMAGE_LEN)
                .map(|at| (random.number() >> 61) as u8 + (at >> 9) as u8)
                .collect(),
        };
        let mut pages = Pages { dir: Place::Disk.dir(), count, last: Lsn(10), source };
        let options = Options {
            compression,
            durability: Durability::Buffered { sync_interval: Duration::from_secs(1) },
            ..pages.options()
        };
        let (store, _) = Store::open(pages.path(), options).expect("a new store");
        let timeline = store.create_timeline("main", Lsn(1)).expect("a new timeline");
        let mut lease = timeline.write_lease().expect("a free lease");
        let mut import = lease.import_images(pages.last).expect("an import");
        for block in 0..count {
            import.put(key(block), pages.image(block)).expect("an image");
        }
        import.finish().expect("an import");
        drop(lease);
        for half in 0..2 {
            let mut lease = timeline.write_lease().expect("a free lease");
            for round in 0..deltas {
                let mut blocks: Vec<u32> = (0..count).collect();
                random.shuffle(&mut blocks);
                for (n, &block) in blocks.iter().enumerate() {
                    pages.last = pages.last.next();
                    let bytes = pages.delta(block, round + half * deltas);
                    let value = Value::Delta { bytes, will_init: false };
                    lease.put(key(block), pages.last, value).expect("a put");
                    if n % BATCH == 0 || n + 1 == blocks.len() {
                        lease.commit(pages.last).expect("a commit");
                    }
                }
            }
            drop(lease);
            if half == 0 {
                timeline.flush().expect("a flush");
            }
        }
        drop((timeline, store));
        pages
    }

    fn path(&self) -> std::path::PathBuf {
        Path::join(self.dir.path(), "store")
    }

    fn options(&self) -> Options {
        Options {
            open_layer_size_max_bytes: 4 << 30,
            log_size_max_bytes: 64 << 30,
            block_cache_max_bytes: 8 << 30,
            compaction_fan_in: 0,
            ..Options::default()
        }
    }

    /// Opens it, to be read in one way. What was in memory is again, and what is written more is
    /// not kept.
    pub(crate) fn open(&self, access: Access, block_cache_max_bytes: u64) -> (Store, Timeline) {
        let options = Options {
            access,
            block_cache_max_bytes,
            durability: Durability::External,
            ..self.options()
        };
        let (store, _) = Store::open(self.path(), options).expect("a sound store");
        let timeline = store.timeline("main").expect("the timeline");
        (store, timeline)
    }

    pub(crate) fn image(&self, block: u32) -> &[u8] {
        let start = block as usize * 31 % SOURCE_LEN;
        &self.source[start..start + IMAGE_LEN]
    }

    pub(crate) fn delta(&self, block: u32, n: usize) -> &[u8] {
        let start = (block as usize * 7 + n * 1013) % SOURCE_LEN;
        &self.source[start..start + 60 + (block as usize + n * 37) % 141]
    }
}

pub(crate) fn key(block: u32) -> Key {
    Key::new(OBJECT, block)
}
