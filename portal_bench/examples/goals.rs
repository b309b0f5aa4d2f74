//! Measures goals by number, or whole suites: `goals [SUITE|NUMBER]... [rounds=N]
//! [--json|--markdown]`.

use portal_bench::BenchOptions;
use portal_bench::Progress;
use portal_bench::Suite;
use std::process::ExitCode;

fn main() -> ExitCode {
    if portal_bench::serve_if_child() {
        return ExitCode::SUCCESS;
    }
    let mut options = BenchOptions {
        progress: |progress| {
            if let Progress::Begun(spec) = progress {
                eprintln!("goal {}: {} ...", spec.goal, spec.name);
            }
        },
        ..Default::default()
    };
    let mut form = String::new();
    for word in std::env::args().skip(1) {
        if word.starts_with("--") {
            form = word;
        } else if let Some(rounds) = word.strip_prefix("rounds=").map(str::parse) {
            options.rounds = rounds.unwrap_or(portal_bench::DEFAULT_ROUNDS);
        } else if let Ok(goal) = word.parse() {
            options.goals.push(goal);
        } else if let Some(suites) = Suite::parse(&word) {
            options.suites.extend(suites);
        } else {
            eprintln!("{word}: no suite and no number of a goal");
            return ExitCode::FAILURE;
        }
    }
    match portal_bench::run(&options) {
        Ok(report) => {
            let text = match form.as_str() {
                "--json" => report.json_lines().unwrap_or_default(),
                "--markdown" => report.markdown(),
                _ => report.table(),
            };
            print!("{text}");
            ExitCode::from(u8::from(!report.passed()))
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
