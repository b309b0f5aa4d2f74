//! The fuzz targets of every crate, for a short while each.
//!
//! A crate's targets are in a `fuzz` folder beside it, as cargo-fuzz lays it out.
//! They need a nightly toolchain; without one the step is skipped.

use crate::ended::Ended;
use crate::process;
use crate::process::Echo;
use crate::workspace;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

/// How long all targets run together, in seconds; each at least [`LEAST`] and at
/// most [`MOST`].
const TOGETHER: usize = 120;
/// Shortest run of a target, in seconds.
const LEAST: usize = 20;
/// Longest run of a target, in seconds.
const MOST: usize = 60;
/// How long each target may take, with its build.
const LIMIT: Duration = Duration::from_secs(10 * 60);
/// The cargo-fuzz that is installed where none is.
const CARGO_FUZZ: &str = "cargo-fuzz@0.13.1";

/// Runs them.
///
/// # Errors
/// When cargo or rustup cannot be started.
pub(crate) fn run() -> anyhow::Result<Ended> {
    let folders = folders(workspace::root());
    if folders.is_empty() {
        return Ok(Ended::Failed("no crate has fuzz targets".to_owned()));
    }
    if !succeeds(Command::new("rustup").args(["run", "nightly", "cargo", "--version"])) {
        return Ok(Ended::Skipped(
            "no nightly toolchain (rustup toolchain install nightly)".to_owned(),
        ));
    }
    let tools = workspace::target_folder()?.join("tools");
    if !succeeds(&mut in_nightly(&tools, &["fuzz", "--version"])) {
        let mut install = workspace::cargo(["install", "--locked", "--quiet", CARGO_FUZZ]);
        install.arg("--root").arg(&tools);
        println!("    {}", process::shown(&install));
        if !process::run(&mut install, LIMIT, Echo::Yes)?.ok() {
            return Ok(Ended::Skipped(format!("cannot install {CARGO_FUZZ}")));
        }
    }
    // One for all of them: they have most of what is compiled in common.
    let built = workspace::target_folder()?.join("fuzz");
    let mut targets = Vec::new();
    for folder in folders {
        let mut list = in_nightly(&tools, &["fuzz", "list", "--fuzz-dir"]);
        list.arg(&folder);
        let listed = process::run(&mut list, LIMIT, Echo::No)?;
        if !listed.ok() {
            return Ok(Ended::Failed(process::shown(&list)));
        }
        let names = listed.stdout.split_whitespace();
        targets.extend(names.map(|name| (folder.clone(), name.to_owned())));
    }
    let seconds = (TOGETHER / targets.len().max(1)).clamp(LEAST, MOST);
    for (folder, target) in targets {
        let mut fuzz = in_nightly(&tools, &["fuzz", "run", "--fuzz-dir"]);
        fuzz.arg(&folder)
            .arg("--target-dir")
            .arg(&built)
            .arg(&target)
            .args([
                "--",
                "-timeout=10",
                "-rss_limit_mb=2048",
                "-print_final_stats=1",
            ])
            .arg(format!("-max_total_time={seconds}"));
        println!("    {}", process::shown(&fuzz));
        let outcome = process::run(&mut fuzz, LIMIT, Echo::Yes)?;
        if !outcome.ok() {
            return Ok(Ended::Failed(format!("`{}`", process::shown(&fuzz))));
        }
    }
    Ok(Ended::Passed)
}

fn in_nightly(tools: &Path, args: &[&str]) -> Command {
    let mut command = Command::new("rustup");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = vec![tools.join("bin")];
    folders.extend(std::env::split_paths(&path));
    if let Ok(path) = std::env::join_paths(folders) {
        command.env("PATH", path);
    }
    command
        .args(["run", "nightly", "cargo"])
        .args(args)
        .current_dir(workspace::root());
    command
}

fn succeeds(command: &mut Command) -> bool {
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

/// Every `fuzz` folder with a manifest, at most two levels below the root.
fn folders(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for crate_folder in subfolders(root) {
        let below = subfolders(&crate_folder);
        for folder in std::iter::once(crate_folder).chain(below) {
            let fuzz = folder.join("fuzz");
            if fuzz.join("Cargo.toml").is_file() {
                found.push(fuzz);
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

fn subfolders(of: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(of) else {
        return Vec::new();
    };
    entries
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.is_dir() && p.file_name().is_some_and(|n| n != "target"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_fuzz_folders_one_and_two_levels_down() {
        let root = tempfile::tempdir().unwrap();
        for folder in ["a/fuzz", "group/b/fuzz", "c/fuzz", "target/d/fuzz"] {
            std::fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        for folder in ["a/fuzz", "group/b/fuzz", "target/d/fuzz"] {
            std::fs::write(root.path().join(folder).join("Cargo.toml"), "").unwrap();
        }
        let found = folders(root.path());
        let expected = ["a/fuzz", "group/b/fuzz"].map(|f| root.path().join(f));
        assert_eq!(found, expected);
    }
}
