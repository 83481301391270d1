//! Layer edits: their encoding and what they add up to.
//!
//! | edit | tag | fields |
//! |---|---|---|
//! | timeline created | 1 | timeline u64, start Lsn u64, length of the name u16, name |
//! | layer added | 2 | timeline u64, sequence u64, level u8, kind u8 (0 delta, 1 sparse image, 2 complete image), first key 20, has end u8, end key 20, first Lsn u64, end Lsn u64, file length u64, digest u128, keys u64, versions u64, value bytes u64, tombstones u64 |
//! | layer removed | 3 | timeline u64, sequence u64 |
//! | disk-consistent Lsn | 4 | timeline u64, Lsn u64 |
//! | next sequence | 5 | sequence u64 |
//! | start of the log | 6 | sequence u32 of a segment |

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    Key, KeyRange, Lsn,
    layer_file::{LayerId, LayerKind, LayerSummary},
};

/// The longest name of a timeline, in bytes.
pub const TIMELINE_NAME_LEN_MAX: usize = 255;

/// One change of what exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// A timeline begins.
    CreateTimeline {
        /// Its number.
        timeline: u64,
        /// Its name.
        name: String,
        /// No value is below it.
        start: Lsn,
    },
    /// A layer file is part of its timeline.
    AddLayer(LayerRecord),
    /// It no longer is.
    RemoveLayer {
        /// Of which timeline.
        timeline: u64,
        /// Which layer.
        sequence: u64,
    },
    /// Everything up to an Lsn is in layer files.
    DiskConsistent {
        /// Of which timeline.
        timeline: u64,
        /// Up to where.
        lsn: Lsn,
    },
    /// No layer has this sequence number or a higher one.
    NextSequence(u64),
    /// The log begins with the segment of this sequence number, or a later one that was said
    /// before.
    LogStart(u32),
}

/// A layer file as the manifest knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerRecord {
    /// 0: straight from a flush or an import; 1: rewritten by compaction.
    pub level: u8,
    /// What it holds.
    pub summary: LayerSummary,
}

/// What all edits add up to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// By number.
    pub timelines: BTreeMap<u64, TimelineState>,
    /// No layer has this sequence number or a higher one.
    pub next_sequence: u64,
    /// The first segment of the log that is needed. None: there is no log.
    pub log_start: Option<u32>,
}

/// What the edits of one timeline add up to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineState {
    /// Its name.
    pub name: String,
    /// No value is below it.
    pub start: Lsn,
    /// Everything up to here is in layer files.
    pub disk_consistent_lsn: Lsn,
    /// By sequence number.
    pub layers: BTreeMap<u64, LayerRecord>,
}

/// What was expected and what was found instead.
pub(super) type Mismatch = (String, String);

/// The longest edit, in bytes: the creation of a timeline with the longest name.
pub(super) const EDIT_LEN_MAX: usize = 1 + 8 + 8 + 2 + TIMELINE_NAME_LEN_MAX;
const LAYER_LEN: u64 = 1 + 8 + 8 + 1 + 1 + 20 + 1 + 20 + 8 + 8 + 8 + 16 + 8 * 4;

impl Edit {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Edit::CreateTimeline { timeline, name, start } => {
                debug_assert!(name.len() <= TIMELINE_NAME_LEN_MAX, "a name that was checked");
                out.push(1);
                out.extend_from_slice(&timeline.to_le_bytes());
                out.extend_from_slice(&start.0.to_le_bytes());
                out.extend_from_slice(&(name.len() as u16).to_le_bytes());
                out.extend_from_slice(name.as_bytes());
            }
            Edit::AddLayer(layer) => layer.encode(out),
            Edit::RemoveLayer { timeline, sequence } => {
                out.push(3);
                out.extend_from_slice(&timeline.to_le_bytes());
                out.extend_from_slice(&sequence.to_le_bytes());
            }
            Edit::DiskConsistent { timeline, lsn } => {
                out.push(4);
                out.extend_from_slice(&timeline.to_le_bytes());
                out.extend_from_slice(&lsn.0.to_le_bytes());
            }
            Edit::NextSequence(sequence) => {
                out.push(5);
                out.extend_from_slice(&sequence.to_le_bytes());
            }
            Edit::LogStart(sequence) => {
                out.push(6);
                out.extend_from_slice(&sequence.to_le_bytes());
            }
        }
    }

    fn decode(fields: &mut Fields<'_>, store: u128) -> Result<Edit, Mismatch> {
        Ok(match fields.u8()? {
            1 => {
                let (timeline, start) = (fields.u64()?, Lsn(fields.u64()?));
                let len = u16::from_le_bytes(fields.array()?);
                let name = std::str::from_utf8(fields.bytes(usize::from(len))?);
                let name = name.map_err(|_| mismatch("a name in UTF-8", "other bytes"))?.to_owned();
                Edit::CreateTimeline { timeline, name, start }
            }
            2 => Edit::AddLayer(LayerRecord::decode(fields, store)?),
            3 => Edit::RemoveLayer { timeline: fields.u64()?, sequence: fields.u64()? },
            4 => Edit::DiskConsistent { timeline: fields.u64()?, lsn: Lsn(fields.u64()?) },
            5 => Edit::NextSequence(fields.u64()?),
            6 => Edit::LogStart(u32::from_le_bytes(fields.array()?)),
            tag => return Err(mismatch("a tag of 1 to 6", tag)),
        })
    }
}

impl LayerRecord {
    fn encode(&self, out: &mut Vec<u8>) {
        let LayerRecord { level, summary } = self;
        let end = summary.key_range.end;
        let kind = match summary.kind {
            LayerKind::Delta => 0,
            LayerKind::Image { complete: false } => 1,
            LayerKind::Image { complete: true } => 2,
        };
        out.push(2);
        out.extend_from_slice(&summary.id.timeline.to_le_bytes());
        out.extend_from_slice(&summary.id.sequence.to_le_bytes());
        out.extend_from_slice(&[*level, kind]);
        out.extend_from_slice(&summary.key_range.start.to_bytes());
        out.push(u8::from(end.is_some()));
        out.extend_from_slice(&end.unwrap_or(Key::MIN).to_bytes());
        for number in [summary.lsn_range.start.0, summary.lsn_range.end.0, summary.file_len] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&summary.digest.to_le_bytes());
        for number in [summary.keys, summary.versions, summary.value_bytes, summary.tombstones] {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }

    fn decode(fields: &mut Fields<'_>, store: u128) -> Result<LayerRecord, Mismatch> {
        let id = LayerId { store, timeline: fields.u64()?, sequence: fields.u64()? };
        let level = fields.u8()?;
        let kind = match fields.u8()? {
            0 => LayerKind::Delta,
            1 => LayerKind::Image { complete: false },
            2 => LayerKind::Image { complete: true },
            kind => return Err(mismatch("a kind of 0 to 2", kind)),
        };
        let start = Key::from_bytes(&fields.array()?);
        let has_end = fields.u8()? != 0;
        let end = Some(Key::from_bytes(&fields.array()?)).filter(|_| has_end);
        Ok(LayerRecord {
            level,
            summary: LayerSummary {
                id,
                kind,
                key_range: KeyRange { start, end },
                lsn_range: Lsn(fields.u64()?)..Lsn(fields.u64()?),
                file_len: fields.u64()?,
                digest: u128::from_le_bytes(fields.array()?),
                keys: fields.u64()?,
                versions: fields.u64()?,
                value_bytes: fields.u64()?,
                tombstones: fields.u64()?,
            },
        })
    }
}

fn mismatch(expected: impl ToString, found: impl ToString) -> Mismatch {
    (expected.to_string(), found.to_string())
}

/// Bytes of a payload that are not decoded yet.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, len: usize) -> Result<&'a [u8], Mismatch> {
        let Some((bytes, rest)) = self.0.split_at_checked(len) else {
            return Err(mismatch(format_args!("{len} more bytes"), self.0.len()));
        };
        self.0 = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Mismatch> {
        Ok(self.bytes(N)?.try_into().expect("N bytes"))
    }

    fn u8(&mut self) -> Result<u8, Mismatch> {
        Ok(self.array::<1>()?[0])
    }

    fn u64(&mut self) -> Result<u64, Mismatch> {
        Ok(u64::from_le_bytes(self.array()?))
    }
}

fn check_new_timeline(name: &str, start: Lsn) -> Result<(), Mismatch> {
    if name.is_empty() || name.len() > TIMELINE_NAME_LEN_MAX {
        let expected = format_args!("a name of 1 to {TIMELINE_NAME_LEN_MAX} bytes");
        return Err(mismatch(expected, name.len()));
    }
    if !start.is_valid() || start == Lsn::MAX {
        return Err(mismatch("a start above zero and below the maximum", start));
    }
    Ok(())
}

/// A layer holds something, at positions of the log.
fn check_ranges(summary: &LayerSummary) -> Result<(), Mismatch> {
    let LayerSummary { id, key_range, lsn_range, .. } = summary;
    if !key_range.is_empty() && !lsn_range.is_empty() && lsn_range.start.is_valid() {
        return Ok(());
    }
    Err(mismatch(
        format_args!("keys and Lsns of layer {id}"),
        format_args!("{key_range}, {} to {}", lsn_range.start, lsn_range.end),
    ))
}

impl State {
    /// Follows the edits of a record's payload, one at a time, so that a long record takes no more
    /// memory than its bytes. After an error the state is of no use.
    pub(super) fn replay(&mut self, payload: &[u8], store: u128) -> Result<(), Mismatch> {
        let mut fields = Fields(payload);
        let mut named = BTreeSet::new();
        while !fields.0.is_empty() {
            let edit = Edit::decode(&mut fields, store)?;
            let layer = match &edit {
                Edit::AddLayer(LayerRecord { summary: LayerSummary { id, .. }, .. }) => {
                    Some((id.timeline, id.sequence))
                }
                Edit::RemoveLayer { timeline, sequence } => Some((*timeline, *sequence)),
                _ => None,
            };
            // As `check` has it for the edits of one `append`.
            if let Some((timeline, sequence)) = layer.filter(|&layer| !named.insert(layer)) {
                let found = format_args!("{timeline}-{sequence} again");
                return Err(mismatch("a layer that the edit has not named", found));
            }
            let edit = std::slice::from_ref(&edit);
            self.check(edit)?;
            self.apply(edit);
        }
        Ok(())
    }

    /// Whether `edits` can follow this state, one after the other.
    pub(super) fn check(&self, edits: &[Edit]) -> Result<(), Mismatch> {
        // What the edits before the one that is looked at have changed.
        let mut created: Vec<(u64, &str)> = Vec::new();
        let mut advanced: BTreeMap<u64, Lsn> = BTreeMap::new();
        let (mut added, mut removed) = (BTreeSet::new(), BTreeSet::new());
        let mut next_sequence = self.next_sequence;
        for edit in edits {
            match edit {
                Edit::CreateTimeline { timeline, name, start } => {
                    let known = self.timelines.iter().map(|(n, other)| (*n, other.name.as_str()));
                    if known
                        .chain(created.iter().copied())
                        .any(|(n, other)| n == *timeline || other == name)
                    {
                        return Err(mismatch(
                            "a new timeline",
                            format_args!("{timeline} {name:?} again"),
                        ));
                    }
                    check_new_timeline(name, *start)?;
                    created.push((*timeline, name));
                    advanced.insert(*timeline, start.previous());
                }
                Edit::AddLayer(layer) => {
                    let id = layer.summary.id;
                    self.check_timeline(id.timeline, &created)?;
                    if self.has_layer(id.timeline, id.sequence)
                        || added.contains(&(id.timeline, id.sequence))
                        || id.sequence >= next_sequence
                    {
                        return Err(mismatch("a new layer", id));
                    }
                    check_ranges(&layer.summary)?;
                    added.insert((id.timeline, id.sequence));
                }
                Edit::RemoveLayer { timeline, sequence } => {
                    if !self.has_layer(*timeline, *sequence) || removed.contains(sequence) {
                        return Err(mismatch(
                            "a layer that exists",
                            format_args!("{timeline}-{sequence}"),
                        ));
                    }
                    removed.insert(*sequence);
                }
                Edit::DiskConsistent { timeline, lsn } => {
                    self.check_timeline(*timeline, &created)?;
                    let now = advanced.get(timeline).copied();
                    let now = now.or(self.timelines.get(timeline).map(|t| t.disk_consistent_lsn));
                    let now = now.expect("it exists");
                    if *lsn < now || *lsn == Lsn::MAX {
                        return Err(mismatch(
                            format_args!("an Lsn at or above {now} and below the maximum"),
                            lsn,
                        ));
                    }
                    advanced.insert(*timeline, *lsn);
                }
                Edit::NextSequence(sequence) if *sequence < next_sequence => {
                    return Err(mismatch(
                        format_args!("a sequence at or above {next_sequence}"),
                        sequence,
                    ));
                }
                Edit::NextSequence(sequence) => next_sequence = *sequence,
                // Flushes of two timelines can come in another order than they were looked up in.
                Edit::LogStart(_) => {}
            }
        }
        Ok(())
    }

    fn check_timeline(&self, timeline: u64, created: &[(u64, &str)]) -> Result<(), Mismatch> {
        if self.timelines.contains_key(&timeline) || created.iter().any(|(n, _)| *n == timeline) {
            return Ok(());
        }
        Err(mismatch("a timeline that exists", timeline))
    }

    fn has_layer(&self, timeline: u64, sequence: u64) -> bool {
        self.timelines
            .get(&timeline)
            .is_some_and(|timeline| timeline.layers.contains_key(&sequence))
    }

    /// Follows edits that [`State::check`] has passed.
    pub(super) fn apply(&mut self, edits: &[Edit]) {
        for edit in edits {
            match edit {
                Edit::CreateTimeline { timeline, name, start } => {
                    let (name, layers) = (name.clone(), BTreeMap::new());
                    let disk_consistent_lsn = start.previous();
                    let state = TimelineState { name, start: *start, disk_consistent_lsn, layers };
                    let before = self.timelines.insert(*timeline, state);
                    debug_assert!(before.is_none(), "timeline {timeline} is created once");
                }
                Edit::AddLayer(layer) => {
                    let id = layer.summary.id;
                    debug_assert!(id.sequence < self.next_sequence, "{id} has a new number");
                    let before =
                        self.timeline(id.timeline).layers.insert(id.sequence, layer.clone());
                    debug_assert!(before.is_none(), "{id} is added once");
                }
                Edit::RemoveLayer { timeline, sequence } => {
                    let removed = self.timeline(*timeline).layers.remove(sequence);
                    debug_assert!(removed.is_some(), "{timeline}-{sequence} was there");
                }
                Edit::DiskConsistent { timeline, lsn } => {
                    let state = self.timeline(*timeline);
                    assert!(*lsn >= state.disk_consistent_lsn, "it never goes back to {lsn}");
                    state.disk_consistent_lsn = *lsn;
                }
                Edit::NextSequence(sequence) => {
                    assert!(*sequence >= self.next_sequence, "numbers are not used again");
                    self.next_sequence = *sequence;
                }
                Edit::LogStart(sequence) => {
                    self.log_start = self.log_start.max(Some(*sequence));
                }
            }
        }
    }

    /// Whether timelines and layers agree with each other, whatever the edits were.
    pub(super) fn is_consistent(&self) -> bool {
        let names: BTreeSet<_> = self.timelines.values().map(|state| &state.name).collect();
        let is_sound = |(number, state): (&u64, &TimelineState)| {
            state.disk_consistent_lsn >= state.start.previous()
                && state.layers.iter().all(|(&sequence, layer)| {
                    let id = layer.summary.id;
                    (id.timeline, id.sequence) == (*number, sequence)
                        && sequence < self.next_sequence
                        && check_ranges(&layer.summary).is_ok()
                })
        };
        names.len() == self.timelines.len() && self.timelines.iter().all(is_sound)
    }

    fn timeline(&mut self, timeline: u64) -> &mut TimelineState {
        self.timelines.get_mut(&timeline).expect("checked before")
    }

    /// The fewest edits that lead here.
    pub(super) fn to_edits(&self) -> impl Iterator<Item = Edit> + '_ {
        let first = [Edit::NextSequence(self.next_sequence)].into_iter();
        let timelines = self.timelines.iter().flat_map(|(&timeline, state)| {
            let (name, start) = (state.name.clone(), state.start);
            let created = Edit::CreateTimeline { timeline, name, start };
            let layers = state.layers.values().cloned().map(Edit::AddLayer);
            let lsn = state.disk_consistent_lsn;
            [created].into_iter().chain(layers).chain([Edit::DiskConsistent { timeline, lsn }])
        });
        first.chain(self.log_start.map(Edit::LogStart)).chain(timelines)
    }

    /// About how long [`State::to_edits`] is when encoded, in bytes.
    pub(super) fn encoded_len(&self) -> u64 {
        let of = |timeline: &TimelineState| {
            64 + timeline.name.len() as u64 + timeline.layers.len() as u64 * LAYER_LEN
        };
        64 + self.timelines.values().map(of).sum::<u64>()
    }
}
