//! Entries of a stream of spans: ring 18.
//!
//! Source to sink, a `SubmitEntry` a span: `opcode` [`DATA`] or [`END`],
//! `user_data` the number of the entry from 0, `span` the bytes, lent to the sink
//! ([`DATA`]), `arg` the bytes of the whole stream ([`END`]). The sink gives each
//! span back through the arena's return ring.

use hv_shmem::ring::SubmitEntry;
use hv_shmem::span::PortalSpan;

/// A span with the next bytes.
pub const DATA: u32 = 1;
/// Nothing follows.
pub const END: u32 = 2;

/// The entry for the span with number `sequence`.
pub fn data(sequence: u64, span: PortalSpan) -> SubmitEntry {
    SubmitEntry {
        opcode: DATA,
        user_data: sequence,
        span,
        ..SubmitEntry::default()
    }
}

/// The entry that ends a stream of `bytes` bytes.
pub fn end(sequence: u64, bytes: u64) -> SubmitEntry {
    SubmitEntry {
        opcode: END,
        user_data: sequence,
        arg: bytes,
        ..SubmitEntry::default()
    }
}
