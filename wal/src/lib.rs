//! The log's floor. It takes [`Lsn`](pagestrata_layers::Lsn) and the storage trait from the layers and treats payloads as
//! opaque bytes.
//!
//! There is no log yet: a store promises what its flushed layers hold, and a caller streams again from the store's
//! `disk_consistent_lsn`.
#![deny(unsafe_code)]
