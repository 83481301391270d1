//! A workload of whole chains: an image of 8 KiB and some deltas of 100 B above it, scattered,
//! because other keys were written in between.

use pagestrata::{Key, Lsn, Timeline, Value};

use crate::{
    random::Random,
    reference::Reference,
    updates::{BATCH, OBJECT},
};

const IMAGE_LEN: usize = 8192;
const DELTA_LEN: usize = 100;

/// Chains of the same length under many keys.
#[derive(Debug)]
pub struct Chains {
    /// Rounds of all keys in another order each: the images, then the deltas.
    order: Vec<Vec<u32>>,
    source: Vec<u8>,
}

impl Chains {
    /// `keys` chains of an image and `deltas` deltas each.
    #[must_use]
    pub fn new(seed: u64, keys: u32, deltas: usize) -> Chains {
        let mut random = Random(seed);
        let order = (0..=deltas).map(|_| {
            let mut blocks: Vec<u32> = (0..keys).collect();
            random.shuffle(&mut blocks);
            blocks
        });
        Chains { order: order.collect(), source: random.bytes(IMAGE_LEN + 4096) }
    }

    /// Deltas above each image.
    #[must_use]
    pub fn deltas(&self) -> usize {
        self.order.len() - 1
    }

    /// Number of chains.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.order[0].len()
    }

    fn bytes(&self, round: usize, block: u32) -> &[u8] {
        let start = (block as usize * 31 + round * 7) % 4096;
        &self.source[start..start + if round == 0 { IMAGE_LEN } else { DELTA_LEN }]
    }

    /// Every update in the order of Lsns.
    pub fn updates(&self) -> impl Iterator<Item = (Key, Lsn, Value<'_>)> {
        let all = self.order.iter().enumerate().flat_map(move |(round, blocks)| {
            blocks.iter().map(move |&block| {
                let bytes = self.bytes(round, block);
                let value = match round {
                    0 => Value::Image(bytes),
                    _ => Value::Delta { bytes, will_init: false },
                };
                (Key::new(OBJECT, block), value)
            })
        });
        all.enumerate().map(|(n, (key, value))| (key, Lsn(n as u64 + 2), value))
    }

    /// The Lsn of the last update.
    #[must_use]
    pub fn last_lsn(&self) -> Lsn {
        Lsn((self.order.len() * self.keys()) as u64 + 1)
    }

    /// Puts all of them through the engine, with a commit each [`BATCH`].
    ///
    /// # Panics
    /// When the lease is held, or a put fails.
    pub fn put_all(&self, timeline: &Timeline) {
        let mut lease = timeline.write_lease().expect("a free lease");
        for (n, (key, lsn, value)) in self.updates().enumerate() {
            lease.put(key, lsn, value).expect("a put");
            if n % BATCH == 0 || lsn == self.last_lsn() {
                lease.commit(lsn).and_then(pagestrata::CommitTicket::wait).expect("a commit");
            }
        }
    }

    /// A reference that holds all of them.
    #[must_use]
    pub fn reference(&self) -> Reference {
        let reference = Reference::new();
        let mut writer = reference.writer();
        for (n, (key, lsn, value)) in self.updates().enumerate() {
            writer.put(key, lsn, value);
            if n % BATCH == 0 || lsn == self.last_lsn() {
                writer.commit(lsn);
            }
        }
        reference
    }

    /// All keys in random order.
    #[must_use]
    pub fn queries(&self, seed: u64) -> Vec<Key> {
        let mut queries: Vec<Key> = (0..self.keys() as u32).map(|b| Key::new(OBJECT, b)).collect();
        Random(seed).shuffle(&mut queries);
        queries
    }
}
