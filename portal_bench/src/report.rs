//! The report of a run: for programs (one JSON object a goal) and for people.

use crate::Machine;
use crate::goal::Goal;
use crate::goal::Observation;
use crate::goal::Skipped;
use serde::Deserialize;
use serde::Serialize;
use std::fmt::Write;

/// Everything that one run gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Where it ran.
    pub machine: Machine,
    /// A figure each.
    pub goals: Vec<Goal>,
    /// Other figures of the same rounds.
    pub observations: Vec<Observation>,
    /// Goals without a figure, and why.
    pub skipped: Vec<Skipped>,
}

impl Report {
    /// Whether every goal that was measured reached its gate.
    pub fn passed(&self) -> bool {
        self.goals.iter().all(|goal| goal.passed)
    }

    /// One JSON object a line, one line a goal.
    ///
    /// # Errors
    /// When a figure cannot be written as JSON.
    pub fn json_lines(&self) -> Result<String, serde_json::Error> {
        let mut text = String::new();
        for goal in &self.goals {
            text.push_str(&serde_json::to_string(goal)?);
            text.push('\n');
        }
        Ok(text)
    }

    /// A table for people, 130 columns wide.
    pub fn table(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write_table(&mut text);
        text
    }

    fn write_table(&self, to: &mut String) -> std::fmt::Result {
        writeln!(
            to,
            "{:>4}  {:<48} {:>10} {:>10}  {:<14} {:>8} {:>8} {:>8}  reached, cores",
            "goal", "what / baseline", "baseline", "Portal", "unit", "ratio", "gate", "aim"
        )?;
        for goal in &self.goals {
            writeln!(
                to,
                "{:>4}  {:<48} {:>10} {:>10}  {:<14} {:>8} {:>8} {:>8}  {}, {}",
                goal.goal,
                clip(&format!("{} / {}", goal.name, goal.baseline_name), 48),
                figure(goal.baseline),
                figure(goal.value),
                goal.unit,
                figure(goal.ratio),
                figure(goal.gate),
                figure(goal.aim),
                verdict(goal),
                goal.placement.word(),
            )?;
        }
        if self.goals.iter().any(|goal| goal.latency.is_some()) {
            writeln!(
                to,
                "\n{:>4}  {:<48} {:>10} {:>10} {:>10} {:>10}",
                "goal", "single round trips, ns", "min", "p50", "p99", "max"
            )?;
        }
        for goal in &self.goals {
            if let Some(latency) = &goal.latency {
                writeln!(
                    to,
                    "{:>4}  {:<48} {:>10} {:>10} {:>10} {:>10}",
                    goal.goal,
                    clip(&goal.name, 48),
                    figure(latency.min),
                    figure(latency.p50),
                    figure(latency.p99),
                    figure(latency.max),
                )?;
            }
        }
        if !self.observations.is_empty() {
            writeln!(to, "\nmeasured beside them:")?;
        }
        for seen in &self.observations {
            writeln!(
                to,
                "{:>4}  {:<48} {:>10}  {} ({} .. {})",
                seen.goal,
                clip(&seen.name, 48),
                figure(seen.value),
                seen.unit,
                figure(seen.min),
                figure(seen.max)
            )?;
        }
        for skipped in &self.skipped {
            writeln!(
                to,
                "{:>4}  {}: not measured: {}",
                skipped.goal, skipped.name, skipped.reason
            )?;
        }
        for goal in &self.goals {
            for note in &goal.notes {
                writeln!(to, "{:>4}  note: {note}", goal.goal)?;
            }
        }
        Ok(())
    }
}

/// One word: what the ratio reached.
pub(crate) fn verdict(goal: &Goal) -> &'static str {
    match (goal.passed, goal.reached_aim) {
        (true, true) => "aim",
        (true, false) => "gate",
        (false, _) => "MISSED",
    }
}

/// A figure with three significant digits and no exponent where that is short.
pub(crate) fn figure(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 {
        "0".into()
    } else if size >= 100.0 {
        format!("{value:.0}")
    } else if size >= 10.0 {
        format!("{value:.1}")
    } else if size >= 1.0 {
        format!("{value:.2}")
    } else if size >= 0.1 {
        format!("{value:.3}")
    } else if size >= 0.001 {
        format!("{value:.4}")
    } else {
        format!("{value:.1e}")
    }
}

/// At most `width` characters, the last an ellipsis when some were cut.
fn clip(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.into();
    }
    let kept: String = text.chars().take(width - 1).collect();
    kept + "…"
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::Direction;

    pub(crate) fn sample() -> Report {
        Report {
            machine: Machine::here(),
            goals: vec![Goal {
                goal: 5,
                name: "ring round trip".into(),
                baseline: 300.0,
                value: 309.0,
                unit: "ns".into(),
                ratio: 1.03,
                gate: 1.2,
                aim: 1.05,
                rounds: 21,
                min: 1.0,
                max: 1.1,
                passed: true,
                reached_aim: true,
                better: Direction::Lower,
                baseline_name: "C2".into(),
                placement: crate::Placement::Apart,
                dropped: 2,
                preempted: 3,
                stolen_ms: 0,
                latency: None,
                notes: vec!["a note".into()],
            }],
            observations: Vec::new(),
            skipped: vec![Skipped {
                goal: 1,
                name: "SPSC".into(),
                reason: "built without peers".into(),
            }],
        }
    }

    #[test]
    fn json_has_the_fields_that_programs_rely_on() {
        let lines = sample().json_lines().expect("writable");
        assert_eq!(lines.lines().count(), 1);
        let object: serde_json::Value = serde_json::from_str(&lines).expect("an object");
        for field in [
            "goal", "name", "baseline", "value", "unit", "ratio", "gate", "aim", "rounds", "min",
            "max", "passed",
        ] {
            assert!(object.get(field).is_some(), "{field} is missing");
        }
        let back: Goal = serde_json::from_str(&lines).expect("the same goal");
        assert_eq!(back, sample().goals[0]);
    }

    #[test]
    fn the_table_says_everything_once() {
        let table = sample().table();
        for part in [
            "ring round trip / C2",
            "309",
            "1.03",
            "aim",
            "a note",
            "built without",
        ] {
            assert_eq!(
                table.matches(part).count(),
                1 + usize::from(part == "aim"),
                "{part}"
            );
        }
    }

    #[test]
    fn figures_keep_three_digits() {
        let shown = [0.0, 0.0001, 0.0123, 0.5, 1.234, 12.34, 1234.5].map(figure);
        assert_eq!(
            shown,
            ["0", "1.0e-4", "0.0123", "0.500", "1.23", "12.3", "1234"]
        );
    }

    #[test]
    fn long_names_are_cut() {
        assert_eq!(clip("abcdef", 4), "abc…");
        assert_eq!(clip("äöü", 3), "äöü");
    }
}
