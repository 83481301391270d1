//! Messages of a server that is made up.

/// A message of this kind.
pub(crate) fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let len = body.len() as u32 + 4;
    [&[tag], &len.to_be_bytes()[..], body].concat()
}

/// The whole answer to a command: one row of these columns.
pub(crate) fn row(columns: &[&str]) -> Vec<u8> {
    let mut body = (columns.len() as u16).to_be_bytes().to_vec();
    for column in columns {
        body.extend((column.len() as u32).to_be_bytes());
        body.extend(column.as_bytes());
    }
    let description = message(b'T', &0_u16.to_be_bytes());
    [description, message(b'D', &body), message(b'C', b"SHOW\0"), message(b'Z', b"I")].concat()
}
