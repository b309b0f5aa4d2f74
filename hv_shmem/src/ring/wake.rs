//! Wake suppression: when does the other side want its doorbell rung?
//!
//! The rule of virtio 1.2, 2.7.7 (event index), with 64-bit positions: who is
//! about to sleep publishes the position that it waits for, and who makes
//! progress rings only when it passes exactly that position. The published
//! value goes stale by itself, so that a busy side never has to write "do not
//! ring".
//!
//! Distrusted: the threshold is the peer's word. Any value of it leads to at
//! most one doorbell a flush, or to none; a peer that lies about it delays only
//! itself.

/// What to do after progress was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a peer that sleeps is woken only by its doorbell"]
pub struct Wake {
    /// The peer asked for its doorbell at a position that was just passed.
    pub must_ring: bool,
}

impl Wake {
    /// Nobody waits.
    pub const QUIET: Self = Self { must_ring: false };

    /// Whether going from `old` to `new` passes `threshold`: the peer waits for
    /// the step from `threshold` to `threshold + 1`.
    #[inline]
    pub(crate) fn on_passing(threshold: u64, old: u64, new: u64) -> Self {
        Self {
            must_ring: threshold.wrapping_sub(old) < new.wrapping_sub(old),
        }
    }
}
