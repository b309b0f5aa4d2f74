//! A counter that saturates and says when an event is worth a log line.

/// Events since the device was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter(u64);

impl Counter {
    /// Counts one more. True when the new count is a power of two: whoever logs
    /// only then writes at most 64 lines, however often a guest repeats itself.
    pub fn bump(&mut self) -> bool {
        self.0 = self.0.saturating_add(1);
        self.0.is_power_of_two()
    }

    /// The count.
    pub fn get(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_yes_at_powers_of_two_and_saturates() {
        let mut counter = Counter::default();
        let loud = (1..=100).filter(|_| counter.bump()).count();
        assert_eq!((loud, counter.get()), (7, 100));
        let mut full = Counter(u64::MAX);
        assert!(!full.bump());
        assert_eq!(full.get(), u64::MAX);
    }
}
