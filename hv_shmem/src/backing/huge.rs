//! The host's pool of 2 MiB pages: how many there are, and the error when they
//! do not suffice.

use super::BackingError;
use std::fmt;

/// Where the kernel tells about the pool of 2 MiB pages.
const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// What the pool of 2 MiB pages has, in pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolState {
    /// Pages in the pool.
    pub total: u64,
    /// Pages not in use.
    pub free: u64,
    /// Pages not in use but promised to a mapping.
    pub reserved: u64,
    /// Pages that the kernel may add when asked.
    pub overcommit: u64,
}

impl PoolState {
    /// Reads the pool's state; all zeros on a kernel without 2 MiB pages.
    pub fn read() -> Self {
        let number = |file: &str| {
            std::fs::read_to_string(format!("{POOL}/{file}"))
                .ok()
                .and_then(|text| text.trim().parse().ok())
                .unwrap_or(0)
        };
        Self {
            total: number("nr_hugepages"),
            free: number("free_hugepages"),
            reserved: number("resv_hugepages"),
            overcommit: number("nr_overcommit_hugepages"),
        }
    }

    /// Pages that a new mapping can be promised from the pool itself.
    pub const fn available(&self) -> u64 {
        self.free.saturating_sub(self.reserved)
    }
}

impl fmt::Display for PoolState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the pool has {} of {} free ({} of these promised to others)",
            self.free, self.total, self.reserved
        )
    }
}

/// Says early that the pool cannot do it. The kernel has the last word when the
/// region is mapped: another process may be faster.
pub(super) fn expect(need: u64) -> Result<(), BackingError> {
    let pool = PoolState::read();
    if pool.available() + pool.overcommit < need {
        return Err(BackingError::HugePages { need, pool });
    }
    Ok(())
}
