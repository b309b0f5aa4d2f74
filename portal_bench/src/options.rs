//! What to run and how.

use crate::goal::GOALS;
use crate::goal::Goal;
use crate::goal::GoalSpec;
use crate::goal::Skipped;
use crate::goal::Suite;

/// Rounds a goal, unless the caller says otherwise: enough above the 15 that are
/// judged for the median to be quiet.
pub const DEFAULT_ROUNDS: u32 = 21;

/// What a run tells its caller while it goes on.
#[derive(Debug, Clone, Copy)]
pub enum Progress<'a> {
    /// A goal is about to be measured.
    Begun(&'a GoalSpec),
    /// A goal has its figure.
    Measured(&'a Goal),
    /// A goal has none.
    Skipped(&'a Skipped),
}

/// What to run and how.
#[derive(Debug, Clone)]
pub struct BenchOptions {
    /// Suites to run. Empty: all of them.
    pub suites: Vec<Suite>,
    /// Only these goals, by number. Empty: every goal of the suites.
    pub goals: Vec<u32>,
    /// Rounds to keep for each goal. Below 15 nothing is judged as passed.
    pub rounds: u32,
    /// The two cores to measure on. `None`: the first two that this process may
    /// use.
    pub cores: Option<[usize; 2]>,
    /// Called before and after each goal.
    pub progress: fn(Progress<'_>),
}

impl Default for BenchOptions {
    fn default() -> Self {
        Self {
            suites: Vec::new(),
            goals: Vec::new(),
            rounds: DEFAULT_ROUNDS,
            cores: None,
            progress: |_| (),
        }
    }
}

impl BenchOptions {
    /// The goals that these options select, by number.
    pub fn selected(&self) -> impl Iterator<Item = &'static GoalSpec> {
        GOALS.iter().filter(|spec| {
            let suite = self.suites.is_empty() || self.suites.contains(&spec.suite);
            let goal = self.goals.is_empty() || self.goals.contains(&spec.goal);
            suite && goal
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_named_selects_everything() {
        assert_eq!(BenchOptions::default().selected().count(), GOALS.len());
    }

    #[test]
    fn suites_and_goals_narrow_each_other() {
        let options = BenchOptions {
            suites: vec![Suite::Latency],
            goals: vec![5, 1],
            ..Default::default()
        };
        let numbers: Vec<u32> = options.selected().map(|spec| spec.goal).collect();
        assert_eq!(numbers, [5]);
    }
}
