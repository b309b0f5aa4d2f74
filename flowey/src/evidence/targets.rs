//! Which of a package's targets hold the controls of one cargo feature. Building
//! only those keeps a dozen features a matter of a minute.

use crate::workspace::Package;
use crate::workspace::Target;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

/// The arguments that make cargo build the targets of `package` with a control
/// that names `feature`.
pub(super) fn with_controls(package: &Package, feature: &str) -> Vec<String> {
    let named = format!("\"{feature}\"");
    let holds = |target: &&Target| {
        sources(&target.src_path).iter().any(|file| {
            let text = fs::read_to_string(file).unwrap_or_default();
            text.contains("fn control_t") && text.contains(&named)
        })
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
        let control = "#[cfg(feature = \"negative_control_x\")]\nfn control_t1_x() {}";
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
    }
}
