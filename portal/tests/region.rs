//! `portal region` with the real binary.

mod binary;

use binary::Ran;
use binary::portal_in;
use std::path::Path;

fn create(folder: &Path, args: &[&str]) -> Ran {
    let mut all = vec!["region", "create"];
    all.extend(args);
    portal_in(folder, &all)
}

#[track_caller]
fn refused(args: &[&str], code: i32, told: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let ran = create(folder.path(), args);
    assert_eq!(ran.code, code, "{ran:?}");
    for words in told {
        assert!(ran.err.contains(words), "{words:?} not in:\n{}", ran.err);
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert!(left.is_empty(), "a refused region left {left:?}");
}

#[test]
fn create_makes_a_file_of_that_size() {
    let folder = tempfile::tempdir().unwrap();
    let args = [
        "lab.region",
        "--size",
        "1MiB",
        "--peers",
        "4",
        "--name",
        "lab",
    ];
    let ran = create(folder.path(), &args);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert!(
        ran.out.contains("region lab of 1.0 MiB, 4 peers"),
        "{}",
        ran.out
    );
    let made = std::fs::metadata(folder.path().join("lab.region")).unwrap();
    assert_eq!(made.len(), 1 << 20);
}

#[test]
fn create_keeps_what_is_there_unless_forced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    std::fs::write(&path, "letters").unwrap();
    let ran = create(folder.path(), &["a", "--size", "64KiB", "--peers", "2"]);
    assert!(ran.code == 3 && ran.err.contains("--force"), "{ran:?}");
    assert_eq!(std::fs::read(&path).unwrap(), b"letters");
    let ran = create(
        folder.path(),
        &["a", "--size", "64KiB", "--peers", "2", "--force"],
    );
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 64 << 10);
    let ran = create(
        folder.path(),
        &[".", "--size", "64KiB", "--peers", "2", "--force"],
    );
    assert!(ran.code != 0 && folder.path().is_dir(), "{ran:?}");
}

#[test]
fn create_names_the_option_the_value_and_the_limit() {
    refused(
        &["a", "--size", "1MB"],
        2,
        &["size is 1000000", "power of two"],
    );
    refused(&["a", "--size", "4096"], 2, &["size is 4096", "65536"]);
    refused(&["a", "--size", "lots"], 2, &["--size", "KiB, MiB or GiB"]);
    refused(&["a"], 2, &["--size"]);
    refused(
        &["a", "--size", "64KiB", "--peers", "900"],
        2,
        &["max_peers is 900", "--peers"],
    );
    refused(&["a", "--size", "64KiB", "--peers", "1"], 2, &["--peers"]);
    refused(
        &["a", "--size", "64KiB", "--peers", "2000"],
        2,
        &["--peers", "1024"],
    );
    refused(
        &["a", "--size", "1MiB", "--common", "1000"],
        2,
        &["common is 1000", "4096"],
    );
    refused(
        &["a", "--size", "1MiB", "--common", "1MiB"],
        2,
        &["common is 1048576", "at most"],
    );
    refused(
        &["a", "--size", "1MiB", "--name", "x/y"],
        2,
        &["--name", "position 1"],
    );
}

#[test]
fn create_says_where_it_cannot_write() {
    refused(
        &["no/such/folder/a", "--size", "1MiB"],
        3,
        &["no/such/folder/a"],
    );
}
