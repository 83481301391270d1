//! What goes over the wire: fixed requests, answers with a length, all numbers little-endian. Answers come as they are ready, in any order.
//!
//! | request | bytes | |
//! |---|---|---|
//! | 0 | 8 | id, which the answer repeats |
//! | 8 | 16 | object |
//! | 24 | 4 | block |
//! | 28 | 8 | Lsn; 0 for the newest |
//!
//! | answer | bytes | |
//! |---|---|---|
//! | 0 | 8 | id |
//! | 8 | 4 | status: 0 a page, 1 no such page, 2 failed |
//! | 12 | 4 | length of what follows: the page, nothing, or a text |

use pagestrata::{Key, Lsn};

/// A request for one page.
#[derive(Clone, Copy)]
pub(crate) struct Request {
    pub(crate) id: u64,
    pub(crate) key: Key,
    pub(crate) lsn: Lsn,
}

impl Request {
    pub(crate) const LEN: usize = 36;

    #[allow(dead_code, reason = "the server's half")]
    pub(crate) fn decode(bytes: &[u8; Request::LEN]) -> Request {
        let number = |at: usize| u64::from_le_bytes(*bytes[at..].first_chunk().expect("36 bytes"));
        let object = u128::from(number(16)) << 64 | u128::from(number(8));
        let block = u32::from_le_bytes(*bytes[24..].first_chunk().expect("36 bytes"));
        Request { id: number(0), key: Key::new(object, block), lsn: Lsn(number(28)) }
    }

    #[allow(dead_code, reason = "the client's half")]
    pub(crate) fn encode(&self) -> [u8; Request::LEN] {
        let mut bytes = [0; Request::LEN];
        bytes[..8].copy_from_slice(&self.id.to_le_bytes());
        bytes[8..24].copy_from_slice(&self.key.object.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.key.block.to_le_bytes());
        bytes[28..].copy_from_slice(&self.lsn.0.to_le_bytes());
        bytes
    }
}

/// What an answer says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Status {
    Page,
    NoPage,
    Failed,
}

pub(crate) const RESPONSE_HEAD_LEN: usize = 16;

#[allow(dead_code, reason = "the server's half")]
pub(crate) fn encode_response(id: u64, status: Status, bytes: &[u8]) -> Vec<u8> {
    let mut response = Vec::with_capacity(RESPONSE_HEAD_LEN + bytes.len());
    response.extend_from_slice(&id.to_le_bytes());
    response.extend_from_slice(&(status as u32).to_le_bytes());
    response.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    response.extend_from_slice(bytes);
    response
}

/// Id, status and length; none if there is no such status.
#[allow(dead_code, reason = "the client's half")]
pub(crate) fn decode_response_head(head: &[u8; RESPONSE_HEAD_LEN]) -> Option<(u64, Status, usize)> {
    let number = |at: usize| u32::from_le_bytes(*head[at..].first_chunk().expect("16 bytes"));
    let status = match number(8) {
        0 => Status::Page,
        1 => Status::NoPage,
        2 => Status::Failed,
        _ => return None,
    };
    let id = u64::from(number(4)) << 32 | u64::from(number(0));
    Some((id, status, number(12) as usize))
}
