//! Records with random damage and a checksum that was made right again: read or refused, never a
//! panic.

use fastrand::Rng;
use pagestrata_layers::Lsn;
use pagestrata_postgres::{Error, PageVersions, decode_record, relation_events};

use crate::{captures, layout::seal};

#[test]
fn damaged_records_are_read_or_refused() {
    let (mut records, mut reader) = (Vec::new(), captures::sample().reader());
    while let Some(record) = reader.next_record().unwrap() {
        records.push(record.raw().to_vec());
    }
    let seed = 0xD1B5_4A32_D192_ED03;
    println!("seed {seed:#X}");
    let (mut random, mut versions) = (Rng::with_seed(seed), PageVersions::new());
    let (mut read, mut refused) = (0, 0);
    for _ in 0..60_000 {
        let mut record = records[random.u64(..records.len() as u64) as usize].clone();
        for _ in 0..=random.u64(..3) {
            let len = record.len() as u64;
            // Mostly in the headers, which come first.
            let at = if random.bool() { random.u64(..len.min(90)) } else { random.u64(..len) };
            record[at as usize] = random.u8(..);
        }
        if random.u64(..4) == 0 {
            record.truncate(24 + random.u64(..record.len() as u64 - 23) as usize);
        }
        seal(&mut record);
        let run = |versions: &mut PageVersions| -> Result<(), Error> {
            let record = decode_record(&record, Lsn(0x1000))?;
            assert_eq!(record.blocks().count(), record.blocks().len());
            versions.versions(&record, |_, _| Ok::<_, Error>(()))?;
            versions.implied(&record, |_, _| Ok::<_, Error>(()))?;
            relation_events(&record, |_| Ok(()))
        };
        match run(&mut versions) {
            Ok(()) => read += 1,
            Err(_) => refused += 1,
        }
    }
    println!("60000 damaged records: {read} read, {refused} refused, 0 panics");
    assert!(read > 0 && refused > 0);
}
