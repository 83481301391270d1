//! What a record's values are written from: the arena where they lie, or a buffer that they are
//! copied into first.

use std::{cell::RefCell, io::IoSlice, path::Path};

use pagestrata_benches::{
    measure::{Clock, Turns, timed},
    random::Random,
    stores::Place,
};
use pagestrata_layers::storage::{File, RealStorage, Storage};

use crate::Context;

const FILE_LEN: usize = 16 << 20;

pub(crate) fn measure(context: &mut Context) {
    context.report.part("where a record is written from (CPU), file written before, not synced");
    for (name, head, value, values) in
        [("100 values of 139 B", 700, 139, 100), ("32 values of 8 KiB", 250, 8192, 32)]
    {
        case(context, name, head, value, values);
    }
}

fn case(context: &mut Context, name: &str, head: usize, value: usize, values: usize) {
    let run = &context.run;
    let dir = Place::Disk.dir();
    let file = RefCell::new(file(&dir.path().join("file")));
    let arena = Random(run.seed).bytes(FILE_LEN);
    let head = Random(run.seed ^ 1).bytes(head);
    let len = head.len() + value * values;
    let count = run.size(4 << 30, 1 << 20) / len / 16;
    let places = || (0..count).map(|n| n * len % (FILE_LEN - len));
    let write = |at: usize, parts: &[IoSlice<'_>]| {
        file.borrow_mut().write_at(at as u64, parts).expect("a write");
    };
    let mut turns = Turns::new();
    turns.add("from the arena", || {
        let write_all = || {
            places().for_each(|at| {
                write(at, &[IoSlice::new(&head), IoSlice::new(&arena[at..][..value * values])]);
            });
        };
        timed(count as u64, write_all).1
    });
    turns.add("copied, value by value, and written", || {
        let mut buffer = Vec::with_capacity(len);
        let write_all = || {
            places().for_each(|at| {
                buffer.clear();
                buffer.extend_from_slice(&head);
                let values = arena[at..][..value * values].chunks_exact(value);
                values.for_each(|value| buffer.extend_from_slice(value));
                write(at, &[IoSlice::new(&buffer)]);
            });
        };
        timed(count as u64, write_all).1
    });
    let measured = turns.run(context.run.size(9, 1), Clock::Thread);
    drop(turns);
    context.report.table(format_args!("a record of {name}"), &measured, Some(1));
}

fn file(path: &Path) -> Box<dyn File> {
    let mut file = RealStorage.create(path).expect("a file");
    file.append(&vec![0; FILE_LEN]).expect("room for it");
    file.sync().expect("a sync");
    file
}
