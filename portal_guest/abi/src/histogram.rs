//! A fixed log-linear histogram of TSC ticks: one addition a value, no heap.
//!
//! Values below 512 have a bucket each; above, each power of two is divided into
//! 256, so that a bucket is at most 0.4 % wide. Values from 2^40 up (seven
//! minutes at 2.6 GHz) count in the last bucket. Counts are u32, little-endian,
//! in bucket order.

/// Buckets.
pub const BUCKETS: usize = 512 + 31 * 256;
/// First value that has no bucket of its own.
const LIMIT: u64 = 1 << 40;

/// The bucket of a value.
#[inline]
pub const fn bucket(value: u64) -> usize {
    let value = if value >= LIMIT { LIMIT - 1 } else { value };
    if value < 512 {
        return value as usize;
    }
    let exponent = 63 - value.leading_zeros() as usize;
    512 + (exponent - 9) * 256 + (value >> (exponent - 8) & 0xFF) as usize
}

/// Smallest value of a bucket; [`BUCKETS`] and beyond give 2^40.
pub const fn lowest(bucket: usize) -> u64 {
    if bucket < 512 {
        return bucket as u64;
    }
    if bucket >= BUCKETS {
        return LIMIT;
    }
    let exponent = 9 + (bucket - 512) / 256;
    let part = ((bucket - 512) % 256) as u64;
    1 << exponent | part << (exponent - 8)
}

/// The value that stands for a bucket: its middle.
pub const fn middle(bucket: usize) -> u64 {
    let low = lowest(bucket);
    low + (lowest(bucket + 1) - low) / 2
}

/// Counts, and what the buckets lose: smallest, largest, sum.
#[derive(Debug)]
pub struct Histogram {
    counts: [u32; BUCKETS],
    recorded: u64,
    min: u64,
    max: u64,
    sum: u64,
}

impl Histogram {
    /// Nothing recorded.
    pub const fn new() -> Self {
        Self {
            counts: [0; BUCKETS],
            recorded: 0,
            min: u64::MAX,
            max: 0,
            sum: 0,
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.counts.fill(0);
        self.recorded = 0;
        self.min = u64::MAX;
        self.max = 0;
        self.sum = 0;
    }

    /// Records one value.
    #[inline]
    pub fn record(&mut self, value: u64) {
        if let Some(count) = self.counts.get_mut(bucket(value)) {
            *count = count.saturating_add(1);
        }
        self.recorded += 1;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        self.sum = self.sum.saturating_add(value);
    }

    /// Counts, in bucket order.
    pub fn counts(&self) -> &[u32; BUCKETS] {
        &self.counts
    }

    /// Writes recorded, smallest, largest and sum into a report.
    pub fn summarise(&self, report: &mut crate::report::Report) {
        report.recorded = self.recorded;
        report.min = if self.recorded == 0 { 0 } else { self.min };
        report.max = self.max;
        report.sum = self.sum;
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_tile_the_values() {
        for b in 0..BUCKETS {
            assert_eq!(bucket(lowest(b)), b);
            assert_eq!(bucket(lowest(b + 1) - 1), b);
            assert_eq!(bucket(middle(b)), b);
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert_eq!(lowest(BUCKETS), LIMIT);
    }

    #[test]
    fn a_bucket_is_narrow() {
        for b in 512..BUCKETS {
            let width = lowest(b + 1) - lowest(b);
            assert!(width * 256 <= lowest(b));
        }
    }

    #[test]
    fn summary_keeps_the_extremes() {
        let mut histogram = Histogram::new();
        let mut report = crate::report::Report::default();
        histogram.summarise(&mut report);
        assert_eq!((report.recorded, report.min, report.max), (0, 0, 0));
        for value in [700, 3, 900_000] {
            histogram.record(value);
        }
        histogram.summarise(&mut report);
        assert_eq!(
            (report.recorded, report.min, report.max, report.sum),
            (3, 3, 900_000, 900_703)
        );
        assert_eq!(histogram.counts().iter().sum::<u32>(), 3);
    }
}
