//! The steps of the pipeline, in order, and the table at its end.

use crate::book;
use crate::ended::Ended;
use crate::evidence;
use crate::fuzz;
use crate::lab;
use crate::process;
use crate::process::Echo;
use crate::tally::Tally;
use crate::workspace;
use crate::workspace::cargo;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;

/// Limit of a step that only compiles or runs tests. The whole pipeline takes
/// less than half of this on two cores.
pub(crate) const LIMIT: Duration = Duration::from_secs(25 * 60);
/// Below this many MiB, the disk may be why a step failed.
const DISK_LOW: u64 = 2048;
/// Limit of one example.
const EXAMPLE_LIMIT: Duration = Duration::from_secs(60);
/// The exit code with which our programs say that the host lacks something.
const HOST_LACKS: i32 = 4;

/// What the step `test` tests: all but real guests, which have a step of their own.
pub(crate) const TESTED: [&str; 3] = ["--workspace", "--exclude", "petri_tests"];

struct Step {
    name: &'static str,
    what: &'static str,
    run: fn(&mut Tally) -> anyhow::Result<Ended>,
}

const STEPS: &[Step] = &[
    Step {
        name: "fmt",
        what: "source is formatted",
        run: |_| plain(&mut cargo(["fmt", "--all", "--check"])),
    },
    Step {
        name: "clippy",
        what: "no lint fires",
        run: |_| {
            plain(&mut cargo([
                "clippy",
                "--workspace",
                "--all-targets",
                "--locked",
                "--",
                "-D",
                "warnings",
            ]))
        },
    },
    Step {
        name: "build",
        what: "release build",
        run: |_| {
            plain(&mut cargo([
                "build",
                "--workspace",
                "--release",
                "--locked",
            ]))
        },
    },
    Step {
        name: "test",
        what: "tests of every crate",
        run: |tally| {
            let mut test = cargo(["test", "--locked", "--no-fail-fast"]);
            tests(tally, test.args(TESTED))
        },
    },
    Step {
        name: "lab",
        what: "real guests, with every VMM",
        run: lab::step,
    },
    Step {
        name: "examples",
        what: "each example builds and runs",
        run: examples,
    },
    Step {
        name: "loom",
        what: "models of rings and arena",
        run: loom,
    },
    Step {
        name: "evidence",
        what: "hostility harnesses, short form",
        run: short_evidence,
    },
    Step {
        name: "fuzz",
        what: "each fuzz target for a short while",
        run: |_| fuzz::run(),
    },
    Step {
        name: "doc",
        what: "API documentation",
        run: |_| {
            let mut doc = cargo(["doc", "--workspace", "--no-deps", "--locked"]);
            plain(doc.env("RUSTDOCFLAGS", "-D warnings"))
        },
    },
    Step {
        name: "book",
        what: "the Guide's pages and links",
        run: |_| book::check(),
    },
];

/// The names of all steps, in order.
pub(crate) fn names() -> Vec<&'static str> {
    STEPS.iter().map(|s| s.name).collect()
}

/// Runs all steps, or those named in `only`; prints the table and, last, the
/// number of tests that passed and failed. Returns whether everything passed.
///
/// # Errors
/// When a step cannot be carried out at all.
pub(crate) fn run(only: &[String]) -> anyhow::Result<bool> {
    let mut tally = Tally::default();
    let mut rows = Vec::new();
    let mut failure = None;
    let all = Instant::now();
    for step in STEPS {
        let wanted = only.is_empty() || only.iter().any(|o| o == step.name);
        if !wanted {
            continue;
        }
        if failure.is_some() {
            rows.push((step, "not run".to_owned(), Duration::ZERO));
            continue;
        }
        println!("\n==> {}: {}", step.name, step.what);
        let started = Instant::now();
        // A step that could not be carried out is a failure of that step, and the
        // table still says what went before.
        let ended = (step.run)(&mut tally).unwrap_or_else(|e| Ended::Failed(format!("{e:#}")));
        let result = match ended {
            Ended::Passed => "passed".to_owned(),
            Ended::Skipped(why) => format!("skipped: {why}"),
            Ended::Failed(why) => {
                failure = Some(format!("{}: {why}", step.name));
                "FAILED".to_owned()
            }
        };
        rows.push((step, result, started.elapsed()));
    }
    println!();
    for (step, result, took) in &rows {
        println!("{:<10} {:>6.1} s  {result}", step.name, took.as_secs_f64());
    }
    println!("{:<10} {:>6.1} s", "all", all.elapsed().as_secs_f64());
    if let Some(why) = &failure {
        println!("\nfailed at {why}");
        if let Some(left) = workspace::disk_left().filter(|left| *left < DISK_LOW) {
            println!("the disk of the target folder has {left} MiB left: make room and run again");
        }
        tally.at_least_one_failure();
    }
    println!("\n{tally}");
    Ok(failure.is_none() && tally.failed == 0)
}

fn plain(command: &mut Command) -> anyhow::Result<Ended> {
    println!("    {}", process::shown(command));
    let outcome = process::run(command, LIMIT, Echo::Yes)?;
    Ok(ended(command, &outcome, LIMIT))
}

fn ended(command: &Command, outcome: &process::Outcome, limit: Duration) -> Ended {
    let command = process::shown(command);
    if outcome.timed_out {
        Ended::Failed(format!("`{command}` ran longer than {} s", limit.as_secs()))
    } else if outcome.ok() {
        Ended::Passed
    } else {
        Ended::Failed(format!("`{command}` ({})", outcome.status))
    }
}

fn tests(tally: &mut Tally, command: &mut Command) -> anyhow::Result<Ended> {
    println!("    {}", process::shown(command));
    let outcome = process::run(command, LIMIT, Echo::Yes)?;
    tally.add_output(&outcome.stdout);
    Ok(ended(command, &outcome, LIMIT))
}

fn examples(tally: &mut Tally) -> anyhow::Result<Ended> {
    let mut names: Vec<String> = workspace::packages()?
        .into_iter()
        .flat_map(|p| p.targets)
        .filter(|t| t.is("example"))
        .map(|t| t.name)
        .collect();
    names.sort();
    if names.is_empty() {
        return Ok(Ended::Failed("the workspace has no example".to_owned()));
    }
    let built = plain(&mut cargo([
        "build",
        "--workspace",
        "--examples",
        "--release",
        "--locked",
    ]))?;
    if !matches!(built, Ended::Passed) {
        return Ok(built);
    }
    let folder = workspace::target_folder()?.join("release/examples");
    let mut skipped = Vec::new();
    for name in names {
        let mut command = Command::new(folder.join(&name));
        command.current_dir(workspace::root());
        println!("    {}", process::shown(&command));
        let outcome = process::run(&mut command, EXAMPLE_LIMIT, Echo::Yes)?;
        if outcome.status.code() == Some(HOST_LACKS) && !outcome.timed_out {
            skipped.push(name);
            continue;
        }
        tally.add(outcome.ok());
        if let failed @ Ended::Failed(_) = ended(&command, &outcome, EXAMPLE_LIMIT) {
            return Ok(failed);
        }
    }
    Ok(match skipped.is_empty() {
        true => Ended::Passed,
        false => Ended::Skipped(format!("this host cannot run {}", skipped.join(", "))),
    })
}

/// What the cargo features begin with that take a guard out of a model.
const LOOM_CONTROL: &str = "negative_control_loom";

fn loom(tally: &mut Tally) -> anyhow::Result<Ended> {
    let mut found = false;
    for package in workspace::packages()? {
        let is_model = |t: &&workspace::Target| t.is("test") && t.name.starts_with("loom");
        for model in package.targets.iter().filter(is_model) {
            found = true;
            let mut command = cargo(["test", "--release", "--locked"]);
            command.args(["--package", &package.name, "--test", &model.name]);
            if !model.required_features.is_empty() {
                command.args(["--features", &model.required_features.join(",")]);
            }
            if let failed @ Ended::Failed(_) = tests(tally, &mut command)? {
                return Ok(failed);
            }
            // A model that cannot fail shows nothing: once more with each guard
            // taken out that the crate has a feature for.
            let guards = package.features.keys();
            for guard in guards.filter(|f| f.starts_with(LOOM_CONTROL)) {
                let mut command = cargo(["test", "--release", "--locked"]);
                command
                    .args(["--package", &package.name, "--test", &model.name])
                    .args(["--features", &format!("loom,{guard}"), "control_"]);
                if let failed @ Ended::Failed(_) = tests(tally, &mut command)? {
                    return Ok(failed);
                }
            }
        }
    }
    Ok(match found {
        true => Ended::Passed,
        false => Ended::Skipped("no loom models yet".to_owned()),
    })
}

fn short_evidence(tally: &mut Tally) -> anyhow::Result<Ended> {
    // Not the committed page: that one comes from a run that somebody looked at.
    let page = workspace::target_folder()?.join("evidence.md");
    let output = evidence::Output {
        json: false,
        page: Some(page),
    };
    let (held, broken) = evidence::run(false, 1, &output)?;
    tally.passed += held as u64;
    tally.failed += broken as u64;
    Ok(match broken {
        0 => Ended::Passed,
        n => Ended::Failed(format!("`cargo flowey evidence`: {n} rows are broken")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn step_names_are_unique() {
        let mut all = names();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), STEPS.len());
    }

    #[test]
    fn a_failed_command_is_named() {
        let Ended::Failed(why) = plain(Command::new("sh").args(["-c", "exit 7"])).unwrap() else {
            panic!("exit 7 passed");
        };
        assert!(why.contains("sh -c 'exit 7'") && why.contains('7'), "{why}");
    }
}
