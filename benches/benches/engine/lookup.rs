//! The newest version of a random key out of many, each time under a new pin.

use std::hint::black_box;

use pagestrata::{Key, Lsn, Reader, Scratch};
use pagestrata_benches::{
    measure::{Clock, Turns, timed},
    random::Random,
    reference::Reference,
    report::Wanted,
    stores::{Place, TempStore, one_layer},
    updates::{OBJECT, Updates},
};

use crate::Context;

pub(crate) fn measure(context: &mut Context) {
    let run = context.run.clone();
    let (count, blocks) = run.size((2_000_000, 1_060_000), (20_000, 10_600));
    let updates = Updates::random(run.seed, count, blocks, 100);
    let newest = updates.newest(blocks);
    let mut random = Random(run.seed + 1);
    let mut queries: Vec<Key> = (0..blocks)
        .filter(|&b| newest[b as usize].is_some())
        .map(|b| Key::new(OBJECT, b))
        .collect();
    random.shuffle(&mut queries);
    queries.truncate(run.size(500_000, 5_000));

    let mut stores = [(); 2].map(|()| TempStore::new(Place::Tmpfs, one_layer()));
    let [in_memory, in_file] = stores.each_mut().map(|store| {
        let timeline = store.timeline();
        updates.put_all(&mut timeline.write_lease().expect("a free lease")).expect("puts");
        timeline
    });
    in_file.flush().expect("a flush");
    let reference = updates.reference();
    let upper = updates.last_lsn();
    for &key in &queries {
        let n = newest[key.block as usize].expect("a key that was put") as usize;
        let (mut reader, mut scratch) = (in_memory.reader(), Scratch::new());
        let found = reader.pin().versions(key, upper, &mut scratch).expect("a read").newest();
        let found = found.map(|version| (version.lsn, version.bytes));
        assert!(found == Some((updates.lsn(n), updates.bytes(n))), "{key}");
    }

    let sum = sum_of_reference(&reference, &queries, upper);
    let [mut memory, mut file] = [&in_memory, &in_file].map(|timeline| {
        let mut reading = (timeline.reader(), Scratch::new());
        assert!(sum_of(&mut reading, &queries, upper) == sum);
        reading
    });
    let mut turns = Turns::new();
    let asked = queries.len() as u64;
    turns.add("engine, from memory", || {
        let (found, sample) = timed(asked, || sum_of(&mut memory, &queries, upper));
        assert!(found == sum && sample.allocations == 0, "warm reads do not allocate");
        sample
    });
    turns.add("engine, from a delta file", || {
        let (found, sample) = timed(asked, || sum_of(&mut file, &queries, upper));
        assert!(found == sum && sample.allocations == 0, "warm reads do not allocate");
        sample
    });
    turns.add("reference: RwLock<BTreeMap>", || {
        let (found, sample) = timed(asked, || sum_of_reference(&reference, &queries, upper));
        assert!(found == sum);
        sample
    });
    context.normalisers.add_to(&mut turns);
    let measured = turns.run(run.size(7, 1), Clock::Thread);
    drop(turns);
    context.report.part("lookup: the newest version at or below the last Lsn");
    let title = format!("{count} versions of {blocks} keys, 100 B");
    context.report.table(title, &measured, Some(2));
    let ratio = measured[0].times_faster_than(&measured[2]);
    let what = "newest lookup from memory: times the reference";
    context.report.goal(what, ratio, Wanted::AtLeast(8.0), "x");
}

/// Reads all and adds their Lsns up.
fn sum_of((reader, scratch): &mut (Reader, Scratch), queries: &[Key], upper: Lsn) -> u64 {
    let mut sum = 0;
    for &key in queries {
        let guard = reader.pin();
        let versions = guard.versions(black_box(key), upper, scratch).expect("a read");
        sum += versions.newest_first().map(|version| version.lsn.0).sum::<u64>();
    }
    sum
}

fn sum_of_reference(reference: &Reference, queries: &[Key], upper: Lsn) -> u64 {
    let mut sum = 0;
    for &key in queries {
        reference.pin().versions(black_box(key), upper, |version| sum += version.lsn.0);
    }
    sum
}
