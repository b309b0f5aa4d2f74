//! Answers of agents, with their report and histogram.

use portal_agent_abi::histogram;
use portal_agent_abi::report::Report;
use std::time::Duration;

/// What a command came to. The numbers are the agent's word.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The command's direct result; for `Nop` the agent's TSC.
    pub result: u64,
    /// The report.
    pub report: Report,
    /// The histogram; empty when the command fills none.
    pub counts: TickCounts,
}

impl Answer {
    /// Time from first to last, by the TSC rate that the agent was told; `None`
    /// when it was told none.
    pub fn took(&self) -> Option<Duration> {
        self.in_time(self.report.ticks)
    }

    /// TSC ticks as time.
    pub fn in_time(&self, ticks: u64) -> Option<Duration> {
        let hz = u128::from(self.report.tsc_hz);
        let nanoseconds = (u128::from(ticks) * 1_000_000_000).checked_div(hz)?;
        Some(Duration::from_nanos(u64::try_from(nanoseconds).ok()?))
    }

    /// Bytes a second, from the report.
    pub fn bytes_per_second(&self) -> Option<f64> {
        let seconds = self.took()?.as_secs_f64();
        (seconds > 0.0).then(|| self.report.bytes as f64 / seconds)
    }
}

/// A histogram of TSC ticks: how often which value came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TickCounts {
    /// (ticks, how often), ascending; ticks stand for a bucket at most 0.4 % wide.
    pub values: Vec<(u64, u32)>,
}

impl TickCounts {
    /// Decodes the little-endian u32 counts of all buckets; missing ones are 0.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let counts = bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|c| u32::from_le_bytes(*c));
        let values = counts
            .take(histogram::BUCKETS)
            .enumerate()
            .filter(|(_, count)| *count > 0)
            .map(|(bucket, count)| (histogram::middle(bucket), count))
            .collect();
        Self { values }
    }

    /// The smallest value that `quantile` (0 to 1) of all are at most; `None`
    /// when there are none.
    pub fn quantile(&self, quantile: f64) -> Option<u64> {
        let all: u64 = self.values.iter().map(|(_, n)| u64::from(*n)).sum();
        let wanted = (quantile.clamp(0.0, 1.0) * all as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        self.values.iter().find_map(|(ticks, n)| {
            seen += u64::from(*n);
            (seen >= wanted).then_some(*ticks)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_decode_and_have_quantiles() {
        let mut bytes = vec![0; 4 * histogram::BUCKETS];
        for (bucket, count) in [(300, 98u32), (400, 1), (histogram::BUCKETS - 1, 1)] {
            bytes[bucket * 4..][..4].copy_from_slice(&count.to_le_bytes());
        }
        let counts = TickCounts::from_bytes(&bytes);
        assert_eq!(counts.values.len(), 3);
        assert_eq!(counts.quantile(0.5), Some(300));
        assert_eq!(counts.quantile(0.99), Some(400));
        assert!(counts.quantile(1.0).unwrap() > 1 << 39);
        assert_eq!(TickCounts::default().quantile(0.5), None);
        assert_eq!(TickCounts::from_bytes(&[1, 2, 3]), TickCounts::default());
    }

    #[test]
    fn ticks_become_time_only_with_a_rate() {
        let mut answer = Answer {
            result: 0,
            report: Report::default(),
            counts: TickCounts::default(),
        };
        assert_eq!(answer.in_time(5), None);
        answer.report.tsc_hz = 2_000_000_000;
        answer.report.ticks = 4_000_000_000;
        answer.report.bytes = 10;
        assert_eq!(answer.took(), Some(Duration::from_secs(2)));
        assert_eq!(answer.bytes_per_second(), Some(5.0));
    }
}
