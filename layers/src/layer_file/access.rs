//! How the bytes of layer files are reached: mapped, or read into a cache of blocks. Imports
//! `format` only.

pub(super) mod ahead;
pub(super) mod buffers;
pub(super) mod handshake;
pub(super) mod layer_access;
pub(super) mod residency;
pub(super) mod scratch;
pub(super) mod source;
