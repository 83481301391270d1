//! CURRENT and a manifest made of arbitrary content.

use arbitrary::Arbitrary;
use pagestrata::testing::SimulatedStorage;
use pagestrata_layers::manifest::edit::State;

use crate::{
    edits::{Choice, STORE, encode, fold, name_one_twice},
    open::{append_one_more, in_dir, manifest_name, open},
};

#[derive(Debug, Arbitrary)]
pub struct Files {
    number: u64,
    current: Current,
    manifest: Manifest,
    tail: Vec<u8>,
}

#[derive(Debug, Arbitrary)]
enum Current {
    None,
    Bytes(Vec<u8>),
    /// The right CURRENT, except for the length in it and some changes; its checksum is valid.
    Good {
        len: Option<u64>,
        changes: Vec<(u8, u8)>,
    },
}

#[derive(Debug, Arbitrary)]
enum Manifest {
    Bytes(Vec<u8>),
    /// Records with valid checksums.
    Records(Vec<Record>),
}

#[derive(Debug, Arbitrary)]
enum Record {
    Payload(Vec<u8>),
    Edits(Vec<Choice>),
}

/// Meaning of bytes with valid checksums: their length, the checksum of the last record, and the
/// sum of the edits if it is known.
struct Written {
    bytes: Vec<u8>,
    chain: u32,
    state: Option<State>,
    is_all_known: bool,
}

fn head(magic: &[u8; 8], number: u64) -> Vec<u8> {
    let mut bytes = magic.to_vec();
    bytes.extend(1_u64.to_le_bytes());
    bytes.extend(STORE.to_le_bytes());
    bytes.extend(number.to_le_bytes());
    bytes
}

fn seal(bytes: &mut Vec<u8>) -> u32 {
    let crc = crc32c::crc32c(bytes);
    bytes.extend(crc.to_le_bytes());
    crc
}

impl Manifest {
    fn write(&self, number: u64) -> Written {
        let records = match self {
            Manifest::Bytes(bytes) => {
                return Written {
                    bytes: bytes.clone(),
                    chain: 0,
                    state: None,
                    is_all_known: false,
                };
            }
            Manifest::Records(records) => records,
        };
        let mut bytes = head(b"PSMANIFT", number);
        bytes.extend([0; 4]);
        let mut chain = seal(&mut bytes);
        let (mut state, mut is_all_known) = (Some(State::default()), true);
        for record in records {
            let payload = match record {
                Record::Payload(payload) => {
                    is_all_known = false;
                    payload.clone()
                }
                Record::Edits(choices) => {
                    let mut edits = Vec::new();
                    for choice in choices {
                        let edit = choice.edit(state.as_ref().unwrap_or(&State::default()));
                        state = state.and_then(|state| fold(state, std::slice::from_ref(&edit)));
                        edits.push(edit);
                    }
                    is_all_known &= !name_one_twice(&edits);
                    encode(&edits)
                }
            };
            let len = (payload.len() as u32).to_le_bytes();
            chain = [&chain.to_le_bytes()[..], &len, &payload]
                .iter()
                .fold(0, |crc, part| crc32c::crc32c_append(crc, part));
            bytes.extend(len);
            bytes.extend(chain.to_le_bytes());
            bytes.extend(payload);
        }
        Written { bytes, chain, state, is_all_known }
    }
}

impl Files {
    pub fn check(&self) {
        let number = if self.number >> 56 == 0xFF { self.number } else { 1 + self.number % 3 };
        let Written { mut bytes, chain, state, is_all_known } = self.manifest.write(number);
        let storage = SimulatedStorage::new();
        let mut is_good = false;
        let current = match &self.current {
            Current::None => None,
            Current::Bytes(bytes) => Some(bytes.clone()),
            Current::Good { len, changes } => {
                let len = len.unwrap_or(bytes.len() as u64);
                is_good = len == bytes.len() as u64 && changes.is_empty();
                let mut current = head(b"PSCURRNT", number);
                current.extend(len.to_le_bytes());
                current.extend(chain.to_le_bytes());
                current.extend([0; 8]);
                for (at, xor) in changes {
                    current[usize::from(*at) % 60] ^= xor;
                }
                seal(&mut current);
                Some(current)
            }
        };
        bytes.extend_from_slice(&self.tail);
        storage.set(&in_dir(&manifest_name(number)), bytes);
        if let Some(current) = current {
            storage.set(&in_dir("CURRENT"), current);
        }
        let opened = open(&storage);
        if is_all_known && is_good {
            let found = opened
                .as_ref()
                .ok()
                .map(|opened| opened.as_ref().map(|(manifest, _)| manifest.state()));
            assert_eq!(found, state.as_ref().map(Some), "{opened:?}");
        }
        if let Ok(Some((manifest, _))) = opened {
            // No number is above the highest number of a manifest.
            append_one_more(&storage, manifest, number > u64::MAX - 2);
        }
    }
}
