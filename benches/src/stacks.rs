//! A workload of many delta layers above one image of each page: what a layer costs a read that it
//! has nothing for, and one that it adds a delta to.

use pagestrata::{Key, Lsn, Timeline, Value};

use crate::{
    random::Random,
    updates::{BATCH, OBJECT},
};

/// Of how many delta layers of the stack a page has a delta.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Held {
    /// Of none.
    None,
    /// Of one.
    One,
    /// Of half of them.
    Half,
}

impl Held {
    /// All of them, in the order of their pages: block `n` is of `Held::ALL[n % 3]`.
    pub const ALL: [Held; 3] = [Held::None, Held::One, Held::Half];

    /// Its name in tables and arguments.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Held::None => "none",
            Held::One => "one",
            Held::Half => "half",
        }
    }
}

/// Pages with an image each, and delta layers above them.
#[derive(Clone, Debug)]
pub struct Stack {
    pages: u32,
    layers: u32,
    image_len: usize,
    source: Vec<u8>,
}

const SOURCE_LEN: usize = 64 << 10;
const IMAGES_AT: Lsn = Lsn(10);

impl Stack {
    /// `layers` delta layers over `pages` pages, whose images have `image_len` bytes.
    #[must_use]
    pub fn new(seed: u64, pages: u32, layers: u32, image_len: usize) -> Stack {
        let source = Random(seed).bytes(SOURCE_LEN + image_len.max(256));
        Stack { pages, layers, image_len, source }
    }

    /// Whether a layer has a delta of a block.
    #[must_use]
    pub fn holds(&self, layer: u32, block: u32) -> bool {
        // A number that differs by block and layer alone, without a pattern in either.
        let mixed = Random(u64::from(block) << 32).number();
        match Held::ALL[block as usize % 3] {
            Held::None => false,
            Held::One => mixed % u64::from(self.layers) == u64::from(layer),
            Held::Half => Random(mixed ^ u64::from(layer)).number() % 2 == 0,
        }
    }

    /// All keys.
    pub fn keys(&self) -> impl Iterator<Item = Key> {
        (0..self.pages).map(|block| Key::new(OBJECT, block))
    }

    /// The values that a read of the newest version finds, newest first.
    pub fn chain(&self, block: u32) -> impl Iterator<Item = &[u8]> {
        let held = (0..self.layers).rev().filter(move |&layer| self.holds(layer, block));
        held.map(move |layer| self.delta(layer, block)).chain([self.image(block)])
    }

    /// How many versions a read of a block finds.
    #[must_use]
    pub fn versions(&self, block: u32) -> usize {
        self.chain(block).count()
    }

    /// The image of a block.
    #[must_use]
    pub fn image(&self, block: u32) -> &[u8] {
        &self.source[block as usize * 31 % SOURCE_LEN..][..self.image_len]
    }

    /// The delta of a block in a layer, 60 to 200 bytes.
    #[must_use]
    pub fn delta(&self, layer: u32, block: u32) -> &[u8] {
        let start = (block as usize * 7 + layer as usize * 1013) % SOURCE_LEN;
        &self.source[start..][..60 + (block + layer * 37) as usize % 141]
    }

    /// Imports the images, then writes and flushes layer by layer; the last Lsn.
    ///
    /// # Panics
    /// When the timeline is not new, or something fails.
    pub fn put_all(&self, timeline: &Timeline) -> Lsn {
        let mut lease = timeline.write_lease().expect("a free lease");
        let mut import = lease.import_images(IMAGES_AT).expect("an import");
        for block in 0..self.pages {
            import.put(Key::new(OBJECT, block), self.image(block)).expect("an image");
        }
        import.finish().expect("an import");
        drop(lease);
        let mut lsn = IMAGES_AT;
        for layer in 0..self.layers {
            let mut lease = timeline.write_lease().expect("a free lease");
            for block in (0..self.pages).filter(|&block| self.holds(layer, block)) {
                lsn = lsn.next();
                let value = Value::Delta { bytes: self.delta(layer, block), will_init: false };
                lease.put(Key::new(OBJECT, block), lsn, value).expect("a put");
                if lsn.0 % BATCH as u64 == 0 {
                    lease.commit(lsn).expect("a commit");
                }
            }
            lease.commit(lsn).expect("a commit");
            drop(lease);
            timeline.flush().expect("a flush");
        }
        lsn
    }

    /// Random pages of one kind.
    #[must_use]
    pub fn queries(&self, seed: u64, held: Held, count: usize) -> Vec<Key> {
        let mut random = Random(seed);
        let kind = Held::ALL.iter().position(|&other| other == held).expect("one of all") as u32;
        let block = |random: &mut Random| random.below(u64::from(self.pages / 3)) as u32 * 3 + kind;
        (0..count).map(|_| Key::new(OBJECT, block(&mut random))).collect()
    }

    /// How many deltas all layers have together.
    #[must_use]
    pub fn deltas(&self) -> u64 {
        (0..self.pages).map(|block| self.versions(block) as u64 - 1).sum()
    }
}
