//! On a made-up tree of our own.

use super::*;
use std::fs;
use tempfile::TempDir;

const MANIFEST: &str = r#"
commit = "COMMIT"

[[copy]]
from = "cores/lamp"
to = "vm/lamp"

[[lines]]
file = "Cargo.toml"
place = "the list of crates"
after = ["shelf", "path"]
text = '''
lamp = { path = "vm/lamp" }
'''

[[lines]]
file = "src/room.rs"
place = "the furniture of the second room"
below = ["fn second"]
before = ["chair"]
text = '''
    put(lamp);
'''

[[lines]]
file = "src/room.rs"
place = "the first room's door"
instead = ["door", "closed"]
text = '''
    door(open);
'''
"#;

const ROOM: &str = "fn first() {\n    chair();\n    door(closed);\n}\n\nfn second() {\n    \
                    chair();\n    chair();\n}\n";

const ROOM_AFTER: &str = "fn first() {\n    chair();\n    door(open);\n}\n\nfn second() {\n    \
                          put(lamp);\n    chair();\n    chair();\n}\n";

/// A repository of ours, a checkout of theirs, and the checkout's commit.
struct World {
    ours: TempDir,
    theirs: TempDir,
    commit: String,
}

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn git(at: &Path, args: &[&str]) -> String {
    let output = Command::new("git")
        .arg("-C")
        .arg(at)
        .args(["-c", "user.name=n", "-c", "user.email=e@e"])
        .args([
            "-c",
            "commit.gpgsign=false",
            "-c",
            "core.hooksPath=/dev/null",
        ])
        .args(args)
        .output()
        .unwrap();
    assert!(output.status.success(), "git {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

impl World {
    fn new() -> Self {
        let theirs = TempDir::new().unwrap();
        write(
            theirs.path(),
            "Cargo.toml",
            "[workspace.dependencies]\nshelf = { path = \"vm/shelf\" }\n",
        );
        write(theirs.path(), "src/room.rs", ROOM);
        git(theirs.path(), &["init", "-q"]);
        git(theirs.path(), &["add", "."]);
        git(theirs.path(), &["commit", "-qm", "a house"]);
        let commit = git(theirs.path(), &["rev-parse", "HEAD"]);
        let ours = TempDir::new().unwrap();
        let manifest = MANIFEST.replace("COMMIT", &commit);
        write(ours.path(), "part/contribution.toml", &manifest);
        write(ours.path(), "part/tree/vm/wire/src/lib.rs", "// wire\n");
        write(ours.path(), "cores/lamp/src/lib.rs", "//! A lamp.\n");
        write(
            ours.path(),
            "cores/lamp/Cargo.toml",
            "[package]\nname = \"lamp\"\nversion.workspace = true\n\n[dependencies]\n\
             plug.workspace = true\nwire = { workspace = true, features = [\"std\"] }\n\n\
             [dev-dependencies]\nproptest.workspace = true\n",
        );
        Self {
            ours,
            theirs,
            commit,
        }
    }

    fn put(&self, any_commit: bool) -> anyhow::Result<Report> {
        put(self.ours.path(), "part", self.theirs.path(), any_commit)
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.theirs.path().join(path)).unwrap()
    }
}

#[test]
fn files_and_lines_arrive_where_they_belong() {
    let world = World::new();
    let report = world.put(false).unwrap();
    assert_eq!(report.missing, [""; 0]);
    assert_eq!(
        world.read("Cargo.toml"),
        "[workspace.dependencies]\nshelf = { path = \"vm/shelf\" }\nlamp = { path = \"vm/lamp\" }\n"
    );
    assert_eq!(world.read("src/room.rs"), ROOM_AFTER);
    assert_eq!(world.read("vm/wire/src/lib.rs"), "// wire\n");
}

#[test]
fn a_copied_crate_has_their_header_and_no_tests() {
    let world = World::new();
    world.put(false).unwrap();
    assert_eq!(
        world.read("vm/lamp/src/lib.rs"),
        "// Copyright (c) Microsoft Corporation.\n// Licensed under the MIT License.\n\n\
         //! A lamp.\n"
    );
    let manifest = world.read("vm/lamp/Cargo.toml");
    assert!(manifest.contains("\nplug.workspace = true\n"), "{manifest}");
    let manifest: toml::Table = manifest.parse().unwrap();
    let wire = &manifest["dependencies"]["wire"];
    assert_eq!(wire["features"].as_array().unwrap().len(), 1);
    assert_eq!(manifest["lints"]["workspace"].as_bool(), Some(true));
    assert!(!manifest.contains_key("dev-dependencies"));
    assert!(manifest["package"].get("version").is_none());
}

#[test]
fn once_more_changes_nothing() {
    let world = World::new();
    let first = world.put(false).unwrap();
    let second = world.put(false).unwrap();
    assert!(second.written.is_empty(), "{second:?}");
    assert_eq!(
        second.unchanged,
        first.written.len() + 1,
        "two edits in one file"
    );
    assert_eq!(world.read("src/room.rs"), ROOM_AFTER);
}

#[test]
fn another_commit_is_refused_and_left_alone() {
    let world = World::new();
    git(
        world.theirs.path(),
        &["commit", "-q", "--allow-empty", "-m", "another"],
    );
    let error = world.put(false).unwrap_err().to_string();
    assert!(error.contains(&world.commit), "{error}");
    assert!(error.contains("--any-commit"), "{error}");
    assert_eq!(world.read("src/room.rs"), ROOM);
    assert!(!world.theirs.path().join("vm").exists());
    assert_eq!(world.put(true).unwrap().missing, [""; 0]);
}

#[test]
fn a_place_that_is_not_there_is_named_and_the_rest_is_done() {
    let world = World::new();
    write(
        world.theirs.path(),
        "src/room.rs",
        "fn first() {\n    door(closed);\n}\n",
    );
    let error = world.put(false).unwrap_err().to_string();
    assert!(
        error.contains("the furniture of the second room"),
        "{error}"
    );
    assert!(!world.theirs.path().join("vm").exists(), "nothing written");
    let report = world.put(true).unwrap();
    assert_eq!(report.missing.len(), 1);
    assert!(report.missing[0].contains("src/room.rs"), "{report:?}");
    assert_eq!(
        world.read("src/room.rs"),
        "fn first() {\n    door(open);\n}\n"
    );
}

#[test]
fn a_place_that_fits_two_lines_is_no_place() {
    let world = World::new();
    let doors =
        "fn first() {\n    door(closed);\n    door(closed);\n}\nfn second() {\n    chair();\n}\n";
    write(world.theirs.path(), "src/room.rs", doors);
    let report = world.put(true).unwrap();
    assert!(report.missing[0].contains("lines 2 and 3"), "{report:?}");
}

#[test]
fn what_is_no_checkout_is_refused() {
    let world = World::new();
    let empty = TempDir::new().unwrap();
    let error = put(world.ours.path(), "part", empty.path(), true).unwrap_err();
    assert!(error.to_string().contains("no Cargo.toml"), "{error}");
}

#[test]
fn the_contributions_of_this_repository_parse_and_name_one_commit() {
    let mut commits = Vec::new();
    for (_, folder) in PARTS {
        let path = workspace::root().join(folder).join("contribution.toml");
        let manifest: Manifest = toml::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        for copy in &manifest.copy {
            copy.files(workspace::root()).unwrap();
        }
        commits.push(manifest.commit);
    }
    // The submodule pointer, where this is a git checkout.
    let listed = Command::new("git")
        .arg("-C")
        .arg(workspace::root())
        .args(["ls-files", "--stage", "openvmm-upstream"])
        .output();
    let listed = listed.map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
    let pointer = listed.ok().and_then(|line| {
        let mut words = line.split_whitespace();
        words.nth(1).map(str::to_owned)
    });
    commits.extend(pointer);
    commits.dedup();
    assert_eq!(commits.len(), 1, "{commits:?}");
}
