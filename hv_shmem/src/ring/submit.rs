//! `SubmitRing`: requests. Each gets its answer on a `CompleteRing`, correlated
//! by `user_data`.

use super::entry::ENTRY_BYTES;
use super::entry::Entry;
use super::entry::EntryReceiver;
use super::entry::EntrySender;
use super::entry::u32_at;
use super::entry::u64_at;
use super::place::RingKind;
use crate::span::PortalSpan;

/// A request. Little-endian, 56 bytes:
///
/// | offset | width | field |
/// |---|---|---|
/// | 0 | 4 | opcode |
/// | 4 | 4 | flags |
/// | 8 | 8 | user_data |
/// | 16 | 32 | span |
/// | 48 | 8 | arg |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SubmitEntry {
    /// What to do; the two peers agree on the numbers.
    pub opcode: u32,
    /// Variations of it.
    pub flags: u32,
    /// Comes back in the answer; means nothing to the receiver.
    pub user_data: u64,
    /// Memory that the request is about, or [`PortalSpan::NONE`].
    pub span: PortalSpan,
    /// An immediate argument.
    pub arg: u64,
}

impl Entry for SubmitEntry {
    const KIND: RingKind = RingKind::Submit;

    #[inline]
    fn to_bytes(&self) -> [u8; ENTRY_BYTES] {
        let mut to = [0; ENTRY_BYTES];
        to[0..4].copy_from_slice(&self.opcode.to_le_bytes());
        to[4..8].copy_from_slice(&self.flags.to_le_bytes());
        to[8..16].copy_from_slice(&self.user_data.to_le_bytes());
        to[16..48].copy_from_slice(&self.span.to_bytes());
        to[48..56].copy_from_slice(&self.arg.to_le_bytes());
        to
    }

    #[inline]
    fn from_bytes(from: &[u8; ENTRY_BYTES]) -> Self {
        let mut span = [0; 32];
        span.copy_from_slice(&from[16..48]);
        Self {
            opcode: u32_at(from, 0),
            flags: u32_at(from, 4),
            user_data: u64_at(from, 8),
            span: PortalSpan::from_bytes(&span),
            arg: u64_at(from, 48),
        }
    }
}

/// Sends requests.
pub type SubmitSender<M> = EntrySender<M, SubmitEntry>;
/// Receives requests.
pub type SubmitReceiver<M> = EntryReceiver<M, SubmitEntry>;
