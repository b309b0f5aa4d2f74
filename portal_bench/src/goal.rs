//! The goals: what is compared with what, and which ratio passes.
//!
//! Numbers 1-18 are those of the performance goals in the Guide's benchmark
//! chapter; 101 and up are the goals that concern whole partitions, 106 and up
//! those of the switchboard, 109 is about observers. Goals 12 and 13 (the VMBus
//! proxy's data paths) are measured where the proxy lives and are not in this table.

use crate::Placement;
use serde::Deserialize;
use serde::Serialize;

/// Which way a ratio is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Throughput: `ratio >= gate` passes.
    Higher,
    /// Time and cost: `ratio <= gate` passes.
    Lower,
}

impl Direction {
    /// Whether `ratio` is at least as good as `bar`.
    pub fn reaches(self, ratio: f64, bar: f64) -> bool {
        match self {
            Self::Higher => ratio >= bar,
            Self::Lower => ratio <= bar,
        }
    }
}

/// The groups that `portal bench` takes as its argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Suite {
    /// Round trips: goals 5, 6, 7, 10, 17, 18.
    Latency,
    /// Messages a second: goals 1-4, 8 and 109.
    Throughput,
    /// Large spans: goals 14 and 101.
    Bulk,
    /// Notification: goals 9, 11, 104, 105.
    Doorbell,
    /// Allocation: goals 15 and 16.
    Arena,
    /// Starting partitions: goals 102 and 103.
    Partition,
    /// Peers of a switchboard: goals 106 to 108.
    Switchboard,
}

impl Suite {
    /// Every suite, in the order in which `all` runs them.
    pub const ALL: [Self; 7] = [
        Self::Latency,
        Self::Throughput,
        Self::Bulk,
        Self::Doorbell,
        Self::Arena,
        Self::Partition,
        Self::Switchboard,
    ];

    /// The word on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::Throughput => "throughput",
            Self::Bulk => "bulk",
            Self::Doorbell => "doorbell",
            Self::Arena => "arena",
            Self::Partition => "partition",
            Self::Switchboard => "switchboard",
        }
    }

    /// The suites that a word on the command line names; `all` names every one.
    pub fn parse(word: &str) -> Option<Vec<Self>> {
        if word == "all" {
            return Some(Self::ALL.to_vec());
        }
        let found = Self::ALL.into_iter().find(|suite| suite.word() == word);
        found.map(|suite| vec![suite])
    }
}

/// One comparison: fixed before anything is measured.
#[derive(Debug, Clone, Copy)]
pub struct GoalSpec {
    /// Its number.
    pub goal: u32,
    /// The suite that runs it.
    pub suite: Suite,
    /// What is measured.
    pub name: &'static str,
    /// What it is divided by.
    pub baseline: &'static str,
    /// Unit of value and baseline.
    pub unit: &'static str,
    /// Which way is better.
    pub direction: Direction,
    /// The ratio that must be reached.
    pub gate: f64,
    /// The ratio that is hoped for.
    pub aim: f64,
}

const fn goal(goal: u32, suite: Suite, direction: Direction, gate: f64, aim: f64) -> GoalSpec {
    GoalSpec {
        goal,
        suite,
        name: "",
        baseline: "",
        unit: "",
        direction,
        gate,
        aim,
    }
}

impl GoalSpec {
    const fn of(mut self, name: &'static str, baseline: &'static str, unit: &'static str) -> Self {
        self.name = name;
        self.baseline = baseline;
        self.unit = unit;
        self
    }
}

/// Every goal that this crate measures, by number.
pub const GOALS: &[GoalSpec] = {
    use Direction::Higher;
    use Direction::Lower;
    &[
        goal(1, Suite::Throughput, Higher, 1.0, 1.3).of("SPSC, 8 B", "rtrb", "M/s"),
        goal(2, Suite::Throughput, Higher, 2.5, 3.5).of("SPSC, 64 B", "rtrb", "M/s"),
        goal(3, Suite::Throughput, Higher, 1.5, 1.9).of(
            "SPSC, 8 B, batches of 32",
            "rtrb chunks of 32",
            "M/s",
        ),
        goal(4, Suite::Throughput, Higher, 0.4, 0.7).of(
            "SPSC, 64 B, batches of 256",
            "cross-core write-read stream",
            "GB/s",
        ),
        goal(5, Suite::Latency, Lower, 1.2, 1.05).of("ring round trip, 56 B", "C2", "ns"),
        goal(6, Suite::Latency, Lower, 0.7, 0.5).of("upcall answered in place", "C2", "ns"),
        goal(7, Suite::Latency, Lower, 1.3, 1.05).of(
            "round trip between two partitions",
            "two host processes",
            "ns",
        ),
        goal(8, Suite::Throughput, Higher, 1.0, 4.0).of(
            "MPSC, 1 producer, 8 B, batches of 32",
            "crossbeam ArrayQueue",
            "M/s",
        ),
        goal(9, Suite::Doorbell, Lower, 1e-2, 1e-4).of(
            "doorbells per message, saturated",
            "one a message",
            "rings/message",
        ),
        goal(10, Suite::Latency, Lower, 3.0, 1.6).of(
            "poll-then-block round trip, peer busy up to 5 us",
            "C2",
            "ns",
        ),
        goal(11, Suite::Doorbell, Lower, 1.3, 1.05).of(
            "blocking doorbell round trip",
            "raw eventfd",
            "ns",
        ),
        goal(14, Suite::Bulk, Lower, 1.5, 1.05).of(
            "handing over a 1 MiB span",
            "handing over 64 B",
            "ns",
        ),
        goal(15, Suite::Arena, Lower, 1.0, 0.5).of(
            "arena, 64 B alloc and free",
            "rlsf behind a spinlock",
            "ns",
        ),
        goal(16, Suite::Arena, Lower, 0.5, 0.25).of(
            "allocate here, free there, 64 B",
            "locked TLSF",
            "ns",
        ),
        goal(17, Suite::Latency, Lower, 0.7, 0.45).of("one-way latency", "iceoryx2", "ns"),
        goal(18, Suite::Latency, Lower, 1.0 / 50.0, 1.0 / 150.0).of(
            "round trip",
            "Unix socket",
            "ns",
        ),
        goal(101, Suite::Bulk, Higher, 0.7, 0.95).of(
            "1 MiB spans between two partitions",
            "cross-core write-read stream",
            "GB/s",
        ),
        goal(102, Suite::Partition, Lower, 1.0, 1.0).of(
            "partition start, create to first instruction, p50",
            "limit of 10 ms",
            "ms",
        ),
        goal(103, Suite::Partition, Lower, 1.0, 1.0).of(
            "host memory beyond guest RAM",
            "limit of 4 MiB",
            "MiB",
        ),
        goal(104, Suite::Doorbell, Lower, 1.0, 1.0).of(
            "64 partitions on one region joined and ringing",
            "limit of 5 s",
            "s",
        ),
        goal(105, Suite::Doorbell, Lower, 0.0, 0.0).of(
            "exits to user space per doorbell",
            "one a doorbell",
            "exits/doorbell",
        ),
        goal(106, Suite::Switchboard, Lower, 1.0, 0.1).of(
            "attach among 64 peers",
            "limit of 5 ms",
            "ms",
        ),
        goal(107, Suite::Switchboard, Lower, 1.25, 1.0).of(
            "attach among 512 peers, each",
            "among 64, each",
            "us",
        ),
        goal(108, Suite::Switchboard, Lower, 1.0, 0.25).of(
            "memory of the switchboard, a peer",
            "limit of 64 KiB",
            "KiB",
        ),
        goal(109, Suite::Throughput, Higher, 0.9, 0.98).of(
            "SPSC, 64 B, while an observer looks",
            "nobody looking",
            "M/s",
        ),
    ]
};

/// The goal with this number.
pub fn find(number: u32) -> Option<&'static GoalSpec> {
    GOALS.iter().find(|spec| spec.goal == number)
}

/// A distribution of single round trips, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Shortest.
    pub min: f64,
    /// Half are shorter.
    pub p50: f64,
    /// 99 of 100 are shorter.
    pub p99: f64,
    /// Longest.
    pub max: f64,
}

/// What was measured for one goal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Goal {
    /// Its number.
    pub goal: u32,
    /// What was measured.
    pub name: String,
    /// Median of the baseline over the rounds kept, in `unit`.
    pub baseline: f64,
    /// Median of Portal's figure over the rounds kept, in `unit`.
    pub value: f64,
    /// Unit of `baseline` and `value`.
    pub unit: String,
    /// Median over the rounds of each round's value / baseline.
    pub ratio: f64,
    /// The ratio that must be reached.
    pub gate: f64,
    /// The ratio that is hoped for.
    pub aim: f64,
    /// Rounds that counted.
    pub rounds: u32,
    /// Smallest ratio of a round.
    pub min: f64,
    /// Largest ratio of a round.
    pub max: f64,
    /// The gate was reached, by the median of enough rounds.
    pub passed: bool,
    /// The aim was reached too.
    pub reached_aim: bool,
    /// Whether larger or smaller ratios are better.
    pub better: Direction,
    /// What `baseline` is.
    pub baseline_name: String,
    /// Where the two cores were in the rounds that counted.
    pub placement: Placement,
    /// Rounds dropped because the cores moved, were placed otherwise, or were
    /// wanted by something else.
    pub dropped: u32,
    /// Involuntary context switches of the measuring threads, all rounds.
    pub preempted: u64,
    /// Time stolen by the host during the measurement, in milliseconds.
    pub stolen_ms: u64,
    /// Single round trips of Portal's side, where the goal is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub latency: Option<Latency>,
    /// What a reader must know to judge the figure.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub notes: Vec<String>,
}

/// A figure of the same run that no goal asks for: another library, a variant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// The goal in whose rounds it was measured.
    pub goal: u32,
    /// What it is.
    pub name: String,
    /// Median over the rounds kept.
    pub value: f64,
    /// Its unit.
    pub unit: String,
    /// Smallest of a round.
    pub min: f64,
    /// Largest of a round.
    pub max: f64,
}

/// A goal that gave no figure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Skipped {
    /// Its number.
    pub goal: u32,
    /// What would have been measured.
    pub name: String,
    /// Why it was not.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_at_the_ratio_itself_passes_both_ways() {
        assert!(Direction::Higher.reaches(1.0, 1.0));
        assert!(Direction::Lower.reaches(1.0, 1.0));
        assert!(!Direction::Higher.reaches(0.99, 1.0));
        assert!(!Direction::Lower.reaches(1.01, 1.0));
    }

    #[test]
    fn not_a_number_reaches_nothing() {
        assert!(!Direction::Higher.reaches(f64::NAN, 0.0));
        assert!(!Direction::Lower.reaches(f64::NAN, 1.0));
    }

    #[test]
    fn every_aim_is_at_least_as_hard_as_its_gate() {
        for spec in GOALS {
            assert!(
                spec.direction.reaches(spec.aim, spec.gate),
                "goal {}",
                spec.goal
            );
        }
    }

    #[test]
    fn numbers_are_unique_and_every_suite_has_goals() {
        let mut numbers: Vec<u32> = GOALS.iter().map(|spec| spec.goal).collect();
        numbers.dedup();
        assert_eq!(numbers.len(), GOALS.len());
        assert!(numbers.is_sorted());
        for suite in Suite::ALL {
            assert!(GOALS.iter().any(|spec| spec.suite == suite), "{suite:?}");
            assert_eq!(Suite::parse(suite.word()), Some(vec![suite]));
        }
        assert_eq!(Suite::parse("all").map(|all| all.len()), Some(7));
        assert_eq!(Suite::parse("latencies"), None);
    }
}
