//! How much of the machine others took while something was measured.

use rustix::time::ClockId;
use rustix::time::clock_gettime;
use std::time::Duration;
use std::time::Instant;

/// Columns of /proc/stat's first line that are work: user, nice, system, interrupts,
/// soft interrupts, stolen. Idle and waiting (the fourth and fifth) are none, and
/// guests are in user already.
const WORK: [usize; 6] = [0, 1, 2, 5, 6, 7];

/// A moment to count from.
pub(crate) struct Since {
    machine: Duration,
    own: Duration,
    at: Instant,
}

impl Since {
    /// From now on; `None` where the kernel does not tell.
    pub(crate) fn now() -> Option<Self> {
        let text = std::fs::read_to_string("/proc/stat").ok()?;
        let spent = clock_gettime(ClockId::ProcessCPUTime);
        Some(Self {
            machine: work(&text, rustix::param::clock_ticks_per_second())?,
            own: spent.try_into().ok()?,
            at: Instant::now(),
        })
    }

    /// Cores that others kept busy since then, on average.
    pub(crate) fn cores_of_others(&self) -> Option<f64> {
        let now = Self::now()?;
        let machine = now.machine.checked_sub(self.machine)?;
        let others = machine.saturating_sub(now.own.checked_sub(self.own)?);
        let passed = now.at.duration_since(self.at);
        (!passed.is_zero()).then(|| others.as_secs_f64() / passed.as_secs_f64())
    }
}

/// What all processors have worked since boot.
fn work(stat: &str, ticks_per_second: u64) -> Option<Duration> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let columns: Vec<u64> = line
        .split_whitespace()
        .map(|column| column.parse().unwrap_or(0))
        .collect();
    let ticks: u64 = WORK.iter().filter_map(|&column| columns.get(column)).sum();
    Some(Duration::from_millis(
        ticks.checked_mul(1000)?.checked_div(ticks_per_second)?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_waiting_and_guests_are_no_work() {
        let stat = "cpu  100 20 3 9999 9999 4 5 6 7777 7777\ncpu0 1 2 3\n";
        assert_eq!(work(stat, 100), Some(Duration::from_millis(1380)));
        assert_eq!(work("intr 1", 100), None);
        assert_eq!(work("", 100), None);
    }

    #[test]
    fn others_take_no_less_than_nothing() {
        let since = Since::now().expect("this is Linux");
        assert!(since.cores_of_others().is_none_or(|cores| cores >= 0.0));
    }
}
