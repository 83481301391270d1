//! Reads a directory of WAL segments several times and says how fast: `decode <wal directory>
//! <start Lsn> [rounds]`.
#![allow(clippy::print_stdout)]

use std::{path::Path, sync::Arc, time::Instant};

use pagestrata_layers::storage::{RealStorage, SharedStorage};
use pagestrata_postgres::{Error, PageVersions, WalReader, relation_events};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, start, rest @ ..] = &arguments[..] else {
        return Err("usage: decode <wal directory> <start Lsn> [rounds]".into());
    };
    let rounds: usize = rest.first().map_or(Ok(5), |rounds| rounds.parse())?;
    let storage: SharedStorage = Arc::new(RealStorage);
    // The search behind the end is left out of the rounds: it is done once, however long the log
    // is.
    let start = start.parse()?;
    let mut whole = WalReader::open(Arc::clone(&storage), Path::new(dir), start, None, None)?;
    while whole.next_record()?.is_some() {}
    let end = Some(whole.position());
    for with_versions in [false, true] {
        for _ in 0..rounds {
            let started = Instant::now();
            let mut reader =
                WalReader::open(Arc::clone(&storage), Path::new(dir), start, end, None)?;
            let (mut versions, mut records, mut values) = (PageVersions::new(), 0_u64, 0_u64);
            let first = reader.position().0;
            while let Some(record) = reader.next_record()? {
                records += 1;
                if with_versions {
                    versions.versions(&record, |_, value| {
                        values += u64::from(!value.bytes().is_empty());
                        Ok::<_, Error>(())
                    })?;
                    versions.implied(&record, |_, _| Ok::<_, Error>(()))?;
                    relation_events(&record, |_| Ok::<_, Error>(()))?;
                }
            }
            let (elapsed, bytes) = (started.elapsed(), reader.position().0 - first);
            println!(
                "{records} records, {values} versions, {bytes} bytes of log in {elapsed:.1?}: {:.0} MB/s, {:.0} ns a record",
                bytes as f64 / elapsed.as_secs_f64() / 1e6,
                elapsed.as_nanos() as f64 / records as f64,
            );
        }
    }
    Ok(())
}
