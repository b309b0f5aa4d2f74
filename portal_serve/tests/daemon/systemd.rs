//! The units in `packaging/systemd`, as systemd reads them.

use std::path::Path;
use std::process::Command;

/// What is to be run exists here under another name.
const PROGRAM: &str = "/usr/bin/portal";

#[test]
fn the_units_say_nothing_that_systemd_does_not_know() {
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/systemd");
    let folder = tempfile::tempdir().expect("a folder");
    let mut verify = Command::new("timeout");
    verify.args(["30", "systemd-analyze", "verify", "--man=no"]);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(units).expect("the units") {
        let entry = entry.expect("an entry");
        let text = std::fs::read_to_string(entry.path()).expect("text");
        let copy = folder.path().join(entry.file_name());
        std::fs::write(&copy, text.replace(PROGRAM, "/bin/true")).expect("a copy");
        verify.arg(copy);
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    assert!(names.contains(&"portal.service".to_owned()), "{names:?}");
    let found = Command::new("systemd-analyze").arg("--version").output();
    if !found.is_ok_and(|version| version.status.success()) {
        eprintln!("skipped: no systemd-analyze; apt-get install systemd");
        return;
    }
    let verified = verify.output().expect("timeout is there");
    let said = String::from_utf8_lossy(&verified.stderr);
    // It reads the host's own units as well, and may have something to say of those.
    let ours: Vec<_> = said
        .lines()
        .filter(|line| names.iter().any(|name| line.contains(name.as_str())))
        .collect();
    assert!(ours.is_empty(), "{said}");
}
