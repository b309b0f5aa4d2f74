//! The time-stamp counter: ticks, and how many make a nanosecond.
#![expect(
    unsafe_code,
    reason = "reads the time-stamp counter, which the compiler offers only as an unsafe intrinsic"
)]

use std::sync::OnceLock;
use std::time::Duration;
use std::time::Instant;

/// How long the counter is compared with the system's clock, once a process.
/// At 50 ms the two readings' jitter (below 1 us) is 20 parts in a million.
const COMPARED_FOR: Duration = Duration::from_millis(50);

/// Reads the counter.
#[inline(always)]
pub(crate) fn ticks() -> u64 {
    // SAFETY: RDTSC exists on every x86-64 and user space may execute it (CR4.TSD
    // is clear on Linux unless a process asks otherwise).
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Ticks a nanosecond, measured against the monotonic clock on first use.
pub(crate) fn ticks_per_ns() -> f64 {
    static RATE: OnceLock<f64> = OnceLock::new();
    *RATE.get_or_init(|| {
        let (wall, first) = (Instant::now(), ticks());
        std::thread::sleep(COMPARED_FOR);
        let (passed, last) = (wall.elapsed(), ticks());
        last.wrapping_sub(first) as f64 / passed.as_nanos() as f64
    })
}

/// A number of ticks as nanoseconds.
pub(crate) fn to_ns(ticks: u64) -> f64 {
    ticks as f64 / ticks_per_ns()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_follow_the_clock() {
        ticks_per_ns();
        let (wall, first) = (Instant::now(), ticks());
        std::thread::sleep(Duration::from_millis(20));
        let (ns, passed) = (to_ns(ticks() - first), wall.elapsed().as_nanos() as f64);
        assert!((ns / passed - 1.0).abs() < 0.02, "{ns} against {passed}");
    }
}
