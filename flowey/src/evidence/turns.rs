//! Running all harnesses, as many at once as there are cores.

use super::harness;
use super::harness::Harness;
use super::threats::THREATS;
use std::collections::BTreeSet;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

/// Limit of one harness in the short form.
const SHORT_LIMIT: Duration = Duration::from_secs(120);
/// Limit of one harness in the full form.
const FULL_LIMIT: Duration = Duration::from_secs(4 * 60 * 60);

/// What is left to run, by its place in the list, and the threats that are running.
struct Left {
    queue: Vec<usize>,
    running: BTreeSet<u8>,
}

/// Runs all harnesses, as many at once as there are cores; never two of one threat,
/// which may be about the same thing of this host. Returns what came of each, in
/// their order.
///
/// # Errors
/// When one cannot be started, or flowey was interrupted; no other is started then.
pub(super) fn run_all(
    harnesses: &[Harness],
    full: bool,
    seed: u64,
) -> anyhow::Result<Vec<harness::Ran>> {
    let left = Mutex::new(Left {
        queue: (0..harnesses.len()).collect(),
        running: BTreeSet::new(),
    });
    let ended = Condvar::new();
    let run_some = || -> anyhow::Result<Vec<(usize, harness::Ran)>> {
        let mut ran = Vec::new();
        loop {
            let mut state = left.lock().unwrap_or_else(PoisonError::into_inner);
            let index = loop {
                let is_free = |i: &usize| !state.running.contains(&harnesses[*i].threat);
                match state.queue.iter().position(is_free) {
                    Some(at) => break state.queue.remove(at),
                    None if state.queue.is_empty() => return Ok(ran),
                    None => state = ended.wait(state).unwrap_or_else(PoisonError::into_inner),
                }
            };
            let harness = &harnesses[index];
            state.running.insert(harness.threat);
            drop(state);
            let result = run_one(harness, full, seed);
            let mut state = left.lock().unwrap_or_else(PoisonError::into_inner);
            state.running.remove(&harness.threat);
            if result.is_err() {
                state.queue.clear();
            }
            drop(state);
            ended.notify_all();
            ran.push((index, result?));
        }
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let ran = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(run_some)).collect();
        let joined = workers.into_iter().map(|w| w.join());
        let joined = joined.map(|r| r.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        joined.collect::<anyhow::Result<Vec<_>>>()
    });
    let mut ran = ran?.into_iter().flatten().collect::<Vec<_>>();
    ran.sort_by_key(|(index, _)| *index);
    Ok(ran.into_iter().map(|(_, ran)| ran).collect())
}

fn run_one(harness: &Harness, full: bool, seed: u64) -> anyhow::Result<harness::Ran> {
    let Some(threat) = THREATS.iter().find(|t| t.number == harness.threat) else {
        anyhow::bail!("{}: there is no threat T{}", harness.test, harness.threat);
    };
    let limit = if full { FULL_LIMIT } else { SHORT_LIMIT };
    // A control only has to show that the harness can fail.
    let cases = if full && !harness.control {
        threat.full
    } else {
        threat.short
    };
    let ran = harness::run(harness, cases, seed, full, limit)?;
    let seconds = ran.took.as_secs_f64();
    eprintln!("{:>4} {:>6.1} s  {}", threat.id(), seconds, harness.test);
    Ok(ran)
}
