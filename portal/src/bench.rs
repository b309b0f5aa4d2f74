//! `portal bench`: the benchmarks of `portal_bench`, from the command line.

use crate::cli;
use crate::exit::Failure;
use crate::exit::Kind;
use crate::exit::Outcome;
use crate::print;
use portal_bench::BenchError;
use portal_bench::BenchOptions;
use portal_bench::GOALS;
use portal_bench::Progress;
use portal_bench::Report;
use portal_bench::Suite;

/// Measures and prints.
///
/// # Errors
/// [`Kind::Usage`] for a goal that does not exist, [`Kind::Host`] for a host on
/// which nothing can be measured, [`Kind::Failed`] when a gate is missed.
pub(crate) fn run(args: &cli::Bench) -> Outcome {
    let known = |number: &u32| GOALS.iter().any(|goal| goal.goal == *number);
    if let Some(unknown) = args.goals.iter().find(|n| !known(n)) {
        let numbers: Vec<String> = GOALS.iter().map(|g| g.goal.to_string()).collect();
        let failure = Failure::new(Kind::Usage, format!("there is no goal {unknown}"));
        return Err(failure.hint(format!("goals: {}", numbers.join(", "))));
    }
    let suites = args.suites.iter().filter_map(|word| Suite::parse(word));
    let options = BenchOptions {
        suites: suites.flatten().collect(),
        goals: args.goals.clone(),
        rounds: args.rounds,
        cores: args.cores,
        progress: tell,
    };
    let report = portal_bench::run(&options).map_err(|e| failure(&e))?;
    show(&report, args)?;
    if report.passed() {
        return Ok(());
    }
    Err(Failure::new(
        Kind::Failed,
        "not every goal that was asked for reached its gate",
    ))
}

fn failure(error: &BenchError) -> Failure {
    Failure::new(Kind::Host, error).hint("see what this host has: portal doctor")
}

fn show(report: &Report, args: &cli::Bench) -> Outcome {
    if args.markdown {
        print::line(report.markdown().trim_end());
        return Ok(());
    }
    if !args.json {
        print::line(report.table());
        return Ok(());
    }
    let lines = report
        .json_lines()
        .map_err(|e| Failure::new(Kind::Failed, e))?;
    print::line(lines.trim_end());
    Ok(())
}

/// Progress goes to standard error, so that the report can be redirected.
fn tell(progress: Progress<'_>) {
    match progress {
        Progress::Begun(goal) => eprint!("{:>4} {} ... ", goal.goal, goal.name),
        Progress::Measured(goal) => eprintln!("{:.3}", goal.ratio),
        Progress::Skipped(skipped) => eprintln!("skipped: {}", skipped.reason),
    }
}
