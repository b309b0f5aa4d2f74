//! `portal run --check` on files with one mistake each: the exit code, the line,
//! the key, the value and what to write instead.

#[path = "../binary/mod.rs"]
mod binary;
mod devices;
mod linux;
mod partitions;
mod regions;

use binary::Ran;
use binary::portal_in;
use std::path::Path;

const GOOD: &str = r#"
[[region]]
name = "shared"
size = "64 MiB"
peers = 4

[[partition]]
name = "a"
guest = "warp"
ram = "16 MiB"

[[partition.device]]
kind = "ivshmem"
region = "shared"

[[partition.device]]
kind = "fixed"
region = "board"
gpa = 0x10_0000_0000

[[partition.task]]
do = "ping"
peer = "b"

[[partition]]
name = "b"
guest = "warp"

[[partition.device]]
kind = "ivshmem"
region = "shared"
vectors = 2

[[region]]
name = "board"
size = 0x400_0000
"#;

fn check(text: &[u8]) -> Ran {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("pair.toml"), text).unwrap();
    portal_in(folder.path(), &["run", "pair.toml", "--check"])
}

/// Replaces `from` in the good file, and expects exit code 3 and each of `told`.
#[track_caller]
fn flawed(from: &str, to: &str, told: &[&str]) {
    assert_eq!(GOOD.matches(from).count(), 1, "{from:?} has to be unique");
    let ran = check(GOOD.replace(from, to).as_bytes());
    assert_eq!(ran.code, 3, "{ran:?}");
    assert_eq!(ran.out, "");
    for words in told {
        assert!(ran.err.contains(words), "{words:?} not in:\n{}", ran.err);
    }
}

#[test]
fn the_good_file_is_good() {
    let ran = check(GOOD.as_bytes());
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert!(ran.out.contains("partitions: 2, regions: 2; no flaw"));
}

#[test]
fn the_example_is_good() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let ran = portal_in(root, &["run", "examples/pair.toml", "--check"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
}

#[test]
fn unknown_key() {
    let told = ["pair.toml:10:1: partition.a.rams", "did you mean `ram`?"];
    flawed("ram = ", "rams = ", &told);
}

#[test]
fn unknown_table() {
    flawed(
        "[[partition.task]]",
        "[[partition.tusk]]",
        &["partition.a.tusk", "`task`"],
    );
}

#[test]
fn missing_key() {
    flawed(
        "size = \"64 MiB\"\n",
        "",
        &["region.shared.size: is missing", "size = \"64 MiB\""],
    );
}

#[test]
fn broken_toml_names_its_line() {
    flawed(
        "[[partition.task]]",
        "[[partition.task]",
        &["pair.toml:21:"],
    );
    let ran = check(b"");
    assert!(
        ran.code == 3 && ran.err.contains("at least one [[partition]]"),
        "{ran:?}"
    );
}

#[test]
fn bytes_that_are_no_text() {
    let ran = check(&[b'a', 0xff, 0xfe]);
    assert!(
        ran.code == 3 && ran.err.contains("byte 1 is not UTF-8"),
        "{ran:?}"
    );
}

#[test]
fn files_that_are_not_there_or_no_files() {
    let folder = tempfile::tempdir().unwrap();
    let ran = portal_in(folder.path(), &["run", "gone.toml"]);
    assert!(
        ran.code == 3 && ran.err.contains("cannot open gone.toml"),
        "{ran:?}"
    );
    let ran = portal_in(folder.path(), &["run", "."]);
    assert!(ran.code == 3 && ran.err.contains("is no file"), "{ran:?}");
}

#[test]
fn every_flaw_is_told_at_once() {
    let text = GOOD
        .replace("64 MiB", "63 MiB")
        .replace("peers = 4", "pears = 4");
    let ran = check(text.as_bytes());
    assert!(ran.err.contains("2 flaws in pair.toml"), "{}", ran.err);
}

#[test]
fn mutilated_files_never_crash() {
    for at in 0..GOOD.len() {
        let mut text = GOOD.as_bytes().to_vec();
        text.truncate(at);
        // Every tenth prefix keeps the test short; each is a process.
        if at % 10 == 0 {
            let ran = check(&text);
            assert!(matches!(ran.code, 0 | 3), "prefix of {at}: {ran:?}");
        }
    }
}
