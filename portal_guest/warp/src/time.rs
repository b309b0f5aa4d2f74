//! Time in ticks of the TSC, and deadlines that bound every wait.
#![expect(unsafe_code, reason = "reading the TSC is an intrinsic")]

use core::arch::x86_64;

/// The TSC now.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: every x86-64 CPU has the TSC; CR4.TSD is clear here.
    unsafe { x86_64::_rdtsc() }
}

/// The TSC now, after every earlier load has its value.
#[inline(always)]
pub fn now_ordered() -> u64 {
    // SAFETY: as above; SSE2 is part of x86-64.
    unsafe {
        x86_64::_mm_lfence();
        x86_64::_rdtsc()
    }
}

/// The rate of the TSC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    hz: u64,
}

/// Used when the VMM does not know the rate: fast enough that no deadline made
/// with it comes later than twice its time on slower CPUs of today.
const UNKNOWN_HZ: u64 = 3_000_000_000;

impl Clock {
    /// A clock of `hz` ticks a second; 0 stands for unknown.
    pub const fn new(hz: u64) -> Self {
        Self {
            hz: if hz == 0 { UNKNOWN_HZ } else { hz },
        }
    }

    /// Ticks a second.
    pub const fn hz(self) -> u64 {
        self.hz
    }

    /// `microseconds` in ticks, saturating.
    pub const fn ticks(self, microseconds: u64) -> u64 {
        let ticks = microseconds as u128 * self.hz as u128 / 1_000_000;
        if ticks > u64::MAX as u128 {
            u64::MAX
        } else {
            ticks as u64
        }
    }

    /// `ticks` in nanoseconds, saturating.
    pub const fn nanoseconds(self, ticks: u64) -> u64 {
        let ns = ticks as u128 * 1_000_000_000 / self.hz as u128;
        if ns > u64::MAX as u128 {
            u64::MAX
        } else {
            ns as u64
        }
    }

    /// The moment `microseconds` from now.
    pub fn after(self, microseconds: u64) -> Deadline {
        Deadline {
            tsc: now().saturating_add(self.ticks(microseconds)),
        }
    }
}

impl hv_shmem::wait::Clock for Clock {
    #[inline]
    fn now_ns(&self) -> u64 {
        self.nanoseconds(now())
    }
}

/// A moment on the TSC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline {
    tsc: u64,
}

impl Deadline {
    /// The moment as a TSC value.
    pub const fn tsc(self) -> u64 {
        self.tsc
    }

    /// Whether it has come.
    #[inline]
    pub fn passed(self) -> bool {
        now() >= self.tsc
    }

    /// Ticks left, 0 when it has passed.
    pub fn left(self) -> u64 {
        self.tsc.saturating_sub(now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_converts_both_ways() {
        let clock = Clock::new(2_600_000_000);
        assert_eq!(clock.ticks(1), 2600);
        assert_eq!(clock.nanoseconds(2600), 1000);
        assert_eq!(clock.ticks(u64::MAX), u64::MAX);
        assert_eq!(Clock::new(0).hz(), UNKNOWN_HZ);
        assert!(clock.after(0).passed());
        assert!(!clock.after(3_600_000_000).passed());
    }
}
