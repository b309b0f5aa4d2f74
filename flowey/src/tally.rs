//! Counting tests from the summaries that libtest prints.

use std::fmt;

/// Tests that passed and failed, over all steps.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Passed.
    pub passed: u64,
    /// Failed.
    pub failed: u64,
}

impl Tally {
    /// Counts one check that is no libtest test.
    pub(crate) fn add(&mut self, ok: bool) {
        *(if ok {
            &mut self.passed
        } else {
            &mut self.failed
        }) += 1;
    }

    /// Counts every `test result: ok. 3 passed; 0 failed; ...` in `output`.
    pub(crate) fn add_output(&mut self, output: &str) {
        for line in output.lines() {
            let Some(at) = line.find("test result: ") else {
                continue;
            };
            let mut words = line[at..].split_whitespace().peekable();
            while let Some(word) = words.next() {
                let Ok(n) = word.parse::<u64>() else { continue };
                match words.peek().map(|w| w.trim_end_matches(';')) {
                    Some("passed") => self.passed += n,
                    Some("failed") => self.failed += n,
                    _ => {}
                }
            }
        }
    }

    /// A pipeline that failed never says "0 failed".
    pub(crate) fn at_least_one_failure(&mut self) {
        self.failed = self.failed.max(1);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_up_several_binaries() {
        let mut tally = Tally::default();
        tally.add_output(
            "running 2 tests\ntest result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out\n\
             x\ntest result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s\n",
        );
        assert_eq!(tally.to_string(), "16 passed, 2 failed");
    }

    #[test]
    fn a_failed_step_without_tests_still_counts() {
        let mut tally = Tally::default();
        tally.at_least_one_failure();
        assert_eq!(tally.to_string(), "0 passed, 1 failed");
    }
}
