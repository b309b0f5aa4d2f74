//! The command line itself: help, usage errors, the doctor.

mod binary;

use binary::Ran;
use binary::portal_in;
use std::path::Path;

fn portal(args: &[&str]) -> Ran {
    portal_in(Path::new("."), args)
}

#[test]
fn help_shows_the_commands_the_start_and_the_exit_codes() {
    let ran = portal(&["--help"]);
    assert_eq!(ran.code, 0);
    for words in [
        "demo",
        "doctor",
        "Start here",
        "Exit codes:",
        "portal demo --file",
    ] {
        assert!(ran.out.contains(words), "{words:?} not in:\n{}", ran.out);
    }
}

#[test]
fn no_command_and_unknown_words_are_usage_errors() {
    for args in [
        &[][..],
        &["dmeo"],
        &["demo", "--flie"],
        &["region"],
        &["bench", "speed"],
    ] {
        let ran = portal(args);
        assert_eq!(ran.code, 2, "{args:?}: {ran:?}");
        assert!(
            ran.err.contains("Usage") || ran.err.contains("possible values"),
            "{ran:?}"
        );
    }
    assert!(portal(&["dmeo"]).err.contains("'demo'"));
}

#[test]
fn doctor_json_has_a_verdict_and_rows() {
    let ran = portal(&["doctor", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let usable = report["usable"].as_bool().unwrap();
    assert_eq!(ran.code, if usable { 0 } else { 4 }, "{ran:?}");
    let rows = report["rows"].as_array().unwrap();
    for group in ["kvm", "memory", "processor", "limits", "sandbox"] {
        assert!(
            rows.iter().any(|r| r["group"] == group),
            "no row of {group}"
        );
    }
    for row in rows {
        let lacks = row["state"] != "have";
        assert_eq!(lacks, row["cost"].is_string(), "{row}");
    }
}

#[test]
fn doctor_text_says_the_same() {
    let ran = portal(&["doctor"]);
    assert!(
        ran.out.contains("/dev/kvm") && ran.out.contains("memfd seals"),
        "{ran:?}"
    );
}

#[test]
fn a_reader_that_goes_early_is_no_crash() {
    let line = format!(
        "{} doctor | head -1; exit ${{PIPESTATUS[0]}}",
        env!("CARGO_BIN_EXE_portal")
    );
    let ran: Ran = std::process::Command::new("bash")
        .args(["-c", &line])
        .output()
        .unwrap()
        .into();
    assert!(!ran.err.contains("panicked"), "{ran:?}");
    assert!(matches!(ran.code, 0 | 4), "{ran:?}");
}
