//! A pin of an unchanged map as one function, to inspect its machine code.
//!
//! `engine/rigs/pin_unchanged.sh` builds it, disassembles [`pin_unchanged`] and fails if there is
//! an instruction with a `lock` prefix or an `xchg` with memory, that is, an atomic
//! read-modify-write.
#![allow(clippy::print_stdout, reason = "it is a program")]

use pagestrata::{Guard, Lsn, Options, Reader, Store};

/// The pin. The cold path, for a map that has changed, is a call out of this function.
#[inline(never)]
fn pin_unchanged(reader: &mut Reader) -> Guard<'_> {
    reader.pin()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let (store, _) = Store::open(dir.path(), Options::default())?;
    let timeline = store.create_timeline("main", Lsn(1))?;
    let mut reader = timeline.reader();
    let mut seen = 0;
    for _ in 0..1000 {
        seen += pin_unchanged(&mut reader).last_record_lsn().0;
    }
    println!("1000 pins, {seen}");
    Ok(())
}
