//! The report at the start of a results span.
//!
//! Little-endian, 128 bytes:
//!
//! | offset | width | field |
//! |---|---|---|
//! | 0 | 8 | rounds, or spans |
//! | 8 | 8 | bytes |
//! | 16 | 8 | TSC ticks from first to last |
//! | 24 | 8 | interrupts taken while the command ran |
//! | 32 | 32 | BLAKE3 digest (sink that hashes) |
//! | 64 | 8 | histogram: values recorded |
//! | 72 | 8 | histogram: smallest, ticks |
//! | 80 | 8 | histogram: largest, ticks |
//! | 88 | 8 | histogram: sum, ticks |
//! | 96 | 8 | ticks of the TSC a second, as the agent was told |
//! | 104 | 24 | zero |

/// Bytes of a report.
pub const REPORT_BYTES: usize = 128;
/// Where the histogram's counts start in the results span.
pub const HISTOGRAM_AT: u64 = REPORT_BYTES as u64;
/// Bytes of a whole results span.
pub const RESULTS_BYTES: u64 = HISTOGRAM_AT + 4 * crate::histogram::BUCKETS as u64;

/// What a command came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Report {
    /// Rounds, or spans.
    pub count: u64,
    /// Bytes.
    pub bytes: u64,
    /// TSC ticks from first to last.
    pub ticks: u64,
    /// Interrupts taken while the command ran.
    pub interrupts: u64,
    /// BLAKE3 digest of a sink that hashes.
    pub digest: [u8; 32],
    /// Values in the histogram.
    pub recorded: u64,
    /// Smallest of them, ticks.
    pub min: u64,
    /// Largest of them, ticks.
    pub max: u64,
    /// Their sum, ticks.
    pub sum: u64,
    /// Rate of the TSC, as the agent was told.
    pub tsc_hz: u64,
}

impl Report {
    /// The encoding of the table above.
    pub fn to_bytes(&self) -> [u8; REPORT_BYTES] {
        let mut out = [0; REPORT_BYTES];
        let words = [
            (0, self.count),
            (8, self.bytes),
            (16, self.ticks),
            (24, self.interrupts),
            (64, self.recorded),
            (72, self.min),
            (80, self.max),
            (88, self.sum),
            (96, self.tsc_hz),
        ];
        for (at, word) in words {
            out[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        out[32..64].copy_from_slice(&self.digest);
        out
    }

    /// Reads a report; every bit pattern is one.
    pub fn from_bytes(from: &[u8; REPORT_BYTES]) -> Self {
        let word = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&from[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        let mut digest = [0; 32];
        digest.copy_from_slice(&from[32..64]);
        Self {
            count: word(0),
            bytes: word(8),
            ticks: word(16),
            interrupts: word(24),
            digest,
            recorded: word(64),
            min: word(72),
            max: word(80),
            sum: word(88),
            tsc_hz: word(96),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_carry_every_field() {
        let mut bytes = [0; REPORT_BYTES];
        for (i, byte) in bytes[..104].iter_mut().enumerate() {
            *byte = i as u8 + 1;
        }
        let report = Report::from_bytes(&bytes);
        assert_eq!(report.count, 0x0807_0605_0403_0201);
        assert_eq!(report.digest[0], 33);
        assert_eq!(report.to_bytes(), bytes);
    }
}
