//! `cargo flowey contribution`: puts what `openvmm_portal` holds into a checkout
//! of OpenVMM: files of our own, copies of the device crates, and added lines
//! for files that are there already.
//!
//! Nothing of OpenVMM's source is in this repository. A place for added lines is
//! described by words that a line there contains ([`lines`]), and the crates of
//! ours that it takes along are copied from where they live ([`copies`]).
//! Nothing is fetched and nothing is built.

mod copies;
mod lines;

use crate::workspace;
use anyhow::Context as _;
use lines::Edit;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

/// The contributions, each a folder with a `contribution.toml`, in the order in
/// which they are put in.
const PARTS: [(&str, &str); 3] = [
    ("msix-restore", "openvmm_portal/msix_restore"),
    ("virtio-pmem", "openvmm_portal/virtio_pmem"),
    ("portal", "openvmm_portal"),
];

/// Names of the contributions.
pub(crate) fn names() -> Vec<&'static str> {
    PARTS.iter().map(|(name, _)| *name).collect()
}

/// What `contribution.toml` says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    /// The upstream commit that this was made against.
    commit: String,
    /// Crates of this workspace to copy.
    #[serde(default)]
    copy: Vec<copies::Copy>,
    /// Lines for files that are there.
    #[serde(default)]
    lines: Vec<Edit>,
}

/// What was done.
#[derive(Debug, Default, PartialEq, Eq)]
struct Report {
    /// Files written because they were missing or different.
    written: Vec<PathBuf>,
    /// Files and edits that were there already.
    unchanged: usize,
    /// Places for lines that were not found, and why.
    missing: Vec<String>,
}

/// Puts the contributions in `only` (all when empty) into the checkout at
/// `upstream`. False when a place for lines was not found.
///
/// # Errors
/// When `upstream` is not the commit that a contribution was made against and
/// `any_commit` is off, or a file cannot be read or written.
pub(crate) fn run(upstream: &Path, only: &[String], any_commit: bool) -> anyhow::Result<bool> {
    let mut all_found = true;
    for (name, folder) in PARTS {
        if !only.is_empty() && !only.iter().any(|o| o == name) {
            continue;
        }
        let report = put(workspace::root(), folder, upstream, any_commit)
            .with_context(|| format!("contribution {name}"))?;
        for path in &report.written {
            println!("{name}: wrote {}", path.display());
        }
        println!(
            "{name}: {} files written, {} files and places as they should be, {} places not found",
            report.written.len(),
            report.unchanged,
            report.missing.len()
        );
        for missing in &report.missing {
            println!("{name}: not found: {missing}");
        }
        all_found &= report.missing.is_empty();
    }
    Ok(all_found)
}

fn put(root: &Path, folder: &str, upstream: &Path, any_commit: bool) -> anyhow::Result<Report> {
    let base = root.join(folder);
    let path = base.join("contribution.toml");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let manifest: Manifest =
        toml::from_str(&text).with_context(|| format!("cannot parse {}", path.display()))?;
    anyhow::ensure!(
        upstream.join("Cargo.toml").is_file(),
        "{} is no checkout of OpenVMM: it has no Cargo.toml",
        upstream.display()
    );
    if !any_commit {
        check_commit(upstream, &manifest.commit)?;
    }
    // Everything is computed before anything is written, so that a refusal
    // leaves the checkout as it was.
    let mut files: BTreeMap<PathBuf, String> = BTreeMap::new();
    let mut report = Report::default();
    for (path, text) in copies::tree(&base.join("tree"))? {
        files.insert(path, text);
    }
    for copy in &manifest.copy {
        files.extend(copy.files(root)?);
    }
    for edit in &manifest.lines {
        let target = upstream.join(&edit.file);
        let text = match files.get(&edit.file) {
            Some(text) => text.clone(),
            None => match std::fs::read_to_string(&target) {
                Ok(text) => text,
                Err(e) => {
                    report.missing.push(format!("{}: {e}", edit.shown()));
                    continue;
                }
            },
        };
        match edit.apply(&text) {
            Ok(Some(text)) => {
                files.insert(edit.file.clone(), text);
            }
            Ok(None) => report.unchanged += 1,
            Err(why) => report.missing.push(format!("{}: {why}", edit.shown())),
        }
    }
    anyhow::ensure!(
        any_commit || report.missing.is_empty(),
        "the checkout is at commit {} but is not as that commit left it:\n  {}\n\
         Undo local changes there, or pass --any-commit to put in what can be put in",
        manifest.commit,
        report.missing.join("\n  ")
    );
    for (path, text) in files {
        let target = upstream.join(&path);
        if std::fs::read_to_string(&target).is_ok_and(|there| there == text) {
            report.unchanged += 1;
            continue;
        }
        if let Some(folder) = target.parent() {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        std::fs::write(&target, text)
            .with_context(|| format!("cannot write {}", target.display()))?;
        report.written.push(path);
    }
    Ok(report)
}

fn check_commit(upstream: &Path, wanted: &str) -> anyhow::Result<()> {
    let output = Command::new("git")
        .arg("-C")
        .arg(upstream)
        .args(["rev-parse", "HEAD"])
        .output()
        .context("cannot run git")?;
    let found = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    anyhow::ensure!(
        output.status.success(),
        "{} is no git checkout, so its commit is unknown; this was made against {wanted}. \
         Pass --any-commit to try all the same",
        upstream.display()
    );
    anyhow::ensure!(
        found == wanted,
        "{} is at commit {found}, this was made against {wanted}: check that out, or pass \
         --any-commit to put in what can be put in",
        upstream.display()
    );
    Ok(())
}

#[cfg(test)]
mod tests;
