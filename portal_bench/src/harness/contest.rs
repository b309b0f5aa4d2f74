//! Rounds: calibrate, sample, calibrate, sample ... and keep what was steady.
//!
//! A round samples every contender once, with a calibration before the first,
//! between any two and after the last. The order turns round with every round,
//! so that a drift favours nobody. The round counts only when the calibrations
//! on both sides of every sample agree.

use super::calibrate;
use super::clock;
use super::machine;
use super::pair::Pair;
use super::stats;
pub(crate) use super::stats::FEWEST_ROUNDS;
use super::stats::Placement;
use super::stats::Spread;
use crate::BenchError;
use crate::Goal;
use crate::goal::GoalSpec;
use crate::goal::Latency;
use crate::goal::Observation;
use hdrhistogram::Histogram;
use std::time::Duration;
use std::time::Instant;

/// Longest that one contest may take, so that a run of all goals ends.
const LONGEST: Duration = Duration::from_secs(14);

/// With enough rounds on two near cores: how long to wait for the host to move
/// them apart, from the beginning of the contest.
const WAIT_FOR_APART: Duration = Duration::from_secs(7);

/// Sleep between two looks at where the cores are. An idle vCPU is moved more
/// readily than a busy one.
const LOOK_AGAIN: Duration = Duration::from_millis(15);

/// Involuntary context switches of a sample's threads from which on it does not
/// count: something else wanted the cores. A quiet machine gives up
/// to five in the 10 to 50 ms that a sample takes.
/// Samples that take longer than as many milliseconds may have one for each.
const DISTURBED: u64 = 16;

/// Rounds of the placement that is not judged from which on their median is told
/// beside it.
const WORTH_SAYING: u32 = 5;

/// How a contest ends.
#[derive(Debug, Clone, Copy)]
struct Ends {
    wait_for_apart: Duration,
    longest: Duration,
}

/// One figure of one contender.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    /// In the goal's unit.
    pub(crate) value: f64,
    /// Involuntary context switches of its threads.
    pub(crate) preempted: u64,
    /// Single round trips in ticks, where it has them.
    pub(crate) singles: Option<Histogram<u64>>,
}

impl Sample {
    /// A figure without a distribution.
    pub(crate) fn of(value: f64, preempted: u64) -> Self {
        Self {
            value,
            preempted,
            singles: None,
        }
    }

    /// Round trips that were timed one by one, in ticks: the mean of the shorter
    /// nine tenths. (Some counters go in steps of ten nanoseconds; a median
    /// would too.)
    pub(crate) fn one_by_one(singles: Histogram<u64>, preempted: u64) -> Self {
        let most = singles.value_at_quantile(0.9);
        let (mut count, mut sum) = (0, 0.0);
        for step in singles.iter_recorded() {
            if step.value_iterated_to() <= most {
                count += step.count_at_value();
                sum += step.value_iterated_to() as f64 * step.count_at_value() as f64;
            }
        }
        let mean = if count == 0 { 0.0 } else { sum / count as f64 };
        Self {
            value: mean / clock::ticks_per_ns(),
            preempted,
            singles: Some(singles),
        }
    }

    /// The median of timed round trips, with their distribution.
    pub(crate) fn trips(trips: super::rtt::Trips, preempted: u64) -> Self {
        Self {
            value: trips.ns,
            preempted,
            singles: Some(trips.singles),
        }
    }
}

/// Something that is measured beside others. The first of a contest is
/// Portal's own.
pub(crate) struct Contender<'a> {
    name: String,
    run: Box<dyn FnMut() -> Result<Sample, BenchError> + 'a>,
}

impl<'a> Contender<'a> {
    /// `run` takes one sample each time it is called.
    pub(crate) fn new(
        name: impl Into<String>,
        run: impl FnMut() -> Result<Sample, BenchError> + 'a,
    ) -> Self {
        Self {
            name: name.into(),
            run: Box::new(run),
        }
    }

    /// Takes one sample.
    pub(crate) fn sample(&mut self) -> Result<Sample, BenchError> {
        (self.run)()
    }
}

/// What Portal's figure is divided by.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Against {
    /// The contender with this index.
    Contender(usize),
    /// The mean of the two calibrations around Portal's sample.
    C2,
    /// A fixed limit, in the goal's unit.
    Limit(f64),
}

#[derive(Debug, Clone)]
struct Round {
    placement: Placement,
    /// One a contender.
    values: Vec<f64>,
    /// Mean calibration around each contender's sample, nanoseconds.
    c2: Vec<f64>,
}

/// The rounds of one contest.
#[derive(Debug)]
pub(crate) struct Held {
    names: Vec<String>,
    rounds: Vec<Round>,
    singles: Vec<Option<Histogram<u64>>>,
    calibrations: Vec<f64>,
    calibrated: bool,
    dropped: u32,
    preempted: u64,
    stolen_ms: u64,
}

/// Holds `rounds` steady rounds (fewer when the machine does not sit still).
pub(crate) fn hold(
    pair: &Pair,
    rounds: u32,
    contenders: &mut [Contender<'_>],
) -> Result<Held, BenchError> {
    let ends = Ends {
        wait_for_apart: WAIT_FOR_APART,
        longest: LONGEST,
    };
    hold_with(|| calibrate::c2(pair), ends, rounds, contenders)
}

/// Holds `rounds` rounds of samples that do not depend on where the cores are:
/// nothing is calibrated, every round counts.
pub(crate) fn hold_anywhere(
    rounds: u32,
    contenders: &mut [Contender<'_>],
) -> Result<Held, BenchError> {
    let ends = Ends {
        wait_for_apart: Duration::ZERO,
        longest: Duration::from_secs(100),
    };
    let mut held = hold_with(|| Ok(f64::INFINITY), ends, rounds, contenders)?;
    held.calibrated = false;
    Ok(held)
}

fn hold_with(
    mut calibrate: impl FnMut() -> Result<f64, BenchError>,
    ends: Ends,
    rounds: u32,
    contenders: &mut [Contender<'_>],
) -> Result<Held, BenchError> {
    let stolen_before = machine::stolen_ms();
    let begun = Instant::now();
    let mut held = Held {
        names: contenders.iter().map(|it| it.name.clone()).collect(),
        rounds: Vec::new(),
        singles: vec![None; contenders.len()],
        calibrations: Vec::new(),
        calibrated: true,
        dropped: 0,
        preempted: 0,
        stolen_ms: 0,
    };
    // One sample each that does not count: first faults, cold predictors.
    for contender in contenders.iter_mut() {
        contender.sample()?;
    }
    let mut attempt = 0;
    while held.count(Placement::Apart) < rounds && begun.elapsed() < ends.longest {
        let mut before = calibrate()?;
        held.calibrations.push(before);
        if held.most() >= rounds {
            if begun.elapsed() >= ends.wait_for_apart {
                break;
            }
            if stats::judge(before, before) != Some(Placement::Apart) {
                std::thread::sleep(LOOK_AGAIN);
                continue;
            }
        }
        attempt += 1;
        let mut order: Vec<usize> = (0..contenders.len()).collect();
        if attempt % 2 == 0 {
            order.reverse();
        }
        let mut round = Round {
            placement: Placement::Apart,
            values: vec![0.0; contenders.len()],
            c2: vec![0.0; contenders.len()],
        };
        let mut singles = Vec::new();
        let mut placements = Vec::new();
        for index in order {
            let sampled = Instant::now();
            let sample = contenders[index].sample()?;
            let allowed = u64::try_from(sampled.elapsed().as_millis()).unwrap_or(u64::MAX);
            let after = calibrate()?;
            held.calibrations.push(after);
            let quiet = sample.preempted < allowed.max(DISTURBED);
            placements.push(stats::judge(before, after).filter(|_| quiet));
            held.preempted += sample.preempted;
            round.values[index] = sample.value;
            round.c2[index] = f64::midpoint(before, after);
            singles.push((index, sample.singles));
            before = after;
        }
        // All samples of a round count, in the same placement, or none does.
        let first = placements.first().copied().flatten();
        match first {
            Some(placement) if placements.iter().all(|it| *it == first) => {
                round.placement = placement;
                held.rounds.push(round);
            }
            _ => {
                held.dropped += 1;
                continue;
            }
        }
        for (index, sampled) in singles {
            merge(&mut held.singles[index], sampled);
        }
    }
    held.stolen_ms = machine::stolen_ms().saturating_sub(stolen_before);
    Ok(held)
}

fn merge(all: &mut Option<Histogram<u64>>, sampled: Option<Histogram<u64>>) {
    match (all.as_mut(), sampled) {
        // Same bounds and digits everywhere (`rtt::empty`): cannot fail.
        (Some(all), Some(sampled)) => all.add(sampled).unwrap_or(()),
        (None, sampled) => *all = sampled,
        (Some(_), None) => {}
    }
}

impl Held {
    /// Steady rounds of the placement that has most of them.
    fn most(&self) -> u32 {
        let apart = self.count(Placement::Apart);
        apart.max(self.rounds.len() as u32 - apart)
    }

    fn count(&self, placement: Placement) -> u32 {
        self.of(placement).count() as u32
    }

    fn of(&self, placement: Placement) -> impl Iterator<Item = &Round> + Clone {
        let rounds = self.rounds.iter();
        rounds.filter(move |round| round.placement == placement)
    }

    /// The placement that is judged: apart when enough rounds were, or when
    /// that is more than near.
    fn placement(&self) -> Placement {
        let apart = self.count(Placement::Apart);
        if apart >= stats::FEWEST_ROUNDS || apart == self.most() {
            Placement::Apart
        } else {
            Placement::Near
        }
    }

    /// Ratio, figure and baseline of the first contender in the rounds of this
    /// placement; `None` when there are none.
    fn spreads(&self, placement: Placement, against: Against) -> Option<(Spread, Spread, Spread)> {
        let kept = self.of(placement);
        let baselines = kept.clone().map(|round| match against {
            Against::Contender(index) => round.values[index],
            Against::C2 => round.c2[0],
            Against::Limit(limit) => limit,
        });
        let ratios = kept.clone().zip(baselines.clone());
        let ratios = ratios.map(|(round, baseline)| round.values[0] / baseline);
        let values = kept.clone().map(|round| round.values[0]);
        Some((
            Spread::of(ratios)?,
            Spread::of(values)?,
            Spread::of(baselines)?,
        ))
    }

    /// Judges the first contender's figures against a baseline of the same
    /// rounds.
    pub(crate) fn judge(&self, spec: &GoalSpec, against: Against) -> Result<Goal, BenchError> {
        let placement = self.placement();
        let Some((ratio, value, baseline)) = self.spreads(placement, against) else {
            let seen = Spread::of(self.calibrations.iter().copied());
            let (min, median, max) = seen.map_or((0.0, 0.0, 0.0), |it| (it.min, it.median, it.max));
            return Err(BenchError::Unavailable(format!(
                "none of {} rounds was steady: C2 was {min:.0} .. {max:.0} ns, median {median:.0}; it \
                 has to stay within a factor of {} and above {} ns (below, the two cores are one \
                 physical core)",
                self.dropped,
                stats::STEADY_FACTOR,
                stats::ONE_CORE_C2_NS,
            )));
        };
        let rounds = self.count(placement);
        let enough = rounds >= stats::FEWEST_ROUNDS;
        let mut notes = Vec::new();
        if !enough {
            notes.push(format!(
                "{rounds} rounds; {} are needed to judge",
                stats::FEWEST_ROUNDS
            ));
        }
        let other = placement.other();
        let others = self.count(other);
        if let Some((ratio, ..)) = self
            .spreads(other, against)
            .filter(|_| others >= WORTH_SAYING)
        {
            notes.push(format!(
                "{} in {others} rounds with the cores {}",
                crate::report::figure(ratio.median),
                other.word()
            ));
        }
        Ok(Goal {
            goal: spec.goal,
            name: spec.name.into(),
            baseline: baseline.median,
            value: value.median,
            unit: spec.unit.into(),
            ratio: ratio.median,
            gate: spec.gate,
            aim: spec.aim,
            rounds,
            min: ratio.min,
            max: ratio.max,
            passed: enough && spec.direction.reaches(ratio.median, spec.gate),
            reached_aim: enough && spec.direction.reaches(ratio.median, spec.aim),
            better: spec.direction,
            baseline_name: spec.baseline.into(),
            placement: match self.calibrated {
                true => placement,
                false => Placement::Anywhere,
            },
            dropped: self.dropped + self.rounds.len() as u32 - rounds,
            preempted: self.preempted,
            stolen_ms: self.stolen_ms,
            latency: self.singles.first().and_then(|it| it.as_ref().map(latency)),
            notes,
        })
    }

    /// The figures of the contenders that no goal names, from `first` on.
    pub(crate) fn observe(&self, goal: u32, first: usize, unit: &str) -> Vec<Observation> {
        let named = self.names.iter().enumerate().skip(first);
        let kept = self.of(self.placement());
        named
            .filter_map(|(index, name)| {
                let spread = Spread::of(kept.clone().map(|round| round.values[index]))?;
                Some(Observation {
                    goal,
                    name: name.clone(),
                    value: spread.median,
                    unit: unit.into(),
                    min: spread.min,
                    max: spread.max,
                })
            })
            .collect()
    }

    /// The calibrations of the rounds kept, as an observation.
    pub(crate) fn c2(&self, goal: u32) -> Option<Observation> {
        if !self.calibrated {
            return None;
        }
        let spread = Spread::of(
            self.of(self.placement())
                .flat_map(|round| round.c2.iter().copied()),
        )?;
        Some(Observation {
            goal,
            name: "C2".into(),
            value: spread.median,
            unit: "ns".into(),
            min: spread.min,
            max: spread.max,
        })
    }
}

fn latency(ticks: &Histogram<u64>) -> Latency {
    Latency {
        min: clock::to_ns(ticks.min()),
        p50: clock::to_ns(ticks.value_at_quantile(0.5)),
        p99: clock::to_ns(ticks.value_at_quantile(0.99)),
        max: clock::to_ns(ticks.max()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::goal;
    use std::cell::RefCell;

    /// Ends as soon as there are enough rounds of either placement.
    const AT_ONCE: Ends = Ends {
        wait_for_apart: Duration::ZERO,
        longest: Duration::from_millis(200),
    };

    fn spec() -> GoalSpec {
        *goal::find(5).expect("goal 5 exists")
    }

    fn constant<'a>(name: &str, value: f64) -> Contender<'a> {
        Contender::new(name, move || Ok(Sample::of(value, 1)))
    }

    #[test]
    fn unsteady_rounds_are_dropped_and_replaced() {
        let mut calls = 0;
        let calibrate = || {
            calls += 1;
            // The third and fourth calibrations disagree with their neighbours.
            Ok(if calls == 3 { 900.0 } else { 300.0 })
        };
        let mut both = [constant("a", 330.0), constant("b", 660.0)];
        let held = hold_with(calibrate, AT_ONCE, 20, &mut both).expect("held");
        assert_eq!((held.rounds.len(), held.dropped), (20, 1));
        let goal = held.judge(&spec(), Against::C2).expect("judged");
        assert!((goal.ratio - 1.1).abs() < 1e-9 && goal.passed && !goal.reached_aim);
        let other = held.judge(&spec(), Against::Contender(1)).expect("judged");
        assert!((other.ratio - 0.5).abs() < 1e-9 && other.passed && other.reached_aim);
        assert_eq!(held.observe(5, 1, "ns")[0].value, 660.0);
    }

    #[test]
    fn one_by_one_leaves_the_longest_tenth_out() {
        let mut singles = super::super::rtt::empty();
        singles.saturating_record_n(100, 50);
        singles.saturating_record_n(200, 45);
        singles.saturating_record_n(1_000_000, 5);
        let ticks = Sample::one_by_one(singles, 0).value * clock::ticks_per_ns();
        assert!((ticks - 147.4).abs() < 1.0, "{ticks}");
        assert_eq!(Sample::one_by_one(super::super::rtt::empty(), 0).value, 0.0);
    }

    #[test]
    fn too_few_rounds_never_pass() {
        let mut one = [constant("a", 1.0)];
        let held = hold_with(|| Ok(300.0), AT_ONCE, 14, &mut one).expect("held");
        let goal = held.judge(&spec(), Against::C2).expect("judged");
        assert!(!goal.passed && !goal.reached_aim && goal.notes.len() == 1);
    }

    #[test]
    fn a_machine_that_never_sits_still_gives_no_figure() {
        let mut one = [constant("a", 1.0)];
        let held = hold_with(|| Ok(45.0), AT_ONCE, 15, &mut one).expect("held");
        assert!(held.rounds.is_empty() && held.dropped > 15);
        assert!(held.judge(&spec(), Against::C2).is_err());
    }

    /// Near at first, apart once `near` rounds of one contender were taken.
    fn moved_apart_after(near: u32, wait_for_apart: Duration) -> Goal {
        let (mut calls, mut one) = (0, [constant("a", 100.0)]);
        let calibrate = || {
            calls += 1;
            Ok(if calls <= 2 * near { 100.0 } else { 400.0 })
        };
        let ends = Ends {
            wait_for_apart,
            ..AT_ONCE
        };
        let held = hold_with(calibrate, ends, 15, &mut one).expect("held");
        held.judge(&spec(), Against::C2).expect("judged")
    }

    #[test]
    fn near_rounds_are_judged_only_where_there_are_no_others() {
        let goal = moved_apart_after(15, Duration::ZERO);
        assert_eq!((goal.placement, goal.ratio), (Placement::Near, 1.0));
        let goal = moved_apart_after(10, Duration::ZERO);
        assert_eq!((goal.placement, goal.ratio), (Placement::Apart, 0.25));
        assert_eq!((goal.rounds, goal.dropped), (15, 10));
        assert_eq!(goal.notes, ["1.00 in 10 rounds with the cores near"]);
    }

    #[test]
    fn a_contest_waits_for_the_cores_to_move_apart() {
        let goal = moved_apart_after(16, Duration::from_millis(150));
        assert_eq!((goal.placement, goal.rounds), (Placement::Apart, 15));
    }

    #[test]
    fn a_round_with_a_disturbed_sample_is_dropped() {
        let mut taken = 0;
        let mut one = [Contender::new("a", || {
            taken += 1;
            Ok(Sample::of(1.0, if taken == 3 { DISTURBED } else { 0 }))
        })];
        let held = hold_with(|| Ok(300.0), AT_ONCE, 15, &mut one).expect("held");
        assert_eq!((held.rounds.len(), held.dropped), (15, 1));
    }

    #[test]
    fn order_turns_round_every_round() {
        let order = RefCell::new(String::new());
        let run = |letter: char| {
            let order = &order;
            Contender::new(letter, move || {
                order.borrow_mut().push(letter);
                Ok(Sample::of(1.0, 0))
            })
        };
        let mut both = [run('a'), run('b')];
        hold_with(|| Ok(300.0), AT_ONCE, 2, &mut both).expect("held");
        drop(both);
        assert_eq!(order.into_inner(), "ababba");
    }

    #[test]
    fn the_ratio_is_taken_round_by_round() {
        let (mut a, mut b) = (0.0, 0.0);
        let mut both = [
            Contender::new("a", || {
                a += 1.0;
                Ok(Sample::of(2.0 * a, 0))
            }),
            Contender::new("b", || {
                b += 1.0;
                Ok(Sample::of(b, 0))
            }),
        ];
        let held = hold_with(|| Ok(300.0), AT_ONCE, 15, &mut both).expect("held");
        let goal = held.judge(&spec(), Against::Contender(1)).expect("judged");
        assert_eq!((goal.min, goal.ratio, goal.max), (2.0, 2.0, 2.0));
    }
}
