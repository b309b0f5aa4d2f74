//! Measures goals by number, or whole suites: `goals [SUITE|NUMBER]... [rounds=N]
//! [--json|--markdown|--report]`. With names of files that `--report` wrote, shows
//! these together instead of measuring.

use portal_bench::BenchOptions;
use portal_bench::Progress;
use portal_bench::Report;
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
    let mut earlier: Vec<Report> = Vec::new();
    for word in std::env::args().skip(1) {
        if word.starts_with("--") {
            form = word;
        } else if let Some(rounds) = word.strip_prefix("rounds=").map(str::parse) {
            options.rounds = rounds.unwrap_or(portal_bench::DEFAULT_ROUNDS);
        } else if word.ends_with(".json") {
            let text = std::fs::read_to_string(&word).map_err(|e| e.to_string());
            match text.and_then(|it| serde_json::from_str(&it).map_err(|e| e.to_string())) {
                Ok(report) => earlier.push(report),
                Err(error) => {
                    eprintln!("{word}: {error}");
                    return ExitCode::FAILURE;
                }
            }
        } else if let Ok(goal) = word.parse() {
            options.goals.push(goal);
        } else if let Some(suites) = Suite::parse(&word) {
            options.suites.extend(suites);
        } else {
            eprintln!("{word}: no suite and no number of a goal");
            return ExitCode::FAILURE;
        }
    }
    let together = earlier.into_iter().reduce(|mut all, more| {
        all.goals.extend(more.goals);
        all.observations.extend(more.observations);
        all.skipped.extend(more.skipped);
        all.goals.sort_by_key(|goal| goal.goal);
        all.observations.sort_by_key(|seen| seen.goal);
        all
    });
    match together.map_or_else(|| portal_bench::run(&options), Ok) {
        Ok(report) => {
            let text = match form.as_str() {
                "--json" => report.json_lines().unwrap_or_default(),
                "--markdown" => report.markdown(),
                "--report" => serde_json::to_string_pretty(&report).unwrap_or_default(),
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
