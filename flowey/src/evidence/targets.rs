//! Which of a package's targets hold harnesses, and which the controls of one cargo
//! feature. Building only those saves minutes.

use super::threats;
use crate::workspace::Package;
use crate::workspace::Target;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

/// The arguments that make cargo build the targets of `package` with a harness or a
/// control.
pub(super) fn with_harnesses(package: &Package) -> Vec<String> {
    with(package, |text| functions(text, |_| true))
}

/// The same for the targets with a control that names `feature`.
pub(super) fn with_controls(package: &Package, feature: &str) -> Vec<String> {
    let named = format!("\"{feature}\"");
    with(package, |text| {
        text.contains(&named) && functions(text, |(_, control)| control)
    })
}

/// Whether a function of this source is named after a threat, and is `wanted`.
fn functions(text: &str, wanted: impl Fn((u8, bool)) -> bool) -> bool {
    let mut names = text
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("fn ")?.split('(').next());
    names.any(|name| threats::of_test(name).is_some_and(&wanted))
}

fn with(package: &Package, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let holds = |target: &&Target| {
        let files = sources(&target.src_path);
        let mut texts = files
            .iter()
            .filter_map(|file| fs::read_to_string(file).ok());
        texts.any(|text| wanted(&text))
    };
    let arg = |target: &Target| match target.is("test") {
        true => Some(format!("--test={}", target.name)),
        false => target.is("lib").then(|| "--lib".to_owned()),
    };
    package
        .targets
        .iter()
        .filter(holds)
        .filter_map(arg)
        .collect()
}

/// The files of a target: its first one alone where others lie beside it that
/// are targets of their own, else everything in its folder.
fn sources(first: &Path) -> Vec<PathBuf> {
    let alone = first
        .parent()
        .is_none_or(|folder| folder.file_name().is_some_and(|name| name == "tests"));
    match first.parent() {
        Some(folder) if !alone => files(folder),
        _ => vec![first.to_owned()],
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn target(name: &str, kind: &str, src_path: PathBuf) -> Target {
        Target {
            name: name.to_owned(),
            kind: vec![kind.to_owned()],
            src_path,
            required_features: Vec::new(),
        }
    }

    #[test]
    fn only_targets_with_a_control_of_the_feature() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            path
        };
        let control = "#[cfg(feature = \"negative_control_x\")]\nfn control_t1_x() {}\n";
        let guard = "if !cfg!(feature = \"negative_control_x\") {}";
        let package = Package {
            name: "p".to_owned(),
            features: BTreeMap::new(),
            targets: vec![
                target("p", "lib", write("src/lib.rs", guard)),
                target("with", "test", write("tests/with.rs", control)),
                target("without", "test", write("tests/without.rs", guard)),
                target("many", "test", write("tests/many/main.rs", "mod t1;")),
            ],
        };
        write("tests/many/t1.rs", control);
        let found = with_controls(&package, "negative_control_x");
        assert_eq!(found, ["--test=with", "--test=many"]);
        assert!(with_controls(&package, "negative_control_y").is_empty());
        assert_eq!(with_harnesses(&package), found);
        write("tests/without.rs", "mod held {\n    fn t20_x() {}\n}\n");
        let found = with_harnesses(&package);
        assert_eq!(found, ["--test=with", "--test=without", "--test=many"]);
    }
}
