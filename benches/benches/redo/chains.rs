//! All chains of a log, and chains of given lengths: what redo adds to the copy of the base.

use std::{cell::RefCell, hint::black_box};

use pagestrata::Redo;
use pagestrata_benches::{
    measure::{Clock, Measured, Turns, timed},
    normalisers::Normalisers,
    report::Wanted,
};

use crate::{
    Context,
    capture::{Capture, Chain, Chains},
};

const LENGTHS: [usize; 4] = [1, 10, 100, 1000];

pub(crate) fn measure(context: &mut Context) {
    for name in ["main", "fpwoff"] {
        let capture = Capture::open(name);
        let chains = capture.chains();
        all(context, &capture, &chains);
        if name == "fpwoff" {
            of_lengths(context, &capture, &chains);
        }
    }
}

/// Every record of a log on every page that it changes.
fn all(context: &mut Context, capture: &Capture, chains: &Chains) {
    let records: usize = chains.chains.iter().map(Chain::len).sum();
    let normalisers = Normalisers::new(&context.run);
    let redo = capture.redo();
    let page = RefCell::new(Vec::new());
    let mut turns = Turns::new();
    normalisers.add_to(&mut turns);
    turns.add("copy of the bases, a record", || {
        let page = &mut *page.borrow_mut();
        timed(records as u64, || {
            for chain in &chains.chains {
                chains.copy_base(chain, page);
                black_box(&mut *page);
            }
        })
        .1
    });
    turns.add("redo, a record", || {
        let page = &mut *page.borrow_mut();
        timed(records as u64, || {
            for chain in &chains.chains {
                page.clear();
                let deltas = &mut chains.deltas(chain);
                redo.apply(chain.key, chains.base(chain), deltas, page).expect("redo");
                black_box(&mut *page);
            }
        })
        .1
    });
    let measured = turns.run(context.run.size(9, 1), Clock::Thread);
    drop(turns);
    context.report.part(format_args!(
        "chains of {}: {records} records in {} chains, in memory",
        capture.name,
        chains.chains.len()
    ));
    context.report.table("", &measured, None);
    let what = format!("{}: a record redone, with its share of the bases, mean", capture.name);
    context.report.goal(what, measured[3].ns.median, Wanted::AtMost(250.0), "ns");
    let what = format!("{}: allocations a record", capture.name);
    context.report.goal(what, measured[3].allocations.median, Wanted::AtMost(0.0), "");
}

/// The first so many records of each chain that has them.
fn of_lengths(context: &mut Context, capture: &Capture, chains: &Chains) {
    let redo = capture.redo();
    let mut rows: Vec<(usize, usize, Vec<Measured>)> = Vec::new();
    for len in LENGTHS {
        let long: Vec<&Chain> =
            chains.chains.iter().filter(|chain| chain.len() >= len).take(256).collect();
        if long.is_empty() {
            context.report.line(format_args!("no chain of {len} records"));
            continue;
        }
        let page = RefCell::new(Vec::new());
        let mut turns = Turns::new();
        turns.add("copy", || {
            let page = &mut *page.borrow_mut();
            timed(long.len() as u64, || {
                for chain in &long {
                    chains.copy_base(chain, page);
                    black_box(&mut *page);
                }
            })
            .1
        });
        turns.add("redo", || {
            let page = &mut *page.borrow_mut();
            timed(long.len() as u64, || {
                for chain in &long {
                    page.clear();
                    let deltas = &mut chains.deltas(chain).take(len);
                    redo.apply(chain.key, chains.base(chain), deltas, page).expect("redo");
                    black_box(&mut *page);
                }
            })
            .1
        });
        let measured = turns.run(context.run.size(15, 1), Clock::Thread);
        drop(turns);
        rows.push((len, long.len(), measured));
    }
    context.report.part(format_args!("pages of {} by the length of their chains", capture.name));
    context.report.line(format_args!(
        "  {:>8} {:>8} {:>14} {:>14} {:>14} {:>12}",
        "records", "pages", "base, ns", "page, ns", "a record, ns", "allocations"
    ));
    for (len, pages, measured) in rows {
        let [copy, redo] = &measured[..] else { continue };
        let each = (redo.ns.median - copy.ns.median) / len as f64;
        context.report.line(format_args!(
            "  {len:8} {pages:8} {:14.0} {:14.0} {each:14.1} {:12.2}",
            copy.ns.median, redo.ns.median, redo.allocations.median
        ));
    }
}
