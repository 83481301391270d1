//! What a version and a layer take, in memory and in files.

use pagestrata_benches::{
    stores::{Place, TempStore},
    updates::Updates,
};

use crate::{
    Meter,
    operations::{SEED, repeatable},
};

const VALUE_LEN: usize = 100;

/// Sizes of an open layer, of a delta layer and of the map's entry for one.
pub(crate) fn sizes(meter: &mut Meter) {
    let mut store = TempStore::new(Place::Tmpfs, repeatable());
    let timeline = store.timeline();
    let updates = Updates::random(SEED, 10_000, 5_000, VALUE_LEN);
    let count = updates.len() as f64;
    let open_bytes = || timeline.stats().memory.open_bytes as f64;
    let empty = open_bytes();
    let mut lease = timeline.write_lease().expect("a free lease");
    updates.put_all(&mut lease).expect("puts");
    meter.figure("memory_bytes_a_version", (open_bytes() - empty) / count);
    lease.flush().expect("a flush");
    let [layer] = &timeline.layers()[..] else { panic!("expected one layer") };
    meter.figure("file_bytes_a_version", layer.file_bytes as f64 / count);
    let map_bytes = || timeline.stats().memory.map_bytes as f64;
    let (one_layer, mut lsn) = (map_bytes(), updates.last_lsn());
    for n in 0..10 {
        lsn = lsn.next();
        lease.put(updates.key(n), lsn, updates.value(n)).expect("a put");
        lease.commit(lsn).expect("a commit");
        if n == 0 {
            meter.figure("memory_bytes_a_layer_of_one_version", open_bytes());
        }
        lease.flush().expect("a flush");
    }
    meter.figure("map_bytes_a_layer", (map_bytes() - one_layer) / 10.0);
    let layers = timeline.layers();
    let smallest = layers.iter().map(|layer| layer.file_bytes).min().expect("layers");
    meter.figure("file_bytes_a_layer_of_one_version", smallest as f64);
}
