//! Counting nanoseconds an operation, for allocators.

use crate::harness::clock;

/// A stretch of `count` operations under way.
#[derive(Debug)]
pub(crate) struct Tally {
    begun: u64,
    count: u64,
}

impl Tally {
    /// The stretch begins now.
    pub(crate) fn begin(count: u64) -> Self {
        Self {
            begun: clock::ticks(),
            count,
        }
    }

    /// Nanoseconds each, up to now.
    pub(crate) fn ns_each(&self) -> f64 {
        clock::to_ns(clock::ticks() - self.begun) / self.count as f64
    }
}
