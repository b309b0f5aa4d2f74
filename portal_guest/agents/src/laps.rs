//! Times round trips: one reading of the TSC a round, kept aside and counted into
//! the histogram between batches, so that the rounds follow each other as fast as
//! the two sides can.

use crate::failure::Failure;
use crate::idle::Idle;
use portal_agent_abi::histogram::Histogram;
use portal_warp::time;

/// Rounds before the ones that count.
pub(crate) const WARM_UP: u64 = 1000;
/// Rounds of a batch.
const BATCH: usize = 1024;

/// Runs `round` [`WARM_UP`] times and then `rounds` times, with its number, and
/// records the time from each end to the next. Gives the ticks of all batches.
#[inline(always)]
pub(crate) fn run(
    histogram: &mut Histogram,
    rounds: u32,
    idle: &mut Idle,
    mut round: impl FnMut(u64, &Idle) -> Result<(), Failure>,
) -> Result<u64, Failure> {
    for number in 0..WARM_UP {
        round(number, idle)?;
    }
    histogram.clear();
    let mut ticks: u64 = 0;
    let mut number = WARM_UP;
    let end = WARM_UP + u64::from(rounds);
    let mut ends = [0; BATCH];
    while number < end {
        idle.progress();
        let begin = time::now();
        let mut used = 0;
        for at in &mut ends {
            round(number, idle)?;
            *at = time::now();
            used += 1;
            number += 1;
            if number == end {
                break;
            }
        }
        let mut last = begin;
        for at in ends.iter().take(used) {
            histogram.record(at.wrapping_sub(last));
            last = *at;
        }
        ticks = ticks.wrapping_add(last.wrapping_sub(begin));
    }
    Ok(ticks)
}

/// The serving side: as many rounds, not timed one by one.
#[inline(always)]
pub(crate) fn serve(
    rounds: u32,
    idle: &mut Idle,
    mut round: impl FnMut(&Idle) -> Result<(), Failure>,
) -> Result<u64, Failure> {
    let begin = time::now();
    for number in 0..WARM_UP + u64::from(rounds) {
        round(idle)?;
        if number.is_multiple_of(BATCH as u64) {
            idle.progress();
        }
    }
    Ok(time::now().wrapping_sub(begin))
}

#[cfg(test)]
mod tests {
    use super::*;
    use portal_agent_abi::report::Report;
    use portal_warp::time::Clock;

    #[test]
    fn every_round_after_the_warm_up_is_recorded_once() {
        for rounds in [1, 1023, 1024, 1025, 5000] {
            let mut histogram = Histogram::new();
            let mut idle = Idle::new(Clock::new(1_000_000_000), 60_000_000);
            let mut next = 0;
            let ticks = run(&mut histogram, rounds, &mut idle, |number, _| {
                assert_eq!(number, next);
                next += 1;
                Ok(())
            });
            assert_eq!(next, WARM_UP + u64::from(rounds));
            let mut report = Report::default();
            histogram.summarise(&mut report);
            assert_eq!(report.recorded, rounds.into());
            assert_eq!(report.sum, ticks.unwrap());
        }
    }
}
