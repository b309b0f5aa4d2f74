//! Files that are ours: the tree in OpenVMM's shape, and copies of device crates.
//!
//! A copy is what OpenVMM could take: sources under its licence header, and a
//! manifest without what only this workspace has (tests, fuzzing, negative
//! controls stay here, where the crates are tested).

use anyhow::Context as _;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::path::PathBuf;

/// What every file of OpenVMM begins with.
const HEADER: [&str; 2] = [
    "Copyright (c) Microsoft Corporation.",
    "Licensed under the MIT License.",
];

/// A crate of this workspace that goes along.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Copy {
    /// Its folder here.
    from: PathBuf,
    /// Its folder there.
    to: PathBuf,
}

impl Copy {
    /// The files of the copy, by their paths in the checkout.
    pub(super) fn files(&self, root: &Path) -> anyhow::Result<BTreeMap<PathBuf, String>> {
        let from = root.join(&self.from);
        let mut files = BTreeMap::new();
        for (path, text) in tree(&from.join("src"))? {
            let text = format!("// {}\n// {}\n\n{text}", HEADER[0], HEADER[1]);
            files.insert(self.to.join("src").join(path), text);
        }
        anyhow::ensure!(!files.is_empty(), "{} has no src", from.display());
        let path = from.join("Cargo.toml");
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let text = manifest(&text).with_context(|| format!("in {}", path.display()))?;
        files.insert(self.to.join("Cargo.toml"), text);
        Ok(files)
    }
}

/// The manifest as it is there: name, dependencies, features that these need.
fn manifest(text: &str) -> anyhow::Result<String> {
    let table: toml::Table = text.parse()?;
    let name = table
        .get("package")
        .and_then(|package| package.get("name"))
        .and_then(toml::Value::as_str)
        .context("package.name is missing")?;
    let mut out = format!(
        "# {}\n# {}\n\n[package]\nname = \"{name}\"\nedition.workspace = true\n\
         rust-version.workspace = true\n",
        HEADER[0], HEADER[1]
    );
    for section in ["features", "dependencies"] {
        let Some(entries) = table.get(section).and_then(toml::Value::as_table) else {
            continue;
        };
        if entries.is_empty() {
            continue;
        }
        write!(out, "\n[{section}]\n")?;
        for (key, value) in entries {
            // The house rules there: a table of one entry is dotted.
            let mut table = value.as_table().into_iter().flatten();
            match (table.next(), table.next()) {
                (Some((inner, value)), None) => writeln!(out, "{key}.{inner} = {value}")?,
                _ => writeln!(out, "{key} = {value}")?,
            }
        }
    }
    out.push_str("\n[lints]\nworkspace = true\n");
    Ok(out)
}

/// The files below `folder`, by their paths in it; none when it is not there.
pub(super) fn tree(folder: &Path) -> anyhow::Result<BTreeMap<PathBuf, String>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        if !at.is_dir() {
            continue;
        }
        for entry in std::fs::read_dir(&at)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            files.insert(path.strip_prefix(folder)?.to_owned(), text);
        }
    }
    Ok(files)
}
