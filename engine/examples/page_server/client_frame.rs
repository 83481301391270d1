//! The client's half of the protocol in [`frame`](crate::frame): greets, asks, reads answers.

use crate::frame::{
    GREETING_LEN, MAGIC, RESPONSE_HEAD_LEN, Request, Source, Status, TEXT_LEN_MAX, VERSION,
    WELCOME_LEN, Welcome,
};

/// The greeting of a client that speaks this version.
pub(crate) fn greeting() -> [u8; GREETING_LEN] {
    let mut bytes = [0; GREETING_LEN];
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4..].copy_from_slice(&VERSION.to_le_bytes());
    bytes
}

/// What a server says, its version, and the length of its text.
///
/// # Errors
/// It is no page server, or one whose greeting is not understood.
pub(crate) fn decode_welcome(head: &[u8; WELCOME_LEN]) -> Result<(Welcome, u32, usize), String> {
    let number = |at: usize| u32::from_le_bytes(*head[at..].first_chunk().expect("16 bytes"));
    if head[..4] != MAGIC {
        let found = head[..4].escape_ascii();
        return Err(format!("greeting of the server: expected \"PSPG\", found \"{found}\""));
    }
    let welcome = match number(8) {
        0 => Welcome::Accepted,
        1 => Welcome::OtherProtocol,
        2 => Welcome::NoRoom,
        other => return Err(format!("greeting of the server: expected 0 to 2, found {other}")),
    };
    let len = number(12) as usize;
    if len > TEXT_LEN_MAX {
        return Err(format!(
            "text in the server's greeting: expected {TEXT_LEN_MAX} bytes or less, found {len}"
        ));
    }
    Ok((welcome, number(4), len))
}

impl Request {
    pub(crate) fn encode(&self) -> [u8; Request::LEN] {
        let mut bytes = [0; Request::LEN];
        bytes[..8].copy_from_slice(&self.id.to_le_bytes());
        bytes[8..24].copy_from_slice(&self.key.object.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.key.block.to_le_bytes());
        bytes[28..].copy_from_slice(&self.lsn.0.to_le_bytes());
        bytes
    }
}

/// The head of an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ResponseHead {
    pub(crate) id: u64,
    pub(crate) status: Status,
    pub(crate) source: Source,
    /// Length of what follows.
    pub(crate) len: usize,
}

/// The head of an answer; none if it is none.
pub(crate) fn decode_response_head(head: &[u8; RESPONSE_HEAD_LEN]) -> Option<ResponseHead> {
    let status = match head[8] {
        0 => Status::Page,
        1 => Status::NoPage,
        2 => Status::Failed,
        _ => return None,
    };
    let source = match head[9] {
        0 => Source::Warm,
        1 => Source::Cold,
        2 => Source::Unknown,
        _ => return None,
    };
    if head[10..12] != [0, 0] {
        return None;
    }
    let id = u64::from_le_bytes(*head.first_chunk()?);
    let len = u32::from_le_bytes(*head[12..].first_chunk()?) as usize;
    Some(ResponseHead { id, status, source, len })
}
