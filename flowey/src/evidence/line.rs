//! The one line that a harness prints. Its shape is documented in the parent
//! module; what is parsed here comes from our own tests.

use serde::Deserialize;
use serde::Serialize;

/// What every evidence line starts with, on a line of its own.
const PREFIX: &str = "evidence: ";

/// One harness's result, or one negative control's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Line {
    /// The row of TRUST.md, `T1` to `T20`.
    pub threat: String,
    /// What was done, in a few words.
    pub what: String,
    /// The guard that was taken out; absent in a real run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<String>,
    /// Independent trials that ran.
    pub cases: u64,
    /// Trials in which the promise did not hold.
    pub failures: u64,
    /// The seed of the random numbers; 0 where nothing is random.
    pub seed: u64,
}

impl Line {
    /// The 95% upper bound of the failure rate after no failure in n independent
    /// trials (the rule of three).
    pub(super) fn bound(&self) -> Option<f64> {
        (self.failures == 0 && self.cases > 0).then(|| 3.0 / self.cases as f64)
    }
}

/// The evidence lines in a harness's output.
///
/// # Errors
/// The line and the reason, when one has the prefix and does not parse.
pub(super) fn parse(output: &str) -> anyhow::Result<Vec<Line>> {
    output
        .lines()
        // libtest prints `test name ... ` in front of a test's first line.
        .filter_map(|l| l.find(PREFIX).map(|at| &l[at + PREFIX.len()..]))
        .map(|json| {
            serde_json::from_str(json.trim())
                .map_err(|e| anyhow::anyhow!("evidence line does not parse: {e}\n  {json}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_lines_among_the_test_runners() {
        let out = "running 1 test\ntest t4_x ... evidence: {\"threat\":\"T4\",\"what\":\"w\",\"cases\":300,\"failures\":0,\"seed\":7}\nok\n";
        let lines = parse(out).unwrap();
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].threat, "T4");
        assert_eq!(lines[0].control, None);
        assert_eq!(lines[0].bound(), Some(0.01));
    }

    #[test]
    fn a_control_names_its_guard_and_has_no_bound() {
        let out = r#"evidence: {"threat":"T4","what":"w","control":"epoch","cases":9,"failures":2,"seed":7}"#;
        let lines = parse(out).unwrap();
        assert_eq!(lines[0].control.as_deref(), Some("epoch"));
        assert_eq!(lines[0].bound(), None);
    }

    #[test]
    fn a_misspelt_key_is_an_error_that_quotes_the_line() {
        let err = parse(r#"evidence: {"threat":"T4","case":1}"#).unwrap_err();
        assert!(err.to_string().contains("\"case\":1"), "{err}");
    }
}
