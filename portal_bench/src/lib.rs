//! Benchmarks: ratios against baselines of the same run, on machines that will
//! not sit still.
//!
//! [`run`] measures the goals of [`GOALS`] and gives a [`Report`]; the `portal
//! bench` command prints it. The method (calibration, interleaving, gating) is
//! in the `harness` module and in the Guide's benchmark chapter.
//!
//! A program that calls [`run`] calls [`serve_if_child`] first thing in `main`:
//! goals that compare with another process start this same executable again.
//!
//! ```no_run
//! if portal_bench::serve_if_child() {
//!     return;
//! }
//! let options = portal_bench::BenchOptions {
//!     suites: vec![portal_bench::Suite::Throughput],
//!     ..Default::default()
//! };
//! match portal_bench::run(&options) {
//!     Ok(report) => println!("{}", report.table()),
//!     Err(error) => eprintln!("{error}"),
//! }
//! ```
//!
//! Left out: goals 12 and 13, which belong to the VMBus proxy. Nobody is
//! distrusted: both ends of every measurement are ours.

mod base;
mod error;
mod goal;
mod goals;
mod harness;
mod markdown;
mod options;
#[cfg(feature = "peers")]
mod peers;
mod report;

pub use error::BenchError;
pub use goal::Direction;
pub use goal::GOALS;
pub use goal::Goal;
pub use goal::GoalSpec;
pub use goal::Latency;
pub use goal::Observation;
pub use goal::Skipped;
pub use goal::Suite;
pub use goal::find;
pub use harness::child::serve_if_child;
pub use harness::machine::Machine;
pub use harness::stats::Placement;
pub use options::BenchOptions;
pub use options::DEFAULT_ROUNDS;
pub use options::Progress;
pub use report::Report;

use goals::Bench;

/// Measures what `options` select. A goal that cannot be measured here is
/// reported as skipped, with the reason; it does not end the run.
///
/// # Errors
/// [`BenchError::Unavailable`] when this process has fewer than two cores, or
/// not those asked for, or no goal is selected.
pub fn run(options: &BenchOptions) -> Result<Report, BenchError> {
    let usable = harness::machine::cores();
    let cores = match (options.cores, usable.as_slice()) {
        (Some(asked), _) if asked[0] == asked[1] => {
            return Err(BenchError::Unavailable(format!(
                "core {} was given twice; two different cores are needed",
                asked[0]
            )));
        }
        (Some(asked), _) => asked,
        (None, [first, second, ..]) => [*first, *second],
        (None, few) => {
            return Err(BenchError::Unavailable(format!(
                "{} core(s) usable, two are needed (see taskset and the cpuset of this container)",
                few.len()
            )));
        }
    };
    if let Some(missing) = cores.into_iter().find(|core| !usable.contains(core)) {
        return Err(BenchError::Unavailable(format!(
            "core {missing} is not usable by this process; these are: {usable:?}"
        )));
    }
    if options.selected().next().is_none() {
        return Err(BenchError::Unavailable(
            "no goal is in the suites and numbers asked for".into(),
        ));
    }
    let mut bench = Bench::new(cores, options.rounds);
    let mut report = Report {
        machine: Machine::here(),
        goals: Vec::new(),
        observations: Vec::new(),
        skipped: Vec::new(),
    };
    for spec in options.selected() {
        (options.progress)(Progress::Begun(spec));
        match bench.measure(spec) {
            Ok(measured) => {
                (options.progress)(Progress::Measured(&measured.goal));
                report.goals.push(measured.goal);
                report.observations.extend(measured.observations);
            }
            Err(error) => {
                let skipped = Skipped {
                    goal: spec.goal,
                    name: spec.name.into(),
                    reason: error.to_string(),
                };
                (options.progress)(Progress::Skipped(&skipped));
                report.skipped.push(skipped);
            }
        }
    }
    Ok(report)
}
