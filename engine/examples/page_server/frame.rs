//! The page server's protocol, version 1. All numbers are little-endian.
//!
//! What both sides share is here; `client_frame.rs` and `server_frame.rs` have what one side alone
//! needs.
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

/// What a server's greeting says about the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Welcome {
    Accepted,
    OtherProtocol,
    NoRoom,
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
