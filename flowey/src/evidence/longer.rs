//! Runs with more cases than the short form has, made harness by harness in time
//! that was to spare: one JSON object a line in `flowey/longer_runs.jsonl`, kept
//! with the commit that was tested, and shown on the page beside what ran last.

use crate::workspace;
use anyhow::Context;
use serde::Deserialize;
use std::fmt::Write as _;

/// The lines, in the root of the workspace.
const PATH: &str = "flowey/longer_runs.jsonl";

/// One harness's longer run.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Longer {
    /// The commit that was tested.
    commit: String,
    /// `T1` to `T20`.
    threat: String,
    /// As in the harness's line.
    what: String,
    /// Cases of all runs together.
    cases: u64,
    /// How many of them failed.
    failures: u64,
    /// How many runs, with the seeds 1, 2, ...
    runs: u64,
}

/// What the file holds.
///
/// # Errors
/// When it cannot be read, or a line does not parse.
pub(super) fn read() -> anyhow::Result<Vec<Longer>> {
    let text = std::fs::read_to_string(workspace::root().join(PATH));
    parse(&text.with_context(|| format!("cannot read {PATH}"))?)
}

fn parse(text: &str) -> anyhow::Result<Vec<Longer>> {
    let lines = text.lines().filter(|line| !line.is_empty());
    lines
        .map(|line| serde_json::from_str(line).with_context(|| format!("{PATH}: {line}")))
        .collect()
}

/// The page's section.
pub(super) fn section(longer: &[Longer]) -> String {
    let mut text = "\n## Longer runs\n\n\
        Single harnesses, each at the commit named, in runs with the seeds 1, 2 and so on.\n\n\
        | threat | what ran | runs | cases | failures | rate below | commit |\n\
        |---|---|---|---|---|---|---|\n"
        .to_owned();
    for it in longer {
        let bound = match it.failures {
            0 if it.cases > 0 => format!("{:.1e}", 3.0 / it.cases as f64),
            _ => String::new(),
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {bound} | `{}` |",
            it.threat, it.what, it.runs, it.cases, it.failures, it.commit
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_in_the_repository_parses() {
        assert!(!read().unwrap().is_empty());
    }

    #[test]
    fn a_failure_has_no_bound() {
        let line = |failures| {
            format!(
                r#"{{"commit":"c","threat":"T1","what":"w","cases":300,"failures":{failures},"runs":3}}"#
            )
        };
        let both = parse(&format!("{}\n{}\n", line(0), line(1))).unwrap();
        let text = section(&both);
        assert!(text.contains("| T1 | w | 3 | 300 | 0 | 1.0e-2 | `c` |"));
        assert!(text.contains("| T1 | w | 3 | 300 | 1 |  | `c` |"));
        assert!(parse("{}").is_err());
    }
}
