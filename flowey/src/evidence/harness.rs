//! Building the workspace's tests, finding the harnesses among them, running
//! them one by one.

use super::line;
use super::line::Line;
use super::targets;
use super::threats;
use crate::process;
use crate::process::Echo;
use crate::steps;
use crate::workspace;
use crate::workspace::Package;
use anyhow::Context;
use serde::Deserialize;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;

/// What the cargo features begin with that let a crate's controls take guards out.
const CONTROL_FEATURE: &str = "negative_control";
/// Limit for building all tests once.
const BUILD_LIMIT: Duration = Duration::from_secs(20 * 60);

/// One harness or control that was found.
#[derive(Debug)]
pub(super) struct Harness {
    /// The threat's number.
    pub threat: u8,
    /// Whether a guard is taken out.
    pub control: bool,
    /// The test's path in its executable.
    pub test: String,
    executable: PathBuf,
    package_folder: PathBuf,
}

/// How a harness ended.
pub(super) struct Ran {
    /// The lines it printed.
    pub lines: Vec<Line>,
    /// Whether they count.
    pub verdict: Verdict,
    /// How long it ran.
    pub took: Duration,
}

/// Whether a harness's lines count.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// They do.
    Held,
    /// It did not run here, and why.
    Skipped(String),
    /// It failed, or is no evidence; and why.
    Broken(String),
}

/// Builds the tests and, once more with each control feature, those that have a
/// control of it; returns the harnesses in order of their threats.
///
/// The short form runs what the step `test` has built, unoptimised; the full form
/// optimised builds of the targets that hold harnesses.
///
/// # Errors
/// When something does not build; cargo has said what.
pub(super) fn find(full: bool) -> anyhow::Result<Vec<Harness>> {
    let mut found = Vec::new();
    let packages = workspace::packages()?;
    let args = match full {
        true => in_release(&packages),
        false => steps::TESTED.map(str::to_owned).to_vec(),
    };
    for artifact in build(&args)? {
        found.extend(list(&artifact)?);
    }
    let mut features: Vec<&String> = packages.iter().flat_map(|p| p.features.keys()).collect();
    features.retain(|f| f.starts_with(CONTROL_FEATURE));
    features.sort();
    features.dedup();
    for feature in features {
        let mut args = Vec::new();
        for package in packages.iter().filter(|p| p.features.contains_key(feature)) {
            let targets = targets::with_controls(package, feature);
            if targets.is_empty() {
                eprintln!("{}: no control uses the feature {feature}", package.name);
                continue;
            }
            args.push(format!("--package={}", package.name));
            args.push(format!("--features={}/{feature}", package.name));
            args.extend(targets);
        }
        if args.is_empty() {
            continue;
        }
        for artifact in build(&args)? {
            // Real runs never come from a build in which a guard can be absent.
            for control in list(&artifact)?.into_iter().filter(|h| h.control) {
                let same = |h: &Harness| {
                    h.test == control.test && h.package_folder == control.package_folder
                };
                if !found.iter().any(same) {
                    found.push(control);
                }
            }
        }
    }
    found.sort_by(|a, b| (a.threat, a.control, &a.test).cmp(&(b.threat, b.control, &b.test)));
    Ok(found)
}

fn in_release(packages: &[Package]) -> Vec<String> {
    let mut args = vec!["--release".to_owned()];
    for package in packages {
        let targets = targets::with_harnesses(package);
        if !targets.is_empty() {
            args.push(format!("--package={}", package.name));
            args.extend(targets);
        }
    }
    args
}

/// Runs one harness with `cases` cases.
///
/// # Errors
/// When it cannot be started, or flowey was interrupted.
pub(super) fn run(
    harness: &Harness,
    cases: u64,
    seed: u64,
    full: bool,
    limit: Duration,
) -> anyhow::Result<Ran> {
    let mut command = Command::new(&harness.executable);
    command
        .args(["--exact", &harness.test, "--nocapture", "--test-threads=1"])
        .env("PORTAL_CASES", cases.to_string())
        .env("PORTAL_SEED", seed.to_string())
        .env("CARGO_MANIFEST_DIR", &harness.package_folder)
        .current_dir(&harness.package_folder);
    if full {
        command.arg("--include-ignored");
    }
    let started = Instant::now();
    let outcome = process::run(&mut command, limit, Echo::No)?;
    let took = started.elapsed();
    let lines = line::parse(&outcome.stdout)?;
    let verdict = judge(harness, &outcome, &lines);
    Ok(Ran {
        lines,
        verdict,
        took,
    })
}

fn judge(harness: &Harness, outcome: &process::Outcome, lines: &[Line]) -> Verdict {
    if outcome.timed_out {
        return Verdict::Broken("still running at its deadline".to_owned());
    }
    if !outcome.ok() {
        return Verdict::Broken(format!("{}\n{}", outcome.status, outcome.stdout.trim()));
    }
    if lines.is_empty() {
        if outcome.stdout.contains("1 ignored") {
            return Verdict::Skipped("only in the full form".to_owned());
        }
        // A host that lacks something skips with a line that says what.
        let skipped = outcome.stdout.lines().find(|l| l.contains("skipped"));
        return match skipped {
            Some(why) => Verdict::Skipped(why.trim().to_owned()),
            None => Verdict::Broken("printed no evidence line".to_owned()),
        };
    }
    let broken = lines.iter().find_map(|l| flaw(harness, l));
    broken.map_or(Verdict::Held, Verdict::Broken)
}

/// What keeps this line from being evidence.
fn flaw(harness: &Harness, line: &Line) -> Option<String> {
    let id = format!("T{}", harness.threat);
    if line.threat != id {
        return Some(format!("its line says {}, its name {id}", line.threat));
    }
    if line.control.is_some() != harness.control {
        return Some("name and line disagree on its being a control".to_owned());
    }
    if line.cases == 0 {
        return Some("ran no case".to_owned());
    }
    match (&line.control, line.failures) {
        (None, 0) | (Some(_), 1..) => None,
        (None, n) => Some(format!(
            "{n} failures in {} cases, seed {}",
            line.cases, line.seed
        )),
        (Some(guard), 0) => Some(format!(
            "no failure without \"{guard}\": the harness does not see what it looks for"
        )),
    }
}

struct TestExecutable {
    path: PathBuf,
    package_folder: PathBuf,
}

#[derive(Deserialize)]
struct Message {
    reason: String,
    manifest_path: Option<PathBuf>,
    executable: Option<PathBuf>,
    profile: Option<Profile>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

fn build(args: &[String]) -> anyhow::Result<Vec<TestExecutable>> {
    let mut command = workspace::cargo([
        "test",
        "--locked",
        "--no-run",
        "--message-format=json-render-diagnostics",
    ]);
    command.args(args);
    let outcome = process::run(&mut command, BUILD_LIMIT, Echo::No)?;
    anyhow::ensure!(outcome.ok(), "failed: {}", process::shown(&command));
    let mut built = Vec::new();
    for json in outcome.stdout.lines() {
        let message: Message = serde_json::from_str(json).context("a message of cargo")?;
        let is_test = message.profile.is_some_and(|p| p.test);
        if message.reason != "compiler-artifact" || !is_test {
            continue;
        }
        if let (Some(path), Some(manifest)) = (message.executable, message.manifest_path) {
            let package_folder = manifest.parent().unwrap_or(workspace::root()).to_owned();
            built.push(TestExecutable {
                path,
                package_folder,
            });
        }
    }
    Ok(built)
}

fn list(from: &TestExecutable) -> anyhow::Result<Vec<Harness>> {
    let mut command = Command::new(&from.path);
    command
        .args(["--list", "--format=terse"])
        .current_dir(&from.package_folder);
    let outcome = process::run(&mut command, Duration::from_secs(60), Echo::No)?;
    anyhow::ensure!(outcome.ok(), "failed: {}", process::shown(&command));
    Ok(outcome
        .stdout
        .lines()
        .filter_map(|l| l.strip_suffix(": test"))
        .filter_map(|test| {
            let (threat, control) = threats::of_test(test)?;
            Some(Harness {
                threat,
                control,
                test: test.to_owned(),
                executable: from.path.clone(),
                package_folder: from.package_folder.clone(),
            })
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn harness(control: bool) -> Harness {
        Harness {
            threat: 4,
            control,
            test: "t4_x".to_owned(),
            executable: PathBuf::new(),
            package_folder: PathBuf::new(),
        }
    }

    fn line(control: Option<&str>, cases: u64, failures: u64) -> Line {
        Line {
            threat: "T4".to_owned(),
            what: "w".to_owned(),
            control: control.map(str::to_owned),
            cases,
            failures,
            seed: 1,
        }
    }

    #[test]
    fn a_failure_is_a_flaw_and_a_control_without_one_too() {
        assert_eq!(flaw(&harness(false), &line(None, 9, 0)), None);
        assert_eq!(flaw(&harness(true), &line(Some("crc"), 9, 1)), None);
        assert!(flaw(&harness(false), &line(None, 9, 1)).is_some());
        assert!(flaw(&harness(true), &line(Some("crc"), 9, 0)).is_some());
    }

    #[test]
    fn no_case_a_wrong_threat_and_a_hidden_control_are_flaws() {
        assert!(flaw(&harness(false), &line(None, 0, 0)).is_some());
        assert!(flaw(&harness(false), &line(Some("crc"), 9, 1)).is_some());
        let mut other = line(None, 9, 0);
        other.threat = "T5".to_owned();
        assert!(flaw(&harness(false), &other).is_some());
    }
}
