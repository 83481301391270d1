//! Which delta layers to merge next: a pure function of the layers, without I/O.
//!
//! Layers that overlap in Lsn are one *run*: what a flush wrote, or the files of one merge. Runs
//! follow each other along the Lsn. Runs beside each other are merged when together they have the
//! bytes of F times the largest of them, F being the fan-in: so F runs of one size, with whatever
//! smaller ones lie between. Each merge puts every byte that it writes into a run F times as large
//! as the one that it was in, so a byte is written at most once for each power of F between a flush
//! and the whole history: size-tiered compaction (O'Neil et al., The Log-Structured Merge-Tree,
//! 1996), along the Lsn alone. Between two merges there are about F runs of each size.
//!
//! **Invariant:** what is merged has no gap along the Lsn in which another run lies, so that the
//! Lsns of runs stay apart. Runs with a parked layer are not touched, and nothing is merged across
//! them.

use std::{collections::BTreeSet, ops::Range};

use pagestrata_layers::{Lsn, layer_file::LayerKind, manifest::edit::LayerRecord};

/// At most so many runs are merged at once: each takes a block in memory, for its files are read
/// one after the other.
const RUNS_MAX: usize = 256;

/// Delta layers that overlap in Lsn.
#[derive(Clone, Debug)]
struct Run {
    lsn_range: Range<Lsn>,
    bytes: u64,
    sequences: Vec<u64>,
    is_parked: bool,
}

/// Returns the sequence numbers of the layers to merge next; none: no merge is worth its bytes.
pub(crate) fn plan<'l>(
    layers: impl Iterator<Item = &'l LayerRecord>,
    fan_in: u32,
    parked: &BTreeSet<u64>,
) -> Option<Vec<u64>> {
    assert!(fan_in >= 2, "a merge of one layer spares nothing");
    let runs = runs_of(layers, parked);
    let size = |run: &Run| run.bytes.max(1).ilog2();
    let mut sizes: Vec<u32> = runs.iter().filter(|run| !run.is_parked).map(size).collect();
    sizes.sort_unstable();
    sizes.dedup();
    sizes.into_iter().find_map(|largest| {
        let is_small = |run: &Run| !run.is_parked && size(run) <= largest;
        let neighbours = runs.chunk_by(|one, other| is_small(one) == is_small(other));
        neighbours.filter(|runs| is_small(&runs[0])).find_map(|runs| inputs_of(runs, fan_in))
    })
}

/// The layers to merge of runs beside each other: all of them, or as many as may be, if that is
/// worth their bytes; of more than may be, those with the smallest runs in any case.
fn inputs_of(runs: &[Run], fan_in: u32) -> Option<Vec<u64>> {
    let windows = || {
        let last = runs.len().saturating_sub(RUNS_MAX);
        let starts = (0..last).step_by(RUNS_MAX / 2).chain([last]);
        starts.map(|start| &runs[start..runs.len().min(start + RUNS_MAX)])
    };
    let largest = |window: &&[Run]| window.iter().map(|run| run.bytes).max();
    let is_crowded = runs.len() > RUNS_MAX;
    let in_any_case = || windows().filter(|_| is_crowded).min_by_key(largest);
    let chosen = windows().find(|window| is_worth_it(window, fan_in)).or_else(in_any_case)?;
    Some(chosen.iter().flat_map(|run| run.sequences.iter().copied()).collect())
}

/// Whether to merge these runs is worth their bytes.
fn is_worth_it(runs: &[Run], fan_in: u32) -> bool {
    let bytes = runs.iter().map(|run| u128::from(run.bytes)).sum::<u128>();
    let largest = runs.iter().map(|run| u128::from(run.bytes)).max().unwrap_or_default();
    // Half a run less: runs of one size differ a little.
    runs.len() >= 2 && 2 * bytes >= (2 * u128::from(fan_in) - 1) * largest
}

/// The runs, oldest first.
fn runs_of<'l>(layers: impl Iterator<Item = &'l LayerRecord>, parked: &BTreeSet<u64>) -> Vec<Run> {
    let mut deltas: Vec<&LayerRecord> =
        layers.filter(|layer| layer.summary.kind == LayerKind::Delta).collect();
    deltas.sort_unstable_by_key(|layer| (layer.summary.lsn_range.start, layer.summary.id.sequence));
    let mut runs: Vec<Run> = Vec::new();
    for layer in deltas {
        let summary = &layer.summary;
        let (lsns, sequence) = (summary.lsn_range.clone(), summary.id.sequence);
        match runs.last_mut() {
            Some(run) if lsns.start < run.lsn_range.end => {
                run.lsn_range.end = run.lsn_range.end.max(lsns.end);
                run.bytes += summary.file_len;
                run.sequences.push(sequence);
                run.is_parked |= parked.contains(&sequence);
            }
            _ => runs.push(Run {
                lsn_range: lsns,
                bytes: summary.file_len,
                sequences: vec![sequence],
                is_parked: parked.contains(&sequence),
            }),
        }
    }
    debug_assert!(runs.windows(2).all(|pair| pair[0].lsn_range.end <= pair[1].lsn_range.start));
    runs
}

#[cfg(test)]
mod tests {
    use pagestrata_layers::{
        Key, KeyRange,
        layer_file::{LayerId, LayerSummary},
    };

    use super::*;

    fn layer(sequence: u64, lsns: Range<u64>, file_len: u64) -> LayerRecord {
        let summary = LayerSummary {
            id: LayerId { store: 1, timeline: 1, sequence },
            kind: LayerKind::Delta,
            key_range: KeyRange::inclusive(Key::MIN, Key::new(1, 1)),
            lsn_range: Lsn(lsns.start)..Lsn(lsns.end),
            file_len,
            digest: 0,
            keys: 1,
            versions: 1,
            value_bytes: file_len,
            tombstones: 0,
        };
        LayerRecord { level: 0, summary }
    }

    fn planned(layers: &[LayerRecord], parked: &[u64]) -> Option<Vec<u64>> {
        plan(layers.iter(), 8, &parked.iter().copied().collect())
    }

    /// Puts one layer, with the next sequence number, in the place of those that the plan names, as
    /// long as it names any; the bytes written.
    fn merge_all(layers: &mut Vec<LayerRecord>, fan_in: u32, sequence: &mut u64) -> u64 {
        let mut written = 0;
        while let Some(inputs) = plan(layers.iter(), fan_in, &BTreeSet::new()) {
            let inputs: BTreeSet<u64> = inputs.into_iter().collect();
            let is_input = |layer: &mut LayerRecord| inputs.contains(&layer.summary.id.sequence);
            let merged: Vec<_> = layers.extract_if(.., is_input).collect();
            assert_eq!(merged.len(), inputs.len());
            let start = merged.iter().map(|of| of.summary.lsn_range.start.0).min();
            let end = merged.iter().map(|of| of.summary.lsn_range.end.0).max();
            let bytes = merged.iter().map(|of| of.summary.file_len).sum();
            layers.push(layer(*sequence, start.unwrap()..end.unwrap(), bytes));
            (*sequence, written) = (*sequence + 1, written + bytes);
        }
        written
    }

    /// Layers of one size, one after the other.
    fn row(count: u64, file_len: u64) -> Vec<LayerRecord> {
        (0..count).map(|n| layer(n, n * 10..n * 10 + 10, file_len)).collect()
    }

    #[test]
    fn as_many_layers_as_the_fan_in_are_merged() {
        assert_eq!(planned(&row(7, 4096), &[]), None);
        assert_eq!(planned(&row(8, 4096), &[]), Some((0..8).collect()));
        assert_eq!(planned(&[], &[]), None);
    }

    #[test]
    fn a_large_run_waits_for_its_like() {
        let mut layers = row(8, 4096);
        layers[0].summary.file_len = 1 << 30;
        assert_eq!(planned(&layers, &[]), None, "7 small ones are no reason to write 1 GiB");
        layers.push(layer(8, 80..90, 4096));
        assert_eq!(planned(&layers, &[]), Some((1..9).collect()));
    }

    #[test]
    fn the_files_of_one_merge_are_one_run() {
        let mut layers = row(8, 4096);
        for layer in &mut layers {
            layer.summary.lsn_range = Lsn(10)..Lsn(90);
        }
        assert_eq!(planned(&layers, &[]), None);
        layers.extend((8..15).map(|n| layer(n, n * 10 + 10..n * 10 + 20, 8 * 4096)));
        assert_eq!(planned(&layers[..14], &[]), None, "7 runs");
        assert_eq!(planned(&layers, &[]), Some((0..15).collect()), "8 runs");
    }

    #[test]
    fn a_parked_layer_parts_what_is_beside_it() {
        let layers = row(17, 4096);
        assert_eq!(planned(&layers, &[8]), Some((0..8).collect()));
        assert_eq!(planned(&layers[1..], &[8]), Some((9..17).collect()));
        assert_eq!(planned(&layers[1..16], &[8]), None);
    }

    /// Flushes of a size now and then among smaller ones, which never come to the fan-in's worth.
    #[test]
    fn runs_stay_few_whatever_their_sizes() {
        for fan_in in [2, 8, 64] {
            for (period, small) in [(10, 1 << 20), (8, 8 << 20), (64, 1 << 10)] {
                let (mut layers, mut lsn) = (Vec::new(), 1);
                for sequence in 0..4_000 {
                    let file_len = if sequence % period == 0 { 64 << 20 } else { small };
                    layers.push(layer(sequence << 20, lsn..lsn + 10, file_len));
                    lsn += 10;
                    merge_all(&mut layers, fan_in, &mut ((sequence << 20) + 1));
                    assert!(layers.len() <= 2 * RUNS_MAX, "{fan_in}, {period}: {}", layers.len());
                }
            }
        }
    }

    /// Flushes of random sizes: how often each byte is written and how many runs there are, against
    /// what the head of this file says.
    #[test]
    fn bytes_are_written_once_a_power_and_runs_stay_few() {
        for seed in 0..20 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut layers, mut sequence, mut lsn) = (Vec::new(), 0, 1);
            let (mut flushed, mut written, mut most) = (0, 0, 0);
            for _ in 0..3_000 {
                let file_len = match seed % 3 {
                    0 => 1 << 20,
                    1 => random.u64(1 << 10..1 << 20),
                    _ => 1 << random.u64(10..27),
                };
                layers.push(layer(sequence, lsn..lsn + 10, file_len));
                (sequence, lsn, flushed) = (sequence + 1, lsn + 10, flushed + file_len);
                written += merge_all(&mut layers, 8, &mut sequence);
                most = most.max(layers.len());
            }
            let smallest = if seed % 3 == 0 { 1_u64 << 20 } else { 1 << 10 };
            let powers = (flushed as f64 / smallest as f64).log(7.5).ceil();
            let times = written as f64 / flushed as f64;
            assert!(times <= powers, "seed {seed}: {times} times, {powers} powers");
            assert!(most as f64 <= 16.0 * powers, "seed {seed}: {most} runs, {powers} powers");
        }
    }
}
