//! One function a goal: who competes with whom.

#[cfg(feature = "peers")]
mod arena;
pub(crate) mod attach;
mod observed;
mod partition;
mod place;
pub(crate) mod process;
mod rig;
mod shared;
mod span;
mod stream;
mod trip;
mod waiting;

use crate::BenchError;
use crate::goal::Goal;
use crate::goal::GoalSpec;
use crate::goal::Observation;
use crate::harness::contest;
use crate::harness::contest::Against;
use crate::harness::contest::Contender;
use crate::harness::contest::Held;
use crate::harness::pair::Pair;

/// What all goals of a run share.
#[derive(Debug)]
pub(crate) struct Bench {
    pair: Pair,
    rounds: u32,
}

/// The outcome of one goal.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) goal: Goal,
    pub(crate) observations: Vec<Observation>,
}

impl Bench {
    /// On these two cores, with so many rounds a goal.
    pub(crate) fn new(cores: [usize; 2], rounds: u32) -> Self {
        Self {
            pair: Pair { cores },
            rounds,
        }
    }

    /// Measures one goal.
    pub(crate) fn measure(&mut self, spec: &GoalSpec) -> Result<Measured, BenchError> {
        match spec.goal {
            1 => stream::one_by_one::<u64>(self, spec),
            2 => stream::one_by_one::<[u64; 8]>(self, spec),
            3 => stream::batches(self, spec),
            4 => stream::bandwidth(self, spec),
            5 => trip::inline(self, spec),
            6 => trip::in_place(self, spec),
            7 => partition::round_trip(self, spec),
            8 => stream::many_producers(self, spec),
            9 => waiting::saturated(self, spec),
            10 => waiting::poll_then_block(self, spec),
            11 => waiting::blocking(self, spec),
            14 => span::handover(self, spec),
            #[cfg(feature = "peers")]
            15 => arena::same_core(self, spec),
            #[cfg(feature = "peers")]
            16 => arena::across(self, spec),
            #[cfg(not(feature = "peers"))]
            15 | 16 => Err(needs_peers(spec)),
            17 => trip::one_way(self, spec),
            18 => trip::against_socket(self, spec),
            101 => partition::bulk(self, spec),
            102 => partition::start(self, spec),
            103 => partition::memory(self, spec),
            104 => partition::crowd(self, spec),
            105 => partition::exits(self, spec),
            106 => attach::time(self, spec),
            107 => attach::growth(self, spec),
            108 => attach::memory(self, spec),
            109 => observed::stream(self, spec),
            number => Err(BenchError::Unavailable(format!(
                "goal {number} has no benchmark"
            ))),
        }
    }

    /// Holds the contest; judges the first contender, and reports those from
    /// `extra` on beside it.
    fn contest(
        &self,
        spec: &GoalSpec,
        against: Against,
        extra: usize,
        mut contenders: Vec<Contender<'_>>,
    ) -> Result<Measured, BenchError> {
        let held = contest::hold(&self.pair, self.rounds, &mut contenders)?;
        Self::judged(held, spec, against, extra)
    }

    /// The same where a sample takes long and says nothing of two cores: the
    /// fewest rounds, and no calibration.
    fn few(
        &self,
        spec: &GoalSpec,
        against: Against,
        extra: usize,
        mut contenders: Vec<Contender<'_>>,
    ) -> Result<Measured, BenchError> {
        let rounds = self.rounds.min(contest::FEWEST_ROUNDS);
        let held = contest::hold_anywhere(rounds, &mut contenders)?;
        Self::judged(held, spec, against, extra)
    }

    fn judged(
        held: Held,
        spec: &GoalSpec,
        against: Against,
        extra: usize,
    ) -> Result<Measured, BenchError> {
        let goal = held.judge(spec, against)?;
        let mut observations = held.observe(spec.goal, extra, spec.unit);
        observations.extend(held.c2(spec.goal));
        Ok(Measured { goal, observations })
    }
}

/// What a goal says whose baseline is another library, in a build without it.
#[cfg(not(feature = "peers"))]
fn needs_peers(spec: &GoalSpec) -> BenchError {
    BenchError::Unavailable(format!(
        "its baseline ({}) is only in builds with `--features peers`",
        spec.baseline
    ))
}
