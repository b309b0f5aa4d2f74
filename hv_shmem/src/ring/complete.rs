//! `CompleteRing`: answers to the requests of a `SubmitRing`.

use super::entry::ENTRY_BYTES;
use super::entry::Entry;
use super::entry::EntryReceiver;
use super::entry::EntrySender;
use super::entry::u32_at;
use super::entry::u64_at;
use super::place::RingKind;
use crate::span::PortalSpan;

/// An answer. Little-endian, 56 bytes:
///
/// | offset | width | field |
/// |---|---|---|
/// | 0 | 8 | user_data |
/// | 8 | 4 | status (signed) |
/// | 12 | 4 | flags |
/// | 16 | 8 | result |
/// | 24 | 32 | span |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CompleteEntry {
    /// The request's `user_data`.
    pub user_data: u64,
    /// 0 or positive: success; negative: an error that the peers agree on.
    pub status: i32,
    /// Variations of the answer.
    pub flags: u32,
    /// An immediate result.
    pub result: u64,
    /// Memory that the answer is about, or [`PortalSpan::NONE`].
    pub span: PortalSpan,
}

impl Entry for CompleteEntry {
    const KIND: RingKind = RingKind::Complete;

    #[inline]
    fn to_bytes(&self) -> [u8; ENTRY_BYTES] {
        let mut to = [0; ENTRY_BYTES];
        to[0..8].copy_from_slice(&self.user_data.to_le_bytes());
        to[8..12].copy_from_slice(&self.status.to_le_bytes());
        to[12..16].copy_from_slice(&self.flags.to_le_bytes());
        to[16..24].copy_from_slice(&self.result.to_le_bytes());
        to[24..56].copy_from_slice(&self.span.to_bytes());
        to
    }

    #[inline]
    fn from_bytes(from: &[u8; ENTRY_BYTES]) -> Self {
        let mut span = [0; 32];
        span.copy_from_slice(&from[24..56]);
        Self {
            user_data: u64_at(from, 0),
            status: u32_at(from, 8).cast_signed(),
            flags: u32_at(from, 12),
            result: u64_at(from, 16),
            span: PortalSpan::from_bytes(&span),
        }
    }
}

/// Sends answers.
pub type CompleteSender<M> = EntrySender<M, CompleteEntry>;
/// Receives answers.
pub type CompleteReceiver<M> = EntryReceiver<M, CompleteEntry>;
