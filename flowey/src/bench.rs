//! The benchmarks, and their figures on the Guide's page.

use crate::process;
use crate::process::Echo;
use crate::steps::LIMIT;
use crate::workspace;
use crate::workspace::cargo;
use anyhow::Context;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// What `cargo flowey bench` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Measure everything, with the libraries that it is compared with, and put the
    /// figures on the Guide's page; the machine must be quiet.
    #[arg(long, conflicts_with = "args")]
    page: bool,
    /// Handed to `portal bench`.
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        default_value = "all"
    )]
    args: Vec<String>,
}

/// What stands before the figures on the page, and after them.
const BEGIN: &str =
    "<!-- Written by `cargo flowey bench --page`; changes by hand are lost up to the end. -->";
const END: &str = "<!-- The end of the figures. -->";

/// Rounds a goal of the published figures: the fewest that are judged.
const ROUNDS: &str = "15";

/// Measures. `false` when a gate was missed; the page is written all the same.
///
/// # Errors
/// When cargo cannot be started, nothing was measured, or the page cannot be
/// written.
pub(crate) fn run(args: &Args) -> anyhow::Result<bool> {
    if !args.page {
        let mut command = portal(&[]);
        command.arg("bench").args(&args.args);
        return measure(&mut command, Echo::Yes).map(|outcome| outcome.ok());
    }
    // Built first, so that the run's time is that of the measurement.
    let peers = ["--features", "portal_bench/peers"];
    if !measure(portal(&peers).arg("--version"), Echo::Yes)?.ok() {
        return Ok(false);
    }
    let begun = std::time::Instant::now();
    let mut command = portal(&peers);
    command.args(["bench", "all", "--markdown", "--rounds", ROUNDS]);
    let outcome = measure(&mut command, Echo::No)?;
    anyhow::ensure!(
        outcome.stdout.contains("| commit |"),
        "no figures came: {}",
        outcome.status
    );
    let path = page();
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let text = with_figures(&text, &outcome.stdout, begun.elapsed())
        .with_context(|| format!("{} lacks the lines around the figures", path.display()))?;
    std::fs::write(&path, text).with_context(|| path.display().to_string())?;
    println!("wrote {}", path.display());
    Ok(outcome.ok())
}

fn page() -> PathBuf {
    workspace::root().join("Guide/src/benchmarks.md")
}

/// `cargo run` of the `portal` program.
fn portal(features: &[&str]) -> Command {
    let mut command = cargo(["run", "--release", "--locked", "--package=portal"]);
    command.args(features).arg("--");
    command
}

fn measure(command: &mut Command, echo: Echo) -> anyhow::Result<process::Outcome> {
    println!("    {}", process::shown(command));
    let outcome = process::run(command, LIMIT, echo)?;
    if outcome.timed_out {
        eprintln!("failed: ran longer than {} s", LIMIT.as_secs());
    } else if !outcome.ok() {
        eprintln!("failed: {}", outcome.status);
    }
    Ok(outcome)
}

/// `page` with `figures` in place of those that it has; `None` when it has no place
/// for them.
fn with_figures(page: &str, figures: &str, took: Duration) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!(
        "{before}{BEGIN}\n\nOne run of `portal bench all --markdown --rounds {ROUNDS}`, with \
         peers, on an otherwise\nidle machine; it took {} s.\n\n{}\n\n{END}{after}",
        took.as_secs(),
        figures.trim_end()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_put_in_place_of_the_old_ones_and_nothing_else_changes() {
        let page = format!("one\n\n{BEGIN}\n\nold\n\n{END}\n\ntwo\n");
        let once = with_figures(&page, "| 1 | new |\n", Duration::from_secs(130)).unwrap();
        assert!(once.starts_with("one\n\n<!--") && once.ends_with("-->\n\ntwo\n"));
        assert!(once.contains("it took 130 s.\n\n| 1 | new |\n\n<!--"));
        assert!(!once.contains("old"));
        let twice = with_figures(&once, "| 1 | new |\n", Duration::from_secs(130));
        assert_eq!(twice.as_ref(), Some(&once));
        assert_eq!(with_figures("no place", "new", Duration::ZERO), None);
    }

    #[test]
    fn the_guides_page_has_a_place_for_figures() {
        let text = std::fs::read_to_string(page()).unwrap();
        assert!(with_figures(&text, "", Duration::ZERO).is_some());
    }
}
