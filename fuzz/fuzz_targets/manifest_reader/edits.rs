//! Edits chosen by the fuzzer, their sum, and their bytes: from the table in
//! `layers/src/manifest/edit.rs`.

use arbitrary::Arbitrary;
use pagestrata_layers::{
    Key, KeyRange, Lsn,
    layer_file::{LayerId, LayerKind, LayerSummary},
    manifest::edit::{Edit, LayerRecord, State, TimelineState},
};

pub const STORE: u128 = 0x5EED_0000_0000_0000_0000_0000_0000_0002;
const TIMELINES: u64 = 4;

#[derive(Debug, Arbitrary)]
pub enum Choice {
    Create { timeline: u8, name: u8, start: Number },
    Add { timeline: u8, sequence: Number, kind: u8, first: u8, end: Option<u8>, numbers: [u64; 3] },
    Remove { timeline: u8, sequence: u8 },
    Consistent { timeline: u8, lsn: Number },
    Next { sequence: Number },
    LogStart { sequence: u32 },
}

/// Mostly near an existing number.
#[derive(Clone, Copy, Debug, Arbitrary)]
pub enum Number {
    Near(i8),
    Any(u64),
}

impl Number {
    fn of(self, near: u64) -> u64 {
        match self {
            Number::Near(more) => near.saturating_add_signed(more.into()),
            Number::Any(number) => number,
        }
    }
}

impl Choice {
    /// Returns the edit, in a form that may follow a state.
    pub fn edit(&self, state: &State) -> Edit {
        let timeline = |of: u8| 1 + u64::from(of) % TIMELINES;
        match *self {
            Choice::Create { timeline: of, name, start } => {
                // Including the longest length, a longer one, and zero.
                let len = [1, 3, 255, 256, 0, 8, 8, 8][usize::from(name) % 8];
                let name = char::from(b'a' + name / 8).to_string().repeat(len);
                Edit::CreateTimeline { timeline: timeline(of), name, start: Lsn(start.of(16)) }
            }
            Choice::Add { timeline: of, sequence, kind, first, end, numbers } => {
                let id = LayerId {
                    store: STORE,
                    timeline: timeline(of),
                    sequence: sequence.of(state.next_sequence),
                };
                let kind_of = match kind % 3 {
                    0 => LayerKind::Delta,
                    complete => LayerKind::Image { complete: complete == 2 },
                };
                let key = |n: u8| Key::new(u128::from(n / 4) << 96 | 7, (n % 4).into());
                let start = Lsn(u64::from(first));
                let [file_len, keys, versions] = numbers;
                let summary = LayerSummary {
                    id,
                    kind: kind_of,
                    key_range: KeyRange { start: key(first), end: end.map(key) },
                    lsn_range: start..Lsn(start.0 + u64::from(kind)),
                    file_len,
                    digest: u128::from(keys) << 64 | u128::from(versions),
                    keys,
                    versions,
                    value_bytes: file_len ^ keys,
                    tombstones: versions ^ keys,
                };
                Edit::AddLayer(LayerRecord { level: kind / 128, summary })
            }
            Choice::Remove { timeline: of, sequence } => {
                let timeline = timeline(of);
                let layers = state.timelines.get(&timeline).map(|timeline| &timeline.layers);
                let count = layers.map_or(1, |layers| layers.len() + 1);
                let known =
                    layers.and_then(|layers| layers.keys().nth(usize::from(sequence) % count));
                Edit::RemoveLayer { timeline, sequence: known.copied().unwrap_or(sequence.into()) }
            }
            Choice::Consistent { timeline: of, lsn } => {
                let timeline = timeline(of);
                let now =
                    state.timelines.get(&timeline).map_or(0, |state| state.disk_consistent_lsn.0);
                Edit::DiskConsistent { timeline, lsn: Lsn(lsn.of(now)) }
            }
            Choice::Next { sequence } => Edit::NextSequence(sequence.of(state.next_sequence)),
            Choice::LogStart { sequence } => Edit::LogStart(sequence),
        }
    }
}

/// Returns the sum of edits; `None` if the last one cannot follow the others.
pub fn fold(mut state: State, edits: &[Edit]) -> Option<State> {
    for edit in edits {
        match edit.clone() {
            Edit::CreateTimeline { timeline, name, start } => {
                let is_new =
                    state.timelines.iter().all(|(n, of)| *n != timeline && of.name != name);
                if !is_new
                    || name.is_empty()
                    || name.len() > 255
                    || [0, u64::MAX].contains(&start.0)
                {
                    return None;
                }
                let disk_consistent_lsn = Lsn(start.0 - 1);
                let created = TimelineState { name, start, disk_consistent_lsn, layers: [].into() };
                state.timelines.insert(timeline, created);
            }
            Edit::AddLayer(layer) => {
                let LayerSummary { id, key_range, lsn_range, .. } = &layer.summary;
                let has_keys = key_range.end.is_none_or(|end| key_range.start < end);
                let has_lsns = 0 < lsn_range.start.0 && lsn_range.start < lsn_range.end;
                if id.sequence >= state.next_sequence || !has_keys || !has_lsns {
                    return None;
                }
                let (timeline, sequence) = (id.timeline, id.sequence);
                let layers = &mut state.timelines.get_mut(&timeline)?.layers;
                if layers.insert(sequence, layer).is_some() {
                    return None;
                }
            }
            Edit::RemoveLayer { timeline, sequence } => {
                state.timelines.get_mut(&timeline)?.layers.remove(&sequence)?;
            }
            Edit::DiskConsistent { timeline, lsn } => {
                let now = &mut state.timelines.get_mut(&timeline)?.disk_consistent_lsn;
                if lsn < *now || lsn == Lsn::MAX {
                    return None;
                }
                *now = lsn;
            }
            Edit::NextSequence(sequence) if sequence < state.next_sequence => return None,
            Edit::NextSequence(sequence) => state.next_sequence = sequence,
            Edit::LogStart(sequence) => state.log_start = state.log_start.max(Some(sequence)),
        }
    }
    Some(state)
}

/// Whether they name a layer's number more than once: such edits may be refused together, even if
/// each could follow the one before.
pub fn name_one_twice(edits: &[Edit]) -> bool {
    let sequence = |edit: &Edit| match edit {
        Edit::AddLayer(layer) => Some(layer.summary.id.sequence),
        Edit::RemoveLayer { sequence, .. } => Some(*sequence),
        _ => None,
    };
    let mut all: Vec<_> = edits.iter().filter_map(sequence).collect();
    all.sort_unstable();
    all.windows(2).any(|two| two[0] == two[1])
}

/// Returns the bytes of edits.
pub fn encode(edits: &[Edit]) -> Vec<u8> {
    let mut out = Vec::new();
    for edit in edits {
        match edit {
            Edit::CreateTimeline { timeline, name, start } => {
                out.push(1);
                numbers(&mut out, &[*timeline, start.0]);
                out.extend((name.len() as u16).to_le_bytes());
                out.extend(name.bytes());
            }
            Edit::AddLayer(LayerRecord { level, summary }) => {
                let kind = match summary.kind {
                    LayerKind::Delta => 0,
                    LayerKind::Image { complete } => 1 + u8::from(complete),
                };
                let KeyRange { start, end } = summary.key_range;
                out.push(2);
                numbers(&mut out, &[summary.id.timeline, summary.id.sequence]);
                out.extend([*level, kind]);
                out.extend(start.to_bytes());
                out.push(end.is_some().into());
                out.extend(end.unwrap_or(Key::MIN).to_bytes());
                let lsns = &summary.lsn_range;
                numbers(&mut out, &[lsns.start.0, lsns.end.0, summary.file_len]);
                out.extend(summary.digest.to_le_bytes());
                let LayerSummary { keys, versions, value_bytes, tombstones, .. } = *summary;
                numbers(&mut out, &[keys, versions, value_bytes, tombstones]);
            }
            Edit::RemoveLayer { timeline, sequence } => {
                out.push(3);
                numbers(&mut out, &[*timeline, *sequence]);
            }
            Edit::DiskConsistent { timeline, lsn } => {
                out.push(4);
                numbers(&mut out, &[*timeline, lsn.0]);
            }
            Edit::NextSequence(sequence) => {
                out.push(5);
                numbers(&mut out, &[*sequence]);
            }
            Edit::LogStart(sequence) => {
                out.push(6);
                out.extend(sequence.to_le_bytes());
            }
        }
    }
    out
}

fn numbers(out: &mut Vec<u8>, numbers: &[u64]) {
    numbers.iter().for_each(|number| out.extend(number.to_le_bytes()));
}
