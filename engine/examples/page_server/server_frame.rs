//! The server's half of the protocol in [`frame`](crate::frame): reads greetings and requests,
//! answers.

use pagestrata::{Key, Lsn};

use crate::frame::{
    GREETING_LEN, MAGIC, RESPONSE_HEAD_LEN, Request, Source, Status, TEXT_LEN_MAX, VERSION,
    WELCOME_LEN, Welcome,
};

/// Returns why a client with this greeting cannot be served; none if it can.
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

/// Returns the server's greeting; a longer text is cut.
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

impl Request {
    pub(crate) fn decode(bytes: &[u8; Request::LEN]) -> Request {
        let number = |at: usize| u64::from_le_bytes(*bytes[at..].first_chunk().expect("36 bytes"));
        let object = u128::from(number(16)) << 64 | u128::from(number(8));
        let block = u32::from_le_bytes(*bytes[24..].first_chunk().expect("36 bytes"));
        Request { id: number(0), key: Key::new(object, block), lsn: Lsn(number(28)) }
    }
}

/// Returns an answer.
pub(crate) fn encode_response(id: u64, status: Status, source: Source, bytes: &[u8]) -> Vec<u8> {
    let mut response = Vec::with_capacity(RESPONSE_HEAD_LEN + bytes.len());
    response.extend_from_slice(&id.to_le_bytes());
    response.extend_from_slice(&[status as u8, source as u8, 0, 0]);
    response.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    response.extend_from_slice(bytes);
    response
}
