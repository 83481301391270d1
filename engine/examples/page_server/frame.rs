//! The page server's protocol, version 1. All numbers are little-endian.
//!
//! A connection begins with a greeting in each direction. A server that cannot serve the client
//! says so in its greeting and closes the connection. Then the client sends requests, and the
//! server answers each as soon as it can, in any order.
//!
//! | client's greeting | bytes | |
//! |---|---|---|
//! | 0 | 4 | magic: `PSPG` |
//! | 4 | 4 | version of the protocol: 1 |
//!
//! | server's greeting | bytes | |
//! |---|---|---|
//! | 0 | 4 | magic: `PSPG` |
//! | 4 | 4 | version of the protocol that the server speaks: 1 |
//! | 8 | 4 | 0 welcome, 1 another magic or version is needed, 2 no room for a connection |
//! | 12 | 4 | length of the text that follows, which says why for people; zero if welcome |
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
//! | 8 | 1 | status: 0 a page, 1 no such page, 2 failed |
//! | 9 | 1 | source: 0 from memory at once, 1 waited for a device or for its Lsn, 2 not known |
//! | 10 | 2 | zero |
//! | 12 | 4 | length of what follows: the page, nothing, or a text |

use pagestrata::{Key, Lsn};

pub(crate) const MAGIC: [u8; 4] = *b"PSPG";
pub(crate) const VERSION: u32 = 1;
pub(crate) const GREETING_LEN: usize = 8;
pub(crate) const WELCOME_LEN: usize = 16;
/// A greeting's text is no longer.
pub(crate) const TEXT_LEN_MAX: usize = 1024;

/// The greeting of a client that speaks this version.
#[allow(dead_code, reason = "the client's half")]
pub(crate) fn greeting() -> [u8; GREETING_LEN] {
    let mut bytes = [0; GREETING_LEN];
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4..].copy_from_slice(&VERSION.to_le_bytes());
    bytes
}

/// What a server's greeting says about the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Welcome {
    Accepted,
    OtherProtocol,
    NoRoom,
}

/// Returns why a client with this greeting cannot be served; none if it can.
#[allow(dead_code, reason = "the server's half")]
pub(crate) fn refuse_greeting(greeting: &[u8; GREETING_LEN]) -> Option<String> {
    let [magic @ .., a, b, c, d] = *greeting;
    let version = u32::from_le_bytes([a, b, c, d]);
    let found = match (magic, version) {
        (MAGIC, VERSION) => return None,
        (MAGIC, version) => format!("version {version}"),
        (other, _) => format!("{:?}", other.escape_ascii().to_string()),
    };
    Some(format!(
        "greeting: expected \"PSPG\" and version {VERSION} of the page server's protocol, found \
         {found}; use a client of that version"
    ))
}

#[allow(dead_code, reason = "the server's half")]
pub(crate) fn encode_welcome(welcome: Welcome, text: &str) -> Vec<u8> {
    let text = &text.as_bytes()[..text.len().min(TEXT_LEN_MAX)];
    let mut bytes = Vec::with_capacity(WELCOME_LEN + text.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&(welcome as u32).to_le_bytes());
    bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
    bytes.extend_from_slice(text);
    bytes
}

/// What a server says, its version, and the length of its text.
///
/// # Errors
/// It is no page server, or one whose greeting is not understood.
#[allow(dead_code, reason = "the client's half")]
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

/// Where an answer comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Source {
    /// Everything was in memory.
    Warm,
    /// It waited for a device, or for its Lsn.
    Cold,
    /// The server does not look.
    Unknown,
}

pub(crate) const RESPONSE_HEAD_LEN: usize = 16;

#[allow(dead_code, reason = "the server's half")]
pub(crate) fn encode_response(id: u64, status: Status, source: Source, bytes: &[u8]) -> Vec<u8> {
    let mut response = Vec::with_capacity(RESPONSE_HEAD_LEN + bytes.len());
    response.extend_from_slice(&id.to_le_bytes());
    response.extend_from_slice(&[status as u8, source as u8, 0, 0]);
    response.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    response.extend_from_slice(bytes);
    response
}

/// The head of an answer.
#[derive(Clone, Copy, Debug)]
#[allow(dead_code, reason = "the client's half")]
pub(crate) struct ResponseHead {
    pub(crate) id: u64,
    pub(crate) status: Status,
    pub(crate) source: Source,
    /// Length of what follows.
    pub(crate) len: usize,
}

/// The head of an answer; none if it is none.
#[allow(dead_code, reason = "the client's half")]
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
