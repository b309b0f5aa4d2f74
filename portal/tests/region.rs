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
fn what_cannot_be_replaced_stays() {
    // A file system that allocates ahead, and so says at once what it has no room for.
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = folder.path().join("a");
    std::fs::write(&path, "letters").unwrap();
    let ran = create(folder.path(), &["a", "--size", "32TiB", "--force"]);
    assert_eq!(ran.code, 4, "{ran:?}");
    assert!(
        ran.err.contains("no room for a region of 32.0 TiB"),
        "{ran:?}"
    );
    assert_eq!(std::fs::read(&path).unwrap(), b"letters");

    let hosted = std::fs::File::open(&path).unwrap();
    hosted.lock().unwrap();
    let ran = create(
        folder.path(),
        &["a", "--size", "64KiB", "--peers", "2", "--force"],
    );
    assert!(ran.code == 3 && ran.err.contains("hosts"), "{ran:?}");
    assert_eq!(std::fs::read(&path).unwrap(), b"letters");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
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

/// A region of 1 MiB for four peers, in a folder of its own.
fn made() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let ran = create(folder.path(), &["a", "--size", "1MiB", "--peers", "4"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    folder
}

fn overwrite(folder: &Path, at: u64, bytes: &[u8]) {
    use std::io::Seek as _;
    use std::io::Write as _;
    let mut file = std::fs::File::options()
        .write(true)
        .open(folder.join("a"))
        .unwrap();
    file.seek(std::io::SeekFrom::Start(at)).unwrap();
    file.write_all(bytes).unwrap();
}

#[test]
fn show_tells_what_create_was_told() {
    let folder = made();
    let ran = portal_in(folder.path(), &["region", "show", "a"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    for words in [
        "region a, 1.0 MiB",
        "4 sections",
        "no rings",
        "kept apart by checks",
    ] {
        assert!(ran.out.contains(words), "{words:?} not in:\n{}", ran.out);
    }
    let ran = portal_in(folder.path(), &["region", "show", "a", "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(shown["name"], "a");
    assert_eq!(shown["size"], 1 << 20);
    assert_eq!(shown["max_peers"], 4);
    assert_eq!(shown["enforced"], false);
}

#[test]
fn check_finds_a_new_region_sound() {
    let folder = made();
    let ran = portal_in(folder.path(), &["region", "check", "a"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert!(
        ran.out.contains("a: sound; looked at 4 peers"),
        "{}",
        ran.out
    );
}

#[test]
fn check_repairs_a_peer_entry_and_only_when_told() {
    let folder = made();
    // The whole entry of peer 1.
    overwrite(folder.path(), 0x2000 + 64, &[0xEE; 64]);
    let before = std::fs::read(folder.path().join("a")).unwrap();
    let ran = portal_in(folder.path(), &["region", "check", "a", "--json"]);
    assert_eq!(ran.code, 6, "{ran:?}");
    assert!(ran.err.contains("--repair"), "{}", ran.err);
    let found: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(found["sound"], false);
    assert_eq!(found["findings"][0]["place"], "peer table, peer 1");
    let after = std::fs::read(folder.path().join("a")).unwrap();
    assert_eq!(before, after, "check without --repair wrote to the file");
    let ran = portal_in(folder.path(), &["region", "check", "a", "--repair"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("sound after"), "{}", ran.out);
    let ran = portal_in(folder.path(), &["region", "check", "a"]);
    assert_eq!(ran.code, 0, "{ran:?}");
}

#[test]
fn a_file_that_is_no_region_says_so() {
    let folder = made();
    overwrite(folder.path(), 0x1000, b"not a region at all");
    for args in [["region", "show", "a"], ["region", "check", "a"]] {
        let ran = portal_in(folder.path(), &args);
        assert_eq!(ran.code, 6, "{ran:?}");
        assert!(
            !ran.err.is_empty() && !ran.err.contains("panicked"),
            "{ran:?}"
        );
    }
}

#[test]
fn a_region_of_another_version_says_which() {
    let folder = made();
    overwrite(folder.path(), 0x1008, &2u32.to_le_bytes());
    let ran = portal_in(folder.path(), &["region", "show", "a"]);
    assert_eq!(ran.code, 6, "{ran:?}");
    let told = "layout version is 2; this build knows version 1";
    assert!(ran.err.contains(told), "{ran:?}");
    std::fs::write(
        folder.path().join("one.toml"),
        "[[region]]\nname = \"a\"\nsize = \"1 MiB\"\nbacking = \"file\"\npath = \"a\"\n\
         [[partition]]\nname = \"p\"\nguest = \"warp\"\n\
         device = [{ kind = \"ivshmem\", region = \"a\" }]\n",
    )
    .unwrap();
    let ran = portal_in(folder.path(), &["run", "one.toml"]);
    assert!(ran.code != 0 && ran.err.contains(told), "{ran:?}");
}

#[test]
fn a_truncated_region_names_both_sizes() {
    let folder = made();
    let file = std::fs::File::options()
        .write(true)
        .open(folder.path().join("a"))
        .unwrap();
    file.set_len(0x8_0000).unwrap();
    let ran = portal_in(folder.path(), &["region", "check", "a"]);
    assert_eq!(ran.code, 6, "{ran:?}");
    assert!(
        ran.out.contains("524288") && ran.out.contains("1048576"),
        "{ran:?}"
    );
    let ran = portal_in(folder.path(), &["region", "show", "a"]);
    assert_eq!(ran.code, 6, "{ran:?}");
}

#[test]
fn files_that_are_not_there_are_input_errors() {
    let folder = tempfile::tempdir().unwrap();
    for args in [
        ["region", "show", "gone"],
        ["region", "check", "gone"],
        ["region", "show", "."],
    ] {
        let ran = portal_in(folder.path(), &args);
        assert_eq!(ran.code, 3, "{args:?}: {ran:?}");
    }
}
