//! What a peer did that no honest peer does.
//!
//! Everything that another peer writes is a claim. A claim that cannot be true
//! given what this side knows becomes a [`Violation`], and the thing that the
//! claim was about (a ring, a directory, a span) is refused or poisoned for this
//! side. It is never a panic.

/// A peer's claim that cannot be true: what it was about, the value found and
/// the limit it broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// A slot's sequence word is neither the one of the last lap nor the next.
    #[error("slot {slot}: sequence {found:#x}, possible are {empty:#x} and {full:#x}")]
    Sequence {
        /// Slot number within the ring.
        slot: u64,
        /// The sequence word found.
        found: u64,
        /// The word that says "nothing new".
        empty: u64,
        /// The word that says "here is the next message".
        full: u64,
    },
    /// The producer index moved back, or further than the ring has slots.
    #[error("producer index {found:#x} is outside {low:#x}..={high:#x}")]
    ProducerIndex {
        /// The index found.
        found: u64,
        /// The lowest possible value (inclusive, modulo 2^64).
        low: u64,
        /// The highest possible value (inclusive, modulo 2^64).
        high: u64,
    },
    /// The consumer's cursor moved back, or past what was produced.
    #[error("consumer cursor {found:#x} is outside {low:#x}..={high:#x}")]
    Cursor {
        /// The cursor found.
        found: u64,
        /// The lowest possible value (inclusive, modulo 2^64).
        low: u64,
        /// The highest possible value (inclusive, modulo 2^64).
        high: u64,
    },
    /// An answer when no call is waiting for one.
    #[error("answer to {found:#x}, and no call is waiting for one")]
    Unasked {
        /// The `user_data` found.
        found: u64,
    },
    /// An answer that belongs to another call than the oldest.
    #[error("answer to {found:#x}, the oldest call is {expected:#x}")]
    Answer {
        /// The `user_data` found.
        found: u64,
        /// The `user_data` of the call.
        expected: u64,
    },
}
