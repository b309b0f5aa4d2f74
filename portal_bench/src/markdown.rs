//! The published table: Markdown for the Guide's benchmark chapter.

use crate::Goal;
use crate::Report;
use crate::goal::Direction;
use crate::report::figure;
use crate::report::verdict;
use std::fmt::Write;

impl Report {
    /// The figures as Markdown: machine, commit, table, what was measured
    /// beside it, and what was not measured.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write_markdown(&mut text);
        text
    }

    fn write_markdown(&self, to: &mut String) -> std::fmt::Result {
        let here = &self.machine;
        writeln!(to, "| | |\n|---|---|")?;
        writeln!(
            to,
            "| processor | {}, {} cores used, TSC {} MHz |",
            here.cpu,
            here.cores,
            here.tsc_khz / 1000
        )?;
        writeln!(to, "| memory | {} MiB |", here.memory_mib)?;
        writeln!(to, "| kernel | Linux {} |", here.kernel)?;
        writeln!(to, "| below it | {} |", here.hypervisor)?;
        writeln!(to, "| commit | `{}` |", here.commit)?;
        writeln!(to, "| date | {} |\n", date(here.unix_time))?;
        writeln!(
            to,
            "| # | what | baseline | Portal | unit | ratio (min .. max) | better | gate | aim | reached | cores | rounds kept / dropped |"
        )?;
        writeln!(to, "|---|---|---|---|---|---|---|---|---|---|---|---|")?;
        for goal in &self.goals {
            writeln!(
                to,
                "| {} | {} | {}: {} | {} | {} | **{}** ({} .. {}) | {} | {} | {} | {} | {} | {} / {} |",
                goal.goal,
                goal.name,
                goal.baseline_name,
                figure(goal.baseline),
                figure(goal.value),
                goal.unit,
                figure(goal.ratio),
                figure(goal.min),
                figure(goal.max),
                match goal.better {
                    Direction::Higher => "higher",
                    Direction::Lower => "lower",
                },
                figure(goal.gate),
                figure(goal.aim),
                verdict(goal),
                goal.placement.word(),
                goal.rounds,
                goal.dropped,
            )?;
        }
        writeln!(to)?;
        missed(
            to,
            "Gates",
            &self.goals,
            |goal| goal.passed,
            |goal| goal.gate,
        )?;
        missed(
            to,
            "Aims",
            &self.goals,
            |goal| goal.reached_aim,
            |goal| goal.aim,
        )?;
        if self.goals.iter().any(|goal| goal.latency.is_some()) {
            writeln!(to, "\nSingle round trips, nanoseconds:\n")?;
            writeln!(
                to,
                "| # | what | min | p50 | p99 | max |\n|---|---|---|---|---|---|"
            )?;
        }
        for goal in &self.goals {
            if let Some(latency) = &goal.latency {
                writeln!(
                    to,
                    "| {} | {} | {} | {} | {} | {} |",
                    goal.goal,
                    goal.name,
                    figure(latency.min),
                    figure(latency.p50),
                    figure(latency.p99),
                    figure(latency.max),
                )?;
            }
        }
        if !self.observations.is_empty() {
            writeln!(to, "\nMeasured in the same rounds:\n")?;
            writeln!(
                to,
                "| # | what | median | min | max | unit |\n|---|---|---|---|---|---|"
            )?;
        }
        for seen in &self.observations {
            writeln!(
                to,
                "| {} | {} | {} | {} | {} | {} |",
                seen.goal,
                seen.name,
                figure(seen.value),
                figure(seen.min),
                figure(seen.max),
                seen.unit
            )?;
        }
        let noted = self.goals.iter().flat_map(|goal| {
            let notes = goal.notes.iter();
            notes.map(|note| (goal.goal, note.as_str()))
        });
        let missing = self
            .skipped
            .iter()
            .map(|skipped| (skipped.goal, skipped.reason.as_str()));
        for (at, (number, text)) in noted.chain(missing).enumerate() {
            if at == 0 {
                writeln!(to)?;
            }
            writeln!(to, "* goal {number}: {text}")?;
        }
        Ok(())
    }
}

/// One line: which goals have not reached `bar`, and how far they came.
fn missed(
    to: &mut String,
    bars: &str,
    goals: &[Goal],
    reached: fn(&Goal) -> bool,
    bar: fn(&Goal) -> f64,
) -> std::fmt::Result {
    let short = goals.iter().filter(|goal| !reached(goal)).map(|goal| {
        format!(
            "{} ({}; {})",
            goal.goal,
            figure(goal.ratio),
            figure(bar(goal))
        )
    });
    let short: Vec<String> = short.collect();
    match short.as_slice() {
        [] => writeln!(to, "* {bars}: every one was reached."),
        short => writeln!(
            to,
            "* {bars} missed, with what was reached and the bar: {}.",
            short.join(", ")
        ),
    }
}

/// `seconds` since 1970 as a day, YYYY-MM-DD, in UTC.
fn date(seconds: u64) -> String {
    let (mut year, mut day) = (1970, seconds / 86_400);
    let leap = |year: u64| {
        (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400)
    };
    while day >= 365 + u64::from(leap(year)) {
        day -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}", day + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_of_known_moments() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(951_782_400), "2000-02-29");
        assert_eq!(date(1_763_675_111), "2025-11-20");
        assert_eq!(date(1_798_761_599), "2026-12-31");
    }

    #[test]
    fn every_goal_and_every_gap_is_in_the_table() {
        let text = crate::report::tests::sample().markdown();
        assert!(text.contains("| 5 | ring round trip | C2: 300 | 309 | ns | **1.03**"));
        assert!(text.contains("* Gates: every one was reached.\n* Aims: every one"));
        assert!(text.contains("* goal 1: built without peers"));
        assert!(text.contains("* goal 5: a note"));
    }

    #[test]
    fn what_falls_short_is_said_with_its_bar() {
        let mut report = crate::report::tests::sample();
        report.goals[0].reached_aim = false;
        report.goals[0].ratio = 1.1;
        let text = report.markdown();
        assert!(text.contains("* Gates: every one was reached."));
        assert!(text.contains("the bar: 5 (1.10; 1.05).\n"));
    }
}
