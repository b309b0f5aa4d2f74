//! Where things are in the workspace, as cargo tells it.

use anyhow::Context;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

/// The workspace's root folder.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("/"))
}

/// A `cargo` command at the workspace's root.
pub(crate) fn cargo<const N: usize>(args: [&str; N]) -> Command {
    let mut command = Command::new("cargo");
    command.args(args).current_dir(root());
    command
}

/// One package of the workspace.
#[derive(Debug, Deserialize)]
pub(crate) struct Package {
    /// Its name.
    pub name: String,
    /// Its cargo features.
    pub features: BTreeMap<String, Vec<String>>,
    /// Its targets.
    pub targets: Vec<Target>,
}

/// One target of a package.
#[derive(Debug, Deserialize)]
pub(crate) struct Target {
    /// Its name.
    pub name: String,
    /// `lib`, `bin`, `example`, `test`, ...
    pub kind: Vec<String>,
    /// Its first source file.
    pub src_path: PathBuf,
    /// The cargo features without which it is not built.
    #[serde(rename = "required-features", default)]
    pub required_features: Vec<String>,
}

impl Target {
    pub(crate) fn is(&self, kind: &str) -> bool {
        self.kind.iter().any(|k| k == kind)
    }
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    target_directory: PathBuf,
}

fn metadata() -> anyhow::Result<Metadata> {
    let out = cargo(["metadata", "--no-deps", "--format-version=1", "--locked"])
        .output()
        .context("cannot start cargo")?;
    anyhow::ensure!(
        out.status.success(),
        "cargo metadata failed: {}",
        String::from_utf8_lossy(&out.stderr).trim()
    );
    Ok(serde_json::from_slice(&out.stdout)?)
}

/// The workspace's packages.
///
/// # Errors
/// When cargo cannot read the workspace; the message is cargo's.
pub(crate) fn packages() -> anyhow::Result<Vec<Package>> {
    Ok(metadata()?.packages)
}

/// Cargo's target folder.
///
/// # Errors
/// As [`packages`].
pub(crate) fn target_folder() -> anyhow::Result<PathBuf> {
    Ok(metadata()?.target_directory)
}

/// Room left on the disk of the target folder, in MiB; `None` where nobody knows.
pub(crate) fn disk_left() -> Option<u64> {
    let disk = rustix::fs::statvfs(&target_folder().ok()?).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize) >> 20)
}
